"""Weights as people keep them: read a file without running code from it, and find a network's weights in it.

Training code wraps networks (`module.`, `backbone.`, `_orig_mod.`) and puts their weights beside others in one file
(`state_dict`, `ema`, `teacher`). The names and shapes of the network decide which of them are its own.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from prune.runs.files import InputError

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher")
"""Entries that are taken before others: averages over training, which are the better networks."""
_OTHERS = ("state_dict", "model", "model_state_dict", "module", "network", "net", "student")
_HEAD = re.compile(
    r"(?!.*norm).*(head|fc|classif|proj|predict|proto|linear|mlp|decoder|last_layer|queue|mask_token|aux)", re.I
)
"""What beside a backbone may be ignored: heads and projectors of its training; normalisation is never one of them."""
_DEPTH = 3
_CODE = re.compile(r"GLOBAL (\S+)")


@dataclass(frozen=True)
class Found:
    """Weights of a network in a file.

    Attributes
    ----------
    state : dict of str to (…) tensor
        By the network's own names; without those of its classifier when `classes` is 0.
    classes : int
        Outputs of the classifier; 0 where the file has none that fits.
    where : str
        Entry and prefix in words; "" where the file holds nothing but these weights.
    ignored : int
        Other weights of the same entry: projectors, heads of another kind, copies.
    """

    state: dict[str, torch.Tensor]
    classes: int
    where: str
    ignored: int


def read_checkpoint(path: Path) -> Any:
    """Read a file of weights; no code in it is ever run.

    Raises
    ------
    InputError
        A web page, a Git LFS pointer, a pickled model or other objects, a TorchScript model, or no weights at all:
        named as what it is, with the way out.
    """
    with open(path, "rb") as file:
        head = file.read(512)
    if reason := _no_weights(path, head):
        raise InputError(f"{path}: {reason}")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        try:
            return load_file(str(path))
        except Exception as error:  # the reader fails in many ways on other files
            raise _unreadable(path, error) from None
    scalar = np.float64(0).__reduce__()[0]
    inert: list[Any] = [
        argparse.Namespace,
        pathlib.PosixPath,
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
    ]
    inert += [type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4")]
    try:
        with torch.serialization.safe_globals(inert), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # as above
        raise _unreadable(path, error) from None


def _no_weights(path: Path, head: bytes) -> str:
    """Say what a file is that begins with these bytes and holds no weights; "" where it may hold some."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty; download it again"
    if text.startswith(b"version https://git-lfs"):
        return f"is a Git LFS pointer, not the file itself; fetch that with: git lfs pull --include '{path.name}'"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not weights: the address led to a page; download the file that this page offers"
    return ""


def _unreadable(path: Path, error: Exception) -> InputError:
    """The error for a file that torch or safetensors refuses."""
    text = str(error)
    if "TorchScript" in text:
        save = f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pth')"
        return InputError(f'{path}: is a TorchScript model; save its weights: python -c "import torch; {save}"')
    if names := _code_in(path, text):
        whole = any(name.startswith("torch.nn.modules.") for name in names)
        what = "a whole pickled model" if whole else f"pickled code ({names[0]})"
        save = "m.state_dict()" if whole else "m['state_dict']"
        return InputError(
            f"{path}: holds {what}, which can run anything and cannot be read safely; where you trust it, save its "
            f'weights: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python -c "import torch; '
            f"m = torch.load({str(path)!r}, 'cpu'); torch.save({save}, 'weights.pth')\""
        )
    reason = (text.splitlines() or [type(error).__name__])[0][:120]
    return InputError(f"{path}: not a file of weights that can be read safely ({reason})")


def _code_in(path: Path, text: str) -> list[str]:
    """Names of classes and functions in a pickle that plain weights do not need."""
    try:
        if names := torch.serialization.get_unsafe_globals_in_checkpoint(str(path)):
            return sorted(names)
    except Exception:  # files of torch 1.5 and older: the reader's message names the first
        pass
    return _CODE.findall(text)[:1]


def find_weights(checkpoint: Any, arch: str, path: Path) -> Found:
    """Find the weights of timm's model `arch` in what a file holds.

    Entries may be nested, and names may have any prefix, since the network's own names and shapes are searched for.
    Averages over training (ema, teacher) are taken before the entries that were trained. A classifier is taken where
    all its weights are there; heads of other kinds are ignored.

    Parameters
    ----------
    checkpoint : object
        What `read_checkpoint` returned.
    arch : str
    path : Path
        The file, for messages.

    Raises
    ------
    InputError
        No entry has all the network's weights in its shapes, or one has more of them, as another size of `arch` has.
    """
    backbone: nn.Module = timm.create_model(arch, pretrained=False, num_classes=0)
    own = {name: value.shape for name, value in backbone.state_dict().items()}
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    best: tuple[int, str] = (0, "")
    complete = []
    for place, entry in _entries(checkpoint):
        for prefix, count in _prefixes(entry, own).most_common(8):
            state = {name.removeprefix(prefix): v for name, v in entry.items() if name.startswith(prefix)}
            lost = sorted(name for name in needed if name not in state)
            other = sorted(name for name in own if name in state and state[name].shape != own[name])
            if not lost and not other:
                complete.append((_rank(place, prefix), place, prefix, entry, state))
            elif count > best[0]:
                reason = f"has no {lost[0]}" if lost else _shapes(other[0], state, own)
                best = (count, f"{len(lost or other)} of its {len(needed)} weights do not fit, first: {reason}")
    if not complete:
        reason = best[1] or "none of its weights has a name of that network"
        raise InputError(f"{path}: not weights of {arch} ({reason}); --arch names timm's model")
    _, place, prefix, entry, state = min(complete, key=lambda found: found[0])
    return _chosen(arch, path, own, place, prefix, entry, state)


def _chosen(
    arch: str,
    path: Path,
    own: Mapping[str, Any],
    place: str,
    prefix: str,
    entry: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
) -> Found:
    """The backbone's weights of `state`, with those of its classifier where they are complete."""
    classes, head = _classifier(arch, own, state)
    taken = {name: state[name] for name in (*own, *head) if name in state}
    extra = sorted(state.keys() - taken.keys())
    if unknown := [name for name in extra if not _HEAD.match(name.split(".")[0])]:
        raise InputError(
            f"{path}: not weights of {arch} (it has {len(unknown)} more, first {unknown[0]}); --arch names timm's model"
        )
    words = [f"entry {place!r}"] if place else []
    words += [f"prefix {prefix!r}"] if prefix else []
    return Found(taken, classes, ", ".join(words), len(entry) - len(taken))


def _classifier(arch: str, own: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> tuple[int, tuple[str, ...]]:
    """Number of classes and names of the classifier's weights; (0, ()) where `state` lacks some of them."""
    one = timm.create_model(arch, pretrained=False, num_classes=1).state_dict()
    head = [name for name in one if name not in own]
    counts = set()
    for name in head:
        if name not in state:
            if name.endswith("num_batches_tracked"):
                continue
            return 0, ()
        ours, theirs = one[name].shape, state[name].shape
        if ours != theirs:  # the weights and biases of the outputs: another number of them is all that may differ
            if not theirs or theirs[1:] != ours[1:]:
                return 0, ()
            counts.add(theirs[0])
    return (counts.pop() if counts else 1, tuple(head)) if head and len(counts) < 2 else (0, ())


def _entries(value: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Every mapping inside a checkpoint that holds tensors, with its place, `a.b`."""
    if not isinstance(value, Mapping):
        return
    if tensors := {name: v for name, v in value.items() if isinstance(name, str) and isinstance(v, torch.Tensor)}:
        yield place, tensors
    if depth < _DEPTH:
        for name, inner in value.items():
            yield from _entries(inner, f"{place}.{name}" if place else str(name), depth + 1)


def _prefixes(entry: Mapping[str, torch.Tensor], own: Mapping[str, Any]) -> Counter[str]:
    """How many of the network's names follow each prefix."""
    found: Counter[str] = Counter()
    for name in entry:
        at = -1
        while True:
            if name[at + 1 :] in own:
                found[name[: at + 1]] += 1
            if (at := name.find(".", at + 1)) < 0:
                break
    return found


def _rank(place: str, prefix: str) -> tuple[int, int, int, str]:
    """Sort key of an entry and a prefix: averages first, then entries by their usual names, then short prefixes."""
    parts = place.split(".")
    entry = next((k for k, name in enumerate((*_AVERAGED, *_OTHERS)) if name in parts), len(_AVERAGED) + len(_OTHERS))
    copy = re.search("student|momentum|target|_k", prefix) is not None
    copies = 0 if "teacher" in prefix.split(".") else 1 + copy
    return entry, copies, len(prefix), prefix


def _shapes(name: str, state: Mapping[str, torch.Tensor], own: Mapping[str, Any]) -> str:
    return f"{name} is {tuple(state[name].shape)} there and {tuple(own[name])} in the network"
