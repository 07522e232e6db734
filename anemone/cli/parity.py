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
from anemone.errors import AnemoneError, ConfigError

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
    lines, passed, refused = [], True, []
    for layout, wanted, report in every() if args.all else single(args.words):
        fine = report.passed if wanted else bool(report.refusal)
        passed &= fine
        line = described(layout, report, fine)
        print(table([line]).splitlines()[1] if report.errors else f"{line['layout']}: {report.refusal}", flush=True)
        if wanted:
            lines.append(line)
        else:
            refused.append((layout, report.refusal or "NOT REFUSED"))
    print(f"\n{table(lines)}")
    if args.write:
        write(args.write, lines, refused)
    return 0 if passed else 1


def single(words: list[str]) -> Iterator[tuple[str, bool, "Report"]]:
    """The one layout that was asked for."""
    from anemone.training.layouts import NETWORKS
    from anemone.training.parity import compare
    from anemone.training.settings import experiment

    named = bool(words) and "=" not in words[0]
    name, *overrides = words if named else [*NETWORKS["llama"], *words]
    report = compare(experiment(name, overrides))
    if report.refusal:
        raise ConfigError(report.refusal)
    yield " ".join(words) or "one process", True, report


def every() -> Iterator[tuple[str, bool, "Report"]]:
    """All layouts of the table: name, whether it must run, and what came of it."""
    from anemone.training.layouts import LAYOUTS, REFUSED
    from anemone.training.parity import prove

    for wanted, rows in ((True, LAYOUTS), (False, REFUSED)):
        for row in rows:
            try:
                yield f"{row.network}: {row.settings}", wanted, prove(row)
            except AnemoneError as error:
                print(error, file=sys.stderr)
                raise


def described(layout: str, report: "Report", fine: bool) -> Line:
    """A line of the table."""
    if report.errors is None:
        return {"layout": layout, "processes": report.processes, "verdict": "refused" if report.refusal else "FAILED"}
    errors = {name: f"{error:.0e}" for name, error in report.errors._asdict().items()}
    worst = report.worst.removeprefix("network.")
    return {
        "layout": layout,
        "processes": report.processes,
        **errors,
        "worst gradient": worst,
        "verdict": "passed" if fine else "MISSED",
    }


def write(path: Path, lines: list[Line], refused: list[tuple[str, str]]) -> None:
    """Puts the tables between the marks in a file of Markdown.

    Raises:
        ConfigError: there is no such file, or it has no marks.
    """
    text = path.read_text("utf-8") if path.exists() else ""
    must(BEGIN in text and END in text, "--write", f"a file with the lines `{BEGIN}` and `{END}`", value=str(path))
    columns = list(dict.fromkeys(key for line in lines for key in line))
    made = [markdown([columns, *([str(line.get(key, "")) for key in columns] for line in lines)])]
    if refused:
        made.append("Refused, as they cannot be or are known to be wrong:\n")
        made.append(markdown([["layout", "reason"], *([layout, reason] for layout, reason in refused)]))
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text("\n".join([f"{before}{BEGIN}\n", *made, f"{END}{after}"]), "utf-8")


def markdown(rows: list[list[str]]) -> str:
    """A table in Markdown; the first row is its heading."""
    heading, *others = (["`" * (i == 0 and n > 0) + cell for i, cell in enumerate(row)] for n, row in enumerate(rows))
    body = [[f"{row[0]}`", *row[1:]] for row in others]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heading, ["---"] * len(heading), *body]) + "\n"
