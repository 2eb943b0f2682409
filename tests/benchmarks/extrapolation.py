"""How well are the scores of images that no surrogate has seen predicted? A part of real scores, the rest as the truth.

    python tests/benchmarks/extrapolation.py --scores scores.npz --features thumbnails/pool.features.npz --results FILE

SCORES knows every image; all but a part of it is hidden, predicted by `prune extrapolate` from FEATURES, and compared.
Seconds on 2 cores for 50,000 images.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from published import END, REMARKS, made_here, publish
from scipy.stats import spearmanr

from prune import extrapolate
from prune.index.npz import open_arrays, save_arrays

SCORES = ("el2n", "margin", "prototype", "moderate", "influence")
PARTS = (0.05, 0.1, 0.3)
KEEP = 0.2
PAGE = f"""# Scores of images that no surrogate has seen

{{made}}.
`python tests/benchmarks/extrapolation.py --scores SCORES --features FEATURES --results FILE`

{{images:,}} images, of which a part drawn at random is scored by a surrogate and the rest predicted from {{what}}.
*told*: the rank correlation that the step prints, from scored images that it leaves out; *true*: that of the predicted.
The last two columns: how much of what a fifth by the true scores would keep is kept by the predicted ones (a fifth by
chance; scored images count as they are).

{REMARKS}
{END}

| score | scored part | told | true | the highest fifth | the lowest fifth |
|---|---:|---:|---:|---:|---:|
{{rows}}
"""


def main() -> None:
    """Hide, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--what", default="thumbnails", help="the features in words")
    parser.add_argument("--results", type=Path, required=True)
    config = parser.parse_args()
    true, meta = open_arrays(config.scores, "winnow-scores/1")
    n, lines = len(true["label"]), []
    meta = {**meta, **{key: str((config.scores.parent / meta[key]).resolve()) for key in ("manifest", "features")}}
    for part in PARTS:
        hidden = np.random.default_rng(0).random(n) > part
        arrays = {f"sample/{name}": np.where(hidden, np.nan, true[f"sample/{name}"]).astype("<f4") for name in SCORES}
        with tempfile.TemporaryDirectory() as folder:
            scores, out = Path(folder) / "part.npz", Path(folder) / "all.npz"
            save_arrays(scores, arrays | {"label": np.asarray(true["label"])}, meta)
            extrapolate.run(extrapolate.Config(scores=scores, features=config.features, out=out, keep=KEEP))
            found, told = open_arrays(out, "winnow-scores/1")
            for name in SCORES:
                quality = told["extrapolated"]["quality"][name]
                cells = [f"`{name}`", f"{part:.0%}", f"{quality['correlation']:.2f}"]
                cells += compared(found[f"sample/{name}"], true[f"sample/{name}"], hidden)
                lines.append("| " + " | ".join(cells) + " |")
    rows = "\n".join(sorted(lines, key=lambda line: line.split(" | ")[0]))
    publish(config.results, PAGE.format(made=made_here(), images=n, what=config.what, rows=rows))


def compared(found: np.ndarray, true: np.ndarray, hidden: np.ndarray) -> list[str]:
    """Cells of one score: correlation on the hidden images, and the overlap of both ends."""
    if np.isnan(found).any():
        return ["not predicted", "", ""]
    count = round(KEEP * len(true))
    ends = [len(np.intersect1d(*(np.argsort(sign * one)[:count] for one in (found, true)))) / count for sign in (-1, 1)]
    return [f"{spearmanr(found[hidden], true[hidden]).statistic:.2f}", *(f"{end:.0%}" for end in ends)]


if __name__ == "__main__":
    main()
