"""The plan of a study: one command a line, in levels that depend on each other. Pure functions, no files.

    write betons -> surrogates (one per seed) -> features -> score -> select -> pretrain -> evaluate -> collect,
    report

Beside the chain stands `leaks`: which test images of the targets the source holds as well. Nothing but the report
follows from it.

Every command runs in the study's directory, so the plan stays true when the directory moves together with its images.
"""

from __future__ import annotations

from dataclasses import replace

from transfer.studies import search_steps
from transfer.studies.judging import evaluation_lines, ladder_lines
from transfer.studies.settings import EQUAL_TIME, Study, cell_name, cells, check
from transfer.studies.task import (
    FORWARD,
    TRAIN,
    WRITE,
    Line,
    epochs_of,
    half_of,
    loader_flags,
    needs_half,
    needs_source,
    read_plan,
    source_of,
)

__all__ = ["STEPS_LATER", "Line", "plan", "read_plan"]

STEPS_LATER = "{equal-time}"
"""Stands in a command until the costs that decide the number of steps are recorded; see `transfer.studies.costs`."""


def plan(study: Study, *, report: bool = True) -> list[Line]:
    """The lines of `study`, by level; within a level in the order of the chain."""
    check(study)
    lines = [*_write(study), *_surrogates(study), *_selections(study), *_leaks(study), *_backbones(study)]
    lines += [*evaluation_lines(study), *ladder_lines(study)]
    everything = tuple(line.name for line in lines)
    collect = ("python", "-m", "transfer", "study", "--out", ".", "--collect")
    lines.append(Line(0, "collect", "collect", collect, "results.json", everything))
    if report:
        show = ("python", "-m", "transfer", "report", "--study", ".")
        lines.append(Line(0, "report", "collect", show, "report.html", ("collect",)))
    return _levelled(lines)


def _levelled(lines: list[Line]) -> list[Line]:
    levels: dict[str, int] = {}
    for line in lines:  # a line stands after those that it needs
        levels[line.name] = max((levels[name] + 1 for name in line.needs), default=0)
    return sorted((replace(line, level=levels[line.name]) for line in lines), key=lambda line: line.level)


def _write(study: Study) -> list[Line]:
    def write(name: str, place: str, classes: str | None = None) -> Line:
        out = f"data/{name}.beton"
        command = ["python", "-m", "prune", "write", "--images", place, "--out", out]
        command += ["--side", str(study.side)] if study.side else []
        command += ["--classes", f"data/{classes}.manifest.npz"] if classes else []
        n = study.sizes.get(name, 0)
        needs = (f"write/{classes}",) if classes else ()
        return Line(0, f"write/{name}", "write", tuple(command), out, needs, {}, n, n * WRITE)

    lines = []
    if not study.source.train.endswith(".beton"):
        lines.append(write("source", study.source.train))
        if study.source.test:
            lines.append(write("source-val", study.source.test, "source"))
    for name, parts in study.targets.items():
        assert parts.test is not None
        if parts.train.endswith(".beton"):
            continue
        lines += [write(f"{name}.train", parts.train), write(f"{name}.test", parts.test, f"{name}.train")]
    return lines


def _surrogates(study: Study) -> list[Line]:
    """Surrogate, features and scores, for each seed; none when no method looks at them."""
    if not study.prunes:
        return []
    lines = []
    n, epochs = study.sizes.get("source", 0), epochs_of(study, study.surrogate_recipe, study.surrogate_epochs)
    betons = [source_of(study), *(half_of(study, name, "train") for name in study.guides)]
    stems = [_stem(beton) for beton in betons]
    seen = n + sum(study.sizes.get(f"{name}.train", 0) for name in study.guides)
    for seed in study.seeds:
        model, features, scores = f"surrogates/s{seed}", f"features/s{seed}", f"scores/s{seed}.scores.npz"
        command = ["python", "-m", "pretrain", "--beton", betons[0], "--recipe", study.surrogate_recipe]
        command += ["--sample", f"{study.surrogate_sample:g}"] if study.surrogate_sample < 1 else []
        command += ["--epochs", f"{study.surrogate_epochs:g}"] if study.surrogate_epochs else []
        command += [*loader_flags(study), "--seed", str(seed), "--out", model]
        trained = round(n * study.surrogate_sample * epochs)
        lines.append(
            Line(0, f"surrogate/s{seed}", "surrogate", tuple(command), model, needs_source(study), {"seed": seed},
                 trained, trained * TRAIN)
        )  # fmt: skip
        extract = ["python", "-m", "prune", "features", "--model", model, "--betons", *betons]
        extract += [*loader_flags(study), "--out", features]
        needs = (f"surrogate/s{seed}", *(need for name in study.guides for need in needs_half(study, name, "train")))
        lines.append(
            Line(0, f"features/s{seed}", "features", tuple(extract), features, needs, {"seed": seed},
                 seen, seen * FORWARD)
        )  # fmt: skip
        files = [f"{features}/{stem}.features.npz" for stem in stems]
        score = ("python", "-m", "prune", "score", "--source", files[0], "--targets", *files[1:], "--out", scores)
        lines.append(Line(0, f"score/s{seed}", "score", score, scores, (f"features/s{seed}",), {"seed": seed}))
    return lines


def _selections(study: Study) -> list[Line]:
    lines = []
    for method, keep, seed in dict.fromkeys([*cells(study), *search_steps.conditions(study)]):
        if method in ("full", EQUAL_TIME):
            continue
        name = cell_name(method, keep, seed)
        manifest = source_of(study).removesuffix(".beton") + ".manifest.npz"
        given = ["--manifest", manifest] if method == "random" else ["--scores", f"scores/s{seed}.scores.npz"]
        command = ["python", "-m", "prune", "select", *given, "--method", method, "--keep", f"{keep:g}"]
        command += ["--floor", f"{study.floor:g}"] if study.floor is not None and method == "winnow" else []
        out = f"indices/{name}.index.npz"
        command += ["--seed", str(seed), "--out", out]
        needs = needs_source(study) if method == "random" else (f"score/s{seed}",)
        facts = {"method": method, "keep": keep, "seed": seed}
        lines.append(Line(0, f"select/{name}", "select", tuple(command), out, needs, facts))
    return lines


def _leaks(study: Study) -> list[Line]:
    """Features of every target's test images by the first surrogate, compared with the source's; none without one.

    Lines of their own: what scores and selects never sees a test image, and a target that comes later changes no line.
    """
    if not study.prunes:
        return []
    lines = []
    seed = study.seeds[0]
    source = _stem(source_of(study))
    for target in study.targets:
        beton, n = half_of(study, target, "test"), study.sizes.get(f"{target}.test", 0)
        features, facts = f"leaks/{target}", {"seed": seed, "target": target}
        extract = ["python", "-m", "prune", "features", "--model", f"surrogates/s{seed}", "--betons", beton]
        extract += [*loader_flags(study), "--out", features]
        needs = (f"surrogate/s{seed}", *needs_half(study, target, "test"))
        name = f"test-features/{target}"
        lines.append(Line(0, name, "leaks", tuple(extract), features, needs, facts, n, n * FORWARD))
        compare = ["python", "-m", "prune", "leaks", "--source", f"features/s{seed}/{source}.features.npz"]
        compare += ["--tests", f"{features}/{_stem(beton)}.features.npz", "--out", f"{features}/leaks.json"]
        needs = (f"features/s{seed}", name)
        lines.append(Line(0, f"leaks/{target}", "leaks", tuple(compare), f"{features}/leaks.json", needs, facts))
    return lines


def _stem(beton: str) -> str:
    return beton.rsplit("/", 1)[-1].removesuffix(".beton")


def _backbones(study: Study) -> list[Line]:
    lines = []
    n, epochs = study.sizes.get("source", 0), epochs_of(study, study.recipe, study.epochs)
    for method, keep, seed in cells(study):
        name = cell_name(method, keep, seed)
        command = ["python", "-m", "pretrain", "--beton", source_of(study)]
        needs = list(needs_source(study))
        if method != "full":
            chosen = cell_name("random", keep, seed) if method == EQUAL_TIME else name
            command += ["--index", f"indices/{chosen}.index.npz"]
            needs = [f"select/{chosen}"]
        command += ["--recipe", study.recipe]
        if method == EQUAL_TIME:
            command += ["--steps", STEPS_LATER]
            needs.append(f"pretrain/{chosen}")
            needs += [f"surrogate/s{seed}", f"features/s{seed}"]
        elif study.epochs:
            command += ["--epochs", f"{study.epochs:g}"]
        if study.source.test and needs_source(study):
            command += ["--val", "data/source-val.beton"]
            needs.append("write/source-val")
        out = f"backbones/{name}"
        command += [*loader_flags(study), "--seed", str(seed), "--out", out]
        seen = round(n * keep * epochs)
        facts = {"method": method, "keep": keep, "seed": seed}
        lines.append(
            Line(0, f"pretrain/{name}", "pretrain", tuple(command), out, tuple(needs), facts, seen, seen * TRAIN)
        )
    return lines
