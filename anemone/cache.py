"""Where things are kept that can be had again: downloads, indexes of manifests."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder for them: ``$ANEMONE_CACHE``, or ``~/.cache/anemone``."""
    return Path(os.environ.get("ANEMONE_CACHE") or Path.home() / ".cache" / "anemone")
