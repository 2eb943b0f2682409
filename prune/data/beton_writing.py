"""Write the images of a listing into a beton and its manifest, or find that an existing beton is up to date."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prune.data.beton import BetonWriter
from prune.data.colour_profiles import TAKEN_AS_SRGB
from prune.data.image_listing import list_images
from prune.data.listing import AS_USUAL, Listing, Reading, shown_bytes
from prune.data.pixel_values import Unreadable
from prune.data.stored_images import SINCE_0_3, Stored, prepare
from prune.index.manifest import Manifest, digest, manifest_path
from prune.runs.cores import in_order
from prune.runs.files import InputError, atomic, counted, note
from prune.runs.identity import RunOption, identity
from prune.runs.outputs import claim_file
from prune.runs.progress import track


@dataclass(frozen=True)
class WritingSettings:
    """How images are stored in a beton; `prune write` explains each field."""

    side: int | None = None
    quality: int | None = None
    white: float | None = None
    srgb: bool = False
    allow_empty_classes: RunOption[bool] = False
    page_mib: int = 8
    workers: RunOption[int | None] = None
    shard: str | None = None


def write_beton(
    images: str,
    out: Path,
    settings: WritingSettings = WritingSettings(),
    *,
    classes: list[str] | None = None,
    listing: Listing | None = None,
    reading: Reading = AS_USUAL,
) -> None:
    """Write the beton `out` and its manifest, unless they are up to date.

    Parameters
    ----------
    images : str
        A place that `list_images` reads.
    out : Path
        `X.beton`; `X.manifest.npz` goes beside it.
    settings : WritingSettings
    classes : list of str, optional
        Class names in the order of the labels; those found at `images` when absent.
    listing : Listing, optional
        What `list_images(images, classes)` returned, where the caller has listed the images before.
    reading : Reading
        How to list them otherwise, where that is open.

    Raises
    ------
    InputError
        `out` was written from other images or with other settings, no image can be read, or a class has none.
    """
    place = manifest_path(out)
    inputs = {"classes": classes and class_fingerprint(classes)}

    def record(path: Path) -> dict[str, Any]:
        if not place.exists():
            raise InputError(f"{path}: exists without its manifest {place}")
        manifest = Manifest.load(place)
        # The path of the images does not count: the listing is compared instead.
        made = {key: value for key, value in manifest.meta.get("config", {}).items() if key != "images"}
        return made | (inputs if classes == manifest.classes else {})  # the same labels, whoever named them

    def listed() -> Listing:
        whole = list_images(images, classes, reading) if listing is None else listing
        need_two_classes(images, whole)
        if classes is None and not settings.allow_empty_classes and not out.exists():
            need_images(images, whole)
        return whole if settings.shard is None else shard_of(whole, settings.shard)

    part = None if out.exists() else listed()  # a wrong place is refused before anything is written
    with claim_file(out, record, settings, inputs) as done:
        if done:
            _compare(images, out, Manifest.load(place), listed)
            return
        part = part or listed()
        with atomic(out) as partial:
            meta = {"source": _name(images), "config": identity(settings) | inputs}
            manifest = _write_images(images, part, partial, settings, meta)
            place.unlink(missing_ok=True)  # a manifest of an earlier beton must never lie beside this one
            manifest.save(place)
    skipped = manifest.meta["skipped"]
    megabytes = manifest.nbytes.sum(dtype="i8") / 1e6
    size = f"{counted(len(manifest), 'image')}, {megabytes:,.1f} MB, {counted(len(part.classes), 'class')}"
    note(f"{out}: {size}")
    note_ignored(images, part, every_class=classes is None and settings.shard is None)
    if skipped:
        first = f"first {shown_bytes(skipped[0][0])} ({skipped[0][1]})"
        note(f"{out}: skipped {counted(len(skipped), 'unreadable image')}, {first}; `prune verify` lists them")
    note_profiles(out, manifest.meta.get("profiles", {}))


def shard_of(listing: Listing, shard: str) -> Listing:
    """Part K of N of a listing, in its order, so that the parts one after another are the whole.

    Raises
    ------
    InputError
        Not K/N with K from 1 to N, or fewer images than parts.
    """
    given = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", shard)
    number, count = (int(given[1]), int(given[2])) if given else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"--shard {shard}: K/N with K from 1 to N is expected, as in --shard 3/7")
    n = len(listing.ids)
    if count > n:
        raise InputError(f"--shard {shard}: {counted(n, 'image')} cannot be divided into {count} shards")
    first, end = n * (number - 1) // count, n * number // count
    ids, labels = listing.ids[first:end], listing.labels[first:end]
    sizes = listing.class_sizes
    return replace(listing, ids=ids, labels=labels, read=lambda row: listing.read(row + first), of_whole=sizes)


def need_two_classes(images: str, listing: Listing) -> None:
    """Raise `InputError` when a listing has a single class."""
    if len(listing.classes) < 2:
        inside = all(one.count("/") > 1 for one in listing.ids) and Path(images).is_dir()
        deeper = f"; where its own folders are the classes, give {Path(images) / listing.classes[0]}" if inside else ""
        without = "; images without labels: divide them among two folders, and give `prune score --clusters 100`"
        raise InputError(
            f"{images}: holds one class, {listing.classes[0]!r}; at least two are needed{deeper or without}"
        )


def need_images(images: str, listing: Listing) -> None:
    """Raise `InputError` when a class of the whole source has no images."""
    if len(empty := np.flatnonzero(listing.class_sizes == 0)):
        note_ignored(images, listing, every_class=False)
        others = f", and {counted(len(empty) - 1, 'other class', 'other classes')} neither" if len(empty) > 1 else ""
        raise _without_images(images, f"{listing.classes[empty[0]]!r} has no images{others}")


def _without_images(images: str, what: str) -> InputError:
    way = "mend or remove it; `prune write --allow-empty-classes` writes it without images"
    return InputError(f"{images}: the class {what}: {way}")


def note_profiles(out: Path, profiles: dict[str, int]) -> None:
    """Report how many images carry a colour profile that was not applied, by its name."""
    for name in TAKEN_AS_SRGB:
        if count := profiles.get(name, 0):
            note(f"{out}: {counted(count, 'image')} with a colour profile that is {name}: taken as sRGB")
    others = [(name, count) for name, count in profiles.items() if name not in TAKEN_AS_SRGB]
    if kept := sorted(others, key=lambda pair: -pair[1]):
        kinds = ", ".join(f"{count} {ascii(name)[1:-1]}" for name, count in kept[:5])
        total = counted(sum(count for _, count in kept), "JPEG")
        note(
            f"{out}: the bytes of {total} are kept with a colour profile that is not sRGB ({kinds}), which no loader "
            "applies; written anew with --srgb they are converted and encoded again"
        )


def note_ignored(images: str, listing: Listing, *, every_class: bool) -> None:
    """Report what was found and ignored, and, with `every_class`, how many classes have no images."""
    for remark in listing.remarks:
        note(f"{images}: {remark}")
    if listing.ignored:
        most = sorted(listing.ignored.items(), key=lambda kind: (-kind[1], kind[0]))[:5]
        kinds = ", ".join(f"{count} {ascii(suffix)[1:-1] or 'without a suffix'}" for suffix, count in most)
        note(f"{images}: ignored files that are not images by their names or lie outside the class folders: {kinds}")
    counts = np.bincount(listing.labels, minlength=len(listing.classes))
    if every_class and len(empty := np.flatnonzero(counts == 0)):
        have = "has" if len(empty) == 1 else "have"
        note(f"{images}: {counted(len(empty), 'class')} {have} no images (first {listing.classes[empty[0]]!r})")


def _compare(images: str, out: Path, manifest: Manifest, listed: Callable[[], Listing]) -> None:
    """Note that the beton agrees with its source; `InputError` when the images of the source have changed."""
    compared = f"the same as at {images}"
    try:
        listing = listed()
    except InputError as error:
        compared = f"not compared with their source ({error})"
    else:
        if found := difference(listing, manifest):
            raise InputError(f"{images}: {found} since {out} was written: remove it, or give another --out")
    skipped = len(manifest.meta.get("skipped", []))
    left_out = f"{counted(skipped, 'unreadable one')} skipped, " if skipped else ""
    note(f"{out}: {counted(len(manifest), 'image')}, {left_out}{compared}")


def difference(listing: Listing, manifest: Manifest) -> str:
    """Describe how the names and classes of a listing differ from those that a beton was written from; '' if equal.

    Unreadable images, which the beton does not contain, count as known.
    """
    numbers = [f"{k:0{len(str(len(manifest.classes) - 1))}d}" for k in range(len(manifest.classes))]
    # Older versions numbered a parquet file's classes where its metadata names them; labels are compared below.
    if listing.classes != manifest.classes and (manifest.classes != numbers or len(listing.classes) < len(numbers)):
        changed = sorted(set(listing.classes) ^ set(manifest.classes))
        return f"its classes changed (for instance {changed[0]!r})" if changed else "its classes changed their order"
    names = [name.decode("utf-8", "surrogateescape") for name in np.asarray(manifest.ids).tolist()]
    label_of = dict(zip(names, np.asarray(manifest.labels).tolist()))
    known = label_of.keys() | {name for name, _ in manifest.meta.get("skipped", [])}
    if "suffixes" not in manifest.meta:  # version 0.2 left these images out, except where a list named them
        listing = _without_suffixes(listing, SINCE_0_3 - {os.path.splitext(name)[1].lower() for name in known})
    listed = set(listing.ids)
    new, gone = len(listed - known), len(known - listed)
    if new or gone:
        return f"{counted(new, 'image')} came and {gone} went"
    moved = sum(label_of.get(one, label) != label for one, label in zip(listing.ids, listing.labels.tolist()))
    return f"{counted(moved, 'image')} changed the class" if moved else ""


def _without_suffixes(listing: Listing, suffixes: frozenset[str]) -> Listing:
    rows = [row for row, name in enumerate(listing.ids) if os.path.splitext(name)[1].lower() not in suffixes]
    return replace(listing, ids=[listing.ids[row] for row in rows], labels=listing.labels[rows])


def class_fingerprint(classes: list[str]) -> str:
    """SHA-256 of class names in their order, 32 hexadecimal digits."""
    return hashlib.sha256("\0".join(classes).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _name(images: str) -> str:
    return images if images.startswith("torchvision:") else Path(images.removeprefix("list:").split(":")[0]).name


def _write_images(
    images: str, listing: Listing, path: Path, settings: WritingSettings, meta: dict[str, Any]
) -> Manifest:
    """Stream the listed images into the beton at `path`; returns the manifest, not yet saved."""
    how: dict[str, Any] = {name: getattr(settings, name) for name in ("side", "quality", "white", "srgb")}

    def load(row: int) -> Stored | str:
        try:
            return prepare(listing.read(row), **how)
        except OSError as error:
            return error.strerror or str(error)  # without the path, which differs between machines
        except Unreadable as error:
            return str(error)

    n = len(listing.ids)
    kept, digests, checks, skipped = [], np.zeros(n, np.uint64), np.zeros(n, np.uint32), []
    profiles: Counter[str] = Counter()
    left = listing.class_sizes.copy()

    def skip(row: int, reason: str) -> None:
        skipped.append([listing.ids[row], reason])
        label = int(listing.labels[row])
        left[label] -= 1
        if not left[label] and not settings.allow_empty_classes:
            what = f"{listing.classes[label]!r} has no image that can be read"
            raise _without_images(images, f"{what} (last {shown_bytes(listing.ids[row])}: {reason})")

    with BetonWriter(path, n, settings.page_mib << 20) as writer:
        for row, image in enumerate(track(in_order(load, range(n), settings.workers), n, "writing")):
            if isinstance(image, str):
                skip(row, image)
                continue
            shape = {"height": image.height, "width": image.width}
            try:
                at = writer.add(image.data, jpeg=image.jpeg, label=int(listing.labels[row]), **shape)
            except ValueError as error:
                skip(row, str(error))
                continue
            digests[at], checks[at] = digest(image.data), zlib.crc32(image.data)
            kept.append(row)
            profiles.update([image.profile] if image.profile else [])
        if not kept:
            raise InputError(
                f"{images}: none of its {counted(n, 'image')} can be read; first {skipped[0][0]!r} ({skipped[0][1]})"
            )
    k = len(kept)
    stored = writer.samples["image"][:k]
    ids = np.array([listing.ids[row].encode("utf-8", "surrogateescape") for row in kept])
    meta = {**meta, "skipped": skipped, "suffixes": "0.3"} | ({"profiles": dict(profiles)} if profiles else {})
    return Manifest(
        ids, listing.labels[kept], writer.sizes[:k], stored["width"], stored["height"], digests[:k], checks[:k],
        listing.classes, meta,
    )  # fmt: skip
