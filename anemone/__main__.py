"""``python -m anemone`` is the command ``anemone``."""

import sys

from anemone.cli import main

sys.exit(main())
