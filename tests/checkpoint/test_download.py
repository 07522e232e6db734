"""Downloads take what was promised and nothing else; a break costs nothing. Servers here are on this machine."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from anemone.checkpoint.download import download
from anemone.errors import ArchiveError

DATA = bytes(range(256)) * 20_000  # 5 MB
PROMISE = {"size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}


class Handler(BaseHTTPRequestHandler):
    """Serves DATA in ways that the path names; keeps the ranges that were asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Range", ""))
        kind = self.path.strip("/").partition("/")[0]
        begin = int(self.asked[-1].removeprefix("bytes=").rstrip("-") or 0)
        if kind == "missing":
            self.send_error(404)
        elif kind == "file":
            self.redirect("file:///etc/hostname")
        elif kind == "moved":
            self.redirect("/good/x")
        elif kind == "ranges" and begin:
            self.send(206, DATA[begin:], {"Content-Range": f"bytes {begin}-{len(DATA) - 1}/{len(DATA)}"})
        elif kind == "ranges":
            self.send(200, DATA[: len(DATA) // 2], {"Content-Length": str(len(DATA))})  # and hangs up
        elif kind == "liar" and begin:
            self.send(206, DATA, {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"})
        elif kind == "long":
            self.send(200, DATA + bytes(20 << 20))
        elif kind == "wrong":
            self.send(200, DATA[::-1])
        else:
            self.send(200, DATA)

    def redirect(self, location: str) -> None:
        self.send_response(302)
        self.send_header("Location", location)
        self.end_headers()

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # when the client has had enough
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[tuple[str, list[str]]]:
    """Address, and the ranges that were asked for."""
    monkeypatch.setenv("no_proxy", "*")
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", Handler.asked
        http.shutdown()
        thread.join()


def test_a_file_is_fetched_whole(server, tmp_path, capsys):
    url = f"{server[0]}/good/x"
    download(url, tmp_path / "a" / "x", **PROMISE)
    assert (tmp_path / "a" / "x").read_bytes() == DATA
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x"]
    assert capsys.readouterr().err == f"Downloading {url} (5.1 MB)\n"


def test_a_redirection_is_followed(server, tmp_path):
    download(f"{server[0]}/moved/x", tmp_path / "x", **PROMISE)
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_broken_download_goes_on_where_it_broke(server, tmp_path):
    url = f"{server[0]}/ranges/x"
    with pytest.raises(ArchiveError, match=r"broke off after 2560000 of 5120000 bytes; a later try goes on there"):
        download(url, tmp_path / "x", **PROMISE)
    assert not (tmp_path / "x").exists()
    download(url, tmp_path / "x", **PROMISE)
    assert (tmp_path / "x").read_bytes() == DATA
    assert server[1] == ["", "bytes=2560000-"]


@pytest.mark.parametrize("kind", ["good", "liar"])
def test_a_server_that_cannot_go_on_starts_anew(server, tmp_path, kind):
    """It sends everything again, as such or under a wrong label."""
    (tmp_path / "x.part").write_bytes(DATA[:1000])
    download(f"{server[0]}/{kind}/x", tmp_path / "x", **PROMISE)
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_whole_part_needs_no_network(tmp_path):
    (tmp_path / "x.part").write_bytes(DATA)
    download("http://127.0.0.1:9/x", tmp_path / "x", **PROMISE)
    assert (tmp_path / "x").read_bytes() == DATA


def test_other_content_is_thrown_away(server, tmp_path):
    with pytest.raises(
        ArchiveError, match=rf"must have 5120000 bytes with SHA-256 {PROMISE['sha256']}, but 5120000 with"
    ):
        download(f"{server[0]}/wrong/x", tmp_path / "x", **PROMISE)
    assert not list(tmp_path.iterdir())


def test_too_much_is_not_taken(server, tmp_path):
    with pytest.raises(ArchiveError, match=r"must have 5120000 bytes .*, but \d{7} with"):
        download(f"{server[0]}/long/x", tmp_path / "x", **PROMISE)
    assert not list(tmp_path.iterdir())


def test_a_part_that_is_too_long_is_thrown_away(server, tmp_path):
    (tmp_path / "x.part").write_bytes(bytes(len(DATA) + 1))
    download(f"{server[0]}/ranges/x".replace("ranges", "good"), tmp_path / "x", **PROMISE)
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_refusal_is_told(server, tmp_path):
    with pytest.raises(ArchiveError, match=r"cannot be downloaded: .*Not Found"):
        download(f"{server[0]}/missing/x", tmp_path / "x", **PROMISE)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_only_http_is_spoken(tmp_path, url):
    with pytest.raises(ArchiveError, match=r"cannot be downloaded: unknown url type"):
        download(url, tmp_path / "x", **PROMISE)


def test_a_redirection_cannot_lead_to_a_file(server, tmp_path):
    with pytest.raises(ArchiveError, match=r"cannot be downloaded: .*file:///etc/hostname.*not allowed"):
        download(f"{server[0]}/file/x", tmp_path / "x", **PROMISE)
    assert not list(tmp_path.iterdir())


def test_without_a_network_the_place_is_named(tmp_path):
    with pytest.raises(
        ArchiveError, match=r"cannot be downloaded: .*refused.* put the file at `.*x`; a later try goes on"
    ):
        download("http://127.0.0.1:9/x", tmp_path / "x", **PROMISE)


def test_offline_nothing_is_asked(server, tmp_path, monkeypatch):
    monkeypatch.setenv("ANEMONE_OFFLINE", "1")
    with pytest.raises(ArchiveError, match=r"not in the cache, and ANEMONE_OFFLINE is set. Put the file at `.*x`"):
        download(f"{server[0]}/good/x", tmp_path / "x", **PROMISE)
    assert server[1] == []
