"""Predict the scores of the images that no surrogate has seen, from a scored part and cheap features of all images.

    prune select --manifest runs/pool.manifest.npz --method random --keep 0.1 --out runs/part.index.npz
    prune features --model runs/surrogate --betons runs/pool.beton --index runs/part.index.npz --out runs/part
    prune score --source runs/part/pool.features.npz --out runs/part.scores.npz
    prune features --thumbnail --betons runs/pool.beton --out runs/thumbnails
    prune extrapolate --scores runs/part.scores.npz --features runs/thumbnails/pool.features.npz --out runs/scores.npz

An image gets the mean score of its nearest scored neighbours of the same class, brought to the spread of the known
scores. A fifth of the scored images is left out first: how far their order is found again is printed, and kept in the
file, beside the same of each class's mean score alone, which needs no features: what the neighbours add is the
difference. Scores that are predicted no better than by chance are left as they are; where that is true of all, nothing
is written and the exit code is 1. Class votes need no part: they come from the targets' features and the classes'
means.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.runs.exit_codes import AnswerIsNo
from prune.runs.files import InputError, at_least, need_file, note
from prune.runs.identity import Location, identity
from prune.runs.outputs import claim_file

if TYPE_CHECKING:
    import numpy as np

    from prune.scores.feature_files import Features

_FEWEST = 100


@dataclass(frozen=True)
class Config:
    scores: Location[Path]
    """Scores file of a part of the source, from `prune score`."""
    features: Location[Path]
    """Features of all its images: of thumbnails, or by any network that is cheap enough to see all."""
    out: Location[Path]
    """Scores file to write (.npz)."""
    neighbours: int = 16
    """Scored images that an image's score is predicted from."""
    keep: float = 0.2
    """Share at which both ends of the predicted order are compared with the true one."""
    seed: int = 0
    """Which scored images are left out to measure."""


def run(config: Config) -> Path:
    """Write the scores file; returns its path. `AnswerIsNo` when nothing can be predicted."""
    at_least(config, 1, "neighbours")
    at_least(config, 0, "seed")
    if not 0 < config.keep < 1:
        raise InputError(f"--keep {config.keep} is outside (0, 1)")
    from dataclasses import asdict

    from prune.index.npz import open_arrays, save_arrays
    from prune.score import FORMAT
    from prune.scores.feature_files import beside, content_fingerprint, open_features
    from prune.scores.score_extrapolation import extrapolate

    arrays, meta = open_arrays(need_file(config.scores, "a scores file of `prune score`"), FORMAT)
    cheap = open_features(config.features)
    _check_pair(config, meta, cheap)
    inputs = {"scores": content_fingerprint(config.scores), "features": cheap.content}

    def record(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = open_arrays(path, FORMAT)[1].get("extrapolated", {})
        return dict(found.get("config", {})) | dict(found.get("inputs", {}))

    with claim_file(config.out, record, config, inputs) as done:
        if done:
            return config.out
        missing = _missing(config, arrays, cheap)
        filled, qualities = extrapolate(
            cheap.features, cheap.label, missing, cheap.keys(config.seed), config.neighbours, config.keep
        )
        for name, one in qualities.items():
            ends = f"{one.highest:.0%} of the highest and {one.lowest:.0%} of the lowest {config.keep:.0%} are found"
            worth = (
                ""
                if one.better
                else f": not predicted, on {one.images} images that is not shown to be more than chance"
            )
            note(
                f"{name[7:]}: rank correlation {one.correlation:.2f} (class means alone {one.class_correlation:.2f}) "
                f"on {one.images} scored images left out, {ends} (class means alone {one.class_highest:.0%} and "
                f"{one.class_lowest:.0%}, chance {one.by_chance:.0%}){worth}"
            )
        if not filled:
            note(f"{config.out}: not written: these features say nothing of the scores; score more images instead")
            raise AnswerIsNo
        left = {place: beside(config.scores.parent / meta[place], config.out) for place in ("manifest", "features")}
        told = {
            "config": identity(config),
            "inputs": inputs,
            "quality": {name[7:]: asdict(one) for name, one in qualities.items()},
        }
        save_arrays(config.out, {**arrays, **filled}, {**meta, **left, "extrapolated": told})
        count = int(sum((values != values).sum() for values in missing.values()) / len(missing))
        note(f"{config.out}: {len(filled)} of {len(missing)} scores predicted for {count:,} images")
    return config.out


def _check_pair(config: Config, meta: dict[str, Any], cheap: Features) -> None:
    """Refuse features of another source or of a part of it."""
    from prune.scores.feature_files import check_order

    if meta.get("fingerprint") != cheap.source:
        raise InputError(f"{config.features}: features of another source than the scores in {config.scores}")
    if cheap.partial:
        raise InputError(f"{config.features}: features of {len(cheap)} of {cheap.total} images; all are needed")
    check_order(config.features, cheap.order, config.scores, meta.get("order"), "describe the same beton for both")


def _missing(config: Config, arrays: dict[str, Any], cheap: Features) -> dict[str, np.ndarray]:
    """The scores that lack images: those that are known for the same images as the first of them."""
    import numpy as np

    found: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        unknown = np.isnan(values) if name.startswith("sample/") else np.zeros(1, bool)
        if unknown.any() and not unknown.all():
            first = next(iter(found.values()), values)
            if np.array_equal(unknown, np.isnan(first)):
                found[name] = np.asarray(values)
            else:
                note(f"{name[7:]}: known for other images than {next(iter(found))[7:]}; left as it is")
    if not found:
        raise InputError(f"{config.scores}: no score lacks an image; it can be used as it is")
    scored = len(cheap) - int(np.isnan(next(iter(found.values()))).sum())
    if scored < _FEWEST:
        raise InputError(
            f"{config.scores}: {scored} images are scored; at least {_FEWEST} are needed to tell whether a prediction "
            "is worth anything"
        )
    return found
