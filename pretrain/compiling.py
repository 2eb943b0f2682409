"""Whether `torch.compile` is used: as --compile says; with `auto` where the recipe wants it and the machine can."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Literal

import torch

from prune.runs.files import InputError

CompileFlag = Literal["auto", "on", "off"]


def decide(asked: CompileFlag, wanted: bool, device: torch.device) -> tuple[bool, str]:
    """Whether to compile, and in words why or why not.

    Parameters
    ----------
    asked : {"auto", "on", "off"}
        "auto": where `wanted`, on a GPU, with a compiler.
    wanted : bool
        The recipe's own choice.
    device : torch.device

    Raises
    ------
    InputError
        "on", and this machine lacks what compiling needs.
    """
    if asked == "off":
        return False, "not compiled (--compile off)"
    lack = missing(device)
    if asked == "on":
        if lack:
            raise InputError(f"--compile on: {lack}: load a module that brings it, or give --compile off")
        return True, "compiled"
    if not wanted:
        return False, "not compiled"
    if device.type != "cuda":
        return False, "not compiled (no GPU)"
    return (False, f"not compiled: {lack}") if lack else (True, "compiled")


def missing(device: torch.device) -> str:
    """What `torch.compile` lacks on this machine, in words; '' when nothing."""
    named = os.environ.get("CC" if device.type == "cuda" else "CXX", "")
    names = [named] if named else ["gcc", "clang", "cc"] if device.type == "cuda" else ["g++", "clang++", "c++"]
    if not any(shutil.which(name) for name in names):
        return f"this machine has no compiler ({', '.join(names)})"
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "the package triton is not installed"
        if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():  # Triton compiles a small module
            return "Python's headers (Python.h) are not installed"
    return ""
