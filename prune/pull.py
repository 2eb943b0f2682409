"""Get an index from Hugging Face's hub; its checksum is verified before it is written.

    prune pull user/photos-pets-30 --out runs/pets-30.index.npz

HF_TOKEN is needed for a private repository alone. HF_ENDPOINT names another hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from prune.runs.files import InputError, note
from prune.runs.identity import Location


@dataclass(frozen=True)
class Config:
    repo: Annotated[str, tyro.conf.Positional]
    """Repository: USER/NAME or ORGANISATION/NAME."""
    out: Location[Path]
    """Index file to write, NAME.index.npz; or a folder, for the name that it has there."""
    file: str | None = None
    """Which index of the repository, when it has several."""
    revision: str = "main"
    """Branch, tag or commit."""


def run(config: Config) -> Path:
    """Write the index; returns its path."""
    import tempfile

    from prune.index.pruned_index import PrunedIndex
    from prune.pages.hub_sharing import SUFFIX, check_repository, fetch
    from prune.runs.files import atomic

    check_repository(config.repo)
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch(config.repo, config.file, config.revision, Path(folder))
        try:
            index = PrunedIndex.load(fetched)
        except InputError as error:
            reason = str(error).removeprefix(f"{fetched}: ")
            raise InputError(f"{config.repo}: {fetched.name} is refused: {reason}") from None
        out = config.out / fetched.name if config.out.is_dir() else config.out
        if not out.name.endswith(SUFFIX):
            raise InputError(f"--out {config.out}: no such folder, and the name of an index ends in {SUFFIX}")
        if out.exists():
            if out.read_bytes() != fetched.read_bytes():
                raise InputError(f"{out}: exists with other content: give another --out, or remove it")
            note(f"{out}: up to date")
            return out
        with atomic(out) as partial:
            partial.write_bytes(fetched.read_bytes())
    note(f"{out}: keeps {len(index)} of {index.source_samples} samples of the source {index.source}")
    return out
