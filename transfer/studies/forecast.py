"""What a study will cost, before it starts: FLOPs, hours on this machine, and money.

FLOPs follow from the plan's images and the networks of both recipes. Hours come from a short timing of both networks on
random images, of the imports with which a process begins, and of a step that has nothing to do; reading images, fitting
classifiers and other work without a network is not in them.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prune.runs.files import InputError
from transfer.studies.settings import Study
from transfer.studies.task import Task
from transfer.studies.worker import execute
from transfer.verdicts.cost_account import duration_text

_BY_SURROGATE = ("surrogate", "features", "leaks", "search")
_BY_BACKBONE = ("pretrain", "evaluate")
_CLASSES = 100  # the classifier's part of the FLOPs is small
_TIMED = 0.5  # seconds
_TRAINING = 3.0  # forward passes that training on an image costs


def images_by_recipe(tasks: Iterable[Task], study: Study) -> dict[str, float]:
    """Training images that the tasks see with each recipe's network; a forward pass counts as a third of one."""
    found: dict[str, float] = {}
    for task in tasks:
        by_surrogate, by_backbone = task.stage in _BY_SURROGATE, task.stage in _BY_BACKBONE
        if task.cost and (by_surrogate or by_backbone):
            recipe = study.surrogate_recipe if by_surrogate else study.recipe
            found[recipe] = found.get(recipe, 0.0) + task.cost / _TRAINING
    return found


def training_flops(recipe: str) -> float:
    """FLOPs of training on one image by the recipe, at its last resolution."""
    from pretrain.recipes import RECIPES
    from pretrain.training_flops import per_image
    from prune.models.networks import build

    return per_image(build(_spec(recipe)), RECIPES[recipe], RECIPES[recipe].resolution)


def training_seconds(recipe: str, jobs: int = 1) -> float:
    """Seconds of training on one image on this machine, from a few timed steps on random images.

    On a CPU the cores are shared among `jobs` tasks at a time, so each has fewer threads and all together are faster.
    """
    import os

    import torch

    from pretrain.recipes import RECIPES
    from prune.models.networks import build

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = min(RECIPES[recipe].batch, 128 if device.type == "cuda" else 16)
    side = RECIPES[recipe].resolution
    with torch.random.fork_rng(devices=[]):
        network = build(_spec(recipe)).to(device).train()
        images = torch.randn(count, 3, side, side, device=device)
    threads, jobs = torch.get_num_threads(), jobs if device.type == "cpu" else 1
    best, spent = float("inf"), 0.0
    try:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // jobs) if jobs > 1 else threads)
        while spent < _TIMED:  # the first step also warms up
            begin = time.perf_counter()
            network(images).sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            took = time.perf_counter() - begin
            best, spent = min(best, took), spent + took
    finally:
        torch.set_num_threads(threads)
    return best / count / jobs


_IMPORTS = "import pretrain.training_run, prune.models.networks, prune.data.loader"


@functools.cache
def start_up_seconds() -> float:
    """Seconds that a process takes to import what the steps import, torch above all.

    The first call of a process that has not imported it yet does so, and costs nothing more.
    """
    begin = time.perf_counter()
    if "torch" in sys.modules:
        subprocess.run([sys.executable, "-c", _IMPORTS], check=True)
    else:
        exec(_IMPORTS, {})
    return time.perf_counter() - begin


@functools.cache
def step_seconds() -> float:
    """Seconds of a step that finds nothing to do, in a process that has imported everything: flags, log, clean-up."""
    with tempfile.TemporaryDirectory() as place:
        command = ("python", "-m", "prune", "show", f"{place}/absent.npz")
        return min(execute(command, Path(place, "log"))[1] for _ in range(2))


def overhead(tasks: int, jobs: int, *, alone: bool, start_up: float, step: float) -> float:
    """Seconds of a study beside its work.

    Parameters
    ----------
    tasks, jobs : int
        Tasks to run, and how many of them at a time.
    alone : bool
        Each task runs in a process of its own, as array jobs do; else in the study's, or in `jobs` that start together.
    start_up, step : float
        Seconds of `start_up_seconds` and `step_seconds`.

    Examples
    --------
    >>> [overhead(100, jobs, alone=False, start_up=5.0, step=0.25) for jobs in (1, 2)]
    [30.0, 22.5]
    >>> overhead(100, 1, alone=True, start_up=5.0, step=0.25)
    525.0
    """
    starts = tasks if alone else 1 if jobs == 1 else 2
    return starts * start_up + tasks * step / jobs


def _spec(recipe: str) -> dict[str, Any]:
    from pretrain.recipes import RECIPES

    one = RECIPES[recipe]
    return {"arch": one.arch, "kwargs": one.kwargs, "stem": one.stem, "classes": [str(k) for k in range(_CLASSES)]}


def check_compute(study: Study) -> None:
    """Refuse a total compute that the surrogate and its features alone would exceed, before any of it runs.

    Raises
    ------
    InputError
        With the estimated share of one full pretraining, and the ways out.
    """
    whole = study.sizes.get("source", 0) * (study.epochs or study.recipe_epochs.get(study.recipe, 1))
    if study.compute is None or not study.trains_surrogates or not whole:
        return
    start_up_seconds()  # measured where torch is imported first
    from transfer.studies.candidates import with_surrogate
    from transfer.studies.study_plan import plan_of

    alone = replace(study, surrogates=(), surrogate=None)
    for text in study.surrogates or (None,):
        one = with_surrogate(alone, text)
        if not one.trains_surrogates or one.surrogate_model is not None:
            continue
        own = [task for task in plan_of(one) if task.stage in ("surrogate", "features")]
        images = images_by_recipe(own, one)[one.surrogate_recipe] / len(study.seeds) / study.uses
        share = images * training_flops(one.surrogate_recipe) / (whole * training_flops(study.recipe))
        if share >= study.compute:
            what = f"surrogate {text}" if text else "surrogate"
            raise InputError(
                f"--compute {study.compute:g}: {what} and features alone would cost {share:.2g} of a full pretraining; "
                "a smaller --surrogate-sample, --surrogate-epochs or --surrogate-recipe, more --uses or a larger "
                "--compute is needed"
            )


@dataclass(frozen=True)
class Forecast:
    """What is still to run.

    Attributes
    ----------
    flops : float
    seconds : float
        On this machine, in all.
    price : float or None
        Of one hour of the machine, in a currency of the user's.
    overhead : float
        Seconds of these in which processes and steps start up.
    """

    flops: float
    seconds: float
    price: float | None = None
    overhead: float = 0.0

    def record(self) -> dict[str, float]:
        """For JSON: "flops", "seconds", "start_up_seconds" among these and, with a price, "money"."""
        money = {} if self.price is None else {"money": self.seconds / 3600 * self.price}
        return {"flops": self.flops, "seconds": self.seconds, "start_up_seconds": self.overhead, **money}

    def sentence(self) -> str:
        """In one sentence.

        Examples
        --------
        >>> Forecast(2.5e12, 7200.0, price=3.0, overhead=720.0).sentence().split(". ")[0]
        'Still to run: about 2.5e+12 FLOPs, 2.0 hours on this machine, 6.00 in money'
        """
        parts = [f"about {self.flops:.1e} FLOPs", f"{duration_text(self.seconds)} on this machine"]
        if self.price is not None:
            parts.append(f"{self.record()['money']:.2f} in money")
        return (
            f"Still to run: {', '.join(parts)}. The time is that of the networks and {duration_text(self.overhead)} of "
            "start-up of processes and steps, without reading images and fitting classifiers."
        )


def summed(
    images: Mapping[str, float],
    flops: Mapping[str, float],
    seconds: Mapping[str, float],
    price: float | None = None,
    overhead: float = 0.0,
) -> Forecast:
    """The cost of training on so many images by each recipe.

    Parameters
    ----------
    images : mapping
        From `images_by_recipe`.
    flops, seconds : mapping of str to float
        Of training on one image, by recipe.
    price : float, optional
        Of one hour of the machine.
    overhead : float
        Seconds that come on top.

    Examples
    --------
    >>> summed({"a": 1000.0, "b": 500.0}, {"a": 2e9, "b": 1e9}, {"a": 7.0, "b": 0.4}, overhead=60.0)
    Forecast(flops=2500000000000.0, seconds=7260.0, price=None, overhead=60.0)
    """
    whole = [sum(count * each[recipe] for recipe, count in images.items()) for each in (flops, seconds)]
    return Forecast(whole[0], whole[1] + overhead, price, overhead)


def forecast(
    tasks: Sequence[Task], study: Study, price: float | None, jobs: int, *, alone: bool = False
) -> Forecast | None:
    """The cost of these tasks of a study, `jobs` at a time; None where no network is left to train or to use.

    `alone`: each task in a process of its own, as array jobs run them.
    """
    images = images_by_recipe(tasks, study)
    if not images:
        return None
    start_up = start_up_seconds()  # before anything else imports torch
    flops = {recipe: training_flops(recipe) for recipe in images}
    seconds = {recipe: training_seconds(recipe, jobs) for recipe in images}
    beside = overhead(len(tasks), jobs, alone=alone, start_up=start_up, step=step_seconds())
    return summed(images, flops, seconds, price, beside)
