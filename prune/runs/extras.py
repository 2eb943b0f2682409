"""Which extra of the distribution brings a third-party module: the way out that is printed when one is missing."""

from __future__ import annotations

DISTRIBUTION = "winnow-pretrain"
EXTRA = {
    "filelock": "",
    "numpy": "",
    "rich": "",
    "tyro": "",
    "PIL": "train",
    "accelerate": "train",
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
    "jinja2": "report",
    "plotly": "report",
    "onnx": "device",
    "onnxruntime": "device",
    "onnxscript": "device",
    "torch_pruning": "device",
}
"""Name under which a module is imported, and the extra that installs it; "" where every install has it."""


def install_command(module: str) -> str:
    """What to type when `module` is missing.

    >>> install_command("plotly")
    "pip install 'winnow-pretrain[report]'"
    """
    extra = EXTRA[module]
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"
