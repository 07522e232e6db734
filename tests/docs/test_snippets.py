"""What the README and the docs show runs and prints what they say; what they name exists."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
MARK = "--- a block ---"
NAMED = re.compile(r"`((?:anemone|docs|tests|tools|recipes|benchmarks|conf)/[\w./-]*\w/?)`|\]\(([^)#:]+?)(?:#[^)]*)?\)")


def blocks(page: Path, *languages: str) -> list[tuple[str, str, str]]:
    """Language and text of blocks, and the text block right below, if there is one: what they print."""
    return [block for block in BLOCK.findall(page.read_text("utf-8")) if block[0] in languages]


def differences(shown: str, printed: str) -> str:
    """How printed lines differ from those shown; ``...`` stands for anything, as in doctest's ELLIPSIS."""
    wanted, got = (re.sub(r"[ \t]+\n", "\n", text.rstrip() + "\n") for text in (shown, printed))
    checker, example = doctest.OutputChecker(), doctest.Example("", wanted)
    if checker.check_output(wanted, got, doctest.ELLIPSIS):
        return ""
    return checker.output_difference(example, got, doctest.REPORT_NDIFF)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


RUNNABLE = [p for p in PAGES if blocks(p, "python", "bash")]


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_snippets_run_in_order(page, tmp_path):
    """Python blocks of a page share one namespace; a bash block runs in the same folder; each prints what is shown."""
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    steps, asked = [], blocks(page, "python", "bash")
    for word, text, _ in asked:
        shell = f"import subprocess\nsubprocess.run(['bash', '-euo', 'pipefail', '-c', {text!r}], check=True)\n"
        steps += [f"print({MARK!r}, flush=True)", text if word == "python" else shell]
    script = tmp_path / "page.py"
    script.write_text("\n".join(steps))
    run = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    printed = run.stdout.split(f"{MARK}\n")[1:]
    untrue = [differences(shown, out) for (*_, shown), out in zip(asked, printed, strict=True) if shown]
    assert not any(untrue), "\n".join(untrue)


def test_what_is_printed_is_compared_line_by_line():
    assert not differences("took ... s\n\n  done\n", "took 1.5 s\n\n  done  \n\n")
    for printed in ("took 1.5 s\n", "took 1.5 s\n  done\n", "took 1.5 s\n\ndone\n", "took 1.5 s\n\n  done\nmore\n"):
        assert differences("took ... s\n\n  done\n", printed)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shell_blocks_hold_make_words_that_exist(page):
    words = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for _, text, _ in blocks(page, "sh"):
        asked = re.findall(r"\bmake ((?:[a-z-]+ ?)+)", text)
        assert asked, f"an sh block of {name(page)} runs nothing; mark it text"
        assert not {w for line in asked for w in line.split()} - words


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_paths_exist(page):
    gone = []
    for literal, link in NAMED.findall(page.read_text("utf-8")):
        path = ROOT / literal if literal else page.parent / link
        if literal.startswith("conf/"):
            path = ROOT / "anemone" / literal
        if not path.exists():
            gone.append(literal or link)
    assert not gone
