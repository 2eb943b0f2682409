"""Turn a list of samples from elsewhere into an index: rows, a mask, ids or digests, as .npy, .txt, .csv or .indices.

    prune import flm_top300.indices --source runs/imagenet.beton --holds keep --out flm-300.index.npz
    prune import pruned.txt --source runs/imagenet.manifest.npz --holds remove --out coreset.index.npz

--holds has no default: some projects publish what to keep, others what to remove, and the list itself does not say.
Rows count in the order of the source's manifest, or in that of --listing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from prune.runs.files import InputError, need_file, note

if TYPE_CHECKING:
    import numpy as np

    from prune.index.manifest import Manifest
    from prune.index.sample_lists import Given


@dataclass(frozen=True)
class Config:
    samples: Annotated[Path, tyro.conf.Positional]
    """The list: .npy, .txt, .csv, .json, .indices or .pt."""
    source: Path
    """Beton (with its manifest) or manifest of the source."""
    holds: Literal["keep", "remove"]
    """Whether the list names the samples to keep or those to remove."""
    out: Path
    """Index file to write (NAME.index.npz)."""
    kind: Literal["rows", "ids", "digests"] | None = None
    """What the list consists of, where its form does not say."""
    listing: Path | None = None
    """Text file of ids, one a line, in whose order the rows count; the manifest's order when absent."""
    root: str | None = None
    """Folder that the ids of the list (or listing) begin with; it is taken off."""
    allow_changed: bool = False
    """Leave out listed samples that the source lacks, and record how many."""


def run(config: Config) -> Path:
    """Write the index; returns its path."""
    import numpy as np

    from prune.index.manifest import open_manifest
    from prune.index.provenance import already_made, record
    from prune.index.pruned_index import REASONS, PrunedIndex
    from prune.index.sample_lists import read_list

    need_file(config.samples, "a list of samples")
    if config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; an index file is expected")
    manifest = open_manifest(config.source)
    inputs: dict[str, Any] = {"list": file_hash(config.samples), "source": manifest.fingerprint}
    if config.listing is not None:
        inputs["listing"] = file_hash(need_file(config.listing, "a listing of ids"))
    given = read_list(config.samples, config.kind)
    rows, missing = listed_rows(given, manifest, config)
    facts = {"kind": given.kind, "listed": len(given.values), "missing": missing}
    step = record("import", config, inputs, **facts)
    if already_made(config.out, step):
        note(f"{config.out}: already made with these settings")
        return config.out
    if config.holds == "remove":
        left = np.ones(len(manifest), bool)
        left[rows] = False
        rows = np.flatnonzero(left)
    if not len(rows):
        raise InputError(f"{config.samples}: no sample would be kept; is --holds {config.holds} right?")
    reason = np.full(len(rows), REASONS.index("imported"), np.uint8)
    index = PrunedIndex.from_rows(manifest, rows, reason=reason, provenance=[step])
    index.save(config.out)
    note(f"{config.out}: keeps {len(index)} of {len(manifest)} samples")
    return config.out


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 32 hexadecimal digits."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def listed_rows(given: Given, manifest: Manifest, config: Config) -> tuple[np.ndarray, int]:
    """Ascending rows of the manifest that the list names, and how many of its samples the source lacks."""
    import numpy as np

    from prune.index.index_rows import checked

    if given.kind == "rows":
        if config.listing is None:
            _check_mask(given, len(manifest), config)
            return checked(np.sort(given.values), len(manifest)), 0
        ids = _listing(config)
        _check_mask(given, len(ids), config)
        ids = ids[checked(np.sort(given.values), len(ids))]
        return _by_id(ids, manifest, config)
    if config.listing is not None:
        raise InputError(f"--listing is for lists of rows; {config.samples} holds {given.kind}")
    if given.kind == "ids":
        return _by_id(_without_root(given.values, config), manifest, config)
    return _by_digest(given.values, manifest, config)


def _check_mask(given: Given, n: int, config: Config) -> None:
    if given.mask not in (None, n):
        raise InputError(
            f"{config.samples}: a mask of {given.mask} entries for {n} images; one entry for each is needed, "
            "in the manifest's order or in that of --listing"
        )


def _listing(config: Config) -> np.ndarray:
    from prune.index.sample_lists import read_ids

    assert config.listing is not None
    return _without_root(read_ids(config.listing), config)


def _without_root(ids: np.ndarray, config: Config) -> np.ndarray:
    from prune.index.matching import as_ids

    if config.root is None:
        return ids
    try:
        return as_ids(ids.tolist(), config.root)
    except ValueError as error:
        raise InputError(f"--root {config.root}: {error}") from None


def _by_id(ids: np.ndarray, manifest: Manifest, config: Config) -> tuple[np.ndarray, int]:
    import numpy as np

    from prune.index.index_file import shown
    from prune.index.matching import find, first_repeat

    if (repeat := first_repeat(ids)) is not None:
        raise InputError(f"{config.samples}: {repeat[0]} ids are repeated (first: {shown(ids[repeat[1]])})")
    rows, twice = find(ids, np.asarray(manifest.ids))
    if twice.any():
        raise InputError(f"{config.source}: lists {int(twice.sum())} of the ids more than once")
    lost = np.flatnonzero(rows < 0)
    if len(lost) and (not config.allow_changed or len(lost) == len(rows)):
        raise InputError(
            f"{config.samples}: {len(lost)} of {len(ids)} samples are not in the source (first: {shown(ids[lost[0]])}; "
            f"the source's first: {shown(manifest.ids[0])}); --allow-changed leaves them out"
        )
    return np.sort(rows[rows >= 0]), len(lost)


def _by_digest(digests: np.ndarray, manifest: Manifest, config: Config) -> tuple[np.ndarray, int]:
    import numpy as np

    if len(again := np.flatnonzero(np.diff(np.sort(digests)) == 0)):
        raise InputError(
            f"{config.samples}: {len(again)} digests are repeated (first: {np.sort(digests)[again[0]]:016x})"
        )
    listed = np.isin(manifest.digests, digests)  # all images with these bytes
    lost = digests[~np.isin(digests, manifest.digests)]
    if len(lost) and (not config.allow_changed or not listed.any()):
        raise InputError(
            f"{config.samples}: {len(lost)} of {len(digests)} digests are not in the source (first: {lost[0]:016x}); "
            "--allow-changed leaves them out"
        )
    return np.flatnonzero(listed), len(lost)
