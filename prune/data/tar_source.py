"""Lists the images of WebDataset shards: .tar files in which the members of a sample share a key.

`dog/17.jpg` and `dog/17.cls` are one sample with the key `dog/17`; its id is shard and key, `train-000000/dog/17`, so
that keys which several shards use stay apart. `prune.index.tar_shards` writes the kept samples to shards again.
"""

from __future__ import annotations

import json
import os
import tarfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prune.data.class_numbers import Labels, numbered_labels
from prune.data.listing import Listing
from prune.data.shard_paths import Shards
from prune.data.stored_images import SUFFIXES
from prune.index.tar_shards import key_of
from prune.runs.files import InputError, counted, note

_JSON = ("label", "cls", "class", "class_id", "class_name", "label_name", "category")
_BLOCK = 64 << 10


@dataclass
class _Sample:
    """What is known of one key: where its image lies in the shard, and what its label members say."""

    at: int = -1
    size: int = 0
    name: str = ""
    said: dict[str, bytes] = field(default_factory=dict)


def list_tars(shards: Shards, place: str) -> Listing:
    """List the samples of WebDataset shards; only headers and labels are read.

    The label is a sample's `.cls`, else the field `label` (or cls, class, class_name ...) of its `.json`, else its
    `.txt`. Whole numbers are numbers of classes, other texts their names.

    Raises
    ------
    InputError
        A damaged shard or one cut inside a sample, a sample with several images or without a label, or texts that are
        captions and no classes.

    Notes
    -----
    A shard without the zeros that end an archive may have been cut between two samples, but some writers leave them
    out: it is read, and a line names it.
    """
    ids: list[bytes] = []
    said: list[str] = []
    spans: list[tuple[int, int, int]] = []
    ignored: Counter[str] = Counter()
    open_ended: list[Path] = []
    for number, (path, name) in enumerate(zip(shards.files, shards.names)):
        for key, sample in _samples(path, ignored, open_ended).items():
            if sample.at < 0:
                ignored.update(f".{suffix}" for suffix in sample.said)
                continue
            ids.append(os.fsencode(name) + b"/" + key)
            said.append(_label_of(path, key, sample))
            spans.append((number, sample.at, sample.size))
    if open_ended:
        others = f" and {counted(len(open_ended) - 1, 'other shard')}" if len(open_ended) > 1 else ""
        note(
            f"{open_ended[0]}{others}: without the zeros that end a tar: unless its writer leaves them out, it was cut "
            "between two samples, and has to be fetched again; what it holds is read"
        )
    labels = _labels(said, place)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    where = np.array(spans, np.int64).reshape(-1, 3)[order]
    names = [os.fsdecode(ids[row]) for row in order]
    return Listing(
        names, labels.labels[order], labels.classes, _Reader(shards.files, where).read, ignored,
        numbered=labels.numbered,
    )  # fmt: skip


def _samples(path: Path, ignored: Counter[str], open_ended: list[Path]) -> dict[bytes, _Sample]:
    """The samples of a shard by key; adds the shard to `open_ended` when the zeros at its end are missing."""
    found: dict[bytes, _Sample] = {}
    end = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if not member.isfile():
                    continue
                name = member.name.encode("utf-8", "surrogateescape").removeprefix(b"./")
                key = key_of(name)
                suffix = name[len(key) + 1 :].decode("utf-8", "replace").lower()
                if member.offset_data + member.size > end:
                    raise InputError(f"{path}: cut short inside {member.name}; fetch it again")
                if f".{suffix}" in SUFFIXES:
                    sample = found.setdefault(key, _Sample())
                    if sample.at >= 0:
                        raise InputError(
                            f"{path}: the sample {_shown(key)} has two images, {sample.name} and {member.name}"
                        )
                    sample.at, sample.size, sample.name = member.offset_data, member.size, member.name
                elif suffix in ("cls", "json", "txt") and member.size <= _BLOCK:
                    opened = shard.extractfile(member)
                    found.setdefault(key, _Sample()).said[suffix] = opened.read() if opened else b""
                else:
                    ignored[f".{suffix.rpartition('.')[2]}" if suffix else ""] += 1
                shard.members = []  # type: ignore[attr-defined]  # tarfile keeps every member otherwise
            if not _ends(path, shard.offset):
                last = next(reversed(found), None)
                if last is not None and found[last].at < 0:  # members lie sample by sample
                    raise InputError(
                        f"{path}: cut short inside the sample {_shown(last)}, which has a label and no image; fetch it "
                        "again"
                    )
                open_ended.append(path)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable tar file ({error})") from None
    return found


def _ends(path: Path, at: int) -> bool:
    """Whether a block of zeros follows the last member; False where the file ends there.

    Raises
    ------
    InputError
        Something else follows, which `tarfile` takes for an end: a header that is cut or damaged.
    """
    with open(path, "rb") as file:
        file.seek(at)
        block = file.read(tarfile.BLOCKSIZE)
    if block == bytes(tarfile.BLOCKSIZE):
        return True
    if block:
        raise InputError(f"{path}: cut short or damaged behind byte {at:,}, where a member begins; fetch it again")
    return False


def _label_of(path: Path, key: bytes, sample: _Sample) -> str:
    for suffix in ("cls", "json", "txt"):
        if suffix not in sample.said:
            continue
        try:
            text = sample.said[suffix].decode("utf-8-sig").strip()
            label = _field(json.loads(text)) if suffix == "json" else text
        except ValueError:
            raise InputError(f"{path}: {_shown(key)}.{suffix} is not {suffix} text") from None
        if isinstance(label, (list, dict)):
            raise InputError(f"{path}: {_shown(key)}.{suffix} gives several labels; one an image is supported")
        if label is not None and str(label):
            return str(label)
    raise InputError(
        f"{path}: the sample {_shown(key)} has no label: a member .cls or .txt, or a .json with {_JSON[0]}, is expected"
    )


def _field(found: Any) -> Any:
    return (
        next((found[name] for name in _JSON if found.get(name) is not None), None) if isinstance(found, dict) else None
    )


def _labels(said: list[str], place: str) -> Labels:
    if not said:
        return Labels(np.zeros(0, np.int32), [], False)
    known = set(said)
    if all(text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() for text in known):
        return numbered_labels(np.array([int(text) for text in said], np.int64), None, place)
    if len(said) > 20 and len(known) > len(said) / 2:
        raise InputError(
            f"{place}: {counted(len(known), 'different text')} for {len(said)} images (first {said[0][:40]!r}): "
            "these are captions, and no classes"
        )
    classes = sorted(known, key=lambda text: text.encode("utf-8", "surrogateescape"))
    at = {text: k for k, text in enumerate(classes)}
    return Labels(np.array([at[text] for text in said], np.int32), classes, False)


def _shown(key: bytes) -> str:
    return repr(key.decode("utf-8", "backslashreplace"))


class _Reader:
    """Reads images from their places in the shards, from any thread.

    Parameters
    ----------
    files : list of Path
    where : (n, 3) int64
        Number of the shard, offset and size of each image.
    """

    def __init__(self, files: list[Path], where: np.ndarray) -> None:
        self._files, self._where = files, where
        self._open = threading.local()

    def read(self, row: int) -> bytes:
        number, at, size = (int(value) for value in self._where[row])
        if getattr(self._open, "number", None) != number:  # rows come shard by shard: one open file a thread
            self._open.file, self._open.number = open(self._files[number], "rb", buffering=0), number  # noqa: SIM115
        return os.pread(self._open.file.fileno(), size, at)
