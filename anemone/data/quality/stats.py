"""What a data set holds, in numbers: hours, durations, alphabet, words, speakers, labels, and its recordings' headers.

Memory is bounded by the different words and speakers, not by the rows. Of recordings only headers are read, of so many
as are asked for, evenly spread over the set.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anemone.data.columns import Columns, slices, split_words
from anemone.data.manifest import Index
from anemone.data.quality.alphabet import alphabet, odd, shown
from anemone.errors import DataError

QUANTILES = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)
BINS = 20
TOP = 20  # words, speakers, labels that are listed
RARE = 10  # characters that come so often at most are shown with a row
HEADERS = 1000  # recordings whose headers are read, unless more are asked for


def stats(index: Index, *, headers: int = HEADERS, jobs: int = 2) -> dict[str, Any]:
    """Returns what a data set holds, plain enough for JSON.

    Args:
        index: the data set.
        headers: recordings to open, at most; those of the set if there are fewer.
        jobs: threads that open them.
    """
    columns = Columns(index)
    found: dict[str, Any] = {
        "rows": len(index),
        "left_out": len(index.problems),
        "hours": index.seconds / 3600,
        "fingerprint": index.fingerprint,
        "keys": sorted(index.columns),
        "duration": spread(columns["duration"].to_numpy()),
        "recordings": recordings(index, headers, jobs),
    }
    if "label" in columns:
        found["labels"] = groups(index, columns["label"])
    if "text" in columns:
        found |= texts(columns)
    if "speaker" in columns:
        found["speakers"] = groups(index, columns["speaker"])
    return found


def spread(values: npt.NDArray[Any]) -> dict[str, Any]:
    """Returns mean, quantiles and a histogram of numbers; the histogram leaves the outermost of a thousand aside."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return {"mean": None, "quantiles": {}, "histogram": {"edges": [], "counts": [], "below": 0, "above": 0}}
    quantiles = np.quantile(finite, QUANTILES)
    low, high = np.quantile(finite, 0.001, method="lower"), np.quantile(finite, 0.999, method="higher")
    counts, edges = np.histogram(finite, BINS, (low, high if high > low else low + 1))
    return {
        "mean": float(finite.mean()),
        "quantiles": {f"{q:g}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
        "histogram": {
            "edges": [float(edge) for edge in edges],
            "counts": [int(count) for count in counts],
            "below": int((finite < low).sum()),
            "above": int((finite > edges[-1]).sum()),
        },
    }


def texts(columns: Columns) -> dict[str, Any]:
    """Returns characters, words and rates of the texts."""
    characters = alphabet(columns["text"])
    strange = odd(characters)
    rare = {item.character: item.row for item in characters if item.times <= RARE}
    found = dict(zip(rare, columns.index.rows(list(rare.values())), strict=True))
    listed = [
        {"character": shown(item.character), "count": item.times}
        | ({"odd": strange[item.character]} if item.character in strange else {})
        | ({"source": row.source, "line": row.line} if (row := found.get(item.character)) else {})
        for item in characters
    ]
    return {
        "alphabet": listed,
        "words": vocabulary(columns["text"]),
        "chars": spread(columns["chars"].to_numpy()),
        "char_rate": spread(columns["char_rate"].to_numpy()),
        "word_rate": spread(columns["word_rate"].to_numpy()),
    }


def vocabulary(text: pa.ChunkedArray) -> dict[str, Any]:
    """Returns how many words there are, how many different ones, how many that come once, and the most frequent."""
    counts: Counter[str] = Counter()
    for piece in slices(len(text)):
        found = pc.value_counts(pc.list_flatten(split_words(text[piece])))
        counts.update(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))
    counts.pop("", None)
    counts.pop(None, None)  # type: ignore[call-overload]
    return {
        "number": counts.total(),
        "different": len(counts),
        "once": sum(number == 1 for number in counts.values()),
        "top": [{"word": word, "count": number} for word, number in counts.most_common(TOP)],
    }


def groups(index: Index, column: pa.ChunkedArray) -> dict[str, Any]:
    """Returns the values of a key with rows and hours, the largest first, and how many rows lack it."""
    if pa.types.is_nested(column.type):
        raise DataError(f"the key must be a text or a number, but is {column.type}.")
    table = pa.table({"value": column, "seconds": index.table["@duration"]})
    found = table.group_by("value").aggregate([("seconds", "sum"), ("seconds", "count")])
    found = found.filter(pc.is_valid(found["value"])).sort_by([("seconds_sum", "descending"), ("value", "ascending")])
    hours = pc.divide(found["seconds_sum"], 3600.0)
    return {
        "different": len(found),
        "missing": column.null_count,
        "hours": spread(hours.to_numpy()),
        "top": [
            {"name": str(name), "rows": rows, "hours": seconds / 3600}
            for name, seconds, rows in zip(
                *(found[key].slice(0, TOP).to_pylist() for key in ("value", "seconds_sum", "seconds_count")),
                strict=True,
            )
        ],
    }


def recordings(index: Index, headers: int, jobs: int) -> dict[str, Any]:
    """Returns rates, channels and formats of some recordings, evenly spread over the set, by their headers."""
    audio = index.table["@audio"]
    rows = np.unique(np.linspace(0, len(index) - 1, min(headers, len(index))).astype(np.int64))
    paths = list(dict.fromkeys(audio.take(pa.array(rows, pa.int64())).to_pylist()))
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(header, paths))
    counts = {name: Counter(item[name] for item in found if item) for name in ("rate", "channels", "format")}
    return {
        "opened": len(paths),
        "unreadable": sum(not item for item in found),
        **{name: dict(sorted(count.items(), key=lambda pair: -pair[1])) for name, count in counts.items()},
    }


def header(locator: str) -> dict[str, Any]:
    """Returns rate, channels and format of a recording; nothing if it cannot be opened."""
    import soundfile

    from anemone.data.locators import open_audio

    try:
        with soundfile.SoundFile(open_audio(locator)) as file:
            return {"rate": file.samplerate, "channels": file.channels, "format": f"{file.format} {file.subtype}"}
    except (soundfile.SoundFileError, OSError, DataError, TypeError, ValueError):
        return {}


def bars(histogram: dict[str, Any], width: int = 40) -> list[str]:
    """Returns a histogram as lines of text."""
    highest = max(histogram["counts"], default=0)
    edges, counts = histogram["edges"], histogram["counts"]
    return [
        f"{edges[i]:>9.3g} {'#' * round(width * count / highest) if highest else ''} {count:,}".rstrip()
        for i, count in enumerate(counts)
    ]
