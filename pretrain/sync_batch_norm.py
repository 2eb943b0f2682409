"""Batch norm over all processes (`--sync-bn`): a step's statistics are those of its images on every process together.

torch's SyncBatchNorm does it, on GPUs alone: on CPUs its forward pass raises. `torch.compile` cannot compile it.
"""

from __future__ import annotations

import copy
from itertools import chain

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from pretrain.compiling import CompileFlag
from prune.runs.files import InputError


def refuse(compile: CompileFlag, processes: int, device: str) -> None:
    """Raise `InputError` where `--sync-bn` cannot do what it says; one process has nothing to synchronise.

    Parameters
    ----------
    compile : {"auto", "on", "off"}
    processes : int
    device : {"cpu", "cuda"}
    """
    if processes == 1:
        return
    if device != "cuda":
        raise InputError(
            f"--sync-bn: torch synchronises batch norm on GPUs alone, and these {processes} processes run on the CPU: "
            "leave the flag out, or start one process"
        )
    if compile == "on":
        raise InputError("--compile on: torch cannot compile the batch norm of --sync-bn: give --compile auto")


def synchronised(network: nn.Module) -> nn.Module:
    """A network with the same parameters and buffers whose batch norms gather their statistics from all processes.

    The layers are others and the tensors are the same objects, so what trains the one trains the other. timm converts,
    because torch's own conversion loses the activations that are part of timm's batch norms.
    """
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    converted: nn.Module = convert_sync_batchnorm(copy.deepcopy(network, shared))
    return converted


def share_buffers(network: nn.Module, converted: nn.Module) -> None:
    """Give `network` the buffers of its converted form, which are others where that was moved to a device since."""
    for name, module in converted.named_modules():
        network.get_submodule(name)._buffers.update(module._buffers)


def layers(network: nn.Module) -> int:
    """How many batch norms a network has."""
    return sum(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in network.modules())
