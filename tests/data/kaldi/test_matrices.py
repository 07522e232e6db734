"""Matrices as Kaldi keeps them: what is written comes back, kaldiio agrees, and nothing claims more than there is."""

import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from kaldiio import matio as kaldiio

from anemone.data.kaldi.matrices import FORMATS, as_bytes, read_array, read_rows, write_array
from anemone.errors import DataError

NUMBERS = st.floats(-1e4, 1e4, width=32)
MATRICES = arrays.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 6)), elements=NUMBERS)


def referee(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(kaldiio.read_kaldi(io.BytesIO(data + b" ")))


def error_allowed(matrix: np.ndarray, format: str) -> float:
    span = float(np.ptp(matrix)) + 1e-5 * (1 + float(np.abs(matrix).max()))
    rounding = 1e-6 * float(np.abs(matrix).max())
    steps = {"cm1": 80, "cm2": 65535, "cm3": 255}
    return span / steps[format] + rounding if format in steps else 0.0


@settings(max_examples=60, deadline=None)
@given(MATRICES, st.sampled_from(FORMATS))
def test_a_matrix_comes_back_as_near_as_its_format_can(matrix, format):
    data = as_bytes(matrix, format)
    file = io.BytesIO(data + b"next")
    found = read_array(file, "x")
    assert file.read() == b"next"
    assert found.shape == matrix.shape
    assert np.abs(found - matrix).max() <= error_allowed(matrix, format)
    assert np.allclose(found, referee(data).reshape(matrix.shape), rtol=1e-6, atol=1e-6 * np.abs(matrix).max())
    assert read_rows(io.BytesIO(data), "x") == matrix.shape


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.float64, st.integers(0, 9), elements=st.floats(-1e9, 1e9)))
def test_a_vector_comes_back(vector):
    for format in ("double", "text"):
        found = read_array(io.BytesIO(as_bytes(vector, format)), "x")
        assert np.allclose(found.reshape(-1), vector, rtol=1e-6)
    assert np.array_equal(referee(as_bytes(vector, "double")), vector)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9))
def test_a_vector_of_integers_comes_back(numbers):
    data = as_bytes(np.array(numbers, np.int32))
    file = io.BytesIO(data + b"k")
    assert read_array(file, "x").tolist() == numbers == referee(data).tolist()
    assert file.read() == b"k"


def test_columns_of_equal_numbers_are_compressed():
    matrix = np.tile(np.float32([3.0, -1.0, 3.0]), (7, 1))
    for format in ("cm1", "cm2", "cm3"):
        assert np.allclose(read_array(io.BytesIO(as_bytes(matrix, format)), "x"), matrix, atol=0.02), format


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\0BFM \4\xff\xff\xff\x7f\4\xff\xff\xff\x7f", "claims 2147483647 x 2147483647 numbers, .* has 0 more"),
        (b"\0BFV \4\xff\xff\xff\x7f" + b"abc", "claims 2147483647 numbers, 8589934588 bytes, but the file has 3 more"),
        (b"\0BCM " + struct.pack("<ffii", 0, 1, 2**31 - 1, 2**31 - 1), "claims"),
        (b"\0BCM2 " + struct.pack("<ffii", 0, 1, 2**31 - 1, 2**31 - 1), "claims"),
        (b"\0B\4\xff\xff\xff\x7f", "claims 2147483647 numbers"),
        (b"\0BFM \4\xff\xff\xff\xff\4\1\0\0\0", "sizes of 0 or more, but claims -1 x 1"),
        (b"\0BFM \x08\1\0\0\0\4\1\0\0\0", "must have 4 bytes each"),
        (b"\0BXX \4", "must be a matrix or vector of Kaldi"),
        (b"\0BFM \4\2", "ends within a matrix"),
        (b"\0BFM \4\2\0\0\0\4\2\0\0\0abc", "ends within a matrix"),
        (b"\0B", "must be a matrix"),
        (b"", "ends within"),
        (b" [ 1 2\n", "ends within"),
        (b" [\n 1 2\n 3 ]\n", "as many in each row"),
        (b" [ 1 2 ] 3\n", "must end with its bracket"),
        (b"RIFF....\n", "must be numbers"),
    ],
)
def test_what_is_no_matrix_is_refused_before_memory_is_asked_for(data, cause):
    with pytest.raises(DataError, match=f"`f` .*{cause}|`f`:? .*{cause}"):
        read_array(io.BytesIO(data), "`f`")
    if "claims" in cause:
        with pytest.raises(DataError, match=cause.replace("claims 2147483647 n", "claims 2147483647 x 1 n")):
            read_rows(io.BytesIO(data), "`f`")


def test_binary_that_is_taken_for_text_is_not_said_at_length():
    with pytest.raises(DataError) as caught:
        read_array(io.BytesIO(b"[ " + b"x" * 100_000 + b" ]\n"), "`f`")
    assert "must be numbers" in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("format", FORMATS)
def test_a_large_matrix_has_the_bytes_that_its_sizes_say(format):
    data = as_bytes(np.zeros((1100, 1000), np.float32), format)
    assert read_rows(io.BytesIO(data), "`f`") == (1100, 1000)
    if format != "text":
        with pytest.raises(DataError, match="claims 1100 x 1000 numbers"):
            read_rows(io.BytesIO(data[:-1]), "`f`")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(0, 60), st.binary(min_size=1, max_size=8))
def test_broken_bytes_give_an_array_or_the_error_of_data(format, place, junk):
    data = as_bytes(np.arange(12, dtype=np.float32).reshape(4, 3), format)
    broken = data[:place] + junk + data[place + len(junk) :]
    try:
        assert read_array(io.BytesIO(broken), "x").nbytes <= 2**21
    except DataError as error:
        assert "x" in str(error)


def test_what_cannot_be_written_is_refused():
    with pytest.raises(DataError, match="matrices and vectors"):
        as_bytes(np.zeros((1, 2, 3)))
    with pytest.raises(DataError, match="finite"):
        as_bytes(np.array([[np.nan]]), "cm2")
    with pytest.raises(DataError, match="must be a matrix"):
        write_array(io.BytesIO(), np.zeros(3), "cm1")
