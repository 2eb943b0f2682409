"""Turn images into a beton and its manifest.

    prune write --images photos/train --out runs/photos.beton
    prune write --images photos/test --out runs/photos-test.beton --classes runs/photos.manifest.npz
    prune write --images val.txt --root ILSVRC/val --out runs/val.beton --classes runs/photos.manifest.npz
    prune write --images 'imagenet/data/train-*.parquet' --out runs/imagenet.beton
    prune write --images photos --shard 3/7 --out runs/photos/3.beton      (an array job; runs/photos is the source)

JPEG files keep their bytes unless --side, --quality or --srgb changes them; lossless files are stored as raw pixels, in
sRGB. Every image is decoded once: unreadable ones are skipped, counted, and named with the reason in the manifest.
About 2,000 images of 256 px a second and core.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prune.runs.files import InputError, at_least, counted, note, positive
from prune.runs.identity import Location, RunOption


@dataclass(frozen=True)
class Config:
    images: Location[str]
    """Folder with one folder per class, a list of paths and classes (.csv, .tsv, .txt, .jsonl),
    `torchvision:NAME:ROOT[:SPLIT]`, parquet files or WebDataset .tar shards (a file, a folder, a pattern), a folder of
    `save_to_disk`, `hf://OWNER/NAME:SPLIT`; docs/inputs.md has examples of all."""
    out: Location[Path]
    """Beton to write, `X.beton`; `X.manifest.npz` goes beside it."""
    classes: Location[Path | None] = None
    """Manifest (or its beton) whose class list to use, so that a test split's labels match its train split's."""
    side: int | None = None
    """Shrink images whose shorter side is longer than this many pixels."""
    quality: int | None = None
    """Re-encode every image as a JPEG of this quality (1 to 100)."""
    white: float | None = None
    """The value of white in images of more than 8 bits that do not declare their range: 4095 for 12 bits, 1 for floats
    from 0 to 1. Without it such images are skipped, and named, where they would be stored black."""
    srgb: bool = False
    """Convert JPEGs whose colour profile is not sRGB, as phones' Display P3, and encode them again with quality 95 (or
    --quality). Pixels that are stored raw or encoded again are converted without it."""
    allow_empty_classes: RunOption[bool] = False
    """Write a class without a single image that can be read, which is an error otherwise."""
    fields: Location[Path | None] = None
    """CSV table with a column id and a column for each field of an image, as licence or consent; `X.fields.npz` goes
    beside the manifest. Of a beton that is up to date the fields alone are written anew."""
    root: Location[Path | None] = None
    """Folder that the paths of a list are relative to; the list's own when absent."""
    path_column: RunOption[str | None] = None
    """Column of a list or table that holds the paths or images: its name, or its number from 1."""
    label_column: RunOption[str | None] = None
    """Column of a list or table that holds the classes: its name, or its number from 1."""
    delimiter: RunOption[str | None] = None
    """What separates the columns of a list, where it cannot be told."""
    nested: RunOption[bool] = False
    """The folders of --images are classes although their own folders look like those of a split."""
    page_mib: int = 8
    """Page size of the beton in MiB, a power of two: the largest image that fits."""
    shard: str | None = None
    """K/N: write part K of N of the images, for array jobs that share the work; every command then reads the folder of
    the N betons, or a pattern such as 'photos/*.beton', as one source."""
    workers: RunOption[int | None] = None
    """Threads that read and decode; all cores when absent."""
    dry_run: RunOption[bool] = False
    """Count the images and write nothing."""


def run(config: Config) -> None:
    """Write `config.out` and its manifest."""
    _check(config)
    from prune.data.beton_writing import (
        WritingSettings,
        need_images,
        need_two_classes,
        note_ignored,
        shard_of,
        write_beton,
    )
    from prune.data.image_listing import list_images
    from prune.data.listing import Reading
    from prune.data.sample_fields import attach, read_fields
    from prune.index.manifest import manifest_path, open_manifest

    table = None if config.fields is None else read_fields(config.fields)
    classes = open_manifest(config.classes).classes if config.classes else None
    reading = Reading(config.nested, config.root, config.path_column, config.label_column, config.delimiter)
    if config.dry_run and not config.out.exists():
        listing = list_images(config.images, classes, reading)
        need_two_classes(config.images, listing)
        if classes is None and not config.allow_empty_classes:
            need_images(config.images, listing)
        listing = listing if config.shard is None else shard_of(listing, config.shard)
        found = f"{counted(len(listing.ids), 'image')} in {counted(len(listing.classes), 'class')}"
        note(f"{config.images}: {found}; nothing is written")
        note_ignored(config.images, listing, every_class=classes is None and config.shard is None)
        return
    settings = WritingSettings(**{name: getattr(config, name) for name in vars(WritingSettings())})
    write_beton(config.images, config.out, settings, classes=classes, reading=reading)
    if table is not None:
        attach(table, manifest_path(config.out))


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
    positive(config, "white")
    if config.page_mib < 2 or config.page_mib & (config.page_mib - 1) or config.page_mib > 2048:
        raise InputError(f"--page-mib {config.page_mib}: a power of two from 2 to 2048 is needed")
