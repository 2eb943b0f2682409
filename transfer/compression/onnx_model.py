"""Networks as ONNX files: write one, open it, predict with it, and measure its latency and memory.

A file takes decoded photographs: uint8, RGB, (n, r, r, 3), any n. Normalisation is part of the graph, and so is the
mean with the mirror image where the model is evaluated so; a device needs ONNX Runtime and NumPy alone. The metadata
holds, under "winnow", a JSON object with "format", "classes", "resolution", "crop_ratio" (side of the central square as
a share of the shorter side), "input", "arch" and "precision". Every layer with weights is a node named like its module
in PyTorch.
"""

from __future__ import annotations

import copy
import json
import logging
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from prune.models.evaluation_view import crop_ratio, passes
from prune.runs.files import InputError, atomic

FORMAT = "winnow-onnx/1"
INPUT, OUTPUT = "images", "logits"
LAYOUT = "uint8 RGB (n, resolution, resolution, 3)"
LAYERS = ("Conv", "Gemm", "MatMul")
_BATCH = 64


class _Mean(nn.Module):
    """Global average pooling as a plain mean: the exporter turns the adaptive one into a gather over indices."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean((2, 3), keepdim=True)


class _Normalised(nn.Module):
    """A network that takes uint8 images with channels last, normalises them, and averages over mirror images."""

    factor: torch.Tensor
    offset: torch.Tensor

    def __init__(self, network: nn.Module, mean: Any, std: Any, mirror: bool) -> None:
        super().__init__()
        self.network, self.mirror = network, mirror
        shift, scale = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (mean, std))
        self.register_buffer("factor", 1 / scale)
        self.register_buffer("offset", -shift / scale)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shown = images.permute(0, 3, 1, 2).float() * self.factor + self.offset
        if self.mirror:  # one pass of twice as many images: every layer is one node
            shown = torch.cat([shown, shown.flip(3)])
        found: torch.Tensor = self.network(shown)
        # Not `len(images)`: that is a constant to the exporter, and the file would take two images at a time.
        return found.reshape(2, images.shape[0], -1).mean(0) if self.mirror else found


def export_onnx(model: nn.Module, spec: Mapping[str, Any], path: Path) -> Path:
    """Write a network as an fp32 ONNX file.

    Parameters
    ----------
    model : nn.Module
        On any device; not changed.
    spec : mapping
        From `networks.load_model`: "classes", "resolution", "mean", "std", "arch" are read.
    path : Path

    Returns
    -------
    Path
        `path`.
    """
    side = int(spec["resolution"])
    network = copy.deepcopy(model).cpu().float().eval()
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            network.set_submodule(name, _Mean())
    images = torch.zeros(2, side, side, 3, dtype=torch.uint8)  # two, since a batch of one becomes a constant
    whole = _Normalised(network, spec["mean"], spec["std"], passes(spec) == 2).eval()
    proto = exported(whole, images, ({0: torch.export.Dim("n")},), (INPUT, OUTPUT), str(spec["arch"]))
    tidy(proto, _layer_name(proto))
    set_metadata(proto, spec, "fp32")
    return save(proto, path)


def exported(
    network: nn.Module, example: torch.Tensor, shapes: Any, names: tuple[str, str], architecture: str
) -> onnx.ModelProto:
    """What torch's exporter makes of a network with one input and one output.

    Parameters
    ----------
    network : nn.Module
    example : Tensor
        An input.
    shapes : Any
        Which of its dimensions may vary, as `torch.export` takes them.
    names : (str, str)
        Of the input and the output in the file.
    architecture : str
        For the message.

    Raises
    ------
    InputError
        The exporter cannot write it.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=[names[0]],
                output_names=[names[1]],
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            first = str(error).strip().splitlines()[0]
            raise InputError(f"{architecture} cannot be written as ONNX: {first}") from None
    return program.model_proto  # type: ignore[union-attr]


def tidy(proto: onnx.ModelProto, name_of: Callable[[onnx.NodeProto, list[str]], str]) -> None:
    """Name nodes, and remove the exporter's stack traces, which contain local paths.

    Parameters
    ----------
    proto : onnx.ModelProto
    name_of : callable
        The name of a node, from it and the modules that it is in, the outermost first; "": it keeps its own.
    """
    graph = proto.graph
    for node in graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
        modules = json.loads(scopes.replace("'", '"')) if scopes.startswith("[") else []
        node.name = name_of(node, modules) or node.name
    for one in (proto, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        one.ClearField("metadata_props")
        one.ClearField("doc_string")


def _layer_name(proto: onnx.ModelProto) -> Callable[[onnx.NodeProto, list[str]], str]:
    """Name layers like their modules, each name once."""
    taken = {""}
    weights = {tensor.name for tensor in proto.graph.initializer}

    def name_of(node: onnx.NodeProto, modules: list[str]) -> str:
        if node.op_type not in LAYERS or not any(name in weights for name in node.input[1:2]):
            return ""
        named = node.input[1].removesuffix(".weight")
        # Transposed weights have lost their name; their module is the last one but one.
        name = named if named != node.input[1] else ["", *modules][-2]
        name = name.removeprefix("network.")
        if name in taken:
            return ""
        taken.add(name)
        return name

    return name_of


def set_metadata(proto: onnx.ModelProto, spec: Mapping[str, Any], precision: str, **more: Any) -> None:
    """Store what a reader of the file needs, and `more`, in its metadata."""
    facts = {
        "format": FORMAT,
        "arch": spec["arch"],
        "classes": list(spec["classes"]),
        "resolution": int(spec["resolution"]),
        "crop_ratio": crop_ratio(spec),
        "input": LAYOUT,
        "precision": precision,
        **more,
    }
    kept = [p for p in proto.metadata_props if p.key != "winnow"]
    proto.ClearField("metadata_props")
    proto.metadata_props.extend(kept)
    proto.metadata_props.add(key="winnow", value=json.dumps(facts, sort_keys=True, ensure_ascii=False))


def save(proto: onnx.ModelProto, path: Path) -> Path:
    """Write a graph, completely or not at all."""
    onnx.checker.check_model(proto)
    with atomic(path) as partial:
        partial.write_bytes(proto.SerializeToString(deterministic=True))
    return Path(path)


def layers(path: Path) -> list[str]:
    """Names of the layers with weights, in the order of the graph."""
    proto = onnx.load(str(path))
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [n.name for n in proto.graph.node if n.op_type in LAYERS and any(name in weights for name in n.input[1:2])]


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Open a file in ONNX Runtime, on the CPU.

    Raises
    ------
    InputError
        The file is missing or damaged, or is not one of `transfer export`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; an ONNX file of `transfer export` is expected")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    try:
        opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        text = str(error).strip().splitlines()[0].replace(str(path), path.name)
        raise InputError(f"{path}: damaged, or not an ONNX file ({text})") from None
    facts(opened, path)
    return opened


def facts(opened: onnxruntime.InferenceSession, path: Path) -> dict[str, Any]:
    """Metadata of an open file; see `set_metadata`.

    Raises
    ------
    InputError
        The file is not one of `transfer export`.
    """
    try:
        found: dict[str, Any] = json.loads(opened.get_modelmeta().custom_metadata_map["winnow"])
        known = found["format"] == FORMAT and {"classes", "resolution", "precision"} <= found.keys()
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise InputError(f"{path}: an ONNX file, but not one of `transfer export` (no {FORMAT} in its metadata)")
    return found


def predict(opened: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    """Logits (n, c) float32 of images (n, r, r, 3) uint8, computed a few at a time."""
    parts = [opened.run([OUTPUT], {INPUT: images[i : i + _BATCH]})[0] for i in range(0, len(images), _BATCH)]
    return np.concatenate(parts)


def latency_ms(path: Path, resolution: int | None = None, threads: int = 1, *, runs: int = 100) -> float:
    """Milliseconds for one image: the median of the fastest of five blocks of runs.

    Other work on the machine can only slow a block down, so the fastest is nearest to the true value.
    """
    return min(blocks_ms([path], resolution, threads, runs=runs)[0])


def blocks_ms(
    paths: Sequence[Path], resolution: int | None = None, threads: int = 1, *, runs: int = 100
) -> list[list[float]]:
    """Milliseconds for one image with each file: medians of five blocks of runs, the files in turn in every block."""
    opened = [session(path, threads) for path in paths]
    side = resolution or facts(opened[0], paths[0])["resolution"]
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    block = max(1, runs // 5)
    medians: list[list[float]] = [[] for _ in paths]
    for _ in range(6):  # the first warms up
        for which, one in enumerate(opened):
            times = []
            for _ in range(block):
                begin = time.perf_counter()
                one.run([OUTPUT], {INPUT: image})
                times.append(time.perf_counter() - begin)
            medians[which].append(1000 * statistics.median(times))
    return [found[1:] for found in medians]


_PEAK = """
import sys, numpy, onnxruntime
def kilobytes(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key + ":"))
before = kilobytes("VmRSS")
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
run = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"]).run
for _ in range(3):
    run(None, {"images": numpy.zeros((1, int(sys.argv[2]), int(sys.argv[2]), 3), numpy.uint8)})
print(1024 * (kilobytes("VmHWM") - before))
"""


def peak_memory(path: Path) -> int:
    """Peak memory in bytes that opening a file and predicting single images add to a process (Linux)."""
    side = facts(session(path), path)["resolution"]
    command = [sys.executable, "-c", _PEAK, str(path), str(side)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
