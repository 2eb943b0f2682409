"""A learned image codec: a linear transform of squares of 8 x 8 pixels in whole numbers, and counted frequencies.

The factorised prior of Ballé, Minnen, Singh, Hwang and Johnston, "Variational image compression with a scale
hyperprior" (ICLR 2018, arXiv 1802.01436), with a linear transform in place of their networks, with counted frequencies
instead of a learned density, and with one gain per channel and quality (Cui et al., "Asymmetric gained deep image
compression", CVPR 2021), so that one file holds several qualities. `constriction` codes the symbols.

All that a decoder computes is sums of whole numbers, in float64, where they are exact in any order, and operations on
single values. So the pixels depend on nothing but the bytes and the file: Ballé, Johnston and Minnen, "Integer
networks for data compression with latent-variable models" (ICLR 2019).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prune.data.pixel_values import Unreadable
from prune.runs.extras import need_modules
from prune.runs.files import InputError, atomic, need_file

FORMAT = "winnow-codec/2"
SIDE = 8
"""Side of the squares in pixels."""
SYMBOLS = 1023
"""Symbols reach from -1023 to 1023 at most; what lies beyond a channel's own largest is clipped."""
DEAD = 0.1
"""An encoder rounds values towards 0 by so much more: it saves more bits than the error costs."""
_FRACTION = 2.0**16
_LARGEST_SIDE = 1 << 14


@dataclass(frozen=True, eq=False)
class LearnedCodec:
    """A codec of `prune codecs --train`; an `ImageCodec`.

    Attributes
    ----------
    weight : (192, channels) int8
        The transform in whole numbers; its values are `weight * step`.
    step : (channels,) float32
    middle : (192,) uint8
        Is subtracted from the pixels of a square (row, column, colour).
    gains : (qualities, channels) float32
        Symbols per value of the transform, for pixels from 0 to 255: more is finer.
    reach : (qualities, channels) uint16
        The largest symbol of each channel; the smallest is its negative. 0: the channel is not stored.
    roots : (sum of reach + 1,) uint8
        One after the other for each quality and channel: square roots of the frequencies of the symbols 0, 1, ...,
        reach; that of a negative symbol is that of its positive one.
    qualities : tuple of int
    fixed : int
        Bytes of the file.
    fingerprint : str
    """

    weight: np.ndarray
    step: np.ndarray
    middle: np.ndarray
    gains: np.ndarray
    reach: np.ndarray
    roots: np.ndarray
    qualities: tuple[int, ...]
    fixed: int = 0
    fingerprint: str = ""
    name: str = "learned"

    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        """Encode (h, w, 3) uint8: number of the quality, height and width (7 bits a byte), range code."""
        if quality not in self.qualities:
            raise ValueError(f"quality {quality}: this codec has {' '.join(map(str, self.qualities))}")
        import constriction

        at = self.qualities.index(quality)
        coder = constriction.stream.queue.RangeEncoder()
        symbols = self.symbols(pixels, at)
        for channel, (model, reach) in self._models[at]:
            coder.encode(np.ascontiguousarray(symbols[:, channel] + reach, np.int32), model)
        head = bytes([at]) + b"".join(_number(side) for side in pixels.shape[:2])
        return head + self._shortened(np.asarray(coder.get_compressed(), ">u4").tobytes(), at, symbols)

    def decode(self, data: bytes) -> np.ndarray:
        """Decode to (h, w, 3) uint8; the same pixels on any number of threads. `Unreadable` for damaged bytes."""
        at, (height, width), words = _head(data, len(self.qualities))
        rows, columns = -(-height // SIDE), -(-width // SIDE)
        try:
            symbols = self._read(words, at, rows * columns)
        except (AssertionError, ValueError) as error:
            raise Unreadable(f"a damaged image of a learned codec ({error})") from None
        return np.ascontiguousarray(self.pixels(symbols, at, rows, columns)[:height, :width])

    def symbols(self, pixels: np.ndarray, at: int) -> np.ndarray:
        """Symbols of the quality number `at` for (h, w, 3) uint8, (squares, channels) int64, squares by rows."""
        sums = _product(squares(pixels) - self.middle.astype(np.float64), self.weight.astype(np.float64))
        scaled = np.abs(sums) * (self.gains[at].astype(np.float64) * self.step.astype(np.float64))
        found = np.minimum(np.floor(scaled + (0.5 - DEAD)), self.reach[at])
        signed: np.ndarray = np.copysign(found, sums).astype(np.int64)
        return signed

    def pixels(self, symbols: np.ndarray, at: int, rows: int, columns: int) -> np.ndarray:
        """Pixels (8 rows, 8 columns, 3) uint8 of the symbols of rows x columns squares."""
        # Whole numbers from here on: each gain gives each symbol one whole number of 2^-16.
        value = self.step.astype(np.float64) / self.gains[at].astype(np.float64) * _FRACTION
        values = _product(np.floor(symbols * value + 0.5), self.weight.T.astype(np.float64))
        values = np.floor(values / _FRACTION + 0.5) + self.middle
        found: np.ndarray = np.clip(values, 0, 255).astype(np.uint8).reshape(rows, columns, SIDE, SIDE, 3)
        return found.transpose(0, 2, 1, 3, 4).reshape(rows * SIDE, columns * SIDE, 3)

    def _read(self, words: bytes, at: int, count: int) -> np.ndarray:
        import constriction

        words += b"\0" * (-len(words) % 4)
        coder = constriction.stream.queue.RangeDecoder(np.frombuffer(words, ">u4").astype(np.uint32))
        symbols = np.zeros((count, self.weight.shape[1]), np.int64)
        for channel, (model, reach) in self._models[at]:
            symbols[:, channel] = coder.decode(model, count).astype(np.int64) - reach
        return symbols

    def _shortened(self, words: bytes, at: int, symbols: np.ndarray) -> bytes:
        """The fewest of the bytes, the last of them perhaps one more, that decode to the same with zeros after them."""
        best = words.rstrip(b"\0")
        for _ in range(8):
            if not best:
                break
            cut = best[:-1]
            more = cut[:-1] + bytes([cut[-1] + 1]) if cut and cut[-1] < 255 else cut
            for one in (cut, more):
                try:
                    same = bool((self._read(one, at, len(symbols)) == symbols).all())
                except (AssertionError, ValueError):
                    same = False
                if same:
                    best = one.rstrip(b"\0")
                    break
            else:
                break
        return best

    @cached_property
    def _models(self) -> list[list[tuple[int, tuple[Any, int]]]]:
        """For each quality the channels that are stored, each with its model and its largest symbol."""
        import constriction

        categorical = constriction.stream.model.Categorical
        ends = np.cumsum(self.reach.reshape(-1).astype(np.int64) + 1).reshape(self.reach.shape)
        found: list[list[tuple[int, tuple[Any, int]]]] = []
        for at in range(len(self.qualities)):
            found.append([])
            for channel in range(self.weight.shape[1]):
                reach, stop = int(self.reach[at, channel]), int(ends[at, channel])
                if reach:
                    half = np.square(self.roots[stop - reach - 1 : stop].astype(np.float64))
                    counts = np.concatenate([half[:0:-1], half])
                    shares = (counts / counts.sum()).astype(np.float32)
                    found[-1].append((channel, (categorical(shares, perfect=False), reach)))
        return found

    def save(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write the codec as safetensors, with `facts` in its metadata."""
        from safetensors.numpy import save

        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}
        meta = {"format": FORMAT, "qualities": list(self.qualities), **facts}
        with atomic(path) as partial:
            partial.write_bytes(save(tensors, {"winnow": json.dumps(meta, sort_keys=True)}))


# In the order of the codec's arrays.
_TENSORS = {
    "weight": np.int8, "step": np.float32, "middle": np.uint8, "gains": np.float32, "reach": np.uint16,
    "roots": np.uint8,
}  # fmt: skip


def squares(pixels: np.ndarray) -> np.ndarray:
    """Squares of 8 x 8 of (h, w, 3), (squares, 192) float64, by rows; the last pixels are repeated to fill them."""
    height, width = pixels.shape[:2]
    whole = np.pad(pixels, ((0, -height % SIDE), (0, -width % SIDE), (0, 0)), "edge").astype(np.float64)
    rows, columns = whole.shape[0] // SIDE, whole.shape[1] // SIDE
    parts = whole.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return parts.reshape(rows * columns, -1)


def _product(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Matrix product (n, a) x (a, b), 16 rows at a time.

    NumPy shares larger ones among threads, which wait for each other on a busy machine: 40 ms instead of 0.1.
    """
    return np.concatenate([values[at : at + 16] @ weight for at in range(0, len(values), 16)])


def read_facts(path: Path) -> dict[str, Any]:
    """The metadata of a codec file; `InputError` for another kind of file or another version."""
    from safetensors import SafetensorError, safe_open

    need_file(path, "a codec of `prune codecs --train`")
    try:
        with safe_open(path, "np") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {}).get("winnow", "{}"))
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: damaged, or no codec file ({error})") from None
    kind = str(found.get("format", "unknown"))
    if kind != FORMAT:
        what = "a codec of another version" if kind.startswith("winnow-codec/") else "no codec"
        raise InputError(f"{path}: {what} ({kind}), {FORMAT} is expected; `prune codecs --train` makes one")
    return found


def open_learned(path: Path) -> LearnedCodec:
    """Open a codec file.

    Raises
    ------
    InputError
        No such file, damaged, no codec, of another version, or the extra `codecs` is not installed.
    """
    import hashlib

    from safetensors.numpy import load

    need_modules("constriction")
    meta, data = read_facts(path), path.read_bytes()
    try:
        tensors = load(data)
        qualities = tuple(int(one) for one in meta["qualities"])
        weight, step, middle, gains, reach, roots = (tensors[name] for name in _TENSORS)
        digest = hashlib.sha256(data).hexdigest()[:32]
        codec = LearnedCodec(weight, step, middle, gains, reach, roots, qualities, len(data), digest)
        _check(codec)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error})") from None
    return codec


def _check(codec: LearnedCodec) -> None:
    """`ValueError` where the arrays do not fit together."""
    channels, table = codec.weight.shape[1:], (len(codec.qualities), *codec.weight.shape[1:])
    shapes = {
        "weight": (3 * SIDE * SIDE, *channels), "step": channels, "middle": (3 * SIDE * SIDE,), "gains": table,
        "reach": table, "roots": (int(codec.reach.astype(np.int64).sum() + codec.reach.size),),
    }  # fmt: skip
    for name, shape in shapes.items():
        found = getattr(codec, name)
        if found.shape != shape or found.dtype != _TENSORS[name]:
            raise ValueError(f"{name}: {found.dtype} {found.shape}, {np.dtype(_TENSORS[name])} {shape} are expected")
    if not codec.roots.all() or not (np.isfinite(codec.gains).all() and (codec.gains > 0).all()):
        raise ValueError("a frequency or a gain that is not above 0")


def _number(value: int) -> bytes:
    """7 bits a byte, the lowest first; all bytes but the last have their eighth bit set."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _head(data: bytes, qualities: int) -> tuple[int, tuple[int, int], bytes]:
    sides, place = [], 1
    try:
        for _ in range(2):
            value = shift = 0
            while True:
                byte = data[place]
                place += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128 or shift > 21:
                    break
            sides.append(value)
        at = data[0]
    except IndexError:
        raise Unreadable("cut short") from None
    if at >= qualities or not all(1 <= side <= _LARGEST_SIDE for side in sides):
        raise Unreadable("a damaged image of a learned codec")
    return at, (sides[0], sides[1]), data[place:]
