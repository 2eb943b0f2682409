"""How small a fine-tuned network gets on real images before it loses: guarded, unguarded, and by three criteria.

    python tests/benchmarks/compress.py --data data --work work/compress --out tests/benchmarks/results/compress.md
    python tests/benchmarks/compress.py --only small-rn18-cifar10-0 ...       (one original and its runs)
    python tests/benchmarks/compress.py --only table --latency ...            (the page, from what is finished)

DATA holds cifar10/ and flowers5/ with train/ and test/; --init names model directories to fine-tune from, one a seed.
A fifth of every class's training images is held back: the preservation set is chosen from it, and neither the original
nor any recovery learns from it. Every command can be killed and started again; what is finished is not done twice.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.recipes import RECIPES
from prune import networks
from prune.command_line import run_step
from prune.index import PrunedIndex
from prune.provenance import record
from prune.run import InputError, note, read_json, versions, write_json
from prune.source import open_source
from transfer.compression import guard, onnx_model, recovery, staircase

TARGETS = ("cifar10", "flowers5")
CONTROLS = ("data", "magnitude", "random")
SIZES = (0.6, 0.36, 0.2)


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
    """ResNet-18 with every seed, the vision transformer with one."""
    found = [Case(t, arguments.recipe, s) for s in arguments.seeds for t in TARGETS]
    return found + [Case(t, "tiny-vit", arguments.seeds[0]) for t in TARGETS]


def step(command: str, module: str, *words: Any) -> None:
    """Run one command of ours, in this process: importing torch anew would cost more than many a step."""
    if code := run_step(command, module, [str(word) for word in words]):
        sys.exit(code)


def prepare(data: Path, work: Path, target: str) -> None:
    """Betons, and the training images split into those to learn from and those held back."""
    train, test = work / f"{target}.train.beton", work / f"{target}.test.beton"
    if not train.exists():
        step("prune write", "prune.write", "--images", data / target / "train", "--out", train)
    if not test.exists():
        names = train.with_suffix(".manifest.npz")
        step("prune write", "prune.write", "--images", data / target / "test", "--classes", names, "--out", test)
    manifest = open_source(train).manifest
    draw, held = np.random.default_rng(0), np.zeros(len(manifest), bool)
    for c in range(len(manifest.classes)):
        rows = np.flatnonzero(np.asarray(manifest.labels) == c)
        held[draw.permutation(rows)[: round(0.2 * len(rows))]] = True
    for name, mask in (("pool", held), ("rest", ~held)):
        entry = record("split", {"share": 0.2, "seed": 0, "part": name}, {"source": manifest.fingerprint})
        place = work / f"{target}.{name}.index.npz"
        if not place.exists():
            PrunedIndex.from_rows(manifest, np.flatnonzero(mask), provenance=[entry]).save(place)


def original(case: Case, arguments: argparse.Namespace) -> Path:
    """Fine-tune the network to be compressed."""
    work, out = arguments.work, arguments.work / "originals" / case.name
    words = ["--beton", work / f"{case.target}.train.beton", "--index", work / f"{case.target}.rest.index.npz"]
    words += ["--recipe", case.recipe, "--epochs", arguments.epochs, "--seed", case.seed, "--out", out]
    words += ["--val", work / f"{case.target}.test.beton", "--loader", "torch", "--workers", 1, "--threads", 1]
    if arguments.init and case.recipe == arguments.recipe:
        words += ["--init", arguments.init[case.seed % len(arguments.init)]]
    step("pretrain", "pretrain.train", *words)
    return out


def compress(case: Case, name: str, arguments: argparse.Namespace, *flags: Any) -> Path:
    """One compression of an original; its run directory."""
    work, out = arguments.work, arguments.work / "runs" / f"{case.name}-{name}"
    chosen = work / f"{case.name}.preserve.index.npz"
    train, model = work / f"{case.target}.train.beton", work / "originals" / case.name
    pool, rest = (work / f"{case.target}.{part}.index.npz" for part in ("pool", "rest"))
    if not chosen.exists():
        size = arguments.preserve
        step(
            "transfer preserve",
            "transfer.preserve",
            "--model",
            model,
            "--train",
            train,
            "--index",
            pool,
            "--size",
            size,
            "--out",
            chosen,
        )
    shared = ["--model", model, "--train", train, "--preserve", chosen, "--index", rest, "--out", out]
    shared += ["--seed", case.seed, "--threads", 1, "--workers", 1, "--recovery-epochs", arguments.recovery]
    step("transfer compress", "transfer.compress", *shared, "--latency", "none", *flags)
    return out


def run(case: Case, arguments: argparse.Namespace) -> None:
    """Everything for one original: guarded; then, to the size that the guard allowed, unguarded; then the controls."""
    original(case, arguments)
    margins = ("--margin", arguments.margin, "--class-margin", arguments.class_margin)
    guarded = compress(case, "guarded", arguments, "--size", 0.2, *margins)
    lines = staircase.read(guarded)
    narrow = [line for line in lines if line["verdict"] == staircase.ACCEPTED and line["kind"] in staircase.SHRINKING]
    free = ("--margin", "None", "--class-margin", "None", "--kinds", "channels")
    if narrow:
        share = narrow[-1]["params"] / lines[0]["params"]
        compress(case, "unguarded", arguments, "--size", share, *free)
    if case.target == TARGETS[0] or arguments.all_controls:
        for kind in CONTROLS:
            compress(case, kind, arguments, "--size", SIZES[-1], "--importance", kind, *free)


def measured(case: Case, out: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Lines of a run with what the ONNX files answer on test images; measured once, kept beside the run."""
    place = arguments.work / "measured" / out.name / "lines.json"
    if place.exists():
        return read_json(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    test = open_source(arguments.work / f"{case.target}.test.beton")
    found = []
    for line in staircase.read(out):
        if line["verdict"] != staircase.ACCEPTED or line["kind"] == "rollback":
            found.append(line)
            continue
        directory = staircase.intact(out, line)
        model, spec = networks.load_model(directory)
        images, labels = _images(test, int(spec["resolution"]))
        file = directory / staircase.INT8
        if not file.exists():
            file = onnx_model.export_onnx(model, spec, place.parent / f"{line['step']:02d}.onnx")
        answers = guard.predicted(onnx_model.predict(onnx_model.session(file), images))
        worst = min(np.mean(answers[labels == c] == c) for c in np.unique(labels))
        torch_answers = guard.predicted(recovery.predictor(model, spec)(images))
        more = {"test": float(np.mean(answers == labels)), "worst": float(worst), "onnx": str(file)}
        found.append({**line, **more, "agrees": float(np.mean(answers == torch_answers))})
    write_json(place, found)
    return found


def timed(lines: list[dict[str, Any]], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The same lines with latencies: measured with --latency, in one go on a quiet machine, and kept."""
    place = arguments.work / "measured" / "latency.json"
    known = read_json(place) if place.exists() else {}
    for line in lines:
        if arguments.latency and "onnx" in line and line["onnx"] not in known:
            known[line["onnx"]] = onnx_model.latency_ms(Path(line["onnx"]))
    write_json(place, known)
    return [{**line, "latency_ms": known.get(line.get("onnx"))} for line in lines]


def _images(source: Any, side: int) -> tuple[np.ndarray, np.ndarray]:
    from prune.loading import open_loader

    loader = open_loader(source, resolution=side, batch_size=256, workers=1, loader="torch")
    return recovery.images_of(loader, np.arange(len(source)))


def table(arguments: argparse.Namespace) -> str:
    """The published page, from all runs that are done."""
    lines = ["# Compression on real images", "", *_setting(arguments), ""]
    done: dict[str, list[tuple[Case, list[dict[str, Any]]]]] = {}
    for case in cases(arguments):
        for name in ("guarded", "unguarded", *CONTROLS):
            out = arguments.work / "runs" / f"{case.name}-{name}"
            if (out / "DONE").exists():
                found = measured(case, out, arguments)
                done.setdefault(name, []).append((case, timed(found, arguments) if name == "guarded" else found))
    lines += _steps(done.get("guarded", []))
    lines += _against(done.get("guarded", []), done.get("unguarded", []))
    lines += _criteria(done)
    return "\n".join(lines) + "\n"


def _setting(arguments: argparse.Namespace) -> list[str]:
    return [
        f"Originals: recipe `{arguments.recipe}` (ResNet-18, {dict(RECIPES[arguments.recipe].kwargs) or 'full width'})",
        f"and `tiny-vit`, {arguments.epochs:g} epochs on 4/5",
        f"of each target's training images at 32 px. Preservation set: {arguments.preserve} images of the last fifth,",
        f"chosen by `transfer preserve`. Steps of ratio 0.2, {arguments.recovery:g} epochs of recovery; margins of",
        f"{arguments.margin:g} points overall and {arguments.class_margin:g} in each class. Test accuracy and latency",
        "(batch 1, one thread) are those of the ONNX file in ONNX Runtime; the guard sees neither.",
        "",
        f"- Machine: {os.cpu_count()} cores, {platform.machine()}, no GPU; other work ran beside it",
        f"- Versions: {', '.join(f'{k} {v}' for k, v in versions().items())}",
    ]


def _row(*cells: Any) -> str:
    return "| " + " | ".join(f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells) + " |"


def _head(*names: str) -> list[str]:
    return [_row(*names), _row(*["---"] * len(names))]


def _steps(runs: list[tuple[Case, list[dict[str, Any]]]]) -> list[str]:
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
    lines = ["## Guarded: original and every step", "", *_head(*names)]
    for case, steps in runs:
        first = steps[0]
        for one in steps:
            stands = "test" in one
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
                    f"{100 * one['test']:.2f} ({100 * (one['test'] - first['test']):+.2f})" if stands else "",
                    f"accepted; {100 * one['agrees']:.1f} % as PyTorch" if stands else f"rolled back: {one['reason']}",
                )
            )
    return [*lines, ""]


def _latency(one: float | None, first: float | None) -> str:
    return f"{one:.3f} ({one / first:.2f})" if one and first else ""


def _against(guarded: list[Any], unguarded: list[Any]) -> list[str]:
    """Worst class of the guarded and of the unguarded network of equal size."""
    names = ("original", "size", "worst class %, guarded", "unguarded", "test %, guarded", "unguarded")
    lines = ["## Guarded against unguarded at equal size", "", *_head(*names)]
    free = dict(unguarded)
    for case, steps in guarded:
        narrow = [s for s in steps if "test" in s and s["kind"] in staircase.SHRINKING]
        if case in free and narrow:
            one, other = narrow[-1], [s for s in free[case] if "test" in s][-1]
            shares = f"{one['params'] / steps[0]['params']:.3f} / {other['params'] / steps[0]['params']:.3f}"
            values = [100 * v for v in (one["worst"], other["worst"], one["test"], other["test"])]
            lines.append(_row(case.name, shares, *values))
    return [*lines, ""]


def _criteria(done: dict[str, list[Any]]) -> list[str]:
    """Mean test accuracy over the originals at each size, by criterion; the sizes are equal by construction."""
    lines = ["## Criteria at equal sizes, without the guard", "", *_head("parameters", "originals", *CONTROLS)]
    both = set.intersection(*({case for case, _ in done.get(kind, [])} for kind in CONTROLS))
    both = {case for case in both if case.recipe != "tiny-vit"}
    found = {kind: {case: steps for case, steps in done.get(kind, []) if case in both} for kind in CONTROLS}
    if not both:
        return [*lines, ""]
    for number in range(min(len(steps) for runs in found.values() for steps in runs.values())):
        cells = []
        for kind in CONTROLS:
            values = [100 * steps[number]["test"] for steps in found[kind].values()]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.2f}{spread}")
        one = next(iter(found["data"].values()))
        lines.append(_row(f"{one[number]['params'] / one[0]['params']:.3f}", len(both), *cells))
    return [*lines, ""]


def main() -> None:
    """Run what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, nargs="*", default=[])
    parser.add_argument("--recipe", default="small-rn18")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--recovery", type=float, default=1.0)
    parser.add_argument("--preserve", type=int, default=500)
    parser.add_argument("--margin", type=float, default=1.0)
    parser.add_argument("--class-margin", type=float, default=8.0)
    parser.add_argument("--all-controls", action="store_true")
    parser.add_argument("--latency", action="store_true", help="measure latencies for the page: on a quiet machine")
    parser.add_argument("--only", nargs="*", default=[], help="names of originals, or table")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
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
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page, encoding="utf-8")
    note(page)


if __name__ == "__main__":
    main()
