"""Audit a selection by groups: kept shares against chance, and how far several surrogates agree about each group.

    prune audit --index runs/pets-30.index.npz --groups groups.csv --manifest runs/photos.manifest.npz
    prune audit --index runs/pets-30.index.npz --groups groups.csv --scores runs/a.scores.npz runs/b.scores.npz

groups.csv has the columns id and one or more groups (camera, site, ...). For each group: the kept share with its 95 %
interval (Wilson), the share expected of a random draw of as many images, and of one of as many of each class. A group
is flagged where the difference is beyond doubt: p below 0.05 after correction for the number of groups (Holm).

With several scores files, one for each surrogate, also: Spearman's correlation of their scores, and the overlap of what
the index's method keeps by each of them, by class and by group.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.runs.files import InputError, need_file, note, printable
from prune.runs.outputs import write_text

if TYPE_CHECKING:
    from prune.index.pruned_index import PrunedIndex
    from prune.methods.group_floors import Groups
    from prune.methods.selection_inputs import SelectionInputs


@dataclass(frozen=True)
class Config:
    index: Path
    """Index file, NAME.index.npz."""
    groups: Path | None = None
    """CSV file with the columns id and one or more groups; without it, classes are the groups."""
    manifest: Path | None = None
    """The source's manifest or beton; with --scores, when it is not at the path in the scores file."""
    scores: tuple[Path, ...] = ()
    """Scores files of the same source, one for each surrogate; with two or more their agreement is reported."""
    out: Path | None = None
    """File to write the report to, instead of printing it: Markdown, or JSON with --json."""
    json: bool = False
    """JSON instead of Markdown."""


def run(config: Config) -> None:
    """Print or write the report."""
    import numpy as np

    from prune.index.pruned_index import PrunedIndex
    from prune.methods.group_audit import kept_shares
    from prune.methods.group_floors import Groups, read_groups
    from prune.methods.selection_inputs import open_inputs

    index = PrunedIndex.load(need_file(config.index, "an index of `prune select`"))
    if config.manifest is None and not config.scores:
        raise InputError("give the source's --manifest, or the --scores that name it")
    each = [open_inputs(path, config.manifest) for path in config.scores] or [open_inputs(None, config.manifest)]
    manifest = each[0].manifest
    kept = np.zeros(len(manifest), bool)
    kept[index.rows_in(manifest)] = True
    label = np.asarray(manifest.labels, np.int64)
    groups = Groups({}, {}) if config.groups is None else read_groups(config.groups, np.asarray(manifest.ids))
    classes = list(manifest.classes)
    for column, number in groups.columns.items():
        if lost := int((number < 0).sum()):
            note(f"{column}: {lost:,} of {len(manifest):,} images are in no group and count nowhere")
    report: dict[str, Any] = {
        "index": index.fingerprint,
        "kept": int(kept.sum()),
        "samples": len(manifest),
        "groups": {
            column: kept_shares(kept, number, groups.names[column], label) for column, number in groups.columns.items()
        },
    }
    if config.groups is None:
        report["groups"]["class"] = kept_shares(kept, label, classes)
    if len(each) > 1:
        report["agreement"] = _agreement(config, index, each, groups)
    text = json.dumps(report, indent=1) + "\n" if config.json else _markdown(report)
    if config.out is None:
        sys.stdout.write(text)
        return
    write_text(config.out, text)
    flagged = sum(bool(row["beyond_doubt"]) for rows in report["groups"].values() for row in rows)
    note(f"{config.out}: {flagged} groups differ from chance beyond doubt")


def _agreement(
    config: Config, index: PrunedIndex, each: list[SelectionInputs], groups: Groups
) -> dict[str, list[dict[str, Any]]]:
    """Agreement of the surrogates by class and by every column of groups."""
    import numpy as np

    from prune.methods.group_audit import agreement_by
    from prune.methods.retrace import kept_by

    for path, given in zip(config.scores, each):
        if given.order != each[0].order:
            raise InputError(f"{path}: scores of another order of the source than {config.scores[0]}")
    kept = [kept_by(index, given, path) for path, given in zip(config.scores, each)]
    names = [name for name in each[0].arrays if name.startswith("sample/") and "/" not in name[7:]]
    names = [name for name in names if all(name in given.arrays for given in each)]
    scores = [{name[7:]: np.asarray(given.arrays[name]) for name in names} for given in each]
    manifest = each[0].manifest
    found = {"class": agreement_by(kept, scores, np.asarray(manifest.labels, np.int64), list(manifest.classes))}
    for column, number in groups.columns.items():
        found[column] = agreement_by(kept, scores, number, groups.names[column])
    return found


def _markdown(report: dict[str, Any]) -> str:
    from prune.methods.group_audit import group_table

    kept = f"{report['kept']:,} of {report['samples']:,}"
    lines = [
        "# Audit by groups",
        "",
        f"The index {report['index']} keeps {kept} images. `more` and `fewer`: the kept share "
        "differs from that of a random draw beyond doubt (p below 0.05 after Holm's correction).",
    ]
    for column, rows in report["groups"].items():
        inside = "expected_in_classes" in rows[0]
        lines += ["", f"## Kept by {_cell(column)}", "", *_table(*group_table(rows))]
        if (grouped := sum(row["size"] for row in rows)) < report["samples"]:
            lines += ["", f"Of {grouped:,} images in a group; `At random` is their share, not that of all images."]
        if inside:
            said = "`In its classes`: what a random draw of as many of each class keeps. A share near it is due to the"
            lines += ["", f"{said} classes, whatever is flagged."]
    for column, rows in report.get("agreement", {}).items():
        names = list(rows[0]["correlation"])
        table = []
        for row in rows:
            numbers = [row["overlap"], row["by_chance"], *(row["correlation"][name] for name in names)]
            table.append([row["group"], f"{row['size']:,}", *("" if n is None else f"{n:.2f}" for n in numbers)])
        head = [column, "images", "overlap of kept", "by chance", *names]
        lines += ["", f"## Agreement of the surrogates by {_cell(column)}", "", *_table(head, table)]
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(map(_cell, row)) + " |" for row in (head, ["---"] * len(head), *rows)]


def _cell(text: str) -> str:
    """Text that neither ends a cell nor reaches the terminal or a page as anything but text."""
    return printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
