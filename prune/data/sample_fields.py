"""Fields of samples that no image holds: licence, consent, date of deletion, or whatever a user's table says of them.

They lie in `X.fields.npz` beside `X.manifest.npz`, which names that file and its checksum; a reader that does not know
of them reads the manifest as ever. Each field is a whole number a sample and a list of the texts that it stands for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prune.index.manifest import Manifest, manifest_at, merged, several, shards_at
from prune.index.matching import find, first_repeat, shown
from prune.index.npz import open_arrays, save_arrays
from prune.runs.csv_table import read_table
from prune.runs.files import InputError, counted, need_file, note, unguarded

FORMAT = "winnow-fields/1"
ID = ("id", "path", "file", "filename", "file_name")
"""Names that the column with the ids may have."""
UNTOLD = "not told"
"""What is shown where the table has no value."""


@dataclass(frozen=True)
class Fields:
    """Texts of n samples, by field.

    Attributes
    ----------
    codes : dict of str to (n,) int32
        For each field the place of each sample's text in `texts`.
    texts : dict of str to list of str
        Sorted; "" where the table says nothing.
    """

    codes: dict[str, np.ndarray]
    texts: dict[str, list[str]]

    def counted(self, rows: np.ndarray | None = None) -> dict[str, dict[str, int]]:
        """How many samples, of those at `rows`, have each text of each field; the most frequent first."""
        found = {}
        for name, codes in self.codes.items():
            counts = np.bincount(codes if rows is None else codes[rows], minlength=len(self.texts[name]))
            some = {text or UNTOLD: int(n) for text, n in zip(self.texts[name], counts.tolist()) if n}
            found[name] = dict(Counter(some).most_common())
        return found

    def take(self, rows: np.ndarray) -> Fields:
        """The fields of the samples at `rows`, (k,) int, in that order; texts that none of them has are gone."""
        return of_columns({name: [self.texts[name][k] for k in codes[rows]] for name, codes in self.codes.items()})


def of_columns(columns: Mapping[str, list[str]]) -> Fields:
    """Fields from one text for each sample."""
    texts = {name: sorted(set(column)) for name, column in columns.items()}
    codes = {}
    for name, column in columns.items():
        place = {text: k for k, text in enumerate(texts[name])}
        codes[name] = np.array([place[text] for text in column], np.int32)
    return Fields(codes, texts)


def most_frequent(counts: Mapping[str, int], most: int = 10) -> str:
    """The first values of a field in words.

    >>> most_frequent({"cc-by-4.0": 1200, "not told": 3, "cc0-1.0": 1}, 2)
    'cc-by-4.0 1,200, not told 3, and 1 more value'
    """
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:most])
    return shown if len(counts) <= most else f"{shown}, and {counted(len(counts) - most, 'more value')}"


@dataclass(frozen=True)
class FieldTable:
    """A user's table as it was read: ids, and for each field one text an id."""

    place: Path
    ids: np.ndarray
    columns: dict[str, list[str]]


def read_fields(place: Path, flag: str = "--fields") -> FieldTable:
    """Read a CSV file with a column of ids (one of `ID`) and a column for each field.

    Raises
    ------
    InputError
        No CSV, no column of ids, no other column, or an id in two rows.
    """
    rows, names = read_table(need_file(place, "a CSV table with a column id"), f"{flag} ")
    lower = {name.strip().lower(): name for name in names if name}
    key = next((lower[name] for name in ID if name in lower), None)
    if key is None:
        raise InputError(
            f"{flag} {place}: no column id; found {', '.join(filter(None, names)) or 'none'}. Its values are paths as "
            "`prune write` lists them, such as cat/1.jpg"
        )
    others = [name for name in names if name and name != key]
    if not others:
        raise InputError(f"{flag} {place}: has the column {key} alone; a column for each field is needed, as licence")
    ids = np.array([unguarded(row[key] or "").encode("utf-8", "surrogateescape") for row in rows], np.bytes_)
    if not len(ids):
        raise InputError(f"{flag} {place}: has no rows")
    if (repeat := first_repeat(ids)) is not None:
        raise InputError(f"{flag} {place}: {counted(repeat[0], 'id')} in two rows, first {shown(ids[repeat[1]])}")
    columns = {name.strip(): [unguarded((row[name] or "").strip()) for row in rows] for name in others}
    return FieldTable(place, ids, columns)


def attach(table: FieldTable, manifest_place: Path, flag: str = "--fields") -> None:
    """Write the fields of a manifest's samples beside it, and name them in it.

    Ids of the table that the manifest lacks are left out: a table may serve several betons. Samples that the table
    lacks have the text "".

    Raises
    ------
    InputError
        No id of the table is in the manifest.
    """
    manifest = Manifest.load(manifest_place)
    rows = find(np.asarray(manifest.ids), table.ids)[0]
    if not (rows >= 0).any():
        raise InputError(
            f"{flag} {table.place}: none of its ids is an image here; its first is {shown(table.ids[0])}, the first "
            f"image's is {shown(manifest.ids[0])}"
        )
    columns = {name: ["" if k < 0 else column[k] for k in rows.tolist()] for name, column in table.columns.items()}
    before = fields_path(manifest_place).exists()
    save_fields(of_columns(columns), manifest, manifest_place)
    done = "replaced by those of" if before else "written from"
    note(f"{fields_path(manifest_place)}: {done} {table.place}: {', '.join(columns)}")
    if missing := int((rows < 0).sum()):
        note(f"{fields_path(manifest_place)}: {counted(missing, 'image')} of {len(rows)} not in {table.place}")


def save_fields(fields: Fields, manifest: Manifest, manifest_place: Path) -> None:
    """Write `X.fields.npz` beside `X.manifest.npz`, and a manifest that names it; neither when they are as wanted."""
    place = fields_path(manifest_place)
    arrays = {f"field{k}": fields.codes[name] for k, name in enumerate(fields.codes)}
    meta = {"format": FORMAT, "fields": [[name, fields.texts[name]] for name in fields.codes], "n": len(manifest)}
    wanted = {"file": place.name, "columns": list(fields.codes), "content": _fingerprint(fields)}
    if manifest.meta.get("fields") == wanted and place.is_file():
        return
    save_arrays(place, arrays, meta)
    replace(manifest, meta={**manifest.meta, "fields": wanted}).save(manifest_place)


def fields_path(manifest_place: Path) -> Path:
    """`X.fields.npz` for `X.manifest.npz`."""
    return manifest_place.with_name(manifest_place.name.removesuffix(".manifest.npz") + ".fields.npz")


def open_fields(place: Path) -> Fields | None:
    """Open the fields of a beton or manifest, or of several; None where it has none.

    Raises
    ------
    InputError
        The manifest names fields that are gone, or others than those beside it.
    """
    found = manifest_at(place)
    if not several(found):
        return _of_manifest(found, Manifest.load(found))
    places = shards_at(found, ".manifest.npz")
    manifests = [Manifest.load(one) for one in places]
    parts = [_of_manifest(one, manifest) for one, manifest in zip(places, manifests)]
    names = list(dict.fromkeys(name for part in parts if part for name in part.codes))
    if not names:
        return None
    order = merged(manifests, places)[1]
    columns = {}
    for name in names:
        texts = [text for part, manifest in zip(parts, manifests) for text in _texts(part, name, len(manifest))]
        columns[name] = texts if order is None else [texts[k] for k in order.tolist()]
    return of_columns(columns)


def _texts(part: Fields | None, name: str, n: int) -> list[str]:
    if part is None or name not in part.codes:
        return [""] * n
    return [part.texts[name][k] for k in part.codes[name].tolist()]


def _of_manifest(manifest_place: Path, manifest: Manifest) -> Fields | None:
    named = manifest.meta.get("fields")
    if not isinstance(named, dict):
        return None
    place = fields_path(manifest_place)
    again = "write them again by `prune write --fields`"
    if not place.is_file():
        raise InputError(f"{place}: no such file, and {manifest_place} names its fields: {again}")
    arrays, meta = open_arrays(place, FORMAT, mapped=False)
    try:
        texts = {name: list(values) for name, values in meta["fields"]}
        codes = {name: np.asarray(arrays[f"field{k}"]) for k, name in enumerate(texts)}
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{place}: damaged; {again}") from None
    whole = all(
        column.shape == (len(manifest),)
        and (not len(column) or (column.min() >= 0 and column.max() < len(texts[name])))
        for name, column in codes.items()
    )
    fields = Fields(codes, texts)
    if not whole or _fingerprint(fields) != named.get("content"):
        raise InputError(f"{place}: not the fields that {manifest_place} names; {again}")
    return fields


def _fingerprint(fields: Fields) -> str:
    """SHA-256 of the fields, 32 hexadecimal digits."""
    sha = hashlib.sha256()
    for name, codes in fields.codes.items():
        for text in (name, *fields.texts[name]):
            data = text.encode("utf-8", "surrogateescape")
            sha.update(len(data).to_bytes(8, "little") + data)
        sha.update(np.asarray(codes, "<i4").tobytes())
    return sha.hexdigest()[:32]
