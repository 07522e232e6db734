"""Recipes: strict lists, and draws that depend on (seed, id, copy, step) alone."""

import json

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from anemone.config import decode, encode
from anemone.data.augmentation import STEPS, Recipe, augment
from anemone.data.loader import SpeechDataConfig
from anemone.errors import ConfigError, DataError

RATE = 16_000
ALL = Recipe.parse([{name: {"p": 0.7}} for name in ("speed", "shift", "gain", "white_noise")])


def changed(x: np.ndarray, seed: int, copy: int, id: str) -> np.ndarray:
    return augment(x, RATE, ALL, seed=seed, copy=copy, id=id).audio


def test_the_same_copy_of_an_utterance_is_changed_alike(x):
    before = x.copy()
    first = changed(x, 1, 2, "a")
    np.random.seed(5)
    assert np.array_equal(first, changed(x, 1, 2, "a"))
    assert np.array_equal(x, before)
    assert first.dtype == np.float32


def test_seed_copy_and_id_each_make_a_difference(x):
    results = {changed(x, seed, copy, str(id)).tobytes() for seed, copy, id in np.ndindex(3, 3, 3)}
    assert len(results) >= 25  # an utterance may go through unchanged


@given(st.lists(st.sampled_from(["speed", "shift", "gain", "white_noise"]), max_size=6), st.integers(0, 6))
def test_a_further_step_changes_no_other_s_draws(names, place):
    """Where its name is new: another step of a name comes after those there are."""
    x = np.zeros(160, np.float32)
    before = augment(x, RATE, Recipe.parse(names), seed=3, id="b", copy=1).drawn
    more = [*names[:place], "silence", *names[place:]]
    after = augment(x, RATE, Recipe.parse(more), seed=3, id="b", copy=1).drawn
    assert {name: after[name] for name in after if name != "silence"} == before


def test_two_steps_of_a_name_draw_by_themselves():
    recipe = Recipe.parse([{"gain": {"p": 1}}] * 2)
    drawn = augment(np.ones(10, np.float32), RATE, recipe, seed=0, id="a", copy=0).drawn
    assert list(drawn) == ["gain", "gain.2"] and drawn["gain"] != drawn["gain.2"]


@pytest.mark.parametrize("name", ["speed", "shift", "gain", "white_noise"])
def test_a_step_acts_with_its_probability(name, x):
    for p, least, most in [(0.0, 0, 0), (0.5, 70, 130), (1.0, 190, 200)]:
        recipe = Recipe.parse([{name: {"p": p, **({"factors": [0.9, 1.1]} if name == "speed" else {})}}])
        clip = x[4000:4400]
        results = [augment(clip, RATE, recipe, seed=0, id=str(id), copy=0) for id in range(200)]
        count = sum(not np.array_equal(result.audio, clip) for result in results)
        assert least <= count <= most
        assert count <= sum(name in result.drawn for result in results)


def test_what_is_drawn_is_json(x):
    drawn = [augment(x, RATE, ALL, seed=0, id=str(id), copy=0).drawn for id in range(20)]
    assert json.loads(json.dumps(drawn)) == drawn


def test_an_empty_recipe_does_nothing(x):
    assert SpeechDataConfig().augment == ()
    assert augment(x, RATE, Recipe(), seed=0, id="a", copy=0).audio is x


def test_a_recipe_comes_in_any_of_its_forms(tmp_path):
    settings = {"factors": [0.9, 1.1], "p": 0.25}
    wanted = Recipe.parse([{"speed": settings}, {"gain": {}}])
    assert Recipe.parse([{"speed": settings}, "gain"]) == wanted
    assert Recipe.parse({"speed": settings, "shift": None, "gain": {}}) == wanted
    assert Recipe.parse(wanted.tree) == wanted
    path = tmp_path / "recipe.yaml"
    path.write_text("- speed: {factors: [0.9, 1.1], p: 0.25}\n- gain\n")
    assert Recipe.read(path) == wanted
    config = decode(SpeechDataConfig, {"augment": [{"speed": settings}, "gain"]})
    assert config.augment == wanted.steps
    assert decode(SpeechDataConfig, encode(config)) == config


def test_the_digest_changes_with_settings_order_and_nothing_else():
    digests = [
        Recipe.parse(tree).digest
        for tree in (["gain", "shift"], ["shift", "gain"], [{"gain": {"p": 0.4}}, "shift"], ["gain"])
    ]
    assert len(set(digests)) == 4
    assert Recipe.parse([{"gain": {"max_db": 10}}, {"shift": None}]).digest == digests[0]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([{"speed": {"p": 1.5}}], r"`recipe\[0\]\.speed\.p` must be between 0 and 1, but is 1\.5"),
        (["gain", {"speed": {"factors": []}}], r"`recipe\[1\]\.speed\.factors` must be one factor or more"),
        ([{"speed": {"factors": [0]}}], r"`recipe\[0\]\.speed\.factors` must be between 0\.1 and 10"),
        ([{"gain": {"min_db": 5, "max_db": 1}}], r"`recipe\[0\]\.gain\.min_db` must be at most max_db \(1\), but is 5"),
        ([{"shift": {"min_ms": 6}}], r"`recipe\[0\]\.shift\.min_ms` must be at most max_ms \(5\)"),
        ([{"white_noise": {"max_db": -99}}], r"`recipe\[0\]\.white_noise\.min_db` must be at most max_db \(-99\)"),
        (
            [{"whitenoise": {}}],
            r"`recipe\[0\]` must be one of \[.*\], but is 'whitenoise' .* Did you mean `white_noise`",
        ),
        ([{"gain": {"min_dbs": 3}}], r"`recipe\[0\]\.gain\.min_dbs` is not a setting .* Did you mean .*gain\.min_db`"),
        ([{"gain": {}, "speed": {}}], r"`recipe\[0\]` must be one name with its settings"),
        ([3], r"`recipe\[0\]` must be one name with its settings"),
        ("gain", r"`recipe` must be a list of steps"),
    ],
)
def test_impossible_recipes_are_refused(tree, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(tree)


@pytest.mark.parametrize("text", ["a: [", "speed: {}\n", "3", "- _target_: os.system", "\x00", "&a [*a]"])
def test_impossible_files_are_refused(text, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        Recipe.read(path)
    with pytest.raises(
        DataError, match=r"`.*recipes\.yaml` must be a recipe that exists\. Did you mean `.*recipe\.yaml`"
    ):
        Recipe.read(tmp_path / "recipes.yaml")


@pytest.mark.parametrize("name", STEPS)
def test_every_step_says_what_it_does_and_can_be_written_down(name):
    from anemone.config import load_class

    cls = load_class(STEPS[name])
    assert cls.__doc__ and cls.__name__.endswith("Config")
    if name in {"noise", "babble", "room"}:
        return
    recipe = Recipe.parse([name])
    assert Recipe.parse(recipe.tree) == recipe and recipe.names == (name,)


def test_steps_on_features_are_left_to_training_and_refused_on_disk(x):
    recipe = Recipe.parse([{"gain": {"p": 1}}, {"spec_augment": {"num_freq_masks": 1}}])
    assert recipe.online == ("spec_augment",)
    assert list(augment(x, RATE, recipe, seed=0, id="a", copy=0).drawn) == ["gain"]
    with pytest.raises(ConfigError, match=r"\['spec_augment'\] instead\. These change features"):
        recipe.refuse_online()
    Recipe.parse(["gain"]).refuse_online()


@pytest.mark.parametrize("name", STEPS)
def test_every_step_takes_clips_of_any_length_and_rate(name, tmp_path, manifest):
    """None gets silence, a few samples or an odd rate wrong; what comes out is finite float32, and new arrays."""
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 5000), 11_025)
    soundfile.write(tmp_path / "b.wav", np.random.default_rng(1).uniform(-0.5, 0.5, 50), 11_025)
    path = str(manifest([{"audio_filepath": f"{name}.wav"} for name in "ab"]))
    settings = {"manifest": path} if name in {"noise", "babble", "room"} else {}
    settings |= {"shorter": "place"} if name == "noise" else {}
    recipe = Recipe.parse([{name: {"p": 1, **settings}}])
    for rate in (8000, 16_000, 44_100):
        for samples in (0, 1, 2, 37, 700, 5000):
            clip = np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype(np.float32)
            for audio in (clip, np.zeros_like(clip)):
                audio.flags.writeable = False
                for copy in range(3):
                    changed = augment(audio, rate, recipe, seed=0, id="z", copy=copy).audio
                    assert changed.dtype == np.float32 and changed.ndim == 1 and np.isfinite(changed).all()
                    if name not in {"speed", "tempo", "silence", "segment"}:
                        assert len(changed) == samples
