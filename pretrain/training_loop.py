"""The training loop: the only one in the repository. Pretraining, fine-tuning and incremental learning call `train`.

It takes a network, a source of batches, the rows to train on and a recipe, and knows nothing of files except where its
checkpoints go. Everything that decides the next step is a function of (seed, epoch, step) or part of the checkpoint,
so a run that was killed at any point sees the same images in the same global batches at the same learning rates, on any
number of processes. On CPUs and the same number of processes it ends with the same bits. On GPUs sums are added in an
order that changes from run to run; `--deterministic` forbids that, and the bits are the same on the same kind of GPU.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pretrain import checkpoint, optimisation, preemption, sampling_order, schedule
from pretrain.distributed import Ranks
from pretrain.dynamics_recorder import Recorder
from pretrain.hooks import Batches, Hooks, NonFinite, Progress
from pretrain.infobatch import InfoBatch
from pretrain.learner import Learner
from pretrain.optimisation import Loss, swapped
from pretrain.recipe import Recipe
from pretrain.schedule import Budget
from prune.models import networks
from prune.runs.files import counted, needing, note

_CHECK_EVERY = 20  # steps between checks of a CUDA loss: each check waits for the GPU


def train(
    network: nn.Module,
    batches: Batches,
    rows: np.ndarray,
    recipe: Recipe,
    ranks: Ranks,
    *,
    budget: Budget,
    mean: Any,
    std: Any,
    seed: int = 0,
    micro_batch: int | None = None,
    loss: Loss | None = None,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 600.0,
    dynamics: bool = False,
    hooks: Hooks | None = None,
    pages: np.ndarray | None = None,
) -> Progress:
    """Train `network` in place.

    Parameters
    ----------
    network : nn.Module
        On the ranks' device, equal on all ranks. Holds the published weights at the end: the averaged ones if the
        recipe has an average, and batch-norm statistics averaged over the ranks.
    batches : Batches
    rows : (n,) int64
        Ascending.
    recipe, ranks, budget, seed, hooks : Recipe, Ranks, Budget, int, Hooks
    mean, std : sequence of 3 floats
        In grey levels.
    micro_batch : int, optional
        Largest number of images per forward pass; larger steps accumulate gradients. When absent, the rank's part of a
        step at the start of the run; a resume keeps it, so that on fewer processes batch norm sees parts of equal size,
        unless the ranks synchronise batch norm, which then sees the whole step.
    loss : Loss, optional
        Classification when absent.
    checkpoints : Path, optional
        Directory of checkpoints; the run resumes from the newest. When absent, none are written.
    checkpoint_seconds : float
        Write one whenever this time has passed (0: after every step), and after an epoch once a tenth of it has.
    dynamics : bool
        Record every image; `hooks.on_records` gets them.
    pages : (m,) int64, optional
        Page of every row of the source, for an order that reads pages in runs; see `sampling_order.epoch_order`.

    Raises
    ------
    NonFinite
        Names the step and the last good checkpoint.
    Requeue
        A signal arrived; a checkpoint is written.
    """
    with networks.safe_memory_format(network):
        batch = sampling_order.global_batch(len(rows), recipe.batch, ranks.world)
        recorder = Recorder(rows, ranks.device) if dynamics or recipe.infobatch else None
        loss = loss or optimisation.classification(recipe, seed, ranks.rank)
        run = _Run(
            learner=Learner(network, recipe, ranks, loss, mean, std, seed, recorder),
            batches=batches,
            rows=rows,
            budget=budget,
            seed=seed,
            hooks=hooks or Hooks(),
            infobatch=InfoBatch(len(rows), recipe.infobatch, seed) if recipe.infobatch else None,
            keep_records=dynamics,
            directory=checkpoints,
            every=checkpoint_seconds,
            progress=Progress(micro_batch=micro_batch or sampling_order.rank_batch(batch, 0, ranks.world)),
            pages=pages,
        )
        run.resume(micro_batch)
        run.learner.wrap()
        run.rehearse()
        with preemption.saves_first():
            run.to_the_end()
        if run.learner.compiled:
            torch._dynamo.reset()  # the next training of this process has other networks and sizes
    return run.progress


@dataclass
class _Run:
    learner: Learner
    batches: Batches
    rows: np.ndarray
    budget: Budget
    seed: int
    hooks: Hooks
    infobatch: InfoBatch | None
    keep_records: bool
    directory: Path | None
    every: float
    progress: Progress
    pages: np.ndarray | None = None
    saved: float = 0.0

    def resume(self, micro_batch: int | None) -> None:
        """Resume from the newest undamaged checkpoint, if there is one; `micro_batch` replaces its own."""
        if self.directory is None:
            return
        ranks = self.learner.ranks
        place = checkpoint.newest(self.directory) if ranks.rank == 0 else None
        step = ranks.from_first(int(place.name) if place else -1)
        if step >= 0:
            place = checkpoint.place(self.directory, step)
            shared, others, progress = checkpoint.load(place, ranks.rank, ranks.world)
            whole = self.progress.micro_batch
            with checkpoint.foreign_content_is_a_mistake(place):
                self.learner.restore(shared, others)
                if self.infobatch:
                    self.infobatch.losses = shared["infobatch"].numpy()
                self.progress = Progress.of(progress)
            of = self.budget.steps
            note(f"resuming from step {step} " + (f"of {of}" if of else f"(epoch {self.progress.epoch + 1})"))
            self._note_processes(step, len(others))
            self.progress.micro_batch = micro_batch or (whole if ranks.sync_bn else self.progress.micro_batch)
        self.hooks.on_lines(self.progress.lines)

    def rehearse(self) -> None:
        """Try the largest images once where the run begins with smaller ones, and the compiler where it may fail."""
        learner, recipe = self.learner, self.learner.recipe
        optional = learner.compiled and learner.ranks.compile == "auto"
        if not optional and max(self.progress.resolution, recipe.start_resolution or recipe.resolution) >= (
            recipe.resolution
        ):
            return
        batch = sampling_order.global_batch(len(self.rows), recipe.batch, learner.ranks.world)
        part = sampling_order.rank_batch(batch, learner.ranks.rank, learner.ranks.world)
        try:
            learner.try_largest(part, self.progress.micro_batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            if not optional:
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            note(f"not compiled, since compiling failed: {reason[:200]}")
            learner.stop_compiling()
            learner.try_largest(part, self.progress.micro_batch)

    def _note_processes(self, step: int, before: int) -> None:
        """Say and record that a run resumes on another number of processes, which changes numbers."""
        if before != self.learner.ranks.world:
            changes = self.progress.processes or [[0, before]]
            self.progress.processes = [*changes, [step, self.learner.ranks.world]]
            why = "sums are added in another order"
            if not self.learner.ranks.sync_bn:
                why = "batch norm sees them in other groups"
            note(
                f"resuming on {counted(self.learner.ranks.world, 'process', 'processes')} instead of {before}: the "
                f"same images in the same batches, but {why}, so numbers differ from an undisturbed run's"
            )

    def to_the_end(self) -> None:
        """Train until the budget is spent, and leave the published weights in the network."""
        self.saved = time.monotonic()
        while True:
            rows, weight = self._begin_epoch()
            if self._share(rows) < 1:
                self._steps(rows, weight)
            self._finish_epoch()
            if self._share(rows) >= 1:
                break
            if self.directory is not None and self._worth_saving():
                self._save(self.directory)
        with torch.no_grad():
            for place, value in zip(*self.learner.published()):
                place.copy_(value)

    def _worth_saving(self) -> bool:
        """Whether a tenth of the time between two checkpoints has passed; rank 0's clock decides."""
        due = time.monotonic() - self.saved >= self.every / 10
        return self.learner.ranks.agree(False, due, 0, 0.0).save

    def _share(self, rows: np.ndarray) -> float:
        p = self.progress
        steps = sampling_order.steps_per_epoch(len(rows), self.learner.recipe.batch)
        return self.budget.spent(p.epoch + p.batch / steps, p.step, p.seconds)

    def _begin_epoch(self) -> tuple[np.ndarray, torch.Tensor | None]:
        p, r = self.progress, self.learner.recipe
        if p.batch == 0:
            p.began = self._share(self.rows)
            multiple = 32 if r.resolution > 96 else 16
            p.resolution = schedule.resolution(
                p.began, r.start_resolution or r.resolution, r.resolution, *r.grow, multiple=multiple
            )
        if self.infobatch is None:
            return self.rows, None
        slots, weight = self.infobatch.images_of(p.epoch, p.began)
        table = torch.zeros(int(self.rows[-1]) + 1)
        table[torch.from_numpy(self.rows)] = torch.from_numpy(weight)
        return self.rows[slots], table

    def _steps(self, rows: np.ndarray, weight: torch.Tensor | None) -> None:
        p, learner, recipe = self.progress, self.learner, self.learner.recipe
        ranks = learner.ranks
        clock = time.perf_counter()
        batch = sampling_order.global_batch(len(rows), recipe.batch, ranks.world)
        pages = None if self.pages is None else self.pages[rows]
        whole = sampling_order.epoch_order(rows, self.seed, p.epoch, batch, pages)
        mine = sampling_order.rank_order(whole, batch, ranks.rank, ranks.world, p.batch)
        learner.model.train()
        # With fewer images than a batch, the rate is scaled down with the batch.
        peak = recipe.lr * batch / recipe.batch
        stream = self.batches(mine, p.epoch, p.resolution)
        try:
            while (share := self._share(rows)) < 1 and (found := next(stream, None)) is not None:
                images, labels, part = found
                p.waited += time.perf_counter() - clock
                learner.step(
                    images,
                    labels,
                    part,
                    batch=batch,
                    micro_batch=p.micro_batch,
                    number=p.step,
                    share=share,
                    rate=schedule.learning_rate(share, peak, recipe.warmup / recipe.epochs, fall=recipe.fall),
                    counts=None if weight is None else weight[part],
                )
                p.batch, p.step = p.batch + 1, p.step + 1
                p.samples, p.epoch_samples = p.samples + batch, p.epoch_samples + batch
                clock = self._tick(clock)
                if self._boundary():
                    clock = time.perf_counter()  # writing a checkpoint does not count as training time
                if self.hooks.on_step:
                    self.hooks.on_step(p, self._share(rows))
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()  # what is queued belongs to this epoch
                self._tick(clock)
                p.seconds = ranks.agree(False, False, 0, p.seconds).seconds
        finally:
            stream.close()  # type: ignore[attr-defined]

    def _tick(self, since: float) -> float:
        """Add the time since `since` to the clocks, and return the current time."""
        now = time.perf_counter()
        self.progress.epoch_seconds += now - since
        self.progress.seconds += now - since
        return now

    def _boundary(self) -> bool:
        """Agree with the other ranks whether to save or to stop; True when a checkpoint was written."""
        p, ranks = self.progress, self.learner.ranks
        checks = ranks.device.type != "cuda" or p.step % _CHECK_EVERY == 0
        bad = int(self.learner.bad) if checks else 0
        due = self.directory is not None and time.monotonic() - self.saved >= self.every
        agreed = ranks.agree(preemption.stop_requested(), due, bad, p.seconds)
        p.seconds = agreed.seconds
        self._refuse(agreed.bad_step)
        if self.directory is None or not (agreed.save or agreed.stop):
            if agreed.stop:
                raise preemption.Requeue
            return False
        self._refuse(ranks.agree(False, False, int(self.learner.bad), 0.0).bad_step)
        self._save(self.directory)
        if agreed.stop:
            note(f"stopping on a signal: checkpoint of step {p.step} written; the same command resumes")
            raise preemption.Requeue
        return True

    def _save(self, directory: Path) -> None:
        def shared() -> dict[str, Any]:
            losses = self.infobatch.losses if self.infobatch else np.zeros(0, np.float32)
            return {**self.learner.shared(), "infobatch": torch.from_numpy(losses)}

        ranks, p = self.learner.ranks, self.progress
        found = checkpoint.complete(directory)
        safe = f"the checkpoint of step {int(found[-1].name)} is whole" if found else "there is no checkpoint yet"
        with needing(directory, 0, safe):
            checkpoint.save(
                directory, p.step, ranks.rank, ranks.wait, shared=shared, mine=self.learner.mine(), progress=asdict(p)
            )
        self.saved = time.monotonic()

    def _refuse(self, bad_step: int) -> None:
        if bad_step:
            found = checkpoint.complete(self.directory) if self.directory else []
            last = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint before it"
            raise NonFinite(f"the loss at step {bad_step} is not finite; {last}; try a lower learning rate or fp32")

    def _finish_epoch(self) -> None:
        p, learner = self.progress, self.learner
        loss, correct, count = learner.ranks.total(learner.sums).tolist()
        self._refuse(learner.ranks.agree(False, False, int(learner.bad), 0.0).bad_step)
        line = p.line(loss, correct, count, learner.optimiser.param_groups[0]["lr"])
        if learner.recorder:
            records = learner.recorder.finish_epoch(learner.ranks)
            if self.infobatch:
                self.infobatch.learn(records["loss"])
            if self.keep_records and self.hooks.on_records:
                self.hooks.on_records(p.epoch, records)
        if self.hooks.after_epoch:
            with swapped(*learner.published()):
                self.hooks.after_epoch(learner.network, line)
        learner.sums.zero_()
        p.next_epoch(line)
        self.hooks.on_lines(self.progress.lines)
