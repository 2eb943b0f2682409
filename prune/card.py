"""Write the card of an index: Markdown with a YAML header, as the dataset cards of Hugging Face's hub have.

    prune card runs/pets-30.index.npz --scores runs/scores.npz --licence cc-by-4.0 --source-name photos --out CARD.md

What the source is (fingerprint), what is kept by which method, a table by class, the licence of the images, and the
code that uses it with torchvision, timm, `datasets` and FFCV. `prune push` sends the same card with the index that it
shares.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from prune.runs.files import need_file, note
from prune.runs.outputs import write_text

if TYPE_CHECKING:
    from prune.pages.index_card import CardFacts


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
    source_name: str = ""
    """Name of the source, as others know it."""


def run(config: Config) -> None:
    """Print or write the card."""
    from prune.index.pruned_index import PrunedIndex
    from prune.pages.index_card import card, card_facts

    index = PrunedIndex.load(need_file(config.index, "an index of `prune select`"))
    facts: CardFacts = card_facts(config.index, index, config.scores, config.licence, config.source_name)
    text = card(index, facts)
    if config.out is None:
        sys.stdout.write(text)
        return
    write_text(config.out, text)
    note(f"{config.out}: the card of {config.index}")
