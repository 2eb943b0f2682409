"""What scores need of an image's logits, computed while a network runs over it, so that the logits are never stored.

`prune features --logits summary` writes these few numbers an image instead of one for every class: the scores whose
input is the logits, whether the prediction is right, and once a file the network's last layer, which LM votes by chance
need. Numbers are computed from the half floats that would have been stored: scores are the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune.index.joined_rows import JoinedRows
from prune.runs.files import InputError
from prune.scores import score_table
from prune.scores.difficulty import difficulty
from prune.scores.streaming import blocks, read_rows, read_scattered, widen

_RIGHT = "right"


@dataclass(frozen=True)
class LogitSummary:
    """The summary of a source's logits, for the labels that its images have.

    Attributes
    ----------
    names : tuple of str
        Of the columns: scores of `prune.scores.difficulty`, and "right".
    values : (n, s) float32
        May be memory-mapped. "right" is 1 where the largest logit is that of the label, else 0.
    head : (d + 1, c) float32
        Weights of the last layer for the source's classes, then its constants: logits are `x @ head[:-1] + head[-1]`.
    """

    names: tuple[str, ...]
    values: np.ndarray
    head: np.ndarray

    def scores(self, rows: slice) -> dict[str, np.ndarray]:
        """Scores of consecutive images, (b,) float32 each."""
        block = np.asarray(read_rows(self.values, rows), np.float32)
        return {name: block[:, column] for column, name in enumerate(self.names) if name != _RIGHT}

    def right(self, rows: np.ndarray) -> np.ndarray:
        """Whether the surrogate predicts the label of these images, (m,) int64; (m,) bool."""
        found: np.ndarray = read_scattered(self.values, rows)[:, self.names.index(_RIGHT)] == 1
        return found


def summary_names() -> tuple[str, ...]:
    """Names of the columns of a summary, in the order of the table of scores."""
    scores = (row.name for row in score_table.SCORES if row.source == "logits" and not row.also)
    return (*scores, _RIGHT)


def difficulty_of(
    logits: np.ndarray, labels: np.ndarray | None, squared_norm: np.ndarray, columns: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Scores of `prune.scores.difficulty` for a block of stored logits, in parts that stay in a core's cache.

    The scores of an image do not depend on the block in which it comes.

    Parameters
    ----------
    logits : (b, k) float16 (or wider)
    labels : (b,) int, optional
    squared_norm : (b,) float32
        Squared norm of the features.
    columns : (c,) int, optional
        Columns of the logits that belong to the labels' classes; None uses all, without the scores that need labels.

    Returns
    -------
    dict of str to (b,) float32
        Empty where there are no logits.
    """
    k = logits.shape[1]
    whole = columns is None or np.array_equal(columns, np.arange(k))
    parts = []
    for inner in blocks(len(logits) if k else 0, max(16, (1 << 19) // max(1, k))):
        z = widen(logits[inner])
        own = None if columns is None or labels is None else labels[inner]
        if not whole and len(z) == 1:  # chosen columns of one row lie otherwise in memory, and sums round otherwise
            twice = None if own is None else np.repeat(own, 2)
            found = difficulty(np.repeat(z, 2, axis=0)[:, columns], twice, np.repeat(squared_norm[inner], 2))
            parts.append({name: values[:1] for name, values in found.items()})
        else:
            parts.append(difficulty(z if whole else z[:, columns], own, squared_norm[inner]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def summarised(features: np.ndarray, logits: np.ndarray, labels: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The rows of a summary for a batch of images, (b, s) float32 with the columns of `summary_names`.

    Parameters
    ----------
    features : (b, d) float16
    logits : (b, k) float16
        As they would be stored: rounded.
    labels : (b,) int
    columns : (c,) int
        Columns of the logits that belong to the labels' classes.
    """
    x = widen(features)
    found = difficulty_of(logits, labels, np.einsum("ij,ij->i", x, x), columns)
    found[_RIGHT] = (logits[:, columns].argmax(axis=1) == labels).astype(np.float32)
    return np.stack([found[name] for name in summary_names()], axis=1)


def joined_summary(parts: Sequence[LogitSummary | None], order: np.ndarray | None) -> LogitSummary | None:
    """Summaries of a source's shards, which one surrogate made, as one; None where the shards hold all logits."""
    held = [part for part in parts if part is not None]
    if not held:
        return None
    return LogitSummary(held[0].names, JoinedRows([part.values for part in held], order), held[0].head)  # type: ignore[arg-type]


def opened_summary(path: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> LogitSummary | None:
    """The summary of an open features file; None where it holds all logits.

    Raises
    ------
    InputError
        Its arrays are missing or do not fit the rest of the file.
    """
    if "summary" not in meta:
        return None
    names = meta["summary"]
    values, head = arrays.get("summary"), arrays.get("head")
    fine = isinstance(names, list) and _RIGHT in names and all(isinstance(name, str) for name in names)
    if (
        not fine
        or values is None
        or head is None
        or values.dtype != np.float32
        or head.dtype != np.float32
        or values.shape != (len(arrays["label"]), len(names))
        or head.shape != (arrays["features"].shape[1] + 1, len(meta["classes"]))
    ):
        raise InputError(f"{path}: the summary of the logits is damaged; run `prune features` again")
    return LogitSummary(tuple(names), values, head)
