"""Which extra of the distribution brings a third-party module: the way out that is printed when one is missing."""

from __future__ import annotations

import importlib.util

from prune.runs.files import InputError

DISTRIBUTION = "winnow-pretrain"
EXTRA = {
    "filelock": "",
    "numpy": "",
    "rich": "",
    "tyro": "",
    "PIL": "train",
    "accelerate": "train",
    "braceexpand": "train",
    "cv2": "train",
    "faiss": "train",
    "safetensors": "train",
    "scipy": "train",
    "timm": "train",
    "torch": "train",
    "torchvision": "train",
    "ffcv": "ffcv",
    "llvmlite": "ffcv",
    "numba": "ffcv",
    "pyarrow": "parquet",
    "datasets": "hub",
    "huggingface_hub": "hub",
    "jinja2": "report",
    "markupsafe": "report",
    "plotly": "report",
    "constriction": "codecs",
    "google": "device",
    "onnx": "device",
    "onnxruntime": "device",
    "onnxscript": "device",
    "torch_pruning": "device",
    "tokenizers": "language",
    "transformers": "language",
    "tensorboard": "trackers",
    "wandb": "trackers",
}
"""Name under which a module is imported, and the extra that installs it; "" where every install has it."""


def missing(module: str) -> str:
    """Say in one line which extra is not installed, and what to type.

    Examples
    --------
    >>> missing("plotly")
    "the extra 'report' is not installed (no module plotly): pip install 'winnow-pretrain[report]'"
    """
    if extra := EXTRA[module]:
        return f"the extra {extra!r} is not installed (no module {module}): pip install '{DISTRIBUTION}[{extra}]'"
    return f"the module {module} is not installed: pip install {DISTRIBUTION}"


def need_modules(*modules: str) -> None:
    """Raise `InputError` when one of these modules is not installed: for steps that import it late in their work."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise InputError(missing(module))
