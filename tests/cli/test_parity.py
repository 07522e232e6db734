"""What `anemone parity` prints and writes, and its status."""

import pytest

from anemone.cli import parity
from anemone.training import parity as harness
from anemone.training import parity_layouts
from anemone.training.parity import BARS, Errors, Report

FINE = Report(2, Errors(5e-7, 1e-7, 6e-8, 4e-8, 1e-7), "network.head.weight", BARS["32"])
WRONG = FINE._replace(errors=FINE.errors._replace(gradient=0.5))
REFUSED = Report(2, None, "", BARS["32"], "`parallel.tp` must be a divisor of 4")

PAGE = f"# Layouts\n\nBefore.\n\n{parity.BEGIN}\nold\n{parity.END}\n\nAfter.\n"


@pytest.fixture
def proven(monkeypatch):
    """Stands in for running layouts: a report for each kind of row."""
    reports = {}

    def prove(row):
        if isinstance(reports[row.settings], Exception):
            raise reports[row.settings]
        return reports[row.settings]

    def use(runs, refused=()):
        reports.update({**runs, **dict(refused)})
        monkeypatch.setattr(parity_layouts, "LAYOUTS", parity_layouts.rows("llama", *runs))
        monkeypatch.setattr(parity_layouts, "REFUSED", parity_layouts.rows("llama", *dict(refused)))
        monkeypatch.setattr(harness, "prove", prove)

    return use


def test_all_layouts_are_printed_and_written_between_the_marks(anemone, proven, tmp_path):
    proven({"tp=2": FINE, "dp_shard=2": FINE}, {"tp=3": REFUSED})
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    ran = anemone("parity", "--all", "--write", page)
    assert ran.status == 0, ran.err
    assert "llama: tp=2" in ran.out and "5e-07" in ran.out and "passed" in ran.out
    text = page.read_text()
    assert text.startswith("# Layouts\n\nBefore.\n") and text.endswith("\nAfter.\n") and "old" not in text
    assert "| `llama: tp=2` | 2 | 5e-07 | 1e-07 | 6e-08 | 4e-08 | 1e-07 | head.weight | passed |" in text
    assert "| `llama: tp=3` | `parallel.tp` must be a divisor of 4 |" in text
    anemone("parity", "--all", "--write", page)
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("runs", "refused", "said"),
    [
        ({"tp=2": FINE, "cp=2": WRONG}, {}, "MISSED"),
        ({"tp=2": REFUSED}, {}, "refused"),
        ({"tp=2": FINE}, {"tp=3": FINE}, "passed"),
        ({"tp=2": FINE, "cp=2": RuntimeError("it hangs")}, {}, "FAILED"),
    ],
    ids=["a bar is missed", "refused though it should run", "runs though it should be refused", "a process fails"],
)
def test_the_status_is_1_where_one_layout_is_not_as_it_should_be(anemone, proven, runs, refused, said):
    proven(runs, refused)
    ran = anemone("parity", "--all")
    assert ran.status == 1 and said in ran.out


def test_one_layout_can_be_any_and_is_run(anemone):
    ran = anemone("parity", "parallel.dp_replicate=2")
    assert ran.status == 0, ran.err
    assert ran.out.splitlines()[-2].split()[:2] == ["layout", "processes"] and "passed" in ran.out


def test_mistakes_are_one_line_with_the_setting(anemone, tmp_path):
    for words, message in (
        (["parallel.ep=2"], "`parallel.ep` must be a divisor of dp_shard"),
        (["parallel.tq=2"], "tq"),
        (["--all", "parallel.tp=2"], "must be left out with --all"),
        (["no_such_experiment", "parallel.tp=2"], "no_such_experiment"),
    ):
        ran = anemone("parity", *words)
        assert ran.status == 2 and message in ran.err and len(ran.err.splitlines()) == 1


def test_a_page_without_marks_is_refused_before_anything_runs(anemone, proven, tmp_path):
    proven({"tp=2": RuntimeError("it ran")})
    ran = anemone("parity", "--all", "--write", tmp_path / "page.md")
    assert ran.status == 2 and "must be a file with the lines" in ran.err
