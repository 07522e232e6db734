"""Tables, places and commands."""

import pickle

import kaldiio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anemone.data.kaldi.places import Arks, Place, output_of, parse_place, read_ark, read_table, write_ark
from anemone.errors import DataError


@pytest.fixture
def features():
    draw = np.random.default_rng(0)
    return {f"u{i}": draw.standard_normal((5 + i, 4)).astype(np.float32) for i in range(3)}


def test_a_table_keeps_words_of_any_script_and_says_what_is_wrong(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("a\tone  two \r\n\nb 水\u3000火\u00a0\nc\na again\n".encode() + b"d \xff\n")
    entries, problems = read_table(path)
    assert {key: tuple(entry) for key, entry in entries.items()} == {
        "a": ("one  two", 1),
        "b": ("水\u3000火\u00a0", 3),
        "c": ("", 4),
    }
    assert [str(p) for p in problems] == [
        f"{path}:5: `a` stands in line 1 already",
        f"{path}:6: must be text in UTF-8, but has an invalid start byte at byte 0",
    ]
    with pytest.raises(DataError, match="must be a file that can be read: No such file"):
        read_table(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a.ark", Place("a.ark")),
        ("/x/a b.ark:12", Place("/x/a b.ark", 12)),
        ("a.ark:12[0:9]", Place("a.ark", 12, (0, 9))),
        ("a.ark:12[:,3:4]", Place("a.ark", 12, None, (3, 4))),
        ("a.ark[0:9,0:1]", Place("a.ark", 0, (0, 9), (0, 1))),
        ("a[1].ark:7", Place("a[1].ark", 7)),
        ("C:a.ark", Place("C:a.ark")),
    ],
)
def test_a_place_has_a_path_an_offset_and_ranges(text, place):
    assert parse_place(text, "feats.scp:1") == place


@pytest.mark.parametrize("text", ["", "-", "cat a |", "| cat", "a.ark:1[3:2]", "a.ark[1:2,3:4,5:6]", "a.ark[1:2:3]"])
def test_what_is_no_place_is_refused_by_file_and_line(text):
    with pytest.raises(DataError, match=r"feats\.scp:1: "):
        parse_place(text, "feats.scp:1")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(0, 9), st.integers(0, 3), st.integers(0, 3))
def test_ranges_are_those_of_kaldi(tmp_path_factory, first, more, left, wide):
    folder = tmp_path_factory.mktemp("ranges")
    matrix = np.arange(40, dtype=np.float32).reshape(10, 4)
    write_ark(folder / "a.ark", iter([("k", matrix)]), folder / "a.scp")
    (entry,) = read_table(folder / "a.scp")[0].values()
    last, right = min(first + more, 9), min(left + wide, 3)
    place = f"{entry.value}[{first}:{last},{left}:{right}]"
    arks = Arks()
    found = arks.read(parse_place(place, "x"))
    assert np.array_equal(found, matrix[first : last + 1, left : right + 1])
    assert np.array_equal(found, kaldiio.load_mat(place))
    assert arks.rows(parse_place(place, "x")) == found.shape
    arks.close()


def test_a_range_may_end_a_little_behind_the_last_row_and_no_further(tmp_path):
    write_ark(tmp_path / "a.ark", iter([("k", np.zeros((10, 4)))]))
    arks, path = Arks(), str(tmp_path / "a.ark")
    assert arks.read(Place(path, 2, (5, 12))).shape == (5, 4)
    for rows, columns in [((5, 13), None), ((10, 10), None), (None, (0, 4))]:
        with pytest.raises(DataError, match="are asked for"):
            arks.read(Place(path, 2, rows, columns))
    arks.close()


@pytest.mark.parametrize("format", ["float", "double", "text", "cm2"])
def test_an_ark_reads_from_end_to_end_and_by_its_table_as_kaldiio_does(tmp_path, features, format):
    count = write_ark(tmp_path / "f.ark", iter(features.items()), tmp_path / "f.scp", format)
    assert count == 3
    entries = read_table(tmp_path / "f.scp")[0]
    theirs, arks = kaldiio.load_scp(str(tmp_path / "f.scp")), Arks()
    for (key, matrix), name in zip(read_ark(tmp_path / "f.ark"), features, strict=True):
        assert key == name
        assert np.allclose(matrix, features[key], atol=1e-3)
        assert np.array_equal(matrix, arks.read(parse_place(entries[key].value, "x")))
        assert np.allclose(matrix, theirs[key], atol=1e-6)
    arks.close()


def test_what_kaldiio_writes_is_read(tmp_path, features):
    for method in (None, 1, 2, 3, 4, 5, 6, 7):
        path = str(tmp_path / f"{method}.ark")
        kaldiio.save_ark(path, features, scp=path + ".scp", compression_method=method)
        theirs = kaldiio.load_scp(path + ".scp")
        for key, matrix in read_ark(path):
            assert np.allclose(matrix, theirs[key], atol=1e-5), method


def test_files_do_not_travel_to_other_processes(tmp_path):
    write_ark(tmp_path / "a.ark", iter([("k", np.ones((2, 2)))]))
    arks = Arks()
    arks.read(Place(str(tmp_path / "a.ark"), 2))
    other = pickle.loads(pickle.dumps(arks))
    assert np.array_equal(other.read(Place(str(tmp_path / "a.ark"), 2)), np.ones((2, 2)))
    arks.close()
    other.close()


def test_a_command_runs_only_where_it_is_trusted(tmp_path):
    mark = tmp_path / "ran"
    with pytest.raises(DataError, match=r"wav.scp:7: `touch .*` is a command.* --trust-commands"):
        output_of(f"touch {mark}; echo a |", "wav.scp:7", trust_commands=False)
    assert not mark.exists()
    assert output_of("printf abc | tr a x |", "wav.scp:7", trust_commands=True) == b"xbc"
    with pytest.raises(DataError, match=r"wav\.scp:7: .*ended with status 3: oops"):
        output_of("echo oops >&2; exit 3 |", "wav.scp:7", trust_commands=True)
    with pytest.raises(DataError, match="is for writing"):
        output_of("| cat", "wav.scp:7", trust_commands=True)


def test_a_key_is_one_word(tmp_path):
    for key in ("a b", "", " a"):
        with pytest.raises(DataError, match="one word"):
            write_ark(tmp_path / "a.ark", iter([(key, np.zeros(1))]))
