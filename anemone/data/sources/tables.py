"""Tables: CSV and TSV with a header, such as Common Voice's, and Hugging Face's folders of audio with metadata."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from anemone.data.ids import file_stem
from anemone.data.jsonlines import text_of
from anemone.data.locators import below, is_url, name_of, relative
from anemone.data.problems import Problem
from anemone.data.sources import Utterance
from anemone.data.sources.jsonl import made, rows, writing
from anemone.data.sources.lines import folder_of, pieces
from anemone.data.sources.names import expand
from anemone.data.sources.pieces import as_file, piece, put, seconds
from anemone.data.sources.rows import TABLE, row_of, utterance
from anemone.errors import DataError

CLIPS = "clips"  # folder of the recordings beside Common Voice's tables
METADATA = ("metadata.csv", "metadata.jsonl")
FILE = "file_name"
CSV = {"id": "id", "audio": "path", "offset": "offset", "duration": "duration", "text": "text", "label": "label"}
CSV |= {"speaker": "speaker", "channel": "channel"}
TSV = CSV | {"text": "sentence", "speaker": "client_id"}  # as Common Voice names them
FOLDER = CSV | {"audio": FILE, "text": "transcription"}
AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aiff", ".au")


def read_csv(path: str | Path) -> Iterator[Utterance | Problem]:
    """Yields the rows of a table, or of all that a pattern names; an empty cell is as if it was not there.

    Raises:
        DataError: a table has no header with a column of paths.
    """
    for name in expand(os.fspath(path)):
        folder = folder_of(name)
        make = partial(_clip if os.path.isdir(os.path.join(folder, CLIPS)) else utterance, folder=folder, keys=TABLE)
        for number, row in table(name):
            yield row if isinstance(row, Problem) else made(partial(make, row), name, number)


def _clip(row: dict[str, Any], folder: str, keys: Mapping[str, Sequence[str]]) -> Utterance:
    """A row's utterance; Common Voice's paths lead from a folder of clips, old ones without an ending."""
    key = next((key for key in keys["audio"] if row.get(key) is not None), None)
    path = row[key] if key else None
    if isinstance(path, str) and not is_url(path) and "\0" not in path and not os.path.isabs(path):
        clip = os.path.join(folder, CLIPS, path)
        clip = clip if os.path.exists(clip) or not os.path.exists(clip + ".mp3") else clip + ".mp3"
        return utterance(row, folder, keys, audio=clip if os.path.exists(clip) else below(folder, path))
    return utterance(row, folder, keys)


def table(path: str) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """Yields the rows of a table with the numbers of their lines; texts may be empty, no other cell.

    Raises:
        DataError: it has no header with a column of paths.
    """
    text = io.TextIOWrapper(io.BufferedReader(_Pieces(pieces(path))), "utf-8-sig", errors="strict", newline="")
    first = text.readline()
    tabs = ".tsv" in Path(path).name or (path.endswith(".txt") and "\t" in first)
    mark = "\t" if tabs else max(",;\t|", key=first.count)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    header = next(csv.reader([first], delimiter=mark, quoting=quoting), [])
    if not set(header) & set(TABLE["audio"]):
        names = ", ".join(f"`{name}`" for name in TABLE["audio"][:5])
        raise DataError(f"{path}:1: must be a header with a column of paths, such as {names}, but is {first[:200]!r}.")
    reader = csv.reader(text, delimiter=mark, quoting=quoting, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num + 1, Problem(path, reader.line_num + 1, f"is no row of a table: {error}")
            continue
        except UnicodeDecodeError as error:
            yield reader.line_num + 2, Problem(path, reader.line_num + 2, f"is not Unicode text: {error}; reading ends")
            return
        if not cells:
            continue
        if len(cells) != len(header):
            cause = f"must have {len(header)} cells, as the header, but has {len(cells)} instead"
            yield reader.line_num + 1, Problem(path, reader.line_num + 1, cause)
            continue
        row = {name: cell for name, cell in zip(header, cells, strict=True) if cell or name in TABLE["text"]}
        yield reader.line_num + 1, row


class _Pieces(io.RawIOBase):
    """A file of pieces."""

    def __init__(self, found: Iterator[bytes]) -> None:
        self._found, self._rest = found, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._rest = self._rest or next(self._found, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def write_csv(utterances: Iterable[Utterance], path: str | Path) -> list[Problem]:
    """Writes a table; a .tsv has Common Voice's names. Recordings in tars and parquet files are copied to ``clips``."""
    target, problems, found = Path(path), list[Problem](), list[dict[str, Any]]()
    tabs = ".tsv" in target.name
    clips = target.parent / CLIPS
    for number, each in enumerate(utterances, start=1):
        try:
            audio = each.audio if is_url(each.audio) and "?" not in each.audio else as_file(each.audio, clips)
            home = clips if tabs and os.path.dirname(audio) == os.path.abspath(clips) else target.parent
            row = row_of(each, relative(home, audio), TSV if tabs else CSV)
            if tabs and any(set("\t\r\n") & set(str(text_of(value))) for value in row.values()):
                raise DataError("a .tsv has no place for tabs and line ends: write a .csv.")
        except DataError as error:
            problems.append(Problem(os.fspath(path), number, f"`{each.id}`: {error}"))
        else:
            if each.id == name_of(audio, each.offset):
                del row["id"]
            found.append(row)
    names = list((TSV if tabs else CSV).values())
    _write_table(target, found, names, tabs)
    return problems


def _write_table(target: Path, found: Sequence[Mapping[str, Any]], names: Sequence[str], tabs: bool) -> None:
    """Writes rows below the names that any of them has: some first, in their order, then others."""
    present = dict.fromkeys(name for row in found for name in row)
    header = [name for name in names if name in present or name == "path"] + [n for n in present if n not in names]
    with writing(target) as file:
        returns = any(
            "\r" in (text_of(value) or "") for row in found for value in row.values()
        )  # which go unquoted otherwise
        quoting: Literal[0, 1, 3] = csv.QUOTE_NONE if tabs else csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        out = csv.writer(
            file, delimiter="\t" if tabs else ",", quoting=quoting, quotechar=None if tabs else '"', lineterminator="\n"
        )
        out.writerow(header)
        out.writerows([text_of(row.get(name)) for name in header] for row in found)


# --- folders of audio -------------------------------------------------------------------------------------------------


def metadata(folder: str | Path) -> list[Path]:
    """Returns the tables of a folder of audio: its own, or those of the folders in it."""
    home = Path(folder)
    own = [home / name for name in METADATA if (home / name).is_file()]
    return own or sorted(path for name in METADATA for path in home.glob(f"*/{name}"))


def read_audiofolder(folder: str | Path) -> Iterator[Utterance | Problem]:
    """Yields the utterances of a folder with metadata.csv or metadata.jsonl; without, labels are names of folders."""
    found = metadata(folder)
    for path in found:
        lines = table(os.fspath(path)) if path.suffix == ".csv" else rows(os.fspath(path))
        for number, row in lines:
            if isinstance(row, Problem):
                yield row
            else:
                yield made(partial(_inside, row, path.parent), os.fspath(path), number)
    if not found:
        for path in sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO):
            audio = os.path.abspath(path)
            yield Utterance(name_of(audio, 0), audio, label=path.parent.name)


def _inside(row: dict[str, Any], folder: Path) -> Utterance:
    """The utterance of a row whose file lies in its folder.

    Raises:
        ValueError: it does not, or the row is wrong otherwise.
    """
    name = row.get(FILE)
    if not isinstance(name, str) or not name or is_url(name) or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"`{FILE}` must be the path of a file inside the folder, but is {name!r} instead")
    names = {**TABLE, "text": ("transcription", *TABLE["text"])}
    return utterance(
        row, os.path.abspath(folder), names, audio=os.path.join(os.path.abspath(folder), name), without=(FILE,)
    )


def write_audiofolder(utterances: Iterable[Utterance], folder: str | Path) -> list[Problem]:
    """Writes a folder that Hugging Face's datasets read; each utterance becomes a file of its own."""
    home, problems = Path(folder), list[Problem]()
    with writing(home / "metadata.jsonl") as file:
        for number, each in enumerate(utterances, start=1):
            try:
                length = seconds(each)
                data, ending = piece(each._replace(duration=length))
                name = f"data/{file_stem(each.id)}{ending}"
                put(home / name, data)
            except DataError as error:
                problems.append(Problem(os.fspath(folder), number, f"`{each.id}`: {error}"))
                continue
            row = row_of(each._replace(offset=0.0, duration=length, channel=None), name, FOLDER)
            file.write(json.dumps({FILE: row.pop(FILE), **row}, ensure_ascii=False) + "\n")
    return problems
