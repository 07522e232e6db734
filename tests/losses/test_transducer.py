"""Transducer losses equal the sum over all alignments, NeMo's values, and their gradients the derivative."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from anemone.config import decode, load_class
from anemone.errors import ConfigError
from anemone.losses import LOSSES
from anemone.losses.transducer import RNNTConfig, TDTConfig, infeasible, transducer_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden/parity/losses/transducer.npz")
KINDS = {
    "rnnt": {},
    "tdt": {"durations": (0, 1, 2, 3, 4), "sigma": 0.02},
    "tdt_far": {"durations": (4, 1)},
    "tdt_odd": {"durations": (2, 3)},
    "multi_blank": {"big_blanks": (2, 4), "sigma": 0.05},
    "multi_blank_far": {"big_blanks": (5, 3)},
}


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name])


def channels(vocab_size: int, kind: dict) -> int:
    return vocab_size + 1 + len(kind.get("durations", ())) + len(kind.get("big_blanks", ()))


def by_enumeration(logits: torch.Tensor, target: list[int], *, durations=(), big_blanks=(), sigma=0.0) -> float:
    """-log of the summed probability of every sequence of steps that writes the target in just the frames there are."""
    frames, _, size = logits.shape
    words = logits[..., : size - len(durations)].log_softmax(-1) - sigma
    lasting = logits[..., size - len(durations) :].log_softmax(-1)
    blank = words.shape[-1] - 1
    ways = []

    def walk(t: int, u: int, score: float) -> None:
        if t == frames and u == len(target):
            ways.append(score)
        if t >= frames:
            return
        here = words[t, u].tolist()
        if durations:
            for n, d in enumerate(durations):
                last = lasting[t, u, n].item()
                if d:
                    walk(t + d, u, score + here[blank] + last)
                if u < len(target) and t + d < frames:
                    walk(t + d, u + 1, score + here[target[u]] + last)
            return
        for i, d in enumerate((1, *big_blanks)):
            walk(t + d, u, score + here[blank - i])
        if u < len(target):
            walk(t, u + 1, score + here[target[u]])

    walk(0, 0, 0.0)
    return -torch.tensor(ways, dtype=torch.float64).logsumexp(0).item() if ways else float("inf")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_sum_over_all_alignments(name, seed):
    torch.manual_seed(seed)
    kind, frames, tokens = KINDS[name], [6, 1, 4, 5, 2, 3], [3, 2, 0, 1, 3, 4]
    logits = 2 * torch.randn(6, 7, 5, channels(3, kind), dtype=torch.float64)
    targets = torch.randint(0, 3, (6, 4))
    losses = transducer_loss(logits, torch.tensor(frames), targets, torch.tensor(tokens), **kind)
    lost = infeasible(torch.tensor(frames), torch.tensor(tokens), kind.get("durations", ()))
    for b, (t, u) in enumerate(zip(frames, tokens, strict=True)):
        expected = by_enumeration(logits[b, :t, : u + 1], targets[b, :u].tolist(), **kind)
        assert bool(lost[b]) == np.isinf(expected)
        assert losses[b].item() == pytest.approx(0 if np.isinf(expected) else expected, abs=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_is_the_derivative(name):
    torch.manual_seed(0)
    kind = KINDS[name]
    logits = torch.randn(3, 6, 4, channels(3, kind), dtype=torch.float64, requires_grad=True)
    lens = torch.tensor([6, 3, 1]), torch.tensor([[0, 1, 1], [2, 0, 0], [0, 0, 0]]), torch.tensor([3, 1, 0])
    assert torch.autograd.gradcheck(lambda x: transducer_loss(x, *lens, **kind), logits)


@pytest.mark.parametrize(
    ("scores", "name", "kind"),
    [
        ("acts", "rnnt.none", {}),
        ("tdt_acts", "tdt.sigma0.0", {"durations": (0, 1, 2, 3, 4)}),
        ("tdt_acts", "tdt.sigma0.02", {"durations": (0, 1, 2, 3, 4), "sigma": 0.02}),
        ("multiblank_acts", "multiblank.sigma0.05", {"big_blanks": (2, 4), "sigma": 0.05}),
    ],
)
def test_values_and_gradients_equal_those_of_nemo(scores, name, kind):
    logits = golden(scores).requires_grad_()
    losses = transducer_loss(logits, golden("act_lens"), golden("targets"), golden("target_lens"), **kind)
    torch.testing.assert_close(losses, golden(f"{name}.loss"))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(gradient, golden(f"{name}.grad"), atol=4e-6, rtol=1e-5)


def scored(logits: torch.Tensor) -> SimpleNamespace:
    """A head whose joint looks the scores of a node up, so that configs can be given scores."""
    flat = logits.flatten(0, 2)

    class Look(nn.Module):
        def forward(self, index: torch.Tensor) -> torch.Tensor:
            return flat[index[..., 0].long()]

    numbers = torch.arange(len(flat)).reshape(*logits.shape[:3], 1).double()
    head = SimpleNamespace(joint=Look(), durations=(), big_blanks=())
    predicted = torch.zeros(len(logits), logits.shape[2], 1).double()
    predicted[:, :, 0] = torch.arange(logits.shape[2])
    head.output = SimpleNamespace(x=numbers[:, :, 0], predicted=predicted, x_len=golden("act_lens"))
    return head


@pytest.mark.parametrize("reduction", ["mean_batch", "mean_volume", "mean"])
def test_reductions_are_those_of_nemo(reduction):
    head = scored(golden("acts"))
    criterion = RNNTConfig(reduction=reduction).build(head)
    total, count = criterion(head.output, golden("targets"), golden("target_lens"))
    torch.testing.assert_close(total / count, golden(f"rnnt.{reduction}.loss"))


def test_fastemit_adds_to_loss_and_gradient_as_in_nemo():
    logits = golden("acts").requires_grad_()
    losses = transducer_loss(logits, golden("act_lens"), golden("targets"), golden("target_lens"), fastemit=0.01)
    torch.testing.assert_close(losses.mean(), golden("rnnt.mean_batch.fastemit_lambda0.01.loss"))
    (gradient,) = torch.autograd.grad(losses.mean(), logits)
    reference = golden("rnnt.mean_batch.fastemit_lambda0.01.grad")
    torch.testing.assert_close(gradient, reference, atol=4e-6, rtol=1e-5)


def test_the_clamp_limits_gradients_before_the_mean():
    """NeMo limits them after it on a CPU (a third of the batch here) and, as we do, before it on a GPU."""
    logits = golden("acts").requires_grad_()
    lens = golden("act_lens"), golden("targets"), golden("target_lens")
    losses = transducer_loss(logits.log_softmax(-1), *lens, clamp=0.3)
    (gradient,) = torch.autograd.grad(losses.mean(), logits)
    torch.testing.assert_close(losses.mean(), golden("rnnt.mean_batch.clamp0.1.loss"))
    torch.testing.assert_close(gradient, golden("rnnt.mean_batch.clamp0.1.grad"), atol=4e-6, rtol=1e-5)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rubbish", [0.0, float("nan"), float("inf"), 1e30])
def test_padding_touches_neither_loss_nor_gradient(name, rubbish):
    kind = KINDS[name]
    frames, tokens = [5, 2, 7], [2, 3, 0]
    logits = torch.full((3, 8, 5, channels(4, kind)), rubbish)
    targets = torch.full((3, 4), -100)
    alone = []
    for b, (t, u) in enumerate(zip(frames, tokens, strict=True)):
        logits[b, :t, : u + 1] = torch.randn(t, u + 1, logits.shape[-1])
        targets[b, :u] = torch.randint(0, 4, (u,))
        part = logits[b : b + 1, :t, : u + 1].clone().requires_grad_()
        one = transducer_loss(part, torch.tensor([t]), targets[b : b + 1, :u], torch.tensor([u]), **kind)
        alone.append((one, torch.autograd.grad(one.sum(), part)[0]))
    logits.requires_grad_()
    losses = transducer_loss(logits, torch.tensor(frames), targets, torch.tensor(tokens), **kind)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    for b, (t, u) in enumerate(zip(frames, tokens, strict=True)):
        torch.testing.assert_close(losses[b : b + 1], alone[b][0], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(gradient[b, :t, : u + 1], alone[b][1][0], atol=1e-6, rtol=1e-5)
        assert not gradient[b, t:].any() and not gradient[b, :, u + 1 :].any()


@pytest.mark.parametrize("name", ["rnnt", "tdt", "multi_blank"])
def test_extreme_scores_give_the_gradient_of_float64(name):
    kind = KINDS[name]
    scores = 1e4 * torch.randn(2, 30, 7, channels(5, kind)).clamp(-1, 1)
    lens = torch.tensor([30, 21]), torch.randint(0, 5, (2, 6)), torch.tensor([6, 4])
    results = []
    for dtype in (torch.float32, torch.float64):
        logits = scores.to(dtype).requires_grad_()
        losses = transducer_loss(logits, *lens, **kind)
        results.append((losses.double(), torch.autograd.grad(losses.sum(), logits)[0].double()))
    assert results[0][0].isfinite().all() and results[0][1].isfinite().all()
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], atol=2e-2, rtol=1e-3)  # scores of 1e4 end at 1e-3


def test_scores_of_minus_infinity_close_their_arcs():
    logits = torch.randn(1, 3, 2, 3, dtype=torch.float64)
    logits[0, 1:, 0, 0] = -torch.inf  # the token can come in the first frame only
    logits.requires_grad_()
    lens = torch.tensor([3]), torch.tensor([[0]]), torch.tensor([1])
    loss = transducer_loss(logits, *lens)
    p = logits[0].log_softmax(-1)
    torch.testing.assert_close(-loss[0], p[0, 0, 0] + p[:, 1, 2].sum())
    assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()
    closed = logits.detach().clone()
    closed[0, 0, 0, 0] = -torch.inf
    closed.requires_grad_()
    loss = transducer_loss(closed, *lens)
    assert loss.item() == 0 and not torch.autograd.grad(loss.sum(), closed)[0].any()


@pytest.mark.parametrize("targets", [torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)])
def test_an_empty_text_costs_the_blanks_alone(targets):
    logits = torch.randn(2, 4, targets.shape[1] + 1, 3)
    losses = transducer_loss(logits, torch.tensor([4, 1]), targets, torch.tensor([0, 0]))
    blanks = logits.log_softmax(-1)[..., 2]
    torch.testing.assert_close(-losses, torch.stack((blanks[0, :, 0].sum(), blanks[1, 0, 0])))


def test_no_frame_at_all_is_no_loss():
    logits = torch.randn(2, 3, 2, 4, requires_grad=True)
    for frames in ([0, 2], [0, 0]):
        lens = torch.tensor(frames), torch.tensor([[1], [2]]), torch.tensor([1, 1])
        losses = transducer_loss(logits, *lens)
        assert losses[0] == 0 and infeasible(lens[0], lens[2]).tolist() == [t == 0 for t in frames]
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert gradient.isfinite().all() and not gradient[0].any()


def test_lengths_beyond_the_scores_are_refused():
    logits = torch.randn(1, 3, 2, 4)
    with pytest.raises(AssertionError, match="`x_len` says 4 frames, but there are scores of 3"):
        transducer_loss(logits, torch.tensor([4]), torch.tensor([[1]]), torch.tensor([1]))
    with pytest.raises(AssertionError, match="`target_len` says 2 tokens of 1"):
        transducer_loss(logits, torch.tensor([3]), torch.tensor([[1]]), torch.tensor([2]))


@pytest.mark.parametrize(
    "kind", [{"durations": (1, 1)}, {"durations": (0,)}, {"big_blanks": (1,)}, {"durations": (-1,)}]
)
def test_steps_that_cannot_be_are_refused(kind):
    logits = torch.randn(1, 3, 2, 5)
    with pytest.raises(AssertionError, match="must be"):
        transducer_loss(logits, torch.tensor([3]), torch.tensor([[1]]), torch.tensor([1]), **kind)


def test_autocast_does_not_lower_the_precision():
    logits = torch.randn(2, 8, 3, 5)
    lens = torch.tensor([8, 6]), torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
    expected = transducer_loss(logits, *lens)
    with torch.autocast("cpu", torch.bfloat16):
        inside, low = transducer_loss(logits, *lens), transducer_loss(logits.bfloat16(), *lens)
    assert inside.dtype == low.dtype == torch.float32
    assert torch.equal(inside, expected)
    torch.testing.assert_close(low, transducer_loss(logits.bfloat16().float(), *lens))


def test_scores_in_bfloat16_get_their_gradient_in_bfloat16():
    logits = torch.randn(2, 8, 3, 5, dtype=torch.bfloat16, requires_grad=True)
    lens = torch.tensor([8, 6]), torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
    (low,) = torch.autograd.grad(transducer_loss(logits, *lens).sum(), logits)
    wide = logits.detach().float().requires_grad_()
    (high,) = torch.autograd.grad(transducer_loss(wide, *lens).sum(), wide)
    assert torch.equal(low, high.bfloat16())


def test_omega_draws_plain_rnnt_where_gradients_are_on():
    logits = torch.randn(1, 6, 3, 4 + 3, requires_grad=True)
    lens = torch.tensor([6]), torch.tensor([[1, 2]]), torch.tensor([2])
    durations = (0, 1, 2)
    tdt = transducer_loss(logits, *lens, durations=durations, sigma=0.1)
    plain = transducer_loss(logits[..., :4], *lens)
    torch.manual_seed(0)
    drawn = [transducer_loss(logits, *lens, durations=durations, sigma=0.1, omega=0.4) for _ in range(40)]
    times = sum(torch.equal(loss, plain) for loss in drawn)
    assert times + sum(torch.equal(loss, tdt) for loss in drawn) == 40 and 8 <= times <= 24
    always = transducer_loss(logits, *lens, durations=durations, omega=1.0)
    (gradient,) = torch.autograd.grad(always.sum(), logits)
    torch.testing.assert_close(gradient[..., :4], torch.autograd.grad(plain.sum(), logits)[0][..., :4])
    assert not gradient[..., 4:].any()
    with torch.no_grad():
        assert torch.equal(transducer_loss(logits, *lens, durations=durations, sigma=0.1, omega=1.0), tdt)


def test_configs_want_the_head_of_their_kind_and_refuse_bad_settings():
    heads = {
        "rnnt": SimpleNamespace(joint=None, durations=(), big_blanks=()),
        "tdt": SimpleNamespace(joint=None, durations=(0, 1), big_blanks=()),
        "multi_blank": SimpleNamespace(joint=None, durations=(), big_blanks=(2,)),
    }
    for kind in heads:
        config = decode(load_class(LOSSES[kind]), {})
        for other, head in heads.items():
            if other == kind:
                assert config.build(head)
            else:
                with pytest.raises(ConfigError, match=f"`loss\\.kind` must be {other} for a head with durations"):
                    config.build(head)
    with pytest.raises(ConfigError, match="`omega` must be between 0 and 1"):
        TDTConfig(omega=2.0)
    for name in ("fastemit", "clamp", "sigma"):
        with pytest.raises(ConfigError, match=f"`{name}` must be 0 or more"):
            decode(TDTConfig, {name: -1.0})


@pytest.mark.parametrize(
    ("durations", "lost"),
    [
        ((), [True, False, False, False, False]),
        ((0, 1, 4), [True, False, False, False, False]),
        ((1, 2), [True, True, True, False, False]),
        ((2, 4), [True, True, True, True, True]),  # odd, or too few
        ((0, 3), [True, True, True, False, True]),
        ((7,), [True] * 5),
    ],
)
def test_utterances_whose_durations_cannot_add_up_are_found(durations, lost):
    head = SimpleNamespace(durations=durations, big_blanks=())
    found = RNNTConfig().infeasible(head, torch.arange(5), torch.zeros(5, 2), torch.tensor([2, 2, 2, 2, 2]))
    assert found.tolist() == lost
