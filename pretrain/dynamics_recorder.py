"""Record training dynamics: the model's prediction of each image in each epoch, exact over all ranks.

    python -m pretrain --beton S.beton --recipe rn18-surrogate --dynamics --out runs/surrogate

An image is seen at most once an epoch, so the ranks' records can be added. Values are those of the
training pass itself (augmented image, weights of that step), as forgetting (arXiv 1812.05159), AUM (arXiv 2001.10528)
and dataset cartography (arXiv 2009.10795) define them. OUT/dynamics/ holds a file for each epoch until the run is done;
OUT/dynamics.npz joins them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.distributed import Ranks
from prune.index.npz import open_arrays, save_arrays
from prune.runs.disk_errors import reserve

FORMAT = "winnow-dynamics/1"
_EPOCH_FORMAT = "winnow-dynamics-epoch/1"
_COLUMNS = ("probability", "margin", "correct", "loss", "seen")


class Recorder:
    """Records of one rank for the running epoch.

    Parameters
    ----------
    rows : (n,) int64
        Rows trained on, ascending.
    device : torch.device
        Records stay there until the epoch ends, so that a step needs no transfer.
    """

    def __init__(self, rows: np.ndarray, device: torch.device) -> None:
        self._slot = torch.zeros(int(rows[-1]) + 1, dtype=torch.int64)
        self._slot[torch.from_numpy(rows)] = torch.arange(len(rows))
        self._slot = self._slot.to(device)
        self._sums = torch.zeros((len(_COLUMNS), len(rows)), device=device)

    @torch.no_grad()
    def note(self, rows: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor, losses: torch.Tensor) -> None:
        """Record a batch.

        Parameters
        ----------
        rows : (b,) int64
        labels : (b,) int64
        logits : (b, c) float32
        losses : (b,) float32
        """
        own = logits.gather(1, labels[:, None])[:, 0]
        best, place = logits.topk(min(2, logits.shape[1]), dim=1)
        correct = place[:, 0] == labels
        rival = torch.where(correct, best[:, -1], best[:, 0])  # the best of the other classes
        values = (torch.exp(own - logits.logsumexp(1)), own - rival, correct.float(), losses, torch.ones_like(own))
        self._sums[:, self._slot[rows.to(self._slot.device, non_blocking=True)]] += torch.stack(values)

    def finish_epoch(self, ranks: Ranks) -> dict[str, np.ndarray]:
        """Add up the records of all ranks and reset them.

        Returns
        -------
        dict of str to (n,) float32
            "probability", "margin", "correct", "loss": NaN for images that the epoch skipped; "seen": how often.
        """
        table = ranks.total(self._sums).cpu().numpy().copy()
        self._sums.zero_()
        seen = table[-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            columns = {name: np.where(seen > 0, row / seen, np.nan) for name, row in zip(_COLUMNS[:-1], table)}
        return {**columns, "seen": seen.copy()}

    def state(self) -> torch.Tensor:
        """This rank's records, for a checkpoint."""
        return self._sums.cpu()

    def restore(self, state: torch.Tensor) -> None:
        """Continue with the records of `state`."""
        self._sums.copy_(state)


def write_epoch(out: Path, epoch: int, records: dict[str, np.ndarray]) -> None:
    """Write OUT/dynamics/EPOCH.npz; `correct` is 2 for an image that was not seen."""
    correct = records["correct"]
    save_arrays(
        out / "dynamics" / f"{epoch:05d}.npz",
        {
            "probability": records["probability"].astype(np.float32),
            "margin": records["margin"].astype(np.float32),
            "correct": np.where(np.isnan(correct), 2, correct).astype(np.uint8),
        },
        {"format": _EPOCH_FORMAT, "epoch": epoch},
    )


def assemble(out: Path, epochs: int, rows: np.ndarray, labels: np.ndarray, meta: dict[str, Any]) -> None:
    """Join the epochs' files into OUT/dynamics.npz.

    Holds probability f4, margin f4 (logit of the label less the largest other logit), both NaN where an epoch skipped
    the image, and correct u1 (2 there), each (epochs, n); position i8 (n,) and label i4 (n,). Files of older versions
    hold f2, from which scores that compare neighbouring epochs (TDDS) come out less exactly.
    """
    folder = out / "dynamics"
    kinds = {"probability": "<f4", "margin": "<f4", "correct": "u1"}
    # On disk, not in memory: 90 epochs of 1.28 million images are 1 GB.
    tables = {
        name: np.memmap(folder / f".{name}.partial", kind, "w+", shape=(epochs, len(rows)))
        for name, kind in kinds.items()
    }
    for name in kinds:
        reserve(folder / f".{name}.partial")
    for epoch in range(epochs):
        arrays, _ = open_arrays(folder / f"{epoch:05d}.npz", _EPOCH_FORMAT)
        for name, table in tables.items():
            table[epoch] = arrays[name]
    columns = {**tables, "position": rows.astype("<i8"), "label": labels.astype("<i4")}
    save_arrays(out / "dynamics.npz", columns, {**meta, "format": FORMAT})
    for name in kinds:
        (folder / f".{name}.partial").unlink()
