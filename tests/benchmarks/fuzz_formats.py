"""Damages every file format that we read, at random, and counts what the reader makes of it.

    python tests/benchmarks/fuzz_formats.py --per-format 10000 --out tests/benchmarks/results/fuzz_formats.md

Each mutation must be read as a right answer or be refused in one line that names the file (`InputError`, exit code 2):
never another exception, never more than 20 seconds or 512 MiB above what the process holds, never a new file outside
the folder of the file. `tests/test_fuzz_formats.py` runs 200 a format.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain import checkpoint
from pretrain.hooks import Progress
from prune.data.beton import BetonWriter
from prune.data.dataset import open_dataset
from prune.index.index_summary import summary
from prune.index.manifest import Manifest, digest, manifest_path
from prune.index.npz import save_arrays
from prune.index.provenance import record
from prune.index.pruned_index import PrunedIndex
from prune.methods.selection_inputs import open_inputs
from prune.models import networks
from prune.runs.files import InputError
from prune.scores.feature_files import open_features, write_features
from transfer.compression import journal
from transfer.studies.flags import study_of
from transfer.studies.places import Splits
from transfer.studies.runner import outstanding
from transfer.studies.settings import Study
from transfer.studies.study_checks import SETTINGS_FORMAT, read_settings
from transfer.studies.study_plan import plan_of
from transfer.studies.task import read_plan, write_plan

SECONDS, MEMORY = 20, 512 << 20


@dataclass(frozen=True)
class Format:
    """A file to damage and what reads it.

    `front` is the number of bytes at its beginning that are damaged (all when 0), `sealed` brings checksums of the
    folder up to date after a change of content, so that the reader meets the content.
    """

    name: str
    file: Path
    read: Callable[[], Any]
    front: int = 0
    sealed: Callable[[], None] = lambda: None


@dataclass
class Outcome:
    """What became of the mutations of a format."""

    read: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0


# What is damaged -----------------------------------------------------------------------------------------------------


def _images(folder: Path, n: int = 24) -> Path:
    rng, path = np.random.default_rng(1), folder / "x.beton"
    data = [rng.integers(0, 256, 8 * 8 * 3, dtype=np.uint8).tobytes() for _ in range(n)]
    with BetonWriter(path, n, 1 << 21) as writer:
        for row in range(n):
            writer.add(data[row], jpeg=False, height=8, width=8, label=row % 3)
    import zlib

    Manifest(
        np.array([b"class%d/%03d.png" % (row % 3, row) for row in range(n)]), (np.arange(n) % 3).astype(np.int32),
        np.full(n, 192, np.int32), np.full(n, 8, np.int32), np.full(n, 8, np.int32),
        np.array([digest(one) for one in data], np.uint64), np.array([zlib.crc32(one) for one in data], np.uint32),
        ["one", "two", "three"], {"source": "drawn", "skipped": []},
    ).save(manifest_path(path))  # fmt: skip
    return path


def _beton(folder: Path) -> Format:
    path = _images(folder)

    def read() -> int:
        found = open_dataset(path)
        return sum(len(found.beton.stored(row)[0]) for row in range(len(found)))

    return Format("beton header", path, read, front=4096 + 24 * 32)


def _manifest(folder: Path) -> Format:
    path = manifest_path(_images(folder))
    return Format("manifest", path, lambda: Manifest.load(path).fingerprint)


def _index(folder: Path) -> Format:
    source, path = Manifest.load(manifest_path(_images(folder))), folder / "x.index.npz"
    PrunedIndex.from_rows(source, np.arange(0, 24, 2), provenance=[record("select", {"seed": 0}, {})]).save(path)

    def read() -> Any:
        index = PrunedIndex.load(path)
        return index.rows([name.decode() for name in source.ids.tolist()]).sum(), summary(index)

    return Format("index", path, read)


def _features(folder: Path) -> Format:
    beton, path = _images(folder), folder / "x.features.npz"
    rng, held = np.random.default_rng(2), Manifest.load(manifest_path(beton))
    model = {"arch": "resnet18", "classes": ["one", "two", "three"], "fingerprint": "f"}
    arrays = (rng.normal(size=(24, width)).astype(np.float16) for width in (8, 3))
    write_features(path, *arrays, held, manifest_path(beton), model, {"seed": 0})
    return Format("features", path, lambda: open_features(path).columns(["one"]))


def _scores(folder: Path) -> Format:
    place, path = manifest_path(_images(folder)), folder / "x.scores.npz"
    source = Manifest.load(place)
    save_arrays(
        path, {"el2n": np.arange(24, dtype=np.float32), "class/lm/pets": np.ones(3, np.float32)},
        {"format": "winnow-scores/1", "fingerprint": source.fingerprint, "manifest": place.name,
         "classes": source.classes, "made": {}},
    )  # fmt: skip
    return Format("scores", path, lambda: open_inputs(path, None).classes)


def _model(folder: Path) -> Format:
    spec = {
        "arch": "resnet18", "kwargs": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}, "stem": "half",
        "classes": ["a", "b"], "resolution": 16, "mean": [123.0, 116.0, 103.0], "std": [58.0, 57.0, 57.0],
        "recipe": None, "index": None, "source": None,
    }  # fmt: skip
    networks.save_model(folder, networks.build(spec), spec)
    return Format("model.json", folder / "model.json", lambda: networks.load_model(folder)[1])


def _weights(folder: Path) -> Format:
    made = _model(folder)
    return Format("model.safetensors", folder / "model.safetensors", made.read, front=4096)


def _checkpoint_read(folder: Path) -> Any:
    found = checkpoint.newest(folder)
    if found is None:
        return None
    shared, ranks, progress = checkpoint.load(found)
    with checkpoint.foreign_content_is_a_mistake(folder):
        return len(shared), len(ranks), Progress.of(progress)


def _checkpoint(folder: Path) -> Format:
    state = {"network": {"w": torch.ones(3)}, "optimiser": {"state": {0: (torch.zeros(2), 1.5)}}, "scaler": {}}
    save = {"mine": {"sums": torch.zeros(3), "noise": [torch.ones(1)]}, "progress": {"step": 3, "lines": [{"loss": 1}]}}
    checkpoint.save(folder, 3, 0, lambda: None, shared=lambda: state, **save)
    return Format("checkpoint", folder / "000000003/shared.safetensors", lambda: _checkpoint_read(folder))


def _sealed_checkpoint(folder: Path, name: str) -> Format:
    made = _checkpoint(folder)
    place = folder / "000000003"

    def sealed() -> None:
        stated = {}
        for file in sorted(place.iterdir()):
            if file.name != "files.json":
                content = file.read_bytes()
                stated[file.name] = [len(content), hashlib.blake2b(content, digest_size=16).hexdigest()]
        (place / "files.json").write_text(json.dumps(stated))

    return Format(f"checkpoint, {name} with right digests", place / name, made.read, sealed=sealed)


STUDY = Study(
    source=Splits("../source", None), targets={"pets": Splits("../pets/train", "../pets/test")}, guides=("pets",),
    methods=("full", "random", "winnow"), keeps=(0.2,), seeds=(0,), recipe="tiny", surrogate_recipe="tiny",
    surrogate_sample=0.5, side=None,
)  # fmt: skip


def _plan(folder: Path) -> Format:
    write_plan(plan_of(STUDY), folder)
    return Format("plan", folder / "plan.jsonl", lambda: outstanding(read_plan(folder), folder))


def _settings(folder: Path) -> Format:
    settings = {
        "format": SETTINGS_FORMAT, "methods": ["full", "random", "winnow"], "keeps": [0.2], "seeds": [0],
        "guides": ["pets"], "recipe": "tiny", "surrogate_recipe": "tiny", "surrogate_sample": 0.5, "margin": 0.5,
        "side": None, "floor": 20, "epochs": None, "surrogate_epochs": None, "loader": None, "evaluations": ["probe"],
        "gate": "open", "ladder": None, "full_lengths": [], "uses": 1, "source": {"train": "../source", "test": None},
        "targets": {"pets": {"train": "../pets/train", "test": "../pets/test"}},
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(settings, indent=1))
    return Format("study", folder / "study.json", lambda: plan_of(study_of(read_settings(folder))))


def _journal(folder: Path) -> Format:
    def entry(step: int, kind: str, verdict: str, params: int) -> dict[str, Any]:
        what = {"ratio": 0.2} if step else {}
        return {
            "step": step, "base": 0, "kind": kind, "what": what, "params": params, "bytes": 4 * params,
            "accuracy": 0.9, "verdict": verdict, "reason": "within the margin", "files": {"model.json": "0" * 32},
        }  # fmt: skip

    entries = [entry(0, "original", "accepted", 1000), entry(1, "channels", "accepted", 800)]
    journal.write_journal(folder, [*entries, entry(2, "channels", "rolled-back", 700)])

    def read() -> Any:
        found = journal.read_journal(folder)
        if not found:
            return None
        return journal.next_trial(found, journal.CompressionPlan()), journal.summary(found), journal.describe(found[-1])

    return Format("journal", folder / "journal.jsonl", read)


FORMATS: dict[str, Callable[[Path], Format]] = {
    "index": _index,
    "manifest": _manifest,
    "features": _features,
    "scores": _scores,
    "model.json": _model,
    "model.safetensors": _weights,
    "checkpoint": _checkpoint,
    "checkpoint-state": lambda folder: _sealed_checkpoint(folder, "shared.safetensors"),
    "checkpoint-progress": lambda folder: _sealed_checkpoint(folder, "progress.json"),
    "plan": _plan,
    "study": _settings,
    "journal": _journal,
    "beton": _beton,
}


# How it is damaged ---------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 70, 1e308, -0.5, float("nan"), float("inf"), "", "..", "../../x", "/etc/passwd", "x" * 5000,
    "a\x1b[2J\n\u202e", "\ud800", [], [[]], {}, {"a": {}}, [None], [-1, 1 << 65], ["../x"], "9" * 400,
)  # fmt: skip


def bytes_changed(data: bytes, rng: np.random.Generator, front: int) -> bytes:
    """A copy with a few bytes changed, lost, doubled, moved or set to zero."""
    changed, most = bytearray(data), front or len(data)
    for _ in range(int(rng.integers(1, 4))):
        at, size = int(rng.integers(max(1, min(most, len(changed))))), int(rng.integers(1, 64))
        kind = int(rng.integers(8))
        if kind == 0 and changed:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and changed:
            changed[at] = int(rng.integers(256))
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + size]
        elif kind == 4:
            changed[at:at] = changed[at : at + size]
        elif kind == 5:
            changed[at : at + size] = bytes(min(size, len(changed) - at))
        elif kind == 6:
            changed[at : at + size] = rng.bytes(size)
        else:
            number = int(rng.choice([0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
            changed[at : at + 4] = number.to_bytes(4, "little")
    return bytes(changed)


def json_changed(value: Any, rng: np.random.Generator) -> Any:
    """A copy of parsed JSON in which one value, somewhere, is odd, missing, doubled or nested."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return ODD[int(rng.integers(len(ODD)))]
    holder, key = places[int(rng.integers(len(places)))]
    kind = int(rng.integers(10))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder["extra"] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.append(holder[key])
    elif kind == 3:
        nested: Any = holder[key]
        for _ in range(int(rng.integers(1, 300))):
            nested = [nested]
        holder[key] = nested
    else:
        holder[key] = ODD[int(rng.integers(len(ODD)))]
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)


def arrays_changed(path: Path, rng: np.random.Generator) -> bytes | None:
    """The archive with another meta, or an array of another type, shape or content, and right checksums; None if none.

    The CRC-32 of every member is right, so that the reader meets the content; an index has a checksum of its own.
    """
    with zipfile.ZipFile(path) as archive:
        members = {info.filename[:-4]: np.load(io.BytesIO(archive.read(info))) for info in archive.infolist()}
    meta = json.loads(members.pop("meta").tobytes())
    if rng.random() < 0.5:
        meta = json_changed(meta, rng)
    else:
        name = sorted(members)[int(rng.integers(len(members)))]
        array, kind = members[name], int(rng.integers(7))
        if kind == 0:
            del members[name]
        elif kind == 1:
            members[name] = array[: len(array) // 2]
        elif kind == 2:
            members[name] = array[None]
        elif kind == 3:
            members[name] = np.zeros(array.shape, rng.choice(["f8", "i1", "U3", "?", "c8", "M8[s]", "S0", "V4"]))
        elif kind == 4:
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            flat[int(rng.integers(max(1, len(flat)))) :][:1] = 255
            members[name] = flat.view(array.dtype).reshape(array.shape)
        elif kind == 5:
            members[name] = array[::-1]
        else:
            members[name] = np.zeros((0, *array.shape[1:]), array.dtype)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        text = np.frombuffer(json.dumps(meta).encode("utf-8", "surrogatepass"), np.uint8)
        for name, array in {"meta": text, **members}.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(f"{name}.npy", member.getvalue())
    return file.getvalue()


def tensors_changed(data: bytes, rng: np.random.Generator) -> bytes:
    """A safetensors file with another header: the state in its metadata, or a tensor's type, shape or place."""
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    if "__metadata__" in head and rng.random() < 0.7:
        state = json_changed(json.loads(head["__metadata__"]["state"]), rng)
        head["__metadata__"]["state"] = json.dumps(state)
    else:
        head = json_changed(head, rng)
    text = json.dumps(head).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def mutated(form: Format, original: bytes, rng: np.random.Generator) -> bytes:
    """One damaged copy of a file's content: half of them byte by byte, half in the terms of the format."""
    if rng.random() < 0.5:
        return bytes_changed(original, rng, form.front)
    suffix = form.file.suffix
    if suffix == ".npz":
        form.file.write_bytes(original)
        return arrays_changed(form.file, rng) or original
    if suffix == ".safetensors":
        return tensors_changed(original, rng)
    if suffix in (".json", ".jsonl"):
        lines = original.decode().splitlines() if suffix == ".jsonl" else [original.decode()]
        at = int(rng.integers(len(lines)))
        lines[at] = json.dumps(json_changed(json.loads(lines[at]), rng))
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    return bytes_changed(original, rng, form.front)


# What comes of it ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """At most 512 MiB more memory until the block ends."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class TooLong(BaseException):
    """A reader hangs."""


def _too_long(number: int, frame: object) -> None:
    raise TooLong


def fuzz(make: Callable[[Path], Format], folder: Path, count: int, seed: int = 0) -> Outcome:
    """Read `count` damaged copies of a file; `folder` is empty, and its neighbours are watched for new files."""
    home = folder / "home"
    home.mkdir(parents=True)
    form = make(home)
    form.read()  # sound as it is
    whole = {file: file.read_bytes() for file in sorted(home.rglob("*")) if file.is_file()}
    original, rng, found = whole[form.file], np.random.default_rng(seed), Outcome()
    handler = signal.signal(signal.SIGALRM, _too_long)
    try:
        with limits(), contextlib.redirect_stderr(io.StringIO()):
            for number in range(count):
                _restore(home, whole)
                data = mutated(form, original, rng)
                form.file.unlink(missing_ok=True)  # what was mapped from it keeps its bytes
                form.file.write_bytes(data)
                form.sealed()
                _one(form, number, found)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    if strays := [path.name for path in folder.iterdir() if path != home]:
        found.faults.append(f"files outside the folder: {strays}")
    return found


def _restore(home: Path, whole: dict[Path, bytes]) -> None:
    there = {path for path in home.rglob("*") if path.is_file()}
    if there != set(whole):
        shutil.rmtree(home)
        for file, content in whole.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def _one(form: Format, number: int, found: Outcome) -> None:
    begin = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        form.read()
        found.read += 1
    except (InputError, OSError):  # one line on the command line, whatever characters the message has
        found.refused += 1
    except (Exception, TooLong) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {str(error)[:150]} ({where.name}:{where.lineno})"
        found.faults.append(f"mutation {number}: {what}")
        if os.environ.get("FUZZ_TRACE"):
            print(traceback.format_exc(), file=sys.__stderr__)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        found.slowest = max(found.slowest, time.monotonic() - begin)


def main() -> int:
    """Fuzz every format and write the table; 1 when there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-format", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", default=list(FORMATS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = ["| format | mutations | read | refused in one line | faults | slowest |", "|---|---|---|---|---|---|"]
    faults: Counter[str] = Counter()
    for name in given.only:
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(FORMATS[name], Path(folder) / name, given.per_format, given.seed)
        cells = (name, given.per_format, found.read, found.refused, len(found.faults), f"{found.slowest:.2f} s")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(lines[-1], flush=True)
        kinds = Counter(text.split(": ", 1)[1] for text in found.faults)
        for text, count in kinds.most_common(8):
            print(f"    {count} x {text}", flush=True)
        faults[name] = len(found.faults)
    if given.out:
        given.out.write_text(PAGE.format(command=" ".join(sys.argv), table="\n".join(lines)))
    return int(any(faults.values()))


PAGE = """# Damaged files of every format

Command: `python {command}`

Every mutation is read as a right answer or refused in one line that names the file. A fault would be another exception,
more than 20 seconds, more than 512 MiB above what the process held, or a file outside the folder. "Read" are mutations
that leave the file valid, such as another digit in a number; for the checkpoint also those that fall back to none.

{table}
"""

if __name__ == "__main__":
    sys.exit(main())
