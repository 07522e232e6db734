"""The texts of manifests and of plain files, one by one."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from anemone.data.files import placed
from anemone.data.named_rows import read_source
from anemone.data.text import LINES, WHOLE, text_of
from anemone.errors import DataError


def read_texts(sources: Sequence[str | Path], field: str = "text") -> Iterator[str]:
    """Yields the texts of some sources, in their order.

    Args:
        sources: ``.txt``, a text a line; ``.jsonl`` or ``.json``, an object a line; or another source of utterances.
        field: the key of a text in an object.

    Raises:
        DataError: a file is missing or no text in UTF-8, or a line has no such text; names file and line.
    """
    for source in sources:
        path = Path(placed(source))
        if path.suffix not in (*WHOLE, *LINES):
            yield from read_source([source])[0].table["@target"].to_pylist()
            continue
        try:
            with path.open(encoding="utf-8-sig") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield line if path.suffix in WHOLE else _text(line, field, f"{path}:{number}")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"`{path}` must be a file of text in UTF-8 that exists: {error}.") from error


def _text(line: str, field: str, where: str) -> str:
    try:
        return text_of(line.encode(), field)
    except DataError as error:
        raise DataError(f"{where}: must be an object with a text `{field}`: {error}.") from error
