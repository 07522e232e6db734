"""Measure a data set: hours, durations, rates, alphabet, words, speakers, labels.

  anemone data stats SOURCE...

Several sources are one set; `--each` measures them one by one. Of recordings only headers are read, of 1,000 at most
unless `--headers` says otherwise.
"""

import argparse
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    from anemone.cli import positive

    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="manifests, or other data sets")
    parser.add_argument("--each", action="store_true", help="measure each source by itself")
    parser.add_argument("--json", action="store_true", help="print one JSON object a set")
    parser.add_argument("--headers", type=int, default=1000, metavar="N", help="recordings to open (default 1000)")
    parser.add_argument("--jobs", type=positive, default=4, metavar="N", help="threads that open them (default 4)")


def run(args: argparse.Namespace) -> int:
    """Prints the numbers."""
    import json

    from anemone.config import must
    from anemone.data.columns import opened
    from anemone.data.quality.stats import stats

    must(args.headers >= 0, "--headers", "0 or more", value=args.headers)
    for number, sources in enumerate([[source] for source in args.sources] if args.each else [args.sources]):
        found = {"sources": sources, **stats(opened(sources), headers=args.headers, jobs=args.jobs)}
        if args.json:
            print(json.dumps(found, ensure_ascii=False))
        else:
            print(("\n" if number else "") + text(found))
    return 0


def text(found: dict[str, Any]) -> str:
    """Returns numbers as a person reads them."""
    from anemone.cli.recordings import CONTROLS
    from anemone.cli.table import table
    from anemone.data.quality.stats import bars

    left_out = f", {found['left_out']:,} left out" if found["left_out"] else ""
    parts = [f"{', '.join(found['sources'])}: {found['rows']:,} rows{left_out}, {found['hours']:.2f} h"]
    shown = {"duration": "seconds", "chars": "characters", "char_rate": "characters/s", "word_rate": "words/s"}
    spreads = [
        {"": label, "mean": found[key]["mean"], **{_percent(q): v for q, v in found[key]["quantiles"].items()}}
        for key, label in shown.items()
        if key in found
    ]
    parts.append(table(spreads))
    parts.append("\n".join(["seconds", *bars(found["duration"]["histogram"])]))
    parts += [table(rows) for rows in _tables(found) if rows]
    if "words" in found:
        words, letters = found["words"], found["alphabet"]
        top = ", ".join(f"{item['word']} {item['count']:,}" for item in words["top"][:10])
        parts.append(
            f"{words['number']:,} words, {words['different']:,} different, {words['once']:,} once; most often {top}"
        )
        parts.append(f"{len(letters)} characters: {' '.join(item['character'] for item in letters)}")
    return "\n\n".join(parts).translate(CONTROLS | {10: "\n"})


def _percent(quantile: str) -> str:
    return {"0": "min", "1": "max"}.get(quantile, f"{float(quantile) * 100:g}%")


def _tables(found: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Recordings, speakers, labels, rare characters."""
    opened = found["recordings"]
    kinds = [
        {"recordings": f"{opened['opened']:,} opened", **({"unreadable": opened["unreadable"]}), **_counted(opened)}
    ]
    named = []
    for key in ("speakers", "labels"):
        if key in found:
            lacking = f", {found[key]['missing']:,} rows lack one" if found[key]["missing"] else ""
            title = f"{found[key]['different']:,} {key}{lacking}"
            rows = [{title: item["name"], "rows": item["rows"], "hours": item["hours"]} for item in found[key]["top"]]
            named.append(rows[:10])
    rare = [
        {"rare or odd": item["character"], "count": item["count"], "why": item.get("odd")}
        | ({"for example": f"{item['source']}:{item['line']}"} if "source" in item else {})
        for item in reversed(found.get("alphabet", []))
        if "source" in item or "odd" in item
    ]
    return [kinds if opened["opened"] else [], *named, rare[:20]]


def _counted(opened: dict[str, Any]) -> dict[str, str]:
    return {
        name: ", ".join(f"{value} ({count:,})" for value, count in opened[name].items())
        for name in ("rate", "channels", "format")
    }
