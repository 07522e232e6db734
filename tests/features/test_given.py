"""Features that are made elsewhere."""

import pytest
import torch

import anemone.testing
from anemone.errors import ConfigError, DataError, PortError
from anemone.features.given import GivenConfig
from anemone.tasks import rebuild
from anemone.testing import SMALL_NET, speech


def task(**spec_augment):
    features = {"kind": "given", "num_features": 13, **spec_augment}
    return rebuild({"task": {"kind": "classification", "labels": ["a", "b"]}, "model": SMALL_NET, "features": features})


def test_features_go_through_as_they_are():
    x, x_len = torch.randn(2, 13, 7), torch.tensor([7, 5])
    found = GivenConfig(num_features=13).build()(x, x_len)
    assert found.x is x and found.x_len is x_len


def test_a_width_must_be_possible():
    with pytest.raises(ConfigError, match=r"num_features` must be in 1\.\.65536"):
        GivenConfig(num_features=0)


def test_a_model_of_given_features_hears_no_recordings_and_survives_its_archive(tmp_path):
    made = task(spec_augment={})
    anemone.save(made, tmp_path / "m.anemone")
    loaded = anemone.load(tmp_path / "m.anemone")
    assert not loaded.hears and anemone.testing.tiny().hears
    with pytest.raises(DataError, match="hears no recordings"):
        loaded.classify([(speech(0.5), 16_000)])
    assert loaded.network(torch.randn(1, 13, 20), torch.tensor([20])).shape == (1, 2)


def test_a_chain_goes_on_after_a_stage_whose_outputs_are_known():
    made = anemone.testing.tiny()
    audio, length = torch.from_numpy(speech(0.5))[None], torch.tensor([8000])
    known = made.network.features(audio, length)
    with anemone.checked(made), torch.no_grad():
        whole, rest = made.network(audio, length), made.network(*known, after="features")
    assert torch.equal(whole, rest)
    with pytest.raises(PortError, match=r"`features` returns .*axis `F` is 40 wide, not 32"):
        made.network(torch.zeros(1, 40, 9), torch.tensor([9]), after="features")
