"""Check on the images themselves whether the pairs that features or hashes propose are copies."""

from __future__ import annotations

import glob
from collections.abc import Callable

import numpy as np

from prune.data.dataset import Dataset, open_dataset
from prune.data.image_likeness import CERTAIN, COPY, grey_squares, likeness, plain_likeness
from prune.index.manifest import manifest_exists
from prune.runs.files import InputError
from prune.scores.feature_files import Features, order_fingerprint
from prune.scores.hash_pairs import crowded, hash_pairs

_PAIRS = 8192
"""Pairs whose images are held at once."""

Check = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Rows of the first set and of the second, (k,) each, to whether the images are copies, (k,) bool."""


def images_of(features: Features) -> Dataset | None:
    """The images of a features file: the beton beside its manifest; None when it is missing or of another order."""
    manifest = features.manifest
    beton = manifest.with_name(manifest.name.removesuffix(".manifest.npz") + ".beton")
    if not manifest_exists(manifest) or not (beton.is_file() or glob.glob(str(beton))):
        return None
    if features.order not in (None, order_fingerprint(manifest)):
        return None
    found = open_dataset(beton)
    return found if found.manifest.fingerprint == features.source else None


def pair_likeness(
    first: Dataset,
    rows: np.ndarray,
    second: Dataset,
    others: np.ndarray,
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray] = likeness,
) -> np.ndarray:
    """`prune.data.image_likeness.likeness` of pairs of images, (k,) float32.

    Parameters
    ----------
    first, second : Dataset
    rows, others : (k,) int
        Rows of the two data sets.
    compare : function
        Of two (m, SIDE, SIDE) uint8 arrays.

    Raises
    ------
    InputError
        An image is damaged.
    """
    found = np.empty(len(rows), np.float32)
    order = np.lexsort((others, rows))  # images that are in many pairs are decoded few times
    for begin in range(0, len(order), _PAIRS):
        part = order[begin : begin + _PAIRS]
        found[part] = compare(grey_squares(first, rows[part]), grey_squares(second, others[part]))
    return found


def checker(source: Features, other: Features | None = None) -> Check | None:
    """A check of pairs of a source's rows with rows of another set, or of the source itself; None without the images.

    Rows are those of the features files.
    """
    ours = images_of(source)
    theirs = ours if other is None else images_of(other)
    if ours is None or theirs is None:
        return None
    other_rows = source.rows if other is None else other.rows

    def check(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        return pair_likeness(ours, source.rows[rows], theirs, other_rows[others]) >= COPY

    return check


def copies_by_hash(source: Features, hashes: np.ndarray) -> np.ndarray:
    """Pairs of a source's rows that are copies by their hashes and on the images, (m, 2) int64.

    Where an image shares its hash with many, only pairs that are nearly equal count (`prune.scores.hash_pairs`).

    Parameters
    ----------
    source : Features
    hashes : (n, v) uint64
        Of the rows of the features file.

    Raises
    ------
    InputError
        The images are not at hand.
    """
    images = images_of(source)
    if images is None:
        raise InputError(
            f"--hashes: pairs are compared on the images, and {source.manifest} has no beton beside it: write it again"
        )
    pairs = hash_pairs(hashes)
    crowd = crowded(pairs, len(hashes))
    copies = np.zeros(len(pairs), bool)
    for part, compare, least in ((~crowd, likeness, COPY), (crowd, plain_likeness, CERTAIN)):
        rows = source.rows[pairs[part]]
        copies[part] = pair_likeness(images, rows[:, 0], images, rows[:, 1], compare) >= least
    return pairs[copies]
