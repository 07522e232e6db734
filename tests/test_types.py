"""Wiring faults are caught before any data flows; right wirings pass, compile, export, pickle and wrap."""
# ruff: noqa: E501  (the table of faults quotes whole messages)

import pickle
import re
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from anemone.errors import PortError
from anemone.testing import run_ranks
from anemone.types import (
    MFCC,
    Acoustic,
    Audio,
    Chain,
    Classes,
    Embedding,
    Features,
    Frames,
    Image,
    KeepMask,
    Kind,
    Labels,
    Logits,
    LogProbs,
    Mel,
    Port,
    Probs,
    Samples,
    Textual,
    Tokens,
    checked,
    fit,
    ports,
)


class MelBatch(NamedTuple):
    x: Mel[Tensor, "B F={self.num_mels} T"]
    x_len: Frames[Tensor, "B"]


class MelFrontEnd(nn.Module):
    def __init__(self, num_mels: int = 8) -> None:
        super().__init__()
        self.num_mels = num_mels
        self.project = nn.Linear(160, num_mels)

    def forward(self, x: Audio[Tensor, "B S"], x_len: Samples[Tensor, "B"]) -> MelBatch:
        return MelBatch(self.project(x.unflatten(1, (-1, 160))).transpose(1, 2), x_len // 160)


class Encoded(NamedTuple):
    x: Acoustic[Tensor, "B D={self.d_model} T'"]
    x_len: Frames[Tensor, "B"]


class Encoder(nn.Module):
    def __init__(self, num_mels: int = 8, d_model: int = 4) -> None:
        super().__init__()
        self.num_mels, self.d_model = num_mels, d_model
        self.conv = nn.Conv1d(num_mels, d_model, 3, stride=2, padding=1)

    def forward(self, x: Features[Tensor, "B F={self.num_mels} T"], x_len: Frames[Tensor, "B"]) -> Encoded:
        return Encoded(self.conv(x), (x_len + 1) // 2)


class Head(nn.Module):
    """One bare port as output: it is called `x`."""

    def __init__(self, d_model: int = 4) -> None:
        super().__init__()
        self.d_model = d_model
        self.linear = nn.Linear(d_model, 5)

    def forward(self, x: Acoustic[Tensor, "B D={self.d_model} T"]) -> Logits[Tensor, "B T V=5"]:
        return self.linear(x.transpose(1, 2))


def network() -> Chain:
    return Chain(features=MelFrontEnd(), encoder=Encoder(), head=Head())


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 1600), torch.tensor([1600, 800])


def module(forward, **sizes: int) -> nn.Module:
    """A module with the given forward, for faults."""
    made = type("Made", (nn.Module,), {"forward": forward})()
    for name, size in sizes.items():
        setattr(made, name, size)
    return made


# --- wiring faults: (what is put into a chain, what the message must say) --------------------------------------------


def takes_frames_as_samples(self, x: Mel[Tensor, "B F T"], x_len: Samples[Tensor, "B"]) -> Logits[Tensor, "B V"]: ...
def takes_time_first(self, x: Mel[Tensor, "B T F"], x_len: Frames[Tensor, "B"]) -> Logits[Tensor, "B V"]: ...
def takes_audio(self, x: Audio[Tensor, "B S"]) -> Logits[Tensor, "B V"]: ...
def takes_image(self, x: Image[Tensor, "B C X Y"]) -> Logits[Tensor, "B V"]: ...
def takes_mfcc(self, x: MFCC[Tensor, "B F T"]) -> Logits[Tensor, "B V"]: ...
def takes_flat_mel(self, x: Mel[Tensor, "B F"]) -> Logits[Tensor, "B V"]: ...
def takes_other_axis(self, x: Mel[Tensor, "B F N"]) -> Logits[Tensor, "B V"]: ...
def takes_log_probs(self, x: LogProbs[Tensor, "B T V"]) -> Probs[Tensor, "B T V"]: ...
def takes_probs(self, x: Probs[Tensor, "B T V"]) -> Logits[Tensor, "B V"]: ...
def takes_six_classes(self, x: Logits[Tensor, "B T V=6"]) -> Probs[Tensor, "B T V"]: ...
def takes_labels_len(self, x: Acoustic[Tensor, "B D T"], x_len: Labels[Tensor, "B"]) -> Logits[Tensor, "B V"]: ...
def takes_embedding(self, x: Embedding[Tensor, "B D"]) -> Logits[Tensor, "B V"]: ...
def takes_text_states(self, x: Textual[Tensor, "B D T"]) -> Logits[Tensor, "B V"]: ...
def takes_mask(self, x_len: KeepMask[Tensor, "B T"]) -> Logits[Tensor, "B V"]: ...
def takes_renamed(self, mel: Mel[Tensor, "B F T"]) -> Logits[Tensor, "B V"]: ...
def takes_nothing_typed(self, x: Tensor) -> Logits[Tensor, "B V"]: ...
def returns_plain(self, x: Audio[Tensor, "B S"]) -> Tensor: ...
def returns_tuple(self, x: Audio[Tensor, "B S"]) -> tuple[Tensor, Tensor]: ...
def returns_nothing(self, x: Audio[Tensor, "B S"]): ...


class HalfTyped(NamedTuple):
    x: Mel[Tensor, "B F T"]
    x_len: Tensor


def returns_half(self, x: Audio[Tensor, "B S"]) -> HalfTyped: ...


front, encoder, head = MelFrontEnd, Encoder, Head
FAULTS = {
    "bins": (
        lambda: {"features": front(6), "encoder": encoder(8)},
        'encoder.x` wants Features["B F=8 T"], but `features.x` gives Mel["B F=6 T"]: axis `F` is 6 wide, not 8.',
    ),
    "width": (
        lambda: {"features": front(), "encoder": encoder(d_model=3), "head": head(4)},
        '`encoder.x` gives Acoustic["B D=3 T\'"]: axis `D` is 3 wide, not 4.',
    ),
    "unit of lengths": (
        lambda: {"features": front(), "a": module(takes_frames_as_samples)},
        'a.x_len` wants Samples["B"], but `features.x_len` gives Frames["B"]: Frames is not Samples; multiply by the hop of the features.',
    ),
    "label lengths": (
        lambda: {"features": front(), "encoder": encoder(), "a": module(takes_labels_len)},
        "Frames is not Labels; pass the length of the text.",
    ),
    "axis order": (
        lambda: {"features": front(), "a": module(takes_time_first)},
        "the axes come in another order; `.permute(0, 2, 1)` puts them right.",
    ),
    "audio twice": (lambda: {"features": front(), "a": module(takes_audio)}, "Mel is not Audio."),
    "no features": (lambda: {"a": module(lambda self, x: x)}, "`a` (Made) has no ports: annotate its `forward`"),
    "features left out": (
        lambda: {"same": Same(), "encoder": encoder()},
        "Audio is not Features; put a `LogMel` or `MFCC` between them.",
    ),
    "image": (lambda: {"features": front(), "a": module(takes_image)}, "Mel is not Image."),
    "sibling kind": (lambda: {"features": front(), "a": module(takes_mfcc)}, "Mel is not MFCC."),
    "parent for child": (lambda: {"loose": Loose(), "a": module(takes_mfcc)}, "Features is not MFCC."),
    "rank": (lambda: {"features": front(), "a": module(takes_flat_mel)}, "3 axes, not 2."),
    "axis": (lambda: {"features": front(), "a": module(takes_other_axis)}, "axis 2 is `T`, not `N`."),
    "logits for log-probabilities": (
        lambda: {"features": front(), "encoder": encoder(), "head": head(), "a": module(takes_log_probs)},
        "Logits is not LogProbs; apply `log_softmax(-1)`.",
    ),
    "logits for probabilities": (
        lambda: {"features": front(), "encoder": encoder(), "head": head(), "a": module(takes_probs)},
        "Logits is not Probs; apply `softmax(-1)`.",
    ),
    "classes": (
        lambda: {"features": front(), "encoder": encoder(), "head": head(), "a": module(takes_six_classes)},
        "axis `V` is 5 wide, not 6.",
    ),
    "mel for states": (
        lambda: {"features": front(), "head": head()},
        "Mel is not Acoustic; put an encoder between them.",
    ),
    "embedding": (
        lambda: {"features": front(), "encoder": encoder(), "a": module(takes_embedding)},
        "Acoustic is not Embedding.",
    ),
    "modality": (
        lambda: {"features": front(), "encoder": encoder(), "a": module(takes_text_states)},
        "Acoustic is not Textual.",
    ),
    "length for mask": (lambda: {"features": front(), "a": module(takes_mask)}, "Frames is not KeepMask."),
    "name": (
        lambda: {"features": front(), "a": module(takes_renamed)},
        '`a.mel` wants Mel["B F T"], but no stage before it gives `mel`; `features.x` gives Mel["B F=8 T"]: call both by one name.',
    ),
    "no ports": (lambda: {"a": module(takes_nothing_typed)}, "`a` (Made) has no ports"),
    "plain output": (
        lambda: {"a": module(returns_plain)},
        "`a.forward` must return one port or a NamedTuple whose fields are all ports, but returns",
    ),
    "tuple output": (lambda: {"a": module(returns_tuple)}, "`a.forward` must return one port or a NamedTuple"),
    "no output": (lambda: {"a": module(returns_nothing)}, "`a.forward` must return one port or a NamedTuple"),
    "bins behind a stage that takes any": (
        lambda: {"features": front(6), "louder": Louder(), "encoder": encoder(8)},
        'encoder.x` wants Features["B F=8 T"], but `louder.x` gives Features["B F=6 T"]: axis `F` is 6 wide, not 8.',
    ),
    "one letter, two sizes": (
        lambda: {"both": Both(), "sum": Sum()},
        '`sum.b` gets Mel["B F=80 T"] from `both.b`: axis `F` is 80 wide, but 64 in `sum.a`',
    ),
    "half typed": (
        lambda: {"a": module(returns_half)},
        "`a.forward` must return one port or a NamedTuple whose fields are all ports",
    ),
    "empty": (dict, "`Chain` must have at least one stage"),
    "nested chain": (
        lambda: {"front": Chain(features=front(6)), "back": Chain(encoder=encoder(8))},
        'back.x` wants Features["B F=8 T"], but `front.x` gives Mel["B F=6 T"]',
    ),
}


class Same(nn.Module):
    def forward(self, x: Audio[Tensor, "B S"], x_len: Samples[Tensor, "B"]) -> Audio[Tensor, "B S"]:
        return x


class Louder(nn.Module):
    def forward(self, x: Features[Tensor, "B F T"]) -> Features[Tensor, "B F T"]:
        return x + 1


class TwoMels(NamedTuple):
    a: Mel[Tensor, "B F=64 T"]
    b: Mel[Tensor, "B F=80 T"]


class Both(nn.Module):
    def forward(self, x: Audio[Tensor, "B S"]) -> TwoMels: ...


class Sum(nn.Module):
    def forward(self, a: Mel[Tensor, "B F T"], b: Mel[Tensor, "B F T"]) -> Mel[Tensor, "B F T"]:
        return a + b


class Loose(nn.Module):
    def forward(self, x: Audio[Tensor, "B S"]) -> Features[Tensor, "B F T"]:
        return x[:, None]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wiring_fault_is_refused_before_any_data_flows(fault):
    stages, message = FAULTS[fault]
    with pytest.raises(PortError, match=re.escape(message)):
        Chain(**stages())


def test_an_unknown_axis_is_refused_where_it_is_written():
    with pytest.raises(PortError, match="`Z` is not an axis"):
        Mel[Tensor, "B Z"]


def test_every_kind_is_documented_and_holds_a_known_element_type():
    kinds = list(Kind.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert 20 <= len(kinds) <= 40
    assert all(kind.__doc__ and kind.holds in {"floating", "integer", "bool"} for kind in kinds)


# --- right wirings ------------------------------------------------------------------------------------------------------


def test_positional_keyword_and_mixed_calls_agree():
    chain, (x, x_len) = network(), batch()
    torch.testing.assert_close(chain(x, x_len), chain(x=x, x_len=x_len))
    torch.testing.assert_close(chain(x, x_len), chain(x, x_len=x_len))


@pytest.mark.parametrize(
    ("args", "kwargs", "wrong"),
    [
        (1, [], "`x_len` is missing"),
        (0, [], "`x` is missing"),
        (0, ["x_len"], "`x` is missing"),
        (3, [], "3 are given by position"),
        (2, ["keep"], "`keep` is given"),
        (1, ["lengths"], "`lengths` is given"),
        (1, ["x"], "`x` is given twice"),
        (2, ["x_len"], "`x_len` is given twice"),
    ],
)
def test_a_call_with_other_inputs_is_refused_by_name(args, kwargs, wrong):
    x, x_len = batch()
    with pytest.raises(PortError, match=f"^`Chain` of features, encoder, head takes `x`, `x_len`, but {wrong}\\.$"):
        network()(*[x, x_len, x_len][:args], **dict.fromkeys(kwargs, x))


def test_kinds_survive_because_nothing_rides_on_tensors():
    """Any operation between two stages keeps working: what is checked is the wiring."""
    chain, (x, x_len) = network(), batch()
    features = chain.features(x * 1, x_len)
    shuffled = features.x.transpose(1, 2).contiguous().transpose(1, 2) + 0
    torch.testing.assert_close(chain.head(chain.encoder(shuffled, features.x_len).x), chain(x, x_len))
    assert type(features.x) is Tensor and not vars(features.x)


def test_ports_tell_open_ends_of_a_chain():
    inputs, outputs = ports(network(), "net")
    assert {k: str(p) for k, p in inputs.items()} == {"x": 'Audio["B S"]', "x_len": 'Samples["B"]'}
    assert {p.where: str(p) for p in outputs.values()} == {"net.x": 'Logits["B T V=5"]'}


def test_a_stage_that_takes_any_size_hands_on_the_size_it_got():
    chain = Chain(features=MelFrontEnd(8), louder=Louder())
    assert str(chain.stages["louder"].outputs["x"]) == str(ports(chain).outputs["x"]) == 'Features["B F=8 T"]'


def test_a_chain_nests_in_a_chain():
    inner = Chain(features=MelFrontEnd(), encoder=Encoder())
    outer = Chain(front=inner, head=Head())
    assert outer(*batch()).shape == (2, 5, 5)


def test_an_input_no_stage_gives_becomes_an_input_of_the_chain():
    class Scored(nn.Module):
        def forward(self, x: Logits[Tensor, "B T V"], target: Classes[Tensor, "B"]) -> Logits[Tensor, "B T"]:
            return x[torch.arange(len(x)), :, target]

    chain = Chain(features=MelFrontEnd(), encoder=Encoder(), head=Head(), scored=Scored())
    assert chain.inputs == ["x", "x_len", "target"]
    assert chain.wiring["scored"] == {"x": "head", "target": ""}
    assert chain(*batch(), torch.tensor([0, 1])).shape == (2, 5)


def test_an_optional_input_may_stay_open():
    class Masked(nn.Module):
        def forward(self, x: Audio[Tensor, "B S"], keep: KeepMask[Tensor, "B S"] | None = None) -> Audio[Tensor, "B S"]:
            return x if keep is None else x * keep

    chain = Chain(masked=Masked())
    assert chain.inputs == ["x"]
    with checked(chain):
        chain(torch.ones(1, 3))


def test_fit_serves_a_branching_model():
    """A joint with two feeds: parts are fitted in build(), and a wrong one is named."""

    class Joint(nn.Module):
        def forward(
            self, encoded: Acoustic[Tensor, "B D=4 T"], predicted: Textual[Tensor, "B D=6 U"]
        ) -> Logits[Tensor, "B T U V"]:
            return (encoded[..., None] * predicted[:, :4, None]).permute(0, 2, 3, 1)

    joint = ports(Joint(), "joint")
    fit(joint.inputs["encoded"], ports(Encoder(), "encoder").outputs["x"])
    fit(joint.inputs["predicted"], Port(Textual, "B D=6 U", "prediction.x"))
    with pytest.raises(PortError, match=r"`joint.predicted` wants Textual.*`prediction.x` gives.*`D` is 7 wide, not 6"):
        fit(joint.inputs["predicted"], Port(Textual, "B D=7 U", "prediction.x"))


# --- checked: real tensors against ports ----------------------------------------------------------------------------------


def test_checked_passes_a_right_model_and_leaves_nothing_behind():
    chain = network()
    with checked(chain):
        chain(*batch())
    assert not any(m._forward_hooks for m in chain.modules())


def wrong_width(self, x: Audio[Tensor, "B S"]) -> Logits[Tensor, "B V=3"]:
    return x.new_zeros(len(x), 4)


def wrong_rank(self, x: Audio[Tensor, "B S"]) -> Logits[Tensor, "B V"]:
    return x.new_zeros(len(x))


def wrong_element(self, x: Audio[Tensor, "B S"]) -> Tokens[Tensor, "B S"]:
    return x


def wrong_batch(self, x: Audio[Tensor, "B S"]) -> Logits[Tensor, "B V"]:
    return x.new_zeros(len(x) + 1, 3)


def not_a_tensor(self, x: Audio[Tensor, "B S"]) -> Logits[Tensor, "B V"]:
    return [1.0]


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (wrong_width, 'returns `x: Logits["B V=3"]`, but its shape is (2, 4): axis `V` is 4 wide, not 3'),
        (wrong_rank, "its shape is (2,): 1 axes, not 2."),
        (wrong_element, "its elements are torch.float32, not integer."),
        (wrong_batch, "axis `B` is 3 wide, not 2; an axis that may change is written `B'`."),
    ],
)
def test_checked_finds_a_module_that_breaks_its_own_word(forward, message):
    with pytest.raises(PortError, match=re.escape(message)), checked(model := module(forward)):
        model(torch.zeros(2, 6))


def test_checked_looks_at_inputs_too():
    with pytest.raises(
        PortError, match=re.escape('takes `x_len: Samples["B"]`, but its shape is (3,): axis `B` is 3 wide, not 2')
    ):
        chain = network()
        with checked(chain):
            chain(torch.zeros(2, 1600), torch.tensor([1, 2, 3]))


# --- compile, export, pickle, FSDP2 -----------------------------------------------------------------------------------------


def test_compiles_without_graph_breaks():
    chain, (x, x_len) = network(), batch()
    compiled = torch.compile(chain, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, x_len), chain(x, x_len))
    torch.testing.assert_close(compiled(x=x, x_len=x_len), chain(x, x_len))


def test_exports():
    chain, (x, x_len) = network().eval(), batch()
    by_position = torch.export.export(chain, (x, x_len)).module()
    by_name = torch.export.export(chain, (), {"x": x, "x_len": x_len}).module()
    torch.testing.assert_close(by_position(x, x_len), chain(x, x_len))
    torch.testing.assert_close(by_name(x=x, x_len=x_len), chain(x, x_len))


def test_pickles():
    chain, (x, x_len) = network(), batch()
    again = pickle.loads(pickle.dumps(chain))
    torch.testing.assert_close(again(x, x_len), chain(x, x_len))
    assert again.wiring == chain.wiring


def sharded_outputs(rank: int) -> list[float]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    chain, (x, x_len) = network(), batch()
    mesh = init_device_mesh("cpu", (2,))
    for stage in chain.children():
        fully_shard(stage, mesh=mesh)
    fully_shard(chain, mesh=mesh)
    out = chain(x, x_len)
    out.sum().backward()
    assert ports(chain).inputs.keys() == {"x", "x_len"}
    return out.flatten().tolist()


def test_shards_with_fsdp2():
    torch.manual_seed(0)
    chain, (x, x_len) = network(), batch()
    for out in run_ranks(2, sharded_outputs):
        torch.testing.assert_close(torch.tensor(out), chain(x, x_len).flatten())
