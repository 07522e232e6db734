"""Kaldi, both ways: data directories, matrices in arks, and training on the features in them.

``places`` reads tables and says where things lie, ``matrices`` what they hold, ``cmvn`` normalises; ``folder`` reads a
data directory as utterances, ``write`` makes one and ``check`` applies Kaldi's own rules to it. ``dataset`` and
``loader`` train a model straight from ``feats.scp``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anemone.data.kaldi.check import check_kaldi as check_kaldi
    from anemone.data.kaldi.dataset import KaldiFeatureDataset as KaldiFeatureDataLayer
    from anemone.data.kaldi.dataset import KaldiFeatureDataset as KaldiFeatureDataset
    from anemone.data.kaldi.folder import read_kaldi as read_kaldi
    from anemone.data.kaldi.write import write_features as write_features
    from anemone.data.kaldi.write import write_kaldi as write_kaldi

_HOMES = {
    "KaldiFeatureDataLayer": "dataset:KaldiFeatureDataset",  # as older frameworks call it
    "KaldiFeatureDataset": "dataset:KaldiFeatureDataset",
    "check_kaldi": "check:check_kaldi",
    "read_kaldi": "folder:read_kaldi",
    "write_features": "write:write_features",
    "write_kaldi": "write:write_kaldi",
}

__all__ = ["KaldiFeatureDataLayer", "KaldiFeatureDataset", "check_kaldi", "read_kaldi", "write_features", "write_kaldi"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
