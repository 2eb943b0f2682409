"""Where the Slurm scripts and the examples of this install lie, or a copy of them to fit to your cluster.

    winnow slurm                # prints the folder of the scripts
    winnow slurm --out cluster  # writes cluster/slurm/ and cluster/examples/; then edit cluster/slurm/env.sh

The scripts run `python -m transfer` and its like with the Python that is first in PATH, so activate its environment
before you submit, or let env.sh do it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from prune.runs.files import InputError

FOLDERS = ("slurm", "examples")


@dataclass(frozen=True)
class Config:
    out: Path | None = None
    """Folder to copy them to; it must not hold them yet. Without it, the folder of the scripts is printed."""


def run(config: Config) -> None:
    """Print the folder of the scripts, or copy scripts and examples."""
    if config.out is None:
        print(folder("slurm"))
        return
    for name in FOLDERS:
        if (config.out / name).exists():
            raise InputError(f"--out {config.out}: holds {name} already; give another folder, or remove it")
    for name in FOLDERS:
        shutil.copytree(folder(name), config.out / name, ignore=shutil.ignore_patterns("__pycache__"))
        print(config.out / name)


def folder(name: str) -> Path:
    """The folder `slurm` or `examples`: inside this package in an install, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
