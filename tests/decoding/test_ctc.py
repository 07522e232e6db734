"""Greedy decoding equals a walk frame by frame."""

import torch

from anemone.decoding.ctc import CTCGreedyConfig, ctc_greedy
from anemone.nn.heads import CTCHead


def step_by_step(log_probs: torch.Tensor, frames: int) -> tuple[list[int], list[int], float]:
    blank, previous, tokens, starts, score = log_probs.shape[1] - 1, None, [], [], 0.0
    for t in range(frames):
        best = int(log_probs[t].argmax())
        score += float(log_probs[t].max())
        if best not in (previous, blank):
            tokens.append(best)
            starts.append(t)
        previous = best
    return tokens, starts, score


def test_it_equals_a_walk_frame_by_frame():
    lengths = torch.tensor([40, 17, 1, 0, 33])
    log_probs = torch.randn(5, 40, 4).log_softmax(-1)
    for i, (tokens, starts, score) in enumerate(ctc_greedy(log_probs, lengths)):
        expected = step_by_step(log_probs[i], int(lengths[i]))
        assert (tokens, starts) == expected[:2]
        assert abs(score - expected[2]) < 1e-3


def test_repeats_join_unless_a_blank_stands_between():
    path = torch.tensor([[2, 0, 0, 2, 0, 1, 1, 2]])
    log_probs = torch.nn.functional.one_hot(path, 3).float().log_softmax(-1)
    decoded = ctc_greedy(log_probs, torch.tensor([8]))[0]
    assert decoded.tokens == [0, 0, 1]
    assert decoded.frames == [1, 4, 5]


def test_frames_beyond_the_length_are_not_read():
    log_probs = torch.randn(2, 20, 6).log_softmax(-1)
    lengths = torch.tensor([20, 9])
    other = log_probs.clone()
    other[1, 9:] = torch.randn(11, 6).log_softmax(-1)
    assert ctc_greedy(log_probs, lengths) == ctc_greedy(other, lengths)


def test_no_frames_give_no_tokens():
    assert ctc_greedy(torch.zeros(1, 0, 4), torch.tensor([0]))[0].tokens == []
    assert ctc_greedy(torch.zeros(0, 3, 4), torch.zeros(0, dtype=torch.long)) == []


def test_the_config_builds_it():
    head, states = CTCHead(8, 4), torch.randn(2, 7, 8)
    given = head(states, torch.tensor([7, 5]))
    assert CTCGreedyConfig().build(head)(given) == ctc_greedy(given.x, given.x_len)
