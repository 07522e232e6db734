"""SpecAugment: masks of the right sizes in the right places, in training alone."""

import pytest
import torch

from anemone.config import decode
from anemone.errors import ConfigError
from anemone.features.spec_augment import SpecAugmentConfig
from anemone.types import checked

NONE = {"num_freq_masks": 0, "num_time_masks": 0, "num_rect_masks": 0}


def hidden(settings, *, batch=4000, bins=40, size=60, lengths=None):
    """What a module hides of features that are 1: True where hidden, (B, F, T)."""
    augment = decode(SpecAugmentConfig, NONE | settings).build()
    x_len = torch.full((batch,), size) if lengths is None else lengths
    return augment(torch.ones(batch, bins, size), x_len).x == 0


def near(values, probabilities):
    """Whether whole numbers appear as often as they should, within 5 standard errors."""
    share = values.bincount(minlength=len(probabilities)) / len(values)
    error = (probabilities * (1 - probabilities) / len(values)).sqrt()
    return len(share) == len(probabilities) and ((share - probabilities).abs() <= 5 * error + 1e-9).all()


def uniform(count):
    return torch.full((count,), 1 / count)


def test_a_band_hides_all_frames_of_neighbouring_bins_uniform_in_width_and_place():
    mask = hidden({"num_freq_masks": 1, "freq_width": 8})
    assert torch.equal(mask.any(2), mask.all(2))
    rows = mask.any(2).int()
    assert ((rows.diff(dim=1) == 1).sum(1) <= 1).all()
    assert near(rows.sum(1), uniform(8))
    wide = rows[rows.sum(1) == 5]
    assert near(wide.argmax(1), uniform(35))


def test_a_stretch_hides_all_bins_of_neighbouring_frames_uniform_in_width():
    mask = hidden({"num_time_masks": 1, "time_width": 20})
    assert torch.equal(mask.any(1), mask.all(1))
    assert near(mask.any(1).sum(1), uniform(20))


def test_a_share_makes_stretches_fit_each_utterance():
    lengths = torch.tensor([20, 60]).repeat(3000)
    mask = hidden({"num_time_masks": 1, "time_width": 0.25}, batch=6000, lengths=lengths).any(1).sum(1)
    assert near(mask[lengths == 20], uniform(5))
    assert near(mask[lengths == 60], uniform(15))


def test_a_rectangle_is_uniform_in_both_widths_and_starts_where_the_widest_would_fit():
    mask = hidden({"num_rect_masks": 1, "rect_freq": 5, "rect_time": 9})
    seen = mask.flatten(1).any(1)
    rows, columns = mask.any(2).sum(1)[seen], mask.any(1).sum(1)[seen]
    assert torch.equal(mask.sum((1, 2)), mask.any(2).sum(1) * mask.any(1).sum(1))
    assert near(rows - 1, uniform(5)) and near(columns - 1, uniform(9))
    assert near((~seen).long(), torch.tensor([1 - 1 / 6 - 1 / 10 + 1 / 60, 1 / 6 + 1 / 10 - 1 / 60]))
    assert near(mask[seen].any(2).int().argmax(1), uniform(36))
    assert near(mask[seen].any(1).int().argmax(1), uniform(52))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_freq_masks": 3, "freq_width": 40},
        {"num_time_masks": 5, "time_width": 50},
        {"num_time_masks": 5, "time_width": 0.9},
        {"num_rect_masks": 5, "rect_freq": 60, "rect_time": 50},
    ],
    ids=str,
)
def test_masks_stay_inside_the_lengths_however_short(settings):
    lengths = torch.arange(61).repeat(20)
    mask = hidden(settings, batch=len(lengths), lengths=lengths)
    beyond = torch.arange(60) >= lengths[:, None]
    assert mask.any() and not (mask.any(1) & beyond).any()


def test_several_masks_add_up():
    one = hidden({"num_time_masks": 1, "time_width": 10}).float().mean().item()
    ten = hidden({"num_time_masks": 10, "time_width": 10}).float().mean().item()
    assert ten == pytest.approx(1 - (1 - one) ** 10, abs=0.05)


def test_utterances_are_masked_each_by_itself():
    columns = hidden({"num_time_masks": 1, "time_width": 30}, batch=50).any(1)
    assert len(columns.unique(dim=0)) > 25


def test_hidden_features_have_the_value_asked_for_and_the_input_is_left_alone():
    augment = SpecAugmentConfig(mask_value=-3.0, num_time_masks=5, time_width=20).build()
    x = torch.randn(2, 40, 60)
    before = x.clone()
    out = augment(x, torch.tensor([60, 50])).x
    assert torch.equal(x, before)
    assert ((out == x) | (out == -3)).all() and (out == -3).any()


def test_it_acts_in_training_alone_and_follows_the_global_generator():
    augment = SpecAugmentConfig().build()
    x, x_len = torch.ones(2, 80, 200), torch.tensor([200, 150])

    def run(seed):
        torch.manual_seed(seed)
        return augment(x, x_len).x

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    assert augment.eval()(x, x_len).x is x


def test_ports_hold_and_it_compiles_and_exports():
    augment = SpecAugmentConfig(num_rect_masks=2).build()
    batch = (torch.ones(2, 80, 200), torch.tensor([200, 150]))
    with checked(augment):
        augment(*batch)
    compiled = torch.compile(augment, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(augment, batch).module()
    for run in (compiled, exported):
        x, x_len = run(*batch)
        assert 0 < (x == 0).sum() < x.numel() and torch.equal(x_len, batch[1])


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"`time_width` must be a whole number of frames, or a share.*but is 1.5"):
        decode(SpecAugmentConfig, {"time_width": 1.5})
    with pytest.raises(ConfigError, match=r"`num_freq_masks` must be in 0\.\.1000, but is -1 instead"):
        decode(SpecAugmentConfig, {"num_freq_masks": -1})
    with pytest.raises(ConfigError, match=r"`freq_masks` is not a setting.*Did you mean `num_freq_masks`\?"):
        decode(SpecAugmentConfig, {"freq_masks": 2})


def test_an_utterance_is_changed_with_its_probability():
    augment = decode(SpecAugmentConfig, {"p": 0.3, "num_time_masks": 0, "num_freq_masks": 20}).build()
    hidden = augment(torch.ones(400, 64, 4), torch.full((400,), 4)).x == 0
    assert 80 <= int(hidden.any(2).any(1).sum()) <= 160
