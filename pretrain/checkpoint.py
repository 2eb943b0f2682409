"""Checkpoints, written atomically: one directory for each, of which the last two are kept.

    OUT/checkpoint/000001200/
        shared.safetensors     rank 0: weights, optimiser, averaged weights, loss scaler
        rank0.safetensors ...  each rank: batch-norm buffers, sums and records of the current epoch
        progress.json          counters and clocks, and the lines of metrics.jsonl so far
        files.json             size and BLAKE2b digest of the others, written last

All ranks write into a hidden directory that rank 0 renames when every file is on disk. A directory whose files do not
match their digests is skipped with a warning, and the one before it is used.

A state is one safetensors file: tensors by number, and the dicts (keys of any plain type), lists and tuples that hold
them as JSON in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prune.runs.disk_errors import as_os_error
from prune.runs.files import InputError, needing, note, read_json, write_json

KEPT = 2


def save(
    directory: Path,
    step: int,
    rank: int,
    wait: Callable[[], None],
    *,
    shared: Callable[[], dict[str, Any]],
    mine: dict[str, Any],
    progress: dict[str, Any],
) -> Path:
    """Write a checkpoint; every rank calls this at the same step.

    Parameters
    ----------
    directory : Path
        OUT/checkpoint.
    step : int
        Optimiser steps done; names the checkpoint.
    rank : int
    wait : callable
        Returns when all ranks have called it.
    shared : callable
        Returns rank 0's state; called on rank 0 only.
    mine : dict
        This rank's state.
    progress : dict
        Values that JSON can hold.

    Returns
    -------
    Path
        The checkpoint's directory.
    """
    final, partial = place(directory, step), directory / f".{step:09d}.partial"
    if rank == 0:
        for stale in directory.glob(".*.partial"):
            shutil.rmtree(stale)
        partial.mkdir(parents=True)
    wait()
    try:
        write_state(partial / f"rank{rank}.safetensors", mine)
        if rank == 0:
            write_state(partial / "shared.safetensors", shared())
            write_json(partial / "progress.json", progress)
    except BaseException:  # above all a full disk: what is left of this checkpoint would keep it full
        shutil.rmtree(partial, ignore_errors=True)
        raise
    wait()
    if rank == 0:
        write_json(partial / "files.json", {p.name: _digest(p) for p in sorted(partial.iterdir())})
        if final.exists():  # the same step, saved before the run was resumed: the same content
            shutil.rmtree(final)
        os.replace(partial, final)
        _sync(directory)
        for old in complete(directory)[:-KEPT]:
            shutil.rmtree(old)
    wait()
    return final


def place(directory: Path, step: int) -> Path:
    """Directory of the checkpoint of a step."""
    return directory / f"{step:09d}"


def complete(directory: Path) -> list[Path]:
    """Checkpoints under `directory`, oldest first; their content is not checked."""
    return sorted(p for p in directory.glob("[0-9]*") if p.is_dir())


def newest(directory: Path) -> Path | None:
    """Find the newest undamaged checkpoint; damaged ones are renamed, with a warning."""
    for found in reversed(complete(directory)):
        if not (reason := damage(found)):
            return found
        aside = found.with_name(f".damaged-{found.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(found, aside)
        note(f"warning: checkpoint {found} is damaged ({reason}): using the one before it")
    return None


def damage(found: Path) -> str:
    """Describe what is wrong with a checkpoint; an empty string when nothing is."""
    try:
        stated = json.loads((found / "files.json").read_text())
        for name, digest in stated.items():
            if _digest(found / name) != digest:
                return f"{name} does not match its digest"
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return "" if {"shared.safetensors", "rank0.safetensors", "progress.json"} <= set(stated) else "files are missing"


def load(
    found: Path, rank: int | None = None, world: int | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Read a checkpoint.

    Parameters
    ----------
    found : Path
    rank, world : int, optional
        Read only the part of this rank where the checkpoint was made by so many; all parts when absent.

    Returns
    -------
    shared : dict
    ranks : list of dict
        State of each rank, in order of rank; parts that were not read are empty.
    progress : dict
    """
    with foreign_content_is_a_mistake(found):
        count = sum(1 for _ in found.glob("rank*.safetensors"))
        wanted = range(count) if rank is None or count != world else [rank]
        return (
            read_state(found / "shared.safetensors"),
            [read_state(found / f"rank{r}.safetensors") if r in wanted else {} for r in range(count)],
            read_json(found / "progress.json"),
        )


@contextmanager
def foreign_content_is_a_mistake(found: Path) -> Iterator[None]:
    """Turn errors of content that no run of ours writes into one line; a checkpoint may come from elsewhere."""
    try:
        yield
    except (InputError, OSError, torch.OutOfMemoryError):
        raise
    except (SafetensorError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise InputError(
            f"{found}: is not a checkpoint of this run ({reason}): remove it, and the one before it is used"
        ) from None


def _digest(path: Path) -> list[Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return [path.stat().st_size, digest]


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_state(path: Path, state: Any) -> None:
    """Write `state` to `path`, and to disk: dicts, lists and tuples of tensors, numbers, texts and None."""
    tensors: list[torch.Tensor] = []
    shape = json.dumps(_taken_apart(state, tensors))
    needed = sum(t.numel() * t.element_size() for t in tensors) + len(shape)
    with needing(path, needed):
        try:
            save_file({str(i): t for i, t in enumerate(tensors)}, path, metadata={"state": shape})
        except SafetensorError as error:
            raise as_os_error(error, path) or error from None
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def read_state(path: Path) -> Any:
    """Read what `write_state` wrote; tensors are contiguous and on the CPU."""
    with safe_open(path, framework="pt", device="cpu") as file:
        return _put_together(json.loads(file.metadata()["state"]), file.get_tensor)


def _taken_apart(value: Any, tensors: list[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        # safetensors stores neither tensors that share memory nor views of larger ones.
        tensors.append(value.detach().cpu().clone(memory_format=torch.contiguous_format))
        return {"tensor": len(tensors) - 1}
    if isinstance(value, dict):
        return {"dict": [[key, _taken_apart(v, tensors)] for key, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_taken_apart(v, tensors) for v in value]}
    return value


def _put_together(found: Any, tensor: Any) -> Any:
    if not isinstance(found, dict):
        return found
    ((kind, value),) = found.items()
    if kind == "tensor":
        return tensor(str(value))
    if kind == "dict":
        return {key: _put_together(v, tensor) for key, v in value}
    parts = [_put_together(v, tensor) for v in value]
    return tuple(parts) if kind == "tuple" else parts
