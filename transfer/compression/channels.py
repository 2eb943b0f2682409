"""What a step removes as a whole: channels of several layers that go together, attention heads, convolution groups.

`channel_pruning` finds them in a network, ranks them and builds the network without some of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Channels:
    """Channels that can only be removed from all of their layers at once.

    Attributes
    ----------
    name : str
        The layer that computes them.
    size : int
        How many can be removed one by one: channels, or heads, or groups of a convolution.
    tensors : tuple of (str, int, int)
        Parameter or buffer, dimension, and the position of channel 0 in it.
    taps : tuple of (str, int)
        Layers whose output contains the channels, and the position of channel 0: their importance is measured there.
    inner : bool
        Computed and read inside one block: the residual stream is not changed.
    width : int
        Positions in each tensor and tap that one of them takes: the channels of a head, or of a convolution's group.
    unit : {"channels", "heads", "groups"}
        What one of them is.
    ranked_with : str
        Where it is not empty, all that have the same are ranked together: the least important of them all go.
    """

    name: str
    size: int
    tensors: tuple[tuple[str, int, int], ...]
    taps: tuple[tuple[str, int], ...]
    inner: bool
    width: int = 1
    unit: Literal["channels", "heads", "groups"] = "channels"
    ranked_with: str = ""

    def positions(self, members: np.ndarray) -> np.ndarray:
        """Positions (k * width,) int64 of these members (k,), counted from that of channel 0.

        Examples
        --------
        >>> Channels("attn", 4, (), (), True, width=2).positions(np.array([0, 3])).tolist()
        [0, 1, 6, 7]
        """
        return (np.asarray(members, np.int64)[:, None] * self.width + np.arange(self.width)).ravel()
