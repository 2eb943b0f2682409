"""Read `model.json` as a file from a stranger: every field is checked before anything is built from it.

What decides which code runs is a closed list: an architecture by timm's plain name, and the keyword arguments below.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, read_json

FORMAT = "winnow-model/1"
STEMS = ("imagenet", "half", "small")
SIDES = (8, 4096)
"""Smallest and largest side of an image in pixels."""
_COUNTS = {
    "img_size": SIDES,
    "patch_size": (1, 256),
    "embed_dim": (1, 8192),
    "depth": (1, 128),
    "num_heads": (1, 256),
}
_LISTS = {"channels": (1, 8192), "layers": (1, 128)}
_SHARES = ("drop_path_rate", "drop_rate")
_MOST = {"classes": 1_000_000, "widths": 10_000}


def need_model(directory: Path | None) -> None:
    """Raise `InputError` for a directory that is none of a trained model; without torch, so that it comes at once."""
    if directory is not None and not (Path(directory) / "model.json").is_file():
        hint = "its run has not finished" if (Path(directory) / "config.json").is_file() else "no model.json there"
        raise InputError(f"{directory}: not a trained model ({hint})")


def read_spec(directory: Path) -> dict[str, Any]:
    """Read and check `directory/model.json`.

    Returns
    -------
    dict
        "arch", "classes", "resolution", "mean" and "std" are there and sound; the others are where they are there.

    Raises
    ------
    InputError
        No such file, no JSON, a newer format, or a field that is missing, of another type or out of range.
    """
    place = Path(directory) / "model.json"
    spec = read_json(place)
    if not isinstance(spec, dict):
        raise InputError(f"{place}: does not describe a model")
    try:
        check_spec(spec)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return spec


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raise `InputError` for the first field that no model of ours can have; the message names the field alone."""
    if (form := spec.get("format", FORMAT)) != FORMAT:
        raise InputError(f"format {shown(form)}: {FORMAT} is expected")
    for name in ("arch", "classes", "resolution", "mean", "std"):
        if name not in spec:
            raise InputError(f"incomplete ({name!r} is missing)")
    if not isinstance(spec["arch"], str) or not re.fullmatch(r"[A-Za-z0-9_.]{1,200}", spec["arch"]):
        raise InputError(f"arch {shown(spec['arch'])}: the name of one of timm's models is expected")
    if spec.get("stem", STEMS[0]) not in STEMS:
        raise InputError(f"stem {shown(spec['stem'])}: {', '.join(STEMS)} are possible")
    classes = spec["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError("classes: a list of names is expected")
    if len(classes) > _MOST["classes"]:
        raise InputError(f"classes: {len(classes)} of them; at most {_MOST['classes']} are possible")
    if not _whole(spec["resolution"], *SIDES):
        raise InputError(f"resolution {shown(spec['resolution'])}: {SIDES[0]} to {SIDES[1]} pixels are possible")
    for name, least in (("mean", -math.inf), ("std", 0.0)):
        values = spec[name]
        if not isinstance(values, list) or len(values) != 3 or not all(_number(v) and v > least for v in values):
            kind = "numbers" if name == "mean" else "numbers above 0"
            raise InputError(f"{name} {shown(values)}: three finite {kind} are expected")
    if not _number(ratio := spec.get("crop_ratio", 1.0)) or not 0 < ratio <= 1:
        raise InputError(f"crop_ratio {shown(ratio)}: a share in (0, 1] is expected")
    if type(spec.get("mirror", False)) is not bool:
        raise InputError(f"mirror {shown(spec['mirror'])}: true or false is expected")
    for name in ("recipe", "index", "source", "fold"):
        if not isinstance(spec.get(name), (str, type(None))):
            raise InputError(f"{name} {shown(spec[name])}: a text is expected")
    check_kwargs(spec.get("kwargs"))
    _check_widths(spec.get("widths"))


def check_kwargs(kwargs: Any) -> None:
    """Raise `InputError` for keyword arguments of a network that are not on the list, or out of range."""
    if kwargs is None:
        return
    if not isinstance(kwargs, Mapping):
        raise InputError(f"kwargs {shown(kwargs)}: a mapping of names to values is expected")
    for name, value in kwargs.items():
        if name in _COUNTS:
            fine = _whole(value, *_COUNTS[name])
        elif name in _LISTS:
            fine = isinstance(value, (list, tuple)) and 1 <= len(value) <= 8
            fine = fine and all(_whole(v, *_LISTS[name]) for v in value)
        elif name in _SHARES:
            fine = _number(value) and 0 <= value < 1
        else:
            known = ", ".join(sorted((*_COUNTS, *_LISTS, *_SHARES)))
            raise InputError(f"kwargs: {shown(name)} is not an argument that a model file may set; it may set {known}")
        if not fine:
            raise InputError(f"kwargs: {name} {shown(value)}: of another type, or out of range")


def _check_widths(widths: Any) -> None:
    """Types and bounds; whether they fit the network, `prune.models.pruned_widths` finds."""
    if widths is None:
        return
    if not isinstance(widths, dict) or len(widths) > _MOST["widths"]:
        raise InputError(f"widths {shown(widths)}: a mapping of layers to sizes is expected")
    for name, sizes in widths.items():
        if not isinstance(sizes, list) or not 1 <= len(sizes) <= 4 or not all(_whole(n, 1, 1 << 20) for n in sizes):
            raise InputError(f"widths: {shown(name)}: {shown(sizes)} is not a list of positive whole numbers")


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _number(value: Any) -> bool:
    return type(value) in (int, float) and -1e6 < value < 1e6  # false for NaN


def shown(value: Any) -> str:
    """A value from a file, short enough for a message and without control characters.

    Examples
    --------
    >>> shown("a\\nb"), shown([1, 2]), shown("x" * 99)
    ("'a\\\\nb'", '[1, 2]', "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...")
    """
    try:
        text = ascii(value)
    except RecursionError:
        return f"a nested {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def model_fingerprint(directory: Path) -> str:
    """SHA-256 over `model.json` and the weights, 32 hexadecimal digits."""
    sha = hashlib.sha256()
    for name in ("model.json", "model.safetensors"):
        with open(Path(directory) / name, "rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()[:32]
