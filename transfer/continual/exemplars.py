"""Exemplars: the few images of earlier classes that are stored for replay, in a memory whose size is counted in bytes.

The bytes of an exemplar depend on its form (`exemplar_form`); shared headers are counted once. Labels take the same
bytes in every form and are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prune.byte_budget import allocation
from prune.byte_budget.budget_inputs import budget_of
from prune.byte_budget.codec_files import ImageCodec
from prune.data import image_codecs
from prune.index.npz import open_arrays, save_arrays
from prune.methods import coverage
from prune.runs.files import InputError
from prune.scores import score_table
from prune.scores.clusters import unit
from prune.scores.difficulty import difficulty
from transfer.continual.exemplar_form import OWN_HEADERS, RAW, Form, fixed_bytes

FORMAT = "winnow-exemplars/1"
RANKS = ("herding", "random", "k-center", "facility-location")
SCORES = score_table.names("logits")


@dataclass(frozen=True)
class Exemplars:
    """A memory of exemplars.

    Attributes
    ----------
    form : Form
    data : sequence of bytes
        The stored bytes of each exemplar.
    kind : (n,) uint8
        Number of its shared headers, or `OWN_HEADERS`.
    label : (n,) int64
    place : (n,) int64
        Position in its class's order, from 0: the first is taken first and removed last.
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
        """All bytes of the memory; an empty one takes none."""
        return int(self.sizes.sum()) + self.form.fixed if len(self) else 0

    @property
    def pixel_bytes(self) -> int:
        """Bytes that encode pixels: no shared headers, no own headers, no words."""
        if not self.form.is_jpeg:
            return sum(map(len, self.data))
        return sum(
            len(one) - (image_codecs.fixed_bytes(one) if kind == OWN_HEADERS else 0)
            for kind, one in zip(self.kind, self.data)
        )

    @property
    def file_bytes(self) -> int:
        """Bytes of the same exemplars as whole files, one each."""
        headers = [0 if kind == OWN_HEADERS else len(self.form.headers[kind]) + 2 for kind in self.kind]
        return sum(map(len, self.data)) + sum(headers)

    def images(self) -> np.ndarray:
        """Decode all exemplars, (n, side, side, 3) uint8."""
        shape = (len(self), self.form.side, self.form.side, 3)
        pixels = [self.form.unpack(int(kind), one) for kind, one in zip(self.kind, self.data)]
        return np.array(pixels, np.uint8).reshape(shape)

    def take(self, chosen: np.ndarray) -> Exemplars:
        """The exemplars at `chosen` (mask or rows)."""
        rows = np.arange(len(self))[chosen]
        columns = (self.kind[rows], self.label[rows], self.place[rows], self.row[rows])
        return Exemplars(self.form, [self.data[i] for i in rows], *columns)

    def joined(self, other: Exemplars) -> Exemplars:
        """The exemplars of both memories, which have one form."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("kind", "label", "place", "row"))
        return Exemplars(self.form, [*self.data, *other.data], *(np.concatenate(pair) for pair in pairs))

    def save(self, path: Path) -> None:
        """Write the memory to an .npz file."""
        sizes = np.array([len(one) for one in self.data], np.int64)
        columns = {"kind": self.kind, "label": self.label, "place": self.place, "row": self.row}
        form = {key: getattr(self.form, key) for key in ("codec", "quality", "side", "shared")}
        form |= {} if self.form.coder is None else {"coder": self.form.coder.fingerprint}
        data = np.frombuffer(b"".join(self.data), np.uint8)
        save_arrays(path, {"data": data, "sizes": sizes, **columns}, {"format": FORMAT, "form": form})

    @staticmethod
    def load(path: Path, coder: ImageCodec | None = None) -> Exemplars:
        """Read what `save` wrote; with a codec that is no standard one it must be the same again."""
        arrays, meta = open_arrays(path, FORMAT, mapped=False)
        wanted = meta["form"].pop("coder", None)
        if wanted is not None and (coder is None or coder.fingerprint != wanted):
            raise InputError(f"{path}: written with another codec ({wanted})")
        data, ends = arrays["data"].tobytes(), np.cumsum(arrays["sizes"])
        parts = [data[end - size : end] for end, size in zip(ends.tolist(), arrays["sizes"].tolist())]
        form = Form(**meta["form"], coder=coder if wanted else None)
        return Exemplars(form, parts, *(arrays[k] for k in ("kind", "label", "place", "row")))


def pack(form: Form, images: np.ndarray, label: np.ndarray, place: np.ndarray, row: np.ndarray) -> Exemplars:
    """Encode (n, side, side, 3) uint8 images as exemplars."""
    packed = [form.pack(one) for one in images]
    kind = np.array([k for k, _ in packed], np.uint8)
    columns = (np.asarray(column, np.int64) for column in (label, place, row))
    return Exemplars(form, [data for _, data in packed], kind, *columns)


def fit_budget(memory: Exemplars, budget: int) -> Exemplars:
    """Keep as many exemplars as `budget` bytes hold, the classes taking turns (iCaRL, algorithms 2 and 5, in bytes).

    Every class gives its first exemplar, then its second, and so on, earlier classes before later ones; a class ends
    when its next exemplar does not fit. So each class keeps the beginning of its order, classes differ by at most one
    exemplar of equal size, and less than one exemplar of each class is left of the budget.
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


def exemplar_order(rank: str, features: np.ndarray, logits: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Position of every sample in its class's order of exemplars, (n,) int64, from 0.

    Parameters
    ----------
    rank : str
        One of `RANKS`, or SCORE:top (largest first) or SCORE:bottom with a score of `SCORES`. Herding uses features of
        length 1, as in iCaRL.
    features : (n, d) float
    logits : (n, c) float
        Column k is label k.
    labels : (n,) int
    seed : int
        Of random draws; also decides between equal scores.
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


def misplaced(place: np.ndarray, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Exchange the positions of a share of each class's samples at random: what errors in the order cost.

    Parameters
    ----------
    place : (n,) int
        Of `exemplar_order`.
    labels : (n,) int
    share : float in [0, 1]
        Of each class, rounded; 0 changes nothing.
    seed : int
    """
    found, rng = place.copy(), np.random.default_rng(seed)
    for label in np.unique(labels) if share else ():
        rows = np.flatnonzero(labels == label)
        some = rng.choice(rows, round(share * len(rows)), replace=False)
        found[some] = place[rng.permutation(some)]
    return found


def memory_bytes(text: str, side: int, flag: str = "--memory") -> int:
    """Convert `6MB`, `500kB`, `6144000` or `2000raw` (the bytes of 2,000 raw exemplars) to bytes.

    Raises
    ------
    InputError
        It is not a number with one of these units, or is less than one byte.
    """
    raw = re.fullmatch(r"\s*(\d+)\s*raw\s*", text.lower())
    try:
        value = int(raw[1]) * 3 * side * side if raw else budget_of(text, None, 0)
    except InputError:
        value = 0
    if value < 1:
        raise InputError(f"{flag} {text}: bytes (6MB, 500kB, 6144000) or raw exemplars (2000raw) are expected")
    return value


def need_room(text: str, memory: int, runs: Sequence[Sequence[Form]], flag: str = "--memory") -> None:
    """Check that `memory` bytes (given as `text`) hold more than the shared headers.

    Parameters
    ----------
    text : str
    memory : int
    runs : sequence of sequences of Form
        The forms that each run's memory uses.

    Raises
    ------
    InputError
        The shared headers leave no room, or a memory of raw pixels has no room for one image.
    """
    fixed = max(fixed_bytes(forms) for forms in runs)
    if memory <= fixed:
        own = any(form.coder is not None and form.coder.fixed for forms in runs for form in forms)
        what = "shared headers and the codec itself" if own else "shared headers"
        raise InputError(f"{flag} {text}: {what} alone take {fixed} bytes")
    image = max((3 * forms[0].side ** 2 for forms in runs if {form.codec for form in forms} == {RAW}), default=0)
    if memory < image:
        raise InputError(f"{flag} {text}: one raw image takes {image} bytes")


def need_rank(rank: str) -> None:
    """Raise `InputError` when `exemplar_order` has no such rank."""
    score, _, way = rank.partition(":")
    if rank not in RANKS and not (score in SCORES and way in ("top", "bottom")):
        raise InputError(
            f"--rank {rank}: {', '.join(RANKS)}, or SCORE:top or SCORE:bottom with a score of {', '.join(SCORES)}"
        )


def equivalent_count(form: Form, sizes: np.ndarray, budget: int) -> int:
    """How many exemplars `budget` bytes hold, given the bytes of a sample of them ("equivalent memory").

    Parameters
    ----------
    form : Form
    sizes : (n,) int
        Bytes of each exemplar of the sample, including its word.
    budget : int
    """
    return max(0, int((budget - form.fixed) / float(np.mean(sizes))))


def kept_share(distortion: np.ndarray, dropped: np.ndarray) -> float:
    """Share of a sample's value that is left after compression, in [0, 1]: 1 - mean d(q) / mean d(drop).

    Parameters
    ----------
    distortion : (n,) float
        FMSE of each compressed image.
    dropped : (n,) float
        Cost of losing the image, on the same scale.
    """
    lost = float(np.mean(dropped))
    return float(np.clip(allocation.values(np.reshape(distortion, (-1, 1)), np.asarray(lost)).mean(), 0.0, 1.0))


def effective_count(count: int, distortion: np.ndarray, dropped: np.ndarray) -> float:
    """Number of exact exemplars that `count` compressed ones are worth: `count * kept_share(...)`."""
    return count * kept_share(distortion, dropped)
