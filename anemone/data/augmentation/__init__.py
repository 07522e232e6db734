"""Augmentation by a recipe, a short list of steps, offline on disk or online in the workers with the same samples.

    - speed: {factors: [0.9, 1.0, 1.1], p: 0.5}
    - noise: {manifest: noise.jsonl, min_snr_db: 0, max_snr_db: 20, p: 0.8}

What a step draws is a pure function of (seed, id of the utterance, copy, name of the step, how often the recipe had
that name before). Copy k on disk is epoch k in training, and a step more or less changes the draws of no other.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from anemone.config import decode_list, encode, kind_of, list_of_kind, must, refuse_code
from anemone.data.audio import Signal
from anemone.data.augmentation.pool import held, pool
from anemone.data.augmentation.step import Augmented, Clip, Drawn, StepConfig
from anemone.data.files import find

__all__ = ["STEPS", "Augmented", "Clip", "Recipe", "StepConfig", "augment"]

STEPS = {
    "speed": "anemone.data.augmentation.timing:SpeedConfig",
    "tempo": "anemone.data.augmentation.timing:TempoConfig",
    "pitch": "anemone.data.augmentation.timing:PitchConfig",
    "shift": "anemone.data.augmentation.timing:ShiftConfig",
    "silence": "anemone.data.augmentation.timing:SilenceConfig",
    "segment": "anemone.data.augmentation.timing:SegmentConfig",
    "gain": "anemone.data.augmentation.level:GainConfig",
    "loudness": "anemone.data.augmentation.level:LoudnessConfig",
    "clip": "anemone.data.augmentation.level:ClipConfig",
    "low_pass": "anemone.data.augmentation.filters:LowPassConfig",
    "high_pass": "anemone.data.augmentation.filters:HighPassConfig",
    "band_pass": "anemone.data.augmentation.filters:BandPassConfig",
    "telephone": "anemone.data.augmentation.codecs:TelephoneConfig",
    "codec": "anemone.data.augmentation.codecs:CodecConfig",
    "white_noise": "anemone.data.augmentation.noise:WhiteNoiseConfig",
    "pink_noise": "anemone.data.augmentation.noise:PinkNoiseConfig",
    "noise": "anemone.data.augmentation.noise:NoiseConfig",
    "babble": "anemone.data.augmentation.noise:BabbleConfig",
    "room": "anemone.data.augmentation.rooms:RoomConfig",
    "simulated_room": "anemone.data.augmentation.rooms:SimulatedRoomConfig",
    "spec_augment": "anemone.features.spec_augment:SpecAugmentConfig",
}
VERSION = 1  # of what the steps compute; another number makes another digest


@dataclass(frozen=True)
class Recipe:
    """Steps in the order they are applied.

    Example:
        >>> recipe = Recipe.parse([{"speed": {"factors": [0.5], "p": 1}}, "gain"])
        >>> recipe.names, augment(np.ones(800, np.float32), 8000, recipe, seed=0, id="a", copy=0).audio.shape
        (('speed', 'gain'), (400,))
    """

    steps: tuple[Any, ...] = list_of_kind(STEPS)
    """`StepConfig` each, or the config of a step that works on features."""

    @classmethod
    def parse(cls, tree: Any, path: str = "recipe") -> Self:
        """Makes a recipe of a list of ``name: {setting: value}``.

        Args:
            tree: the list.
            path: where it stands, for messages.

        Raises:
            ConfigError: an unknown step or setting, or an impossible value; names it and the nearest.
        """
        return cls(decode_list(STEPS, tree, path))

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a recipe from a YAML file; manifests it names are found as those of a config are.

        Raises:
            ConfigError: not YAML, or not a recipe.
            DataError: there is no such file.
        """
        import yaml

        file = find(path, noun="recipe", pattern="*.y*ml")
        try:
            tree = yaml.safe_load(file.read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            must(False, str(path), f"YAML ({' '.join(str(error).split())})", value=file.name)
        refuse_code(tree, f"{path}: ")
        must(isinstance(tree, list), str(path), "a list of steps, `- name: {setting: value}`", value=tree)
        return cls.parse(tree, str(path))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the steps; the second step of a name is "name.2"."""
        seen: Counter[str] = Counter()
        names = []
        for step in self.steps:
            name = kind_of(STEPS, step, "recipe")
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
        return tuple(names)

    @cached_property
    def waveform(self) -> tuple[tuple[str, StepConfig], ...]:
        """The steps that change recordings, with their names."""
        pairs = zip(self.names, self.steps, strict=True)
        return tuple((name, step) for name, step in pairs if isinstance(step, StepConfig))

    @property
    def online(self) -> tuple[str, ...]:
        """Names of the steps that work on features, in training alone; no files on disk can have them."""
        return tuple(
            name for name, step in zip(self.names, self.steps, strict=True) if not isinstance(step, StepConfig)
        )

    def refuse_online(self) -> None:
        """Raises if a step cannot be carried out on disk.

        Raises:
            ConfigError: naming the steps.
        """
        must(
            not self.online,
            "recipe",
            "of steps that change recordings, to be carried out on disk",
            value=list(self.online),
            hint="These change features, in training alone: take them out here, and name them under `data.augment`.",
        )

    def opened(self, rate: int) -> Self:
        """Returns the recipe itself after opening the sets its steps read, so that a mistake in one is told at once.

        Args:
            rate: samples per second of what is to be augmented.

        Raises:
            DataError: a set does not exist, or cannot be used.
        """
        for path in {path for _, step in self.waveform for path in step.files}:
            pool(path, rate)
        return self

    @property
    def tree(self) -> list[dict[str, Any]]:
        """The plain list that `parse` reads back, with all settings."""
        steps: list[dict[str, Any]] = encode(self)["steps"]
        return steps

    @cached_property
    def digest(self) -> str:
        """A hash of what the recipe does: names, settings, and what the manifests it names hold, wherever they lie.

        Raises:
            DataError: a manifest does not exist.
        """
        files = {name: file for name, step in self.waveform for file in step.files}
        sets = {name: held(file) for name, file in files.items()}
        tree = [
            [name, {**encode(step), **({"manifest": sets[name]} if name in sets else {})}]
            for name, step in zip(self.names, self.steps, strict=True)
        ]
        return hashlib.sha256(json.dumps([VERSION, tree]).encode()).hexdigest()[:16]


def augment(audio: Signal, rate: int, recipe: Recipe, *, seed: int, id: str, copy: int) -> Augmented:
    """Returns samples (S,) after each step in turn that acts, and what was drawn; equal arguments give equal samples.

    Steps that work on features are left to the features.

    Args:
        audio: (S,) float32 samples; never written to.
        rate: samples per second.
        recipe: what to apply.
        seed: of the run.
        id: of the utterance.
        copy: number of the copy on disk, or of the epoch in training, from 0.
    """
    drawn: Drawn = {}
    for name, step in recipe.waveform:
        rng = generator(name, seed=seed, id=id, copy=copy)
        if rng.random() < step.p and len(audio):
            audio, drawn[name] = step.draw(Clip(audio, rate, id), rng)
    return Augmented(audio, drawn)


def generator(name: str, *, seed: int, id: str, copy: int) -> np.random.Generator:
    """Returns the generator of one step for one copy of one utterance."""
    key = json.dumps([seed, id, copy, name]).encode()
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))
