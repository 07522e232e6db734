"""Prove a layout: run it on this machine's CPU, and compare losses, gradients and weights with those of one process.

  anemone parity parallel.tp=2 parallel.pp=2
  anemone parity my_experiment.yaml parallel.dp_shard=4 precision=bf16-mixed
  anemone parity --all --write docs/parallelism.md

Without an experiment a very small Llama is taken, and with --all a table of layouts of several networks. Status 1: an
error was beyond its bar, a layout failed, or one was refused (with --all: or not refused) that should not have been.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemone.config import must
from anemone.errors import ConfigError

if TYPE_CHECKING:
    from anemone.training.parity import Report

BEGIN, END = "<!-- the table of `make parity` begins -->", "<!-- the table of `make parity` ends -->"

Line = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument(
        "words",
        metavar="EXPERIMENT key=value",
        nargs="*",
        default=[],
        help="an experiment, or none, and settings such as parallel.tp=2",
    )
    parser.add_argument("--all", action="store_true", help="prove the layouts of the table, not one")
    parser.add_argument("--write", metavar="FILE", type=Path, help="put the table into a file of Markdown, too")


def run(args: argparse.Namespace) -> int:
    """Proves, prints, and says whether all is well."""
    from anemone.cli.table import table

    must(not (args.all and args.words), "EXPERIMENT", "left out with --all", value=" ".join(args.words))
    page = marked(args.write) if args.write else ""
    lines: list[Line] = []
    refused: list[list[str]] = []
    passed = True
    for layout, wanted, report in every() if args.all else single(args.words):
        passed &= report.passed if wanted else bool(report.refusal)
        line = described(layout, report)
        print(f"{layout}: {report.refusal or line['verdict']}", flush=True)
        if wanted:
            lines.append(line)
        else:
            refused.append([layout, report.refusal or "NOT REFUSED"])
    print(f"\n{table(lines)}")
    if args.write:
        args.write.write_text(filled(page, lines, refused), "utf-8")
    return 0 if passed else 1


def single(words: list[str]) -> Iterator[tuple[str, bool, "Report"]]:
    """The one layout that was asked for."""
    from anemone.training.parity import compare
    from anemone.training.parity_layouts import NETWORKS
    from anemone.training.settings import experiment

    named = bool(words) and "=" not in words[0]
    name, *overrides = words if named else [*NETWORKS["llama"], *words]
    report = compare(experiment(name, overrides))
    if report.refusal:
        raise ConfigError(report.refusal)
    yield " ".join(words) or "one process", True, report


def every() -> Iterator[tuple[str, bool, "Report"]]:
    """All layouts of the table: name, whether it must run, and what came of it."""
    from anemone.training import parity, parity_layouts

    for wanted, rows in ((True, parity_layouts.LAYOUTS), (False, parity_layouts.REFUSED)):
        for row in rows:
            try:
                report = parity.prove(row)
            except Exception as error:
                print(f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
                report = parity.FAILED
            yield f"{row.network}: {row.settings}", wanted, report


def described(layout: str, report: "Report") -> Line:
    """A line of the table."""
    if report.errors is None:
        verdict = "refused" if report.refusal else "FAILED"
        return {"layout": layout, "processes": report.processes, "verdict": verdict}
    return {
        "layout": layout,
        "processes": report.processes,
        **{name: f"{error:.0e}" for name, error in report.errors._asdict().items()},
        "worst gradient": report.worst.removeprefix("network."),
        "verdict": "passed" if report.passed else "MISSED",
    }


def marked(path: Path) -> str:
    """The text of a page that has the marks of the table.

    Raises:
        ConfigError: there is no such page, or it has none.
    """
    text = path.read_text("utf-8") if path.exists() else ""
    must(BEGIN in text and END in text, "--write", f"a file with the lines `{BEGIN}` and `{END}`", value=str(path))
    return text


def filled(text: str, lines: list[Line], refused: list[list[str]]) -> str:
    """The page with these tables between its marks."""
    columns = list(dict.fromkeys(key for line in lines for key in line))
    made = [markdown([columns, *([str(line.get(key, "")) for key in columns] for line in lines)])]
    if refused:
        made += ["Refused, as they cannot be or are known to be wrong:\n", markdown([["layout", "reason"], *refused])]
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return "\n".join([f"{before}{BEGIN}\n", *made, f"{END}{after}"])


def markdown(rows: list[list[str]]) -> str:
    """A table in Markdown; the first row is its heading, the first column is set as code."""
    heading, *others = rows
    body = [[f"`{first}`", *rest] for first, *rest in others]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heading, ["---"] * len(heading), *body]) + "\n"
