"""Which columns of a parquet file or an Arrow table hold images and labels, as Hugging Face writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute

from prune.data.class_numbers import Labels, numbered_labels
from prune.data.listing import AS_USUAL, Reading
from prune.runs.files import InputError, counted

_IMAGE, _LABEL = ("image", "img", "jpg", "png"), ("label", "labels", "fine_label", "cls")


@dataclass(frozen=True)
class Columns:
    """Names of the two columns that count; `names` are the classes that the schema's metadata declares, if it does."""

    image: str
    label: str
    names: tuple[str, ...] | None


def find_columns(schema: pa.Schema, place: str | Path, reading: Reading = AS_USUAL) -> Columns:
    """Find the image and the label column of a schema.

    Those that `reading` names; else those that `datasets` declares as Image and ClassLabel, by their usual names where
    there are several; else those with usual names.

    Raises
    ------
    InputError
        No such columns, an image column that holds neither bytes nor paths, or several labels an image.
    """
    features = _features(schema)
    images = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    classes = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    image = _given(schema, "--path-column", reading.path_column, place) or _column(schema, _IMAGE, images)
    label = _given(schema, "--label-column", reading.label_column, place) or _column(schema, _LABEL, classes)
    if image is None or label is None:
        raise InputError(
            f"{place}: columns image and label are expected; found {', '.join(schema.names)}: "
            "name them by --path-column and --label-column"
        )
    kind = schema.field(image).type
    if not (_is_bytes(kind) or _is_text(kind) or (pa.types.is_struct(kind) and {"bytes", "path"} & _fields(kind))):
        raise InputError(f"{place}: column {image} holds {kind}; encoded images or paths to them are expected")
    if pa.types.is_nested(schema.field(label).type):
        raise InputError(
            f"{place}: column {label} gives several labels an image; one is supported: name another by --label-column"
        )
    names = features.get(label, {}).get("names")
    return Columns(image, label, tuple(map(str, names)) if isinstance(names, list) else None)


def _features(schema: pa.Schema) -> dict[str, dict[str, object]]:
    """Features by column from the metadata of `datasets`; {} where there are none."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        found = info["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    ours = found.items() if isinstance(found, dict) else ()
    return {name: feature for name, feature in ours if isinstance(feature, dict) and name in schema.names}


def _given(schema: pa.Schema, flag: str, name: str | None, place: str | Path) -> str | None:
    """The column that the user names, or counts from 1."""
    if name is None or name in schema.names:
        return name
    if name.isdecimal() and 1 <= int(name) <= len(schema.names):
        return str(schema.names[int(name) - 1])
    raise InputError(f"{flag} {name}: {place} has the columns {', '.join(schema.names)}")


def _column(schema: pa.Schema, usual: Sequence[str], declared: Sequence[str]) -> str | None:
    by_name = next((name for name in usual if name in (declared or schema.names)), None)
    return by_name or (declared[0] if len(declared) == 1 else next((n for n in usual if n in schema.names), None))


def _fields(kind: pa.DataType) -> set[str]:
    return {kind.field(k).name for k in range(kind.num_fields)}


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class ImageColumn:
    """The images of a column, or of a part of it, by row.

    Parameters
    ----------
    column : pa.ChunkedArray
        Structs of bytes and path, bytes, or paths.
    folder : Path
        Where relative paths begin: the folder of the file.
    """

    def __init__(self, column: pa.ChunkedArray, folder: Path) -> None:
        self.nbytes = int(column.nbytes)
        self._folder = folder
        self._ends = np.cumsum([len(chunk) for chunk in column.chunks], dtype=np.int64)
        self._parts = [_bytes_and_paths(chunk) for chunk in column.chunks]

    def bytes_of(self, row: int) -> bytes:
        """The encoded image; empty where the cell is. Raises OSError where its path leads nowhere."""
        part = int(np.searchsorted(self._ends, row, side="right")) if len(self._parts) > 1 else 0
        row -= int(self._ends[part - 1]) if part else 0
        stored, paths = self._parts[part]
        if stored is not None and (data := stored[row].as_py()) is not None:
            return bytes(data)
        path = None if paths is None else paths[row].as_py()
        return (self._folder / path).read_bytes() if path else b""


def _bytes_and_paths(chunk: pa.Array) -> tuple[pa.Array | None, pa.Array | None]:
    kind = chunk.type
    if pa.types.is_struct(kind):  # `flatten` applies the validity of the structs themselves, `field` does not
        inside = dict(zip((kind.field(k).name for k in range(kind.num_fields)), chunk.flatten()))
        return inside.get("bytes"), inside.get("path")
    return (None, chunk) if _is_text(kind) else (chunk, None)


def read_labels(chunks: Iterable[pa.Array], columns: Columns, place: str | Path) -> Labels:
    """Turn the label column into numbers and class names.

    Whole numbers are positions in the declared names, or become names of equal width (00 to 19); texts are the names,
    sorted by their bytes.

    Raises
    ------
    InputError
        An image without a label, or labels of another type.
    """
    parts: list[np.ndarray] = []
    known: dict[str, int] = {}
    texts = False
    for chunk in chunks:
        chunk = chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
        if chunk.null_count:
            raise InputError(
                f"{place}: {counted(chunk.null_count, 'image has', 'images have')} no {columns.label}; "
                "every image needs one"
            )
        if _is_text(chunk.type):
            texts = True
            coded = pa.compute.dictionary_encode(chunk)
            table = [known.setdefault(name, len(known)) for name in coded.dictionary.to_pylist()]
            parts.append(np.array(table, np.int32)[_numpy(coded.indices)])
        else:
            parts.append(_whole_numbers(chunk, columns.label, place))
    found = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    if texts:
        classes = sorted(known, key=lambda name: name.encode("utf-8", "surrogateescape"))
        place_of = {name: k for k, name in enumerate(classes)}
        order = np.array([place_of[name] for name in known], np.int32)
        return Labels(order[found], classes, False)
    return numbered_labels(found, columns.names, place)


def _whole_numbers(chunk: pa.Array, label: str, place: str | Path) -> np.ndarray:
    if not (pa.types.is_integer(chunk.type) or pa.types.is_floating(chunk.type)):
        raise InputError(f"{place}: column {label} must hold a whole number for every image, not {chunk.type}")
    try:
        return _numpy(pa.compute.cast(chunk, pa.int64()))
    except pa.ArrowInvalid:
        raise InputError(f"{place}: column {label} must hold a whole number for every image") from None


def _numpy(chunk: pa.Array) -> np.ndarray:
    """Numbers without nulls; Arrow's own `to_numpy` imports pandas, which takes a second."""
    return np.from_dlpack(chunk) if len(chunk) else np.zeros(0, np.int64)


def row_ids(name: str, count: int) -> list[str]:
    """Ids of a table's rows: `name/07`, of equal width, so that they sort as the rows do."""
    width = len(str(count - 1))
    return [f"{name}/{row:0{width}d}" for row in range(count)]
