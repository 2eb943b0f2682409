"""What a study will cost, before it starts: FLOPs, hours on this machine, and money.

FLOPs follow from the plan's images and the networks of both recipes. Hours come from a short timing of both networks on
random images; reading images, fitting classifiers and anything else without a network is not in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prune.runs.files import InputError
from transfer.studies.settings import Study
from transfer.studies.task import Task
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
    import time

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
        On this machine.
    price : float or None
        Of one hour of the machine, in a currency of the user's.
    """

    flops: float
    seconds: float
    price: float | None = None

    def record(self) -> dict[str, float]:
        """For JSON: "flops", "seconds" and, with a price, "money"."""
        money = {} if self.price is None else {"money": self.seconds / 3600 * self.price}
        return {"flops": self.flops, "seconds": self.seconds, **money}

    def sentence(self) -> str:
        """In one sentence.

        Examples
        --------
        >>> Forecast(2.5e12, 7200.0, price=3.0).sentence()
        'Still to run: about 2.5e+12 FLOPs, 2.0 hours on this machine, 6.00 in money.'
        """
        parts = [f"about {self.flops:.1e} FLOPs", f"{duration_text(self.seconds)} on this machine"]
        if self.price is not None:
            parts.append(f"{self.record()['money']:.2f} in money")
        return f"Still to run: {', '.join(parts)}."


def summed(
    images: Mapping[str, float], flops: Mapping[str, float], seconds: Mapping[str, float], price: float | None = None
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

    Examples
    --------
    >>> summed({"a": 1000.0, "b": 500.0}, {"a": 2e9, "b": 1e9}, {"a": 7.0, "b": 0.4})
    Forecast(flops=2500000000000.0, seconds=7200.0, price=None)
    """
    whole = [sum(count * each[recipe] for recipe, count in images.items()) for each in (flops, seconds)]
    return Forecast(whole[0], whole[1], price)


def forecast(tasks: Iterable[Task], study: Study, price: float | None, jobs: int) -> Forecast | None:
    """The cost of these tasks of a study, `jobs` at a time; None where no network is left to train or to use."""
    images = images_by_recipe(tasks, study)
    if not images:
        return None
    flops = {recipe: training_flops(recipe) for recipe in images}
    seconds = {recipe: training_seconds(recipe, jobs) for recipe in images}
    return summed(images, flops, seconds, price)
