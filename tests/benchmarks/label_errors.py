"""Wrong labels: how many of the first suspects were planted, beside cleanlab on the same probabilities.

    python tests/benchmarks/label_errors.py --images data/cifar100/train --out runs/label-errors \
        --results tests/benchmarks/results/label-errors.md

20 classes of 300 images; 5 % of the labels of each class are replaced: `uniform` by any other class, `pairwise` by the
next class, `look-alike` by the class that a surrogate of the clean images confuses it with most. Two surrogates
(`tiny`, 12 epochs) leave out a fold each (`pretrain --fold`), so every image is judged by one that did not see it.
Precision among the first as many as were planted; three seeds draw the errors and the networks. Needs `cleanlab`
(`pip install cleanlab`), which the package itself does not. Some 10 minutes on 2 cores; every command resumes.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import order_label_issues
from published import END, REMARKS, made_here, publish

from prune.index.npz import open_arrays
from prune.scores.difficulty import soften
from prune.scores.feature_files import open_features
from prune.scores.folds import unseen_masks

KINDS = ("uniform", "pairwise", "look-alike")
CLASSES, EACH, SHARE, FOLDS = 20, 300, 0.05, 2


def command(*arguments: object) -> None:
    """Run one of the project's commands; end with its exit code where it fails."""
    done = subprocess.run([sys.executable, "-m", *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def plant(images: Path, place: Path, wrong: dict[str, str]) -> None:
    """Write class folders of links in which the images of `wrong` (by "class/file") lie in another class."""
    part = place.with_name(f".{place.name}")
    for folder in sorted(path for path in images.iterdir() if path.is_dir())[:CLASSES]:
        for file in sorted(folder.iterdir())[:EACH]:
            label = wrong.get(f"{folder.name}/{file.name}", folder.name)
            link = part / label / f"{folder.name}--{file.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
    part.rename(place)


def trained(place: Path, seed: int) -> list[Path]:
    """Features of a set by surrogates that leave out a fold each."""
    command("prune", "write", "--images", place / "images", "--out", place / "set.beton", "--side", 32)
    found = []
    for fold in range(1, FOLDS + 1):
        model, features = place / f"fold-{fold}", place / f"features-{fold}"
        flags = ("--recipe", "tiny", "--epochs", 12, "--loader", "torch", "--seed", seed, "--fold", f"{fold}/{FOLDS}")
        command("pretrain", "--beton", place / "set.beton", *flags, "--out", model)
        command(
            "prune",
            "features",
            "--model",
            model,
            "--betons",
            place / "set.beton",
            "--out",
            features,
            "--loader",
            "torch",
        )
        found.append(features / "set.features.npz")
    return found


def unseen_probabilities(files: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of each image by the surrogate that did not see it, labels, and ids."""
    sources = [open_features(path) for path in files]
    masks = unseen_masks(sources)
    assert masks is not None
    p = np.zeros((len(sources[0]), len(sources[0].classes)), np.float64)
    for source, mask in zip(sources, masks):
        p[mask] = soften(np.asarray(source.logits)[mask])[0]
    return p / p.sum(axis=1, keepdims=True), np.asarray(sources[0].label), sources[0].ids()


def confused(images: Path, out: Path) -> dict[str, str]:
    """The class that each class of the clean images is confused with most."""
    place = out / "clean"
    if not (place / "images").is_dir():
        plant(images, place / "images", {})
    p, labels, _ = unseen_probabilities(trained(place, 0))
    names = open_features(place / "features-1/set.features.npz").classes
    mean = np.array([p[labels == k].mean(axis=0) for k in range(CLASSES)])
    np.fill_diagonal(mean, 0)
    return {names[k]: names[int(mean[k].argmax())] for k in range(CLASSES)}


def errors(images: Path, kind: str, seed: int, alike: dict[str, str]) -> dict[str, str]:
    """Images whose labels are wrong, and the wrong labels."""
    names = [path.name for path in sorted(images.iterdir()) if path.is_dir()][:CLASSES]
    found = {}
    for k, name in enumerate(names):
        draw = random.Random(f"errors/{kind}/{seed}/{name}")
        files = [path.name for path in sorted((images / name).iterdir())[:EACH]]
        for file in draw.sample(files, round(SHARE * EACH)):
            other = draw.choice([n for n in names if n != name])
            found[f"{name}/{file}"] = {
                "uniform": other,
                "pairwise": names[(k + 1) % CLASSES],
                "look-alike": alike[name],
            }[kind]
    return found


def precision(images: Path, out: Path, kind: str, seed: int, alike: dict[str, str]) -> dict[str, float]:
    """Share of the first suspects that were planted, as many as were planted."""
    place, wrong = out / f"{kind}-{seed}", errors(images, kind, seed, alike)
    if not (place / "images").is_dir():
        plant(images, place / "images", wrong)
    files = trained(place, seed)
    scores = place / "scores.npz"
    command("prune", "score", "--source", *files, "--also", "suspects", "--seed", seed, "--out", scores)
    p, labels, ids = unseen_probabilities(files)
    planted = np.array([_was(text) in wrong for text in ids])
    count = int(planted.sum())
    arrays, _ = open_arrays(scores, "winnow-scores/1")
    flagged = arrays["looks_like"] >= 0
    found = {"flagged": float(flagged.sum()), "right of those": float(planted[flagged].sum() / count)}
    for by in ("self_confidence", "normalized_margin"):
        issues = find_label_issues(labels, p)
        ranked = order_label_issues(issues, labels, p, rank_by=by)
        rest = np.setdiff1d(np.argsort(p[np.arange(len(p)), labels]), ranked, assume_unique=True)
        found[f"cleanlab, {by}"] = float(planted[np.r_[ranked, rest][:count]].mean())
    found["suspicion"] = float(planted[np.argsort(-arrays["sample/suspicion"], kind="stable")[:count]].mean())
    return found


def _was(identifier: bytes) -> str:
    """The true "class/file" of an id "label/class--file"."""
    return identifier.decode().partition("/")[2].replace("--", "/", 1)


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="class folders")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    alike = confused(options.images, options.out)
    rows = {
        kind: [precision(options.images, options.out, kind, seed, alike) for seed in options.seeds] for kind in KINDS
    }
    names = [name for name in rows[KINDS[0]][0] if name not in ("flagged", "right of those")]
    lines = [
        "# Wrong labels: precision among the first as many as were planted",
        "",
        f"{made_here()}.",
        "`python tests/benchmarks/label_errors.py --images data/cifar100/train --out runs/label-errors "
        "--results tests/benchmarks/results/label-errors.md`",
        "",
        f"{CLASSES} classes of CIFAR-100 with {EACH} images each, {SHARE:.0%} of the labels wrong; every image is",
        f"judged by a quarter-width ResNet-18 that did not see it; {len(options.seeds)} seeds.",
        "",
        REMARKS,
        END,
        "",
        f"| errors | flagged | of all planted | {' | '.join(names)} |",
        f"|---|{'---:|' * (len(names) + 2)}",
    ]
    for kind, found in rows.items():
        cells = []
        for name in names:
            each = [100 * one[name] for one in found]
            cells.append(f"{np.mean(each):.1f} ± {np.std(each, ddof=min(1, len(each) - 1)):.1f}")
        flagged, right = np.mean([[one["flagged"], 100 * one["right of those"]] for one in found], axis=0)
        lines.append(f"| {kind} | {flagged:.0f} | {right:.0f} % | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    if options.results:
        publish(options.results, text)
    print(text)


if __name__ == "__main__":
    main()
