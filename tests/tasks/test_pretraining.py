"""BEST-RQ: codes are those of the hidden speech, only hidden frames are guessed, and guessing is learned."""

import pytest
import torch

import anemone
from anemone.data.batch import Batch
from anemone.errors import ConfigError
from anemone.features.quantiser import MaskedCodes
from anemone.tasks import rebuild, save
from anemone.types import checked

OPTIONS = {"num_codebooks": 2, "num_codes": 16, "d_code": 8, "p_start": 0.1, "span": 3, "noise": 0.1}


CAUSAL = {"kind": "striding", "factor": 4, "channels": 8, "causal": True}
CONFORMER = {"kind": "conformer", "size": "custom", "num_layers": 1, "d_model": 16, "num_heads": 2, "kernel": 3}

MODELS = {
    "citrinet": {"kind": "citrinet", "size": "tiny"},
    "causal": {**CONFORMER, "subsampling": CAUSAL},
    "whisper": {"kind": "whisper", "size": "mini"},
}


def task(model="citrinet", **settings):
    torch.manual_seed(0)
    return rebuild(
        {
            "task": {"kind": "pretraining", "num_codes": 16, "span_ms": 100, **settings},
            "model": MODELS[model],
            "features": {"kind": "log_mel", "num_mels": 20},
        }
    )


def batch():
    none = torch.zeros(2, 0, dtype=torch.int64)
    lens = torch.tensor([32_000, 20_000])
    return Batch(torch.randn(2, 32_000) / 10, lens, none, torch.zeros(2, dtype=torch.int64), torch.arange(2))


def test_only_spans_are_hidden_and_only_they_have_codes():
    masked = MaskedCodes(20, 4, **OPTIONS).eval()
    x, x_len = torch.randn(2, 20, 90), torch.tensor([90, 50])
    with checked(masked):
        seen, seen_len, codes = masked(x, x_len)
    hidden = codes[..., 0] >= 0
    assert codes.shape == (2, 23, 2) and hidden.any(1).all() and not hidden.all()
    assert not hidden[1, 13:].any() and torch.equal(seen_len, x_len)
    wide = hidden.repeat_interleave(4, 1)[:, :90]
    changed = (seen != x).any(1)
    assert torch.equal(changed, wide)
    assert torch.equal(codes[hidden], masked.codes(x, x_len, 23)[hidden])
    again = masked(x, x_len)
    assert torch.equal(again.x, seen) and torch.equal(again.codes, codes)
    masked.train()
    assert not torch.equal(masked(x, x_len).x, masked(x, x_len).x)


def test_codes_are_the_nearest_on_the_sphere_and_know_no_scale_nor_padding():
    masked = MaskedCodes(20, 4, **OPTIONS)
    x = torch.randn(1, 20, 48)
    codes = masked.codes(x, torch.tensor([48]), 12)
    assert torch.equal(masked.codes(5 * x + 3, torch.tensor([48]), 12), codes)
    padded = torch.cat([x, torch.full((1, 20, 16), 9.0)], 2)
    assert torch.equal(masked.codes(padded, torch.tensor([48]), 16)[:, :12], codes)
    z = (x - x.mean(2, keepdim=True)) / (x.std(2, correction=0, keepdim=True) + 1e-5)
    point = torch.nn.functional.normalize(z.mT.reshape(12, 80) @ masked.projection[1], dim=-1)
    assert torch.equal(torch.cdist(point, masked.codebooks[1]).argmin(-1), codes[0, :, 1])


def test_a_loss_is_over_hidden_frames_alone_and_every_trained_weight_learns():
    made = task(num_codebooks=2)
    output = made.output(batch())
    total, count = made.lost(output, batch())
    hidden = output.codes >= 0
    assert count == hidden.sum()
    want = torch.nn.functional.cross_entropy(output.x[hidden], output.codes[hidden], reduction="sum")
    assert total.item() == pytest.approx(want.item(), rel=1e-5)
    total.backward()
    assert all(p.grad is not None for p in made.network.parameters())
    assert not {name for name, _ in made.network.named_parameters() if name.startswith("quantiser")}


def test_it_learns_to_guess():
    made = task(num_codes=8).train()
    data = batch()
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        total, count = made.loss(data)
        (total / count).backward()
        optimizer.step()
        losses.append((total / count).item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    metrics = made.summarize(made.evaluate(data))
    assert set(metrics) == {"loss", "accuracy"}
    assert made.summarize(made.zero_states()) == {"loss": 0.0, "accuracy": 0.0}


def test_the_quantiser_goes_into_the_archive_and_the_encoder_out_of_it(tmp_path):
    made = task()
    save(made, tmp_path / "pre.anemone")
    back = anemone.load(tmp_path / "pre.anemone")
    assert torch.equal(back.network.quantiser.codebooks, made.network.quantiser.codebooks)
    encoder = [name for name in back.network.state_dict() if name.startswith("encoder.")]
    assert len(encoder) > 20 and made.encode("any words") == []


def test_frames_that_only_the_codes_or_only_the_encoder_has_are_not_guessed():
    """A causal sub-sampling of 4 makes 51 of 201 frames, and of 200 as well: the codes are 50 there."""
    made = task("causal")
    output = made.output(batch())
    assert output.x.shape[:2] == output.codes.shape[:2]
    beyond = torch.arange(output.codes.shape[1]) >= output.x_len[:, None]
    assert (output.codes[beyond] == -1).all()
    total, count = made.lost(output, batch())
    assert total.isfinite() and count > 0


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="`model` must be of a kind that has a stride, unlike Whisper"):
        task("whisper")
    with pytest.raises(ConfigError, match=r"`task.num_codes` must be in 2\.\.65536, but is 1 instead"):
        task(num_codes=1)
