"""Choose the quality of a memory's exemplars, many coarse ones or few fine ones, by the network's own features."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from pretrain.distributed import Ranks
from prune.byte_budget import distortion
from prune.byte_budget.codec_files import ImageCodec
from transfer.continual import exemplars
from transfer.continual.class_learner import outputs
from transfer.continual.exemplar_form import Form, form_of

QUALITIES = (90, 75, 60, 45, 30, 20, 10, 5)
SAMPLE = 512


def best_quality(
    codec: ImageCodec,
    side: int,
    shared: bool,
    network: nn.Module,
    images: np.ndarray,
    budget: int,
    tasks: int,
    ranks: Ranks,
) -> tuple[Form, list[dict[str, Any]]]:
    """Choose the quality with the largest effective number of exemplars; of equal ones the finest.

    For each quality the budget holds an equivalent number of exemplars (at most all images to come, estimated as
    `tasks` times the given ones); the mean squared error of the features (FMSE) then shows how much of each exemplar is
    left. Losing an image costs the mean squared distance of its features to their mean.

    Parameters
    ----------
    network : nn.Module
        Whose features are compared.
    images : (n, side, side, 3) uint8
        Of the first task; at most 512 are measured.
    budget : int
        Bytes of the memory.

    Returns
    -------
    form : Form
    table : list of dict
        "quality", "bytes" (mean of an exemplar), "equivalent", "fmse" (share of the loss of an image), "effective".
    """
    sample = images[np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int)]
    exact, dropped = loss_of_dropping(network, sample, ranks)
    best, table = None, []
    for quality in sorted(codec.qualities, reverse=True) or QUALITIES:
        form = form_of(codec, quality, side, shared)
        none = np.zeros(len(sample), np.int64)
        packed = exemplars.pack(form, sample, none, none, none)
        distortion = distortions(network, packed.images(), exact, ranks)
        count = exemplars.equivalent_count(form, packed.sizes, budget)
        effective = exemplars.effective_count(min(count, tasks * len(images)), distortion, dropped)
        table.append(
            {
                "quality": quality,
                "bytes": float(packed.sizes.mean()),
                "equivalent": count,
                "fmse": 1.0 - exemplars.kept_share(distortion, dropped),
                "effective": effective,
            }
        )
        if best is None or effective > best[0]:
            best = effective, form
    assert best is not None
    return best[1], table


def loss_of_dropping(network: nn.Module, images: np.ndarray, ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) of (n, side, side, 3) uint8 images, and the cost of losing each: its FMSE to the mean, (n,)."""
    exact, _ = outputs(network, images, ranks)
    return exact, distortion.dropped(exact, exact.mean(axis=0))


def distortions(network: nn.Module, images: np.ndarray, exact: np.ndarray, ranks: Ranks) -> np.ndarray:
    """FMSE of decoded images against the features of their originals, (n,) float32."""
    return distortion.fmse(outputs(network, images, ranks)[0], exact)
