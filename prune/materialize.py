"""Copy the images that an index keeps into a beton of their own, for instance to a node's local disk.

    prune materialize runs/winnow-20.index.npz --source runs/photos.beton --out /local/winnow-20.beton

Writes X.beton and X.manifest.npz. Images to which the index gives a lower quality are re-encoded; all others keep
their bytes. Every image is checked against the manifest. After a kill the same command resumes.
Train on all of the new beton, without an index.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from prune.runs.files import InputError, at_least, counted, need_file, note
from prune.runs.identity import Location, RunOption, identity
from prune.runs.outputs import claim_file

if TYPE_CHECKING:
    from prune.data.dataset import Dataset
    from prune.data.jpeg_tables import JpegTables
    from prune.data.stored_images import Stored
    from prune.index.pruned_index import PrunedIndex


@dataclass(frozen=True)
class Config:
    index: Location[Annotated[Path, tyro.conf.Positional]]
    """Index file, NAME.index.npz."""
    source: Location[Path]
    """Beton that the index was made from, X.beton, or the folder or pattern of several."""
    out: Location[Path]
    """Beton to write; its manifest goes beside it."""
    tables: Location[Path | None] = None
    """JPEG tables of `prune codecs --fit`, where the index was planned with them."""
    allow_changed: bool = False
    """Accept another source if it has at least some of the samples; recorded in the manifest."""
    workers: RunOption[int | None] = None
    """Threads that read and encode; all cores when absent."""


def run(config: Config) -> Path:
    """Write the beton and its manifest; returns the beton's path."""
    at_least(config, 1, "workers")
    import json

    from prune.byte_budget.budget_inputs import fitted_tables
    from prune.data.dataset import open_dataset
    from prune.data.resumable_beton import ResumableBeton
    from prune.data.sample_fields import open_fields, save_fields
    from prune.index.manifest import manifest_path
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex

    need_file(config.index, "an index of `prune select`")
    if config.out.suffix != ".beton":
        raise InputError(f"--out {config.out}: the name must end in .beton")
    if config.source.is_dir() and config.out.resolve().parent == config.source.resolve():
        raise InputError(f"--out {config.out}: lies in the source's folder, whose betons are one source: name another")
    if config.out.resolve() == config.source.resolve():
        raise InputError(f"--out {config.out}: is the source itself")
    index, source = PrunedIndex.load(config.index), open_dataset(config.source)
    planned: dict[str, Any] = next((s for s in reversed(index.provenance) if s.get("step") == "budget"), {})
    wanted = planned.get("inputs", {}).get("tables")
    tables = fitted_tables(config.tables, wanted, config.index) if wanted or config.tables else None
    inputs = {"index": index.fingerprint, "source": source.manifest.fingerprint}
    inputs |= {} if tables is None else {"tables": tables.fingerprint}
    step = record("materialize", identity(config), inputs)
    index = index.rebased(source.manifest, allow_changed=config.allow_changed)
    place, work = manifest_path(config.out), {**step["config"], **step["inputs"]}
    if not len(index):
        raise InputError(f"{config.index}: keeps no samples")
    with claim_file(config.out, _record, config, inputs) as done:
        if done:
            return config.out
        _check_space(config.out, index, source)
        with ResumableBeton(config.out, json.dumps(work, sort_keys=True)) as files:
            try:
                manifest = _copy(files, index, source, config.workers, tables)
            except InputError:
                files.discard()
                raise
            except OSError as error:
                raise InputError(f"{config.out}: {error.strerror or error}; the same command resumes here") from None
            meta = {"source": source.name, "skipped": [], "config": step["config"], "inputs": step["inputs"]}
            manifest.meta.update(meta, provenance=[*index.provenance, step])
            manifest.save(place)
            if (fields := open_fields(config.source)) is not None:
                save_fields(fields.take(index.positions), manifest, place)
            files.finish()
        size, held = int(manifest.nbytes.sum(dtype="i8")), config.out.stat().st_size
        note(f"{config.out}: {counted(len(index), 'image')} of {size / 1e6:,.1f} MB, a file of {held / 1e6:,.1f} MB")
    return config.out


def _record(out: Path) -> dict[str, Any]:
    from prune.index.manifest import Manifest, manifest_path

    if not manifest_path(out).is_file():
        raise InputError(f"{out}: exists and was not written by this command")
    meta = Manifest.load(manifest_path(out)).meta
    found: dict[str, Any] = meta.get("config", {}) | meta.get("inputs", {})
    return found


def _check_space(out: Path, index: PrunedIndex, source: Dataset) -> None:
    """Raise `InputError` when the disk has too little space."""
    import os
    import shutil

    from prune.data.beton import best_page, beton_bytes

    needed = beton_bytes(index.nbytes, best_page(index.nbytes))
    if index.quality.any() and not any(step.get("step") == "budget" for step in index.provenance):
        needed += needed // 10  # sizes that were not measured
    folder = out.absolute().parent
    while not folder.exists():
        folder = folder.parent
    partial = out.with_name(f".{out.name}.partial")
    free = shutil.disk_usage(folder).free + (os.stat(partial).st_blocks * 512 if partial.exists() else 0)
    if needed > free:
        raise InputError(f"{out}: needs {needed / 1e6:,.1f} MB, and {folder} has {free / 1e6:,.1f} MB free")


def _copy(files: Any, index: PrunedIndex, source: Dataset, workers: int | None, tables: JpegTables | None) -> Any:
    """Write the images that are still missing; returns the manifest, not yet saved."""
    import numpy as np

    from prune.data.beton import best_page
    from prune.data.image_codecs import HALF
    from prune.data.orientation import orientation_of
    from prune.index.manifest import Manifest, digest
    from prune.runs.cores import in_order
    from prune.runs.progress import track

    k, old = len(index), source.manifest
    digests, checks = old.digests[index.positions], old.crc32[index.positions]

    def shape(row: int) -> tuple[bool, int, int, int]:
        image = source.beton.samples["image"][index.positions[row]]
        jpeg = bool(image["mode"] == 0) or index.quality[row] > 0
        shrink = 2 if index.quality[row] > HALF else 1
        height, width = -(-int(image["height"]) // shrink), -(-int(image["width"]) // shrink)
        if index.quality[row] and orientation_of(source.beton.stored(int(index.positions[row]))[0]) >= 5:
            height, width = width, height  # it was turned when it was encoded
        return jpeg, height, width, int(index.labels[row])

    def right(row: int, data: bytes) -> bool:
        if index.quality[row] == 0:
            return zlib.crc32(data) == int(checks[row])
        digests[row], checks[row] = digest(data), zlib.crc32(data)
        return True

    with files.start(k, best_page(index.nbytes), shape, right) as writer:
        begin = writer.count
        if begin:
            note(f"{files.out}: resumes after {counted(begin, 'image')}")
        images = in_order(lambda row: _image(index, source, row, tables), range(begin, k), workers)
        for row, image in zip(range(begin, k), track(images, k - begin, "copying")):
            _check_allocated(index, row, len(image.data))
            writer.add(
                image.data, jpeg=image.jpeg, height=image.height, width=image.width, label=int(index.labels[row])
            )
            if index.quality[row] > 0:
                digests[row], checks[row] = digest(image.data), zlib.crc32(image.data)
            files.image_added(writer, len(image.data))
    records = writer.samples["image"][:k]
    sizes = writer.sizes[:k].astype(np.int32)
    width, height = records["width"].astype(np.int32), records["height"].astype(np.int32)
    return Manifest(index.ids, index.labels, sizes, width, height, digests, checks, index.classes, {})


def _image(index: PrunedIndex, source: Dataset, row: int, tables: JpegTables | None) -> Stored:
    """One image in the form in which it is stored; `InputError` when its bytes are damaged."""
    from prune.data.dataset import stored_image
    from prune.data.image_codecs import HALF, encode_level, halved
    from prune.data.stored_images import Stored, decode

    stored, level = stored_image(source, int(index.positions[row])), int(index.quality[row])
    if not level:
        return stored
    pixels = decode(stored)
    height, width = (halved(pixels) if level > HALF else pixels).shape[:2]
    return Stored(encode_level(pixels, level, tables) if tables else encode_level(pixels, level), True, height, width)


def _check_allocated(index: PrunedIndex, row: int, size: int) -> None:
    """Refuse an encoder that gives other bytes than the one measured: a budget is exact to the byte."""
    if size != int(index.nbytes[row]) and any(step.get("step") == "budget" for step in index.provenance):
        name = bytes(index.ids[row]).decode("utf-8", "backslashreplace")
        raise InputError(
            f"image {name!r} takes {size} bytes, and {int(index.nbytes[row])} are allocated: the curves were measured "
            "with another encoder (version of Pillow); run `prune curves` and `prune budget` here"
        )
