"""NeMo's tarred sets: tars of recordings, and a manifest whose rows say by ``shard_id`` in which tar theirs is.

A source is the manifest, or the folder of ``tarred_audio_manifest.json``; tars lie beside it as ``audio_0.tar``, or
where ``MANIFEST?tars=PATTERN`` says. A row whose recording another row has too may have ``-sub1`` at its member's name.
"""

import functools
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from anemone.data.ids import file_stem
from anemone.data.jsonlines import SKIP
from anemone.data.locators import Locator, below, locate, name_of, read_audio
from anemone.data.problems import Problem
from anemone.data.sources import Utterance
from anemone.data.sources.jsonl import NAMES, made, rows, writing
from anemone.data.sources.lines import folder_of
from anemone.data.sources.names import expand
from anemone.data.sources.pieces import header, seconds
from anemone.data.sources.rows import MANIFEST, row_of, utterance
from anemone.data.tars import members
from anemone.errors import DataError

MANIFEST_NAME = "tarred_audio_manifest.json"
SHARDED = "sharded_manifests"  # folder of the manifests of single tars
TARS = "?tars="
PER_SHARD = 1000  # utterances of a tar
SUB = re.compile(r"-sub\d+(?=(\.\w+)?$)")
SHARD = "shard_id"


def is_tarred(row: Mapping[str, Any], folder: str) -> bool:
    """Whether a row of a manifest names a member of a tar, and no file that lies in, or below, a folder."""
    audio = next((row[key] for key in MANIFEST["audio"] if isinstance(row.get(key), str)), "")
    return isinstance(row.get(SHARD), int) and locate(audio).path == audio and not os.path.exists(below(folder, audio))


def read_tarred(path: str | Path) -> Iterator[Utterance | Problem]:
    """Yields the utterances of a tarred set, each with the place of its recording in a tar.

    Raises:
        DataError: a tar is not there, or none.
    """
    name, found, pattern = os.fspath(path).partition(TARS)
    if os.path.isdir(name):
        name = os.path.join(name, MANIFEST_NAME)
    folder = folder_of(name)
    tars = expand(below(folder, pattern)) if found else None
    for manifest in expand(name):
        for number, row in rows(manifest):
            if isinstance(row, Problem):
                yield row
            elif row.get(SKIP) not in (True, "true"):
                yield made(functools.partial(_utterance, row, folder, tars), manifest, number)


def tar_of(shard: int, folder: str, tars: list[str] | None) -> str:
    """Returns the tar of a shard: the one with its number in the name, of those given or of those in a folder.

    Raises:
        DataError: there is none, or there are several.
    """
    if tars is not None:
        numbered = [tar for tar in tars if _number(tar) == shard]
        if len(numbered) == 1:
            return numbered[0]
        if 0 <= shard < len(tars) and not numbered:
            return tars[shard]
        raise DataError(f"`shard_id` must be one of {len(tars)} tars, but is {shard} instead")
    found = _in_folder(folder).get(shard, [])
    if len(found) != 1:
        few = "none of them" if not found else f"{len(found)} of them"
        raise DataError(
            f"`shard_id` must be the number of a tar in `{folder}`, but {shard} is that of {few}. "
            f"Say which they are as `MANIFEST{TARS}audio_{{0..7}}.tar`"
        )
    return found[0]


@functools.lru_cache(maxsize=64)
def _in_folder(folder: str) -> dict[int, list[str]]:
    """The tars beside a manifest, or above a folder of sharded manifests, by number."""
    home = os.path.dirname(folder) if os.path.basename(folder) == SHARDED else folder
    found: dict[int, list[str]] = {}
    for path in sorted(Path(home).glob("*.tar")):
        found.setdefault(_number(path.name), []).append(os.fspath(path))
    return found


def _number(name: str) -> int:
    """The last number of a file's name; -1 if it has none."""
    numbers = re.findall(r"\d+", Path(name).stem)
    return int(numbers[-1]) if numbers else -1


@functools.lru_cache(maxsize=32)
def _places(tar: str) -> dict[str, tuple[int, int, str | None]]:
    """Members of a tar by name."""
    columns = [members(tar)[name].to_pylist() for name in ("name", "at", "size", "odd")]
    return {name: (at, size, odd) for name, at, size, odd in zip(*columns, strict=True)}


def _utterance(row: dict[str, Any], folder: str, tars: list[str] | None) -> Utterance:
    """The utterance of a row.

    Raises:
        ValueError: it has no place in a tar, or is wrong otherwise.
    """
    shard = row.get(SHARD)
    if not isinstance(shard, int):
        raise ValueError(f"`{SHARD}` must be the number of a tar, but is {shard!r} instead")
    key = next((key for key in MANIFEST["audio"] if row.get(key) is not None), MANIFEST["audio"][0])
    member = row.get(key)
    if not isinstance(member, str) or not member:
        raise ValueError(f"`{key}` must be the name of a member of a tar, but is {member!r} instead")
    tar = tar_of(shard, folder, tars)
    places = _places(tar)
    bare = member.removeprefix("./")
    names = (member, *(start + name for name in (bare, SUB.sub("", bare)) for start in ("", "./")))
    place = next((places[name] for name in names if name in places), None)
    if place is None:
        raise ValueError(f"`{key}` must be in `{tar}`, but {member!r} is not")
    if place[2]:
        raise ValueError(f"`{member}` in `{tar}` {place[2]}")
    made = utterance(row, folder, audio=str(Locator(tar, *place[:2])), without=(SHARD, SKIP))
    return made if row.get("id") is not None else made._replace(id=name_of(member, made.offset))


# --- out --------------------------------------------------------------------------------------------------------------


class _Shard(NamedTuple):
    """A tar that is being written.

    Attributes:
        members: of which name each recording is, and how many rows have it.
        lines: of its manifest.
    """

    file: io.BufferedWriter
    members: dict[str, list[Any]]
    lines: list[str]


def write_tarred(utterances: Iterable[Utterance], folder: str | Path, *, per_shard: int = PER_SHARD) -> list[Problem]:
    """Writes a tarred set; a recording is copied as it is, once into each tar whose utterances are of it."""
    home, problems = Path(folder), list[Problem]()
    (home / SHARDED).mkdir(parents=True, exist_ok=True)
    with writing(home / MANIFEST_NAME) as manifest:
        shard, number = None, 0
        for row, each in enumerate(utterances, start=1):
            if shard is None:
                shard = _Shard((home / f".audio_{number}.tar.tmp").open("wb"), {}, [])
            try:
                member = _member(shard, each)
                line = row_of(each._replace(duration=seconds(each)), member, NAMES) | {SHARD: number}
            except DataError as error:
                problems.append(Problem(os.fspath(folder), row, f"`{each.id}`: {error}"))
                continue
            if each.id == name_of(member, each.offset):
                del line["id"]
            shard.lines.append(json.dumps(line, ensure_ascii=False) + "\n")
            if len(shard.lines) == per_shard:
                manifest.writelines(_finish(shard, home, number))
                shard, number = None, number + 1
        if shard is not None:
            manifest.writelines(_finish(shard, home, number))
    return problems


def _member(shard: _Shard, each: Utterance) -> str:
    """Puts a recording into a tar, if it is not there, and returns the name that the manifest has for it."""
    found = shard.members.get(each.audio)
    if found is None:
        ending = header(each.audio).suffix
        data = read_audio(each.audio)
        stem = file_stem(name_of(locate(each.audio).member or each.audio, 0) if "?" not in each.audio else each.id)
        taken = {name for name, _, _ in shard.members.values()}
        stem = stem if stem + ending not in taken else f"{stem}-{len(taken)}"
        info = tarfile.TarInfo(stem + ending)
        info.size, info.mode = len(data), 0o644
        shard.file.write(info.tobuf(tarfile.GNU_FORMAT))
        shard.file.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
        found = shard.members[each.audio] = [stem + ending, stem, 0]
    name, stem, count = found
    found[2] += 1
    return str(name) if not count else f"{stem}-sub{count}{Path(name).suffix}"


def _finish(shard: _Shard, home: Path, number: int) -> list[str]:
    """Moves a tar into its place, writes its manifest and returns the lines."""
    with shard.file as file:
        file.write(bytes(2 * tarfile.BLOCKSIZE))
    os.replace(file.name, home / f"audio_{number}.tar")
    with writing(home / SHARDED / f"manifest_{number}.json") as manifest:
        manifest.writelines(shard.lines)
    return shard.lines
