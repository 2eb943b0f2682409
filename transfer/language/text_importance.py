"""Importance of heads and MLP channels on text, to first order, and which groups of prompts each of them serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from transfer.language.head_removal import Parts
from transfer.language.prompts import Prompts

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Tokens (b, t), which predictions count (b, t - 1) bool, the group of every row (b,)."""
_ROWS = 8


@dataclass(frozen=True)
class TextImportance:
    """The criterion of a compression, with the text that it needs.

    Attributes
    ----------
    criterion : {"text", "magnitude", "random"}
    windows : (w, t) int64
        Of the text to train on.
    prompts : Prompts
        Only to name the groups that a part serves; they decide nothing.
    seed : int
        Draws of a step depend on the seed and the step's number.
    device : torch.device
    """

    criterion: Literal["text", "magnitude", "random"]
    windows: np.ndarray
    prompts: Prompts
    seed: int
    device: torch.device

    def of(self, network: nn.Module, found: Sequence[Parts], step: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Importance of every part, and how much the loss of each group's continuations rises without it.

        Returns
        -------
        importance : list of (size,) float64
        rises : list of (groups, size) float64
        """
        names = self.prompts.names
        cases = _batches(self.prompts.tokens, self.prompts.asked, self.prompts.group, self.device)
        _, rises = taylor(network, found, cases, len(names))
        if self.criterion == "random":
            rng = np.random.default_rng((self.seed * 1000 + step, 0xC4A2))
            return [rng.random(one.size) for one in found], rises
        if self.criterion == "magnitude":
            return magnitude(network, found), rises
        whole = np.ones((len(self.windows), self.windows.shape[1] - 1), bool)
        none = np.zeros(len(self.windows), np.int64)
        return taylor(network, found, _batches(self.windows, whole, none, self.device), 0)[0], rises


def _batches(tokens: np.ndarray, asked: np.ndarray, group: np.ndarray, device: torch.device) -> Iterator[Batch]:
    for at in range(0, len(tokens), _ROWS):
        part = slice(at, at + _ROWS)
        yield tuple(torch.from_numpy(v[part]).to(device) for v in (tokens, asked, group))  # type: ignore[misc]


def taylor(
    network: nn.Module, found: Sequence[Parts], batches: Iterator[Batch], groups: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Estimate, to first order, how much a window's loss changes when a head or a channel becomes zero.

    | sum over positions and the part's features of activation x gradient |, averaged over the windows. For heads this
    is Michel et al., "Are Sixteen Heads Really Better than One?", NeurIPS 2019, equation 2; for channels Molchanov et
    al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, equation 8. The activation
    is the input of the layer that reads the part, and a window's loss the mean over the predictions that count.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; its weights and gradients are not changed.
    found : sequence of Parts
    batches : iterator of Batch
    groups : int
        Groups are below it; 0: nothing is found for groups.

    Returns
    -------
    importance : list of (size,) float64
    rises : list of (groups, size) float64
        Mean over the rows of a group of minus the sum: how much their loss rises without the part.
    """
    sums = [torch.zeros(one.size, dtype=torch.float64) for one in found]
    rises = [torch.zeros(groups, one.size, dtype=torch.float64) for one in found]
    state: dict[str, torch.Tensor] = {}  # group of every row of the batch at work

    def watch(place: int, one: Parts) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor]]:
        def hook(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            values = given[0].detach()
            copy = given[0].clone()

            def on_gradient(gradient: torch.Tensor) -> None:
                product = (values * gradient).double().sum(1).view(-1, one.size, one.width).sum(2).cpu()
                sums[place] += product.abs().sum(0)
                if groups:
                    rises[place].index_add_(0, state["group"], -product)

            copy.register_hook(on_gradient)
            return (copy,)

        return hook

    count, rows = 0, torch.zeros(groups, dtype=torch.float64)
    hooks = [network.get_submodule(one.name).register_forward_pre_hook(watch(k, one)) for k, one in enumerate(found)]
    wanted = [p for p in network.parameters() if p.requires_grad]
    embedding = network.get_input_embeddings()  # type: ignore[operator]
    hooks.append(embedding.register_forward_hook(lambda _, __, out: out.detach().requires_grad_()))
    try:
        for weight in wanted:
            weight.requires_grad_(False)
        with torch.enable_grad():
            for tokens, asked, group in batches:
                state["group"] = group.cpu()
                if groups:
                    rows += torch.bincount(state["group"], minlength=groups)
                window_losses(network, tokens, asked)[0].sum().backward()
                count += len(tokens)
    finally:
        for handle in hooks:
            handle.remove()
        for weight in wanted:
            weight.requires_grad_(True)
    if not count:
        raise ValueError("no text")
    each = rows.clamp_min(1)[:, None]
    return [total.numpy() / count for total in sums], [(rise / each).numpy() for rise in rises]


def window_losses(
    network: nn.Module, tokens: torch.Tensor, asked: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean negative log likelihood of every row's predictions (b,) float32, and the logits (b, t, vocabulary)."""
    logits = network(input_ids=tokens, use_cache=False).logits.float()
    losses = functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    if asked is None:
        return losses.mean(1), logits
    return (losses * asked).sum(1) / asked.sum(1), logits


def magnitude(network: nn.Module, found: Sequence[Parts]) -> list[np.ndarray]:
    """Euclidean norm of the weights that read a part; a control."""
    values = []
    for one in found:
        layer = network.get_submodule(one.name)
        weight = layer.weight.detach().double().cpu()  # type: ignore[operator]
        by_input = weight.square().sum(0 if isinstance(layer, nn.Linear) else 1)
        values.append(by_input.view(one.size, one.width).sum(1).sqrt().numpy())
    return values
