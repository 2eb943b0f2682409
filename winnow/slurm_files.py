"""Print where this install has the Slurm scripts, or copy them and the examples to adapt them to your cluster.

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
    """Folder to copy to, without `slurm` and `examples` in it yet; when absent, the scripts' folder is printed."""


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
