"""Heads of transducers: ports, gradients, padding, compilation, refusals."""

import pytest
import torch

from anemone.config import decode
from anemone.errors import ConfigError, PortError
from anemone.models.speech.predictors import StatelessConfig
from anemone.models.speech.quartznet import QuartzNetConfig
from anemone.models.speech.transducer import HybridConfig, TransducerConfig
from anemone.types import Chain, checked

PREDICTORS = {
    "lstm": {"kind": "lstm", "d_model": 8, "num_layers": 2, "dropout": 0.0},
    "stateless": {"kind": "stateless", "d_model": 8, "context": 3, "normalize": True},
}
BATCH = torch.randn(2, 7, 6), torch.tensor([7, 4]), torch.tensor([[1, 4, 2], [0, 3, 0]]), torch.tensor([3, 2])


def head_of(config=TransducerConfig, predictor="lstm", **settings):
    tree = {"predictor": PREDICTORS[predictor], "d_joint": 10, "dropout": 0.0, **settings}
    return decode(config, tree).build(d_model=6, vocab_size=5).eval()


@pytest.mark.parametrize("config", [TransducerConfig, HybridConfig])
@pytest.mark.parametrize("settings", [{}, {"durations": [0, 1, 2]}, {"big_blanks": [2, 4]}])
def test_ports_hold_and_every_parameter_gets_a_gradient(config, settings):
    head = head_of(config, **settings).train()
    with checked(head):
        output = head(*BATCH)
        scores = head.joint(output.x[0, :, None] + output.predicted[0, None])
    assert scores.shape == (7, 4, 5 + 1 + len(head.durations) + len(head.big_blanks))
    loss = scores.square().sum() + sum(part.square().sum() for part in output[3:] if part is not None)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())
    assert not head.predictor.embedding.weight.grad[5].any()


def test_the_predictor_is_not_heard_at_some_places_of_training():
    head = head_of(p_mask=0.5).train()
    zero = torch.stack([(head(*BATCH).predicted == 0).all(-1) for _ in range(50)]).float()
    assert 0.35 < zero.mean() < 0.65
    assert head.eval()(*BATCH).predicted.any(-1).all()


def test_padding_changes_nothing():
    head = head_of(HybridConfig, predictor="lstm")
    whole, alone = head(*BATCH), head(BATCH[0][1:, :4], torch.tensor([4]), BATCH[2][1:, :2], torch.tensor([2]))
    torch.testing.assert_close(alone.predicted[0], whole.predicted[1, :3])
    torch.testing.assert_close(alone.x[0], whole.x[1, :4])
    torch.testing.assert_close(alone.log_probs[0], whole.log_probs[1, :4])


@pytest.mark.parametrize("predictor", ["stateless", "lstm"])
def test_it_compiles_as_one_graph_and_exports(predictor):
    head = head_of(predictor=predictor)
    with torch.set_grad_enabled(predictor == "stateless"):  # PyTorch cannot trace the backward of an LSTM on a CPU
        want = head(*BATCH)
        got = torch.compile(head, fullgraph=True, backend="aot_eager")(*BATCH)
        torch.testing.assert_close(got.predicted, want.predicted)
        if predictor == "stateless":
            parameters = list(head.predictor.parameters())
            pairs = (torch.autograd.grad(out.predicted.square().sum(), parameters) for out in (got, want))
            torch.testing.assert_close(*pairs)
        program = torch.export.export(head, BATCH).module()
    torch.testing.assert_close(program(*BATCH).predicted, want.predicted)


def test_inner_layers_reach_the_ctc_of_a_hybrid():
    head = head_of(HybridConfig)
    inner = torch.stack([BATCH[0], 2 * BATCH[0]])
    with checked(head):
        scores = head.label_scores(head(*BATCH, inner))
    assert scores.inner.shape == (2, 2, 7, 6) and torch.equal(scores.inner[0], scores.x)


def test_an_encoder_of_another_width_is_refused():
    encoder = QuartzNetConfig(size="tiny").build(64)
    with pytest.raises(PortError, match=r"`head.x` wants .* but `encoder.x` gives .*: axis `D` is 128 wide, not 6"):
        Chain(encoder=encoder, head=head_of())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"durations": [0]}, "`durations` must be such that time can pass"),
        ({"durations": [1, 1]}, "`durations` must be different numbers of frames"),
        ({"big_blanks": [1]}, "`big_blanks` must be different numbers of frames, 2 or more"),
        ({"big_blanks": [2, 2]}, "`big_blanks` must be different numbers of frames, 2 or more"),
        ({"durations": [0, 1], "big_blanks": [2]}, "`big_blanks` must be empty with durations"),
        ({"activation": "gelu"}, "`activation` must be one of"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1"),
        ({"p_mask": -0.1}, "`p_mask` must be at least 0"),
        ({"predictor": {"kind": "lstm", "d_model": 8, "d_cell": 4}}, "`predictor.d_cell` must be null, or more than"),
        ({"predictor": {"kind": "lstm", "max_memory": 2}}, "`predictor.max_memory` must be null, or 3 or more"),
        ({"predictor": {"kind": "stateless", "context": 0}}, r"`predictor.context` must be in 1\.\.1000"),
        (
            {"predictor": {"kind": "stateless", "d_model": 4, "context": 3}},
            "`predictor.d_model` must be at least twice",
        ),
        ({"predictor": "gru"}, "`predictor.kind` must be one of"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        decode(TransducerConfig, settings)


def test_losses_that_fit_follow_from_the_kind_of_transducer():
    assert TransducerConfig().losses == ("rnnt",)
    assert TransducerConfig(durations=(0, 1)).losses == ("tdt",)
    assert TransducerConfig(big_blanks=(2,)).losses == ("multi_blank",)
    assert HybridConfig(durations=(0, 1), predictor=StatelessConfig()).losses == ("hybrid",)
