"""Share an index with its card through Hugging Face's hub, as a dataset repository.

    prune push runs/pets-30.index.npz --repo user/photos-pets-30 --licence cc-by-4.0 --source-name photos

The token is that of HF_TOKEN, or of `hf auth login`. HF_ENDPOINT names another hub. The repository is made when it is
not there. Only the index and its card are sent, no image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from prune.runs.files import need_file, note


@dataclass(frozen=True)
class Config:
    index: Annotated[Path, tyro.conf.Positional]
    """Index file, NAME.index.npz."""
    repo: str
    """Repository: USER/NAME or ORGANISATION/NAME."""
    scores: Path | None = None
    """The scores file that the index was made from: the card then names the targets and the surrogate."""
    licence: Annotated[str, tyro.conf.arg(aliases=["--license"])] = "unknown"
    """Licence of the images, as the hub names it, or any other name."""
    source_name: str = ""
    """Name of the source, as others know it."""
    private: bool = False
    """Make a new repository private."""
    message: str = ""
    """Of the commit."""


def run(config: Config) -> None:
    """Send the index and its card."""
    from dataclasses import replace

    from prune.index.pruned_index import PrunedIndex
    from prune.pages.hub_sharing import check_repository, send
    from prune.pages.index_card import card, card_facts

    check_repository(config.repo)
    index = PrunedIndex.load(need_file(config.index, "an index of `prune select`"))
    facts = card_facts(config.index, index, config.scores, config.licence, config.source_name)
    text = card(index, replace(facts, repository=config.repo))
    message = config.message or f"Index {index.fingerprint}: {len(index)} of {index.source_samples} samples"
    place = send(config.index, facts.file, text, config.repo, message, config.private)
    note(f"{place}: {facts.file} and its card; others get it by `prune pull {config.repo} --out {facts.file}`")
