"""Influence: how far a step of training on a source image would lower the loss on the targets, by gradients.

TracIn (Pruthi et al., NeurIPS 2020, arXiv 2002.08484) estimates it by the inner product of the two gradients; LESS (Xia
et al., ICML 2024, arXiv 2402.04333, section 4) by their cosine, so that hard images with long gradients do not come
first whatever they show, and takes the best over the subtasks of a target. Both are taken to the last layer here, where
the gradient of an image is an outer product that stored features and logits give: no backward pass, no projection.

The form
--------
The head on features f is linear, z = W f, and the gradient of the cross-entropy with respect to W is (p - y) ⊗ f, with
p the softmax of z and y the label. Let W follow a linear layer A (the identity) that source and target share. A target
has classes of its own, and a head V for them. The gradients with respect to A are (W' (p - y)) ⊗ f for a source image
and (V' (q - y)) ⊗ f for a target image.

V must not be trained to its end: at the optimum the gradients of the target's images sum to zero, since that is what an
optimum is, and what is left of each is noise. V is taken after the first step from zero, where the gradient is largest
(the target's classes counting the same). That step makes row k of V proportional to m_k - m, the mean feature of class
k less that of all classes, and the gradient of class k with respect to A is then, to first order in the step,
-(m_k - m) ⊗ m_k. There is one gradient for each class, because those of all classes cancel in part: the rows of V sum
to zero.

Its inner product with a source image's gradient is ((y - p)' W (m_k - m)) (f' m_k), and W (m_k - m) is the mean logits
of the target's class k less those of all its classes, z_k - z: the source's head itself is not needed. With the lengths
of these four vectors divided out, the influence of an image on class k is

    cos(y - p, z_k - z) * cos(f, m_k):

how far what the label teaches agrees with what sets the class apart, times the likeness of the features. The influence
on a target is the largest over its classes. Source and target need not share any class, and an image costs a product
with c + d numbers for each target class.

Features are taken as they are, not centred: those of a ReLU network are positive, so is their cosine, and an image that
is unlike a class and teaches the opposite of it does not come out as helpful.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prune.runs.cores import in_order
from prune.runs.files import InputError
from prune.runs.progress import track
from prune.scores.class_votes import class_sums
from prune.scores.difficulty import soften
from prune.scores.streaming import ROWS, blocks, read_rows, widen

ALL = "influence"
"""Name of the score of all targets together; that of one target is ALL/NAME."""


@dataclass(frozen=True)
class TargetGradient:
    """Gradients of a target's classes with respect to the shared layer, as outer products of unit vectors.

    Attributes
    ----------
    logits : (k, c) float32
        Directions z_k - z of the source's logits.
    features : (k, d) float32
        Directions m_k of the features.
    """

    logits: np.ndarray
    features: np.ndarray


def target_gradient(
    features: np.ndarray, logits: np.ndarray, labels: np.ndarray, columns: np.ndarray | None = None
) -> TargetGradient:
    """Gradients of the classes of a target that has images of at least two.

    Parameters
    ----------
    features : (m, d) float
        Of the target's training images, by the surrogate; may be mapped.
    logits : (m, k) float
        Of the same images, for the surrogate's own classes.
    labels : (m,) int
        The target's classes.
    columns : (c,) int, optional
        Columns of the logits that stand for the source's classes; all when absent.

    Raises
    ------
    InputError
        Images of fewer than two classes.

    Examples
    --------
    >>> found = target_gradient(np.array([[1.0, 0], [0, 2]]), np.array([[2.0, 0], [0, 2]]), np.array([0, 1]))
    >>> found.features.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    >>> found.logits.round(2)  # mean logits (2, 0) and (0, 2), (1, 1) over both classes
    array([[ 0.71, -0.71],
           [-0.71,  0.71]], dtype=float32)
    """
    classes = int(labels.max(initial=-1)) + 1
    sizes = np.bincount(labels, minlength=classes)
    if np.count_nonzero(sizes) < 2:
        raise InputError("influence needs a target with images of at least two classes")
    width = logits.shape[1] if columns is None else len(columns)
    sums, raised = np.zeros((classes, features.shape[1])), np.zeros((classes, width))
    for rows in blocks(len(labels)):
        z = widen(read_rows(logits, rows))
        z = z if columns is None else z[:, columns]
        for total, block in ((sums, widen(read_rows(features, rows))), (raised, z)):
            present, part = class_sums(block, labels[rows])
            total[present] += part
    known = sizes > 0
    means, said = sums[known] / sizes[known, None], raised[known] / sizes[known, None]
    return TargetGradient(_unit(said - said.mean(axis=0)), _unit(means))


def influence(
    features: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray,
    targets: Mapping[str, TargetGradient],
    columns: np.ndarray | None = None,
    workers: int | None = None,
) -> dict[str, np.ndarray]:
    """Influence of every source image on each target, and its mean over the targets; see the head of this file.

    Parameters
    ----------
    features : (n, d) float
        May be mapped.
    logits : (n, k) float
    labels : (n,) int in [0, c)
        The source's classes.
    targets : mapping of str to TargetGradient
    columns : (c,) int, optional
        Columns of the logits that stand for the labels; all when absent.
    workers : int, optional
        Threads.

    Returns
    -------
    dict of str to (n,) float32
        `influence` and `influence/NAME`, in [-1, 1]; the largest help most. NaN where features or logits are not
        finite; 0 where the surrogate leaves the label nothing to learn.

    Examples
    --------
    Two source classes, whose logits are equal: p = (1/2, 1/2), and y - p points along (1, -1) for label 0. A target of
    two classes, A at feature (1, 0) with logits (2, 0) and B at (0, 1) with (0, 2): z_A - z points along (1, -1).
    The first image teaches what A needs (1) and looks like it (1); the second is half-way between A and B, 0.71 like
    either; the third looks like A and teaches the opposite (-1), but is not at all like B, for which that would help.

    >>> target = target_gradient(np.eye(2), 2 * np.eye(2), np.arange(2))
    >>> source = np.array([[1.0, 0], [1, 1], [1, 0]])
    >>> influence(source, np.zeros((3, 2)), np.array([0, 0, 1]), {"ab": target})["influence/ab"].round(2)
    array([1.  , 0.71, 0.  ], dtype=float32)
    """
    if not targets:
        raise InputError("influence needs targets: run `prune score` with --targets")
    ends = np.cumsum([len(target.features) for target in targets.values()])
    starts = np.r_[0, ends[:-1]]
    directions = np.concatenate([target.logits for target in targets.values()])
    places = np.concatenate([target.features for target in targets.values()])
    found = np.empty((len(labels), len(targets)), np.float32)

    def work(rows: slice) -> tuple[slice, np.ndarray]:
        x, z = widen(read_rows(features, rows)), widen(read_rows(logits, rows))
        z = z if columns is None else z[:, columns]
        own = labels[rows]
        with np.errstate(invalid="ignore", over="ignore"):
            agreement = _unit(_lesson(z, own)) @ directions.T
            agreement *= _unit(x) @ places.T
        return rows, np.maximum.reduceat(agreement, starts, axis=1)

    total = -(-len(labels) // ROWS)
    for rows, values in track(in_order(work, blocks(len(labels)), workers, ahead=2), total, "influence"):
        found[rows] = values
    each = {f"{ALL}/{name}": found[:, place].copy() for place, name in enumerate(targets)}
    return {ALL: found.mean(axis=1)} | each


def _lesson(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What an image's label teaches the head, y - p, (n, c) float32."""
    p, _ = soften(logits)
    rows = np.arange(len(p))
    p[rows, labels] = 0.0
    rest = p.sum(axis=1)  # not 1 - p of the label: an easy image's error keeps its digits
    np.negative(p, out=p)
    p[rows, labels] = rest
    return p


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; a row of zeros stays."""
    x = np.asarray(x, np.float32)
    norm = np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
    found: np.ndarray = np.divide(x, norm, out=np.zeros_like(x), where=norm != 0)
    return found
