"""The state of a run as one safetensors file: tensors by number, and what they hang in as JSON in its metadata.

Dicts (keys of any plain type), lists and tuples, with tensors, numbers, texts and None in them: what optimisers and
networks give as their state.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def write_state(path: Path, state: Any) -> None:
    """Write `state` to `path`, and to disk."""
    tensors: list[torch.Tensor] = []
    shape = json.dumps(_taken_apart(state, tensors))
    save_file({str(i): t for i, t in enumerate(tensors)}, path, metadata={"state": shape})
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def read_state(path: Path) -> Any:
    """Read what `write_state` wrote; tensors are contiguous and on the CPU."""
    with safe_open(path, framework="pt", device="cpu") as file:
        return _put_together(json.loads(file.metadata()["state"]), file.get_tensor)


def _taken_apart(value: Any, tensors: list[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        # A safetensors file takes no tensors that share memory, nor parts of larger ones.
        tensors.append(value.detach().cpu().clone(memory_format=torch.contiguous_format))
        return {"tensor": len(tensors) - 1}
    if isinstance(value, dict):
        return {"dict": [[key, _taken_apart(v, tensors)] for key, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_taken_apart(v, tensors) for v in value]}
    return value


def _put_together(found: Any, tensor: Any) -> Any:
    if not isinstance(found, dict):
        return found
    ((kind, value),) = found.items()
    if kind == "tensor":
        return tensor(str(value))
    if kind == "dict":
        return {key: _put_together(v, tensor) for key, v in value}
    parts = [_put_together(v, tensor) for v in value]
    return tuple(parts) if kind == "tuple" else parts
