"""Settings of a run decode strictly and say what is impossible."""

import subprocess
import sys

import pytest

from anemone.config import decode, encode
from anemone.errors import ConfigError
from anemone.training.experiment import ExperimentConfig


def test_an_experiment_decodes_and_encodes_to_the_same(experiment):
    config = experiment()
    assert decode(ExperimentConfig, encode(config)) == config


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"trainer": {}}, r"`trainer\.max_steps` must be 1 or more, where `max_epochs` is not, but is None"),
        ({"trainer__max_steps": -1}, r"`trainer\.max_steps` must be 1 or more, but is -1 instead\."),
        ({"trainer__ema_decay": 1.0}, r"`trainer\.ema_decay` must be at least 0 and below 1, but is 1\.0"),
        ({"trainer__clip_norm": 0}, r"`trainer\.clip_norm` must be above 0"),
        ({"trainer__log_every": 0}, r"`trainer\.log_every` must be 1 or more"),
        ({"checkpoint__keep": 0}, r"`checkpoint\.keep` must be 1 or more"),
        ({"run": {}}, r"`run\.folder` must be set"),
        ({"run__folder": ""}, r"`run\.folder` must be the path of a folder, but is '' instead\."),
        (
            {"features": {"kind": "log_mel", "rate": 8000}},
            r"`data\.rate` must be the rate of the features \(`features\.rate`, 8000\), but is 16000 instead\.",
        ),
        ({"precision": "fp16"}, r"`precision` must be one of .*'16-mixed'"),
        (
            {"trainer__max_step": 3},
            r"`trainer\.max_step` is not a setting of TrainerConfig\. Did you mean `trainer\.max_st",
        ),
    ],
)
def test_impossible_settings_are_named(experiment, changes, pattern):
    with pytest.raises(ConfigError, match=pattern):
        experiment(**changes)


def test_reading_settings_loads_no_lightning():
    code = "import sys, anemone.training.experiment; sys.exit('lightning' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
