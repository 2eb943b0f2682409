"""How small a fine-tuned network gets before its accuracy falls: with acceptance tests, without, by three criteria.

    python tests/benchmarks/compress.py --data data --work work/compress --out tests/benchmarks/results/compress.md
    python tests/benchmarks/compress.py --only small-rn18-cifar10-0 ...       (one original and its runs)
    python tests/benchmarks/compress.py --only table --latency ...            (the page, from finished runs)
    python tests/benchmarks/compress.py --heads --out tests/benchmarks/results/compress-heads.md ...   (see below)

DATA holds cifar10/ and flowers5/ with train/ and test/; --init names model directories to fine-tune from, one a recipe
and seed, as in inits/{recipe}-{seed}; where there is none, training starts from random weights.
A fifth of every class's training images is held out: the preservation set is chosen from it, and neither the original
nor the training after a step uses it. --margins sets the acceptance test: points that may be lost, and epochs of
training after each step. On one slow core an original of `tiny` with two margins and all controls takes 15 minutes, of
`tiny-vit` 10, of `small-rn18` with margin 1:3 45; on a GPU, not measured, some minutes each. Every command resumes.

--heads is a page of its own: whole attention heads against thinner heads at equal latency in a small vision
transformer, and a small ConvNeXt, both on 4,000 images of DATA/digits; four minutes of one core a seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from published import END, REMARKS, made_here, publish

from pretrain.recipes import RECIPES
from prune.data.dataset import open_dataset
from prune.index.provenance import record
from prune.index.pruned_index import PrunedIndex
from prune.models import networks
from prune.models.pruned_widths import is_attention
from prune.runs.command_line import run_step
from prune.runs.files import InputError, note, read_json, write_json
from transfer.compression import acceptance, journal, onnx_model
from transfer.evaluation import image_arrays

TARGETS = ("cifar10", "flowers5")
CONTROLS = ("data", "magnitude", "random")
PASSES = 5
"""Passes of latency measurement: a shared host's speed drifts within seconds."""
SMALLEST = 0.2
"""Share of the parameters at which every run ends."""


@dataclass(frozen=True)
class Case:
    """One original: target, recipe and seed."""

    target: str
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.recipe}-{self.target}-{self.seed}"


def cases(arguments: argparse.Namespace) -> list[Case]:
    """The ResNets with every seed, the vision transformer with one."""
    found = [Case(t, r, s) for r in arguments.recipes for t in TARGETS for s in arguments.seeds]
    return found + [Case(t, "tiny-vit", arguments.seeds[0]) for t in TARGETS]


def step(command: str, module: str, *words: Any) -> None:
    """Run a command in this process: importing torch again would take longer than many steps."""
    if code := run_step(command, module, [str(word) for word in words]):
        sys.exit(code)


def prepare(data: Path, work: Path, target: str) -> None:
    """Write betons, and indices of the training images that are trained on and of those that are held out."""
    train, test = work / f"{target}.train.beton", work / f"{target}.test.beton"
    if not train.exists():
        step("prune write", "prune.write", "--images", data / target / "train", "--out", train)
    if not test.exists():
        names = train.with_suffix(".manifest.npz")
        step("prune write", "prune.write", "--images", data / target / "test", "--classes", names, "--out", test)
    manifest = open_dataset(train).manifest
    draw, held = np.random.default_rng(0), np.zeros(len(manifest), bool)
    for c in range(len(manifest.classes)):
        rows = np.flatnonzero(np.asarray(manifest.labels) == c)
        held[draw.permutation(rows)[: round(0.2 * len(rows))]] = True
    for name, mask in (("pool", held), ("rest", ~held)):
        entry = record("split", {"share": 0.2, "seed": 0, "part": name}, {"source": manifest.fingerprint})
        place = work / f"{target}.{name}.index.npz"
        if not place.exists():
            PrunedIndex.from_rows(manifest, np.flatnonzero(mask), provenance=[entry]).save(place)


def train(case: Case, out: Path, work: Path, epochs: float, init: Path | None) -> None:
    """Train on the target's images that are not held out."""
    words = ["--beton", work / f"{case.target}.train.beton", "--index", work / f"{case.target}.rest.index.npz"]
    words += ["--recipe", case.recipe, "--epochs", epochs, "--seed", case.seed, "--out", out]
    words += ["--val", work / f"{case.target}.test.beton", "--loader", "torch", "--workers", 1, "--threads", 1]
    step("pretrain", "pretrain.train", *words, *(["--init", init] if init else []))


def original(case: Case, arguments: argparse.Namespace) -> None:
    """Fine-tune the network to be compressed."""
    init = Path(arguments.init.format(recipe=case.recipe, seed=case.seed))
    place = arguments.work / "originals" / case.name
    train(case, place, arguments.work, arguments.epochs, init if arguments.init and init.exists() else None)


def trained_longer(case: Case, compressed: Path, recovery: float, work: Path) -> None:
    """Train the original for as many epochs as followed the accepted steps, and remove nothing."""
    lines = journal.read_journal(compressed)
    kept = [line for line in lines if line["verdict"] == journal.ACCEPTED and line["kind"] in journal.SHRINKING]
    if kept:
        train(case, work / "longer" / case.name, work, recovery * len(kept), work / "originals" / case.name)


def compress(case: Case, name: str, arguments: argparse.Namespace, recovery: float, *flags: Any) -> Path:
    """One compression of an original; its run directory."""
    work, out = arguments.work, arguments.work / "runs" / f"{case.name}-{name}"
    chosen = work / f"{case.name}.preserve.index.npz"
    train, model = work / f"{case.target}.train.beton", work / "originals" / case.name
    pool, rest = (work / f"{case.target}.{part}.index.npz" for part in ("pool", "rest"))
    if not chosen.exists():
        words = ["--model", model, "--train", train, "--index", pool, "--size", arguments.preserve, "--out", chosen]
        step("transfer preserve", "transfer.preserve", *words)
    shared = ["--model", model, "--train", train, "--preserve", chosen, "--index", rest, "--out", out]
    shared += ["--seed", case.seed, "--threads", 1, "--workers", 1, "--recovery-epochs", recovery]
    step("transfer compress", "transfer.compress", *shared, "--latency", "none", *flags)
    return out


@dataclass(frozen=True)
class Margins:
    """The acceptance test: points that may be lost on the preservation set, and epochs of training after each step."""

    margin: float
    recovery: float

    @property
    def name(self) -> str:
        return f"guarded-{self.margin:g}-{self.recovery:g}"  # part of the names of earlier runs' directories

    def __str__(self) -> str:
        return f"margin {self.margin:g}, recovery {self.recovery:g}"


def margins_of(word: str) -> Margins:
    """MARGIN:EPOCHS, as in 1:3."""
    return Margins(*map(float, word.split(":")))


def run(case: Case, arguments: argparse.Namespace) -> None:
    """All runs of one original: with each margin; with none, to the size that the first one allowed; the controls."""
    original(case, arguments)
    class_margin, first = ("--class-margin", arguments.class_margin), arguments.margins[0]
    held = [
        compress(case, one.name, arguments, one.recovery, "--size", SMALLEST, "--margin", one.margin, *class_margin)
        for one in arguments.margins
    ]
    lines = journal.read_journal(held[0])
    narrow = [line for line in lines if line["verdict"] == journal.ACCEPTED and line["kind"] in journal.SHRINKING]
    free = ("--margin", "None", "--class-margin", "None", "--kinds", "channels")
    if narrow:
        share = narrow[-1]["params"] / lines[0]["params"]
        compress(case, "unguarded", arguments, first.recovery, "--size", share, *free)
    if arguments.controls:
        for kind in CONTROLS:
            compress(case, kind, arguments, first.recovery, "--size", SMALLEST, "--importance", kind, *free)
    if arguments.longer:
        trained_longer(case, held[-1], arguments.margins[-1].recovery, arguments.work)


def measured(case: Case, out: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Journal of a run, with the accuracy of the ONNX files on test images; measured once and stored."""
    place = arguments.work / "measured" / out.name / "lines.json"
    if place.exists():
        return read_json(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    test = open_dataset(arguments.work / f"{case.target}.test.beton")
    found = []
    for line in journal.read_journal(out):
        if line["verdict"] != journal.ACCEPTED or line["kind"] == "rollback":
            found.append(line)
            continue
        directory = journal.verified_directory(out, line)
        model, spec = networks.load_model(directory)
        images, labels = _images(test, int(spec["resolution"]))
        file = directory / journal.INT8
        if not file.exists():
            file = onnx_model.export_onnx(model, spec, place.parent / f"{line['step']:02d}.onnx")
        answers = acceptance.predicted_classes(onnx_model.predict(onnx_model.session(file), images))
        worst = min(np.mean(answers[labels == c] == c) for c in np.unique(labels))
        torch_answers = acceptance.predicted_classes(image_arrays.predictor(model, spec)(images))
        more = {"test": float(np.mean(answers == labels)), "worst": float(worst), "onnx": str(file)}
        more["directory"] = str(directory)
        found.append({**line, **more, "agrees": float(np.mean(answers == torch_answers))})
    write_json(place, found)
    return found


def timed(files: list[str], arguments: argparse.Namespace) -> dict[str, float]:
    """Latency of each ONNX file: with --latency the least of several passes over all of them, kept for later pages."""
    place = arguments.work / "measured" / "latency.json"
    known = read_json(place) if place.exists() else {}
    for _ in range(PASSES if arguments.latency else 0):
        for file in files:
            known[file] = min(known.get(file, float("inf")), onnx_model.latency_ms(Path(file)))
    write_json(place, known)
    return known


def _images(source: Any, side: int) -> tuple[np.ndarray, np.ndarray]:
    from prune.data.loader import open_loader

    loader = open_loader(source, resolution=side, batch_size=256, workers=1, loader="torch")
    return image_arrays.read_with(loader, np.arange(len(source)))


def table(arguments: argparse.Namespace) -> str:
    """The published page, from all finished runs."""
    lines = ["# Compression on real images", "", *_setting(arguments), ""]
    every = tuple(one.name for one in arguments.margins)
    done: dict[str, list[tuple[Case, list[dict[str, Any]]]]] = {}
    for case in cases(arguments):
        for name in (*every, "unguarded", *CONTROLS):
            out = arguments.work / "runs" / f"{case.name}-{name}"
            if (out / "DONE").exists():
                done.setdefault(name, []).append((case, measured(case, out, arguments)))
    tested = [line for name in every for _, steps in done.get(name, []) for line in steps]
    latency = timed([line["onnx"] for line in tested if "onnx" in line], arguments)
    for line in tested:
        line["latency_ms"] = latency.get(line.get("onnx", ""))
    lines += _goals({str(one): done.get(one.name, []) for one in arguments.margins})
    first = {case: steps for name in reversed(every) for case, steps in done.get(name, [])}  # each case's first margin
    lines += _against(first, dict(done.get("unguarded", [])))
    lines += _criteria(done)
    lines += _longer(dict(done.get(every[-1], [])), arguments.work)
    for one in arguments.margins:
        lines += _steps(done.get(one.name, []), one)
    return "\n".join(lines) + "\n"


def _setting(arguments: argparse.Namespace) -> list[str]:
    size = arguments.preserve
    channels = (dict(RECIPES[name].kwargs).get("channels") for name in arguments.recipes)
    words = (f"{', '.join(map(str, own))} channels" if own else "full width" for own in channels)
    widths = (f"`{name}` ({own})" for name, own in zip(arguments.recipes, words))
    return [
        f"Originals: ResNet-18 by the recipes {' and '.join(widths)},",
        "a vision transformer by `tiny-vit`;",
        f"pretrained on 20,000 images of CIFAR-100, then fine-tuned for {arguments.epochs:g} epochs on 4/5 of each",
        f"target's training images at 32 px. Preservation set: {size} images of the last fifth, chosen by",
        f"`transfer preserve`. Steps of ratio 0.2; a class may lose {arguments.class_margin:g} points of it. Test",
        "accuracy and latency (batch 1, one thread) are those of the ONNX file in ONNX Runtime; the",
        "acceptance tests use neither.",
        "",
        f"Made: {made_here()}.",
        "",
        REMARKS,
        END,
    ]


def _goals(runs: dict[str, list[tuple[Case, list[dict[str, Any]]]]]) -> list[str]:
    """What each margin accepted, compared with the goals; means over the seeds."""
    names = ("original", "margin", "seeds", "file, int8", "latency, fp32", "latency, int8", "test", "test at 60 %")
    lines = [
        "## What was reached",
        "",
        "Shares of the original at the end, and points of test accuracy against it; the last column is the first",
        "accepted step with at most 60 % of the file. Goals: 1/8 of the file, 1/3 of the latency (of the faster",
        "file), at most 1 point lost; nothing lost at 60 %. Mean and, in brackets, each seed.",
        "",
        *_head(*names),
    ]
    for group in dict.fromkeys((case.recipe, case.target) for some in runs.values() for case, _ in some):
        for margins, some in runs.items():
            found = [_reached(steps) for case, steps in some if (case.recipe, case.target) == group]
            cells = [_several([one[key] for one in found], "{:.3f}") for key in ("file", "narrow", "int8")]
            cells += [_several([one[key] for one in found], "{:+.2f}") for key in ("test", "at60")]
            lines += [_row("-".join(group), margins, len(found), *cells)] if found else []
    return [*lines, ""]


def _reached(steps: list[dict[str, Any]]) -> dict[str, float | None]:
    first, accepted = steps[0], [step for step in steps if "test" in step]
    narrow = [step for step in accepted if step["kind"] in journal.SHRINKING][-1]
    smaller = [step for step in accepted if step["bytes"] <= 0.6 * first["bytes"]]

    def share(step: dict[str, Any], key: str) -> float | None:
        return step[key] / first[key] if step[key] and first[key] else None

    return {
        "file": share(accepted[-1], "bytes"),
        "narrow": share(narrow, "latency_ms"),
        "int8": share(accepted[-1], "latency_ms"),
        "test": 100 * (accepted[-1]["test"] - first["test"]),
        "at60": 100 * (smaller[0]["test"] - first["test"]) if smaller else None,
    }


def _several(values: list[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    each = f" ({', '.join(map(form.format, known))})" if len(known) > 1 else ""
    return form.format(float(np.mean(known))) + each


def _row(*cells: Any) -> str:
    return "| " + " | ".join(f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells) + " |"


def _head(*names: str) -> list[str]:
    return [_row(*names), _row(*["---"] * len(names))]


def _steps(runs: list[tuple[Case, list[dict[str, Any]]]], how: Margins) -> list[str]:
    names = (
        "original",
        "step",
        "size of file",
        "parameters",
        "MMACs",
        "latency ms",
        "preserved %",
        "test %",
        "verdict",
    )
    lines = [f"## Every step: {how}", "", *_head(*names)]
    for case, steps in runs:
        first = steps[0]
        for one in steps:
            accepted = "test" in one
            kind = one["kind"] + (f" {one['what']['ratio']:.3g}" if one["what"].get("ratio") else "")
            kind += f" ({one['what']['mode']})" if "mode" in one["what"] else ""
            lines.append(
                _row(
                    case.name,
                    f"{one['step']} {kind}",
                    f"{one['bytes'] / 1e6:.2f} MB ({one['bytes'] / first['bytes']:.3f})",
                    f"{one['params'] / first['params']:.3f}",
                    one["macs"] / 1e6,
                    _latency(one["latency_ms"], first["latency_ms"]),
                    100 * one["accuracy"],
                    f"{100 * one['test']:.2f} ({100 * (one['test'] - first['test']):+.2f})" if accepted else "",
                    f"accepted; {100 * one['agrees']:.1f} % as PyTorch"
                    if accepted
                    else f"rolled back: {one['reason']}",
                )
            )
    return [*lines, ""]


def _latency(one: float | None, first: float | None) -> str:
    return f"{one:.3f} ({one / first:.2f})" if one and first else ""


def _against(held: dict[Case, Any], free: dict[Case, Any]) -> list[str]:
    """Worst class of networks of equal size that were compressed with and without acceptance tests."""
    names = ("original", "size", "worst class %, tested", "untested", "test %, tested", "untested")
    lines = ["## With and without acceptance tests at equal size", "", *_head(*names)]
    for case, steps in held.items():
        narrow = [s for s in steps if "test" in s and s["kind"] in journal.SHRINKING]
        if case in free and narrow:
            one, other = narrow[-1], [s for s in free[case] if "test" in s][-1]
            shares = f"{one['params'] / steps[0]['params']:.3f} / {other['params'] / steps[0]['params']:.3f}"
            values = [100 * v for v in (one["worst"], other["worst"], one["test"], other["test"])]
            lines.append(_row(case.name, shares, *values))
    return [*lines, ""]


def _criteria(done: dict[str, list[Any]]) -> list[str]:
    """Mean test accuracy over the originals of a recipe at each size, by criterion; all reach about the same sizes."""
    names = ("recipe", "parameters", "originals", *CONTROLS, "data above magnitude")
    lines = ["## Criteria at equal sizes, without acceptance tests", "", *_head(*names)]
    by_case = {kind: dict(done.get(kind, [])) for kind in CONTROLS}
    shared = [case for case in by_case["data"] if all(case in runs for runs in by_case.values())]
    for recipe in dict.fromkeys(case.recipe for case in shared):
        group = [case for case in shared if case.recipe == recipe]
        for number in range(min(len(by_case[kind][case]) for kind in CONTROLS for case in group)):
            tops = {kind: [100 * by_case[kind][case][number]["test"] for case in group] for kind in CONTROLS}
            steps = [by_case["data"][case] for case in group]
            share = float(np.mean([one[number]["params"] / one[0]["params"] for one in steps]))
            ahead = np.subtract(tops["data"], tops["magnitude"])
            cells = [_spread(tops[kind], "{:.2f}") for kind in CONTROLS]
            lines.append(_row(recipe, f"{share:.3f}", len(group), *cells, _spread(ahead, "{:+.2f}")))
    return [*lines, ""]


def _longer(runs: dict[Case, list[dict[str, Any]]], work: Path) -> list[str]:
    """The effect of the additional epochs alone: the original trained for as many more, with nothing removed."""
    names = ("original", "epochs more", "test %, original", "compressed", "original, trained as long")
    lines = ["## The original trained as long", "", *_head(*names)]
    for case, steps in runs.items():
        place = work / "longer" / case.name
        if (place / "DONE").exists():
            top = [json.loads(line)["val_top1"] for line in (place / "metrics.jsonl").read_text().splitlines()]
            tested = [one["test"] for one in steps if "test" in one]
            lines.append(_row(case.name, len(top), *(100 * value for value in (tested[0], tested[-1], top[-1]))))
    return [*lines, ""]


def _spread(values: Any, form: str) -> str:
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return form.format(float(np.mean(values))) + spread


HEADS_VIT, HEADS_CONVNEXT = "heads-vit", "heads-convnext"
"""Recipes of this benchmark alone, for networks that no other one trains: digits have no mirror image."""
_SMALL_VIT = replace(
    RECIPES["tiny-vit"],
    kwargs={"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 6},
    crop="none",
    batch=32,
)
_KINDS = {HEADS_VIT: {"thin": "inner", "whole": "both"}, HEADS_CONVNEXT: {"channels": "channels"}}
_RATIO = {HEADS_VIT: 0.25, HEADS_CONVNEXT: 0.15}
_STEPS = {"thin": 3, "whole": 2, "channels": 2}
"""One step more for thinner heads, which save less time: a rival at the latency of the last step with fewer heads."""
_FREE = ("--margin", "None", "--class-margin", "None", "--size", 0.1)


def heads_cases(arguments: argparse.Namespace) -> list[Case]:
    """Both networks for each seed, seed by seed."""
    return [Case("digits", recipe, seed) for seed in arguments.seeds for recipe in _KINDS]


def some_images(data: Path, out: Path, each: dict[str, int]) -> None:
    """Link the first images of every class, by name, as a smaller target of its own."""
    for part, count in each.items():
        for folder in sorted((data / part).iterdir()):
            (out / part / folder.name).mkdir(parents=True, exist_ok=True)
            for image in sorted(folder.iterdir())[:count]:
                link = out / part / folder.name / image.name
                if not link.exists():
                    link.symlink_to(image.resolve())


def say_what_is_left(arguments: argparse.Namespace) -> None:
    """Where a part of the page's runs is done, say how many, and which comes next."""
    runs = [f"{case.name}-{name}" for case in heads_cases(arguments) for name in _KINDS[case.recipe]]
    left = [name for name in runs if not (arguments.work / "runs" / name / "DONE").exists()]
    if left and len(left) < len(runs):
        note(f"{arguments.work}: resuming, {len(runs) - len(left)} of {len(runs)} runs are done, the next is {left[0]}")


def run_heads(arguments: argparse.Namespace) -> str:
    """Compress both networks for each seed, with no margins, and return the page."""
    RECIPES[HEADS_VIT] = _SMALL_VIT
    RECIPES[HEADS_CONVNEXT] = replace(_SMALL_VIT, arch="test_convnext", kwargs={}, resolution=64)
    some_images(arguments.data / "digits", arguments.work / "images" / "digits", {"train": 400, "test": 200})
    if arguments.only != ["table"]:
        prepare(arguments.work / "images", arguments.work, "digits")
        say_what_is_left(arguments)
        for case in heads_cases(arguments):
            original(case, arguments)
            for name, kind in _KINDS[case.recipe].items():
                flags = ("--kinds", kind, "--ratio", _RATIO[case.recipe], "--steps", _STEPS[name])
                measured(case, compress(case, name, arguments, 1.0, *_FREE, *flags), arguments)
            trained_longer(case, arguments.work / "runs" / f"{case.name}-{name}", 1.0, arguments.work)
    done: dict[Case, dict[str, list[dict[str, Any]]]] = {}
    for case in heads_cases(arguments):
        places = {name: arguments.work / "runs" / f"{case.name}-{name}" for name in _KINDS[case.recipe]}
        longer = arguments.work / "longer" / case.name
        if all((place / "DONE").exists() for place in (*places.values(), longer)):
            done[case] = {name: measured(case, place, arguments) for name, place in places.items()}
            _time_shares(list(done[case].values()), arguments.work / "measured" / f"{case.name}-latency.json")
    return heads_page(done, arguments)


def _time_shares(runs: list[list[dict[str, Any]]], place: Path) -> None:
    """Store in every step the ratio of its latency to the original's: the median over blocks that ran side by side."""
    steps = [step for run in runs for step in run]
    files = list(dict.fromkeys(step["onnx"] for step in steps))
    if not place.exists():
        blocks = [onnx_model.blocks_ms([Path(file) for file in files], runs=250) for _ in range(PASSES)]
        times = np.concatenate([np.array(one) for one in blocks], axis=1)  # (files, blocks)
        shares = np.median(times / times[:1], axis=1)
        write_json(place, {file: [float(s), float(t.min())] for file, s, t in zip(files, shares, times)})
    known = read_json(place)
    for step in steps:
        step["time"], step["latency_ms"] = known[step["onnx"]]


def heads_page(done: dict[Case, dict[str, list[dict[str, Any]]]], arguments: argparse.Namespace) -> str:
    """The page on whole heads and on ConvNeXt, from the steps of all finished runs."""
    seeds = {name: sum(case.recipe == name for case in done) for name in _KINDS}
    lines = [
        "# Whole attention heads, and ConvNeXt",
        "",
        "Originals, trained from random weights on 3,200 images of handwritten digits (10 classes) for",
        f"{arguments.epochs:g} epochs: a vision transformer (32 px, patches of 8, 4 blocks of 6 heads of 16 channels)",
        "and timm's `test_convnext` (64 px). No margins; 1 epoch of training after each step, on the same images.",
        f"Steps of ratio {_RATIO[HEADS_VIT]:g} (transformer) and {_RATIO[HEADS_CONVNEXT]:g} (ConvNeXt). *whole*:",
        "`--kinds both`, whole heads and channels of the MLPs; *thin*: `--kinds inner`, channels in each head instead.",
        "Both remove the same share of MLP channels. Latency: batch 1, one thread, ONNX Runtime, as a ratio to the",
        "original within blocks of runs side by side. Test: 2,000 other images. *trained as long*: the original with",
        "as many epochs more, and nothing removed.",
        "",
        f"Seeds that finished: {'; '.join(f'{name} {count}' for name, count in seeds.items())}. Made: {made_here()}.",
        "",
        REMARKS,
        END,
        "",
    ]
    lines += _heads_goals(done, arguments.work)
    names = ("original", "run", "step", "MACs", "latency", "ms", "heads", "test %", "points")
    lines += ["## Every step", "", *_head(*names)]
    for case, runs in done.items():
        for name, steps in runs.items():
            for step in steps:
                share, points = step["macs"] / steps[0]["macs"], 100 * (step["test"] - steps[0]["test"])
                cells = (f"{share:.3f}", f"{step['time']:.2f}", f"{step['latency_ms']:.3f}", _heads_left(step))
                lines.append(_row(case.name, name, step["step"], *cells, 100 * step["test"], f"{points:+.2f}"))
    return "\n".join(lines) + "\n"


def _heads_goals(done: dict[Case, dict[str, list[dict[str, Any]]]], work: Path) -> list[str]:
    """Whole heads against thin ones at equal latency, and the first step without 40 % of the multiply-adds."""
    ahead: dict[int, list[tuple[float, float, float]]] = {}
    lines = ["## At 60 % of the multiply-adds", "", "Goal: at most 1 point lost.", ""]
    lines += _head("original", "run", "MACs", "latency", "points", "points, trained as long", "against that")
    for case, runs in done.items():
        last = (work / "longer" / case.name / "metrics.jsonl").read_text().splitlines()[-1]
        longer = 100 * (json.loads(last)["val_top1"] - next(iter(runs.values()))[0]["test"])
        for name, steps in runs.items():
            small = next((step for step in steps if step["macs"] <= 0.6 * steps[0]["macs"]), None)
            if small is not None:
                points = 100 * (small["test"] - steps[0]["test"])
                shares = (f"{small['macs'] / steps[0]['macs']:.3f}", f"{small['time']:.2f}")
                lines.append(_row(case.name, name, *shares, *(f"{p:+.2f}" for p in (points, longer, points - longer))))
        if "thin" in runs:
            thin = sorted((step["time"], step["test"]) for step in runs["thin"])
            for step in runs["whole"][1:]:
                rival = float(np.interp(step["time"], *zip(*thin)))
                at = max(step["time"], thin[0][0])  # np.interp goes no further than the fastest
                ahead.setdefault(step["step"], []).append((step["time"], at, 100 * (step["test"] - rival)))
    lines += ["", "## Whole heads against thin ones at equal latency", ""]
    lines += ["Goal: at or above. Points of test accuracy of the network with fewer heads above the one with thinner"]
    lines += ["heads, interpolated at the same measured latency, or the fastest one where none is as fast; mean and,"]
    lines += ["in brackets, each seed.", ""]
    lines += _head("step", "latency, fewer heads", "latency, thinner heads", "points")
    for number, found in ahead.items():
        cells = [_several(list(one), form) for one, form in zip(zip(*found), ("{:.2f}", "{:.2f}", "{:+.2f}"))]
        lines.append(_row(number, *cells))
    return [*lines, ""]


def _heads_left(step: dict[str, Any]) -> str:
    """How many heads of each block a network of a step has, as in 5+6+4+3; "" for one without attention."""
    model = networks.load_model(Path(step["directory"]))[0]
    return "+".join(str(m.num_heads) for m in model.modules() if is_attention(m))


def main() -> None:
    """Run the chosen parts, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", default="")
    parser.add_argument("--recipes", nargs="+", default=["small-rn18"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--preserve", type=int, default=500)
    parser.add_argument(
        "--margins",
        "--guards",
        type=margins_of,
        nargs="+",
        default=[Margins(1.0, 1.0)],
        help="MARGIN:EPOCHS of the acceptance test and of the training after each step",
    )
    parser.add_argument("--class-margin", type=float, default=10.0)
    parser.add_argument("--controls", action="store_true", help="also by each criterion without acceptance tests")
    parser.add_argument(
        "--longer", action="store_true", help="also the original, trained as long as the last margin's run"
    )
    parser.add_argument("--latency", action="store_true", help="measure latencies for the page: on a quiet machine")
    parser.add_argument("--only", nargs="*", default=[], help="names of originals, or table")
    parser.add_argument("--heads", action="store_true", help="the page on whole heads and on ConvNeXt instead")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.heads:
        publish(arguments.out, run_heads(arguments))
        return
    if arguments.only != ["table"]:
        for target in TARGETS:
            prepare(arguments.data, arguments.work, target)
        for case in cases(arguments):
            if not arguments.only or case.name in arguments.only:
                run(case, arguments)
                for out in sorted((arguments.work / "runs").glob(f"{case.name}-*")):
                    measured(case, out, arguments)
        if arguments.only:
            return
    try:
        page = table(arguments)
    except InputError as error:
        sys.exit(str(error))
    publish(arguments.out, page)
    note(page)


if __name__ == "__main__":
    main()
