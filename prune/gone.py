"""Prove that deleted images are in no output: no id, no bytes under any name, and no picture of them.

    prune gone deleted.txt runs/pets-2.index.npz runs/pets-2.beton export/ --source runs/photos.beton
    prune gone deleted.txt runs/ --source runs/photos.manifest.npz --exact

The list has one id a line, or is a table with a column id. Outputs are files or whole folders: indices, manifests,
betons, features, parquet and tar exports, images, pages of `prune show` and other texts. With --source the bytes of the
deleted images are known, and of a beton their pictures, which are also found re-encoded and as thumbnails; without it
names alone. Prints what is left and ends with 1 when anything is, and when the source does not know a listed id, of
which nothing can be shown. Make new outputs without the listed images by
`prune combine ... --how without`, `prune materialize` and `prune export`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from prune.runs.exit_codes import AnswerIsNo
from prune.runs.files import InputError, counted, need_file, note, printable

if TYPE_CHECKING:
    import numpy as np

    from prune.data.deleted_traces import Deleted, Trace


@dataclass(frozen=True)
class Config:
    deleted: Annotated[Path, tyro.conf.Positional]
    """List of the deleted images' ids: .txt, .csv, .json or .npy."""
    outputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files and folders to search; of a folder every file."""
    source: Path | None = None
    """Beton that holds the deleted images still, for bytes and pictures; or its manifest, for bytes."""
    exact: bool = False
    """Do not compare pictures: with a beton that has near-duplicates of deleted images, kept on purpose."""
    all: bool = False
    """Print every trace and not the first 20."""
    json: bool = False
    """Print the result as JSON."""


def run(config: Config) -> None:
    """Print what is left; raise `AnswerIsNo` when anything is, or when nothing can be shown of a listed id."""
    from prune.data.deleted_traces import traces
    from prune.runs.progress import track

    if not config.outputs:
        raise InputError("name the outputs to search: files or folders")
    for place in config.outputs:
        if not place.exists():
            raise InputError(f"{place}: no such file or directory")
    deleted, unknown = _deleted(config)
    files = list(dict.fromkeys(_files(config)))
    if not files:
        raise InputError(f"{config.outputs[0]}: no files in it to search")
    found: list[Trace] = []
    for place in track(files, len(files), "searching"):
        found += dict.fromkeys(traces(place, deleted))
    sought = f"{counted(len(deleted.ids) - len(unknown), 'deleted image')} in {counted(len(files), 'file')}"
    by = {"ids": len(deleted.ids) - len(unknown), "bytes": len(deleted.digests), "pictures": len(deleted.squares)}
    if config.json:
        left = [{"place": printable(t.place), "kind": t.kind, "id": _shown(t.id)} for t in found]
        found_json = {"files": len(files), "sought": by, "left": left, "unknown": [_shown(one) for one in unknown]}
        print(json.dumps(found_json, indent=1))
    else:
        _print(config, found, sought, by)
    if len(unknown):
        note(
            f"{len(unknown)} of {counted(len(deleted.ids), 'listed id')} {'is' if len(unknown) == 1 else 'are'} not in "
            f"{config.source}: nothing is shown of {'it' if len(unknown) == 1 else 'these'} (first: "
            f"{_shown(unknown[0])}); correct the list, or take out ids of other sources"
        )
    if found:
        images = len({trace.id for trace in found})
        note(f"{counted(images, 'deleted image')} left in {counted(len({t.place for t in found}), 'place')}")
    if found or len(unknown):
        raise AnswerIsNo


def _print(config: Config, found: list[Trace], sought: str, by: dict[str, Any]) -> None:
    shown = found if config.all else found[:20]
    for trace in shown:
        print(f"{printable(trace.place)}: {trace.kind} of {_shown(trace.id)}")
    if len(shown) < len(found):
        kinds = ", ".join(f"{count} by {kind}" for kind, count in Counter(t.kind for t in found).items())
        print(f"and {len(found) - len(shown)} more ({kinds}): --all or --json has them all")
    if not found:
        ways = ["their ids"] + [f"the {name} of {by[name]}" for name in ("bytes", "pictures") if by[name]]
        print(f"nothing is left of {sought}: searched for {', '.join(ways)}")


def _deleted(config: Config) -> tuple[Deleted, np.ndarray]:
    """What is known of the listed images, and the ids, (k,) bytes, that the source does not know."""
    import numpy as np

    from prune.data.dataset import open_dataset
    from prune.data.deleted_traces import deleted_of
    from prune.data.sample_lists import read_ids, without_comments
    from prune.index.manifest import open_manifest

    ids = np.unique(read_ids(need_file(config.deleted, "a list of ids")))
    if config.source is None:
        note(
            "without --source the ids alone are searched for, neither bytes nor pictures, and nothing tells whether "
            "they are spelt as in the source"
        )
        if behind := [name for name in ids.tolist() if b" #" in name or b"\t#" in name]:
            raise InputError(
                f"{config.deleted}: {_shown(behind[0])}: a comment behind an id, or a name? --source tells them apart; "
                "or put comments on lines of their own, with `# ` at the beginning"
            )
        return deleted_of(ids, None, None), ids[:0]
    manifest = open_manifest(config.source)
    ids = np.unique(without_comments(ids, np.asarray(manifest.ids), config.deleted))
    only_manifest = config.exact or config.source.name.endswith(".manifest.npz")
    beton = None if only_manifest else open_dataset(config.source)
    found = deleted_of(ids, manifest, beton)
    unknown = ids[~np.isin(ids, manifest.ids)]
    if len(unknown) == len(ids):
        raise InputError(
            f"{config.deleted}: none of its ids is in {config.source}, so that nothing would be proven; its first is "
            f"{_shown(ids[0])}, the source's first is {_shown(bytes(manifest.ids[0]))}"
        )
    return found, unknown


def _files(config: Config) -> Iterator[Path]:
    """Every file of the outputs but the list itself and the source, which are known to hold the ids."""
    from prune.index.manifest import manifest_path

    own = {config.deleted.resolve()}
    if config.source is not None:
        own |= {config.source.resolve(), manifest_path(config.source).resolve()}
    for place in config.outputs:
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and (file.resolve() not in own or place == file):
                yield file


def _shown(name: bytes) -> str:
    return printable(name.decode("utf-8", "backslashreplace"))
