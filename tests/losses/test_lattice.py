"""Shares of probability flow through a lattice without loss."""

import pytest
import torch

from anemone.losses.lattice import Arc, arcs_of, sum_paths


def test_arcs_say_what_steps_do():
    assert arcs_of() == (Arc(0, 1, (0,)), Arc(1, 0, (1,)))
    assert arcs_of(big_blanks=(4,)) == (Arc(0, 1, (0,)), Arc(1, 0, (1,)), Arc(4, 0, (2,)))
    assert arcs_of(durations=(0, 3)) == (Arc(0, 1, (0, 2)), Arc(3, 1, (0, 3)), Arc(3, 0, (1, 3)))


@pytest.mark.parametrize("arcs", [arcs_of(), arcs_of(big_blanks=(2, 5)), arcs_of(durations=(0, 1, 3))])
def test_what_flows_in_flows_out_and_every_token_is_written_once(arcs):
    torch.manual_seed(0)
    x_len, target_len = torch.tensor([9, 5, 1]), torch.tensor([3, 0, 2])
    scores = torch.randn(len(arcs), 3, 9, 4).log_softmax(0)
    log_probs, shares = sum_paths(scores, arcs, x_len, target_len, occupied=True)
    alone = sum_paths(scores, arcs, x_len, target_len, occupied=False)
    assert torch.equal(alone.log_probs, log_probs) and alone.occupancies is None
    inflow = torch.zeros(3, 9 + 6, 4 + 1, dtype=torch.float64)
    inflow[:, 0, 0] = 1
    for arc, share in zip(arcs, shares, strict=True):
        inflow[:, arc.frames : arc.frames + 9, arc.tokens : arc.tokens + 4] += share
    for b, (t, u) in enumerate(zip(x_len, target_len, strict=True)):
        torch.testing.assert_close(inflow[b, t, u].item(), 1.0)
        inflow[b, t, u] = 0
        torch.testing.assert_close(shares[:, b].sum(0), inflow[b, :9, :4])
        written = sum(share[b].sum(0) for arc, share in zip(arcs, shares, strict=True) if arc.tokens)
        torch.testing.assert_close(written, (torch.arange(4) < u).double())
        assert not shares[:, b, t:].any() and not shares[:, b, :, u + 1 :].any()


def test_a_long_lattice_keeps_its_digits():
    frames, tokens = 1500, 40
    scores = torch.full((2, 1, frames, tokens + 1), 0.5).log()
    log_probs, shares = sum_paths(scores, arcs_of(), torch.tensor([frames]), torch.tensor([tokens]), occupied=True)
    ways = sum(
        torch.tensor([frames - 1 + n, n], dtype=torch.float64).log().diff().neg().item() for n in range(1, tokens + 1)
    )
    expected = ways + (frames + tokens) * torch.tensor(0.5, dtype=torch.float64).log().item()
    assert log_probs.item() == pytest.approx(expected, rel=1e-7)
    torch.testing.assert_close(shares[0].sum().item(), float(tokens), rtol=1e-9, atol=0)
