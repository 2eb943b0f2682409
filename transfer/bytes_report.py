"""Write the page of bytes as a budget.

    transfer bytes storage.json --curves runs/photos.curves.npz --source runs/photos.beton --out runs/bytes.html

storage.json is what tests/benchmarks/storage.py writes. With curves and source the images that compression hurts most
and least stand side by side: the original and the same image at every second quality of the ladder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from prune.runs.files import InputError, at_least, atomic, note, read_json


@dataclass(frozen=True)
class Config:
    result: Annotated[Path, tyro.conf.Positional]
    """JSON of the accuracy table."""
    out: Path
    """Page to write."""
    curves: Path | None = None
    """Curves of `prune curves`, for the images most and least hurt."""
    source: Path | None = None
    """Beton of these curves."""
    pictures: int = 6
    """Images of each kind."""


def run(config: Config) -> None:
    """Write the page."""
    from transfer.pages.bytes_page import page

    if (config.curves is None) != (config.source is None):
        raise InputError("--curves and --source go together")
    at_least(config, 1, "pictures")
    result = read_json(config.result)
    if not isinstance(result, dict) or not isinstance(result.get("cells"), list):
        raise InputError(f"{config.result}: not a table of tests/benchmarks/storage.py accuracy: it holds no cells")
    if config.out.is_dir():
        raise InputError(f"{config.out}: is a directory")
    hurt = hurt_groups(config.curves, config.source, config.pictures) if config.curves and config.source else []
    text = page(result, hurt)
    with atomic(config.out) as partial:
        partial.write_text(text, encoding="utf-8")
    note(f"{config.out}: {len(text) / 1e6:.1f} MB")


def hurt_groups(curves: Path, source: Path, count: int) -> list[dict[str, Any]]:
    """The images with the largest and the smallest share of their features lost at the middle quality."""
    import numpy as np

    from prune.data.dataset import checked, open_dataset
    from prune.data.image_codecs import HALF, decode, encode_level
    from prune.data.stored_images import Stored
    from prune.data.stored_images import decode as original_of
    from prune.gallery.thumbnails import data_uri
    from prune.index.index_summary import quality_name
    from prune.index.npz import open_arrays

    arrays, meta = open_arrays(curves, "winnow-curves/1")
    opened = open_dataset(source)
    if meta.get("fingerprint") != opened.manifest.fingerprint:
        raise InputError(f"{curves}: curves of another source than {source}")
    level = np.asarray(arrays["level"])
    ladder = [int(q) for q in level if 0 < q <= HALF]
    middle = int(np.flatnonzero(level == ladder[len(ladder) // 2])[0])
    share = np.where(arrays["measured"], arrays["fmse"][:, middle] / arrays["dropped"], np.nan)
    order = np.argsort(share, kind="stable")[: int(np.isfinite(share).sum())]

    def row(place: int) -> dict[str, Any]:
        stored = checked(opened, place)
        pixels = original_of(stored)
        images = [{"src": data_uri(stored, 1 << 16), "text": f"original, {len(stored.data):,} bytes"}]
        for quality in ladder[::2]:
            data = encode_level(pixels, quality)
            height, width = decode(data).shape[:2]
            uri = data_uri(Stored(decode(data).tobytes(), False, height, width), 1 << 16)
            images.append({"src": uri, "text": f"quality {quality_name(quality)}, {len(data):,} bytes"})
        name = bytes(opened.manifest.ids[place]).decode("utf-8", "backslashreplace")
        return {"name": f"{name}: {share[place]:.0%} of its features at quality {level[middle]}", "images": images}

    return [
        {"title": "Most hurt", "rows": [row(int(place)) for place in order[::-1][:count]]},
        {"title": "Least hurt", "rows": [row(int(place)) for place in order[:count]]},
    ]
