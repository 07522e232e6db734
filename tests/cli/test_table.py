"""Tables line up."""

from anemone.cli.table import cell, table


def test_columns_are_as_wide_as_their_longest_cell_and_numbers_stand_right():
    rows = [{"name": "a", "size": 5}, {"name": "longer", "size": 12345}]
    assert table(rows) == "name     size\na           5\nlonger  12345"


def test_a_key_of_any_row_is_a_column():
    assert table([{"a": "x"}, {"b": "y"}]).splitlines() == ["a  b", "x", "   y"]


def test_cells_are_short():
    assert [cell(value) for value in (None, 0.123456, 1e-9, 3, "x", True)] == ["", "0.1235", "1e-09", "3", "x", "True"]
