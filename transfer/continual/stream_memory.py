"""A memory for a stream: its byte budget is never exceeded; older samples are re-compressed or dropped for newer ones.

Each sample is stored at a level of a ladder of forms, the finest first; below the last level it is dropped. When bytes
are needed, the change that loses the least value for each byte that it frees is made, anywhere in the memory and the
new sample included: the greedy step of Shoham and Gersho, "Efficient bit allocation for an arbitrary set of
quantizers", 1988, applied online. A sample's value is its importance, shared among the samples of its class, times the
share of it that its level keeps.

Importance may be wrong. With a margin, that share of the room belongs to samples drawn evenly from all that were
offered: those with the smallest random keys, as many as fit (a reservoir: Vitter, "Random sampling with a reservoir",
1985, in the form that keeps the k smallest of random keys). They are dropped for no other, and all count the same when
one is to be compressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prune.index.npz import open_arrays, save_arrays
from transfer.continual.exemplar_form import WORD, Form, fixed_bytes

FORMAT = "winnow-stream/1"
PRIOR = 0.75
"""Importance of a sample before the network has ranked it: the middle of the possible values."""
FADING = 0.5
"""What a draw of one round counts for in the next."""


class StreamMemory:
    """Samples, each stored in one of several forms.

    Parameters
    ----------
    ladder : sequence of Form
        The finest first.
    budget : int
        Bytes.
    seed : int
        Decides between samples of equal value.
    margin : float in [0, 1)
        Share of the bytes, shared headers aside, that samples drawn evenly from all offered ones have.

    Attributes
    ----------
    kept : (levels + 1,) float64
        Share of a sample's value that each level keeps; the last one, dropped, keeps 0.
    peak : int
        The largest number of bytes ever held.
    write_left : int or None
        Bytes that may still be written before `begin_round` is called again; None without a limit.
    """

    def __init__(self, ladder: Sequence[Form], budget: int, seed: int, margin: float = 0.0) -> None:
        self.ladder, self.budget, self.seed, self.margin = tuple(ladder), budget, seed, margin
        self._goal = budget  # what room is made for; below `budget` while a smaller one is being reached
        self.fixed = fixed_bytes(self.ladder)
        self.word = WORD if len(self.ladder) > 1 else self.ladder[0].word
        self.kept = np.append(1.0 - 0.5 * np.arange(len(self.ladder)) / len(self.ladder), 0.0)
        self.data: list[bytes] = []
        self.columns: dict[str, np.ndarray] = {
            "kind": np.zeros(0, np.uint8),
            "rung": np.zeros(0, np.int64),  # the level; columns are named as in the file
            "tried": np.zeros(0, np.int64),  # coarsest level that was tried
            "label": np.zeros(0, np.int64),
            "row": np.zeros(0, np.int64),
            "importance": np.zeros(0),
            "chance": np.zeros(0),
            "size": np.zeros(0, np.int64),
            "use": np.zeros(0),  # draws, those of earlier rounds fading; -1 before the first round
            "key": np.zeros(0),  # the smallest are in the margin
        }
        self.typical = np.zeros((len(self.ladder), 2))  # for each level: bytes and number of the samples encoded
        self.used = self.peak = self.fixed
        self.write_left: int | None = None
        if self.fixed > budget:
            raise ValueError(f"{budget} bytes do not hold the {self.fixed} bytes of shared headers and codec")

    def __len__(self) -> int:
        return len(self.data)

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64."""
        return self.columns["label"]

    @property
    def rows(self) -> np.ndarray:
        """Rows of the training set, (n,) int64."""
        return self.columns["row"]

    @property
    def levels(self) -> np.ndarray:
        """Level of each sample on the ladder, (n,) int64."""
        return self.columns["rung"]

    def images(self) -> np.ndarray:
        """Decode all samples, (n, side, side, 3) uint8."""
        side = self.ladder[0].side
        pixels = [self._pixels(i) for i in range(len(self))]
        return np.stack(pixels) if pixels else np.zeros((0, side, side, 3), np.uint8)

    def begin_round(self, budget: int, write_limit: int | None = None) -> None:
        """Set the budget from now on, and the bytes that may be written until the next call.

        A smaller budget holds at once: samples are re-compressed while bytes may be written, or dropped. A larger one
        is for what arrives.
        """
        if self.fixed > budget:
            raise ValueError(f"{budget} bytes do not hold the {self.fixed} bytes of shared headers and codec")
        self.write_left, self._goal = write_limit, budget
        while self.used > budget:
            self._make_room(None)
        self.budget = budget

    def offer(self, pixels: np.ndarray, label: int, row: int) -> bool:
        """Offer one sample, (side, side, 3) uint8; room is made first. False when the sample itself is dropped."""
        chance, key = np.random.default_rng((self.seed, row)).random(2).tolist()
        for level, form in enumerate(self.ladder):
            kind, data = form.pack(pixels)
            self._count_size(level, len(data))
            if self._may_write(len(data) + self.word):
                break
        else:
            return False
        newcomer = (kind, level, level, label, row, PRIOR, chance, len(data) + self.word, -1.0, key)
        for name, value in zip(self.columns, newcomer):
            self.columns[name] = np.append(self.columns[name], np.asarray(value, self.columns[name].dtype))
        self.data.append(data)  # not counted as held yet
        self._write(len(data) + self.word)
        while self.used + self.columns["size"][-1] > self.budget:
            if self._make_room(pixels) == "newcomer":
                return False
        self._hold(int(self.columns["size"][-1]))
        return True

    def set_values(self, importance: np.ndarray, kept: np.ndarray) -> None:
        """Update the values after the network has learned.

        Parameters
        ----------
        importance : (n,) float
            Of every sample held; positive.
        kept : (levels,) float in [0, 1]
            Share of a sample that each level keeps; a coarser level never counts for more than a finer one.
        """
        self.columns["importance"] = np.asarray(importance, float)
        self.kept = np.append(np.minimum.accumulate(np.clip(kept, 0.0, 1.0)), 0.0)

    def count_draws(self, draws: np.ndarray) -> None:
        """Count how often each sample was drawn in a round, (n,) int: one that is drawn often keeps more bytes.

        Its value is multiplied by (1 + u) / (1 + mean of u), where u are its draws, those of each earlier round
        counting half of the next one's. Without a call all samples count the same.
        """
        self.columns["use"] = FADING * np.maximum(self.columns["use"], 0.0) + np.asarray(draws, float)

    def in_margin(self) -> np.ndarray:
        """Which samples the margin keeps, (n,) bool: those with the smallest keys that fit into its bytes."""
        order = np.argsort(self.columns["key"], kind="stable")
        fits = np.cumsum(self.columns["size"][order]) <= self.margin * (self._goal - self.fixed)
        found = np.zeros(len(order), bool)
        found[order[fits]] = True
        return found

    def _make_room(self, pixels: np.ndarray | None, only_drop: bool = False) -> str:
        """Make the cheapest change; with `pixels` the last sample is new, and these are its pixels."""
        which, level = self._cheapest(only_drop)
        last = pixels is not None and which == len(self) - 1
        before = int(self.columns["size"][which])
        if level == len(self.ladder):
            self._remove(which)
            self._hold(0 if last else -before)
            self._write(-before if last else 0)
            return "newcomer" if last else "older"
        kind, data = self.ladder[level].pack(pixels if last and pixels is not None else self._pixels(which))
        self._count_size(level, len(data))
        if not last and not self._may_write(len(data) + self.word):
            return self._make_room(pixels, only_drop=True)
        self.columns["tried"][which] = level
        after = len(data) + self.word
        if after < before:  # else it does not change, and the next cheapest change is tried
            self.data[which] = data
            for name, value in (("kind", kind), ("size", after), ("rung", level)):
                self.columns[name][which] = value
            self._hold(0 if last else after - before)
            self._write(after - before if last else after)
        return "older"

    def _may_write(self, size: int) -> bool:
        return self.write_left is None or size <= self.write_left

    def _write(self, size: int) -> None:
        if self.write_left is not None:
            self.write_left -= size

    def _cheapest(self, only_drop: bool = False) -> tuple[int, int]:
        """The sample and the level that lose the least value for each byte freed."""
        c, levels = self.columns, len(self.ladder)
        kept = self.in_margin() if self.margin else np.zeros(len(self), bool)
        worth = np.where(kept, PRIOR * 1.5, c["importance"] * (1 + c["chance"]))  # 1.5: the mean of 1 + chance
        worth = worth * _by_use(c["use"]) / np.bincount(c["label"])[c["label"]]
        typical = np.append(self.typical[:, 0] / np.maximum(self.typical[:, 1], 1), 0.0)
        typical[:-1] = np.where(self.typical[:, 1] > 0, typical[:-1], typical[0] * 0.7 ** np.arange(levels))
        own = np.maximum(typical[c["rung"]], 1.0)
        best_rate, best = np.inf, (0, levels)
        for level in range(levels if only_drop else 1, levels + 1):
            # Bytes of the sample at that level: as much larger or smaller than others as it is at its own level.
            there = (
                typical[level] * (c["size"] - self.word) / own + self.word if level < levels else np.zeros(len(self))
            )
            freed = np.maximum(c["size"] - there, 1e-9)
            rate = np.where(c["tried"] < level, worth * (self.kept[c["rung"]] - self.kept[level]) / freed, np.inf)
            rate = np.where((freed <= 1.0) & (level < levels) | kept & (level == levels), np.inf, rate)
            at = int(rate.argmin())
            if rate[at] < best_rate:
                best_rate, best = float(rate[at]), (at, level)
        return best

    def _pixels(self, which: int) -> np.ndarray:
        form = self.ladder[self.columns["rung"][which]]
        found: np.ndarray = form.unpack(int(self.columns["kind"][which]), self.data[which])
        return found

    def _count_size(self, level: int, size: int) -> None:
        self.typical[level] += (size, 1)

    def _remove(self, which: int) -> None:
        del self.data[which]
        for name in self.columns:
            self.columns[name] = np.delete(self.columns[name], which)

    def _hold(self, more: int) -> None:
        self.used += more
        self.peak = max(self.peak, self.used)
        assert self.used <= self.budget  # of the moment: `begin_round` lowers it once everything fits

    def save(self, path: Path) -> None:
        """Write the memory, without its ladder, to an .npz file."""
        arrays = {"data": np.frombuffer(b"".join(self.data), np.uint8), "kept": self.kept, "typical": self.typical}
        lengths = np.array([len(one) for one in self.data], np.int64)
        counts = {"used": self.used, "peak": self.peak, "budget": self.budget}
        save_arrays(path, {**arrays, "lengths": lengths, **self.columns}, {"format": FORMAT, **counts})

    def restore(self, path: Path) -> None:
        """Read what `save` wrote for a memory of the same ladder, budget and seed."""
        arrays, meta = open_arrays(path, FORMAT, mapped=False)
        data, ends = arrays["data"].tobytes(), np.cumsum(arrays["lengths"])
        self.data = [data[e - n : e] for e, n in zip(ends.tolist(), arrays["lengths"].tolist())]
        none = {"use": np.full(len(self.data), -1.0), "key": _keys(self.seed, arrays["row"])}
        self.columns = {name: np.array(arrays[name] if name in arrays else none[name]) for name in self.columns}
        self.kept, self.typical = np.array(arrays["kept"]), np.array(arrays["typical"])
        self.used, self.peak = meta["used"], meta["peak"]
        self.budget = self._goal = meta.get("budget", self.budget)  # older files: it never changed


def _keys(seed: int, rows: np.ndarray) -> np.ndarray:
    return np.array([np.random.default_rng((seed, int(row))).random(2)[1] for row in rows])


def _by_use(use: np.ndarray) -> np.ndarray:
    """Factor of each sample's value by its draws, (n,) float64; one that was in no round yet counts as the mean."""
    known = use >= 0
    mean = float(use[known].mean()) if known.any() else 0.0
    factor: np.ndarray = (1 + np.where(known, use, mean)) / (1 + mean)
    return factor


def importance_of(place: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Importance by the position in the class's order, (n,) float64: from 1 for a class's first to above 0.5."""
    sizes = np.bincount(labels)[labels] if len(labels) else np.zeros(0)
    return 1.0 - 0.5 * place / np.maximum(sizes, 1)
