"""InfoBatch (Qin et al., arXiv 2303.04947): skip some of the easy images each epoch, without bias.

An image is easy when its last loss is below the mean. Of m easy images an epoch sees (1 - r) m, drawn uniformly; each
counts m divided by their number, so that the expected gradient is that of the full set (section 3.2). The number is
exact, as in the authors' code: skipping each image with probability r, as the paper writes it, has the same mean, and
1.5 to 2.2 times the variance. The last eighth of the budget sees everything (annealing). Draws depend on (seed, epoch)
alone. Works with any index.
"""

from __future__ import annotations

import numpy as np

FULL_FROM = 0.875


class InfoBatch:
    """The last losses of all images, and which images an epoch sees.

    Parameters
    ----------
    n : int
        Images trained on.
    share : float in (0, 1)
        r: the share of the easy images that an epoch skips.
    seed : int
    """

    def __init__(self, n: int, share: float, seed: int) -> None:
        self.share, self.seed = share, seed
        self.losses = np.ones(n, np.float32)  # equal: none lies below the mean, so the first epoch sees all

    def images_of(self, epoch: int, progress: float) -> tuple[np.ndarray, np.ndarray]:
        """Images that an epoch sees.

        Returns
        -------
        kept : (k,) int64
            Positions in `losses`, ascending.
        weight : (n,) float32
            How much each image's loss counts.
        """
        weight = np.ones(len(self.losses), np.float32)
        if progress >= FULL_FROM:
            return np.arange(len(weight)), weight
        seen = np.ones(len(weight), bool)
        easy = np.flatnonzero(self.losses < self.losses.mean(dtype=np.float64))
        if len(easy):
            count = max(1, int((1 - self.share) * len(easy) + 1e-9))
            skipped = np.random.default_rng((self.seed, epoch, 0x1F0)).permutation(easy)[count:]
            seen[skipped] = False
            weight[easy] = len(easy) / count
        return np.flatnonzero(seen), weight

    def learn(self, losses: np.ndarray) -> None:
        """Store an epoch's losses, (n,); where one is NaN (not seen), the last one stays."""
        self.losses = np.where(np.isnan(losses), self.losses, losses).astype(np.float32)
