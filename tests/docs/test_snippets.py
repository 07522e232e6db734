"""What the README and the docs show runs; what they name exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`((?:anemone|docs|tests|tools|recipes|benchmarks|conf)/[\w./-]*\w/?)`|\]\(([^)#:]+?)(?:#[^)]*)?\)")


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    return [(word, text) for word, text in BLOCK.findall(page.read_text("utf-8")) if word in languages]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


RUNNABLE = [p for p in PAGES if blocks(p, "python", "bash")]


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_snippets_run_in_order(page, tmp_path):
    """Python blocks of a page share one namespace; a bash block runs in the same folder."""
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    steps = []
    for word, text in blocks(page, "python", "bash"):
        if word == "python":
            steps.append(text)
        else:
            steps.append(
                f"import subprocess\nsubprocess.run(['bash', '-euo', 'pipefail', '-c', {text!r}], check=True)\n"
            )
    script = tmp_path / "page.py"
    script.write_text("\n".join(steps))
    run = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shell_blocks_hold_make_words_that_exist(page):
    words = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for _, text in blocks(page, "sh"):
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
