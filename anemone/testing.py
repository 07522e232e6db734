"""Helpers for tests, ours and yours: a bit of speech, small tasks, and processes that train together."""

import functools
import json
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from anemone.data.audio import Recordings, Signal
from anemone.parallel.processes import run_ranks as run_ranks
from anemone.tasks import rebuild
from anemone.tasks.task import Task

WORDS = Path(__file__).parent / "assets" / "telephone_words"

LETTERS = " abcdefghijklmnopqrstuvwxyz'"
TINY: dict[str, dict[str, Any]] = {
    "classification": {"labels": ["yes", "no", "stop"]},
    "recognition": {"tokenizer": {"kind": "characters", "characters": list(LETTERS)}},
    "language_modelling": {"tokenizer": {"kind": "bytes"}},
    "pretraining": {"num_codes": 16, "d_code": 4},
}
SMALL_LLAMA = {"kind": "llama", "size": "tiny", "d_model": 24, "d_head": 8, "d_ff": 48, "tie_embeddings": True}
SMALL_NET = {
    "kind": "quartznet",
    "size": "custom",
    "blocks": [
        {"d_model": 32, "kernel": 11, "stride": 2},
        {"d_model": 32, "kernel": 13, "repeat": 2, "residual": True},
        {"d_model": 48, "kernel": 1, "separable": False},
    ],
}


def speech(seconds: float = 1.0, *, rate: int = 16_000, seed: int = 0) -> Signal:
    """Returns recorded human speech: words of the embedded recordings, one after the other.

    Args:
        seconds: how long.
        rate: samples per second.
        seed: which word is first; the same seed gives the same samples.

    Returns:
        (S,) float32 in [-1, 1].
    """
    rows, recordings = _words(), _recordings(rate)
    wanted, pieces = round(seconds * rate), [np.zeros(0, np.float32)]
    number = int(np.random.default_rng(seed).integers(len(rows)))
    while sum(len(piece) for piece in pieces) < wanted:
        row = rows[number % len(rows)]
        pieces.append(recordings.piece(WORDS / row["audio_filepath"], row["offset"], row["duration"]))
        number += 1
    return np.concatenate(pieces)[:wanted]


@functools.cache
def _words() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (WORDS / "test.jsonl").read_text("utf-8").splitlines()]


@functools.cache
def _recordings(rate: int) -> Recordings:
    return Recordings(rate, cache_mb=64)


def free_port() -> int:
    """Returns a port of this machine that nobody listens on, below those that systems hand out unasked."""
    while True:
        port = secrets.choice(range(15_000, 30_000))
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def tiny(
    kind: Literal["classification", "recognition", "language_modelling", "pretraining"] = "classification",
    *,
    seed: int = 0,
) -> Task:
    """Builds a task that is ready to use and knows nothing: some ten thousand random weights, evaluation mode.

    Args:
        kind: a kind of `anemone.tasks.TASKS`. The classifier knows "yes", "no" and "stop", the recogniser the letters,
            the language model bytes; pre-training guesses 16 codes.
        seed: of the weights; torch's generator is left as it was.
    """
    speech = {"model": SMALL_NET, "features": {"kind": "log_mel", "num_mels": 32}}
    parts = {"model": SMALL_LLAMA} if kind == "language_modelling" else speech
    tree = {"task": {"kind": kind, **TINY[kind]}, **parts}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return rebuild(tree).eval()
