"""Opens what Pillow reads, by itself or by a plug-in that is installed, and names by its content what it does not read.

Plug-ins for HEIC and JPEG XL bring decoders under the GPL or LGPL: they are no part of this project, and are used where
a user has installed them.
"""

from __future__ import annotations

import importlib
import io
from functools import cache

from PIL import Image, UnidentifiedImageError, features

from prune.data.pixel_values import Unreadable

_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_VIDEO = frozenset({b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ", b"3gp4", b"3gp5"})
_PLUGINS = {
    "HEIC": (("pillow_heif", "register_heif_opener"), ("pi_heif", "register_heif_opener")),
    "JPEG XL": (("pillow_jxl", ""), ("jxlpy.JXLImagePlugin", "")),
    "AVIF": (("pillow_avif", ""),),
}
"""Modules of plug-ins, and the function of each that registers it where its import does not."""
_WAYS = {
    "HEIC": "install a plug-in of Pillow (pip install pillow-heif), or convert it to JPEG or PNG",
    "JPEG XL": "install a plug-in of Pillow (pip install pillow-jxl-plugin), or convert it to JPEG or PNG",
    "AVIF": "install a Pillow that reads it (pip install -U pillow), or convert it to JPEG or PNG",
    "a video": "extract its frames as images",
    "SVG, a drawing without pixels": "render it as PNG",
    "PDF": "render its pages as PNG",
    "a web page": "fetch the image again, with the login that its address needs",
    "a pointer of Git LFS": "fetch the image with git lfs pull",
    "a camera's raw file": "develop it as JPEG or TIFF",
    "an archive": "unpack it",
}


def open_image(data: bytes) -> Image.Image:
    """Open an encoded image.

    Raises
    ------
    Unreadable
        Something that Pillow does not read: what it is, and the way out.
    UnidentifiedImageError
        Something unknown.
    """
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        kind = kind_of(data)
        if not kind:
            raise
        if _registered(kind):
            return Image.open(io.BytesIO(data))
        raise Unreadable(f"is {kind}, which Pillow does not read here: {_WAYS[kind]}") from None


def kind_of(data: bytes) -> str:
    """Name what a file holds by its first bytes, whatever its suffix; "" where it is not known.

    Examples
    --------
    >>> kind_of(bytes.fromhex("ff0a"))
    'JPEG XL'
    """
    if data[:2] == b"\xff\x0a" or data[:12] == bytes.fromhex("0000000c4a584c200d0a870a"):
        return "JPEG XL"
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, size - 3, 4))}
        if brands & {b"avif", b"avis"}:
            return "" if features.check("avif") else "AVIF"
        if b"crx " in brands:
            return "a camera's raw file"
        return "HEIC" if brands & _HEIC else "a video" if brands & _VIDEO else ""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if start.startswith(b"<svg") or (start.startswith((b"<?xml", b"<!doctype svg")) and b"<svg" in data[:4096].lower()):
        return "SVG, a drawing without pixels"
    beginnings = {
        b"%PDF-": "PDF",
        b"version https://git-lfs": "a pointer of Git LFS",
        b"FUJIFILMCCD-RAW": "a camera's raw file",
        b"PK\x03\x04": "an archive",
        b"\x1f\x8b": "an archive",
        b"\x1aE\xdf\xa3": "a video",
    }
    return next((kind for begin, kind in beginnings.items() if data.startswith(begin)), "")


@cache
def _registered(kind: str) -> bool:
    """Whether a plug-in for a format is installed; it is registered with Pillow."""
    for module, register in _PLUGINS.get(kind, ()):
        try:
            plugin = importlib.import_module(module)
            if register:
                getattr(plugin, register)()
        except Exception:  # not installed, or not for this Pillow
            continue
        return True
    return False
