"""The evaluations of a study: their names, and the commands that run them. Pure functions, no files.

probe, knn, few-shot-K and probe-finetune use the same features of a backbone and target. They share one directory for
them and wait for the first of these evaluations, which computes the features.
"""

from __future__ import annotations

import re

from prune.runs.files import InputError

DEFAULT = ("probe",)
_FEW_SHOT = re.compile(r"few-shot-([1-9][0-9]*)")
_FINETUNE = re.compile(r"(?P<head>probe-)?finetune(-(?P<epochs>[1-9][0-9]*))?")
_FOLDERS = {"probe": "probes"}


def check_evaluation(name: str) -> None:
    """Raise `InputError` for an evaluation that does not exist."""
    if name not in ("probe", "knn") and not _FEW_SHOT.fullmatch(name) and not _FINETUNE.fullmatch(name):
        known = "probe, knn, few-shot-K, finetune, probe-finetune, and finetune-E for E epochs"
        raise InputError(f"--evaluations {name}: there are {known}")


def uses_features(name: str) -> bool:
    """Whether an evaluation reads the shared features of a backbone and target."""
    tuned = _FINETUNE.fullmatch(name)
    return tuned is None or tuned["head"] is not None


def finetuning_epochs(name: str, recipe: float) -> float:
    """Epochs that an evaluation fine-tunes for: those in its name, else `recipe`; 0 when it trains nothing."""
    tuned = _FINETUNE.fullmatch(name)
    if tuned is None:
        return 0.0
    return float(tuned["epochs"] or recipe)


def features_maker(evaluations: tuple[str, ...]) -> str | None:
    """The evaluation that computes the shared features: the first that uses them."""
    return next((name for name in evaluations if uses_features(name)), None)


def evaluation_place(evaluation: str, run: str, target: str) -> str:
    """Output of one evaluation, relative to the study's directory."""
    return f"{_FOLDERS.get(evaluation, evaluation)}/{run}/{target}"


def evaluation_command(
    evaluation: str, *, run: str, target: str, train: str, test: str, seed: int, loader: list[str]
) -> tuple[str, ...]:
    """What a user would type in the study's directory to evaluate the backbone of `run` on `target`."""
    tuned = _FINETUNE.fullmatch(evaluation)
    step = "probe" if evaluation.startswith("few-shot") else "finetune" if tuned else evaluation
    words = ["python", "-m", "transfer", step, "--model", f"backbones/{run}", "--train", train, "--test", test]
    if few := _FEW_SHOT.fullmatch(evaluation):
        words += ["--shots", few[1]]
    if tuned and tuned["head"]:
        words += ["--head", "probe"]
    if tuned and tuned["epochs"]:
        words += ["--epochs", tuned["epochs"]]
    if evaluation != "probe" and uses_features(evaluation):  # the probe's own directory is the shared one
        words += ["--features", f"{evaluation_place('probe', run, target)}/features"]
    words += loader
    if step != "knn":
        words += ["--seed", str(seed)]
    return (*words, "--out", evaluation_place(evaluation, run, target))
