"""The preservation set of a language model: prompts with reference continuations, in groups, as JSON Lines.

    {"prompt": "The capital of France is", "continuation": " Paris", "group": "capitals"}

Prompt and continuation are tokenised one after the other, so that the continuation's tokens are known; a space belongs
to the continuation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from prune.runs.files import InputError, need_file

_KEYS = {"prompt", "continuation", "group"}


@dataclass(frozen=True)
class Prompts:
    """Prompts and continuations as tokens.

    Attributes
    ----------
    tokens : (n, t) int64
        Prompt and continuation, from the left; zeros behind.
    asked : (n, t - 1) bool
        Predictions that count: position k predicts token k + 1, and that is one of the continuation.
    group : (n,) int64
        Positions in `names`.
    names : tuple of str
        Groups, sorted.
    fingerprint : str
        Of the file's bytes.
    """

    tokens: np.ndarray
    asked: np.ndarray
    group: np.ndarray
    names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.tokens)


def read_prompts(path: Path, tokenizer: Tokenizer, context: int) -> Prompts:
    """Read a preservation set.

    Parameters
    ----------
    path : Path
    tokenizer : Tokenizer
    context : int
        Largest number of tokens; a longer prompt loses its beginning.

    Raises
    ------
    InputError
        A line is no such object, a text is empty, or a continuation is longer than the context.
    """
    data = need_file(Path(path), "a preservation set (JSON Lines)").read_bytes()
    rows: list[tuple[list[int], int]] = []
    groups: list[str] = []
    for number, one in _lines(path, data):
        before = list(tokenizer.encode(one["prompt"]).ids)
        after = list(tokenizer.encode(one["continuation"], add_special_tokens=False).ids)
        if not after or not before:
            raise InputError(f"{path}: line {number}: {'continuation' if before else 'prompt'} has no token")
        if len(after) >= context:
            raise InputError(
                f"{path}: line {number}: the continuation has {len(after)} tokens, and the model takes {context}"
            )
        kept = before[-(context - len(after)) :]
        rows.append((kept + after, len(after)))
        groups.append(one.get("group", "all"))
    if not rows:
        raise InputError(f"{path}: holds no prompt")
    wide = max(len(ids) for ids, _ in rows)
    tokens, asked = np.zeros((len(rows), wide), np.int64), np.zeros((len(rows), wide - 1), bool)
    for row, (ids, last) in enumerate(rows):
        tokens[row, : len(ids)] = ids
        asked[row, len(ids) - last - 1 : len(ids) - 1] = True
    names = tuple(sorted(set(groups)))
    group = np.array([names.index(name) for name in groups], np.int64)
    return Prompts(tokens, asked, group, names, hashlib.sha256(data).hexdigest()[:32])


def _lines(path: Path, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of every line that is not empty."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            one = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError):
            raise InputError(f"{path}: line {number} is not JSON in UTF-8") from None
        keys = set(one) if isinstance(one, dict) else set()
        if keys - {"group"} != _KEYS - {"group"} or not all(isinstance(value, str) for value in one.values()):
            raise InputError(
                f'{path}: line {number}: {{"prompt": "…", "continuation": "…", "group": "…"}} is expected, '
                "all of them texts; the group may be missing"
            )
        yield number, one
