"""Patterns of names: what they stand for, and those that are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemone.data.sources.names import MOST, expand
from anemone.errors import DataError


@given(st.integers(0, 50), st.integers(0, 50), st.booleans())
def test_a_range_has_all_its_numbers_in_order(first, last, nemo):
    pattern = f"a__OP_{first}..{last}_CL_.tar" if nemo else f"a_{{{first}..{last}}}.tar"
    step = 1 if first <= last else -1
    assert expand(pattern) == [f"a_{i}.tar" for i in range(first, last + step, step)]


def test_zeros_in_front_are_a_width_and_the_last_braces_run_fastest():
    assert expand("{008..10}") == ["008", "009", "010"] and expand("{0..10}")[0] == "0"
    assert expand("{a,b}/{1..2}.json") == ["a/1.json", "a/2.json", "b/1.json", "b/2.json"]
    assert expand("plain.json") == ["plain.json"]


def test_a_file_that_exists_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a{0..1}.json").touch()
    assert expand("a{0..1}.json") == ["a{0..1}.json"]


@pytest.mark.parametrize("pattern", ["a{", "a}", "{a{0..1}}", "}{", "{0..1", "_OP_0..1", "{a}}", "{{0..9}..{0..9}}"])
def test_open_and_nested_braces_are_refused(pattern):
    with pytest.raises(DataError, match="must have braces that close, and none within others"):
        expand(pattern)


@pytest.mark.parametrize("pattern", ["{}", "{0..}", "{..1}", "{a..b}", "{-1..2}", "{0..1..2}"])
def test_odd_braces_are_refused(pattern):
    with pytest.raises(DataError, match=r"must be `\{0\.\.127\}` or `\{a,b\}`"):
        expand(pattern)


@pytest.mark.parametrize("pattern", ["{0..999999999999999999}", "{0..999}{0..999}", "{0..9}" * 5_000, "{1..2}" * 64])
def test_huge_ranges_are_refused_before_they_are_made(pattern):
    with pytest.raises(DataError, match=f"must stand for at most {MOST} names"):
        expand(pattern)
