"""What a study will cost, before it starts: FLOPs, hours on this machine, and money.

FLOPs follow from the plan's images and the networks of both recipes. Hours come from a short timing of both networks on
random images, of the imports with which a process begins, and of a step that has nothing to do; reading images, fitting
classifiers and other work without a network is not in them. They are a range, since other work slows a machine down:
from the fastest step that was timed, or one core's undisturbed if that is faster, to one that only a tenth exceed.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prune.runs.files import InputError
from transfer.studies.settings import Study
from transfer.studies.task import Task
from transfer.studies.worker import execute
from transfer.verdicts.cost_account import duration_range_text

_BY_SURROGATE = ("surrogate", "features", "leaks", "search")
_BY_BACKBONE = ("pretrain", "evaluate")
_CLASSES = 100  # the classifier's part of the FLOPs is small
_TIMED = 0.5  # seconds
_FEWEST, _PATIENCE = 3, 5.0  # steps that a spread takes, unless they take so many seconds
_SLOW = 0.9  # quantile of the timed steps
_SPREAD = 1.1
"""The least that the upper end of a time is above the lower: two timings on an idle machine differ by that."""
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


def training_seconds(recipe: str, jobs: int = 1) -> tuple[float, float]:
    """Least and most seconds of training on one image on this machine, from a few timed steps on random images.

    On a CPU the cores are shared among `jobs` tasks at a time, so each has fewer threads and all together are faster.
    The least is at most what one core takes undisturbed: its processor time, which other work does not lengthen.
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
    took: list[float] = []

    def timed(clock: Callable[[], float]) -> float:
        begin = clock()
        network(images).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - begin

    try:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // jobs) if jobs > 1 else threads)
        while sum(took) < _TIMED or (len(took) <= _FEWEST and sum(took) < _PATIENCE):
            took.append(timed(time.perf_counter))
        least, most = time_range(took[1:] or took)  # the first step also warms up
        if device.type == "cpu":
            torch.set_num_threads(1)
            begin = time.perf_counter()
            while time.perf_counter() - begin < _TIMED:
                least = min(least, timed(time.process_time) or least)
    finally:
        torch.set_num_threads(threads)
    return least / count / jobs, most / count / jobs


def time_range(took: Sequence[float]) -> tuple[float, float]:
    """The ends of a range for what took so many seconds each time: the fastest, and what only a tenth exceed.

    Examples
    --------
    >>> time_range([2.0, 3.0, 2.5, 4.0, 9.0])
    (2.0, 4.0)
    >>> time_range([2.0, 2.0])
    (2.0, 2.2)
    """
    inner = sorted(took)
    return inner[0], max(inner[int(_SLOW * (len(inner) - 1))], _SPREAD * inner[0])


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
def step_seconds() -> tuple[float, float]:
    """Least and most seconds of a step that finds nothing to do, in a process that has imported everything.

    It reads its flags, writes its log and tidies up.
    """
    with tempfile.TemporaryDirectory() as place:
        command = ("python", "-m", "prune", "show", f"{place}/absent.npz")
        return time_range([execute(command, Path(place, "log"))[1] for _ in range(4)][1:])


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
    seconds : tuple of float
        Least and most, on this machine, in all.
    price : float or None
        Of one hour of the machine, in a currency of the user's.
    overhead : tuple of float
        Seconds of these, least and most, in which processes and steps start up.
    """

    flops: float
    seconds: tuple[float, float]
    price: float | None = None
    overhead: tuple[float, float] = (0.0, 0.0)

    def money(self) -> list[float] | None:
        """Least and most money; None without a price."""
        return None if self.price is None else [one / 3600 * self.price for one in self.seconds]

    def record(self) -> dict[str, Any]:
        """For JSON: "flops"; "seconds_range", "start_up_seconds_range" of these and, with a price, "money_range".

        Each range is [least, most]; "seconds", "start_up_seconds" and "money", which are older, are the least.
        """
        ranges = {"seconds": [*self.seconds], "start_up_seconds": [*self.overhead], "money": self.money()}
        known = {name: one for name, one in ranges.items() if one is not None}
        least = {name: one[0] for name, one in known.items()}
        return {"flops": self.flops, **least, **{f"{name}_range": one for name, one in known.items()}}

    def sentence(self) -> str:
        """In one sentence.

        Examples
        --------
        >>> Forecast(2.5e12, (7200.0, 9000.0), price=3.0, overhead=(660.0, 720.0)).sentence().split(". ")[0]
        'Still to run: about 2.5e+12 FLOPs, 2.0 to 2.5 hours on this machine, 6.00 to 7.50 in money'
        """
        parts = [f"about {self.flops:.1e} FLOPs", f"{duration_range_text(*self.seconds)} on this machine"]
        if (money := self.money()) is not None:
            parts.append(f"{money[0]:.2f} to {money[1]:.2f} in money")
        return (
            f"Still to run: {', '.join(parts)}. The time is that of the networks, from this machine undisturbed to as "
            f"slow as it just was, and {duration_range_text(*self.overhead)} of start-up of processes and steps, "
            "without reading images and fitting classifiers."
        )


def summed(
    images: Mapping[str, float],
    flops: Mapping[str, float],
    seconds: Mapping[str, tuple[float, float]],
    price: float | None = None,
    overhead: tuple[float, float] = (0.0, 0.0),
) -> Forecast:
    """The cost of training on so many images by each recipe.

    Parameters
    ----------
    images : mapping
        From `images_by_recipe`.
    flops : mapping of str to float
        Of training on one image, by recipe.
    seconds : mapping of str to tuple of float
        Least and most for the same.
    price : float, optional
        Of one hour of the machine.
    overhead : tuple of float
        Seconds, least and most, that come on top.

    Examples
    --------
    >>> times = {"a": (7.0, 8.0), "b": (0.4, 0.5)}
    >>> cost = summed({"a": 1000.0, "b": 500.0}, {"a": 2e9, "b": 1e9}, times, overhead=(60.0, 70.0))
    >>> cost.flops, cost.seconds
    (2500000000000.0, (7260.0, 8320.0))
    """
    work = sum(count * flops[recipe] for recipe, count in images.items())
    least, most = (sum(count * seconds[recipe][end] for recipe, count in images.items()) for end in (0, 1))
    return Forecast(work, (least + overhead[0], most + overhead[1]), price, overhead)


def forecast(
    tasks: Sequence[Task], study: Study, price: float | None, jobs: int, *, alone: bool = False
) -> Forecast | None:
    """The cost of these tasks of a study, `jobs` at a time; None where no network is left to train or to use.

    `alone`: each task in a process of its own, as array jobs run them.
    """
    images = images_by_recipe(tasks, study)
    if not images:
        return None
    start_up = time_range([start_up_seconds()])  # before anything else imports torch
    flops = {recipe: training_flops(recipe) for recipe in images}
    seconds = {recipe: training_seconds(recipe, jobs) for recipe in images}
    starts = zip(start_up, step_seconds())
    least, most = (overhead(len(tasks), jobs, alone=alone, start_up=one, step=step) for one, step in starts)
    return summed(images, flops, seconds, price, (least, most))
