"""Cross-fitting: every image is scored by a surrogate that did not train on it.

    pretrain --beton S.beton --recipe rn18-surrogate --fold 1/2 --out runs/fold-1
    pretrain --beton S.beton --recipe rn18-surrogate --fold 2/2 --out runs/fold-2

Each of N surrogates leaves out one fold. `prune score` takes the features of all of them and joins the scores of what
each did not see: a surrogate finds images easy that it has memorised, wrong labels among them (UNSEEN, arXiv
2511.12988; Northcutt et al., JAIR 2021, section 3). The folds depend on the images' ids alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prune.runs.files import InputError
from prune.scores.sample_keys import for_purpose, sample_keys

if TYPE_CHECKING:
    from prune.scores.feature_files import Features


def parse_fold(text: str) -> tuple[int, int]:
    """Turn "K/N" into its two numbers, K from 1 to N and N at least 2; `InputError` for anything else."""
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    k, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not (n >= 2 and 1 <= k <= n):
        raise InputError(f"--fold {text}: give K/N with N of at least 2 and K from 1 to N")
    return k, n


def fold_numbers(ids: np.ndarray, folds: int) -> np.ndarray:
    """Fold of every image, (n,) int64 in 1 to `folds`, from its id alone."""
    keys = for_purpose(sample_keys(0, ids=ids), "folds")
    return (keys % np.uint64(folds)).astype(np.int64) + 1


def unseen_masks(sources: Sequence[Features]) -> list[np.ndarray] | None:
    """Images that each surrogate did not train on, (n,) bool each; None when none of them left out a fold.

    Raises
    ------
    InputError
        Not all surrogates left out a fold, or a fold is missing, or given twice, or the ids are unknown.
    """
    named = [source.model.get("fold") for source in sources]
    if not any(named):
        return None
    for source, fold in zip(sources, named):
        if fold is None:
            raise InputError(f"{source.path}: its surrogate left out no fold, others did: give folds alone")
    folds = [parse_fold(str(fold)) for fold in named]
    n = folds[0][1]
    wanted = {(k, n) for k in range(1, n + 1)}
    if missing := wanted - set(folds):
        k = min(missing)[0]
        raise InputError(f"--source: fold {k}/{n} is missing, and nobody left out its images: give all {n} folds")
    if len(folds) > n:
        raise InputError(f"--source: {len(folds)} surrogates for {n} folds: give each fold once")
    ids = sources[0].ids()
    if ids is None:
        raise InputError(f"{sources[0].path}: folds need the source's manifest, which is not at {sources[0].manifest}")
    numbers = fold_numbers(ids, n)
    return [numbers == k for k, _ in folds]
