"""Say why images were kept or dropped: the gate, their class's votes and quota, their place and the threshold there.

    prune explain --scores runs/scores.npz --index runs/pets-30.index.npz --id cat/0001.jpg dog/0002.jpg
    prune explain --scores runs/scores.npz --index runs/pets-30.index.npz --class cat

The selection is made again from what the index records, with the same code and the same files, and compared with the
index: an explanation is that of the index, or an error says why there is none.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from prune.runs.files import InputError, need_file, printable


@dataclass(frozen=True)
class Config:
    index: Path
    """Index file of `prune select`, NAME.index.npz."""
    scores: Path | None = None
    """The scores file that it was made from; none for a random draw that needed only --manifest."""
    id: tuple[str, ...] = ()
    """Images to explain, by their ids (paths below the source's root)."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(name="class")] = ()
    """Classes to explain: what they keep, and why the rest is dropped."""
    manifest: Path | None = None
    """The source's manifest, when it is not at the path in the scores file."""
    features: Path | None = None
    """The source's features, for ranks that use them, when they are not at the path in the scores file."""
    never: Path | None = None
    """The list that `prune select` was given with --never."""
    always: Path | None = None
    """The list that `prune select` was given with --always."""
    groups: Path | None = None
    """The table that `prune select` was given with --groups."""
    json: bool = False
    """Print JSON instead of sentences."""


def run(config: Config) -> None:
    """Print why the images and classes are kept or dropped."""
    import numpy as np

    from prune.index.matching import find, shown
    from prune.index.pruned_index import PrunedIndex
    from prune.methods.explanation import Explainer
    from prune.methods.retrace import Lists, check_source, last_selection, retraced
    from prune.methods.selection_inputs import open_inputs

    if not config.id and not config.classes:
        raise InputError("name images with --id or classes with --class")
    index = PrunedIndex.load(need_file(config.index, "an index of `prune select`"))
    last_selection(index, str(config.index))
    given = open_inputs(config.scores, config.manifest)
    check_source(index, given, config.scores)
    wanted = np.array([name.encode("utf-8", "surrogateescape") for name in config.id], np.bytes_)
    rows = find(wanted, given.manifest.ids)[0] if config.id else np.empty(0, np.int64)
    if len(lost := np.flatnonzero(rows < 0)):
        raise InputError(
            f"--id {shown(wanted[lost[0]])}: no such image in the source; ids are paths below its root, such as "
            f"{shown(given.manifest.ids[0])}"
        )
    for name in config.classes:
        if name not in given.classes:
            near = ", ".join(given.classes[:5])
            raise InputError(f"--class {name}: no such class in the source; it has {near}")
    lists = Lists(config.scores, config.never, config.always, config.groups, config.features)
    why = Explainer(given.pool, *retraced(index, given, lists))
    found: list[dict[str, Any]] = [why.sample(int(row)) for row in rows]
    found += [why.of_class(given.classes.index(name)) for name in config.classes]
    if config.json:
        json.dump(found, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    for number, one in enumerate(found):
        print(*(["\n"] if number else []), *(printable(line) + "\n" for line in one["text"]), sep="", end="")
