"""Recipes of fine-tuning by the size of the target: small targets are passed over often, large ones a few times.

One rule instead of a search per target is the idea of BiT (Kolesnikov et al., arXiv 1912.11370, section 3.3). The
numbers serve networks of any size; the learning rate was measured on small ResNets at 32 px.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pretrain.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

RECIPES: dict[str, Recipe] = {
    # transfer finetune --recipe small --model runs/backbone --train pets/train --test pets/test --out runs/tuned
    "small": Recipe(
        cost="20 passes over the target",
        expect="targets below 2,000 images",
        arch="",
        epochs=20,
        batch=32,
        lr=0.05,
        resolution=0,
        warmup=1.0,
        weight_decay=1e-4,
        smoothing=0.0,
    ),
    "medium": Recipe(
        cost="10 passes over the target",
        expect="targets from 2,000 to 20,000 images",
        arch="",
        epochs=10,
        batch=64,
        lr=0.1,
        resolution=0,
        warmup=0.5,
        weight_decay=1e-4,
        smoothing=0.0,
    ),
    "large": Recipe(
        cost="8 passes over the target",
        expect="targets of 20,000 images and more",
        arch="",
        epochs=8,
        batch=256,
        lr=0.4,
        resolution=0,
        warmup=0.5,
        weight_decay=1e-4,
        smoothing=0.0,
        compile=True,
    ),
}
SIZES = (("small", 2_000), ("medium", 20_000))
_ADAMW_SHARE = 0.001  # of SGD's rate: 1e-4 for the medium recipe


def size_of(n: int) -> str:
    """Name of the recipe for a target of `n` training images.

    >>> size_of(1999), size_of(2000), size_of(20_000)
    ('small', 'medium', 'large')
    """
    return next((name for name, below in SIZES if n < below), "large")


def has_batch_norm(network: nn.Module) -> bool:
    """Whether any layer of a network normalises over the batch."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return any(isinstance(module, _BatchNorm) for module in network.modules())


def for_network(name: str, spec: dict[str, Any], *, batch_norm: bool) -> Recipe:
    """The recipe `name`, completed for a network that model.json describes.

    Images of up to 64 px are shifted and mirrored, larger ones cropped. Networks without batch norm (transformers,
    ConvNeXt) are tuned by AdamW, with which they were pretrained.
    """
    side = int(spec["resolution"])
    recipe = replace(
        RECIPES[name],
        arch=spec["arch"],
        kwargs=dict(spec.get("kwargs") or {}),
        stem=spec.get("stem", "imagenet"),
        resolution=side,
        crop="padded" if side <= 64 else "resized",
    )
    if batch_norm:
        return recipe
    return replace(recipe, optimiser="adamw", lr=recipe.lr * _ADAMW_SHARE, weight_decay=0.05, clip=1.0)


def with_flags(recipe: Recipe, batch: int | None, lr: float | None, epochs: float | None) -> Recipe:
    """Replace what the user gave; the learning rate follows the batch unless it is given, warm-up stays below a tenth.

    >>> with_flags(RECIPES["medium"], batch=128, lr=None, epochs=None).lr
    0.2
    """
    if batch:
        recipe = replace(recipe, batch=batch, lr=recipe.lr * batch / recipe.batch)
    if lr:
        recipe = replace(recipe, lr=lr)
    if epochs:
        recipe = replace(recipe, epochs=epochs, warmup=min(recipe.warmup, epochs / 10))
    return recipe
