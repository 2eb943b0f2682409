"""The evaluations of a study: their names, and the commands that make them. Pure functions, no files.

probe, knn, few-shot-K and probe-finetune rest on the same features of a backbone and target: they share one directory,
and wait for the first of them, which computes what lies there.
"""

from __future__ import annotations

import re

from prune.run import InputError

DEFAULT = ("probe",)
_FEW = re.compile(r"few-shot-([1-9][0-9]*)")
_FOLDERS = {"probe": "probes"}


def check_name(name: str) -> None:
    """Raise `InputError` for an evaluation that does not exist."""
    if name not in ("probe", "knn", "finetune", "probe-finetune") and not _FEW.fullmatch(name):
        raise InputError(f"--evaluations {name}: there are probe, knn, few-shot-K, finetune, probe-finetune")


def rests_on_features(name: str) -> bool:
    """Whether an evaluation reads the shared features of a backbone and target."""
    return name != "finetune"


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
    step = "probe" if evaluation.startswith("few-shot") else "finetune" if "finetune" in evaluation else evaluation
    words = ["python", "-m", "transfer", step, "--model", f"backbones/{cell}", "--train", train, "--test", test]
    if few := _FEW.fullmatch(evaluation):
        words += ["--shots", few[1]]
    if evaluation == "probe-finetune":
        words += ["--head", "probe"]
    if evaluation not in ("probe", "finetune"):  # the probe's own place is the shared one
        words += ["--features", f"{place_of('probe', cell, target)}/features"]
    words += loader
    if step != "knn":
        words += ["--seed", str(seed)]
    return (*words, "--out", place_of(evaluation, cell, target))
