"""The part of a study's plan that judges: evaluations of the backbones, and the cheap ladder of `--keep auto`."""

from __future__ import annotations

from transfer.studies import evaluations, search_steps
from transfer.studies.settings import Study, cell_name, cells
from transfer.studies.task import (
    FORWARD,
    TRAIN,
    Line,
    epochs_of,
    half_of,
    loader_flags,
    needs_half,
    needs_source,
    source_of,
)


def evaluation_lines(study: Study) -> list[Line]:
    """One line per cell, target and evaluation; the first that rests on features computes them for the others."""
    maker = evaluations.maker(study.evaluations)
    lines = []
    for method, keep, seed in cells(study):
        cell = cell_name(method, keep, seed)
        for target in study.targets:
            for evaluation in study.evaluations:
                facts = {"method": method, "keep": keep, "seed": seed, "target": target, "evaluation": evaluation}
                needs = [f"pretrain/{cell}", *needs_half(study, target, "test")]
                if evaluation != maker and evaluations.rests_on_features(evaluation):
                    needs.append(f"{maker}/{cell}/{target}")
                command = evaluations.command(
                    evaluation, cell=cell, target=target, train=half_of(study, target, "train"),
                    test=half_of(study, target, "test"), seed=seed, loader=loader_flags(study),
                )  # fmt: skip
                out = evaluations.place_of(evaluation, cell, target)
                seen, cost = _evaluated(study, target, evaluation, evaluation == maker)
                name = f"{evaluation}/{cell}/{target}"
                lines.append(Line(0, name, "evaluate", command, out, tuple(needs), facts, seen, cost))
    return lines


def _evaluated(study: Study, target: str, evaluation: str, makes: bool) -> tuple[int, float]:
    """Images that an evaluation sees, and its cost in forward passes."""
    train, test = (study.sizes.get(f"{target}.{half}", 0) for half in ("train", "test"))
    from transfer.evaluation.finetune_recipes import RECIPES, size_of

    epochs = evaluations.epochs_of_tuning(evaluation, RECIPES[size_of(train)].epochs)
    if not epochs:
        return (train + test, (train + test) * FORWARD) if makes else (0, 0.0)
    seen = round(train * epochs)
    return seen + test, seen * TRAIN + test * FORWARD


def ladder_lines(study: Study) -> list[Line]:
    """The cheap ladder of `--keep auto`: the surrogate's recipe on every rung, probed on every target."""
    lines = []
    n, epochs = study.sizes.get("source", 0), epochs_of(study, study.surrogate_recipe, study.surrogate_epochs)
    for method, keep, seed in search_steps.conditions(study):
        cell = cell_name(method, keep, seed)
        command = ["python", "-m", "pretrain", "--beton", source_of(study)]
        command += [] if method == "full" else ["--index", f"indices/{cell}.index.npz"]
        command += ["--recipe", study.surrogate_recipe]
        command += ["--epochs", f"{study.surrogate_epochs:g}"] if study.surrogate_epochs else []
        out = f"ladder/{cell}"
        command += [*loader_flags(study), "--seed", str(seed), "--out", out]
        needs = needs_source(study) if method == "full" else (f"select/{cell}",)
        facts = {"method": method, "keep": keep, "seed": seed}
        seen = round(n * keep * epochs)
        lines.append(Line(0, out, "search", tuple(command), out, needs, facts, seen, seen * TRAIN))
        for target in study.targets:
            place = f"ladder/probes/{cell}/{target}"
            words = ["python", "-m", "transfer", "probe", "--model", out, "--train", half_of(study, target, "train")]
            words += [
                "--test",
                half_of(study, target, "test"),
                *loader_flags(study),
                "--seed",
                str(seed),
                "--out",
                place,
            ]
            above = (out, *needs_half(study, target, "test"))
            seen, cost = _evaluated(study, target, "probe", True)
            lines.append(Line(0, place, "search", tuple(words), place, above, {**facts, "target": target}, seen, cost))
    return lines
