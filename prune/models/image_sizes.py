"""Whether a network takes images of a size: found by one black image, before any work is done for it."""

from __future__ import annotations

import torch
from torch import nn

from prune.runs.files import InputError


def refuse_size(network: nn.Module, side: int) -> None:
    """Raise `InputError` when the network cannot take square images of `side` pixels, as Swin made for 224 cannot 64.

    The network is left as it was: the image is seen in evaluation mode.
    """
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, side, side, device=next(network.parameters()).device))
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise InputError(
            f"images of {side} px do not fit the network ({reason}): give the size that it was made for, or another one"
        ) from None
    finally:
        network.train(training)
