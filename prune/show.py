"""Print what an index keeps, as a sentence and a table; with --html, write a page of kept and dropped images.

    prune show runs/winnow-20.index.npz
    prune show runs/winnow-20.index.npz --against runs/yesterday.index.npz
    prune show runs/winnow-20.index.npz --html winnow-20.html --source runs/photos.beton --scores runs/scores.npz

An index lists the samples to KEEP. The page is one file that opens without a network.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from prune.runs.experiment_tracker import Tracker, send
from prune.runs.extras import need_modules
from prune.runs.files import InputError, at_least, atomic, need_file, note, printable
from prune.runs.path_checks import Written

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from prune.index.pruned_index import PrunedIndex


@dataclass(frozen=True)
class Config:
    index: Annotated[Path, tyro.conf.Positional]
    """Index file, NAME.index.npz."""
    json: bool = False
    """Print JSON instead of a sentence and a table."""
    all: bool = False
    """Print every class; without it, of more than 40, those with the largest and the smallest kept shares."""
    against: Path | None = None
    """Another index: also print what this one keeps beyond it, and no more, in all and by class."""
    html: Written[Path | None] = None
    """Page to write; needs --source."""
    source: Path | None = None
    """Beton that the index was made from, X.beton, for the images of the page."""
    fields: Path | None = None
    """Beton or manifest with fields of `prune write --fields`: also print their values among what is kept."""
    scores: Path | None = None
    """scores.npz of `prune score`: scores of dropped samples too, and near-duplicates."""
    score: str | None = None
    """Which score of the scores file to show; the one that ranked the samples when absent."""
    classes: tuple[str, ...] = ()
    """Classes to show on the page; at most 100 of them when absent."""
    pictures: int = 4
    """Most images in one row of the page."""
    tracker: Tracker | None = None
    """Also send the table of classes to this tracker, whose files lie beside the index, in NAME.tracker/."""
    allow_changed: bool = False
    """Accept a source other than the index's if it has at least some of the samples."""


def run(config: Config) -> None:
    """Print the index; write the page when --html is given."""
    from prune.index.index_difference import difference, told
    from prune.index.index_summary import summary
    from prune.index.pruned_index import PrunedIndex

    need_file(config.index, "an index of `prune select`")
    if (config.html is None) != (config.source is None):
        raise InputError("--html and --source go together: the page shows images of the beton")
    if config.html is None and (config.scores or config.score or config.classes):
        raise InputError("--scores, --score and --classes are for the page: give --html and --source too")
    at_least(config, 1, "pictures")
    if config.tracker is not None:
        need_modules(config.tracker)
    index = PrunedIndex.load(config.index)
    numbers = summary(index)
    if config.fields is not None:
        numbers |= _fields(config, index, config.fields)
    change = None if config.against is None else difference(index, PrunedIndex.load(config.against))
    if config.html is not None:
        _write_page(config, index, numbers)
    if config.tracker is not None:
        name = config.index.name.removesuffix(".index.npz")
        send(config.tracker, config.index.parent / f"{name}.tracker", name, _tables(numbers))
    if config.json:
        import json

        json.dump(numbers if change is None else numbers | {"against": change}, sys.stdout, indent=1, ensure_ascii=True)
        sys.stdout.write("\n")
    else:
        _print(index, numbers, config.all)
        for line in [] if change is None else told(change):
            print(printable(line))


def _tables(numbers: dict[str, Any]) -> dict[str, Any]:
    """What a tracker gets: the sentence, and a row for each class."""
    from prune.index.index_summary import sentence

    reasons = list(numbers["reasons"])
    rows = [
        [row["class"], row["kept"], row["total"], round(row["keep"], 4), row["nbytes"]]
        + [row["reasons"].get(name, 0) for name in reasons]
        for row in numbers["classes"]
    ]
    head = ("class", "kept", "of", "share", "bytes", *reasons)
    return {"selection/all": (("kept",), [[sentence(numbers)]]), "selection/classes": (head, rows)}


def _fields(config: Config, index: PrunedIndex, place: Path) -> dict[str, Any]:
    """How many kept samples have each value of each field, as an entry of the summary; {} without fields."""
    from prune.data.sample_fields import open_fields
    from prune.index.manifest import open_manifest

    fields = open_fields(place)
    if fields is None:
        if config.fields is not None:
            raise InputError(f"--fields {place}: has no fields; `prune write --fields TABLE` adds them to a beton")
        return {}
    return {"fields": fields.counted(index.rows_in(open_manifest(place), allow_changed=config.allow_changed))}


def _write_page(config: Config, index: PrunedIndex, numbers: dict[str, Any]) -> None:
    from prune.data.dataset import open_dataset
    from prune.gallery.album import gallery
    from prune.gallery.gallery_page import GENERATOR

    assert config.html is not None
    assert config.source is not None
    if config.html.is_dir():
        raise InputError(f"--html {config.html}: is a directory")
    if config.html.exists() and GENERATOR.encode() not in config.html.read_bytes()[:4096]:
        raise InputError(f"--html {config.html}: exists and is not a page of `prune show`; give another name")
    source = open_dataset(config.source)
    rows = index.rows_in(source.manifest, allow_changed=config.allow_changed)
    if config.fields is None:
        numbers |= _fields(config, index, config.source)
    name, values, duplicates = _scores(config, index, source.manifest)
    text = gallery(
        index,
        rows,
        source,
        numbers,
        score=name,
        scores=values,
        duplicate_of=duplicates,
        classes=_labels(config, source.manifest.classes),
        pictures=config.pictures,
        why=_why(config, index),
    )
    with atomic(config.html) as partial:
        partial.write_text(text, encoding="utf-8")
    note(f"{config.html}: {len(text) / 1e6:.1f} MB")


def _why(config: Config, index: PrunedIndex) -> Callable[[int], str] | None:
    """Says of a row of the source why it is kept or dropped; None where the index or the files do not allow it."""
    from prune.index.manifest import manifest_path
    from prune.methods.explanation import Explainer
    from prune.methods.retrace import Lists, retraced
    from prune.methods.selection_inputs import open_inputs

    if config.scores is None or config.source is None:
        return None
    try:
        given = open_inputs(config.scores, manifest_path(config.source))
        explainer = Explainer(given.pool, *retraced(index, given, Lists(config.scores)))
    except InputError as error:
        note(f"the page does not say why single images are kept or dropped: {error}")
        return None
    return lambda row: " ".join(explainer.sample(row)["text"])


def _labels(config: Config, classes: list[str]) -> list[int] | None:
    for name in config.classes:
        if name not in classes:
            raise InputError(f"--classes {name}: no such class in the source")
    return [classes.index(name) for name in config.classes] or None


def _scores(config: Config, index: PrunedIndex, manifest: Any) -> tuple[str, np.ndarray | None, np.ndarray | None]:
    """Name and values of the score to show, and near-duplicates, from the scores file; without one only the name."""
    from prune.index.index_summary import ranked_by

    ranked = ranked_by(index)[0]
    if config.scores is None:
        return ranked, None, None
    from prune.index.manifest import manifest_path
    from prune.index.npz import open_arrays
    from prune.scores.feature_files import check_order, order_fingerprint

    assert config.source is not None
    arrays, meta = open_arrays(config.scores, "winnow-scores/1")
    if meta.get("fingerprint") != manifest.fingerprint:
        raise InputError(f"{config.scores}: made for another source than {config.source}")
    place = manifest_path(config.source)
    check_order(
        config.scores, meta.get("order"), place, order_fingerprint(place), "give --source the beton that was scored"
    )
    names = [key[7:] for key, value in arrays.items() if key.startswith("sample/") and value.shape == (len(manifest),)]
    name = config.score or (ranked if ranked in names else next(iter(sorted(names)), ""))
    if name not in names:
        raise InputError(f"--score {name}: the scores file holds {', '.join(sorted(names)) or 'none'}")
    duplicates = arrays.get("duplicate_of")
    return name, arrays[f"sample/{name}"], duplicates if duplicates is not None and len(duplicates) else None


def _print(index: PrunedIndex, numbers: dict[str, Any], everything: bool) -> None:
    import numpy as np
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from prune.index.index_summary import classes_to_list, copies_sentence, sentence

    def clean(name: str) -> Text:  # neither markup nor control sequences of a name reach the terminal
        return Text(printable(name))

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    console.print(clean(sentence(numbers)))
    reasons = list(numbers["reasons"])
    for heading, counts in (("why", numbers["reasons"]), ("quality", numbers["quality"])):
        console.print(clean(f"{heading}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())))
    from prune.data.sample_fields import most_frequent

    for heading, counts in numbers.get("fields", {}).items():
        console.print(clean(f"{heading}: {most_frequent(counts, len(counts) if everything else 10)}"))
    last = index.provenance[-1] if index.provenance else {}
    if last.get("step") == "select" and last.get("near_duplicates"):
        console.print(clean(copies_sentence(last["near_duplicates"], index.source_samples)))
    steps = " → ".join(str(entry.get("step")) for entry in index.provenance)
    console.print(clean(f"made by: {steps or 'unknown'}; index {index.fingerprint}"))
    chosen = np.arange(len(index.classes)) if everything else classes_to_list(*index.per_class(), 40)
    table = Table()
    table.add_column("class")
    for column in ("kept", "of", "%", "MB", *reasons):
        table.add_column(column, justify="right")
    for label in chosen:
        row = numbers["classes"][label]
        cells = [f"{row['kept']:,}", f"{row['total']:,}", f"{100 * row['keep']:.1f}", f"{row['nbytes'] / 1e6:.2f}"]
        table.add_row(clean(row["class"]), *cells, *(f"{row['reasons'].get(name, 0):,}" for name in reasons))
    console.print(table)
    if len(chosen) < len(index.classes):
        console.print(f"{len(chosen)} of {len(index.classes)} classes are listed: --all or --json has them all")
