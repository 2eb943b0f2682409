"""Send an index with its card to Hugging Face's hub, and fetch one; every failure is one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prune.runs.extras import need_modules
from prune.runs.files import InputError

SUFFIX = ".index.npz"
_KIND = "dataset"
_UNREACHABLE = ("ConnectError", "ConnectionError", "ConnectTimeout", "LocalEntryNotFoundError", "ReadTimeout")
_PATIENCE = 20.0
"""Seconds until a hub that does not answer counts as out of reach."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_repository(repo: str) -> None:
    """Raise `InputError` for a name that no repository can have."""
    if not _REPOSITORY.fullmatch(repo):
        raise InputError(f"{repo}: a repository is named USER/NAME, of letters, digits, '-', '_' and '.'")


def send(path: Path, name: str, card: str, repo: str, message: str, private: bool) -> str:
    """Send an index and its card in one commit, to a repository that is made where it is missing; returns its address.

    Raises
    ------
    InputError
        No token, no connection, or what the hub refuses.
    """
    need_modules("huggingface_hub")
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if not get_token():
        raise InputError("no token: set HF_TOKEN to one that may write (https://huggingface.co/settings/tokens)")
    with _one_line(repo):
        api = HfApi(os.environ.get("HF_ENDPOINT") or None)
        made = api.create_repo(repo, repo_type=_KIND, private=private or None, exist_ok=True)
        api.create_commit(
            repo,
            [CommitOperationAdd(name, path), CommitOperationAdd("README.md", card.encode())],
            commit_message=message,
            repo_type=_KIND,
        )
    return str(made)


def fetch(repo: str, name: str | None, revision: str, folder: Path) -> Path:
    """Fetch an index of a repository to a folder; returns its path. Its content is not looked at.

    Raises
    ------
    InputError
        No such repository or file, several indices and no name, or no connection.
    """
    need_modules("huggingface_hub")
    from huggingface_hub import HfApi, hf_hub_download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    with _one_line(repo):
        # One request, which the client does not repeat: without a connection the answer comes at once.
        found = HfApi(endpoint).dataset_info(repo, revision=revision, timeout=_PATIENCE)
        if name is None:
            indices = sorted(one.rfilename for one in found.siblings or [] if one.rfilename.endswith(SUFFIX))
            if len(indices) != 1:
                way = f"name one of {', '.join(indices[:10])} with --file" if indices else "it holds no index"
                raise InputError(f"{repo}: {len(indices)} files of it end in {SUFFIX}; {way}")
            name = indices[0]
        fetched = hf_hub_download(
            repo,
            name,
            repo_type=_KIND,
            revision=revision,
            local_dir=folder,
            cache_dir=folder / ".cache",
            endpoint=endpoint,
        )
    return Path(fetched)


@contextmanager
def _one_line(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # its own errors, those of its HTTP library, and OSError for a lost connection
        from huggingface_hub import errors

        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            reason = "no such file in it"
        elif isinstance(error, errors.RevisionNotFoundError):
            reason = "no such revision"
        elif isinstance(error, errors.RepositoryNotFoundError):
            reason = "no such repository, or a private one for which HF_TOKEN gives no access"
        elif type(error).__name__ in _UNREACHABLE:
            reason = (
                "the hub cannot be reached; try again with a connection, set HF_ENDPOINT to a mirror, or copy the "
                "index by hand: it is one file"
            )
        else:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
        raise InputError(f"{repo}: {reason}") from None
