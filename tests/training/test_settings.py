"""The settings of an experiment: a recipe may name what works on features, which is carried out where these are."""

import pytest

from anemone.errors import ConfigError
from anemone.training.settings import experiment

NAME = "quartznet_15x5_ctc"
FREE = "features.spec_augment=null"


@pytest.mark.parametrize(
    "recipe",
    ["[{speed:{p:1}},{spec_augment:{p:0.3,num_freq_masks:1}}]", "{spec_augment:{p:0.3,num_freq_masks:1},speed:{p:1}}"],
)
def test_spec_augment_of_a_recipe_goes_to_the_features(recipe):
    override = "~data.augment" if recipe.startswith("{") else FREE  # a mapping does not replace a list
    config = experiment(NAME, [FREE, override, f"data.augment={recipe}"])
    assert config.features.spec_augment.p == 0.3 and config.features.spec_augment.num_freq_masks == 1
    assert [type(step).__name__ for step in config.data.augment] == ["SpeedConfig"]


@pytest.mark.parametrize(
    "overrides",
    [["data.augment=[spec_augment]"], [FREE, "data.augment=[spec_augment,spec_augment]"]],
    ids=["both places", "twice"],
)
def test_spec_augment_is_named_once(overrides):
    with pytest.raises(ConfigError, match=r"`data\.augment` must be a recipe with `spec_augment` once"):
        experiment(NAME, overrides)
