"""Post-training static int8 quantisation of exported networks, with ONNX Runtime; single layers can stay in fp32.

Weights are int8, symmetric, with one scale for each output channel; activations are uint8 with one range per tensor,
measured on calibration images. Weights use 7 of their 8 bits: ONNX Runtime's kernels for x86 without VNNI add pairs of
products in 16 bits, which overflow silently with 8. Layers with weights and the sums of residual networks compute in
int8.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnxruntime import quantization as ort
from onnxruntime.quantization import CalibrationMethod, QuantType

from prune.runs.files import InputError
from transfer.compression import onnx_model

Method = Literal["minmax", "percentile", "entropy"]
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
BITS = 7
_BATCH = 32


class _Reader(ort.CalibrationDataReader):  # type: ignore[misc]
    """Calibration images, a batch at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches = iter([images[i : i + _BATCH] for i in range(0, len(images), _BATCH)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {onnx_model.INPUT: batch}


class Quantizer:
    """One network with its calibration: any set of its layers can be quantised without measuring the ranges again.

    A context manager.

    Parameters
    ----------
    float_path : Path
        fp32 file of `onnx_model.export_onnx`.
    images : (n, r, r, 3) uint8
        Calibration images; a few hundred are enough.
    method : {"minmax", "percentile", "entropy"}
        How the ranges follow from the observed values: their extremes, all but 0.001 %, or the least information lost.
    """

    def __init__(self, float_path: Path, images: np.ndarray, method: Method = "minmax") -> None:
        if not len(images):
            raise InputError("calibration needs at least one image")
        self.path, self.images, self.method = Path(float_path), images, method
        self.layers = onnx_model.layers(self.path)
        self._sums = residual_sums(onnx.load(str(self.path)))
        self._folder = tempfile.TemporaryDirectory()
        self._cache = Path(self._folder.name) / "ranges.json"

    def __enter__(self) -> Quantizer:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def write(self, out: Path, keep_float: Sequence[str] = (), only: Sequence[str] = ()) -> Path:
        """Write an int8 file in which the layers `keep_float` stay in fp32; with `only`, all layers but these do.

        Raises
        ------
        InputError
            The network has no such layer, or no layer would be quantised.
        """
        if unknown := [name for name in (*keep_float, *only) if name not in self.layers]:
            raise InputError(f"no layer {unknown[0]!r} in {self.path}; there are {', '.join(self.layers)}")
        nodes = list(only) or [name for name in (*self.layers, *self._sums) if name not in keep_float]
        if not set(nodes) & set(self.layers):
            raise InputError(f"{self.path}: every layer would stay in fp32: there is nothing to quantise")
        with tempfile.TemporaryDirectory() as scratch, _quiet(), _full_disk(scratch):
            made, given = Path(scratch) / "int8.onnx", Path(scratch) / "fp32.onnx"
            shutil.copyfile(self.path, given)  # ONNX Runtime writes another file beside the one that it is given
            ort.quantize_static(
                given,
                made,
                None if self._cache.exists() else _Reader(self.images),
                quant_format=ort.QuantFormat.QDQ,
                op_types_to_quantize=[*onnx_model.LAYERS, "Add"],
                per_channel=True,
                reduce_range=BITS == 7,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=nodes,
                calibrate_method=_METHODS[self.method],
                calibration_providers=["CPUExecutionProvider"],
                # A matrix product whose result stays fp32 adds its bias in the same kernel.
                extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
                calibration_cache_path=self._cache,
            )
            proto = onnx.load(str(made))
        described = onnx_model.facts(onnx_model.session(self.path), self.path)
        onnx_model.set_metadata(proto, described, "int8", keep_float=list(keep_float))
        return onnx_model.save(proto, out)


@contextmanager
def _full_disk(scratch: str) -> Iterator[None]:
    """Name a full disk: ONNX writes files without a look at whether they fitted, and then cannot read them."""
    try:
        yield
    except DecodeError:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), scratch) from None


def residual_sums(proto: onnx.ModelProto) -> list[str]:
    """Names of the sums that feed a ReLU, as in residual networks. The sums of transformers stay in fp32."""
    rectified = {node.input[0] for node in proto.graph.node if node.op_type == "Relu"}
    return [node.name for node in proto.graph.node if node.op_type == "Add" and node.output[0] in rectified]


def sensitive_layers(quantizer: Quantizer, images: np.ndarray) -> list[tuple[str, float]]:
    """Measure how much each layer's quantisation changes the network's predictions, worst first.

    One layer at a time is quantised, all others stay in fp32. On ties the earlier layer comes first.

    Parameters
    ----------
    quantizer : Quantizer
    images : (n, r, r, 3) uint8

    Returns
    -------
    list of (str, float)
        Layer, and the mean over `images` of the Kullback-Leibler divergence from the fp32 predictions, in nats.
    """
    wanted = onnx_model.predict(onnx_model.session(quantizer.path), images)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in quantizer.layers:
            path = quantizer.write(Path(scratch) / "one.onnx", only=[name])
            found.append((name, divergence(wanted, onnx_model.predict(onnx_model.session(path), images))))
    return sorted(found, key=lambda pair: -pair[1])


def divergence(wanted: np.ndarray, got: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence, in nats, of softmax(`got`) from softmax(`wanted`); logits (n, c).

    Examples
    --------
    >>> round(divergence(np.zeros((1, 2)), np.log([[0.25, 0.75]])), 9)  # 1/2 log 2 + 1/2 log 2/3
    0.143841036
    """

    def log_softmax(logits: np.ndarray) -> np.ndarray:
        shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
        found: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        return found

    p, q = log_softmax(wanted), log_softmax(got)
    return float((np.exp(p) * (p - q)).sum(1).mean())


def quantise_until_accepted(
    quantizer: Quantizer,
    out: Path,
    images: np.ndarray,
    accepted: Callable[[Path], bool],
    *,
    most: int | None = None,
) -> list[str] | None:
    """Quantise all layers, then keep the most sensitive ones in fp32, one more at a time, until `accepted(out)`.

    Parameters
    ----------
    quantizer : Quantizer
    out : Path
        Is the last file that was tried.
    images : (n, r, r, 3) uint8
        Sensitivity is measured on them.
    accepted : function of Path
        Whether a file is good enough.
    most : int, optional
        Largest number of layers in fp32; a quarter of them when absent.

    Returns
    -------
    list of str, or None
        Layers in fp32, worst first (empty when int8 throughout is accepted); None when `most` were not enough.
    """
    if accepted(quantizer.write(out)):
        return []
    most = max(1, len(quantizer.layers) // 4) if most is None else min(most, len(quantizer.layers) - 1)
    worst = [name for name, _ in sensitive_layers(quantizer, images)]
    for count in range(1, most + 1):
        if accepted(quantizer.write(out, worst[:count])):
            return worst[:count]
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence ONNX Runtime: it recommends a preparation that the exporter has done, and prints its calibration."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        root.setLevel(before)
