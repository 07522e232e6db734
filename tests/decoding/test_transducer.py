"""Batched greedy decoding of transducers equals a walk one by one, whole or in pieces."""

import pytest
import torch

from anemone.config import decode
from anemone.decoding import transducer
from anemone.decoding.transducer import TransducerGreedyConfig, transducer_greedy
from anemone.errors import ConfigError
from anemone.models.speech.transducer import TransducerConfig, TransducerHead

KINDS = {
    "rnnt": {},
    "tdt": {"durations": [0, 1, 2, 4]},
    "late": {"durations": [2, 3]},
    "multi_blank": {"big_blanks": [2, 4, 8]},
}
PREDICTORS = [{"kind": "lstm", "d_model": 8, "num_layers": 2}, {"kind": "stateless", "d_model": 8, "context": 3}]


def head_of(kind: str, predictor: dict, *, seed: int = 0, blank: float = 0.4) -> TransducerHead:
    torch.manual_seed(seed)
    tree = {"predictor": predictor, "d_joint": 12, "activation": "tanh", **KINDS[kind]}
    head = decode(TransducerConfig, tree).build(d_model=6, vocab_size=5).eval()
    with torch.no_grad():
        head.joint.linear.weight.mul_(6)
        head.joint.linear.bias[5 : 6 + len(head.big_blanks)] += blank / (1 + len(head.big_blanks))
    return head


@torch.no_grad()
def one_by_one(head: TransducerHead, x: torch.Tensor, max_symbols: int) -> tuple[list[int], list[int], float]:
    """The definition: read the next token or blank from all tokens so far, at one frame after the other."""
    tokens, frames, score, t, repeats = [], [], 0.0, 0, 0
    words = head.vocab_size + 1 + len(head.big_blanks)
    while t < len(x):
        said = head.textual(head.predictor(torch.tensor([tokens], dtype=torch.long)))[0, -1]
        scores = head.joint(x[t] + said)
        log_probs, skip = scores[:words].log_softmax(-1), 0
        label = int(log_probs.argmax())
        score += float(log_probs[label])
        if head.durations:
            lasts = scores[words:].log_softmax(-1)
            score += float(lasts.max())
            skip = head.durations[int(lasts.argmax())]
        if label < head.vocab_size:
            repeats += 1
            tokens, frames = [*tokens, label], [*frames, t]
            skip = 1 if skip == 0 and repeats == max_symbols else skip
        elif not head.durations:
            skip = [1, *head.big_blanks][words - 1 - label]
        else:
            skip = max(skip, 1)
        t, repeats = t + skip, 0 if skip else repeats
    return tokens, frames, score


@pytest.mark.parametrize("predictor", PREDICTORS, ids=lambda p: p["kind"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_a_walk_one_by_one(kind, predictor):
    lengths = torch.tensor([17, 1, 0, 30, 8, 29])
    for seed, blank in [(1, 0.0), (2, 0.6), (3, 1.5)]:
        head = head_of(kind, predictor, seed=seed, blank=blank)
        x = head.acoustic(torch.randn(6, 30, 6))
        found, _ = transducer_greedy(head, x, lengths, max_symbols=3)
        assert any(hypothesis.tokens for hypothesis in found)
        for hypothesis, states, length in zip(found, x, lengths, strict=True):
            tokens, frames, score = one_by_one(head, states[:length], 3)
            assert (hypothesis.tokens, hypothesis.frames) == (tokens, frames)
            assert hypothesis.score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_frames_give_what_the_whole_gives(kind):
    head = head_of(kind, PREDICTORS[0], seed=4)
    x, lengths = head.acoustic(torch.randn(3, 40, 6)), torch.tensor([40, 33, 21])
    whole, _ = transducer_greedy(head, x, lengths, max_symbols=4)
    state, tokens, frames, scores = None, [[], [], []], [[], [], []], [0.0] * 3
    for start in range(0, 40, 5):
        piece, left = x[:, start : start + 5], (lengths - start).clamp(0, 5)
        found, state = transducer_greedy(head, piece, left, max_symbols=4, state=state)
        for i, hypothesis in enumerate(found):
            tokens[i] += hypothesis.tokens
            frames[i] += [start + frame for frame in hypothesis.frames]
            scores[i] += hypothesis.score
    assert [(h.tokens, h.frames) for h in whole] == list(zip(tokens, frames, strict=True))
    assert [h.score for h in whole] == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("ahead", [1, 3, 64])
def test_how_far_it_looks_ahead_changes_nothing(monkeypatch, ahead):
    head = head_of("tdt", PREDICTORS[0], seed=5, blank=1.0)
    x, lengths = head.acoustic(torch.randn(4, 25, 6)), torch.tensor([25, 20, 3, 11])
    expected, _ = transducer_greedy(head, x, lengths)
    monkeypatch.setattr(transducer, "AHEAD", ahead)
    found, _ = transducer_greedy(head, x, lengths)
    assert [h[:2] for h in found] == [h[:2] for h in expected]


def test_no_more_than_max_symbols_stand_at_a_frame():
    head = head_of("rnnt", PREDICTORS[1], blank=-100.0)  # never a blank
    x = head.acoustic(torch.randn(1, 4, 6))
    decoder = decode(TransducerGreedyConfig, {"max_symbols": 2}).build(head)
    targets = torch.zeros(1, 0, dtype=torch.long), torch.tensor([0])
    assert decoder(head(torch.randn(1, 4, 6), torch.tensor([4]), *targets))[0].frames == [0, 0, 1, 1, 2, 2, 3, 3]
    assert transducer_greedy(head, x[:, :0], torch.tensor([0]))[0][0].tokens == []
    with pytest.raises(ConfigError, match=r"`max_symbols` must be in 1\.\.1000, but is 0 instead"):
        decode(TransducerGreedyConfig, {"max_symbols": 0})
