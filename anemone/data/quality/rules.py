"""The rules a data set is held against: how bad it is to break each, what it says, and what to do about it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")  # the worst first


class Rule(NamedTuple):
    """A rule.

    Attributes:
        severity: "error" for rows that cannot or must not be used, "warning" for what should be looked at.
        what: what is wrong with a row that breaks it.
        fix: what to do.
    """

    severity: Severity
    what: str
    fix: str


class Found(NamedTuple):
    """The rows of one set that break a rule.

    Attributes:
        rule: its name.
        rows: (K,) int64 numbers.
        values: (K,) what is told of each.
        say: makes a detail of a value.
    """

    rule: str
    rows: npt.NDArray[np.int64]
    values: Any
    say: Callable[[Any], str] = str


LIMITS = {
    "rate_z": 5.0,  # robust z-score of the logarithm of characters per second
    "rate_factor": 1.5,  # that the rate must be away from the median besides
    "rate_rows": 20.0,  # texts below which there are too few to say what is usual
    "key_share": 0.9,  # of the rows that have a key, from which on the others lack it
    "tolerance_s": 0.1,  # that a duration may be off, and
    "tolerance": 0.01,  # this share of it
    "full_scale": 0.99,  # from which on three samples in a row are clipped
    "clipped": 2e-4,  # share of the samples
    "silent_db": -60.0,  # root mean square, of full scale
    "quiet_db": -45.0,
    "dc": 0.02,  # mean of the samples
    "near_bits": 3.0,  # of 64 in which outlines of loudness of near duplicates differ at most
}

RULES = {
    "unusable-line": Rule("error", "the line cannot be read, or lacks a key", "mend or remove the line"),
    "duplicate-piece": Rule("error", "the same piece of the same recording was there before", "remove one of them"),
    "duplicate-id": Rule("error", "the id was there before", "give each row an id of its own"),
    "missing-key": Rule("warning", "a key that nearly all rows have is missing", "add it, or remove it from all"),
    "empty-text": Rule("warning", "the text is empty", "write down what is said, or remove the row"),
    "odd-character": Rule("warning", "a character looks like a mistake", "replace it in the text"),
    "not-normalised": Rule(
        "warning", "the text is not in Unicode's form NFC", "normalise it, for one letter to be one"
    ),
    "untidy-space": Rule("info", "white space at an end, or several in a row", "make it single spaces"),
    "duplicate-text": Rule("info", "the same text was there before", "see whether it is read again on purpose"),
    "speaking-rate": Rule(
        "warning",
        "characters per second are far from the usual: robust z-score of their logarithm beyond 5, and 1.5 times off",
        "listen: the text may be of another recording, or the piece cut wrongly",
    ),
    "missing-file": Rule("error", "there is no such recording", "mend the path"),
    "undecodable": Rule("error", "the recording cannot be decoded", "fetch it again, or remove the row"),
    "empty-audio": Rule("error", "the recording holds no samples there", "fetch it again, or mend the offset"),
    "truncated": Rule("error", "the file ends before its own header says so", "fetch it again"),
    "not-finite": Rule("error", "samples are no numbers", "make the recording again"),
    "shorter-than-declared": Rule("error", "there is less audio than the duration says", "mend duration or offset"),
    "longer-than-declared": Rule("warning", "the file goes on after the duration", "mend the duration"),
    "other-rate": Rule("warning", "the rate differs from what is declared, or else from most", "mend or resample"),
    "channels": Rule("warning", "there are several channels, which are averaged", "choose one: `data.channel`"),
    "clipped": Rule("warning", "samples in a row lie at full scale", "record lower, or remove the row"),
    "silent": Rule("warning", "the level is below -60 dB of full scale", "see whether anything is to be heard"),
    "quiet": Rule("info", "the level is below -45 dB of full scale", "see whether it was recorded as it should be"),
    "dc-offset": Rule("warning", "the mean of the samples is far from 0", "filter it out: a high-pass does"),
    "duplicate-audio": Rule("warning", "the same samples were there before", "remove one of them"),
    "near-duplicate-audio": Rule("info", "loudness goes up and down as in a row before", "listen to both"),
    "speaker-in-sets": Rule(
        "warning", "the speaker is in another set as well", "split again: `data split --by speaker`"
    ),
    "text-in-sets": Rule("info", "the text is in another set as well", "see whether a test on it is fair"),
    "piece-in-sets": Rule("error", "the same piece of the same recording is in another set", "remove it from one"),
    "audio-in-sets": Rule("error", "the same samples are in another set", "remove them from one"),
}
