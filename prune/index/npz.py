"""Named arrays in one file: a standard `.npz` (not compressed) with JSON meta, written whole, read memory-mapped.

NumPy's own `np.load` opens these files. The arrays begin at multiples of 64 bytes, so that this module can map them
without reading them, which keeps a source of 14 million images in a few GiB. Equal content gives equal bytes.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .whole_files import InputError, atomic, need_file, needing

_CHUNK = 1 << 24
_UNPACKED, _RATIO = 1 << 26, 100
"""Compressed members may take 64 MiB, or a hundred times the bytes of their file."""


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write `arrays` and `meta` to `path` (.npz), atomically.

    Parameters
    ----------
    path : Path
    arrays : mapping of str to ndarray
        Any shapes; no object dtype. Memory-mapped arrays are copied in pieces.
    meta : mapping
        JSON-serialisable; must hold "format", for instance "winnow-scores/1". Stored as the array `meta` (u1, UTF-8
        JSON).
    """
    text = _json(meta)
    needed = len(text) + sum(np.asanyarray(array).nbytes for array in arrays.values())
    with (
        needing(path, needed),
        atomic(path) as partial,
        open(partial, "wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, array in {"meta": np.frombuffer(text, np.uint8), **arrays}.items():
            _add(archive, file, name, array)


def _json(meta: Mapping[str, Any]) -> bytes:
    """Meta as UTF-8 JSON; in ASCII where a file's name that is not UTF-8 is in it."""
    try:
        return json.dumps(meta, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(meta, sort_keys=True, allow_nan=False).encode()


def array_crc32(array: np.ndarray) -> int:
    """CRC-32 that the array has as a member of a file that `save_arrays` writes; read in pieces."""
    head = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(array.dtype)
    np.lib.format.write_array_header_1_0(head, {"descr": descr, "fortran_order": False, "shape": tuple(array.shape)})
    found = zlib.crc32(head.getvalue())
    step = max(1, _CHUNK // max(1, array.dtype.itemsize * math.prod(array.shape[1:])))
    for begin in range(0, len(array), step):
        part = np.ascontiguousarray(array[begin : begin + step], array.dtype)
        found = zlib.crc32(part.reshape(-1).view(np.uint8).data, found)
    return found


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, array: np.ndarray) -> None:
    array = np.asanyarray(array)
    if array.dtype.hasobject:
        raise TypeError(f"{name}: object arrays would need pickle")
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980-01-01: the bytes depend on the content alone
    # The extra field shifts the array's first byte to a multiple of 64; zipfile adds its own 20 bytes for zip64.
    start = file.tell() + 30 + len(info.filename) + 20 + 4 + len(head.getvalue())
    info.extra = struct.pack("<HH", 0x7757, (-start) % 64) + b"\0" * ((-start) % 64)
    flat = array.reshape(-1)
    step = max(1, _CHUNK // max(1, array.itemsize))
    with archive.open(info, "w", force_zip64=True) as member:
        member.write(head.getvalue())
        for begin in range(0, flat.size, step):
            member.write(np.ascontiguousarray(flat[begin : begin + step]).tobytes())


def open_arrays(
    path: Path, format: str, *, mapped: bool = True, checked: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Open a file written by `save_arrays` (or by `np.savez` with the same members).

    Parameters
    ----------
    path : Path
    format : str
        What the file must be, for instance "winnow-scores/1". The same name with a higher number is refused as newer.
    mapped : bool
        Map the arrays read-only instead of reading them. Reading checks the archive's CRC-32; mapping does not.
    checked : bool
        Compare the CRC-32 of mapped arrays too: reads them once (about 1 GB a second) without keeping them in memory.

    Returns
    -------
    arrays : dict of str to ndarray
    meta : dict

    Raises
    ------
    InputError
        No such file, damaged, not of this format, or a newer version of it.
    """
    arrays, text = open_with_text(path, format, mapped=mapped, checked=checked)
    return arrays, json.loads(text)


def open_with_text(
    path: Path, format: str, *, mapped: bool = True, checked: bool = False
) -> tuple[dict[str, np.ndarray], bytes]:
    """`open_arrays` with the meta as the bytes that are stored, for checksums over them."""
    arrays = {}
    with _opened(path, format) as archive:
        text = _text_of_meta(path, archive, format)
        for info in archive.infolist():
            if info.filename != "meta.npy" and info.filename.endswith(".npy"):
                stored = mapped and info.compress_type == zipfile.ZIP_STORED
                opened = map_member(path, archive, info, checked) if stored else read_member(archive, info)
                arrays[info.filename[:-4]] = opened
    return arrays, text


def open_meta(path: Path, format: str) -> dict[str, Any]:
    """Read the meta of such a file and nothing else; arguments and errors as for `open_arrays`."""
    with _opened(path, format) as archive:
        found: dict[str, Any] = json.loads(_text_of_meta(path, archive, format))
        return found


@contextmanager
def _opened(path: Path, format: str) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever goes wrong in the block is an `InputError` that names the file."""
    kind = format.split("/")[0]
    path = need_file(path, f"a {kind} file")
    if path.suffix == ".beton":
        raise InputError(f"{path}: is a beton; a {kind} file is expected")
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bomb(path, archive)
            yield archive
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's header parser raise all kinds of errors
        why = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: damaged, or not a {kind} file ({why}); fetch or make it again") from None


def refuse_bomb(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise `InputError` where the members would take far more memory than the file has bytes, before any is read."""
    size = path.stat().st_size
    stored = sum(info.file_size for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED)
    packed = sum(info.file_size for info in archive.infolist()) - stored
    if stored > size or packed > max(_UNPACKED, _RATIO * size):
        raise InputError(
            f"{path}: damaged, or made to fill the memory: its {size / 1e6:,.1f} MB claim to hold "
            f"{(stored + packed) / 1e6:,.1f} MB"
        )


def _text_of_meta(path: Path, archive: zipfile.ZipFile, format: str) -> bytes:
    """The meta's JSON, its format checked."""
    text = read_member(archive, archive.getinfo("meta.npy")).tobytes()
    _check_format(path, json.loads(text), format)
    return text


def _check_format(path: Path, meta: Any, format: str) -> None:
    kind, _, number = format.partition("/")
    found = meta.get("format", "") if isinstance(meta, dict) else ""
    found_kind, _, found_number = str(found).partition("/")
    if found_kind != kind:
        raise InputError(f"{path}: is a {found or 'foreign'} file; {kind} is expected")
    if not found_number.isdecimal() or int(found_number) > int(number):
        raise InputError(f"{path}: format {found} is newer than this program reads ({format}): update winnow")


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Read an array, its CRC-32 checked."""
    with archive.open(info) as member:
        head = io.BytesIO(member.read(1 << 14))
        version = np.lib.format.read_magic(head)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = reader(head)
    if head.tell() + dtype.itemsize * math.prod(shape) != info.file_size:
        raise ValueError(f"{info.filename}: shape and size disagree")
    with archive.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        member.read(1)  # zipfile compares the CRC-32 when it meets the end
        return array


def map_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, checked: bool) -> np.ndarray:
    """Map an array that is stored without compression; `ValueError` for a header that cannot be mapped.

    With `checked` it is read once, in pieces, for its CRC-32.
    """
    if checked:
        with archive.open(info) as member:
            while member.read(_CHUNK):  # zipfile compares the CRC-32 when it meets the end
                pass
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        file.seek(info.header_offset + 30 + name_length + extra_length)
        begin = file.tell()
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{info.filename}: npy version {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{info.filename}: object arrays are refused")
    if offset - begin + dtype.itemsize * math.prod(shape) != info.file_size:
        raise ValueError(f"{info.filename}: shape and size disagree")
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
