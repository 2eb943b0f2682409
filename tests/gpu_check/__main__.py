"""Check on this machine's GPU what only a GPU can show: the first command to run on a new one, at most 5 minutes.

    python -m tests.gpu_check                          all parts; exit code 1 when a check of correctness fails
    python -m tests.gpu_check --parts step resume      some parts (with what they need)
    python -m tests.gpu_check --device cpu --tiny      the same code on a CPU in a minute, as the tests run it

Needs torch, torchvision, timm, accelerate and tyro. What else is not installed (FFCV's library, OpenCV, SciPy, faiss,
torch-pruning, ONNX) is listed as not checked. Speeds are printed beside their goal and decide nothing. OUT/check.json
is written after each part, so that a check that was cut short tells what it had found.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

PARTS = ("facts", "data", "loader", "step", "variants", "resume", "numbers", "features", "transfer")
CAPS = {"facts": 60, "data": 90, "loader": 90, "step": 120, "variants": 150, "resume": 150, "numbers": 90}
OPTIONAL = ("cv2", "scipy", "faiss", "ffcv", "numba", "rich", "filelock", "onnx", "onnxruntime", "onnxscript")
OPTIONAL += ("torch_pruning",)


@dataclass(frozen=True)
class Config:
    out: Path | None = None
    """Directory for check.json and what the parts write; a temporary one when absent."""
    parts: tuple[Literal[PARTS], ...] = PARTS  # type: ignore[valid-type]
    """Parts to run; data always runs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU; a machine whose GPU cannot be used is refused."""
    tiny: bool = False
    """Small networks and few images: shows that the check runs, not what the machine can do."""
    without: tuple[str, ...] = ()
    """Modules to treat as not installed."""


def installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    return importlib.util.find_spec(module) is not None


def main(config: Config) -> int:
    """Run the parts; the exit code."""
    for name in config.without:
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were not there
    lacking = [name for name in OPTIONAL if not installed(name)]
    from tests.gpu_check import stand_ins

    stand_ins.install(lacking)
    import torch

    from prune.runs import compute_device
    from tests.gpu_check import data_parts, result_parts, training_parts
    from tests.gpu_check.report import Report
    from tests.gpu_check.sizes import Setting

    memory = "/dev/shm" if config.tiny and os.access("/dev/shm", os.W_OK) else None  # a busy disk would be measured
    folder = tempfile.TemporaryDirectory(prefix="gpu-check-", dir=memory) if config.out is None else None
    out = Path(folder.name) if folder else config.out
    assert out is not None
    report = Report(out.resolve())
    work = {
        "facts": data_parts.facts,
        "data": data_parts.data,
        "loader": data_parts.loader,
        "step": training_parts.step,
        "variants": training_parts.variants,
        "resume": training_parts.resume,
        "numbers": result_parts.numbers,
        "features": result_parts.features,
        "transfer": result_parts.transfer,
    }
    with compute_device.using(config.device):
        device = torch.device(compute_device.current())
        setting = Setting(report, report.out / "work", device, config.tiny, lacking)
        os.environ["WINNOW_DEVICE"] = device.type  # for the commands and processes of the parts
        for name, part in work.items():
            if name == "data" or name in config.parts:
                cap = CAPS.get(name, 150) * (4 if config.tiny else 1)  # the tests' machine may have other work
                report.run(name, cap, lambda part=part: part(setting))
    print(report.table())
    if folder:
        folder.cleanup()
    else:
        print(f"{report.out / 'check.json'}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    from prune.runs.files import InputError

    try:
        sys.exit(main(tyro.cli(Config, description=__doc__)))
    except InputError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        sys.exit(2)
