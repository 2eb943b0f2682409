"""Exemplars: the few images of earlier classes that a learner keeps, in a memory whose size is counted in bytes.

What an exemplar takes depends on its form (`exemplar_form`); headers that all share are counted once. Labels cost the
same in every form and are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune.byte_budget import allocation
from prune.byte_budget.budget_inputs import budget_of
from prune.data import image_codecs
from prune.index.npz import open_arrays, save_arrays
from prune.methods import coverage
from prune.runs.files import InputError
from prune.scores import score_table
from prune.scores.clusters import unit
from prune.scores.difficulty import difficulty
from transfer.continual.exemplar_form import ALONE, RAW, Form

FORMAT = "winnow-exemplars/1"
RANKS = ("herding", "random", "k-center", "facility-location")
SCORES = score_table.names("logits")


@dataclass(frozen=True)
class Exemplars:
    """A memory.

    Attributes
    ----------
    form : Form
    data : sequence of bytes
        What is stored of each exemplar.
    kind : (n,) uint8
        Number of its shared headers, or `ALONE`.
    label : (n,) int64
    place : (n,) int64
        Its place in its class's order, from 0: the first to be taken and the last to go.
    row : (n,) int64
        Row of the training set.
    """

    form: Form
    data: Sequence[bytes]
    kind: np.ndarray
    label: np.ndarray
    place: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.data)

    @property
    def sizes(self) -> np.ndarray:
        """Bytes that each exemplar adds, (n,) int64."""
        return np.array([len(one) for one in self.data], np.int64) + self.form.word

    @property
    def nbytes(self) -> int:
        """Bytes of the memory, all counted; an empty one takes none."""
        return int(self.sizes.sum()) + self.form.fixed if len(self) else 0

    @property
    def pixel_bytes(self) -> int:
        """Bytes that code pixels: neither shared headers nor words nor headers of its own count."""
        if self.form.codec != "jpeg":
            return sum(map(len, self.data))
        return sum(
            len(one) - (image_codecs.fixed_bytes(one) if kind == ALONE else 0)
            for kind, one in zip(self.kind, self.data)
        )

    @property
    def file_bytes(self) -> int:
        """Bytes of the same exemplars as whole files, one each."""
        heads = [0 if kind == ALONE else len(self.form.heads[kind]) + 2 for kind in self.kind]
        return sum(map(len, self.data)) + sum(heads)

    def images(self) -> np.ndarray:
        """Decode all of them, (n, side, side, 3) uint8."""
        shape = (len(self), self.form.side, self.form.side, 3)
        pixels = [self.form.unpack(int(kind), one) for kind, one in zip(self.kind, self.data)]
        return np.array(pixels, np.uint8).reshape(shape)

    def take(self, chosen: np.ndarray) -> Exemplars:
        """Keep the exemplars at `chosen` (mask or rows)."""
        rows = np.arange(len(self))[chosen]
        columns = (self.kind[rows], self.label[rows], self.place[rows], self.row[rows])
        return Exemplars(self.form, [self.data[i] for i in rows], *columns)

    def joined(self, other: Exemplars) -> Exemplars:
        """Both memories' exemplars, of one form."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("kind", "label", "place", "row"))
        return Exemplars(self.form, [*self.data, *other.data], *(np.concatenate(pair) for pair in pairs))

    def save(self, path: Path) -> None:
        """Write to one .npz."""
        sizes = np.array([len(one) for one in self.data], np.int64)
        columns = {"kind": self.kind, "label": self.label, "place": self.place, "row": self.row}
        form = {key: getattr(self.form, key) for key in ("codec", "quality", "side", "shared")}
        data = np.frombuffer(b"".join(self.data), np.uint8)
        save_arrays(path, {"data": data, "sizes": sizes, **columns}, {"format": FORMAT, "form": form})

    @staticmethod
    def load(path: Path) -> Exemplars:
        """Read what `save` wrote."""
        arrays, meta = open_arrays(path, FORMAT, mapped=False)
        data, ends = arrays["data"].tobytes(), np.cumsum(arrays["sizes"])
        parts = [data[end - size : end] for end, size in zip(ends.tolist(), arrays["sizes"].tolist())]
        return Exemplars(Form(**meta["form"]), parts, *(arrays[k] for k in ("kind", "label", "place", "row")))


def empty(form: Form) -> Exemplars:
    """A memory that holds nothing."""
    none = np.zeros(0, np.int64)
    return Exemplars(form, [], np.zeros(0, np.uint8), none, none, none)


def pack(form: Form, images: np.ndarray, label: np.ndarray, place: np.ndarray, row: np.ndarray) -> Exemplars:
    """Encode (n, side, side, 3) uint8 images as exemplars."""
    packed = [form.pack(one) for one in images]
    kind = np.array([k for k, _ in packed], np.uint8)
    columns = (np.asarray(column, np.int64) for column in (label, place, row))
    return Exemplars(form, [data for _, data in packed], kind, *columns)


def within(memory: Exemplars, budget: int) -> Exemplars:
    """The most exemplars that `budget` bytes hold when all classes take turns (iCaRL, algorithms 2 and 5, in bytes).

    Every class gives its first exemplar, then its second, and so on, earlier classes before later ones; a class whose
    next exemplar does not fit is done. So each class keeps the beginning of its order, classes differ by at most one
    exemplar of equal size, and the budget is used up to less than one exemplar of each class.
    """
    left = budget - memory.form.fixed
    sizes, kept, done = memory.sizes, [], set()
    for i in np.lexsort((memory.label, memory.place)).tolist():
        if memory.label[i] in done:
            continue
        if sizes[i] > left:
            done.add(memory.label[i])
            continue
        left -= int(sizes[i])
        kept.append(i)
    return memory.take(np.sort(np.array(kept, np.int64)))


def order(rank: str, features: np.ndarray, logits: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Place of every sample in its class's order of exemplars, (n,) int64, from 0.

    Parameters
    ----------
    rank : str
        One of `RANKS`, or SCORE:top (largest first) or SCORE:bottom with a score of `SCORES`. Herding runs on features
        of length 1, as iCaRL has it.
    features : (n, d) float
    logits : (n, c) float
        Column k is label k.
    labels : (n,) int
    seed : int
        For random draws; also decides between equal scores.
    """
    place = np.empty(len(labels), np.int64)
    rng = np.random.default_rng((seed, 0xE8E))
    score, _, way = rank.partition(":")
    if score in SCORES:
        square = np.einsum("ij,ij->i", features, features).astype(np.float32)
        key = difficulty(logits, labels, square)[score] * (-1 if way == "top" else 1)
    else:
        key = rng.random(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if rank in ("herding", "k-center", "facility-location"):
            rule = {"herding": coverage.herding, "k-center": coverage.k_center}.get(rank, coverage.facility_location)
            picks = rule(unit(np.asarray(features[rows], np.float32)), len(rows))
        else:
            picks = np.argsort(key[rows], kind="stable")
        place[rows[picks]] = np.arange(len(rows))
    return place


def memory_bytes(text: str, side: int) -> int:
    """Turn `6MB`, `500kB`, `6144000` or `2000raw` (as many as 2,000 raw exemplars take) into bytes.

    Raises
    ------
    InputError
        Not a number with one of these units, or less than one byte.
    """
    raw = re.fullmatch(r"\s*(\d+)\s*raw\s*", text.lower())
    try:
        value = int(raw[1]) * 3 * side * side if raw else budget_of(text, None, 0)
    except InputError:
        value = 0
    if value < 1:
        raise InputError(f"--memory {text}: bytes (6MB, 500kB, 6144000) or raw exemplars (2000raw) are expected")
    return value


def need_room(text: str, memory: int, runs: Sequence[Sequence[Form]]) -> None:
    """Check that `memory` bytes (`text`, as they were given) hold more than the headers that exemplars share.

    Parameters
    ----------
    text : str
    memory : int
    runs : sequence of sequences of Form
        The forms that each run's memory takes.

    Raises
    ------
    InputError
        Shared headers leave no room, or a memory of pixels alone has none for one image.
    """
    fixed = max(sum(form.fixed for form in forms) for forms in runs)
    if memory <= fixed:
        raise InputError(f"--memory {text}: shared headers alone take {fixed} bytes")
    image = max((3 * forms[0].side ** 2 for forms in runs if {form.codec for form in forms} == {RAW}), default=0)
    if memory < image:
        raise InputError(f"--memory {text}: one raw image takes {image} bytes")


def need_rank(rank: str) -> None:
    """Check that `order` has this rank; `InputError` otherwise."""
    score, _, way = rank.partition(":")
    if rank not in RANKS and not (score in SCORES and way in ("top", "bottom")):
        raise InputError(
            f"--rank {rank}: {', '.join(RANKS)}, or SCORE:top or SCORE:bottom with a score of {', '.join(SCORES)}"
        )


def equivalent_count(form: Form, sizes: np.ndarray, budget: int) -> int:
    """How many exemplars `budget` bytes hold, given what a sample of them takes ("equivalent memory").

    Parameters
    ----------
    form : Form
    sizes : (n,) int
        Bytes of each exemplar of the sample, its word included.
    budget : int
    """
    return max(0, int((budget - form.fixed) / float(np.mean(sizes))))


def kept_share(distortion: np.ndarray, dropped: np.ndarray) -> float:
    """Share of a sample's value that compression leaves, in [0, 1]: 1 - mean d(q) / mean d(drop).

    Parameters
    ----------
    distortion : (n,) float
        FMSE of each compressed image.
    dropped : (n,) float
        What losing the image costs on the same scale.
    """
    lost = float(np.mean(dropped))
    return float(np.clip(allocation.values(np.reshape(distortion, (-1, 1)), np.asarray(lost)).mean(), 0.0, 1.0))


def effective_count(count: int, distortion: np.ndarray, dropped: np.ndarray) -> float:
    """Exemplars that `count` compressed ones are worth once their FMSE is charged: `count * kept_share(...)`."""
    return count * kept_share(distortion, dropped)
