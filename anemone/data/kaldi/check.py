"""The rules of Kaldi's ``utils/validate_data_dir.sh``, without Kaldi."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from unicodedata import category

from anemone.data.problems import Problem
from anemone.errors import DataError

ILLEGAL = re.compile(r"(?<![A-Za-z0-9_])(?:<s>|</s>|#0)(?![A-Za-z0-9_])")
"""Words that mean something to Kaldi's graphs and may not stand in a text."""

UNSEEN = {"Cc", "Cn", "Cs"}  # categories of characters that no locale prints
BLANKS = " \t\x1c\x1d\x1e\x1f"  # the last four are white space to Python alone
OF_UTTERANCES = ("text", "feats.scp", "vad.scp", "utt2lang", "utt2uniq", "utt2warp", "utt2dur", "utt2num_frames")
OF_SPEAKERS = ("cmvn.scp", "spk2gender", "spk2warp")
OF_RECORDINGS = ("wav.scp", "reco2file_and_channel", "reco2dur")

Line = list[bytes]


def _number(text: bytes) -> float:
    """What awk takes for a number; others are 0."""
    match = re.match(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text)
    return float(match[0]) if match else 0.0


# table -> (what a line must be, whether words are it)
RULES: dict[str, tuple[str, Callable[[Line], bool]]] = {
    "utt2spk": ("utterance and speaker", lambda w: len(w) == 2),
    "segments": (
        "utterance, recording, begin and a later end",
        lambda w: len(w) == 4 and _number(w[3]) > _number(w[2]),
    ),
    "reco2file_and_channel": ("recording, file and A or B", lambda w: len(w) == 3 and w[2] in (b"A", b"B", b"1")),
    "wav.scp": (
        "a recording and a place that does not begin with ~",
        lambda w: len(w) > 1 and not w[1].startswith(b"~"),
    ),
    "spk2gender": ("speaker and m or f", lambda w: len(w) == 2 and w[1] in (b"m", b"f")),
    "spk2warp": ("speaker and a factor between 0.5 and 1.5", lambda w: len(w) == 2 and 0.5 < _number(w[1]) < 1.5),
    "utt2warp": ("utterance and a factor between 0.5 and 1.5", lambda w: len(w) == 2 and 0.5 < _number(w[1]) < 1.5),
    "utt2dur": ("utterance and seconds above 0", lambda w: len(w) == 2 and _number(w[1]) > 0),
    "reco2dur": ("recording and seconds above 0", lambda w: len(w) == 2 and _number(w[1]) > 0),
    "utt2num_frames": (
        "utterance and a whole number above 0",
        lambda w: len(w) == 2 and _number(w[1]) > 0 and _number(w[1]).is_integer(),
    ),
}


def check_kaldi(
    folder: str | Path, *, features: bool = False, wav: bool = True, text: bool = True, by_speaker: bool = True
) -> list[Problem]:
    """Returns what is wrong with a data directory by the rules of Kaldi's own script; nothing if it would pass.

    Args:
        folder: the data directory.
        features: whether ``feats.scp`` must be there (not ``--no-feats``).
        wav: whether ``wav.scp`` must.
        text: whether ``text`` must.
        by_speaker: whether the order of utterances must be that of speakers too (not ``--no-spk-sort``).

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"`{folder}` must be a data directory of Kaldi.")
    problems: list[Problem] = []

    def wrong(table: str, line: int, cause: str) -> None:
        problems.append(Problem(os.fspath(folder / table), line, cause))

    wanted = {"utt2spk": True, "spk2utt": True, "text": text, "wav.scp": wav, "feats.scp": features}
    for table, must in wanted.items():
        if must and not (folder / table).is_file():
            wrong(table, 0, "is not there")
    names = ("utt2spk", "spk2utt", "segments", *OF_UTTERANCES, *OF_SPEAKERS, *OF_RECORDINGS)
    tables = {name: _lines(folder / name, wrong) for name in names if (folder / name).is_file()}
    if "utt2spk" not in tables or "spk2utt" not in tables:
        return problems
    _check_speakers(tables, by_speaker, wrong)
    keys = {name: [words[0] for words in lines] for name, lines in tables.items()}
    recordings = sorted({words[1] for words in tables.get("segments", []) if len(words) > 1}) or keys["utt2spk"]
    if "segments" in keys and "wav.scp" not in keys:
        wrong("segments", 0, "needs a wav.scp")
    for tables_of, owner, whose in (
        (("segments", *OF_UTTERANCES), keys["utt2spk"], "the utterances of utt2spk"),
        (OF_SPEAKERS, keys["spk2utt"], "the speakers of spk2utt"),
        (
            OF_RECORDINGS,
            recordings,
            "the recordings of segments" if "segments" in keys else "the utterances of utt2spk",
        ),
    ):
        for name in tables_of:
            if name in keys and keys[name] != owner:
                wrong(name, _first_difference(keys[name], owner), f"must have {whose}, no more and no less")
    if "text" in tables:
        _check_text(folder / "text", wrong)
    return problems


Wrong = Callable[[str, int, str], None]


def _lines(path: Path, wrong: Wrong) -> list[Line]:
    """The words of each line; says what is wrong with order, line ends and words."""
    data = path.read_bytes()
    if not data:
        wrong(path.name, 0, "is empty")
    elif not data.endswith(b"\n"):
        wrong(path.name, data.count(b"\n") + 1, "must end with a line end")
    lines = [re.split(rb"[ \t]+", line.strip(b" \t")) for line in data.removesuffix(b"\n").split(b"\n")] if data else []
    for number, (before, words) in enumerate(zip([[b""], *lines], lines, strict=False), start=1):
        if words[0] <= before[0]:
            wrong(
                path.name, number, f"must come in the order of bytes, each key once, but `{_shown(words[0])}` does not"
            )
            break
    rule, holds = RULES.get(path.name, ("", lambda words: True))
    for number, words in enumerate(lines, start=1):
        if not holds(words):
            wrong(path.name, number, f"must be {rule}, but is `{_shown(b' '.join(words))}`")
            break
    return lines


def _check_speakers(tables: dict[str, list[Line]], by_speaker: bool, wrong: Wrong) -> None:
    """``utt2spk`` and ``spk2utt`` say the same, in an order that is that of speakers too."""
    pairs = [(words[-1], words[0]) for words in tables["utt2spk"]]
    if by_speaker and pairs != (ordered := sorted(pairs)):
        cause = "must be in the order of speakers too: let names of utterances begin with their speaker's"
        wrong("utt2spk", _first_difference(pairs, ordered), cause)
    others = [(words[0], utterance) for words in tables["spk2utt"] for utterance in words[1:]]
    if sorted(others) != sorted(pairs) or (by_speaker and others != pairs):
        wrong("spk2utt", 0, "must say the same as utt2spk")


def _check_text(path: Path, wrong: Wrong) -> None:
    """No word that means something to Kaldi, nothing unprintable, no white space but blanks and tabs."""
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            continue  # the script takes it for an older encoding
        if found := ILLEGAL.search(text):
            wrong("text", number, f"must not have the symbol `{found[0]}`")
        if unseen := next((c for c in text if category(c) in UNSEEN and not c.isspace()), None):
            wrong("text", number, f"must have characters that can be printed, but has U+{ord(unseen):04X}")
        if odd := next((c for c in text if c.isspace() and c not in BLANKS), None):
            wrong("text", number, f"must have no white space but blanks and tabs, but has U+{ord(odd):04X}")


def _first_difference(some: Sequence[object], others: Sequence[object]) -> int:
    """Number, from 1, of the first line that differs."""
    pairs: Iterable[tuple[object, object]] = zip(some, others, strict=False)
    return next((i for i, (one, other) in enumerate(pairs, start=1) if one != other), min(len(some), len(others)) + 1)


def _shown(word: bytes) -> str:
    return word[:60].decode("utf-8", "replace")
