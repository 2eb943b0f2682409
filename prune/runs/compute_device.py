"""Which device computes: what --device or WINNOW_DEVICE names; otherwise the GPU, if there is one.

A job that was given a GPU and cannot use it is refused: trained on the CPU it would take a hundred times as long, and
nobody would see why.
"""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from prune.runs.files import InputError

DeviceFlag = Literal["auto", "cpu", "cuda"]
LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""First driver for which NVIDIA promises that programs built for a major version of CUDA run."""
_asked: list[DeviceFlag] = []
_NONE = ("", "-1", "NoDevFiles", "none", "void")  # how users and schedulers say that there is no GPU


@contextmanager
def using(device: DeviceFlag) -> Iterator[None]:
    """Compute on this device within the block; "auto" leaves the choice to WINNOW_DEVICE and to the machine."""
    _asked.append(device)
    try:
        yield
    finally:
        _asked.pop()


def asked() -> DeviceFlag:
    """What the innermost --device says, or else WINNOW_DEVICE."""
    for device in reversed(_asked):
        if device != "auto":
            return device
    if (named := os.environ.get("WINNOW_DEVICE") or "auto") not in ("auto", "cpu", "cuda"):
        raise InputError(f"WINNOW_DEVICE={named}: auto, cpu or cuda is expected in the environment")
    return named  # type: ignore[return-value]


def current() -> Literal["cpu", "cuda"]:
    """The device that computes now.

    Raises
    ------
    InputError
        A GPU was asked for, or given to this job, and cannot be used.
    """
    import torch

    if (wanted := asked()) == "cpu":
        return "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of is in our own message
        if torch.cuda.is_available():
            return "cuda"
    if wanted == "cuda":
        raise InputError(f"--device cuda: no GPU can be used: {_facts()}: give --device cpu")
    if given():
        raise InputError(
            f"this job was given a GPU, which cannot be used: {_facts()}: update the driver, install a torch that was "
            "built for it, or give --device cpu (or set WINNOW_DEVICE=cpu)"
        )
    return "cpu"


def visible() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none with --device cpu.

    torch is not imported, which takes seconds and would take memory of a GPU.
    """
    if asked() == "cpu":
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [] if named.strip() in _NONE else [name.strip() for name in named.split(",") if name.strip()]
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(k) for k, _ in enumerate(found.stdout.splitlines())] if found.returncode == 0 else []


def given() -> bool:
    """Whether this process was given an NVIDIA GPU, by its environment or by the devices that it may open."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return visible.strip() not in _NONE
    if any(os.environ.get(name, "").strip() not in ("", "0") for name in ("SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")):
        return True
    return any(_opens(place) for place in Path("/dev").glob("nvidia[0-9]*"))


def _opens(place: Path) -> bool:
    """Slurm forbids devices by cgroups, which the permissions of the file do not show."""
    try:
        os.close(os.open(place, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _facts() -> str:
    """Why torch uses no GPU: its own words, the driver, and what it was built for."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.init()
        reason = "no GPU is visible"
    except Exception as error:  # torch raises several kinds here
        reason = str(error).strip().splitlines()[0].rstrip(".")
    build = torch.version.cuda
    if build is None:
        return f"{reason} ({driver()}, torch {torch.__version__} is built without CUDA)"
    least = LEAST_DRIVER.get(int(build.split(".")[0]))
    needs = f", which needs driver {least} or later" if least else ""
    return f"{reason} ({driver()}, torch {torch.__version__} is built for CUDA {build}{needs})"


def driver(place: Path = Path("/proc/driver/nvidia/version")) -> str:
    """The NVIDIA driver of this machine, as `driver 550.54.15`, or `no NVIDIA driver`."""
    try:
        text = place.read_text(encoding="utf-8")
    except OSError:
        return "no NVIDIA driver"
    found = re.search(r"\b(\d{3}\.\d+(\.\d+)?)\b", text)
    return f"driver {found[1]}" if found else "an NVIDIA driver of unknown version"
