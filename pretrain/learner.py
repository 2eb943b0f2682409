"""One optimiser step, and all state that steps change, which is what a checkpoint must hold."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from pretrain import optimisation, sampling_order, schedule
from pretrain.adversarial import FreeNoise, perturb
from pretrain.compiling import decide
from pretrain.distributed import Ranks
from pretrain.dynamics_recorder import Recorder
from pretrain.optimisation import Average, Loss, statistics
from pretrain.recipe import Recipe
from prune.models.transfers import sent
from prune.runs.files import InputError


class Learner:
    """A network in training on one rank.

    Parameters
    ----------
    network : nn.Module
        On the ranks' device, equal on all ranks.
    recipe : Recipe
    ranks : Ranks
    loss : Loss
    mean, std : sequence of 3 floats
        In grey levels.
    seed : int
    recorder : Recorder, optional
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        ranks: Ranks,
        loss: Loss,
        mean: Any,
        std: Any,
        seed: int,
        recorder: Recorder | None,
    ) -> None:
        self.seed = seed
        self.network, self.recipe, self.ranks, self.loss, self.recorder = network, recipe, ranks, loss, recorder
        self.model: nn.Module = network  # what is called: distributed, perhaps compiled
        self.spread: nn.Module = network
        self.compiled = False
        device = ranks.device
        self.mean, self.std = (torch.tensor(v, device=device).float().view(1, 3, 1, 1) for v in (mean, std))
        self.optimiser = optimisation.build(network, recipe)
        self.average = Average(network, recipe.ema) if recipe.ema else None
        free = recipe.attack is not None and recipe.attack.kind == "free"
        self.noise = FreeNoise(recipe.attack, self.mean, self.std) if free and recipe.attack else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=ranks.dtype is torch.float16)
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, correct, images
        self.bad = torch.zeros((), dtype=torch.int64, device=device)  # first step with a non-finite loss, from 1

    def wrap(self) -> None:
        """Distribute and compile; after `restore`, because distributing copies rank 0's weights to all.

        In this order torch cuts the compiled graph where gradients are averaged, so that the averaging overlaps the
        backward pass. Each resolution is compiled for itself: few occur.
        """
        self.model = self.spread = self.ranks.distribute(self.network)
        self.compiled, _ = decide(self.ranks.compile, self.recipe.compile, self.ranks.device)
        if self.compiled:
            self.model = torch.compile(self.spread, dynamic=False)  # type: ignore[assignment]
        self.model.train()

    def stop_compiling(self) -> None:
        """Continue with the network as it is."""
        torch._dynamo.reset()
        self.compiled, self.model = False, self.spread
        self.optimiser.zero_grad(set_to_none=True)

    def try_largest(self, images: int, micro_batch: int) -> None:
        """Pass one batch of the recipe's largest images forwards and backwards, and change nothing.

        A training whose images grow then runs out of memory at its start, not hours later. Every rank calls this.

        Parameters
        ----------
        images : int
            Of this rank's part of a step.
        micro_batch : int
        """
        recipe, device = self.recipe, self.ranks.device
        side = max(recipe.resolution, recipe.start_resolution)
        shape = min(images, micro_batch), 3, side * (2 if recipe.method == "simsiam" else 1), side
        kept = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        x = torch.zeros(shape, device=device).to(memory_format=torch.channels_last)
        y = torch.zeros(shape[0], dtype=torch.int64, device=device)
        with self.ranks.autocast():
            self.loss(self.model, x, y, 0)[0].sum().backward()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)

    def step(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        rows: torch.Tensor,
        *,
        batch: int,
        micro_batch: int,
        number: int,
        share: float,
        rate: float,
        counts: torch.Tensor | None = None,
    ) -> None:
        """Learn from this rank's part of a global batch.

        Parameters
        ----------
        images : (b, 3, r, r) uint8
        labels, rows : (b,) int64
        batch : int
            Images of the step over all ranks.
        micro_batch : int
            Largest number of images per forward pass.
        number : int
            Steps done before this one.
        share : float
            Share of the budget spent before this one.
        rate : float
            Learning rate.
        counts : (b,) float32, optional
            How much each image's loss counts.
        """
        recipe, ranks = self.recipe, self.ranks
        # Dropout and attacks draw from torch's global generator; so do data loaders, at other times after a resume.
        # With this seed a step's draws depend on (seed, step, rank) alone, and no random state has to be saved.
        torch.manual_seed(int(np.random.SeedSequence((self.seed, number, ranks.rank)).generate_state(1, np.uint64)[0]))
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        images, labels, rows = (sent(v, ranks.device) for v in (images, labels, rows))
        counts = None if counts is None else sent(counts, ranks.device)
        most = sampling_order.rank_batch(batch, 0, ranks.world) if ranks.sync_bn else len(images)
        # Ranks that synchronise batch norm pass equally often, or one would wait for the others for ever.
        places = torch.arange(len(images)).tensor_split(-(-most // micro_batch))
        strength = schedule.ramp(share, recipe.attack.ramp) if recipe.attack else 0.0
        if self.noise:
            self.noise.fit(images.shape)
        for replay in range(self.noise.attack.steps if self.noise else 1):
            for i, place in enumerate(places):
                part = slice(int(place[0]), int(place[-1]) + 1)
                x, y, noise = (images[part].float() - self.mean) / self.std, labels[part], None
                with ranks.autocast():
                    if self.noise:
                        x, noise = self.noise.added(x, part)
                    elif recipe.attack:
                        x = perturb(self.network, x, y, recipe.attack, strength, self.mean, self.std)
                    with ranks.without_sync(self.spread) if i + 1 < len(places) else nullcontext():
                        losses, logits = self.loss(self.model, x, y, number)
                        total = (losses if counts is None else losses * counts[part]).sum()
                        # DDP divides by the number of ranks: the result is the mean over the global batch.
                        self.scaler.scale(total * (ranks.world / batch)).backward()
                if self.noise and noise is not None:
                    self.noise.move(noise, part, strength)
                if replay == 0:  # each image is counted once per step
                    self._note(losses.detach(), logits.detach(), y, rows[part], number)
            self._descend()
        if self.average:
            self.average.update(self.network, number)

    def _descend(self) -> None:
        """Update the weights with the accumulated gradients."""
        if self.recipe.clip:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _note(
        self, losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, number: int
    ) -> None:
        total = losses.double().sum()
        self.bad = torch.where((self.bad == 0) & ~torch.isfinite(total), number + 1, self.bad)
        hits = (logits.argmax(1) == labels).sum().double()
        self.sums += torch.stack([total, hits, torch.full_like(total, len(labels))])
        if self.recorder:
            self.recorder.note(rows, labels, logits, losses)

    def published(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Tensors of the network, and the values that replace theirs for evaluation and saving.

        Averaged parameters if the recipe has them, and batch-norm statistics averaged over the ranks, since each rank's
        own come from its share of the images only.
        """
        own = statistics(self.network)
        places, values = list(own), list(own)
        if own and self.ranks.world > 1:
            flat = self.ranks.total(torch.cat([b.reshape(-1) for b in own])) / self.ranks.world
            values = [v.view_as(b) for v, b in zip(flat.split([b.numel() for b in own]), own)]
        if self.average:
            places += list(self.network.parameters())
            values += self.average.values
        return places, values

    # ---- checkpoints

    def shared(self) -> dict[str, Any]:
        """State that is equal on all ranks."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.values if self.average else [],
        }

    def mine(self) -> dict[str, Any]:
        """State of this rank alone."""
        return {
            "statistics": [b.cpu() for b in statistics(self.network)],
            "sums": self.sums.cpu(),
            "records": self.recorder.state() if self.recorder else torch.zeros(0),
            "noise": self.noise.values.cpu() if self.noise else torch.zeros(0),
        }

    def restore(self, shared: dict[str, Any], ranks: list[dict[str, Any]]) -> None:
        """Restore the state of a checkpoint; `ranks` holds the state of each of its ranks.

        With the same number of ranks each gets its own. With another number, statistics are averaged, rank 0 gets all
        sums and records, and the noise of "free" training starts from zero.
        """
        self.network.load_state_dict(shared["network"])
        try:
            self.optimiser.load_state_dict(shared["optimiser"])
        except ValueError:
            raise InputError(
                "the checkpoint divides the parameters in another way, as version 0.2.0 did for transformers: "
                "it cannot be resumed; give another --out"
            ) from None
        optimisation.match_layout(self.optimiser)
        self.scaler.load_state_dict(shared["scaler"])
        if self.average:
            for place, value in zip(self.average.values, shared["average"], strict=True):
                place.copy_(value)
        same = len(ranks) == self.ranks.world
        if same:
            mine = ranks[self.ranks.rank]
        else:
            mine = {
                "statistics": [torch.stack(b).mean(0) for b in zip(*(r["statistics"] for r in ranks))],
                "sums": torch.stack([r["sums"] for r in ranks]).sum(0),
                "records": torch.stack([r["records"] for r in ranks]).sum(0),
                "noise": torch.zeros(0),
            }
        for place, value in zip(statistics(self.network), mine["statistics"], strict=True):
            place.copy_(value)
        if self.noise:
            self.noise.values = mine["noise"].to(self.mean.device)
        if same or self.ranks.rank == 0:
            self.sums.copy_(mine["sums"])
            if self.recorder:
                self.recorder.restore(mine["records"])
