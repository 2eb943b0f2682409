"""The version of Winnow, and of the libraries whose behaviour shows in results."""

from __future__ import annotations

import platform
from importlib import metadata

VERSION = "0.2.0"
_LIBRARIES = ("numpy", "torch", "timm", "ffcv", "accelerate", "faiss-cpu")


def versions() -> dict[str, str]:
    """Versions of Winnow, Python and those libraries that are installed."""
    found = {"winnow": VERSION, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
