"""Tests of prune.index.npz: round trips, equal bytes, and what a damaged file gets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prune.index.npz import open_arrays, save_arrays
from prune.runs.files import InputError

META = {"format": "winnow-test/1", "note": "ä <b>"}
COLUMNS = {"a": np.arange(7, dtype="f4"), "b": np.array([b"x", b"yyy"]), "none": np.zeros((0, 3), "f2")}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=hnp.arrays(
        st.sampled_from(["f2", "f4", "i8", "u1", "S5"]), hnp.array_shapes(min_dims=1, max_dims=3, min_side=0)
    )
)
def test_arrays_come_back_mapped_and_read(tmp_path, array):
    save_arrays(tmp_path / "x.npz", {"a": array}, META)
    for mapped in (True, False):
        arrays, meta = open_arrays(tmp_path / "x.npz", "winnow-test/1", mapped=mapped)
        np.testing.assert_array_equal(arrays["a"], array)
        assert arrays["a"].dtype == array.dtype
        assert meta == META


def test_numpy_alone_reads_the_file_and_arrays_begin_at_multiples_of_64(tmp_path):
    save_arrays(tmp_path / "x.npz", COLUMNS, META)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as stock:
        np.testing.assert_array_equal(stock["b"], COLUMNS["b"])
    mapped, _ = open_arrays(tmp_path / "x.npz", "winnow-test/1")
    assert [mapped[name].offset % 64 for name in ("a", "b")] == [0, 0]


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in ("x", "y"):
        save_arrays(tmp_path / f"{name}.npz", COLUMNS, dict(reversed(META.items())))
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_a_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        save_arrays(tmp_path / "x.npz", {"a": np.arange(3), "o": np.array([{}], object)}, META)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "words"), [("winnow-other/1", "winnow-other"), ("winnow-test/0", "newer"), ("winnow-tes/1", "expected")]
)
def test_another_format_is_refused_by_name(tmp_path, format, words):
    save_arrays(tmp_path / "x.npz", COLUMNS, META)
    with pytest.raises(InputError, match=words):
        open_arrays(tmp_path / "x.npz", format)


def test_every_truncation_is_an_input_error(tmp_path):
    save_arrays(tmp_path / "x.npz", COLUMNS, META)
    whole = (tmp_path / "x.npz").read_bytes()
    for end in range(0, len(whole) - 1, 37):
        (tmp_path / "y.npz").write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"y\.npz"):
            open_arrays(tmp_path / "y.npz", "winnow-test/1")


def test_a_flipped_bit_is_found_when_the_arrays_are_read(tmp_path):
    save_arrays(tmp_path / "x.npz", {"a": np.zeros(1000, "u1")}, META)
    whole = bytearray((tmp_path / "x.npz").read_bytes())
    whole[len(whole) // 2] ^= 4  # inside the thousand zeros
    (tmp_path / "x.npz").write_bytes(whole)
    with pytest.raises(InputError, match="CRC"):
        open_arrays(tmp_path / "x.npz", "winnow-test/1", mapped=False)
