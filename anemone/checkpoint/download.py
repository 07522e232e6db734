"""Downloads over HTTP: no more than promised, gone on with after a break, in place only once they are right."""

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from anemone.checkpoint.atomic import fsync
from anemone.errors import ArchiveError

TIMEOUT = 30.0  # seconds without a byte
BLOCK = 1 << 20
# No other handlers: an address, or what it redirects to, must never open a local file.
HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)


def offline() -> bool:
    """Whether the user forbade the network by ``ANEMONE_OFFLINE=1``."""
    return os.environ.get("ANEMONE_OFFLINE", "") not in {"", "0"}


def download(url: str, target: Path, *, size: int, sha256: str) -> None:
    """Fetches a file of known size and hash.

    The bytes gather in ``NAME.part`` beside the target; what an earlier try left there is kept and gone on with.

    Raises:
        ArchiveError: no network, the server says no, or the content is another than promised.
    """
    if offline():
        raise ArchiveError(f"`{url}` is not in the cache, and ANEMONE_OFFLINE is set. Put the file at `{target}`.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    try:
        if not part.exists() or part.stat().st_size < size:
            print(f"Downloading {url} ({size / 1e6:.1f} MB)", file=sys.stderr)
            _fetch(url, part, size)
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ArchiveError(
            f"`{url}` cannot be downloaded: {reason}. Without a network, put the file at `{target}`;"
            f" a later try goes on after {part.stat().st_size if part.exists() else 0} bytes."
        ) from error
    with part.open("rb") as file:
        found = part.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    if found[0] < size:
        raise ArchiveError(f"`{url}` broke off after {found[0]} of {size} bytes; a later try goes on there.")
    if found != (size, sha256):
        part.unlink()
        raise ArchiveError(
            f"`{url}` must have {size} bytes with SHA-256 {sha256}, but {found[0]} with {found[1]} came instead."
        )
    fsync(part)
    os.replace(part, target)
    fsync(target.parent)


def _fetch(url: str, part: Path, size: int) -> None:
    """Appends what is missing, and not more than one block too much."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "anemone"}
    if have:
        headers["Range"] = f"bytes={have}-"
    opener = urllib.request.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT and _begin(response) == have
        with part.open("ab" if goes_on else "wb") as file:
            while file.tell() <= size and (block := response.read(BLOCK)):
                file.write(block)


def _begin(response: Any) -> int:
    """First byte that a partial answer gives, of "bytes 100-199/200"."""
    words = (response.headers.get("Content-Range") or "").removeprefix("bytes ")
    begin = words.partition("-")[0]
    return int(begin) if begin.isdigit() else -1
