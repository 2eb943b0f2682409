"""Colours that a file declares without an ICC profile, as such a profile: code points, and the gamma of a PNG.

PNG (third edition, sections 4.3 and 11.3.2) has them in the chunks cICP and gAMA with cHRM, HEIF's formats in a box
`colr` of type `nclx`; the code points are those of ITU-T H.273. Pillow reads gAMA and cHRM, applies none of them, and
ignores the others. What is declared becomes an ICC profile of three primaries and one curve, so that one library
converts all colours.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

HDR = "of high dynamic range (PQ or HLG), which has no one look in sRGB"
UNKNOWN = "of colours that this version does not know"
_D65, _C, _DCI = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351)
_REC709 = (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
_PRIMARIES = {
    1: _REC709,
    2: _REC709,  # unspecified
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (*_DCI, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""H.273, table 2: x and y of white, red, green and blue."""
_SRGB_CURVE = 0.0
_CURVES = {**dict.fromkeys((1, 2, 6, 13, 14, 15), _SRGB_CURVE), 4: 2.2, 5: 2.8, 8: 1.0}
"""H.273, table 3: the exponent, or sRGB's curve, which also stands for video's: those of cameras, meant for displays
whose curve is close to sRGB's, and therefore shown unchanged by common viewers."""
_GAMMA, _NEAR = 1 / 2.2, 0.02
"""PNG's gamma of an image for ordinary displays, by which its writers mean sRGB."""
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def declared(format: str | None, info: Mapping[Any, Any], data: bytes) -> bytes | str:
    """The ICC profile of the colours that a file declares without one; `HDR` or `UNKNOWN` where there is none.

    Parameters
    ----------
    format : str or None
        Pillow's name.
    info : mapping
        Of Pillow's image.
    data : bytes
        The file's content.

    Returns
    -------
    bytes or str
        b"" where nothing is declared, or sRGB.
    """
    if points := code_points(format, data):
        primaries, curve, matrix, whole = points
        if curve in (16, 18):
            return HDR
        if primaries not in _PRIMARIES or curve not in _CURVES or (format == "PNG" and (matrix or not whole)):
            return UNKNOWN
        return _icc(_PRIMARIES[primaries], _CURVES[curve]) or b""
    if format != "PNG" or "srgb" in info or not {"gamma", "chromaticity"} & info.keys():
        return b""
    gamma = info.get("gamma", _GAMMA)
    if gamma <= 0:
        return UNKNOWN
    found = _icc(tuple(info.get("chromaticity", _REC709)), _SRGB_CURVE if abs(gamma - _GAMMA) < _NEAR else 1 / gamma)
    return UNKNOWN if found is None else found


def code_points(format: str | None, data: bytes) -> tuple[int, int, int, bool] | None:
    """Code points of H.273: primaries, curve, matrix, and whether the values use their whole range; None without them.

    Examples
    --------
    >>> chunk = (4).to_bytes(4, "big") + b"cICP" + bytes([12, 13, 0, 1]) + bytes(4)
    >>> code_points("PNG", bytes(8) + chunk)
    (12, 13, 0, True)
    """
    if format == "PNG":
        at = 8
        while at + 8 <= len(data) and data[at + 4 : at + 8] not in (b"IDAT", b"IEND"):
            size = int.from_bytes(data[at : at + 4], "big")
            if data[at + 4 : at + 8] == b"cICP" and size == 4:
                primaries, curve, matrix, whole = data[at + 8 : at + 12].ljust(4, b"\0")
                return primaries, curve, matrix, bool(whole)
            at += 12 + size
        return None
    if format not in ("AVIF", "HEIF"):
        return None
    found = re.search(rb"colrnclx(.{7})", data[: data.find(b"mdat")], re.DOTALL)
    if found is None:
        return None
    primaries, curve, matrix = struct.unpack(">3H", found[1][:6])
    return primaries, curve, matrix, found[1][6] >= 128


@lru_cache(maxsize=16)
def _icc(points: tuple[float, ...], exponent: float) -> bytes | None:
    """An ICC profile (version 2) of white, three primaries and a curve; b"" for sRGB, None where they span no colours.

    Parameters
    ----------
    points : 8 floats
        x and y of white, red, green and blue.
    exponent : float
        Of the curve from values to light; `_SRGB_CURVE`.
    """
    if points == _REC709 and exponent == _SRGB_CURVE:
        return b""
    x, y = np.array(points).reshape(4, 2).T
    if (y <= 0).any():
        return None
    white, *primaries = np.stack([x / y, np.ones(4), (1 - x - y) / y], 1)
    columns = np.array(primaries).T
    if abs(np.linalg.det(columns)) < 1e-6:
        return None
    columns = columns * np.linalg.solve(columns, white)
    # Bradford's adaptation to the white of ICC's profiles (ICC.1:2001, annex E).
    columns = np.linalg.solve(_BRADFORD, np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD @ columns)
    values = np.linspace(0, 1, 4096)
    light = values**exponent
    if exponent == _SRGB_CURVE:
        light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    curve = b"curv" + bytes(4) + struct.pack(">I", 4096) + (light * 65535).round().astype(">u2").tobytes()
    tags = {b"wtpt": _xyz(_D50), b"desc": b"desc" + bytes(4) + struct.pack(">I", 9) + b"declared\0" + bytes(78)}
    tags |= {b"cprt": b"text" + bytes(4) + b"CC0\0"}
    tags |= {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T)}
    places, body, begin = {}, b"", 128 + 4 + 12 * (len(tags) + 3)
    for name, content in {**tags, b"rTRC": curve}.items():
        places[name] = (begin + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    places |= {b"gTRC": places[b"rTRC"], b"bTRC": places[b"rTRC"]}
    table = struct.pack(">I", len(places)) + b"".join(struct.pack(">4sII", k, *v) for k, v in places.items())
    head = struct.pack(">I4xI4s4s4s12x4s28x", begin + len(body), 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return (head + _xyz(_D50)[8:]).ljust(128, b"\0") + table + body


def _xyz(values: np.ndarray) -> bytes:
    """A tag of type XYZ: three signed numbers with 16 bits behind the point."""
    return b"XYZ " + bytes(4) + (values * 65536).round().astype(">i4").tobytes()
