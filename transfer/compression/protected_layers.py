"""Layers that no step of a compression may touch: their channels, weights and precision stay those of the original."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from prune.runs.files import InputError


def is_protected(name: str, protect: Iterable[str]) -> bool:
    """Whether a layer, parameter or buffer is one of the protected layers or lies in one.

    Examples
    --------
    >>> is_protected("layer1.0.conv1.weight", ["layer1.0"]), is_protected("layer10.conv", ["layer1"])
    (True, False)
    """
    return any(name == one or name.startswith(f"{one}.") for one in protect)


def check_names(model: nn.Module, protect: Sequence[str]) -> None:
    """Check that the network has these layers.

    Raises
    ------
    InputError
        It has no such layer or parameter; the nearest names are given.
    """
    known = [name for name, _ in model.named_modules() if name]
    known += [name for name, _ in model.named_parameters() if name not in known]
    for name in protect:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(known[:8])}, ..."
            raise InputError(f"--protect {name}: {type(model).__name__} has no such layer; {hint}")


@contextmanager
def frozen(model: nn.Module, protect: Sequence[str]) -> Iterator[None]:
    """Keep weights and statistics of the protected layers as they are while the network is trained in the block.

    A training sets all layers to training mode whenever it begins an epoch, so a batch norm is set back before each
    forward pass.
    """
    weights = [p for name, p in model.named_parameters() if p.requires_grad and is_protected(name, protect)]
    layers = [m for name, m in model.named_modules() if name and is_protected(name, protect)]

    def keep_statistics(layer: nn.Module, _: object) -> None:
        layer.training = False

    hooks = [layer.register_forward_pre_hook(keep_statistics) for layer in layers]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight in weights:
            weight.requires_grad_(True)
