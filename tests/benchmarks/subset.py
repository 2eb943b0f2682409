"""Link a part of a directory of class folders, for benchmarks on a smaller scale."""

from __future__ import annotations

import os
from pathlib import Path


def thinned(source: Path, place: Path, classes: slice, kept: slice) -> Path:
    """Make links at `place` to some images of some classes of `source`, both in the order of their names."""
    if not place.is_dir():
        for folder in sorted(path for path in source.iterdir() if path.is_dir())[classes]:
            (place / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[kept]:
                os.symlink(file.resolve(), place / folder.name / file.name)
    return place
