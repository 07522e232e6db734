"""Whisper's features: half a minute always, and nothing depends on what an utterance is batched with.

That they equal those of `transformers` is shown where whole models are (`tests/checkpoint/test_huggingface_speech.py`).
"""

import math

import pytest
import torch

from anemone.config import ConfigError
from anemone.errors import DataError
from anemone.features.whisper_mel import WhisperMelConfig
from anemone.types import checked


def tone(hertz, seconds=1.0):
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(int(16_000 * seconds)) / 16_000)[None]


def test_an_utterance_is_half_a_minute_long_with_silence_at_the_end():
    features = WhisperMelConfig().build()
    with checked(features):
        x, x_len = features(tone(440), torch.tensor([16_000]))
    assert x.shape == (1, 80, 3_000)
    assert x_len.tolist() == [3_000]
    assert torch.equal(x[..., 200:], x.min().expand(1, 80, 2_800))
    assert abs(x.max() - x.min() - 2) < 1e-5  # eight decades, of which four make one


def test_a_higher_tone_is_loudest_in_a_higher_band():
    features = WhisperMelConfig(num_mels=128).build()
    low, high = (features(tone(hertz), torch.tensor([16_000])).x[0, :, 50].argmax() for hertz in (300, 3_000))
    assert low < high


def test_a_batch_equals_each_utterance_alone_whatever_stands_in_the_padding():
    features = WhisperMelConfig(seconds=2).build()
    audio, audio_len = torch.randn(2, 16_000), torch.tensor([16_000, 7_000])
    together = features(audio, audio_len).x
    for row, n in enumerate(audio_len):
        assert torch.allclose(
            together[row], features(audio[row : row + 1, :n], audio_len[row : row + 1]).x[0], atol=1e-6
        )


def test_dither_changes_training_only():
    features = WhisperMelConfig(seconds=1, dither=0.01).build()
    audio = tone(440), torch.tensor([16_000])
    assert not torch.equal(features(*audio).x, features(*audio).x)
    features.eval()
    assert torch.equal(features(*audio).x, features(*audio).x)


def test_a_longer_utterance_is_refused():
    with pytest.raises(DataError, match=r"must have at most 1 seconds, .* but one has 2.0 instead. Cut it into pieces"):
        WhisperMelConfig(seconds=1).build()(torch.zeros(1, 32_000), torch.tensor([32_000]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hop": 0}, r"`hop` must be in 1\.\.400"),
        ({"seconds": 0.0}, "`seconds` must be above 0"),
        ({"seconds": 0.01}, "`seconds` must be longer than two windows"),
        ({"num_mels": 0}, r"`num_mels` must be in 1\.\.1024"),
        ({"dither": -1.0}, "`dither` must be between 0 and 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        WhisperMelConfig(**settings)
