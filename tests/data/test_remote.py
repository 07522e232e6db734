"""Recordings at URLs: read once and kept, tried again where the way there fails, never kept in part."""

import json
import re
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from anemone.cache import cache_folder
from anemone.data import remote
from anemone.data.audio import Recordings, load_audio
from anemone.data.loader import Loader, SpeechDataConfig
from anemone.data.manifest import Index
from anemone.data.plan import PlanConfig
from anemone.data.tars import member
from anemone.errors import DataError
from anemone.testing import speech


class Server(ThreadingHTTPServer):
    """Serves a folder on this machine, badly: each path may fail in a way, a number of times."""

    folder: Path
    asked: Counter[str]
    failures: dict[str, tuple[str, int]]


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.server.folder / self.path.lstrip("/")
        kind, left = self.server.failures.get(self.path, ("", 0))
        if body and left:
            self.server.failures[self.path] = kind, left - 1
        if not path.is_file() or (body and left and kind == "error"):
            self.send_response(503 if path.is_file() else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content, status = path.read_bytes(), 200
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            content, status = content[int(found[1]) : int(found[2]) + 1 if found[2] else None], 206
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if left and kind == "cut" else content)
            self.close_connection = bool(left)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("ANEMONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.01))
    folder = tmp_path / "served"
    folder.mkdir()
    with Server(("127.0.0.1", 0), Handler) as serving:
        serving.folder, serving.asked, serving.failures = folder, Counter(), {}
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def url(server: Server, name: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


def kept() -> list[Path]:
    return [path for path in (cache_folder() / "remote").rglob("*") if path.is_file()]


def test_a_recording_is_asked_for_once(server):
    soundfile.write(server.folder / "a.flac", speech(1.0), 16_000)
    first = load_audio(url(server, "a.flac"), offset=0.25, duration=0.5)
    assert np.array_equal(first, load_audio(server.folder / "a.flac", offset=0.25, duration=0.5))
    asked = server.asked["/a.flac"]
    assert np.array_equal(load_audio(url(server, "a.flac"), offset=0.25, duration=0.5), first)
    assert server.asked["/a.flac"] == asked and len(kept()) == 1


@pytest.mark.parametrize("kind", ["error", "cut"])
def test_a_failure_is_tried_again_and_never_kept(kind, server):
    soundfile.write(server.folder / "a.wav", speech(1.0), 16_000)
    server.failures["/a.wav"] = kind, 2
    assert len(load_audio(url(server, "a.wav"))) == 16_000
    soundfile.write(server.folder / "b.wav", speech(1.0), 16_000)
    server.failures["/b.wav"] = kind, 99
    with pytest.raises(DataError, match=r"`http://.*/b\.wav` cannot be fetched: "):
        load_audio(url(server, "b.wav"))
    assert 97 >= server.failures["/b.wav"][1] >= 90
    (only,) = kept()
    assert only.read_bytes() == (server.folder / "a.wav").read_bytes()


def test_what_does_not_exist_is_asked_for_once(server):
    with pytest.raises(DataError, match=r"none\.wav` cannot be fetched: FileNotFoundError"):
        load_audio(url(server, "none.wav"))
    assert server.asked["/none.wav"] <= 1 and not kept()


def test_of_a_tar_only_a_member_is_fetched(server):
    soundfile.write(server.folder / "a.wav", speech(1.0), 16_000)
    with tarfile.open(server.folder / "x.tar", "w") as tar:
        tar.add(server.folder / "a.wav", "first.wav")
        tar.add(server.folder / "a.wav", "second.wav")
    place = member(server.folder / "x.tar", "second.wav")._replace(path=url(server, "x.tar"))
    assert np.array_equal(load_audio(str(place)), load_audio(server.folder / "a.wav"))
    (only,) = kept()
    assert only.stat().st_size == place.size
    beyond = place._replace(size=10**15)
    with pytest.raises(DataError, match=r"x\.tar` cannot be fetched: EOFError: \d+ of 10{15} bytes arrived"):
        load_audio(str(beyond))
    assert kept() == [only]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("protocol", ["http", "memory"])
def test_a_set_at_urls_is_read_like_one_on_disk(protocol, workers, server, tmp_path, caplog):
    memory = fsspec.filesystem("memory")
    rows = []
    for i in range(6):
        soundfile.write(server.folder / f"{i}.flac", speech(0.5, seed=i), 16_000)
        memory.pipe(f"/set/{i}.flac", (server.folder / f"{i}.flac").read_bytes())
        rows.append({"duration": 0.5, "text": str(i)})
    server.failures |= {"/1.flac": ("cut", 1), "/2.flac": ("error", 1)}
    places = [url(server, f"{i}.flac") if protocol == "http" else f"memory://set/{i}.flac" for i in range(7)]
    rows.append({"duration": 0.5, "text": "6"})  # is not there
    lines = [json.dumps({"audio_filepath": place} | row) for place, row in zip(places, rows, strict=True)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    index = Index.read([tmp_path / "m.jsonl"], target="text")
    config = SpeechDataConfig(plan=PlanConfig(batch_size=2), num_workers=workers, cache_mb=0)
    loader = Loader(index, config, lambda text: [int(text)], training=True)
    for _ in range(2):
        clips = {
            row: audio for step in loader for b in step for row, audio in zip(b.rows.tolist(), b.audio, strict=True)
        }
        assert sorted(clips) == [0, 1, 2, 3, 4, 5]
    for row, clip in clips.items():
        assert np.array_equal(clip.numpy(), Recordings(16_000).piece(server.folder / f"{row}.flac"))
    assert [problem.line for problem in loader.problems] == [7]
    assert "6.flac` cannot be fetched" in loader.problems[0].cause
