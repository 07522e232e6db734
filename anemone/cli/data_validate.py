"""Look for what is wrong in data sets: in lines, in recordings, and between sets.

  anemone data validate train.jsonl test.jsonl --html report.html

Each source is a set by itself, and sets should have no speaker, text or recording in common. `NAME=SOURCE` gives one a
name. `--rules` lists what is looked for. Recordings are decoded, once each; `--no-audio` leaves them alone.

Exit status: 1 if something as bad as `--fail-on` was found (an error by default), else 0.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anemone.errors import ConfigError

if TYPE_CHECKING:
    from anemone.data.quality.validate import Report

SHOWN = 5  # rows of each rule that are printed


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    from anemone.cli import positive

    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="manifests, or other data sets")
    parser.add_argument("--rules", action="store_true", help="list the rules, and leave")
    parser.add_argument("--no-audio", action="store_true", help="read no recordings")
    parser.add_argument("--near", action="store_true", help="look for pieces that only sound alike, too")
    parser.add_argument("--ignore", action="append", default=[], metavar="RULE", help="a rule that may be broken")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="threads that decode (default 2)")
    parser.add_argument("--fail-on", choices=["error", "warning", "info", "never"], default="error")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page")
    parser.add_argument("--findings", metavar="FILE", help="write all findings, as JSON lines")
    parser.add_argument("--write", metavar="GOOD", help="write the rows without errors: a manifest, or a folder")


def run(args: argparse.Namespace) -> int:
    """Prints and writes what is found."""
    import json
    from pathlib import Path

    from anemone.cli.table import table
    from anemone.data.columns import opened
    from anemone.data.quality.rules import RULES, SEVERITIES
    from anemone.data.quality.validate import validate

    if args.rules:
        print(table([{"rule": name, **rule._asdict()} for name, rule in RULES.items()]))
        return 0
    if not args.sources:
        raise ConfigError("`anemone data validate` must be given a manifest or more.")
    sets = {name: opened([source]) for name, source in named(args.sources).items()}
    outputs = good_paths(args.write, list(sets)) if args.write else {}
    rows = 0 if args.no_audio else sum(map(len, sets.values()))
    with progress(rows) as step:
        report = validate(
            sets, audio=not args.no_audio, near=args.near, jobs=args.jobs, ignore=args.ignore, progress=step
        )
    found = report.as_dict()
    print(json.dumps(found, ensure_ascii=False) if args.json else text(found))
    if args.html:
        from anemone.data.quality.page import page

        Path(args.html).write_text(page(found, f"Validation of {', '.join(sets)}"), "utf-8")
    if args.findings:
        with open(args.findings, "w", encoding="utf-8") as file:
            for finding in report.findings():
                file.write(json.dumps(finding._asdict(), ensure_ascii=False) + "\n")
    write_good(report, outputs, quiet=args.json)
    bad = SEVERITIES[: SEVERITIES.index(args.fail_on) + 1] if args.fail_on != "never" else ()
    return int(any(report.number(severity) for severity in bad))


def named(sources: Sequence[str]) -> dict[str, str]:
    """Returns sources by names that differ: as given, else their stems, else their paths.

    Raises:
        ConfigError: two have one name.
    """
    import os
    from pathlib import Path

    pairs = [
        (name, path) if equals and not set("/?") & set(name) and not os.path.exists(source) else ("", source)
        for source in sources
        for name, equals, path in [source.partition("=")]
    ]
    stems = [name or Path(source).name.partition(".")[0] or source for name, source in pairs]
    names = stems if len(set(stems)) == len(stems) else [name or source for name, source in pairs]
    if len(set(names)) < len(names):
        raise ConfigError(f"sets must have names that differ, but are {', '.join(names)}: write NAME=SOURCE.")
    return {name: source for name, (_, source) in zip(names, pairs, strict=True)}


def good_paths(place: str, names: Sequence[str]) -> dict[str, str]:
    """Returns where the good rows of each set go: a manifest for one set, one each in a folder for several."""
    from pathlib import Path

    if place.endswith((".json", ".jsonl", ".gz")):
        if len(names) > 1:
            raise ConfigError(f"`--write` must be a folder for {len(names)} sets, but is `{place}`.")
        return {names[0]: place}
    return {name: str(Path(place) / f"{Path(name).name.partition('.')[0]}.jsonl") for name in names}


def write_good(report: "Report", outputs: Mapping[str, str], *, quiet: bool) -> None:
    """Writes manifests of the rows without errors, and says so."""
    from anemone.data.lines import write_lines

    for name, place in outputs.items():
        rows = report.good(name)
        path = write_lines(report.sets[name], rows, place)
        if not quiet:
            print(f"{path}: {len(rows):,} of {len(report.sets[name]):,} rows")


def progress(rows: int) -> Any:
    """Returns a context that gives what is told how many more rows are done; a bar in a terminal."""
    from contextlib import contextmanager

    @contextmanager
    def shown() -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("recordings"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=not (rows and console.is_terminal)) as bar:
            task = bar.add_task("", total=rows)
            yield lambda done: bar.advance(task, done)

    return shown()


def text(found: Mapping[str, Any]) -> str:
    """Returns a report as a person reads it."""
    from anemone.cli.table import table
    from anemone.data.quality.texts import ascii_controls

    sets = [
        {"set": name, "rows": s["rows"], "hours": s["hours"], "unusable lines": s["left_out"], "good rows": s["good"]}
        for name, s in found["sets"].items()
    ]
    parts = [table(sets)]
    for name, rule in found["rules"].items():
        lines = [f"{rule['severity']} {name}: {rule['count']:,} rows: {rule['what']}; {rule['fix']}"]
        for item in rule["examples"][:SHOWN]:
            where = f"{item['source']}:{item['line']}" + (f" ({item['audio']})" if item["audio"] else "")
            lines.append(ascii_controls(f"  {where}: {item['detail']}"))
        more = rule["count"] - len(lines) + 1
        parts.append("\n".join([*lines, *([f"  and {more:,} more"] if more > 0 else [])]))
    parts.append(f"{found['errors']:,} errors, {found['warnings']:,} warnings")
    return "\n\n".join(parts)
