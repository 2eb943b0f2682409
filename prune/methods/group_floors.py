"""Floors of a user's groups (cameras, sites, ...): each keeps at least so many samples, and the budget stays exact.

Where a selection keeps too few of a group, those of its samples that missed most narrowly are kept by force, and the
selection is made again with what is left of the budget, until every group has its floor. Groups may overlap: a sample
has one in each column of the user's table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune.data.text_lists import read_table, repaired
from prune.index.matching import find, first_repeat, shown
from prune.methods.quota import largest_floor
from prune.methods.stages import Stage
from prune.runs.files import InputError, counted, note, unguarded


@dataclass(frozen=True)
class Groups:
    """Groups of the samples, by column of the user's table.

    Attributes
    ----------
    columns : dict of str to (n,) int64
        Number of each sample's group; -1 for samples that the table does not name.
    names : dict of str to list of str
        Names of the groups of each column.
    """

    columns: dict[str, np.ndarray]
    names: dict[str, list[str]]


def read_groups(path: Path, ids: np.ndarray) -> Groups:
    """Read a table with a column `id` and one or more columns of groups.

    Parameters
    ----------
    path : Path
        .csv, .tsv or .jsonl, in UTF-8 or Windows-1252 (Latin-1). An empty cell: no group in this column.
    ids : (n,) bytes
        Of the source. Samples that the table does not name have no group.

    Raises
    ------
    InputError
        No column `id` or no other one, ids that the source lacks or that the table repeats, or a column that is empty.
    """
    table = read_table(path, ("id",))
    header = [repaired(name.strip()) for name in table.header or []]
    if any(repaired(cell) != cell for row in (table.header or [], *table.rows) for cell in row):
        note(f"{path}: is not UTF-8, and is read as Windows-1252 (Latin-1)")
    if "id" not in header or len(header) < 2:
        raise InputError(f"{path}: the columns id and one or more groups are expected, as in the header id,camera,site")
    if len(set(header)) < len(header) or "" in header:
        raise InputError(f"{path}: a column without a name, or two of one name ({', '.join(header)})")
    at = header.index("id")
    cells = [unguarded(row[at].strip()) for row in table.rows]
    named = np.array([cell.encode("utf-8", "surrogateescape") for cell in cells], np.bytes_)
    if not len(named):
        raise InputError(f"{path}: lists no samples")
    if (repeat := first_repeat(named)) is not None:
        raise InputError(
            f"{path}: {counted(repeat[0], 'id is', 'ids are')} repeated (first: {shown(named[repeat[1]])})"
        )
    rows = find(named, ids)[0]
    if (rows < 0).any():  # names of files are bytes: as they are in the table, or in its encoding
        named = np.where(rows < 0, np.array([repaired(cell).encode() for cell in cells], np.bytes_), named)
        rows = find(named, ids)[0]
    if (lost := np.flatnonzero(rows < 0)).size:
        raise InputError(
            f"{path}: {counted(len(lost), 'id is', 'ids are')} not in the source (first: {shown(named[lost[0]])}; the "
            f"source's first: {shown(ids[0])})"
        )
    columns, names = {}, {}
    for place, column in enumerate(header):
        if place == at:
            continue
        given = np.array([repaired(unguarded(row[place].strip())) for row in table.rows])
        if not (filled := given != "").any():
            raise InputError(f"{path}: the column {column} is empty")
        found, numbers = np.unique(given[filled], return_inverse=True)
        columns[column] = np.full(len(ids), -1, np.int64)
        columns[column][rows[filled]] = numbers
        names[column] = found.tolist()
    return Groups(columns, names)


def kept_by_group(kept: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Samples of each of `count` groups that a mask marks, (count,) int64; group -1 does not count."""
    chosen = groups[kept & (groups >= 0)]
    return np.bincount(chosen, minlength=count).astype(np.int64)


def narrowness(stages: list[Stage], label: np.ndarray, excluded: list[np.ndarray]) -> np.ndarray:
    """How narrowly each sample missed, (n,) float64: places behind the last that was kept, the smallest first.

    Excluded samples follow all others, in the order of the list of masks.
    """
    n = len(label)
    found = np.full(n, np.inf)
    for stage in stages:
        behind = stage.place - stage.quota_of(label)
        found = np.where(stage.place >= 0, np.minimum(found, behind), found)
    found = np.where(np.isinf(found), n, found)
    for number, mask in enumerate(excluded, start=2):
        found = np.where(mask, float(number) * n, found)
    return found


def forced_samples(
    kept_with: Callable[[np.ndarray], np.ndarray],
    groups: Groups,
    floor: int,
    budget: int,
    may: np.ndarray,
    order: np.ndarray,
) -> np.ndarray:
    """Mark the samples that must be kept by force so that every group keeps its floor, (n,) bool.

    Parameters
    ----------
    kept_with : callable
        The selection: from (n,) bool, samples kept by force, to (n,) bool, all that are kept.
    groups : Groups
    floor : int
        The least that a group keeps; of a smaller group, all its samples that may be kept.
    budget : int
    may : (n,) bool
        Samples that may be kept.
    order : (n,) float
        Which samples of a group are kept by force first: those with the smallest numbers, and among equal ones those
        of more groups that lack samples, then the lower row.

    Raises
    ------
    InputError
        The budget cannot meet the floors, or could not be made to.
    """
    wanted = {}
    for column, number in groups.columns.items():
        size = kept_by_group(may, number, len(groups.names[column]))
        wanted[column] = np.minimum(size, floor)
        if (need := int(wanted[column].sum())) > budget:
            raise InputError(
                f"--floor-groups {floor} needs {need} samples for the {len(size)} groups of {column} and the budget is "
                f"{budget}; the largest that fits is {largest_floor(size, budget)}"
            )
    forced = np.zeros(len(may), bool)
    while True:
        try:
            kept = kept_with(forced)
        except InputError as error:
            if not forced.any():
                raise
            raise InputError(
                f"--floor-groups {floor} cannot be met together with what else must be kept: {error}"
            ) from None
        lacking = {
            column: wanted[column] - kept_by_group(kept, number, len(wanted[column]))
            for column, number in groups.columns.items()
        }
        added = _most_useful(groups, lacking, may & ~kept, order)
        if not len(added):
            return forced
        forced[added] = True
        if int(forced.sum()) > budget:
            raise InputError(
                f"--floor-groups {floor}: no {budget} samples were found that give every group of "
                f"{', '.join(groups.columns)} so many; give a smaller one, or a larger keep"
            )


def _most_useful(groups: Groups, lacking: dict[str, np.ndarray], free: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows that fill what the groups lack, each row counted in all its groups, (m,) int64."""
    short = {column: np.maximum(need, 0) for column, need in lacking.items()}
    useful = np.zeros(len(free), np.int64)
    for column, number in groups.columns.items():
        useful += (number >= 0) & (short[column][number] > 0)
    rows = np.flatnonzero(free & (useful > 0))
    rows = rows[np.lexsort((rows, order[rows], -useful[rows]))]
    taken = []
    for row in rows.tolist():
        mine = [(column, int(number[row])) for column, number in groups.columns.items() if number[row] >= 0]
        if any(short[column][group] > 0 for column, group in mine):
            taken.append(row)
            for column, group in mine:
                short[column][group] -= 1
            if not any((need > 0).any() for need in short.values()):
                break
    return np.array(taken, np.int64)
