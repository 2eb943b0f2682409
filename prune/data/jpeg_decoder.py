"""Decodes, crops, resizes and mirrors the images of a training batch: the compiled function that `ffcv_loader.py` runs.

It runs without Python's lock. FFCV's library (libturbojpeg and OpenCV) and zlib are called by address, under names that
this module registers, so that numba can keep the compiled code on disk for the next process: compiling takes seconds,
loading a few hundredths of a second. Single images are decoded with Pillow: `stored_images.py`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any

import llvmlite.binding
import numpy as np
from numba import njit, types

from prune.data.orientation import UPRIGHT, orientation_at

SOUND, DAMAGED, REFUSED, WAITING = 0, 1, 2, 3
"""States of an image: decoded; its bytes are not the manifest's; turbojpeg refused or warned; not decoded yet."""


def _library() -> ctypes.CDLL:
    """FFCV's shared library. The package itself is not imported: that takes seconds and changes torch's threads."""
    package = find_spec("ffcv")
    found = PathFinder.find_spec("_libffcv", package.submodule_search_locations) if package else None
    if found is None or found.origin is None:
        raise ImportError("the package ffcv is not installed")
    return ctypes.CDLL(found.origin)


def _external(name: str, function: Any, result: types.Type, *arguments: types.Type) -> Any:
    address = ctypes.cast(function, ctypes.c_void_p).value
    llvmlite.binding.add_symbol(name, address)
    return types.ExternalFunction(name, result(*arguments))


_ffcv, _zlib = _library(), ctypes.CDLL(ctypes.util.find_library("z") or "libz.so.1")
_u32, _i64, _u64 = types.uint32, types.int64, types.uint64
_imdecode = _external("winnow_imdecode", _ffcv.imdecode, types.int32, _i64, _u64, _u32, _u32, _i64, *(_u32,) * 8)
_resize = _external("winnow_resize", _ffcv.resize, types.void, *(_i64,) * 11)
_crc32 = _external("winnow_crc32", _zlib.crc32, _u64, _u64, _i64, _u32)


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile for use without Python's lock, and keep the code on disk where that is possible."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder that can be written
        return njit(nogil=True, error_model="numpy")(function)


@_compiled
def _mirror(flat: np.ndarray, side: int) -> None:
    """Swap left and right of an image (3 * side * side,) in place; unsigned indices save a check of each sign."""
    one, two = np.uint64(1), np.uint64(2)
    for y in range(side):
        for x in range(side // 2):
            a, b = np.uint64(3 * (side * y + x)), np.uint64(3 * (side * (y + 1) - 1 - x))
            red, green, blue = flat[a], flat[a + one], flat[a + two]
            flat[a], flat[a + one], flat[a + two] = flat[b], flat[b + one], flat[b + two]
            flat[b], flat[b + one], flat[b + two] = red, green, blue


_orientation = _compiled(orientation_at)  # after a change there, touch this file: numba's cache knows one file alone


@_compiled
def _turn(image: np.ndarray, orientation: int) -> None:
    """Turn a square image (side, side, 3) in place, as `prune.data.orientation.upright` does."""
    whole, side = image.copy(), len(image)
    for y in range(side):
        for x in range(side):
            i, j = (x, y) if orientation >= 5 else (y, x)
            if (orientation == 2 or orientation == 3) or (orientation >= 7):
                j = side - 1 - j
            if (orientation == 3 or orientation == 4) or (orientation == 6 or orientation == 7):
                i = side - 1 - i
            for k in range(3):
                image[y, x, k] = whole[i, j, k]


@_compiled
def fill(data, pointers, sizes, jpeg, heights, widths, crc32, boxes, flip, output, decoded, canvas, status):  # type: ignore[no-untyped-def]
    """Decode images of a beton into `output`.

    Parameters
    ----------
    data : (bytes of the beton,) uint8
    pointers, sizes : (b,) int64
    jpeg : (b,) bool
    heights, widths : (b,) int64
    crc32 : (b,) uint32
    boxes : (b, 4) int64
        Top, left, height, width; black outside the image.
    flip : (b,) bool
    output : (b, r, r, 3) uint8
    decoded, canvas : (m,) uint8
        Scratch, at least 3 bytes for each pixel of the largest image and box.
    status : (b,) uint8
        Set to SOUND, DAMAGED or REFUSED; `output` is written only where SOUND.
    """
    side = output.shape[1]
    for slot in range(len(pointers)):
        begin, size, height, width = pointers[slot], sizes[slot], heights[slot], widths[slot]
        pixels = data.ctypes.data + begin
        if np.uint32(_crc32(0, pixels, size)) != crc32[slot]:
            status[slot] = DAMAGED
            continue
        if jpeg[slot]:
            source, pixels = pixels, decoded.ctypes.data
            if _imdecode(source, size, height, width, pixels, height, width, 0, 0, 1, 1, 0, 0) != 0:
                status[slot] = REFUSED
                continue
        status[slot] = SOUND
        top, left, box_height, box_width = boxes[slot, 0], boxes[slot, 1], boxes[slot, 2], boxes[slot, 3]
        at = output[slot].ctypes.data
        if top >= 0 and left >= 0 and top + box_height <= height and left + box_width <= width:
            _resize(0, pixels, height, width, top, top + box_height, left, left + box_width, at, side, side)
        else:
            if not jpeg[slot]:
                decoded[:size] = data[begin : begin + size]
            canvas[: 3 * box_height * box_width] = 0
            first, last = max(left, 0), min(left + box_width, width)
            for y in range(max(top, 0), min(top + box_height, height)):
                there, here = 3 * (y * width + first), 3 * ((y - top) * box_width + first - left)
                for k in range(3 * (last - first)):
                    canvas[here + k] = decoded[there + k]
            _resize(0, canvas.ctypes.data, box_height, box_width, 0, box_height, 0, box_width, at, side, side)
        if jpeg[slot]:
            orientation = _orientation(data, begin, size)
            if orientation != UPRIGHT:
                _turn(output[slot], orientation)
        if flip[slot]:
            _mirror(output[slot].reshape(-1), side)
