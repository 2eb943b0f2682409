"""k nearest neighbours: how well do a target's classes lie together in a model's frozen features, without training?

    python -m transfer knn --model runs/backbone --train pets.train.beton --test pets.test.beton --out runs/knn-pets

Every test image is given the class for which its nearest training images vote, weighted by their cosine. Features are
kept in OUT/features, or wherever --features says, where other evaluations find them. Writes OUT/result.json and
OUT/predictions.npz. The test images choose neither the number of neighbours nor the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prune.runs.files import InputError, at_least, note, read_json, write_json
from prune.runs.identity import Location, RunOption
from prune.runs.outputs import claim, finish


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
    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """A neighbour's vote counts exp(cosine / temperature)."""
    features: Location[Path | None] = None
    """Directory of features that evaluations of this model share; OUT/features when absent."""
    loader: Literal["auto", "ffcv", "torch"] = "auto"
    """torch needs no FFCV. auto: torch for small targets, which are read before FFCV has compiled."""
    workers: RunOption[int | None] = None
    """Decoding threads; this process's share of the cores when absent."""


_COLDEST = 1e-30  # a single-precision number by which cosines can be divided


def run(config: Config) -> None:
    """Classify, or return at once when the run is done."""
    from prune.models.networks import load_model
    from transfer.evaluation.target_splits import (
        fingerprints,
        forward_flops,
        name_of,
        open_pair,
        pair_features,
        save_predictions,
    )

    at_least(config, 1, "k")
    if not _COLDEST <= config.temperature < float("inf"):
        raise InputError(f"--temperature {config.temperature}: a number of at least {_COLDEST:g} is needed")
    network, spec = load_model(config.model)
    train, test = open_pair(config.train, config.test, config.out)
    inputs = fingerprints(config.model, train, test)
    with claim(config.out, config, inputs) as done:
        if done:
            result = read_json(config.out / "result.json")
            return note(f"{config.out}: up to date, top-1 {result['value']:.4f}")
        import time

        import numpy as np
        import torch

        from transfer.evaluation.nearest_neighbours import classify

        begin = time.perf_counter()
        place = config.features or config.out / "features"
        near, asked = pair_features(config.model, train, test, place, config.loader, config.workers)
        predicted, confidence = classify(
            np.asarray(near.features),
            np.asarray(near.label),
            np.asarray(asked.features),
            classes=len(asked.classes),
            k=config.k,
            temperature=config.temperature,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
        samples = len(train) + len(test)
        result = {
            "task": "knn",
            "target": name_of(config.train),
            **save_predictions(config.out, np.asarray(asked.label), predicted, confidence, asked.classes),
            **inputs,
            "k": config.k,
            "temperature": config.temperature,
            "n_train": len(train),
            "samples": samples,
            "flops": samples * forward_flops(network, spec["resolution"]),
            "seconds": round(time.perf_counter() - begin, 3),
        }
        write_json(config.out / "result.json", result)
        finish(config.out, seconds=result["seconds"], samples=samples, inputs=inputs)
        note(f"{config.out}: top-1 {result['value']:.4f} on {len(test)} test images of {result['target']}")
