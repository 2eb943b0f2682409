"""The plan of a study: its tasks, in levels that depend on each other. Pure functions, no files.

    write betons -> surrogates (one per seed) -> features -> score -> select -> pretrain -> evaluate -> collect, report

With a gate, `write betons -> gate` comes first: thumbnails, their scores, and the index of what passes (`cascade`).
Beside this chain `leaks` finds which test images of the targets the source also contains; only the report uses it.
With `--keep auto`, small networks (the ladder, stage `search`) predict the keep.

Every command runs in the study's directory, so the plan stays valid when the directory moves together with its images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfer.studies import cascade, evaluations
from transfer.studies.candidates import check_candidates, folder_of, with_surrogate
from transfer.studies.ladder import ladder_runs
from transfer.studies.settings import Study, check_study, run_name, runs_of
from transfer.studies.task import STEPS_LATER, Task, relocated
from transfer.verdicts.controls import (
    CONTROLS,
    EQUALS,
    FULL_EQUAL,
    FULL_LENGTH,
    RANDOM_EQUALS,
    WITHOUT_SURROGATE,
    needs_surrogate,
)

CURVE = (0.25, 0.5)
"""Lengths at which small networks on all data are trained as well where a surrogate is chosen."""
WRITE, FORWARD, TRAIN = 0.1, 1.0, 3.0  # cost of an image in forward passes: only shares of the whole matter


def plan_of(study: Study, *, report: bool = True) -> list[Task]:
    """The tasks of `study`, by level; within a level in the order of the chain."""
    check_study(study)
    check_candidates(study)
    tasks = [*_write(study), *_gate(study), *_candidates(study)]
    if study.surrogates and study.surrogate is None:  # all data alone can run before the surrogate is chosen
        study = replace(study, methods=("full",), keeps=(), compute=None)
    else:
        study = with_surrogate(study, study.surrogate)
    tasks += [*_surrogates(study), *_selections(study), *_leaks(study), *_backbones(study), *_evaluations(study)]
    tasks += _ladder(study) if not study.surrogates else []  # the search for a surrogate has its own
    everything = tuple(task.name for task in tasks)
    collect = ("python", "-m", "transfer", "study", "--out", ".", "--collect")
    tasks.append(Task(0, "collect", "collect", collect, "results.json", everything))
    if report:
        show = ("python", "-m", "transfer", "report", "--study", ".")
        tasks.append(Task(0, "report", "collect", show, "report.html", ("collect",)))
    return _with_levels(tasks)


def _with_levels(tasks: list[Task]) -> list[Task]:
    levels: dict[str, int] = {}
    for task in tasks:  # a task comes after those that it needs
        levels[task.name] = max((levels[name] + 1 for name in task.needs), default=0)
    return sorted((replace(task, level=levels[task.name]) for task in tasks), key=lambda task: task.level)


def _write(study: Study) -> list[Task]:
    def write(name: str, place: str, classes: str | None = None) -> Task:
        out = f"data/{name}.beton"
        command = ["python", "-m", "prune", "write", "--images", place, "--out", out]
        command += ["--side", str(study.side)] if study.side else []
        command += ["--classes", f"data/{classes}.manifest.npz"] if classes else []
        n = study.sizes.get(name, 0)
        needs = (f"write/{classes}",) if classes else ()
        return Task(0, f"write/{name}", "write", tuple(command), out, needs, {}, n, n * WRITE)

    tasks = []
    if not study.source.train.endswith(".beton"):
        tasks.append(write("source", study.source.train))
        if study.source.test:
            tasks.append(write("source-val", study.source.test, "source"))
    for name, splits in study.targets.items():
        assert splits.test is not None
        if splits.train.endswith(".beton"):
            continue
        tasks += [write(f"{name}.train", splits.train), write(f"{name}.test", splits.test, f"{name}.train")]
    return tasks


def _gate(study: Study) -> list[Task]:
    """Thumbnails, their odds of looking like the targets, and the index of what passes, where any method needs them.

    A thumbnail costs what writing an image does: it is decoded, and no network sees it.
    """
    if not study.compares_thumbnails:
        return []
    betons = _guiding_betons(study)
    seen = sum(study.sizes.get(name, 0) for name in ("source", *(f"{guide}.train" for guide in study.guides)))
    describe = ["python", "-m", "prune", "features", "--thumbnail", "--betons", *betons, "--out", cascade.THUMBNAILS]
    files = [f"{cascade.THUMBNAILS}/{_stem(beton)}.features.npz" for beton in betons]
    score = ["python", "-m", "prune", "score", "--source", files[0], "--targets", *files[1:]]
    score += ["--also", "domain", "--out", cascade.SCORES]
    select = ["python", "-m", "prune", "select", "--scores", cascade.SCORES, "--method", "gate"]
    select += ["--gate", cascade.selection_gate(study.gate), "--out", cascade.INDEX]
    needs = (*_needs_source(study), *_needs_guides(study))
    tasks = [
        Task(0, "gate/thumbnails", "gate", tuple(describe), cascade.THUMBNAILS, needs, {}, seen, seen * WRITE),
        Task(0, "gate/score", "gate", tuple(score), cascade.SCORES, ("gate/thumbnails",)),
        Task(0, "gate/index", "gate", tuple(select), cascade.INDEX, ("gate/score",)),
    ]
    return tasks if study.gated else tasks[:2]  # behind an open gate nothing is shut out


def _surrogates(study: Study) -> list[Task]:
    """Surrogate, features and scores for each seed; empty when no method needs them."""
    if not study.trains_surrogates:
        return []
    tasks = []
    n, epochs = study.sizes.get("source", 0), _epochs(study, study.surrogate_recipe, study.surrogate_epochs)
    betons, gated = _guiding_betons(study), study.gated
    stems = [_stem(beton) for beton in betons]
    n = round(n * cascade.passing_share(study.gate)) if gated else n
    index = ["--index", cascade.INDEX] if gated else []
    seen = round(n * study.feature_sample) + sum(study.sizes.get(f"{name}.train", 0) for name in study.guides)
    for seed in study.seeds:
        model, features, scores = f"surrogates/s{seed}", f"features/s{seed}", f"scores/s{seed}.scores.npz"
        command = ["python", "-m", "pretrain", "--beton", betons[0], *index, "--recipe", study.surrogate_recipe]
        command += ["--sample", f"{study.surrogate_sample:g}"] if study.surrogate_sample < 1 else []
        command += ["--epochs", f"{study.surrogate_epochs:g}"] if study.surrogate_epochs else []
        command += [*_loader_flags(study), "--seed", str(seed), "--out", model]
        trained = round(n * study.surrogate_sample * epochs)
        if study.surrogate_model is not None:  # nothing to train: its features are a pass over the images
            arch, weights = study.surrogate_model
            command = ["python", "-m", "prune", "surrogate", "--arch", arch]
            command += [*(["--weights", weights] if weights else []), "--out", model]
            trained = 0
        needs = ("gate/index",) if gated else _needs_source(study)
        facts = {"seed": seed}
        tasks.append(
            Task(0, f"surrogate/s{seed}", "surrogate", tuple(command), model, needs, facts, trained, trained * TRAIN)
        )
        extract = ["python", "-m", "prune", "features", "--model", model, "--betons", *betons, *index]
        extract += ["--sample", f"{study.feature_sample:g}", "--seed", str(seed)] if study.feature_sample < 1 else []
        extract += [*_loader_flags(study), "--out", features]
        needs = (f"surrogate/s{seed}", *_needs_guides(study))
        tasks.append(
            Task(0, f"features/s{seed}", "features", tuple(extract), features, needs, facts, seen, seen * FORWARD)
        )
        files = [f"{features}/{stem}.features.npz" for stem in stems]
        score = ["python", "-m", "prune", "score", "--source", files[0], "--targets", *files[1:]]
        score += ["--gate", cascade.SCORES] if gated else []
        score += ["--out", scores]
        tasks.append(Task(0, f"score/s{seed}", "score", tuple(score), scores, (f"features/s{seed}",), {"seed": seed}))
    return tasks


def _selections(study: Study) -> list[Task]:
    tasks = []
    for method, keep, seed in dict.fromkeys([*runs_of(study), *_ladder_runs(study)]):
        if method in CONTROLS and method != "random":
            continue
        name = run_name(method, keep, seed)
        manifest = _source_beton(study).removesuffix(".beton") + ".manifest.npz"
        by_thumbnails = method in WITHOUT_SURROGATE
        scores = cascade.SCORES if by_thumbnails else f"scores/s{seed}.scores.npz"
        given = ["--manifest", manifest] if method == "random" else ["--scores", scores]
        command = ["python", "-m", "prune", "select", *given, "--method", method, "--keep", f"{keep:g}"]
        command += ["--gate", cascade.selection_gate(study.gate)] if study.gated and method != "random" else []
        command += ["--floor", f"{study.floor:g}"] if study.floor is not None and method == "winnow" else []
        out = f"indices/{name}.index.npz"
        command += ["--seed", str(seed), "--out", out]
        needs: tuple[str, ...] = ("gate/score",) if by_thumbnails else (f"score/s{seed}",)
        needs = _needs_source(study) if method == "random" else needs
        facts = {"method": method, "keep": keep, "seed": seed}
        tasks.append(Task(0, f"select/{name}", "select", tuple(command), out, needs, facts))
    return tasks


def _leaks(study: Study) -> list[Task]:
    """Features of every target's test images by the first surrogate, compared with the source's; empty without one.

    These tasks are separate: the ones that score and select never see a test image, and a target that is added later
    changes no existing task.
    """
    if not study.trains_surrogates:
        return []
    tasks = []
    seed = study.seeds[0]
    source = _stem(_source_beton(study))
    for target in study.targets:
        beton, n = _split_beton(study, target, "test"), study.sizes.get(f"{target}.test", 0)
        features, facts = f"leaks/{target}", {"seed": seed, "target": target}
        extract = ["python", "-m", "prune", "features", "--model", f"surrogates/s{seed}", "--betons", beton]
        extract += [*_loader_flags(study), "--out", features]
        needs = (f"surrogate/s{seed}", *_needs_split(study, target, "test"))
        name = f"test-features/{target}"
        tasks.append(Task(0, name, "leaks", tuple(extract), features, needs, facts, n, n * FORWARD))
        compare = ["python", "-m", "prune", "leaks", "--source", f"features/s{seed}/{source}.features.npz"]
        compare += ["--tests", f"{features}/{_stem(beton)}.features.npz", "--out", f"{features}/leaks.json"]
        needs = (f"features/s{seed}", name)
        tasks.append(Task(0, f"leaks/{target}", "leaks", tuple(compare), f"{features}/leaks.json", needs, facts))
    return tasks


def _backbones(study: Study) -> list[Task]:
    tasks = []
    n, epochs = study.sizes.get("source", 0), _epochs(study, study.recipe, study.epochs)
    for method, keep, seed in runs_of(study):
        name = run_name(method, keep, seed)
        command = ["python", "-m", "pretrain", "--beton", _source_beton(study)]
        needs = list(_needs_source(study))
        if method not in ("full", FULL_EQUAL, FULL_LENGTH):
            selection = run_name("random", keep, seed) if method in RANDOM_EQUALS else name
            command += ["--index", f"indices/{selection}.index.npz"]
            needs = [f"select/{selection}"]
        command += ["--recipe", study.recipe]
        facts = {"method": method, "keep": keep, "seed": seed}
        if method in EQUALS:
            command += ["--steps", STEPS_LATER]
            needs += _equal_compute(study, method, keep, seed)
            needs += [f"surrogate/s{seed}", f"features/s{seed}"] if study.trains_surrogates else []
            facts |= {"uses": study.uses} if study.uses != 1 else {}
        elif study.compute and method not in ("full", FULL_LENGTH):
            command += ["--steps", STEPS_LATER]
            needs += _whole_run(study, method, seed)
            facts |= _compute_facts(study)
        elif study.epochs or method == FULL_LENGTH:
            command += ["--epochs", f"{epochs * (keep if method == FULL_LENGTH else 1):g}"]
        command += ["--init", study.init] if study.init else []
        if study.source.test and _needs_source(study):
            command += ["--val", "data/source-val.beton"]
            needs.append("write/source-val")
        out = f"backbones/{name}"
        command += [*_loader_flags(study), "--seed", str(seed), "--out", out]
        seen = round(n * _length(study, method, keep) * epochs)
        tasks.append(
            Task(0, f"pretrain/{name}", "pretrain", tuple(command), out, tuple(needs), facts, seen, seen * TRAIN)
        )
    return tasks


def _length(study: Study, method: str, keep: float) -> float:
    """Images that a run sees, as a share of those of full data; an estimate where the surrogate's cost decides it."""
    return study.compute if study.compute and method not in ("full", FULL_LENGTH) else keep


def _whole_run(study: Study, method: str, seed: int) -> list[str]:
    """What decides the length of a run of given total compute: the run on full data, and the surrogate it needs."""
    before = [f"surrogate/s{seed}", f"features/s{seed}"] if needs_surrogate(method) else []
    return [f"pretrain/{run_name('full', 1.0, seed)}", *before]


def _compute_facts(study: Study) -> dict[str, Any]:
    return {"compute": study.compute, **({"uses": study.uses} if study.uses != 1 else {})}


def _equal_compute(study: Study, method: str, keep: float, seed: int) -> list[str]:
    """The pretraining whose steps a control of equal compute changes; then the one whose cost it takes, if another."""
    if method in RANDOM_EQUALS:
        return [f"pretrain/{run_name('random', keep, seed)}"]
    alike = "random" if "random" in study.methods else next(m for m in study.methods if m not in CONTROLS)
    return [f"pretrain/{run_name('full', 1.0, seed)}", f"pretrain/{run_name(alike, keep, seed)}"]


def _evaluations(study: Study) -> list[Task]:
    """One task per run, target and evaluation; the first that uses features computes them for the others."""
    maker = evaluations.features_maker(study.evaluations)
    tasks = []
    for method, keep, seed in runs_of(study):
        run = run_name(method, keep, seed)
        for target in study.targets:
            for evaluation in study.evaluations:
                facts = {"method": method, "keep": keep, "seed": seed, "target": target, "evaluation": evaluation}
                needs = [f"pretrain/{run}", *_needs_split(study, target, "test")]
                if evaluation != maker and evaluations.uses_features(evaluation):
                    needs.append(f"{maker}/{run}/{target}")
                command = evaluations.evaluation_command(
                    evaluation, run=run, target=target, train=_split_beton(study, target, "train"),
                    test=_split_beton(study, target, "test"), seed=seed, loader=_loader_flags(study),
                )  # fmt: skip
                out = evaluations.evaluation_place(evaluation, run, target)
                seen, cost = _evaluation_cost(study, target, evaluation, evaluation == maker)
                name = f"{evaluation}/{run}/{target}"
                tasks.append(Task(0, name, "evaluate", command, out, tuple(needs), facts, seen, cost))
    return tasks


def _evaluation_cost(study: Study, target: str, evaluation: str, makes_features: bool) -> tuple[int, float]:
    """Images that an evaluation sees, and its cost in forward passes."""
    train, test = (study.sizes.get(f"{target}.{split}", 0) for split in ("train", "test"))
    from transfer.evaluation.finetune_recipes import RECIPES, size_of

    epochs = evaluations.finetuning_epochs(evaluation, RECIPES[size_of(train)].epochs)
    if not epochs:
        return (train + test, (train + test) * FORWARD) if makes_features else (0, 0.0)
    seen = round(train * epochs)
    return seen + test, seen * TRAIN + test * FORWARD


def _candidates(study: Study) -> list[Task]:
    """The search for a surrogate: each trains small networks on what it selects, at every keep and with the first seed.

    What belongs to one surrogate lies in a directory of its own; the small networks on all data serve all.
    """
    if not study.surrogates:
        return []
    first = next(method for method in study.methods if needs_surrogate(method))
    ladder, seeds = study.ladder or study.keeps, study.seeds[:1]
    base = replace(study, methods=("full", first), keeps=(), seeds=seeds, ladder=ladder, full_lengths=())
    tasks: dict[str, Task] = {}
    for text in study.surrogates:
        one = with_surrogate(base, text)
        own = [*_surrogates(one), *_selections(one), *_ladder(one, study.surrogate_recipe, CURVE)]
        shared = [task for task in own if task.facts.get("method") in ("full", FULL_LENGTH)]
        tasks |= {task.name: task for task in shared}
        tasks |= {task.name: task for task in relocated([t for t in own if t not in shared], folder_of(text))}
    return list(tasks.values())


def _ladder(study: Study, recipe: str = "", lengths: Sequence[float] = ()) -> list[Task]:
    """The small networks of a search: a recipe at every keep, probed on every target.

    `recipe` is the surrogate's when empty; all data are also trained for the shares `lengths` of the full length.
    """
    tasks = []
    recipe = recipe or study.surrogate_recipe
    n, epochs = study.sizes.get("source", 0), _epochs(study, recipe, study.surrogate_epochs)
    runs = [*_ladder_runs(study), *((FULL_LENGTH, length, study.seeds[0]) for length in lengths)]
    for method, keep, seed in runs:
        run, is_full = run_name(method, keep, seed), method in ("full", FULL_LENGTH)
        command = ["python", "-m", "pretrain", "--beton", _source_beton(study)]
        command += [] if is_full else ["--index", f"indices/{run}.index.npz"]
        command += ["--recipe", recipe]
        needs = _needs_source(study) if is_full else (f"select/{run}",)
        facts: dict[str, Any] = {"method": method, "keep": keep, "seed": seed}
        if method == FULL_LENGTH:
            command += ["--epochs", f"{epochs * keep:g}"]
        elif study.compute and method != "full":
            command += ["--steps", STEPS_LATER]
            needs += (f"ladder/{run_name('full', 1.0, seed)}", *_whole_run(study, method, seed))
            facts |= _compute_facts(study)
        elif study.surrogate_epochs:
            command += ["--epochs", f"{study.surrogate_epochs:g}"]
        out = f"ladder/{run}"
        command += [*_loader_flags(study), "--seed", str(seed), "--out", out]
        seen = round(n * _length(study, method, keep) * epochs)
        tasks.append(Task(0, out, "search", tuple(command), out, needs, facts, seen, seen * TRAIN))
        for target in study.targets:
            place = f"ladder/probes/{run}/{target}"
            train, test = (_split_beton(study, target, split) for split in ("train", "test"))
            probe = ["python", "-m", "transfer", "probe", "--model", out, "--train", train, "--test", test]
            probe += [*_loader_flags(study), "--seed", str(seed), "--out", place]
            needs = (out, *_needs_split(study, target, "test"))
            seen, cost = _evaluation_cost(study, target, "probe", True)
            tasks.append(Task(0, place, "search", tuple(probe), place, needs, {**facts, "target": target}, seen, cost))
    return tasks


def _ladder_runs(study: Study) -> Sequence[tuple[str, float, int]]:
    return ladder_runs(study.methods, study.ladder, study.seeds)


def _source_beton(study: Study) -> str:
    return study.source.train if study.source.train.endswith(".beton") else "data/source.beton"


def _guiding_betons(study: Study) -> list[str]:
    """Betons of the source and of the guiding targets' train splits."""
    return [_source_beton(study), *(_split_beton(study, name, "train") for name in study.guides)]


def _needs_guides(study: Study) -> tuple[str, ...]:
    return tuple(need for name in study.guides for need in _needs_split(study, name, "train"))


def _needs_source(study: Study) -> tuple[str, ...]:
    return () if study.source.train.endswith(".beton") else ("write/source",)


def _split_beton(study: Study, target: str, split: str) -> str:
    """Beton of a target's train or test split: the given one, or the one that the study writes."""
    place = getattr(study.targets[target], split)
    return place if place.endswith(".beton") else f"data/{target}.{split}.beton"


def _needs_split(study: Study, target: str, split: str) -> tuple[str, ...]:
    return () if getattr(study.targets[target], split).endswith(".beton") else (f"write/{target}.{split}",)


def _epochs(study: Study, recipe: str, given: float | None) -> float:
    return given or study.recipe_epochs.get(recipe, 1)


def _loader_flags(study: Study) -> list[str]:
    return ["--loader", study.loader] if study.loader else []


def _stem(beton: str) -> str:
    from prune.data.dataset import dataset_name

    return dataset_name(Path(beton))
