"""Turn images into a beton and its manifest.

    prune write --images photos/train --out runs/photos.beton
    prune write --images photos/test --out runs/photos-test.beton --classes runs/photos.manifest.npz

JPEG files keep their bytes unless --side or --quality asks for others; lossless files are stored as raw pixels. Every
image is decoded once: an unreadable one is left out, counted, and named with the reason in the manifest.
About 2,000 images of 256 px a second and core.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.runs.files import InputError, at_least, atomic, note
from prune.runs.identity import Location, RunOption, identity
from prune.runs.outputs import claim_file

if TYPE_CHECKING:
    from prune.data.image_listing import Listing
    from prune.index.manifest import Manifest


@dataclass(frozen=True)
class Config:
    images: Location[str]
    """Folder with one folder per class, `torchvision:NAME:ROOT[:SPLIT]`, or a .parquet file."""
    out: Location[Path]
    """Beton to write, `X.beton`; `X.manifest.npz` goes beside it."""
    classes: Location[Path | None] = None
    """Manifest (or its beton) whose class list to use, so that a test split's labels match its train split's."""
    side: int | None = None
    """Shrink images whose shorter side is longer than this many pixels."""
    quality: int | None = None
    """Encode every image anew as a JPEG of this quality (1 to 100)."""
    page_mib: int = 8
    """Page size of the beton in MiB, a power of two: the largest image that fits."""
    workers: RunOption[int | None] = None
    """Threads that read and decode; all cores when absent."""
    dry_run: RunOption[bool] = False
    """List what is there and write nothing."""


def run(config: Config) -> None:
    """Write `config.out` and its manifest."""
    from prune.index.manifest import Manifest, manifest_path, open_manifest

    _check(config)
    place = manifest_path(config.out)
    classes = open_manifest(config.classes).classes if config.classes else None
    inputs = {"classes": classes and _fingerprint(classes)}

    def record(out: Path) -> dict[str, Any]:
        if not place.exists():
            raise InputError(f"{out}: exists without its manifest {place}")
        manifest = Manifest.load(place)
        same = inputs if classes == manifest.classes else {}  # the same labels, whoever named them
        made: dict[str, Any] = manifest.meta.get("config", {})
        return made | same

    with claim_file(config.out, record, config, inputs) as done:
        if done:
            _compare_with_source(config, Manifest.load(place), classes)
        else:
            _write_all(config, classes, identity(config) | inputs)


def _write_all(config: Config, classes: list[str] | None, made: dict[str, Any]) -> None:
    from prune.data.image_listing import list_images
    from prune.index.manifest import manifest_path

    place = manifest_path(config.out)
    listing = list_images(config.images, classes)
    if len(listing.classes) < 2:
        raise InputError(f"{config.images}: holds one class, {listing.classes[0]!r}; at least two are needed")
    if config.dry_run:
        note(f"{config.images}: {len(listing.ids)} images in {len(listing.classes)} classes; nothing is written")
        _say_left_alone(config, listing)
        return
    with atomic(config.out) as partial:
        manifest = _write(listing, partial, config, {"source": _name(config.images), "config": made})
        place.unlink(missing_ok=True)  # a manifest of an earlier beton must never stand beside this one
        manifest.save(place)
    skipped = manifest.meta["skipped"]
    megabytes = manifest.nbytes.sum(dtype="i8") / 1e6
    note(f"{config.out}: {len(manifest)} images, {megabytes:,.1f} MB, {len(listing.classes)} classes")
    _say_left_alone(config, listing)
    if skipped:
        note(f"{config.out}: left out {len(skipped)} unreadable images, first {skipped[0][0]!r} ({skipped[0][1]})")


def _say_left_alone(config: Config, listing: Listing) -> None:
    """Name the files that a folder holds and nobody reads, and classes without images."""
    import numpy as np

    if listing.ignored:
        most = sorted(listing.ignored.items(), key=lambda kind: (-kind[1], kind[0]))[:5]
        kinds = ", ".join(f"{count} {ascii(suffix)[1:-1] or 'without a suffix'}" for suffix, count in most)
        note(f"{config.images}: left alone what is no image by its name, or lies outside the class folders: {kinds}")
    counts = np.bincount(listing.labels, minlength=len(listing.classes))
    if len(empty := np.flatnonzero(counts == 0)) and config.classes is None:
        note(f"{config.images}: {len(empty)} classes have no images (first {listing.classes[empty[0]]!r})")


def _compare_with_source(config: Config, manifest: Manifest, classes: list[str] | None) -> None:
    """Say that the beton is there; `InputError` when other images lie at its source by now."""
    from prune.data.image_listing import list_images

    looked = ""
    try:
        listing = list_images(config.images, classes)
    except InputError as error:
        looked = f" (not compared with its source: {error})"
    else:
        if found := difference(listing, manifest):
            raise InputError(
                f"{config.images}: {found} since {config.out} was written: remove it, or give another --out"
            )
    skipped = len(manifest.meta.get("skipped", []))
    left_out = f", {skipped} unreadable ones left out" if skipped else ""
    note(f"{config.out}: {len(manifest)} images are there already{left_out}{looked}")


def difference(listing: Listing, manifest: Manifest) -> str:
    """Say how the names and classes at a source differ from those that a beton was written from; '' when they do not.

    Unreadable images, which the beton does without, count as known.
    """
    import numpy as np

    if listing.classes != manifest.classes:
        changed = sorted(set(listing.classes) ^ set(manifest.classes))
        return f"its classes changed (for instance {changed[0]!r})" if changed else "its classes changed their order"
    known = {name.decode("utf-8", "surrogateescape") for name in np.asarray(manifest.ids).tolist()}
    known.update(name for name, _ in manifest.meta.get("skipped", []))
    listed = set(listing.ids)
    new, gone = len(listed - known), len(known - listed)
    return f"{new} images came and {gone} went" if new or gone else ""


def _check(config: Config) -> None:
    if config.out.suffix != ".beton":
        raise InputError(f"--out {config.out}: the name must end in .beton")
    if config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; it names the beton")
    if config.quality is not None and not 1 <= config.quality <= 100:
        raise InputError(f"--quality {config.quality}: 1 to 100 is possible")
    if config.side is not None and not 1 <= config.side <= 65535:
        raise InputError(f"--side {config.side}: 1 to 65535 pixels are possible")
    at_least(config, 1, "workers")
    if config.page_mib < 2 or config.page_mib & (config.page_mib - 1) or config.page_mib > 2048:
        raise InputError(f"--page-mib {config.page_mib}: a power of two from 2 to 2048 is needed")


def _fingerprint(classes: list[str]) -> str:
    return hashlib.sha256("\0".join(classes).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _name(images: str) -> str:
    return images if images.startswith("torchvision:") else Path(images).name


def _write(listing: Listing, path: Path, config: Config, meta: dict[str, Any]) -> Any:
    """Stream the listing into the beton at `path`; returns the manifest (not yet saved)."""
    import numpy as np

    from prune.data.beton import BetonWriter
    from prune.data.stored_images import Unreadable, prepare
    from prune.index.manifest import Manifest, digest
    from prune.runs.cores import in_order
    from prune.runs.progress import track

    def load(row: int) -> Any:
        try:
            return prepare(listing.read(row), side=config.side, quality=config.quality)
        except (Unreadable, OSError) as error:
            return str(error)

    n = len(listing.ids)
    kept, digests, checks, skipped = [], np.zeros(n, np.uint64), np.zeros(n, np.uint32), []
    with BetonWriter(path, n, config.page_mib << 20) as writer:
        for row, image in enumerate(track(in_order(load, range(n), config.workers), n, "writing")):
            reason = image if isinstance(image, str) else None
            if reason is None:
                try:
                    at = writer.add(
                        image.data,
                        jpeg=image.jpeg,
                        height=image.height,
                        width=image.width,
                        label=int(listing.labels[row]),
                    )
                except ValueError as error:
                    reason = str(error)
            if reason is not None:
                skipped.append([listing.ids[row], reason])
                continue
            digests[at], checks[at] = digest(image.data), zlib.crc32(image.data)
            kept.append(row)
        if not kept:
            raise InputError(
                f"{config.images}: none of its {n} images can be read; first {skipped[0][0]!r} ({skipped[0][1]})"
            )
    k = len(kept)
    images = writer.samples["image"][:k]
    ids = np.array([listing.ids[row].encode("utf-8", "surrogateescape") for row in kept])
    return Manifest(
        ids, listing.labels[kept], writer.sizes[:k], images["width"], images["height"], digests[:k], checks[:k],
        listing.classes, {**meta, "skipped": skipped},
    )  # fmt: skip
