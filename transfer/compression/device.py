"""Are the packages there that write and run files for devices?"""

from __future__ import annotations

import importlib.util

from prune.runs.extras import missing
from prune.runs.files import InputError

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def need_device() -> None:
    """Raise `InputError` when a package of the extra `device` is missing."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise InputError(missing(name))
