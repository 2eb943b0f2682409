"""Shared by all tests: a small generated data set and the betons made of it, once a session."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings

# The same examples on every machine, however slow; `pytest --hypothesis-profile search` looks for new ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("steady")

# Two cores, several processes: spinning threads cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What the tests expect is what a CPU gives, also where there is a GPU, or one that cannot be used. `make gpu-check`
# is the test of a GPU.
os.environ.setdefault("WINNOW_DEVICE", "cpu")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses the browser; `make quick` leaves it out, and its neighbours in the file not."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Draw the generated data set at a small size: `root`, `truth`, and betons `source`, `train`, `test`."""
    from prune import generate, write
    from prune.runs.files import read_json

    root = tmp_path_factory.mktemp("toy")
    generate.run(
        generate.Config(out=root / "data", per_class=40, rare=8, target_train=12, target_test=12, duplicates=0.1)
    )
    betons = {"source": "source/train", "train": "signs/train", "test": "signs/test"}
    for name, folder in betons.items():
        classes = root / "train.manifest.npz" if name == "test" else None
        write.run(write.Config(images=str(root / "data" / folder), out=root / f"{name}.beton", classes=classes))
    return SimpleNamespace(
        root=root, truth=read_json(root / "data/truth.json"), **{name: Path(root / f"{name}.beton") for name in betons}
    )
