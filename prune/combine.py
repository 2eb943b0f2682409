"""Combine indices of one source: keep what any of them keeps, what all keep, or what only the first keeps.

    prune combine pets.index.npz cars.index.npz --how union --out both.index.npz
    prune combine winnow.index.npz validation.index.npz --how without --out train.index.npz
    prune combine winnow.index.npz deleted.txt --how without --out winnow-2.index.npz

A sample that several keep has the score, reason and quality of the first that keeps it. Indices of different sources
are refused; with --source and --allow-changed their samples are first matched to that source by name. With --how
without, what follows the first index may also be lists of ids, one a line or a table with a column id (--source lets
them hold rows or digests, too); `prune gone` then proves that nothing of the listed images is left in any output.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from prune.runs.files import InputError, counted, need_file, note
from prune.runs.identity import Location, identity
from prune.runs.outputs import claim_file, index_record
from prune.runs.path_checks import note_suffix

if TYPE_CHECKING:
    import numpy as np

    from prune.index.manifest import Manifest
    from prune.index.pruned_index import PrunedIndex


@dataclass(frozen=True)
class Config:
    indices: Location[Annotated[tuple[Path, ...], tyro.conf.Positional]]
    """Two or more index files; with --how without, lists of ids after the first (.txt, .csv, .json, .npy)."""
    out: Location[Path]
    """Index file to write (NAME.index.npz)."""
    how: Literal["union", "intersection", "without"] = "union"
    """Keep samples of any index, of all of them, or of the first alone."""
    source: Location[Path | None] = None
    """Beton or manifest to which the samples of all indices are matched first."""
    allow_changed: bool = False
    """With --source: accept indices of other sources, and ignore samples that --source lacks."""


def run(config: Config) -> Path:
    """Write the index; returns its path."""
    import hashlib
    from dataclasses import replace
    from functools import reduce

    import numpy as np

    from prune.index.manifest import open_manifest
    from prune.index.matching import shown
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex

    if len(config.indices) < 2:
        raise InputError("combine needs at least two indices")
    for path in config.indices:
        if config.out.resolve() == path.resolve():
            raise InputError(f"--out {config.out}: is an input itself; give another name")
    if config.allow_changed and config.source is None:
        raise InputError("--allow-changed needs --source: the beton or manifest to which the samples are matched")
    lists = [path for path in config.indices[1:] if path.suffix.lower() != ".npz"]
    if lists and config.how != "without":
        raise InputError(f"{lists[0]}: a list of ids goes with --how without; others combine indices (.npz)")
    # Mapped: they may be large.
    indices = [PrunedIndex.open(path, verify=True) for path in config.indices if path not in lists]
    inputs = {str(place): index.fingerprint for place, index in enumerate(indices)}
    if lists:
        gone = _listed(lists, config.source, indices[0].ids, config.allow_changed)
        inputs["lists"] = hashlib.sha256(b"\0".join(np.unique(gone).tolist())).hexdigest()[:32]
    if config.source is not None:
        manifest = open_manifest(config.source)
        inputs["source"] = manifest.fingerprint
        indices = [index.rebased(manifest, allow_changed=config.allow_changed) for index in indices]
    step = record("combine", identity(config), inputs)
    with claim_file(config.out, index_record, config, {"step": "combine", **inputs}) as done:
        if done:
            return config.out
        joined = reduce(_HOW[config.how], indices)
        if lists:
            kept = indices[0].ids
            listed, left = counted(len(gone), "listed id"), len(joined)
            joined = joined.without(gone)
            note(f"{config.out}: {left - len(joined)} of {listed} left out; `prune gone` checks what was made before")
            if len(joined) == left and left:
                first = f"{shown(gone[0])}; an id that is kept: {shown(joined.ids[0])}"
                note(f"no listed id was kept; if that is a surprise, look at how they are spelt (first: {first})")
            _tell_unmatched(gone, kept, None if config.source is None else manifest)
        if not len(joined):
            raise InputError(f"--how {config.how}: no sample would be kept; nothing is written")
        replace(joined, provenance=[*joined.provenance, step]).save(config.out)
        note(f"{config.out}: keeps {len(joined)} of {joined.source_samples} samples")
        note_suffix(config.out, ".index.npz")
    return config.out


def _tell_unmatched(gone: np.ndarray, kept: np.ndarray, source: Manifest | None) -> None:
    """Say which listed ids were not in the first index, and whether the source knows them."""
    import numpy as np

    from prune.index.matching import find, shown

    lost = gone[find(gone, kept)[0] < 0]
    if not len(lost):
        return
    if source is None:
        parts = {"unknown to its source, or left out before (--source tells which)": lost}
    else:
        known = find(lost, np.asarray(source.ids))[0] >= 0
        parts = {"not in --source, so misspelt or of another source": lost[~known], "left out before": lost[known]}
    for words, ids in parts.items():
        if len(ids):
            first = ", ".join(shown(one) for one in ids[:3]) + (", ..." if len(ids) > 3 else "")
            note(f"{counted(len(ids), 'listed id')} not in the first index: {words}: {first}")


def _listed(lists: list[Path], source: Path | None, kept: np.ndarray, allow_changed: bool) -> np.ndarray:
    """Ids of all lists, (m,) bytes, each once; of the first index's ids `kept` comments behind them are known."""
    import numpy as np

    from prune.data.sample_lists import listed_rows, read_ids, read_list, without_comments
    from prune.index.manifest import open_manifest

    found = []
    for place in lists:
        need_file(place, "an index, or a list of ids")
        if source is None:
            found.append(without_comments(read_ids(place), kept, place))
        else:
            manifest = open_manifest(source)
            given = read_list(place)
            ids = np.asarray(manifest.ids)
            if given.kind == "ids":
                found.append(without_comments(given.values, ids, place))
            else:
                found.append(ids[listed_rows(given, manifest, allow_changed=allow_changed)[0]])
    return np.unique(np.concatenate(found))


def _union(left: PrunedIndex, right: PrunedIndex) -> PrunedIndex:
    return left | right


def _intersection(left: PrunedIndex, right: PrunedIndex) -> PrunedIndex:
    return left & right


def _without(left: PrunedIndex, right: PrunedIndex) -> PrunedIndex:
    return left.without(right)


_HOW = {"union": _union, "intersection": _intersection, "without": _without}
