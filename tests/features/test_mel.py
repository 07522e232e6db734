"""Log-mel: equal to golden arrays under every option, and untouched by padding, autocast, compilation and export."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anemone.config import decode
from anemone.errors import ConfigError, PortError
from anemone.features.mel import LogMelConfig
from anemone.types import Chain, checked

GOLDEN = np.load(Path(__file__).parents[1] / "golden/parity/features/spectra.npz")
RAW = {"normalize": "none"}

# golden variant -> our settings
VARIANTS = {
    "w25_f80_pf": {},
    "w25_f128_pf": {"num_mels": 128},
    "w20_f64_pf_padto16": {"num_mels": 64, "window_ms": 20, "pad_to": 16},
    "w25_f80_allfeat": {"normalize": "all_features"},
    "w25_f80_none": RAW,
    "w25_f80_exactpad": {"exact_pad": True},
    "hamming_nopreemph": {"window": "hamming", "preemphasis": 0},
    "splice2": {"num_mels": 40, "frame_splicing": 3},
    "clamp_mag1": RAW | {"preemphasis": 0, "power": 1, "log_guard": "clamp", "log_floor": 1e-5},
    "low20_high7600": {"low_hz": 20, "high_hz": 7600},
    "nolog": RAW | {"num_mels": 64, "log": False},
}


def golden_batch():
    return torch.from_numpy(GOLDEN["signal"]).float() / 32768, torch.from_numpy(GOLDEN["signal_len"])


def stored_frames(length):
    return np.r_[0:length:8, 290:300, 322:length]


def noise(*lengths):
    x = 0.1 * torch.randn(len(lengths), max(lengths))
    x_len = torch.tensor(lengths)
    return x * (torch.arange(x.shape[1]) < x_len[:, None]), x_len


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_equals_the_golden_array_in_every_frame(name):
    out = decode(LogMelConfig, VARIANTS[name]).build().eval()(*golden_batch())
    expected = torch.from_numpy(GOLDEN[f"{name}.out"])
    assert out.x_len.tolist() == GOLDEN[f"{name}.len"].tolist()
    torch.testing.assert_close(out.x[:, :, stored_frames(out.x.shape[2])], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalize": "all_features"},
        RAW,
        {"exact_pad": True},
        {"exact_pad": True, "preemphasis": 0},
        {"pad_to": 16},
    ],
    ids=str,
)
def test_an_utterance_is_the_same_alone_and_in_a_batch_whatever_stands_beyond_it(settings):
    features = decode(LogMelConfig, settings).build().eval()
    x, x_len = noise(16_000, 12_345, 700)
    together = features(x, x_len)
    for i, size in enumerate(x_len):
        alone = features(x[i : i + 1, :size], size[None])
        frames = alone.x_len.item()
        assert frames == together.x_len[i]
        torch.testing.assert_close(together.x[i, :, :frames], alone.x[0, :, :frames], rtol=0, atol=1e-5)
        assert together.x[i, :, frames:].count_nonzero() == 0
    x[torch.arange(x.shape[1]) >= x_len[:, None]] = 1e30
    assert torch.equal(features(x, x_len).x, together.x)


def test_padding_has_the_value_and_the_multiple_asked_for():
    features = LogMelConfig(pad_to=16, pad_value=-11.5).build().eval()
    out = features(*noise(16_000, 8_000))
    assert out.x.shape[2] == 112
    assert (out.x[0, :, 100:] == -11.5).all() and (out.x[1, :, 50:] == -11.5).all()


def test_features_of_a_long_enough_utterance_have_zero_mean_and_unit_variance():
    x, x_len = noise(16_000, 8_000)
    per_feature = LogMelConfig().build().eval()(x, x_len).x[1, :, :50]
    torch.testing.assert_close(per_feature.mean(1), torch.zeros(80), rtol=0, atol=1e-5)
    torch.testing.assert_close(per_feature.std(1), torch.ones(80), rtol=0, atol=1e-4)
    all_features = LogMelConfig(normalize="all_features").build().eval()(x, x_len).x[1, :, :50]
    assert abs(all_features.mean()) < 1e-5 and abs(all_features.std() - 1) < 1e-4


@pytest.mark.parametrize("size", [0, 1, 159, 160, 161])
def test_the_shortest_audio_and_digital_silence_give_finite_features(size):
    features = LogMelConfig().build().eval()
    out = features(torch.zeros(1, 1000), torch.tensor([size]))
    assert out.x_len.item() == size // 160
    assert out.x.isfinite().all()


def test_dither_acts_in_training_alone_and_follows_the_global_generator():
    features = LogMelConfig(dither=1e-3).build()
    x, x_len = noise(4_000)

    def run(seed):
        torch.manual_seed(seed)
        return features(x, x_len).x

    features.train()
    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    features.eval()
    assert torch.equal(run(1), run(2))


def test_features_are_float32_under_autocast_and_of_half_precision_audio():
    features = LogMelConfig().build().eval()
    x, x_len = noise(8_000)
    expected = features(x, x_len).x
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features(x, x_len).x, expected)
    assert features(x.bfloat16(), x_len).x.dtype == torch.float32


def test_gradients_reach_the_audio():
    x, x_len = noise(2_000)
    LogMelConfig().build().eval()(x.requires_grad_(), x_len).x.square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.count_nonzero() > 1_900


def test_it_compiles_as_one_graph():
    features = LogMelConfig(pad_to=16).build()
    compiled = torch.compile(features, fullgraph=True, backend="aot_eager")
    for training in (True, False):
        features.train(training)
        assert compiled(*noise(4_000, 3_000)).x.shape == (2, 80, 32)
    batch = noise(4_000, 3_000)
    torch.testing.assert_close(compiled(*batch).x, features(*batch).x)


def test_it_exports_with_free_batch_and_time():
    features = LogMelConfig(pad_to=8).build().eval()
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=1000)}
    exported = torch.export.export(features, noise(4_000, 3_000), dynamic_shapes=(sizes, {0: sizes[0]})).module()
    batch = noise(5_555, 4_444, 3_333)
    torch.testing.assert_close(exported(*batch)[0], features(*batch).x)


def test_ports_hold_and_the_state_is_empty():
    features = LogMelConfig(num_mels=40, frame_splicing=2).build()
    with checked(features):
        out = features(*noise(3_000, 2_000))
    assert out.x.shape[1] == features.num_features == 80
    assert features.state_dict() == {}
    assert (features.num_mels, features.rate, features.hop) == (40, 16_000, 160)
    with pytest.raises(PortError, match=r"`a\.x` gives Mel.*Mel is not Audio"):
        Chain(a=LogMelConfig().build(), b=LogMelConfig().build())


def test_it_builds_on_the_meta_device():
    with torch.device("meta"):
        features = LogMelConfig().build()
    assert all(buffer.is_meta for buffer in features.buffers())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_fft": 256}, r"`n_fft` must be at least the window's 400 samples and at most 65536, but is 256 instead\."),
        ({"high_hz": 9000}, r"`high_hz` must be at most half the rate, 8000, but is 9000\.0 instead\."),
        ({"low_hz": 8000}, r"`low_hz` must be between 0 and `high_hz` \(8000\), but is 8000\.0 instead\."),
        ({"hop_ms": 0.001}, r"`hop_ms` must be at least one sample long, but is 0\.001 instead\."),
        ({"window_ms": 0}, r"`window_ms` must be above 0 and at most 10000, but is 0\.0 instead"),
        ({"window_ms": 0.1}, r"`window_ms` must be at least two samples long"),
        ({"window_ms": 60_000}, r"`window_ms` must be above 0 and at most 10000, but is 60000\.0 instead"),
        ({"window_ms": 9_000}, r"`window_ms` must be at most 65536 samples long"),
        ({"hop_ms": 1e9}, r"`hop_ms` must be above 0 and at most 10000"),
        ({"rate": 10**9}, r"`rate` must be above 0 and at most 384000"),
        ({"n_fft": 10**9}, r"`n_fft` must be at least the window's 400 samples and at most 65536"),
        ({"n_fft": 0}, r"`n_fft` must be at least the window's 400 samples"),
        ({"num_mels": 1025}, r"`num_mels` must be in 1\.\.1024"),
        ({"num_mels": 1000, "n_fft": 65536}, r"`num_mels` must be at most 511 for a transform of 65536"),
        ({"frame_splicing": 65}, r"`frame_splicing` must be in 1\.\.64"),
        ({"pad_to": 10**9}, r"`pad_to` must be in 0\.\.65536"),
        ({"dither": 2}, r"`dither` must be between 0 and 1"),
        ({"power": 11}, r"`power` must be above 0 and at most 10"),
        ({"pad_value": float("nan")}, r"`pad_value` must be a finite number"),
        ({"preemphasis": 1}, r"`preemphasis` must be at least 0 and below 1, but is 1\.0 instead\."),
        ({"log_floor": 0}, r"`log_floor` must be above 0 and finite, but is 0\.0 instead\."),
        ({"normalize": "per_features"}, r"`normalize` must be one of .* Did you mean `per_feature`\?"),
        ({"n_mels": 64}, r"`n_mels` is not a setting of LogMelConfig\. Did you mean `num_mels`\?"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        decode(LogMelConfig, settings)
