"""Which format a data set is in: told from names, and from the first row where names do not say."""

import os
from pathlib import Path

from anemone.data.jsonlines import parsed
from anemone.data.locators import is_url
from anemone.data.sources import SOURCES
from anemone.data.sources.lhotse import is_cut
from anemone.data.sources.lines import folder_of, lines, pieces
from anemone.data.sources.names import expand
from anemone.data.sources.shar import CUTS
from anemone.data.sources.tables import METADATA
from anemone.data.sources.tarred import MANIFEST_NAME, TARS, is_tarred
from anemone.errors import DataError

KALDI = ("wav.scp", "feats.scp")
JSON = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz", ".gz")
MAGIC = b"PAR1"  # what parquet files begin with
SAY = "Say which it is: one of " + ", ".join(SOURCES) + "."


def detect(path: str | Path) -> str:
    """Returns the name of the format of a data set.

    Raises:
        DataError: there is no such file or folder, or it cannot be told.
    """
    text = os.fspath(path)
    if TARS in text:
        return "tarred"
    if os.path.isdir(text):
        return _folder(Path(text))
    name = expand(text)[0]
    if not is_url(name) and not os.path.isfile(name):
        raise DataError(f"`{name}` must be a data set that exists.")
    return _by_name(Path(name).name) or _by_row(name)


def detect_target(path: str | Path) -> str:
    """Returns the format that a name to write asks for.

    Raises:
        DataError: it cannot be told, as of a folder.
    """
    name = Path(path).name
    if name.endswith((".jsonl", ".jsonl.gz")) and "cuts" in name.split(".")[0].split("_"):
        return "lhotse"
    if found := _by_name(name) or ("jsonl" if name.endswith(JSON[:-1]) else None):
        return found
    raise DataError(f"`{path}` does not say in which format it shall be. {SAY}")


def _by_name(name: str) -> str | None:
    """The format of a file, where its name tells."""
    if name.endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz")):
        return "csv"
    return "parquet" if name.endswith(".parquet") else None


def _by_row(path: str) -> str:
    """The format of a file of JSON lines: the first one that is an object tells."""
    if not path.endswith(JSON):
        if next(pieces(path), b"").startswith(MAGIC):
            return "parquet"
        raise DataError(f"`{path}` is in no format that its name tells. {SAY}")
    for number, line in lines(path):
        try:
            row = parsed(line)
        except ValueError:
            if number > 100:
                break
            continue
        return "lhotse" if is_cut(row) else "tarred" if is_tarred(row, folder_of(path)) else "jsonl"
    return "jsonl"


def _folder(path: Path) -> str:
    """The format of a folder."""
    names = {entry.name for entry in os.scandir(path)}
    if names & set(KALDI):
        return "kaldi"
    if any(CUTS.fullmatch(name) for name in names):
        return "shar"
    if MANIFEST_NAME in names:
        return "tarred"
    if names & set(METADATA) or any(next(path.glob(f"*/{name}"), None) for name in METADATA):
        return "audiofolder"
    if next(path.rglob("*.parquet"), None):
        return "parquet"
    if next(path.rglob("*.trans.txt"), None):
        return "librispeech"
    raise DataError(f"`{path}` is a folder in no format that can be told from what is in it. {SAY}")
