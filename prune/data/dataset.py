"""A data set opened for use: the beton and its manifest, checked against each other."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune.data.beton import BetonFile, open_beton
from prune.data.several_betons import join
from prune.index.index_file import read_meta
from prune.index.manifest import Manifest, manifest_path, merged, several, shards_at
from prune.runs.files import InputError

if TYPE_CHECKING:
    from prune.data.stored_images import Stored


@dataclass(frozen=True)
class Dataset:
    """A beton and the manifest beside it; row i of one is row i of the other."""

    beton: BetonFile
    manifest: Manifest

    def __len__(self) -> int:
        return len(self.beton)

    @property
    def name(self) -> str:
        """File name without `.beton`; of several betons, that of their folder or the fixed beginning of their names."""
        return dataset_name(self.beton.path)


def dataset_name(path: Path) -> str:
    """The name of the data set at `path`: a beton, or the folder or pattern of several.

    Examples
    --------
    >>> [dataset_name(Path(place)) for place in ("runs/a.beton", "runs/photos/*.beton", "runs/photos-*.beton")]
    ['a', 'photos', 'photos']
    """
    fixed = re.split(r"[*?\[]", path.name)[0]
    if fixed == path.name:
        return path.name.removesuffix(".beton") or path.resolve().name
    return fixed.rstrip("-_.") or path.absolute().parent.resolve().name


def open_dataset(path: Path) -> Dataset:
    """Open `X.beton` and `X.manifest.npz`, and check structure and agreement without reading the images.

    A folder of betons, or a pattern such as `photos/*.beton`, is opened as one data set whose images are in the order
    of their ids, so that the same images in one beton or in several give the same results.

    Under one second for a million images. Damage inside an image is found when a loader decodes it (CRC-32), or by
    `prune verify --deep` for all images at once.

    Raises
    ------
    InputError
        One of the files is missing or damaged, or they disagree.
    """
    path = Path(path)
    if not several(path):
        return _open_one(path)
    betons = shards_at(path, ".beton")
    parts = [_open_one(beton) for beton in betons]
    if alone := [place for place in shards_at(manifest_path(path), ".manifest.npz") if not _beton_of(place).exists()]:
        raise InputError(f"{alone[0]}: its beton is not beside it; write it again, or move the manifest away")
    manifest, order = merged([part.manifest for part in parts], betons)
    return Dataset(join(path, [part.beton for part in parts], order), manifest)


def _beton_of(manifest: Path) -> Path:
    return manifest.with_name(manifest.name.removesuffix(".manifest.npz") + ".beton")


def _is_index(path: Path) -> bool:
    try:
        return path.suffix == ".npz" and bool(read_meta(path))
    except InputError:
        return False


def _open_one(path: Path) -> Dataset:
    if path.name.endswith(".manifest.npz"):
        raise InputError(f"{path}: is a manifest; name the .beton beside it")
    if _is_index(path):
        raise InputError(f"{path}: is an index, and no beton; `prune show {path}` checks and prints it")
    beton = open_beton(path)
    place = manifest_path(path)
    if not place.is_file():
        raise InputError(f"{place}: no such file; the manifest belongs beside its beton, `prune write` makes both")
    manifest = Manifest.load(place)
    if len(manifest) != len(beton):
        raise InputError(
            f"{path}: holds {len(beton)} images, its manifest {len(manifest)}: they were not written together"
        )
    columns = {
        "labels": (beton.labels, manifest.labels),
        "sizes": (beton.sizes, manifest.nbytes),
        "heights": (beton.heights, manifest.height),
        "widths": (beton.widths, manifest.width),
    }
    for name, (stored, stated) in columns.items():
        wrong = np.flatnonzero(stored != stated)
        if len(wrong):
            raise InputError(
                f"{path}: {len(wrong)} {name} differ from the manifest's, first row {wrong[0]}: damaged; write it again"
            )
    return Dataset(beton, manifest)


def damage_error(source: Dataset, row: int) -> InputError:
    """Build the error for an image whose bytes do not match the manifest."""
    name = bytes(source.manifest.ids[row]).decode("utf-8", "backslashreplace")
    return InputError(
        f"{source.beton.path}: image {name!r} (row {row}) is damaged: its bytes do not match the manifest; "
        "`prune verify --deep` lists all such images, `prune write` writes the file again"
    )


def stored_image(source: Dataset, row: int) -> Stored:
    """One image as it is stored; `InputError` when its bytes are not those of the manifest."""
    from prune.data.stored_images import Stored

    data, jpeg = source.beton.stored(row)
    if zlib.crc32(data) != int(source.manifest.crc32[row]):
        raise damage_error(source, row)
    return Stored(data, jpeg, int(source.beton.heights[row]), int(source.beton.widths[row]))
