"""A waveform as features: normalised alone, whatever it is batched with."""

import pytest
import torch

from anemone.config import ConfigError
from anemone.features.waveform import WaveformConfig
from anemone.types import checked


def test_each_utterance_has_zero_mean_and_unit_variance_over_its_own_samples():
    features = WaveformConfig().build()
    audio, audio_len = 0.1 * torch.randn(2, 900) + 0.3, torch.tensor([900, 500])
    with checked(features):
        x, x_len = features(audio, audio_len)
    assert x_len.tolist() == [900, 500]
    for row, n in zip(x[:, 0], x_len, strict=True):
        assert abs(row[:n].mean()) < 1e-5
        assert abs(row[:n].var(correction=0) - 1) < 1e-4
    assert not x[1, 0, 500:].any()


def test_what_stands_in_the_padding_changes_nothing():
    audio = torch.randn(1, 900)
    alone = WaveformConfig().build()(audio[:, :500], torch.tensor([500])).x
    assert torch.allclose(WaveformConfig().build()(audio, torch.tensor([500])).x[..., :500], alone, atol=1e-6)


def test_samples_may_be_left_as_they_are():
    audio = torch.randn(1, 40)
    assert torch.equal(WaveformConfig(normalize=False).build()(audio, torch.tensor([40])).x[:, 0], audio)


def test_silence_is_finite():
    assert not WaveformConfig().build()(torch.zeros(1, 40), torch.tensor([40])).x.any()


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"`rate` must be in 1\.\.384000, but is 0 instead"):
        WaveformConfig(rate=0)
