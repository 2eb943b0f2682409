"""The evaluations of a study: their names, and the commands that make them. Pure functions, no files.

probe, knn, few-shot-K and probe-finetune rest on the same features of a backbone and target: they share one directory,
and wait for the first of them, which computes what lies there.
"""

from __future__ import annotations

import re

from prune.runs.files import InputError

DEFAULT = ("probe",)
_FEW = re.compile(r"few-shot-([1-9][0-9]*)")
_TUNED = re.compile(r"(?P<head>probe-)?finetune(-(?P<epochs>[1-9][0-9]*))?")
_FOLDERS = {"probe": "probes"}


def check_name(name: str) -> None:
    """Raise `InputError` for an evaluation that does not exist."""
    if name not in ("probe", "knn") and not _FEW.fullmatch(name) and not _TUNED.fullmatch(name):
        there = "probe, knn, few-shot-K, finetune, probe-finetune, and finetune-E for E epochs"
        raise InputError(f"--evaluations {name}: there are {there}")


def rests_on_features(name: str) -> bool:
    """Whether an evaluation reads the shared features of a backbone and target."""
    tuned = _TUNED.fullmatch(name)
    return tuned is None or tuned["head"] is not None


def epochs_of_tuning(name: str, recipe: float) -> float:
    """Epochs that an evaluation fine-tunes for: those in its name, else `recipe`; 0 when it trains nothing."""
    tuned = _TUNED.fullmatch(name)
    if tuned is None:
        return 0.0
    return float(tuned["epochs"] or recipe)


def maker(evaluations: tuple[str, ...]) -> str | None:
    """The evaluation that computes the shared features: the first that rests on them."""
    return next((name for name in evaluations if rests_on_features(name)), None)


def place_of(evaluation: str, cell: str, target: str) -> str:
    """Output of one evaluation, relative to the study's directory."""
    return f"{_FOLDERS.get(evaluation, evaluation)}/{cell}/{target}"


def command(
    evaluation: str, *, cell: str, target: str, train: str, test: str, seed: int, loader: list[str]
) -> tuple[str, ...]:
    """What a user would type in the study's directory to evaluate the backbone of `cell` on `target`."""
    tuned = _TUNED.fullmatch(evaluation)
    step = "probe" if evaluation.startswith("few-shot") else "finetune" if tuned else evaluation
    words = ["python", "-m", "transfer", step, "--model", f"backbones/{cell}", "--train", train, "--test", test]
    if few := _FEW.fullmatch(evaluation):
        words += ["--shots", few[1]]
    if tuned and tuned["head"]:
        words += ["--head", "probe"]
    if tuned and tuned["epochs"]:
        words += ["--epochs", tuned["epochs"]]
    if evaluation != "probe" and rests_on_features(evaluation):  # the probe's own place is the shared one
        words += ["--features", f"{place_of('probe', cell, target)}/features"]
    words += loader
    if step != "knn":
        words += ["--seed", str(seed)]
    return (*words, "--out", place_of(evaluation, cell, target))
