"""Small betons that training tests share, and processes to train on them."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from prune.data.beton import BetonWriter
from prune.index.manifest import Manifest, digest, manifest_path


def write_small_beton(path: Path, n: int, classes: int = 4, side: int = 32, seed: int = 0) -> Path:
    """Write `n` images of coloured stripes: the class decides colour and direction, noise does the rest."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    ids, sizes, digests, checks = [], [], [], []
    with BetonWriter(path, n) as writer:
        for row, label in enumerate(labels):
            wave = np.sin(np.arange(side) * (0.4 + 0.3 * label) + draw.random() * 6)
            image = np.broadcast_to(wave[:, None] if label % 2 else wave[None, :], (side, side))
            colour = 60 * np.array([label % 2, label // 2 % 2, 1.0])
            pixels = 110 + colour + 40 * image[..., None] + draw.normal(0, 25, (side, side, 3))
            data = np.clip(pixels, 0, 255).astype(np.uint8).tobytes()
            writer.add(data, jpeg=False, height=side, width=side, label=int(label))
            ids.append(f"c{label}/{row:05d}.png".encode())
            sizes.append(len(data))
            digests.append(digest(data))
            checks.append(zlib.crc32(data))
    sides = np.full(n, side, np.int32)
    Manifest(
        ids=np.array(ids),
        labels=labels.astype(np.int32),
        nbytes=np.array(sizes, np.int32),
        width=sides,
        height=sides,
        digests=np.array(digests, np.uint64),
        crc32=np.array(checks, np.uint32),
        classes=[f"c{k}" for k in range(classes)],
        meta={"source": "generated", "skipped": []},
    ).save(manifest_path(path))
    return path


@pytest.fixture(scope="session")
def write_beton():
    """The function above, for tests that need a beton of their own."""
    return write_small_beton


@pytest.fixture(scope="session")
def beton(tmp_path_factory) -> Path:
    """300 images of 32 px in 4 classes."""
    return write_small_beton(tmp_path_factory.mktemp("betons") / "small.beton", 300)


@pytest.fixture(scope="session")
def val_beton(tmp_path_factory) -> Path:
    """101 images of the same classes: an uneven number for any number of ranks."""
    return write_small_beton(tmp_path_factory.mktemp("val") / "val.beton", 101, seed=1)


@pytest.fixture(scope="session")
def fork():
    """Ask the nursery for runs of one or several processes."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("nursery.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    ) as process:
        assert process.stdout.readline() == "ready\n"

        def ask(world: int, config: dict, **more) -> dict:
            process.stdin.write(json.dumps({"world": world, "config": config, **more}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()
