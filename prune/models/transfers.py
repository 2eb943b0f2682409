"""Copies between the machine's memory and a GPU that do not wait for what is queued there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device without waiting for it; from the GPU itself nothing is copied."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()  # a copy from other memory waits
    return values.to(device, non_blocking=True)


def fetched(values: Sequence[torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """Begin to copy tensors to the machine's memory as float32; the function that waits for them and returns them."""
    if not values or values[0].device.type != "cuda":
        return lambda: [value.float() for value in values]
    held = [torch.empty(value.shape, dtype=torch.float32, pin_memory=True) for value in values]
    for place, value in zip(held, values):
        place.copy_(value.float(), non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def wait() -> list[torch.Tensor]:
        event.synchronize()
        return held

    return wait


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """A float32 tensor of these values on the device, copied there once: each copy would wait for the GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(shape)
