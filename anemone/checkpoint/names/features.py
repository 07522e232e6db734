"""NeMo's preprocessors and SpecAugment, setting by setting, with its defaults."""

from typing import Any

from anemone.checkpoint.names.rules import Ignored, Only, Rule, Table, revert
from anemone.config import Tree
from anemone.errors import ConfigError


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 9)


def _seconds(milliseconds: float) -> float:
    return round(milliseconds / 1000, 12)


def _normalize(value: Any) -> str:
    """Strings that NeMo does not know, and null, leave the features as they are."""
    if isinstance(value, dict):
        raise ValueError("fixed means and deviations are not supported")
    return value if value in ("per_feature", "all_features") else "none"


def _floor(value: Any) -> float:
    if isinstance(value, str):
        return {"tiny": 1.1754943508222875e-38, "eps": 1.1920928955078125e-07}[value]  # of float32
    return float(value)


def _window(value: Any) -> str:
    return "none" if value in (None, "ones") else str(value)


FRAMES: Table = {
    "sample_rate": Rule("rate", 16_000),
    "window_size": Rule("window_ms", 0.02, _milliseconds, _seconds),
    "window_stride": Rule("hop_ms", 0.01, _milliseconds, _seconds),
    "n_window_size": Only((None,)),
    "n_window_stride": Only((None,)),
    "window": Rule("window", "hann", _window, lambda name: None if name == "none" else name),
    "n_fft": Rule("n_fft", None),
    "lowfreq": Rule("low_hz", 0.0),
    "highfreq": Rule("high_hz", None),
    "rng": Ignored(),
}

LOG_MEL: Table = {
    **FRAMES,
    "features": Rule("num_mels", 64),
    "normalize": Rule("normalize", "per_feature", _normalize),
    "preemph": Rule("preemphasis", 0.97, lambda value: value or 0.0),
    "log": Rule("log", True),
    "log_zero_guard_type": Rule("log_guard", "add"),
    "log_zero_guard_value": Rule("log_floor", 2**-24, _floor),
    "dither": Rule("dither", 1e-5),
    "pad_to": Rule("pad_to", 16),
    "pad_value": Rule("pad_value", 0.0),
    "frame_splicing": Rule("frame_splicing", 1),
    "exact_pad": Rule("exact_pad", False),
    "mag_power": Rule("power", 2.0),
    "mel_norm": Only(("slaney",)),
    "nb_augmentation_prob": Ignored(),
    "nb_max_freq": Ignored(),
    "use_torchaudio": Only((False,)),
    "stft_conv": Ignored(),
    "stft_exact_pad": Ignored(),
}

MFCC: Table = {
    **FRAMES,
    "n_mels": Rule("num_mels", 64),
    "n_mfcc": Rule("num_mfcc", 64),
    "dct_type": Only((2,)),
    "norm": Only(("ortho",)),
    "log": Only((True,)),
}

SPEC_AUGMENT: Table = {
    "freq_masks": Rule("num_freq_masks", 0),
    "freq_width": Rule("freq_width", 10),
    "time_masks": Rule("num_time_masks", 0),
    "time_width": Rule("time_width", 10),
    "rect_masks": Rule("num_rect_masks", 0),
    "rect_time": Rule("rect_time", 5),
    "rect_freq": Rule("rect_freq", 20),
    "mask_value": Rule("mask_value", 0.0),
    "rng": Ignored(),
    "use_numba_spec_augment": Ignored(),
    "use_vectorized_spec_augment": Ignored(),
    "use_vectorized_code": Ignored(),
}

# `_target_` of a preprocessor -> our kind, its table, and what goes with the kind.
PREPROCESSORS: dict[str, tuple[str, Table, Tree]] = {
    "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor": ("log_mel", LOG_MEL, {}),
    "nemo.collections.asr.modules.AudioToMFCCPreprocessor": ("mfcc", MFCC, {"edges": "batch"}),
}
AUGMENTATIONS = {"nemo.collections.asr.modules.SpectrogramAugmentation": SPEC_AUGMENT}


def their_features(features: Tree) -> Tree:
    """Returns NeMo's groups of settings for what a model sees.

    Args:
        features: ours, with their kind.

    Raises:
        ConfigError: NeMo has no such features.
    """
    for name, (kind, table, _) in PREPROCESSORS.items():
        if kind == features["kind"]:
            groups = {"preprocessor": {"_target_": name, **revert(features, table)}}
            if features["spec_augment"]:
                ((augment, masks),) = AUGMENTATIONS.items()
                groups["spec_augment"] = {"_target_": augment, **revert(features["spec_augment"], masks)}
            return groups
    kinds = [kind for kind, _, _ in PREPROCESSORS.values()]
    raise ConfigError(f"`features.kind` must be one of {kinds} to be written for NeMo, but is {features['kind']!r}.")
