"""Fetch Debian packages by name and unpack them; needs `apt-get` and `dpkg`, so a Debian or Ubuntu machine."""

import subprocess
from pathlib import Path


def unpack(package: str, folder: Path) -> None:
    """Download a package and unpack it into `folder`, unless its documentation is there already."""
    if not (folder / "usr/share/doc" / package).exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", archive.name, "."], cwd=folder, check=True)
        archive.unlink()
