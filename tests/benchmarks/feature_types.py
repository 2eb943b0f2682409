"""What a selection loses where features are stored in 8 bits: the overlap with the selection from float16.

    python tests/benchmarks/feature_types.py --features runs/features/s0 runs/features/s1 --source pool \
        --work runs/feature-types --results tests/benchmarks/results/feature-types.md

Each folder of --features holds the files of one surrogate: SOURCE.features.npz, all others are targets. They are
written once more in 8 bits, as `prune features --features-dtype int8` writes them, and once with 255 steps of each
feature over all images instead of each image, for comparison. `prune score --also domain` and `prune select --method
winnow` then run on each. Some 3 minutes on 2 cores for 60,000 images and 2 surrogates.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from published import END, REMARKS, made_here, publish

from prune import score, selection
from prune.index.npz import open_arrays, save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.scores.feature_files import FORMAT, open_features
from prune.scores.quantised_rows import quantised, widened

KINDS = {"int8": "int8: 255 steps of each image", "columns": "for comparison: 255 steps of each feature"}


def write_again(file: Path, kind: str, out: Path) -> float:
    """Write a features file of float16 with another kind of numbers; returns their error over the features' spread."""
    arrays, meta = open_arrays(file, FORMAT)
    x = np.asarray(arrays["features"], np.float32)
    codes, steps = quantised(x) if kind != "columns" else (part.T for part in quantised(x.T))
    seen = widened(codes, steps) if kind != "columns" else codes * steps[:1] + steps[1:]
    if kind == "int8":
        arrays |= {"features": codes, "steps": steps}
        meta = meta | {"format": FORMAT}
    elif kind == "columns":
        arrays |= {"features": seen}
    save_arrays(out, arrays, meta | {"manifest": str(open_features(file).manifest)})
    return float(np.sqrt(np.square(seen - x).mean() / x.var(axis=0).mean()))


def selected(folder: Path, source: str, keeps: list[float]) -> dict[float, set[bytes]]:
    """The ids that `winnow` keeps, by keep, from the features of a folder."""
    files = sorted(folder.glob("*.features.npz"))
    mine = folder / f"{source}.features.npz"
    scores = folder / "scores.npz"
    score.run(score.Config((mine,), scores, tuple(file for file in files if file != mine), also=("domain",)))
    kept = {}
    for keep in keeps:
        out = folder / f"winnow-{keep}.index.npz"
        selection.run(selection.Config(out, scores, method="winnow", keep=(keep,)))
        kept[keep] = set(PrunedIndex.load(out).ids.tolist())
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, nargs="+", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/feature-types"))
    parser.add_argument("--keeps", type=float, nargs="+", default=[0.1, 0.2])
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    for number, folder in enumerate(given.features):
        kept = {}
        for kind in ("float16", *KINDS):
            place = given.work / str(number) / kind
            errors = []
            for file in sorted(folder.glob("*.features.npz")):
                place.mkdir(parents=True, exist_ok=True)
                errors.append(write_again(file, kind, place / file.name))
            kept[kind] = selected(place, given.source, given.keeps)
            if kind != "float16":
                shares = [
                    len(kept[kind][keep] & kept["float16"][keep]) / len(kept["float16"][keep]) for keep in given.keeps
                ]
                found[kind].append([max(errors), *shares])
    images = len(open_features(given.features[0] / f"{given.source}.features.npz"))
    heads = ["stored as", "largest error", *(f"overlap at keep {keep}" for keep in given.keeps)]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for kind, title in KINDS.items():
        columns = [", ".join(f"{one:.4f}" for one in column) for column in zip(*found[kind])]
        lines.append(f"| {' | '.join([title, *columns])} |")
    if not given.results:
        print("\n".join(lines))
        return 0
    text = [
        "# Features in 8 bits",
        "",
        f"`python tests/benchmarks/feature_types.py --features FOLDER ... --source {given.source} --results "
        f"{given.results}`, {made_here()}.",
        "",
        f"{images:,} images, features by {len(given.features)} surrogates, whose figures are beside each other. "
        "Overlap is the share of what `winnow` keeps from float16 that it also keeps from 8 bits; error is the root of "
        "the mean square, over the spread of the features, in the file where it is largest.",
        "",
        *lines,
        "",
        REMARKS,
        END,
        "",
    ]
    publish(given.results, "\n".join(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
