"""Classify pictures with an exported network: ONNX Runtime and NumPy, and nothing of this project.

python examples/run_onnx.py model.int8.onnx picture.npy [more.npy ...]

A picture is a uint8 array (height, width, 3), RGB, as a camera or any decoder gives it, or several of one size,
(n, height, width, 3). Resolution, normalisation and class names are in the ONNX file.
"""

import json
import sys
from typing import NoReturn

import numpy as np
import onnxruntime


def fitted(picture: np.ndarray, side: int, ratio: float = 1.0) -> np.ndarray:
    """Cut the central square of a picture and resize it by averaging over areas: (side, side, 3) uint8.

    `ratio`: side of the square as a share of the shorter side.
    """
    small = max(1, int(min(picture.shape[:2]) * ratio))
    top, left = ((length - small) // 2 for length in picture.shape[:2])
    square = picture[top : top + small, left : left + small].astype(np.float64)
    edges = np.arange(side + 1) * small / side
    for axis in (0, 1):
        whole = np.concatenate([np.zeros_like(square.take([0], axis)), square.cumsum(axis)], axis)
        below = np.minimum(edges.astype(int), small - 1)
        share = (edges - below).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        until = whole.take(below, axis) * (1 - share) + whole.take(below + 1, axis) * share
        square = np.diff(until, axis=axis) * side / small
    return np.rint(square).astype(np.uint8)


def refuse(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(2)


def read(name: str) -> np.ndarray:
    """Open pictures: (n, height, width, 3) uint8."""
    try:
        pictures = np.asarray(np.load(name, allow_pickle=False))
    except (OSError, ValueError, EOFError, MemoryError) as error:
        refuse(f"{name}: not an array of numpy.save ({error})")
    if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4) or pictures.shape[-1] != 3 or not pictures.size:
        found = f"{pictures.dtype} {pictures.shape}"
        refuse(f"{name}: uint8 (height, width, 3) or (n, height, width, 3), RGB, is expected; this is {found}")
    return pictures[None] if pictures.ndim == 3 else pictures


def main(file: str, *pictures: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is said below, in one line
    try:
        network = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        facts = json.loads(network.get_modelmeta().custom_metadata_map["winnow"])
    except Exception as error:  # ONNX Runtime has a class of its own for every kind of broken file
        refuse(f"{file}: not a network of `transfer export` ({str(error).splitlines()[0][:200]})")
    for name in pictures:
        for image in read(name):
            shown = fitted(image, facts["resolution"], facts.get("crop_ratio", 1.0))
            logits = network.run(["logits"], {"images": shown[None]})[0][0]
            likely = np.exp(logits - logits.max())
            likely /= likely.sum()
            best = np.argsort(-likely, kind="stable")[:3]
            print(name, *(f"{facts['classes'][k]} {likely[k]:.3f}" for k in best), sep="  ")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        refuse(__doc__)
    main(*sys.argv[1:])
