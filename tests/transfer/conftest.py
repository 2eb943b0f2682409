"""A study made up with known accuracies, and a headless Chromium to look at its page."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prune.index.npz import save_arrays
from prune.runs.files import write_json

FLOPS = 1e12  # of one pretraining on full data
_PATIENCE = 120


def made_up_study(
    folder: Path,
    accuracy: Mapping[tuple[str, float], float],
    *,
    targets: Sequence[str] = ("birds", "cars"),
    seeds: Sequence[int] = (0, 1, 2),
    evaluations: Sequence[str] = ("probe",),
    images: int = 4000,
    noise: float = 0.003,
    flips: float = 0.1,
    surrogate: float = 0.05,
    classes: Sequence[str] = (),
    leaks: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write results.json and predictions of a study whose conditions have these accuracies (0 to 1), on every target.

    A run's accuracy varies by `noise` from seed to seed; a share of `flips` of the images is right or wrong by chance.
    The surrogate costs `surrogate` of one pretraining on full data. With `classes`, the selections have index files
    over a source of 40 images each, with a beton and scores. Without `leaks` the results are those of an older study,
    which did not look for them.
    """
    rng = np.random.default_rng(5)
    cells: list[dict[str, Any]] = []
    for evaluation in evaluations:
        for target in targets:
            label = rng.integers(0, 10, images).astype("<i4")
            ease = rng.permutation(images) / images
            for (method, keep), level in accuracy.items():
                for seed in seeds:
                    run = level + noise * rng.standard_normal()
                    right = ease + flips * (rng.random(images) - 0.5) < run
                    place = f"probes/{evaluation}/{method}-{keep:g}-{seed}/{target}/predictions.npz"
                    predicted = np.where(right, label, (label + 1) % 10).astype("<i4")
                    (folder / place).parent.mkdir(parents=True, exist_ok=True)
                    arrays = {"label": label, "predicted": predicted, "confidence": np.ones(images, "<f4")}
                    save_arrays(folder / place, arrays, {"format": "winnow-predictions/1"})
                    cell = {"method": method, "keep": keep, "seed": seed, "target": target, "evaluation": evaluation}
                    cells.append({**cell, "value": float(right.mean()), "n": images, "predictions": place})
    ledger = [_entry("surrogate", surrogate, seed=s) for s in seeds] + [_entry("write", 0.01)]
    ledger += [_entry("pretrain", k, method=m, keep=k, seed=s) for m, k in accuracy for s in seeds]
    results = {
        "format": "winnow-study/1",
        "config": {"targets": list(targets), "seeds": list(seeds), "margin": 0.5, "evaluations": list(evaluations)},
        "machine": "2 cores <made up>",
        "cells": cells,
        "ledger": ledger,
        "selections": _selections(folder, list(accuracy), list(classes)) if classes else [],
        "commands": ["transfer study --source photos --targets birds=data/birds --out runs/x"],
    }
    write_json(folder / "results.json", {**results, **({} if leaks is None else {"leaks": leaks})})
    return folder


def _entry(stage: str, share: float, **facts: Any) -> dict[str, Any]:
    known = {"method": None, "keep": None, "seed": None, **facts}
    return {"stage": stage, "name": stage, **known, "seconds": 3600 * share, "samples": 0, "flops": FLOPS * share}


def _selections(folder: Path, conditions: list[tuple[str, float]], classes: list[str]) -> list[dict[str, Any]]:
    from PIL import Image

    from prune.data.beton import BetonWriter
    from prune.index.manifest import Manifest
    from prune.index.pruned_index import PrunedIndex

    rng = np.random.default_rng(0)
    each, n = 40, 40 * len(classes)
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), each)
    (folder / "data").mkdir()
    with BetonWriter(folder / "data" / "source.beton", n) as writer:
        for row in range(n):
            shade = Image.new("RGB", (32, 24), tuple(rng.integers(40, 255, 3).tolist()))
            data = io.BytesIO()
            shade.save(data, "JPEG")
            writer.add(data.getvalue(), jpeg=True, height=24, width=32, label=int(labels[row]))
    ids = np.array([f"{label:04d}/{row}.jpg".encode() for row, label in enumerate(labels)])
    column = np.full(n, 24, np.int32)
    numbers = {"nbytes": column * 10, "width": column, "height": column, "crc32": np.zeros(n, np.uint32)}
    manifest = Manifest(ids=ids, labels=labels, digests=np.arange(n, dtype=np.uint64), classes=classes, **numbers)
    weights = rng.dirichlet(np.ones(len(classes))).astype("<f4")
    arrays = {
        "sample/el2n": rng.random(n).astype("<f4"),
        "class/lm-soft/birds": weights,
        "label": labels,
        "position": np.arange(n),
        "duplicate_of": np.where(np.arange(n) % each == 1, np.arange(n) - 1, -1),
    }
    (folder / "scores").mkdir()
    meta = {"format": "winnow-scores/1", "fingerprint": manifest.fingerprint, "targets": ["birds"]}
    save_arrays(folder / "scores" / "s0.scores.npz", arrays, meta)
    (folder / "indices").mkdir()
    found = []
    for method, keep in conditions:
        if method.startswith("full") or method == "random-equal-time":
            continue
        rows = np.sort(rng.choice(n, round(keep * n), replace=False))
        step = {"step": "select", "method": {"quota": "size" if method == "random" else "soft"}}
        place = f"indices/{method}-{keep:g}.index.npz"
        PrunedIndex.from_rows(manifest, rows, provenance=[step]).save(folder / place)
        found.append({"method": method, "keep": keep, "seed": 0, "index": place})
    return found


@pytest.fixture(scope="session")
def make_study():
    """`made_up_study`, for fixtures that live longer than a test."""
    return made_up_study


@pytest.fixture
def study(tmp_path: Path):
    """`made_up_study` in a fresh directory."""

    def make(accuracy: Mapping[tuple[str, float], float], **settings: Any) -> Path:
        folder = tmp_path / "study"
        folder.mkdir()
        return made_up_study(folder, accuracy, **settings)

    return make


COLOURS = {"blue": (40, 40, 190), "green": (40, 190, 40), "red": (190, 40, 40)}


class ColourCase:
    """What a compression needs, tiny: a beton of three colours, every fourth image to preserve, random weights.

    Parameters
    ----------
    root : Path
    spec : mapping
        Of the network: what `networks.build` reads beside classes, mean, std and the resolution of 16.
    values : any
        Flags of `transfer compress` that all runs have.
    """

    def __init__(self, root: Path, spec: Mapping[str, Any], **values: Any) -> None:
        import torch
        from PIL import Image

        from prune import write
        from prune.data.dataset import open_dataset
        from prune.index.pruned_index import PrunedIndex
        from prune.models import networks

        self.root, self.values = root, values
        self.model, self.train, self.preserve = root / "model", root / "train.beton", root / "set.index.npz"
        self.spec = {
            **spec, "classes": list(COLOURS), "resolution": 16, "mean": networks.MEAN, "std": networks.STD
        }  # fmt: skip
        draw = np.random.default_rng(0)
        for name, colour in COLOURS.items():
            (root / "images" / name).mkdir(parents=True)
            for i in range(16):
                pixels = np.clip(colour + draw.normal(0, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / "images" / name / f"{i:02d}.png")
        write.run(write.Config(images=str(root / "images"), out=self.train, workers=1))
        manifest = open_dataset(self.train).manifest
        PrunedIndex.from_rows(manifest, np.arange(0, len(manifest), 4), provenance=[]).save(self.preserve)
        torch.manual_seed(0)
        networks.save_model(self.model, networks.build(self.spec).eval(), self.spec)

    def config(self, out: Path, **more: Any) -> Any:
        """Configuration of `transfer compress` with this case's flags, and `more`."""
        from transfer import compress

        flags: dict[str, Any] = {
            "model": self.model, "train": self.train, "preserve": self.preserve, "out": out, "margin": None,
            "class_margin": None, "size": 0.3, "ratio": 0.25, "batch_size": 12, "importance_images": 12,
            "latency": "none", "threads": 1, "workers": 1, "loader": "torch", "recovery_epochs": 1.0, "steps": 2,
        }  # fmt: skip
        return compress.Config(**{**flags, **self.values, **more})

    @staticmethod
    def files(directory: Path) -> dict[str, bytes]:
        """Content of a model directory's files, by name."""
        return {p.name: p.read_bytes() for p in directory.iterdir() if p.name.startswith("model.")}


@pytest.fixture(scope="session")
def make_colour_case():
    """`ColourCase`, for fixtures that live longer than a test."""
    return ColourCase


class Browser:
    """A page in headless Chromium, driven over the DevTools protocol through a pipe; nothing listens on a port."""

    def __init__(self, command: list[str]) -> None:
        to_read, self._send = os.pipe()
        self._receive, to_write = os.pipe()

        def connect() -> None:  # Chromium reads commands from descriptor 3 and answers on 4
            high = os.dup(to_read), os.dup(to_write)
            while min(high) < 5:
                high = os.dup(high[0]), os.dup(high[1])
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            command, preexec_fn=connect, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what the page reports meanwhile goes to `events`."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path, width: int = 1280, **media: str) -> None:
        """Load a file in a window of this width, with these CSS media features, until its script has run."""
        self.events.clear()
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        assert self.run("document.documentElement.dataset.ready") == "yes", self.complaints()
        # What the page asks for arrives before this answer: the frame after next is on the screen.
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a `<select>`, as a user does."""
        self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); one.value = {json.dumps(value)};"
            "one.dispatchEvent(new Event('change', { bubbles: true })); })()"
        )

    def complaints(self) -> list[str]:
        """Everything in the console, and every exception that nobody caught."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def serious(self) -> list[str]:
        """What axe-core calls serious or critical on the page, with the first element of each."""
        (folder,) = find_spec("axe_playwright_python").submodule_search_locations
        self.run((Path(folder) / "axe.min.js").read_text(encoding="utf-8") + "; 1")
        found = self.run("axe.run(document, { resultTypes: ['violations'] }).then((r) => r.violations)")
        worst = [one for one in found if one["impact"] in ("serious", "critical")]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in worst]

    def screenshot(self, *, whole: bool = False) -> bytes:
        """PNG of the window, or of the whole page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **_clip(self, whole))
        return base64.b64decode(answer["data"])

    def close(self) -> None:
        """End Chromium."""
        for end in (self._send, self._receive):
            os.close(end)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            readable, _, _ = select.select([self._receive], [], [], _PATIENCE)
            if not readable:
                pytest.fail(f"Chromium has not answered for {_PATIENCE} s")
            part = os.read(self._receive, 1 << 20)
            if not part:
                pytest.fail(f"Chromium ended with code {self._process.wait()}")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


def _clip(browser: Browser, whole: bool) -> dict[str, Any]:
    if not whole:
        return {}
    size = browser.call("Page.getLayoutMetrics")["cssContentSize"]
    return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium; the test fails where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.fail("no Chromium: `apt-get install -y --no-install-recommends chromium` brings it", pytrace=False)
    profile = tmp_path_factory.mktemp("chromium")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-extensions", f"--user-data-dir={profile}"]
    found = Browser([program, *flags, "--remote-debugging-pipe"])
    yield found
    found.close()
