"""A model of three colours, a compression of it whose second step lost class red, and images of the colours."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prune import write
from prune.models import networks
from prune.runs.files import write_json
from transfer.compression import journal
from transfer.evaluation import image_arrays

TONES = {"blue": (90, 90, 160), "green": (90, 160, 90), "red": (160, 90, 90)}
SIDE = 12


class World:
    """Where things lie, and how to draw more images."""

    tones = TONES

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run, self.known = root / "run", root / "known.beton"
        self.original = self.run / "original"

    @staticmethod
    def draw(folder: Path, each: int, seed: int, colours: dict = TONES) -> list[tuple[str, str]]:
        """Write noisy squares into class folders; their relative paths and classes, the classes in turns."""
        rng = np.random.default_rng(seed)
        found = []
        for i in range(each):
            for name, tone in colours.items():
                (folder / name).mkdir(parents=True, exist_ok=True)
                pixels = np.array(tone) + rng.normal(0, 30, (SIDE, SIDE, 3))
                path = folder / name / f"{seed}-{i:03d}.png"
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
                found.append((str(path.relative_to(folder)), name))
        return found

    @staticmethod
    def listed(place: Path, rows: list[tuple], header: tuple = ("path", "label")) -> Path:
        """Write a CSV."""
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(place, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *(row[: len(header)] for row in rows)])
        return place


def step(number: int, base: int, kind: str = "channels") -> dict:
    facts = {"what": {}, "params": 10, "bytes": 40, "accuracy": 1.0, "verdict": "accepted", "reason": ""}
    shown = {"macs": 5, "latency_ms": None, "class_used": None, "overall_used": None, "nearest": "red", "seconds": 0.0}
    return {"step": number, "base": base, "kind": kind, "per_class": {}, **facts, **shown}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once; tests that change the run take a copy."""
    root = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    World.draw(root / "known", 20, 0)
    write.run(write.Config(images=str(root / "known"), out=root / "known.beton", workers=1))
    spec = {
        "arch": "resnet18",
        "kwargs": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
        "stem": "small",
        "classes": list(TONES),
        "resolution": SIDE,
        "mean": networks.MEAN,
        "std": networks.STD,
    }
    model = networks.build(spec).eval()
    images = np.stack([np.asarray(Image.open(p)) for p in sorted((root / "known").rglob("*.png"))])
    labels = np.repeat(np.arange(3), 20)
    run, entries = root / "run", [step(0, 0, "original"), step(1, 0), step(2, 1)]
    with torch.no_grad():
        x, _ = next(image_arrays.normalised_batches(images, labels, spec, 60))
        features = networks.features_and_logits(model, x)[0].numpy().astype(np.float64)
        # Least squares instead of training: a classifier for a network that was drawn at random.
        solved = np.linalg.lstsq(np.c_[features, np.ones(60)], 10 * np.eye(3)[labels], rcond=None)[0]
        model.fc.weight.copy_(torch.tensor(solved[:-1].T))
        model.fc.bias.copy_(torch.tensor(solved[-1]))
        networks.save_model(run / "original", model, spec)
        networks.save_model(run / "steps" / "01", model, spec)
        model.fc.bias[2] = -100.0
        for place in (run / "steps" / "02", run):
            networks.save_model(place, model, spec)
    for entry in entries:
        entry["files"] = journal.file_digests(journal.step_directory(run, entry["step"]))
    journal.write_journal(run, entries)
    write_json(run / "config.json", {})
    return World(root)
