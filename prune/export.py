"""Write an index in the form that another program reads.

    prune export pets.index.npz --out rows.npy
    prune export pets.index.npz --out flm_top300.indices --source runs/imagenet.beton
    prune export pets.index.npz --out rows.npy --listing files.txt
    prune export datacomp.index.npz --out subset.npy --uids names
    prune export pets.index.npz --fiftyone pets-fo --images photos --source runs/photos.beton --scores runs/scores.npz

The suffix of --out decides: .npy int64 rows; .txt ids, one a line; .csv all columns; .indices rows as a torch tensor,
as DP4TL's trainer reads them; .json rows for `datasets.Dataset.select`. With --shards, --out is a folder for the kept
part of WebDataset shards. --fiftyone writes a folder that FiftyOne opens: every image of the source with the tag kept
or dropped, its class and its scores. All other forms list samples to KEEP. Rows ascend; they are positions in the
source's manifest, or in --listing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from prune.runs.files import InputError, counted, csv_cell, need_file, note
from prune.runs.path_checks import Written

if TYPE_CHECKING:
    import numpy as np

    from prune.index.pruned_index import PrunedIndex


@dataclass(frozen=True)
class Config:
    index: Annotated[Path, tyro.conf.Positional]
    """Index file, NAME.index.npz."""
    out: Path | None = None
    """File to write: .npy, .txt, .csv, .indices or .json; a folder with --shards. Needed but for --fiftyone."""
    source: Path | None = None
    """Beton or manifest: rows are positions in it. The rows stored in the index when absent."""
    listing: Path | None = None
    """Text file of ids, one a line: rows are positions in it."""
    root: str | None = None
    """Folder that the paths of --listing begin with; it is removed."""
    separator: str | None = None
    """What lies between the parts of the paths in --listing, where that is not /: '\\' in one made on Windows."""
    uids: str | None = None
    """Write a .npy of uids as DataComp's trainer reads it: `names` where the images' names are their uids, or a table
    with columns id and uid."""
    shards: tuple[Path, ...] = ()
    """WebDataset shards (.tar) of the whole source."""
    fiftyone: Written[Path | None] = None
    """Folder to write in FiftyOne's JSON format; needs --images and --source."""
    images: Path | None = None
    """With --fiftyone: the folder that the ids are paths below, as it was given to `prune write`."""
    scores: Path | None = None
    """With --fiftyone: scores.npz of `prune score`; each sample score becomes a field."""
    for_spreadsheets: bool = False
    """With a .csv: put ' before cells that a spreadsheet would take for a formula. Other programs need them exact."""
    allow_changed: bool = False
    """With --source: accept another source, and ignore samples that it lacks."""


def run(config: Config) -> Path:
    """Write the file; returns its path."""
    need_file(config.index, "an index of `prune select`")
    if config.fiftyone is not None:
        return _fiftyone(config, config.fiftyone)
    if config.images is not None or config.scores is not None:
        raise InputError("--images and --scores go with --fiftyone")
    if config.out is None:
        raise InputError(f"give --out, a file that ends in one of {', '.join(_WRITERS)}; or --fiftyone FOLDER")
    return _one_file(config, config.out)


def _one_file(config: Config, out: Path) -> Path:
    """Write --out; returns its path."""
    from prune.index.manifest import open_manifest
    from prune.index.pruned_index import PrunedIndex

    suffix = out.suffix.lower()
    if not config.shards and suffix not in _WRITERS:
        raise InputError(f"--out {out}: the name must end in one of {', '.join(_WRITERS)}")
    if not config.shards and out.is_dir():
        raise InputError(f"--out {out}: is a directory")
    if config.source is not None and config.listing is not None:
        raise InputError("rows are positions either in --source or in --listing: give one of them")
    if config.allow_changed and config.source is None:
        raise InputError("--allow-changed needs --source")
    index = PrunedIndex.load(config.index)
    if config.shards:
        from prune.index.tar_shards import write_kept

        source = None if config.source is None else open_manifest(config.source)
        write_kept(index, config.shards, out, source)
        note(f"{out}: {counted(len(index), 'sample')} to keep, {counted(len(config.shards), 'shard')}")
        return out
    index, rows = _rows(config, index)
    if config.uids is not None:
        if suffix != ".npy":
            raise InputError(f"--uids: is for a .npy, not for {out}")
        _write(out, partial(_datacomp, table=config.uids), index, rows)
        return out
    if config.for_spreadsheets:
        if suffix != ".csv":
            raise InputError(f"--for-spreadsheets: is for a .csv, not for {out}")
        _write(out, partial(_csv, guarded=True), index, rows)
        return out
    if suffix == ".csv" and (count := _formulas(index)):
        note(
            f"{out}: {counted(count, 'cell begins', 'cells begin')} as a formula does; an export is exact, for "
            "programs: --for-spreadsheets writes a table that is safe to open in one"
        )
    _write(out, _WRITERS[suffix], index, rows)
    return out


def _fiftyone(config: Config, folder: Path) -> Path:
    """Write the source as FiftyOne's dataset; returns its folder."""
    import numpy as np

    from prune.data.fiftyone_format import write_dataset
    from prune.index.manifest import open_manifest
    from prune.index.pruned_index import PrunedIndex
    from prune.methods.selection_inputs import open_inputs

    if config.images is None or config.source is None:
        raise InputError("--fiftyone needs --images, the folder of the images, and --source, its beton or manifest")
    for flag in ("out", "listing", "uids", "shards", "for_spreadsheets"):
        if getattr(config, flag):
            raise InputError(f"--fiftyone stands alone: give no --{flag.replace('_', '-')}")
    index, manifest = PrunedIndex.load(config.index), open_manifest(config.source)
    rows = index.rebased(manifest, allow_changed=config.allow_changed)
    kept = np.zeros(len(manifest), bool)
    kept[rows.positions] = True
    scores: dict[str, np.ndarray] = {}
    if config.scores is not None:
        arrays = open_inputs(config.scores, config.source).arrays
        scores = {name[7:]: np.asarray(values) for name, values in arrays.items() if name.startswith("sample/")}
    names = dict(zip(rows.positions.tolist(), (rows.reason_names[code] for code in rows.reasons.tolist())))
    write_dataset(
        folder,
        config.index.name.removesuffix(".npz").removesuffix(".index"),
        np.asarray(manifest.ids),
        manifest.classes,
        np.asarray(manifest.labels),
        kept,
        names,
        scores,
        config.images,
        {"index": index.fingerprint, "source": manifest.fingerprint, "kept": int(kept.sum()), "samples": len(manifest)},
    )
    note(f"{folder}: {int(kept.sum())} kept and {int((~kept).sum())} dropped images for FiftyOne")
    return folder


def _rows(config: Config, index: PrunedIndex) -> tuple[PrunedIndex, np.ndarray | None]:
    """The index and its rows; None where only ids are known, and neither --source nor --listing is given."""
    if config.source is not None:
        from prune.index.manifest import open_manifest

        index = index.rebased(open_manifest(config.source), allow_changed=config.allow_changed)
        return index, index.positions
    if config.listing is not None:
        from prune.data.sample_lists import read_ids
        from prune.index.matching import as_ids, rows_of_ids

        ids = read_ids(need_file(config.listing, "a listing of ids"))
        try:
            return index, rows_of_ids(index.ids, as_ids(ids.tolist(), config.root, config.separator), flags=True)
        except InputError as error:
            raise InputError(f"{config.listing}: {error}") from None
        except ValueError as error:
            raise InputError(f"--root {config.root}: {error}") from None
    return index, index.positions if len(index) and index.positions.min() >= 0 else None


def _write(out: Path, writer, index: PrunedIndex, rows: np.ndarray | None) -> None:  # type: ignore[no-untyped-def]
    """Write whole or not at all; `InputError` when the file exists with other content."""
    import filecmp

    from prune.runs.files import atomic

    if not out.exists():
        with atomic(out) as temporary:
            writer(temporary, index, rows)
        note(f"{out}: {counted(len(index), 'sample')} to keep")
        return
    beside = out.with_name(f".{out.name}.new")
    try:
        writer(beside, index, rows)
        same = filecmp.cmp(beside, out, shallow=False)
    finally:
        beside.unlink(missing_ok=True)
    if not same:
        raise InputError(f"{out}: exists with other content: give another --out, or remove it")
    note(f"{out}: up to date")


def _ascending(rows: np.ndarray | None) -> np.ndarray:
    import numpy as np

    if rows is None:
        raise InputError("the index does not know its rows: give --source or --listing, in which they are positions")
    return np.sort(rows)


def _npy(path: Path, index: PrunedIndex, rows: np.ndarray | None) -> None:
    import numpy as np

    with open(path, "wb") as file:  # np.save would add a suffix to the temporary name
        np.save(file, _ascending(rows), allow_pickle=False)


def _datacomp(path: Path, index: PrunedIndex, rows: np.ndarray | None, table: str) -> None:
    import numpy as np

    from prune.data.datacomp_uids import packed, uids_of

    uids = uids_of(index.ids, None if table == "names" else need_file(Path(table), "a table of ids and uids"))
    with open(path, "wb") as file:
        np.save(file, packed(uids.tolist()), allow_pickle=False)


def _txt(path: Path, index: PrunedIndex, rows: np.ndarray | None) -> None:
    ids = index.ids.tolist()
    bad = [name for name in ids if b"\n" in name or b"\r" in name]
    if bad:
        raise InputError(f"{len(bad)} ids hold a line break (first: {bad[0]!r}): export .csv, which can quote them")
    if comments := [name for name in ids if name.startswith(b"# ")]:
        raise InputError(
            f"{counted(len(comments), 'id')} would be read as a comment (first: {comments[0]!r}): export .csv"
        )
    path.write_bytes(b"".join(name + b"\n" for name in ids))


def _formulas(index: PrunedIndex) -> int:
    """Ids and class names that a spreadsheet would evaluate."""
    texts = [name.decode("utf-8", "surrogateescape") for name in index.ids.tolist()] + list(index.classes)
    return sum(csv_cell(text) != text for text in texts)


def _csv(path: Path, index: PrunedIndex, rows: np.ndarray | None, guarded: bool = False) -> None:
    import csv

    import numpy as np

    places = np.full(len(index), -1) if rows is None else rows
    columns = (index.labels, index.scores, index.reasons, index.quality, index.nbytes, index.digests)
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", "id", "class", "label", "score", "reason", "quality", "nbytes", "digest"])
        for row, name, label, score, reason, quality, nbytes, digest in zip(
            places.tolist(), index.ids.tolist(), *(column.tolist() for column in columns)
        ):
            place, text = "" if row < 0 else row, name.decode("utf-8", "surrogateescape")
            value = "" if score != score else f"{score:.9g}"  # nine digits bring a float32 back exactly
            why = index.reason_names[reason]
            named = [text, index.classes[label]]
            named = [csv_cell(cell) for cell in named] if guarded else named
            writer.writerow([place, *named, label, value, why, quality, nbytes, f"{digest:016x}"])


def _indices(path: Path, index: PrunedIndex, rows: np.ndarray | None) -> None:
    import torch

    with open(path, "wb") as file:  # a handle: torch would put the temporary name into the file
        torch.save(torch.from_numpy(_ascending(rows).astype("int64")), file)


def _json(path: Path, index: PrunedIndex, rows: np.ndarray | None) -> None:
    import json

    from prune.index.index_file import MEANING

    head = {"meaning": MEANING, "index": index.fingerprint, "source": index.source}
    path.write_text(json.dumps({**head, "indices": _ascending(rows).tolist()}) + "\n", encoding="utf-8")


_WRITERS = {".npy": _npy, ".txt": _txt, ".csv": _csv, ".indices": _indices, ".json": _json}
