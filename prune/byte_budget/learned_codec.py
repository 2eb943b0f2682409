"""A learned image codec: analysis and synthesis networks in whole numbers, and one table of frequencies per channel.

The factorised prior of Ballé, Minnen, Singh, Hwang and Johnston, "Variational image compression with a scale
hyperprior" (ICLR 2018, arXiv 1802.01436), with rectifiers instead of their GDN, with counted frequencies instead of a
learned density, and with one gain per channel and quality (Cui et al., "Asymmetric gained deep image compression",
CVPR 2021), so that one file holds several qualities. `constriction` codes the symbols. All that a decoder computes is
whole numbers (`integer_network.py`), so the pixels depend on nothing but the bytes and the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from prune.byte_budget.integer_network import Layer, Shape, run_exactly
from prune.data.pixel_values import Unreadable
from prune.runs.extras import need_modules
from prune.runs.files import InputError, atomic, need_file

FORMAT = "winnow-codec/1"
FIXED = 256
"""Latent values of the networks are whole numbers of 1/256."""
SYMBOLS = 40
"""Symbols reach from -40 to 40; what lies beyond is clipped."""
STRIDE = 4
ENCODER: tuple[tuple[Shape, bool], ...] = (("down", True), ("same", True), ("down", False))
DECODER: tuple[tuple[Shape, bool], ...] = (("same", True), ("up", True), ("up", False))
_LARGEST_SIDE = 1 << 14


@dataclass(frozen=True, eq=False)
class LearnedCodec:
    """A codec of `prune codecs --train`; an `ImageCodec`.

    Attributes
    ----------
    encoder, decoder : tuple of Layer
    gains : (qualities, channels) float32
        Steps per latent value: more is finer.
    counts : (qualities, channels, 81) uint16
        Frequency of each symbol from -40 to 40, at least 1.
    qualities : tuple of int
    fixed : int
        Bytes of the file.
    fingerprint : str
    """

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    gains: np.ndarray
    counts: np.ndarray
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
        for symbols, model in zip(self.symbols(pixels, at), self._models[at]):
            coder.encode(np.ascontiguousarray(symbols.reshape(-1) + SYMBOLS, np.int32), model)
        words = np.asarray(coder.get_compressed(), ">u4").tobytes()
        head = bytes([at]) + b"".join(_number(side) for side in pixels.shape[:2])
        return head + words.rstrip(b"\0")

    def decode(self, data: bytes) -> np.ndarray:
        """Decode to (h, w, 3) uint8; the same pixels on any number of threads. `Unreadable` for damaged bytes."""
        import constriction

        at, (height, width), words = _head(data, len(self.qualities))
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        try:
            words += b"\0" * (-len(words) % 4)
            coder = constriction.stream.queue.RangeDecoder(np.frombuffer(words, ">u4").astype(np.uint32))
            found = [np.asarray(coder.decode(model, rows * columns)) for model in self._models[at]]
        except (AssertionError, ValueError) as error:
            raise Unreadable(f"a damaged image of a learned codec ({error})") from None
        symbols = np.stack(found).reshape(-1, rows, columns).astype(np.float64) - SYMBOLS
        # Whole numbers from here on: each gain gives each symbol one whole number of 1/256.
        latent = np.floor(symbols * (FIXED / self.gains[at].astype(np.float64))[:, None, None] + 0.5)
        pixels = run_exactly(self.decoder, torch.from_numpy(latent)[None])[0, :, :height, :width]
        return np.ascontiguousarray(pixels.clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8))

    def symbols(self, pixels: np.ndarray, at: int) -> np.ndarray:
        """Symbols of the quality number `at`, (channels, h / 4, w / 4) int64 from -40 to 40."""
        values = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].double()
        height, width = pixels.shape[:2]
        values = functional.pad(values, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        latent = run_exactly(self.encoder, values)[0].numpy()
        scaled = np.floor(latent * (self.gains[at].astype(np.float64) / FIXED)[:, None, None] + 0.5)
        found: np.ndarray = np.clip(scaled, -SYMBOLS, SYMBOLS).astype(np.int64)
        return found

    @cached_property
    def _models(self) -> list[list[Any]]:
        import constriction

        categorical = constriction.stream.model.Categorical
        shares = self.counts.astype(np.float64) / self.counts.sum(-1, keepdims=True, dtype=np.int64)
        return [[categorical(channel.astype(np.float32), perfect=False) for channel in one] for one in shares]

    def save(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write the codec as safetensors, with `facts` in its metadata."""
        from safetensors.torch import save

        tensors = {"gains": torch.from_numpy(self.gains), "counts": torch.from_numpy(self.counts.astype(np.int32))}
        for name, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            for number, layer in enumerate(layers):
                tensors[f"{name}.{number}.weight"] = layer.weight.to(torch.int8)
                tensors[f"{name}.{number}.scale"] = layer.scale
                tensors[f"{name}.{number}.bias"] = layer.bias
        tensors["counts"] = tensors["counts"].to(torch.int16)
        meta = {"format": FORMAT, "qualities": list(self.qualities), **facts}
        with atomic(path) as partial:
            partial.write_bytes(save(tensors, {"winnow": json.dumps(meta, sort_keys=True)}))


def read_facts(path: Path) -> dict[str, Any]:
    """The metadata of a codec file; `InputError` for another kind of file or another version."""
    from safetensors import SafetensorError, safe_open

    need_file(path, "a codec of `prune codecs --train`")
    try:
        with safe_open(path, "pt") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {}).get("winnow", "{}"))
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: damaged, or no codec file ({error})") from None
    kind = str(found.get("format", "unknown"))
    if kind != FORMAT:
        what = "a codec of another version" if kind.startswith("winnow-codec/") else "no codec"
        raise InputError(f"{path}: {what} ({kind}), {FORMAT} is expected")
    return found


def open_learned(path: Path) -> LearnedCodec:
    """Open a codec file.

    Raises
    ------
    InputError
        No such file, damaged, no codec, of another version, or the extra `codecs` is not installed.
    """
    import hashlib

    from safetensors.torch import load

    need_modules("constriction")
    meta, data = read_facts(path), path.read_bytes()
    try:
        tensors = load(data)
        encoder, decoder = (_layers(tensors, *one) for one in (("encoder", ENCODER), ("decoder", DECODER)))
        counts, gains = tensors["counts"].numpy().astype(np.uint16), tensors["gains"].numpy()
        qualities = tuple(int(one) for one in meta["qualities"])
        if counts.shape != (len(qualities), gains.shape[1], 2 * SYMBOLS + 1) or counts.min() < 1:
            raise ValueError("tables of other sizes")
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path}: damaged ({error})") from None
    return LearnedCodec(encoder, decoder, gains, counts, qualities, len(data), hashlib.sha256(data).hexdigest()[:32])


def _layers(tensors: Mapping[str, torch.Tensor], name: str, kinds: Sequence[tuple[Shape, bool]]) -> tuple[Layer, ...]:
    found = []
    for k, (shape, positive) in enumerate(kinds):
        weight, scale, bias = (tensors[f"{name}.{k}.{part}"] for part in ("weight", "scale", "bias"))
        found.append(Layer(weight, scale, bias, shape, positive))
    return tuple(found)


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
