"""Write the card of an index: Markdown with a YAML header, as the dataset cards of Hugging Face's hub have.

    prune card runs/pets-30.index.npz --scores runs/scores.npz --licence cc-by-4.0 --source-name photos --out CARD.md

What the source is (fingerprint), what is kept by which method, a table by class, the licence of the images, and the
code that uses it with torchvision, timm, `datasets` and FFCV. `prune push` sends the same card with the index that it
shares.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from prune.runs.files import InputError, need_file, note
from prune.runs.outputs import write_text

if TYPE_CHECKING:
    from prune.index.pruned_index import PrunedIndex
    from prune.pages.index_card import CardFacts

_LICENCE = ("licence", "license")


@dataclass(frozen=True)
class Config:
    index: Annotated[Path, tyro.conf.Positional]
    """Index file, NAME.index.npz."""
    out: Path | None = None
    """Markdown file to write; printed when absent."""
    scores: Path | None = None
    """The scores file that the index was made from: names the targets and the surrogate."""
    licence: Annotated[str, tyro.conf.arg(aliases=["--license"])] = "unknown"
    """Licence of the images, as the hub names it (apache-2.0, cc-by-4.0, ...), or any other name."""
    fields: Path | None = None
    """Beton or manifest with fields of `prune write --fields`: the card lists them, and has the licence of the field
    licence (or license) where --licence is not given."""
    source_name: str = ""
    """Name of the source, as others know it."""


def run(config: Config) -> None:
    """Print or write the card."""
    from dataclasses import replace

    from prune.data.sample_fields import most_frequent
    from prune.index.pruned_index import PrunedIndex
    from prune.pages.index_card import card, card_facts

    index = PrunedIndex.load(need_file(config.index, "an index of `prune select`"))
    licence, fields = config.licence, _fields(config, index)
    if licence == "unknown":
        licence = next((licence_of(counts) for name, counts in fields.items() if name.lower() in _LICENCE), licence)
    facts: CardFacts = card_facts(config.index, index, config.scores, licence, config.source_name)
    facts = replace(facts, fields=tuple((name, most_frequent(counts)) for name, counts in fields.items()))
    text = card(index, facts)
    if config.out is None:
        sys.stdout.write(text)
        return
    write_text(config.out, text)
    note(f"{config.out}: the card of {config.index}")


def _fields(config: Config, index: PrunedIndex) -> dict[str, dict[str, int]]:
    """Values of each field among the kept samples."""
    from prune.data.sample_fields import open_fields
    from prune.index.manifest import open_manifest

    if config.fields is None:
        return {}
    fields = open_fields(config.fields)
    if fields is None:
        raise InputError(f"--fields {config.fields}: has no fields; `prune write --fields TABLE` adds them to a beton")
    return fields.counted(index.rows_in(open_manifest(config.fields)))


def licence_of(counts: Mapping[str, int]) -> str:
    """The licence for the head of a card: the one that all kept images have, or all of them by their number.

    >>> licence_of({"cc-by-4.0": 7}), licence_of({"cc-by-4.0": 7, "not told": 1})
    ('cc-by-4.0', 'cc-by-4.0 (7), not told (1)')
    """
    if len(counts) == 1:
        only = next(iter(counts))
        return "unknown" if only == "not told" else only
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())
