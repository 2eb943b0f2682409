"""Disturbs every step that takes more than a second, and looks whether the same command ends as if nothing had been.

    python tests/benchmarks/faults.py --work runs/faults --out tests/benchmarks/results/faults.md

Each step is killed and meets a full disk at random points (--points of each), and gets SIGTERM, SIGINT and SIGHUP once.
Then the same command is given again, undisturbed. It must end with 0, with the same bytes as a run that was never
disturbed (clocks and dates aside), and leave no other file. The full disk is a small tmpfs where mounting is allowed,
else a limit on the size of a file. What is done is recorded in --work: the same command resumes.
`tests/test_faults.py` runs a small part.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
FAST = ["--recipe", "tiny", "--loader", "torch"]
SMALL = ["--recipe", "small-rn18", "--epochs", "1", "--resolution", "32", "--seeds", "0"]
PREPARE = {
    "data": ["prune", "generate", "--per-class", "60", "--rare", "12", "--target-train", "20", "--target-test", "12",
             "--out", "data"],
    "x.beton": ["prune", "write", "--images", "data/source/train", "--out", "x.beton"],
    "t.beton": ["prune", "write", "--images", "data/signs/train", "--out", "t.beton"],
    "u.beton": ["prune", "write", "--images", "data/signs/test", "--classes", "t.beton", "--out", "u.beton"],
    "model": ["pretrain", "--beton", "x.beton", *FAST, "--epochs", "2", "--precision", "fp32", "--out", "model"],
    "features": ["prune", "features", "--model", "model", "--betons", "x.beton", "t.beton", "--loader", "torch",
                 "--out", "features"],
    "scores.npz": ["prune", "score", "--source", "features/x.features.npz", "--targets", "features/t.features.npz",
                   "--out", "scores.npz"],
    "i.index.npz": ["prune", "select", "--scores", "scores.npz", "--method", "winnow", "--keep", "0.5", "--floor", "2",
                    "--out", "i.index.npz"],
    "tuned": ["transfer", "finetune", "--model", "model", "--train", "t.beton", "--test", "u.beton", "--out", "tuned"],
    "p.index.npz": ["transfer", "preserve", "--model", "tuned", "--train", "t.beton", "--size", "40", "--floor", "1",
                    "--rest", "r.index.npz", "--out", "p.index.npz"],
}  # fmt: skip
"""What the steps read, by the file or folder that each command makes."""
STEPS = {
    "prune generate": ["prune", "generate", "--per-class", "200", "--out", "{out}/data"],
    "prune write": ["prune", "write", "--images", "data/source/train", "--quality", "80", "--out", "{out}/x.beton"],
    "prune features": ["prune", "features", "--model", "model", "--betons", "x.beton", "t.beton", "--loader", "torch",
                       "--out", "{out}/features"],
    "prune score": ["prune", "score", "--source", "features/x.features.npz", "--targets", "features/t.features.npz",
                    "--out", "{out}/scores.npz"],
    "prune select": ["prune", "select", "--scores", "scores.npz", "--method", "winnow", "--keep", "0.3", "--floor", "2",
                     "--out", "{out}/i.index.npz"],
    "prune curves": ["prune", "curves", "x.beton", "--model", "model", "--qualities", "50", "20",
                     "--out", "{out}/x.curves.npz"],
    "prune materialize": ["prune", "materialize", "i.index.npz", "--source", "x.beton", "--out", "{out}/m.beton"],
    "pretrain": ["pretrain", "--beton", "x.beton", *FAST, "--epochs", "3", "--precision", "fp32",
                 "--checkpoint-minutes", "0.02", "--out", "{out}/run"],
    "transfer probe": ["transfer", "probe", "--model", "model", "--train", "t.beton", "--test", "u.beton",
                       "--loader", "torch", "--out", "{out}/probe"],
    "transfer finetune": ["transfer", "finetune", "--model", "model", "--train", "t.beton", "--test", "u.beton",
                          "--out", "{out}/tuned"],
    "transfer compress": ["transfer", "compress", "--model", "tuned", "--train", "t.beton", "--preserve", "p.index.npz",
                          "--kinds", "channels", "--steps", "2", "--recovery-epochs", "1", "--latency", "none",
                          "--out", "{out}/small"],
    "transfer incremental": ["transfer", "incremental", "--train", "t.beton", "--test", "u.beton", "--tasks", "2",
                             "--memory", "20raw", "--forms", "raw", *SMALL, "--out", "{out}/tasks"],
    "transfer stream": ["transfer", "stream", "--train", "t.beton", "--test", "u.beton", "--memory", "60kB",
                        "--policies", "uniform", "--every", "80", "--steps", "3", "--recipe", "small-rn18",
                        "--resolution", "32", "--seeds", "0", "--out", "{out}/stream"],
    "transfer export": ["transfer", "export", "--model", "tuned", "--images", "t.beton", "--calibrate", "16",
                        "--compare", "32", "--allow-worse", "--out", "{out}/device"],
    "transfer study": ["transfer", "study", "--source", "data/source", "--targets", "signs=data/signs", "--recipe",
                       "tiny", "--surrogate-recipe", "tiny", "--epochs", "1", "--surrogate-epochs", "1", "--methods",
                       "full", "random", "--keeps", "0.5", "--seeds", "0", "--loader", "torch", "--out", "{out}/study"],
}  # fmt: skip
SIGNALS = ("TERM", "INT", "HUP")
CODES = {"TERM": (85,), "INT": (130,), "HUP": (85,), "KILL": (-signal.SIGKILL,), "full": (2,)}
_VOLATILE = re.compile(
    r"seconds|images_per_second|waited|finished|time|date|versions|latency|milliseconds|started|machine|sha|checksum|"
    r"files|digests?|ms|macs_per_second|fingerprint|process|rejected"
)


@dataclass(frozen=True)
class Found:
    """How a step ended that was disturbed, and what the same command made after it; `wrong` is '' where all is well."""

    fault: str
    code: int
    last: str
    wrong: str


def command_of(step: str, out: Path) -> list[str]:
    """What is run, with its output below `out`."""
    words = [word.replace("{out}", str(out)) for word in STEPS[step]]
    return [sys.executable, "-m", *words]


def run(command: Sequence[str], folder: Path, disturb: Any = None, limit: int | None = None) -> tuple[int, str, float]:
    """Exit code, standard error and seconds of a command; `disturb(process)` is called when it has begun."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}

    def limited() -> None:
        for name in SIGNALS:  # a shell starts what runs in the background with SIGINT ignored
            signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_DFL)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    begin = time.monotonic()
    with (
        open(folder / "log", "w+") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment, stderr=log, stdout=subprocess.DEVNULL, preexec_fn=limited,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            if disturb:
                disturb(process)
            process.wait(600)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        log.seek(0)
        said = log.read()
    return process.returncode, said, time.monotonic() - begin


def prepare(folder: Path, names: Sequence[str] = tuple(PREPARE)) -> None:
    """Make what the steps read, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / name).exists():
            code, said, _ = run([sys.executable, "-m", *PREPARE[name]], folder)
            assert code == 0, (name, said)


# What is compared ----------------------------------------------------------------------------------------------------


def content(out: Path) -> dict[str, Any]:
    """Every file below `out` by its name, without clocks and dates; hidden files too."""
    return {str(path.relative_to(out)): _plain(path, out) for path in sorted(out.rglob("*")) if path.is_file()}


def _plain(path: Path, out: Path) -> Any:
    data = path.read_bytes()
    if path.suffix in (".html", ".log", ".lock") or "logs" in path.parts:
        return "exists"  # with dates and times in its text
    if path.suffix == ".json":
        return _steady(json.loads(data), out)
    if path.suffix == ".jsonl":
        return [_steady(json.loads(line), out) for line in data.splitlines()]
    if path.suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            arrays = {info.filename: np.load(io.BytesIO(archive.read(info))) for info in archive.infolist()}
        meta = _steady(json.loads(arrays.pop("meta.npy").tobytes()), out) if "meta.npy" in arrays else {}
        arrays.pop("checksum.npy", None)
        return {"meta": meta, **{name: (str(a.dtype), a.shape, a.tobytes()) for name, a in arrays.items()}}
    return data


def _steady(value: Any, out: Path) -> Any:
    if isinstance(value, dict):
        return {key: _steady(inner, out) for key, inner in value.items() if not _VOLATILE.search(key)}
    if isinstance(value, list):
        return [_steady(inner, out) for inner in value]
    return value.replace(str(out), "OUT") if isinstance(value, str) else value


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first file in which two outputs differ, and how; '' where they are the same."""
    if extra := sorted(found.keys() - wanted.keys()):
        return f"{len(extra)} files are left over, first {extra[0]}"
    if missing := sorted(wanted.keys() - found.keys()):
        return f"{len(missing)} files are missing, first {missing[0]}"
    return next((f"{name} differs" for name in sorted(wanted) if found[name] != wanted[name]), "")


# The disturbances ----------------------------------------------------------------------------------------------------


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a tmpfs."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if done.returncode == 0:
        subprocess.run(["umount", folder], check=True)
    return done.returncode == 0


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Any]:
    """A tmpfs of `size` bytes at `folder` until the block ends; yields a function that makes it large."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(4096, size)}", "tmpfs", folder], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=4g", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


@dataclass(frozen=True)
class Undisturbed:
    """A run to compare with: its content, seconds, bytes on the disk, and those of its largest file."""

    content: dict[str, Any]
    seconds: float
    size: int
    largest: int


def undisturbed(step: str, folder: Path) -> Undisturbed:
    """Run a step once, without disturbance."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    code, said, seconds = run(command_of(step, out), folder)
    assert code == 0, (step, said)
    files = [path.stat() for path in out.rglob("*") if path.is_file()]
    found = Undisturbed(content(out), seconds, sum(f.st_blocks * 512 for f in files), max(f.st_size for f in files))
    shutil.rmtree(out)
    return found


def disturbed(step: str, fault: str, folder: Path, whole: Undisturbed, share: float, *, mount: bool) -> Found:
    """Disturb a step at `share` of its seconds or its bytes, and give the same command again."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    command = command_of(step, out)

    def send(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(share * whole.seconds)
            return
        os.kill(process.pid, getattr(signal, f"SIG{fault}"))

    if fault != "full":
        code, said, _ = run(command, folder, send)
        ended = code == -getattr(signal, f"SIG{fault}") and not difference(content(out), whole.content)
        wrong = "" if ended else _judged(fault, code, said)  # where it had ended, the interpreter was shutting down
        again = run(command, folder)
        wrong = wrong or _ended(again, out, whole)
    elif mount:
        with small_disk(out, int(share * whole.size)) as enlarge:
            code, said, _ = run(command, folder)
            wrong = _judged(fault, code, said)
            enlarge()
            again = run(command, folder)
            wrong = wrong or _ended(again, out, whole)
    else:
        code, said, _ = run(command, folder, limit=max(4096, int(share * whole.largest)))
        wrong = _judged(fault, code, said)
        wrong = wrong or _ended(run(command, folder), out, whole)
    shutil.rmtree(out, ignore_errors=True)
    return Found(fault, code, (said.strip().splitlines() or [""])[-1], wrong)


def _judged(fault: str, code: int, said: str) -> str:
    """What is wrong with how a disturbed step ended; '' where nothing is."""
    if code == 0:
        return ""  # it was done before, or there was room enough
    begun = code == -getattr(signal, f"SIG{fault}", 0) and not said  # the signal came before Python could listen
    if code not in CODES[fault] and not begun:
        return f"ended with {code}: {(said.strip().splitlines() or [''])[-1][:200]}"
    if "Traceback" in said:
        return "printed a traceback"
    if fault == "full" and not re.search("No space left|size of a file|needs .* free", said):
        return f"does not name the disk: {said.strip().splitlines()[-1][:200]}"
    return ""


def _ended(again: tuple[int, str, float], out: Path, whole: Undisturbed) -> str:
    code, said, _ = again
    if code:
        return f"the same command ended with {code}: {(said.strip().splitlines() or [''])[-1][:200]}"
    return difference(content(out), whole.content)


def main() -> int:
    """Disturb every step, resume where an earlier call ended, write the table; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(STEPS))
    parser.add_argument("--minutes", type=float, default=55.0, help="begin no other disturbance after this time")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    end, inputs, log = time.monotonic() + 60 * given.minutes, given.work / "inputs", given.work / "faults.jsonl"
    prepare(inputs)
    mount = can_mount(given.work / "tmpfs")
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    seen = {(one["step"], one["fault"], one["number"]) for one in known}
    wholes: dict[str, Undisturbed] = {}
    todo = [(fault, number) for number in range(given.points) for fault in ("KILL", "full")]
    todo[2:2] = [(fault, 0) for fault in SIGNALS]  # one of each kind first, for calls that are ended early
    for fault, number in todo:
        for step in given.only:
            if (step, fault, number) in seen or time.monotonic() > end:
                continue
            if step not in wholes:
                print(f"{step}, undisturbed", flush=True)
                wholes[step] = undisturbed(step, inputs)
            share = random.Random(f"{step} {fault} {number}").uniform(*((0.05, 0.95) if fault == "full" else (0.3, 1)))
            found = disturbed(step, fault, inputs, wholes[step], share, mount=mount)
            known.append({"step": step, "number": number, "share": round(share, 3), **vars(found)})
            with open(log, "a") as file:
                file.write(json.dumps(known[-1]) + "\n")
            print(f"{step}, {fault} at {share:.2f}: {found.code}; {found.wrong or 'as undisturbed'}", flush=True)
    if given.out:
        given.out.write_text(page(known, given.points, mount))
    return int(any(one["wrong"] for one in known))


def page(known: Sequence[dict[str, Any]], points: int, mount: bool) -> str:
    """The table: a row for each step, how often it ended as undisturbed."""
    lines = ["| step | KILL | full disk | TERM | INT | HUP | wrong |", "|---|---|---|---|---|---|---|"]
    for step in dict.fromkeys(one["step"] for one in known):
        mine = [one for one in known if one["step"] == step]
        cells = []
        for fault in ("KILL", "full", *SIGNALS):
            these = [one for one in mine if one["fault"] == fault]
            codes = sorted({one["code"] for one in these})
            right = sum(not one["wrong"] for one in these)
            cells.append(f"{right} of {len(these)} ({', '.join(map(str, codes))})" if these else "not run")
        wrong = "; ".join(dict.fromkeys(f"{one['fault']}: {one['wrong']}" for one in mine if one["wrong"]))
        lines.append(f"| {step} | " + " | ".join(cells) + f" | {wrong or 'nothing'} |")
    kind = "a small tmpfs" if mount else "a limit on the size of a file"
    return PAGE.format(points=points, kind=kind, runs=len(known), table="\n".join(lines))


PAGE = """# Disturbed steps

Command: `python tests/benchmarks/faults.py --work runs/faults --points {points} --out FILE`

Each step is disturbed, then the same command is given again. A cell counts the disturbances after which it ended with
0, with the bytes of an undisturbed run (clocks and dates aside) and no other file; in brackets the exit codes of the
disturbed runs (0: the step was done before the signal came, or what it wrote fitted; a negative one: the signal came
before Python could listen). The full disk is {kind}, of 5 to 95 % of what the step writes. {runs} disturbances in all,
at random points; "not run" where the time of a call was over.

{table}
"""

if __name__ == "__main__":
    sys.exit(main())
