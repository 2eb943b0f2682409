"""Compare a file of weights with the network that `model.json` describes, before memory is taken for either."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from prune.models.model_spec import shown
from prune.runs.files import InputError, need_file

_DENSE = 200
"""A network before its channels are pruned may have this many times the elements of the file."""
_SMALL = 1 << 26
"""Elements that a network may have in any case: 256 MiB."""


def check_weights(path: Path, spec: Mapping[str, Any], build: Callable[[Mapping[str, Any]], nn.Module]) -> None:
    """Raise `InputError` when the tensors of a file are not those of the network, by name and shape.

    Parameters
    ----------
    path : Path
        A safetensors file; its header alone is read.
    spec : mapping
        A checked `model.json`.
    build : callable
        Spec to network (`prune.models.networks.build`); called without memory for the parameters.
    """
    with torch.device("meta"):
        dense = build({**spec, "widths": None}) if spec.get("widths") else None
        network = build(spec)
    need_file(path, "a file of weights")
    with safe_open(path, framework="pt") as file:  # a damaged one raises SafetensorError
        stored = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    elements = sum(map(math.prod, stored.values()))
    if sum(p.numel() for p in (dense or network).parameters()) > _DENSE * elements + _SMALL:
        raise InputError(f"{path}: damaged or of another network (its {elements} numbers are too few for it)")
    wanted = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in sorted(wanted.keys() | stored.keys()):
        if wanted.get(name) != stored.get(name):
            found, needed = stored.get(name, "nothing"), wanted.get(name, "nothing")
            raise InputError(
                f"{path}: damaged or of another network ({shown(name)} is {found}; model.json describes {needed})"
            )
