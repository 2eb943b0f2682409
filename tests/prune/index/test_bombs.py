"""A few bytes that claim to be many: refused by what their headers say, before memory is taken."""

import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from prune.data.pixel_values import Unreadable
from prune.data.stored_images import prepare
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays, save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError


def peak(call) -> int:
    """Bytes that Python and NumPy hold at most while a call is refused in one line."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"claim to hold|shape and size disagree|damaged") as refused:
            call()
        assert "\n" not in str(refused.value)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [PrunedIndex, Manifest])
def test_an_archive_that_inflates_a_thousandfold_is_refused_before_it_is_inflated(tmp_path, kind):
    place = tmp_path / "bomb.npz"
    block = np.zeros(1 << 20, np.uint8).tobytes()
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("id.npy", "w") as member:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            head, {"descr": "|u1", "fortran_order": False, "shape": (300 * len(block),)}
        )
        member.write(head.getvalue())
        for _ in range(300):
            member.write(block)
    assert place.stat().st_size < 1 << 20
    assert peak(lambda: kind.load(place)) < 1 << 24


def test_an_array_that_claims_more_than_its_member_holds_takes_no_memory(tmp_path):
    place = tmp_path / "x.npz"
    save_arrays(place, {"a": np.arange(1000)}, {"format": "t/1"})
    data = place.read_bytes().replace(b"(1000,)", b"(1<<9,)")
    place.write_bytes(data)
    assert peak(lambda: open_arrays(place, "t/1")) < 1 << 20
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            head, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50, 1 << 50)}
        )
        archive.writestr("meta.npy", head.getvalue())
    assert peak(lambda: open_arrays(place, "t/1")) < 1 << 20


def test_members_that_share_their_bytes_are_refused(tmp_path):
    place = tmp_path / "x.npz"
    save_arrays(place, {"a": np.arange(100_000)}, {"format": "t/1"})
    with zipfile.ZipFile(place, "a") as archive:
        archive.filelist += [archive.getinfo("a.npy")] * 50
        archive._didModify = True
    assert peak(lambda: open_arrays(place, "t/1", mapped=False)) < 1 << 22


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims so many pixels, and which holds none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 13_000, 40_000])
def test_an_image_of_a_few_bytes_that_claims_many_pixels_is_unreadable(side):
    with pytest.raises(Unreadable, match=r"claim \d+ x \d+ pixels|exceeds limit"):
        prepare(png(side, side))


def test_a_large_image_of_one_colour_is_still_an_image():
    file = io.BytesIO()
    Image.new("L", (8000, 8000)).save(file, "PNG")
    assert prepare(file.getvalue(), side=8).height == 8
