"""Read the last layer of a network as a matrix: what makes its logits of its features."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from prune.models.full_precision import full_precision
from prune.models.networks import features_and_logits
from prune.runs.files import InputError


def linear_head_of(network: nn.Module, resolution: int) -> np.ndarray:
    """Weights (d, c) and constants (1, c) of a network's classifier, one below the other: (d + 1, c) float32.

    Found by what the classifier makes of zeros and of single features, whatever modules it is built of, and checked on
    random features. The network is put in evaluation mode.

    Parameters
    ----------
    network : nn.Module
    resolution : int
        Side of an image that it takes, in pixels.

    Raises
    ------
    InputError
        The logits are no linear function of the features that `prune.models.networks.features_and_logits` gives.
    """
    classifier = network.eval().get_classifier()  # type: ignore[operator]
    needs = "a summary of the logits needs one linear layer: use --logits all"
    if not isinstance(classifier, nn.Module):
        raise InputError(f"--logits summary: a {type(network).__name__} has two classifiers, and {needs}")
    device = next(network.parameters()).device
    with torch.inference_mode(), full_precision():
        d = features_and_logits(network, torch.zeros(1, 3, resolution, resolution, device=device))[0].shape[1]
        constants = classifier(torch.zeros(1, d, device=device))
        weights = classifier(torch.eye(d, device=device)) - constants
        probe = torch.randn(8, d, generator=torch.Generator().manual_seed(0)).to(device)
        logits = classifier(probe)
        apart = (probe @ weights + constants - logits).abs().max()
    if not apart <= 1e-3 * logits.abs().max():
        raise InputError(f"--logits summary: the classifier of this {type(network).__name__} is not linear; {needs}")
    found: np.ndarray = torch.cat([weights, constants]).float().cpu().numpy()
    return found
