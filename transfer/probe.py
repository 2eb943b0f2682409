"""Linear probe: how well does a linear classifier on a model's frozen features tell a target's classes apart?

    python -m transfer probe --model runs/backbone --train pets.train.beton --test pets.test.beton --out runs/probe-pets
    python -m transfer probe --model runs/backbone --train pets/train --test pets/test --shots 5 --out runs/pets-5

Features of both halves are computed once and kept in OUT/features, or wherever --features says, where other
evaluations find them; then multinomial logistic regression by L-BFGS on standardised features. Its regularisation is
chosen on a fifth of the training images; test images are predicted once. With --shots the classifier sees that many
images per class, drawn from the seed. Writes OUT/result.json and OUT/predictions.npz. Seconds for a few thousand images
of 32 px on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.files import at_least, note, read_json, write_json
from prune.runs.identity import Location, RunOption
from prune.runs.outputs import claim, finish

if TYPE_CHECKING:
    from prune.scores.feature_files import Features


@dataclass(frozen=True)
class Config:
    model: Location[Path]
    """Model directory of `pretrain`."""
    train: Location[Path]
    """Target's training images: `X.beton`, a directory of class folders, or torchvision:NAME:ROOT:SPLIT."""
    test: Location[Path]
    """Target's test images, as --train; a beton must be written with the training images' class list."""
    out: Location[Path]
    """Run directory."""
    shots: int | None = None
    """Train on this many images of each class alone."""
    features: Location[Path | None] = None
    """Directory of features that evaluations of this model share; OUT/features when absent."""
    seed: int = 0
    """Draws the part of the training images that validates, or the few that train."""
    loader: Literal["auto", "ffcv", "torch"] = "auto"
    """torch needs no FFCV. auto: torch for small targets, which are read before FFCV has compiled."""
    workers: RunOption[int | None] = None
    """Decoding threads; this process's share of the cores when absent."""


def run(config: Config) -> None:
    """Probe, or return at once when the run is done."""
    from prune.models.networks import load_model
    from transfer.evaluation.target_splits import fingerprints, forward_flops, name_of, open_pair, pair_features

    at_least(config, 1, "shots")
    at_least(config, 0, "seed")
    network, spec = load_model(config.model)
    train, test = open_pair(config.train, config.test, config.out)
    inputs = fingerprints(config.model, train, test)
    shots = {} if config.shots is None else {"shots": config.shots}
    with claim(config.out, config, inputs) as done:
        if done:
            result = read_json(config.out / "result.json")
            return note(f"{config.out}: up to date, top-1 {result['value']:.4f}")
        import time

        begin = time.perf_counter()
        place = config.features or config.out / "features"
        found = pair_features(config.model, train, test, place, config.loader, config.workers)
        facts = _probe(config, *found)
        samples = len(train) + len(test)
        result = {
            "task": "probe" if config.shots is None else "few-shot",
            "target": name_of(config.train),
            **facts,
            **shots,
            **inputs,
            "n_train": facts.get("n_train", len(train)),
            "samples": samples,
            "flops": samples * forward_flops(network, spec["resolution"]),
            "seconds": round(time.perf_counter() - begin, 3),
        }
        write_json(config.out / "result.json", result)
        finish(config.out, seconds=result["seconds"], samples=samples, inputs=inputs)
        note(f"{config.out}: top-1 {result['value']:.4f} on {len(test)} test images of {result['target']}")


def _probe(config: Config, train: Features, test: Features) -> dict[str, Any]:
    """Fit, predict, write predictions.npz; what result.json says of it."""
    import numpy as np
    import torch

    from transfer.evaluation.few_shot import STRENGTH, draw, train_few, unit
    from transfer.evaluation.logistic import train_linear
    from transfer.evaluation.target_splits import save_predictions

    x, y = np.asarray(train.features), np.asarray(train.label)
    facts: dict[str, Any] = {}
    if config.shots is not None:
        rows = draw(y, config.shots, config.seed)
        model, strength = train_few(x[rows], y[rows]), STRENGTH
        predicted, confidence = model.predict(unit(np.asarray(test.features)))
        facts["n_train"] = len(rows)
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, strength = train_linear(x, y, seed=config.seed, device=device)
        predicted, confidence = model.predict(np.asarray(test.features))
    facts["regularisation"] = strength
    return save_predictions(config.out, np.asarray(test.label), predicted, confidence, test.classes) | facts
