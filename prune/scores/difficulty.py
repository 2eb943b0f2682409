"""How hard a sample is for the surrogate, from its logits: EL2N, GraNd, entropy, margin, least confidence.

The functions take what `difficulty` provides: `p` and `log_p`, (n, c) softmax and its logarithm; `labels`, (n,) columns
of the logits; `squared_norm`, (n,) squared norms of the features. Values are as the papers define them; which end is
the hard one is in `prune.scores.score_table`.
"""

from __future__ import annotations

import numpy as np

from prune.scores import score_table


def soften(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Softmax and its logarithm, (n, c) float32 each."""
    z = np.asarray(logits, np.float32)
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z)
    total = p.sum(axis=1, keepdims=True)
    p /= total
    z -= np.log(total)
    return p, z


def entropy(p: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """Entropy of the prediction in nats, (n,) float32, in [0, ln c]."""
    found: np.ndarray = np.maximum(-np.einsum("ij,ij->i", p, log_p), 0.0)
    return found


def margin(p: np.ndarray) -> np.ndarray:
    """Largest minus second largest probability, (n,) float32, in [0, 1]; small where two classes compete.

    Scheffer, Decomain and Wrobel, "Active Hidden Markov Models for Information Extraction", IDA 2001. Labels are not
    used.
    """
    rows = np.arange(len(p))
    first = p.argmax(axis=1)
    best = p[rows, first]
    if p.shape[1] == 1:
        return np.asarray(best)
    p[rows, first] = -1.0
    second = p.max(axis=1)
    p[rows, first] = best
    return np.asarray(best - second)


def least_confidence(p: np.ndarray) -> np.ndarray:
    """1 minus the largest probability, (n,) float32 (Lewis and Gale, 1994)."""
    found: np.ndarray = 1.0 - p.max(axis=1)
    return found


def el2n(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """EL2N: Euclidean norm of the error vector, || p - onehot(label) ||, (n,) float32, in [0, sqrt 2].

    Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021, definition 2.2; the paper averages over
    several runs early in training.
    """
    rows = np.arange(len(p))
    own = p[rows, labels]
    p[rows, labels] = 0.0
    # A sum, not 1 - own, which would lose the digits of an easy sample's small error.
    rest = p.sum(axis=1)
    others = np.einsum("ij,ij->i", p, p)
    p[rows, labels] = own
    found: np.ndarray = np.sqrt(others + rest * rest)
    return found


def grand(el2n: np.ndarray, squared_norm: np.ndarray) -> np.ndarray:
    """GraNd restricted to the last layer, in closed form, (n,) float32.

    Paul et al., 2021, definition 2.1. With h the feature, the gradient of the cross-entropy is (p - y) h' for the
    weights and p - y for the bias, so its norm is || p - y || sqrt(|| h ||^2 + 1).

    Parameters
    ----------
    el2n : (n,) float
        Norm of the error vector.
    squared_norm : (n,) float
        Squared Euclidean norm of the feature.
    """
    return (el2n * np.sqrt(squared_norm + 1.0)).astype(np.float32)


def difficulty(logits: np.ndarray, labels: np.ndarray | None, squared_norm: np.ndarray) -> dict[str, np.ndarray]:
    """Every score whose input is the logits, for one block of samples.

    Parameters
    ----------
    logits : (n, c) float
    labels : (n,) int, optional
        Columns of the logits. None when the surrogate's classes are not the source's: scores that need the label are
        skipped.
    squared_norm : (n,) float
        Squared norm of the features.

    Returns
    -------
    dict of str to (n,) float32
    """
    p, log_p = soften(logits)
    given = {"p": p, "log_p": log_p, "labels": labels, "squared_norm": squared_norm}
    return score_table.compute("logits", given)
