"""Language models as ONNX files: write one, run it, quantise it to int8 or to 4-bit weights, and measure its latency.

A file takes tokens (n, t) int64 and gives logits (n, t, vocabulary); any n, and t up to "context". It holds no
key-value cache: each call computes the whole window. The metadata holds, under "winnow", a JSON object with "format",
"architecture", "vocabulary", "context", "precision" and "keep_float" (what stayed in fp32).
"""

from __future__ import annotations

import copy
import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError
from onnxruntime import quantization as ort
from torch import nn

from prune.runs.files import InputError
from transfer.compression.onnx_model import exported, save, tidy
from transfer.language.causal_lm import context_of
from transfer.language.likelihood_test import Logits

FORMAT = "winnow-language-onnx/1"
INPUT, OUTPUT = "tokens", "logits"
HEAD, EMBEDDING = "lm_head", "embedding"
PARITY = 1e-3
"""Largest difference of a logit between PyTorch and an fp32 file; times the largest logit where that exceeds 1."""
_BLOCK = 32  # weights that share one scale in a 4-bit file


class _Plain(nn.Module):
    """A decoder with a causal mask of its own: that of transformers takes the exporter much longer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        place = torch.arange(tokens.shape[1], device=tokens.device)[None]
        mask = torch.where(place[:, :, None] >= place[:, None], 0.0, -1e9)[:, None]
        found = self.network(input_ids=tokens, attention_mask=mask, position_ids=place, use_cache=False)
        return cast(torch.Tensor, found.logits)


def export_language_model(network: nn.Module, spec: Mapping[str, Any], path: Path, weights: str = "") -> Path:
    """Write a network as an fp32 ONNX file; embedding and output layer are written separately, also where they are one.

    Parameters
    ----------
    network : nn.Module
    spec : mapping
        Content of its model.json.
    path : Path
    weights : str
        Digest of the weights' file, for the metadata.

    Raises
    ------
    InputError
        The exporter cannot write it, or its logits are not those of PyTorch.
    """
    plain = copy.deepcopy(network).cpu().float().eval()
    plain.set_output_embeddings(_own_copy(plain))  # type: ignore[operator]
    for name, module in list(plain.named_modules()):
        if type(module).__name__ == "Conv1D":  # GPT-2's linear layers: as others, so that they become one MatMul
            plain.set_submodule(name, _linear(cast(Any, module)))
    plain.config._attn_implementation = "eager"  # type: ignore[union-attr]
    tokens = torch.arange(8).view(2, 4) % int(spec["config"]["vocab_size"])
    shapes = {"tokens": {0: torch.export.Dim("n", min=1), 1: torch.export.Dim("t", min=1)}}
    with torch.no_grad():
        proto = exported(_Plain(plain).eval(), tokens, shapes, (INPUT, OUTPUT), str(spec["architecture"]))
    tidy(proto, _product_name(proto))
    _describe(proto, spec, "fp32", (), weights)
    save(proto, path)
    _check_parity(network, path, spec)
    return path


def _own_copy(network: nn.Module) -> nn.Linear:
    """The output layer with weights of its own."""
    head = network.get_output_embeddings()  # type: ignore[operator]
    alone = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
    alone.load_state_dict({name: tensor.clone() for name, tensor in head.state_dict().items()})
    return alone


def _linear(layer: Any) -> nn.Linear:
    found = nn.Linear(*layer.weight.shape)
    with torch.no_grad():
        found.weight.copy_(layer.weight.T)
        found.bias.copy_(layer.bias)
    return found


def _check_parity(network: nn.Module, path: Path, spec: Mapping[str, Any]) -> None:
    vocabulary, length = int(spec["config"]["vocab_size"]), min(24, context_of(spec))
    tokens = np.random.default_rng(0).integers(0, vocabulary, (2, length))
    wanted, got = torch_logits(network)(tokens), runtime_logits(path)(tokens)
    apart = float(np.abs(wanted - got).max())
    if not apart <= PARITY * max(1.0, float(np.abs(wanted).max())):
        path.unlink()
        raise InputError(f"{path}: differs from PyTorch by {apart:.3g}: not exported")


def _product_name(proto: onnx.ModelProto) -> Callable[[onnx.NodeProto, list[str]], str]:
    """Name the embedding, and products with weights like the modules that they are in."""
    weights = {tensor.name for tensor in proto.graph.initializer}

    def name_of(node: onnx.NodeProto, modules: list[str]) -> str:
        if node.op_type == "MatMul" and node.input[1] in weights:
            owner = next((name for name in reversed(modules[:-1]) if name), node.name)
            return HEAD if node.output[0] == OUTPUT else owner.removeprefix("network.")
        return EMBEDDING if node.op_type == "Gather" and node.input[0] in weights and node.input[1] == INPUT else ""

    return name_of


def _describe(
    proto: onnx.ModelProto, spec: Mapping[str, Any], precision: str, keep_float: Sequence[str], weights: str = ""
) -> None:
    facts = {
        "format": FORMAT,
        "architecture": spec["architecture"],
        "vocabulary": int(spec["config"]["vocab_size"]),
        "context": context_of(spec),
        "precision": precision,
        "keep_float": list(keep_float),
        **({"weights": weights} if weights else {}),
    }
    proto.ClearField("metadata_props")
    proto.metadata_props.add(key="winnow", value=json.dumps(facts, sort_keys=True))


def quantise_weights(fp32: Path, out: Path, spec: Mapping[str, Any], bits: int, keep_float: Sequence[str]) -> Path:
    """Quantise a file of `export_language_model`: int8 throughout, or 4-bit weights with an embedding in int8.

    With 8 bits, matrix products compute in int8: weights with one scale for each output channel, of which 7 of 8 bits
    are used (see `quantization`), activations with a range that is measured at each call (ONNX Runtime's dynamic
    quantisation). With 4 bits only the weights are small, 32 with one scale (`MatMulNBits`).

    Parameters
    ----------
    fp32, out : Path
    spec : mapping
    bits : {8, 4}
    keep_float : sequence of str
        Of "embedding" and "lm_head".
    """
    proto = onnx.load(str(fp32))
    products = [n.name for n in proto.graph.node if n.op_type == "MatMul" and _has_weight(proto, n, 1)]
    if bits == 4:
        proto = _four_bits(proto, [name for name in products if name in keep_float])
        products = []
    nodes = [name for name in (*products, EMBEDDING) if name not in keep_float]
    if nodes:
        with _quiet(logging.ERROR):
            made = out.with_name(f".{out.name}.made")
            ort.quantize_dynamic(
                proto,
                str(made),
                op_types_to_quantize=["MatMul", "Gather"],
                nodes_to_quantize=nodes,
                per_channel=True,
                reduce_range=True,
                weight_type=ort.QuantType.QInt8,
            )
            proto = onnx.load(str(made))
            made.unlink()
    _describe(proto, spec, "int8" if bits == 8 else "int4", keep_float)
    return save(proto, out)


def weights_of(path: Path) -> str:
    """Digest of the weights from which an fp32 file was written; "" where there is no such file."""
    try:
        found = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
        return str(json.loads(found["winnow"])["weights"])
    except (OSError, KeyError, TypeError, ValueError, DecodeError):
        return ""


def _four_bits(proto: onnx.ModelProto, keep_float: Sequence[str]) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with _quiet(logging.ERROR):
        quantizer = MatMulNBitsQuantizer(
            proto, bits=4, block_size=_BLOCK, is_symmetric=True, accuracy_level=4, nodes_to_exclude=list(keep_float)
        )
        quantizer.process()
    return cast(onnx.ModelProto, quantizer.model.model)


def _has_weight(proto: onnx.ModelProto, node: onnx.NodeProto, place: int) -> bool:
    return node.input[place] in {tensor.name for tensor in proto.graph.initializer}


class _quiet:
    """Only records of this level or above are logged in the block."""

    def __init__(self, level: int) -> None:
        self._level = level

    def __enter__(self) -> None:
        root = logging.getLogger()
        self._before = root.level
        root.setLevel(self._level)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().setLevel(self._before)


def torch_logits(network: nn.Module) -> Logits:
    """A network as a function of tokens, in evaluation mode."""
    device = next(network.parameters()).device

    def logits(tokens: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = network(input_ids=torch.from_numpy(tokens).to(device), use_cache=False).logits
        return cast(np.ndarray, found.float().cpu().numpy())

    return logits


def open_language_file(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Open a file in ONNX Runtime, on the CPU.

    Raises
    ------
    InputError
        The file is missing, damaged, or no language model of this project.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; a language model's ONNX file is expected")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    try:
        opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        known = json.loads(opened.get_modelmeta().custom_metadata_map["winnow"])["format"] == FORMAT
    except (KeyError, TypeError, ValueError):
        known = False
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        text = str(error).strip().splitlines()[0].replace(str(path), Path(path).name)
        raise InputError(f"{path}: damaged, or not an ONNX file ({text})") from None
    if not known:
        raise InputError(f"{path}: an ONNX file, but no language model that was written here")
    return opened


def runtime_logits(path: Path, threads: int = 1) -> Logits:
    """An ONNX file as a function of tokens."""
    opened = open_language_file(path, threads)

    def logits(tokens: np.ndarray) -> np.ndarray:
        return cast(np.ndarray, opened.run([OUTPUT], {INPUT: np.ascontiguousarray(tokens, np.int64)})[0])

    return logits


def window_ms(paths: Sequence[Path], tokens: np.ndarray, threads: int = 1, runs: int = 20) -> list[list[float]]:
    """Milliseconds for one window (1, t) with each file: medians of five blocks of runs, the files in turn."""
    calls = [runtime_logits(path, threads) for path in paths]
    medians: list[list[float]] = [[] for _ in paths]
    for _ in range(6):  # the first warms up
        for which, call in enumerate(calls):
            times = []
            for _ in range(max(1, runs // 5)):
                begin = time.perf_counter()
                call(tokens)
                times.append(time.perf_counter() - begin)
            medians[which].append(1000 * statistics.median(times))
    return [found[1:] for found in medians]
