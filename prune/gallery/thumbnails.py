"""Stored images as data URIs of a limited size, for pages that open without a network."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from prune.data.stored_images import Stored, decode

_SIDE = 112


def data_uri(stored: Stored, limit: int) -> str:
    """Give an image as a `data:` URI.

    A small JPEG keeps its bytes; any other image becomes a PNG or a JPEG of at most 112 px a side.

    Parameters
    ----------
    stored : Stored
    limit : int
        Most bytes of the encoded image (before base64, which adds a third): the quality is lowered first, then the
        size.

    Raises
    ------
    Exception
        What Pillow raises when the bytes are not an image.
    """
    if stored.jpeg and len(stored.data) <= limit and max(stored.height, stored.width) <= 2 * _SIDE:
        decode(stored)  # bytes that are no image must not reach the page
        return _uri("jpeg", stored.data)
    image = Image.fromarray(np.ascontiguousarray(decode(stored)))
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    if not stored.jpeg and max(image.size) <= 64 and len(data := _encoded(image, "PNG")) <= limit:
        return _uri("png", data)
    for side, quality in ((_SIDE, 82), (_SIDE, 65), (80, 60), (56, 50), (32, 40)):
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = _encoded(image, "JPEG", quality=quality, optimize=True)
        if len(data) <= limit:
            break
    return _uri("jpeg", data)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
