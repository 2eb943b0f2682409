"""Is a study's selection one surrogate's opinion, or does it favour groups? The audit on the study's page.

Each seed has a surrogate of its own, so what their selections have in common says how far the surrogates agree. With a
user's table of groups, what is kept of each group stands beside what a random draw would keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.manifest import Manifest, manifest_exists, open_manifest
from prune.index.pruned_index import PrunedIndex
from prune.methods.group_audit import agreement_by, group_table, kept_shares
from prune.methods.group_floors import read_groups
from prune.runs.files import InputError, note
from transfer.pages.kept_images import Selection
from transfer.verdicts.controls import CONTROLS

Rows = list[dict[str, Any]]


def source_manifest(folder: Path, beton: Path | None) -> Manifest | None:
    """The source's manifest, beside its beton or in the study; None where it does not exist any more."""
    for place in (beton, folder / "data" / "source.manifest.npz"):
        if place is not None and (manifest_exists(place) or place.exists()):
            try:
                return open_manifest(place)
            except InputError as error:
                note(f"no audit: {error}")
    return None


def audit_of(
    results: Mapping[str, Any],
    folder: Path,
    manifest: Manifest,
    selection: Selection,
    groups: Path | None = None,
) -> dict[str, Any]:
    """The audit of the selection that the page is about.

    Parameters
    ----------
    results : mapping
        Of the study.
    folder : Path
        The study.
    manifest : Manifest
        Of the source.
    selection : Selection
    groups : Path, optional
        A table of image ids and groups, as for `prune audit`.

    Returns
    -------
    dict
        "title" and "seeds" of the selection; "agreement": rows of `agreement_by` for all images and for each class,
        the class that the surrogates agree about least first (none with one seed, or where no surrogate is asked);
        "groups": rows of `kept_shares` by column of the table, with the "agreement" inside each group.

    Raises
    ------
    InputError
        A table of groups that does not fit the source.
    """
    masks, seeds = _kept_by_seed(results, folder, manifest, selection)
    label = np.asarray(manifest.labels, np.int64)
    found: dict[str, Any] = {"title": selection.title, "seeds": seeds, "agreement": [], "groups": {}}
    asked = len(masks) > 1 and selection.method not in (*CONTROLS, "gate")
    if asked:
        everything = agreement_by(masks, [{}] * len(masks), np.zeros(len(label), np.int64), ["all images"])
        classes = agreement_by(masks, [{}] * len(masks), label, list(manifest.classes))
        kept_of = [row for row in classes if row["overlap"] is not None]
        found["agreement"] = everything + sorted(kept_of, key=lambda row: row["overlap"])
    if groups is not None:
        given = read_groups(groups, np.asarray(manifest.ids))
        for column, number in given.columns.items():
            names = given.names[column]
            rows = kept_shares(masks[0], number, names, label)
            overlaps = agreement_by(masks, [{}] * len(masks), number, names) if asked else [{}] * len(names)
            found["groups"][column] = [{**row, "agreement": one.get("overlap")} for row, one in zip(rows, overlaps)]
    return found


def _kept_by_seed(
    results: Mapping[str, Any], folder: Path, manifest: Manifest, selection: Selection
) -> tuple[list[np.ndarray], list[int]]:
    """What each seed's index of this method and keep keeps, (n,) bool each, and the seeds; the given first."""
    masks, seeds = [_mask(selection.index, manifest)], [selection.seed]
    for entry in results.get("selections", []):
        same = entry["method"] == selection.method and round(float(entry["keep"]), 9) == selection.keep
        place = folder / entry["index"]
        if same and entry["seed"] not in seeds and place.is_file():
            try:
                masks.append(_mask(PrunedIndex.load(place), manifest))
            except InputError as error:
                note(f"not in the audit: {error}")
                continue
            seeds.append(entry["seed"])
    return masks, seeds


def _mask(index: PrunedIndex, manifest: Manifest) -> np.ndarray:
    kept = np.zeros(len(manifest), bool)
    kept[index.rows_in(manifest)] = True
    return kept


def audit_tables(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tables for the page: {"title", "note", "table": (head, rows of text)}, those of groups first."""
    tables: list[dict[str, Any]] = []
    for column, rows in audit["groups"].items():
        tables.append(
            {
                "title": f"Kept by {column}",
                "note": "More or fewer: the share differs from a random draw's beyond doubt (p below 0.05 after Holm). "
                "A share near that in its classes, which a random draw of as many of each class keeps, is due to the "
                "classes.",
                "table": group_table(rows),
            }
        )
    if audit["agreement"]:
        body = [
            [r["group"], f"{r['size']:,}", _share(r["overlap"]), _share(r["by_chance"])] for r in audit["agreement"]
        ]
        tables.append(
            {
                "title": "Do the surrogates agree?",
                "note": f"Of what the surrogates of the seeds {_listed(audit['seeds'])} keep, the part that two "
                "of them have in common, and the part that random draws of as many would; least agreement first.",
                "table": (("Class", "Images", "In common", "By chance"), body),
            }
        )
    return tables


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
