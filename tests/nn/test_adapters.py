"""Low-rank changes and bottlenecks: nothing at first, the same after merging, and the module keeps its names."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from anemone.errors import ConfigError
from anemone.nn.adapters import Bottleneck, LowRank, adapter_names, attach, detach, fitting, merge, switch, within
from anemone.nn.conv import FullConv


class Net(nn.Module):
    """One of each layer that can be changed."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.linear = nn.Linear(8, 6)
        self.conv = nn.Conv1d(6, 5, 3, stride=2, padding=2, dilation=2)
        self.full = FullConv(5, 4, 3, stride=1, dilation=1)

    def forward(self, x):
        y = self.conv(self.linear(self.embedding(x)).transpose(1, 2)).transpose(1, 2)
        return self.full(y)


TOKENS = torch.arange(22).view(2, 11) % 11
LORA = partial(LowRank, rank=3, alpha=6.0)


def net(*targets: str, name: str = "new", random: bool = True) -> Net:
    torch.manual_seed(0)
    made = Net().eval()
    attach(made, name, targets, make=LORA, layers=True)
    if random:
        randomise(made)
    return made


def randomise(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter)


@pytest.mark.parametrize("target", ["embedding", "linear", "conv", "full"])
def test_a_merged_layer_gives_what_the_unmerged_one_gives(target):
    changed = net(target)
    plain, before = Net(), changed(TOKENS)
    merge(changed)
    assert changed.state_dict().keys() == plain.state_dict().keys()
    assert not changed.get_submodule(target)._forward_hooks
    assert (changed(TOKENS) - before).abs().max() < 1e-5
    torch.manual_seed(0)
    assert (Net().eval()(TOKENS) - before).abs().max() > 0.1


def test_new_adapters_change_nothing():
    torch.manual_seed(0)
    plain = Net().eval()
    before = plain(TOKENS)
    attach(plain, "new", ["*"], make=LORA, layers=True)
    assert torch.equal(plain(TOKENS), before)


def test_a_bottleneck_starts_as_nothing_and_then_adds_to_the_first_output():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.d_model = 4

        def forward(self, x, x_len):
            return self.inner(x), x_len

    network = nn.ModuleDict({"pair": Pair()})
    attach(network, "deep", ["pair"], make=lambda module: Bottleneck(4, d=2), layers=False)
    x, x_len = torch.randn(2, 3, 4), torch.tensor([3, 2])
    y, y_len = network["pair"](x=x, x_len=x_len)
    assert torch.equal(y, network["pair"].inner(x)) and torch.equal(y_len, x_len)
    adapter = network["pair"].adapters["deep"]
    nn.init.normal_(adapter.up)
    wanted = y + nn.functional.silu(nn.functional.layer_norm(y, (4,)) @ adapter.down.T) @ adapter.up.T
    assert (network["pair"](x, x_len)[0] - wanted).abs().max() < 1e-6


def test_several_adapters_are_switched_and_taken_away():
    network = net("linear", name="one")
    base = copy.deepcopy(network)
    detach(base, "one")
    assert base.state_dict().keys() == Net().state_dict().keys()
    attach(network, "two", ["linear", "conv"], make=LORA, layers=True)
    randomise(network)
    out = {}
    for names in ((), ("one",), ("two",), ("one", "two")):
        switch(network, names)
        out[names] = network(TOKENS)
    assert torch.equal(out[()], base(TOKENS))
    assert len({round(float(found.detach().sum()), 4) for found in out.values()}) == 4
    detach(network, "two")
    assert adapter_names(network) == ["one"]
    assert torch.equal(network(TOKENS), out["one",])
    with pytest.raises(ConfigError, match="`names` must be out of \\['one'\\], but is 'two' instead"):
        switch(network, ["two"])


def test_a_copy_hangs_on_its_own_adapters():
    network = net("linear")
    twin = copy.deepcopy(network)
    nn.init.zeros_(network.linear.adapters["new"].up)
    assert not torch.equal(network(TOKENS), twin(TOKENS))


def test_dropout_is_of_the_inputs_of_the_change_alone():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(64, 64))
    attach(layer, "new", ["0"], make=partial(LowRank, rank=4, alpha=4.0, dropout=0.5), layers=True)
    x = torch.randn(5, 64)
    before = nn.functional.linear(x, layer[0].weight, layer[0].bias)
    assert torch.equal(layer(x), before)
    randomise(layer)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_a_container_stands_for_the_layers_in_it():
    network = nn.Sequential(Net(), nn.LSTM(4, 4))
    found = attach(network, "new", ["0"], make=LORA, layers=True)
    assert found == ["0.linear", "0.conv", "0.full"]


def test_it_compiles_whole_and_exports():
    changed = net("linear", "embedding")
    compiled = torch.compile(changed, fullgraph=True, backend="eager")
    assert torch.equal(compiled(TOKENS), changed(TOKENS))
    exported = torch.export.export(changed, (TOKENS,))
    assert (exported.module()(TOKENS) - changed(TOKENS)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("make", "targets", "message"),
    [
        (
            Net,
            ["liner"],
            "`targets` must be patterns that fit modules of the network, but is 'liner' instead. Did you mean",
        ),
        (lambda: nn.Sequential(nn.Conv1d(4, 4, 3, groups=2)), ["0"], "without convolutions in groups"),
    ],
)
def test_what_cannot_be_changed_is_refused(make, targets, message):
    with pytest.raises(ConfigError, match=message):
        attach(make(), "new", targets, make=LORA, layers=True)


def test_tied_weights_are_refused():
    network = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    network["b"].weight = network["a"].weight
    with pytest.raises(ConfigError, match=r"without tied weights, as a\.weight, b\.weight"):
        attach(network, "new", ["a"], make=LORA, layers=True)


def test_patterns_go_by_the_parts_of_names():
    assert fitting("a.b.c", ["a.*.c"]) and not fitting("a.b.b.c", ["a.*.c"]) and fitting("a.b.b.c", ["a.**.c"])
    assert within("encoder.layers.0.weight", ["encoder"]) and within("encoder.layers.0.weight", ["encoder.*"])
    assert not within("encoder2.weight", ["encoder"])
