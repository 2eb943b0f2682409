"""Manifest and features of a source of any size, and of a target, generated in the likeness of a web pool."""

from __future__ import annotations

from pathlib import Path

DIMENSIONS, BLOCK = 64, 1 << 17
MANIFEST, FEATURES = "source.manifest.npz", "source.features.npz"
TARGET = "target.train.features.npz"
MODEL = {"arch": "generated", "classes": [], "fingerprint": "generated"}


def classes_of(n: int) -> int:
    """Number of classes of a source of n images."""
    return max(100, min(10_000, n // 100))


def labels_of(n: int):
    """Ascending labels whose classes' sizes fall from 100 to 1, as a Zipf law with a long head: (n,) int32."""
    import numpy as np

    c = classes_of(n)
    weight = 1.0 / (np.arange(c) + c / 99)
    ends = np.round(np.cumsum(weight) / weight.sum() * n).astype(np.int64)
    return np.repeat(np.arange(c, dtype=np.int32), np.diff(ends, prepend=0))


def fill_ids(ids, labels) -> None:
    """Write sorted ids of 52 bytes, as web pools have them: folder, class, number, hash."""
    import numpy as np

    from prune.index.matching import mixed

    for begin in range(0, len(ids), BLOCK):
        part = labels[begin : begin + BLOCK].tolist()
        marks = mixed(np.arange(begin, begin + len(part), dtype=np.uint64) + np.uint64(1)).tolist()
        ids[begin : begin + len(part)] = [
            b"part-%04d/class-%05d/%09d-%016x.jpg" % (k // 100, k, begin + i, mark)
            for i, (k, mark) in enumerate(zip(part, marks))
        ]


def make_manifest(n: int, place: Path) -> None:
    """Write the source's manifest."""
    import numpy as np

    from prune.index.manifest import Manifest
    from prune.index.matching import mixed

    labels = labels_of(n)
    ids = np.lib.format.open_memmap(place / "ids.npy", "w+", "S52", (n,))
    fill_ids(ids, labels)
    digests, small = mixed(np.arange(n, dtype=np.uint64)), np.full(n, 224, np.int32)
    names = [f"class-{k:05d}" for k in range(classes_of(n))]
    Manifest(ids, labels, small + 20_000, small, small, digests, digests.astype("u4"), names).save(place / MANIFEST)
    (place / "ids.npy").unlink()


def centres_of(c: int, rng):
    """Mean features of c classes in four domains: (c, DIMENSIONS) float32."""
    import numpy as np

    domains = 2.0 * rng.normal(size=(4, DIMENSIONS))
    return (domains[np.arange(c) % 4] + rng.normal(size=(c, DIMENSIONS))).astype(np.float32)


def make_features(n: int, place: Path) -> None:
    """Write the source's features."""
    import numpy as np

    from prune.index.manifest import Manifest
    from prune.scores.feature_files import write_features

    rng = np.random.default_rng(0)
    labels, centres = labels_of(n), centres_of(classes_of(n), rng)
    features = np.lib.format.open_memmap(place / "features.npy", "w+", np.float16, (n, DIMENSIONS))
    for begin in range(0, n, BLOCK):
        x = centres[labels[begin : begin + BLOCK]]
        x = x + rng.standard_normal(x.shape, np.float32)
        copies = np.arange(50, len(x), 50)
        far = 10.0 ** rng.uniform(-2, -0.5, (len(copies), 1))  # near-duplicates, 2 in 100, of which some are less near
        x[copies] = x[copies - 1] + far * rng.standard_normal((len(copies), DIMENSIONS), np.float32)
        features[begin : begin + len(x)] = x
    held, empty = Manifest.load(place / MANIFEST), np.empty((n, 0), np.float16)
    write_features(place / FEATURES, features, empty, held, place / MANIFEST, MODEL)
    (place / "features.npy").unlink()


def make_target(n: int, place: Path) -> None:
    """Write the manifest and the features of a target of 5,000 images."""
    import numpy as np

    from prune.index.manifest import Manifest
    from prune.scores.feature_files import write_features

    centres = centres_of(classes_of(n), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    m, of = 5_000, np.arange(0, min(len(centres), 80), 4)
    wanted = rng.integers(0, len(of), m)
    ids, small = np.array([b"class/%05d.jpg" % i for i in range(m)]), np.full(m, 224, np.int32)
    manifest = place / "target.train.manifest.npz"
    Manifest(ids, wanted.astype("i4"), small, small, small, np.arange(m, dtype="u8"), small.astype("u4"),
             [f"t{k}" for k in range(len(of))]).save(manifest)  # fmt: skip
    x = (centres[of[wanted]] + rng.normal(size=(m, DIMENSIONS))).astype(np.float16)
    write_features(place / TARGET, x, np.empty((m, 0), np.float16), Manifest.load(manifest), manifest, MODEL)
