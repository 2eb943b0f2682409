"""What a study takes over from others on the same images: outputs that the same command has made from the same inputs.

A surrogate, its features, and a backbone on all data cost most of a second study of one source. `--reuse STUDY` links
them into the new one before their tasks run. Each task then runs all the same: its step finds its output up to date,
or refuses it. Files are linked where the file system allows it and copied elsewhere: either study may be removed.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from prune.runs.files import InputError, note, write_json
from transfer.studies.runner import is_done, weights_checksum
from transfer.studies.study_checks import read_record
from transfer.studies.task import Task, read_plan

STAGES = ("gate", "surrogate", "features", "score", "select", "pretrain")
"""Stages whose outputs are taken over. Each study writes its images: that is how it knows that they are the same."""


Plans = Mapping[Path, Mapping[str, Task]]
"""Directories of other studies with their tasks by name."""


def plans_of(others: Iterable[Path]) -> Plans:
    """Read the plans of other studies, once for a command; one that is gone or damaged is passed over with a note."""
    found: dict[Path, dict[str, Task]] = {}
    for other in others:
        try:
            found[other] = {one.name: one for one in read_plan(other)}
        except InputError as error:
            note(f"--reuse {os.path.relpath(other)}: nothing is taken over from it: {error}")
    return found


def take_over(task: Task, tasks: Mapping[str, Task], out: Path, others: Plans) -> Path | None:
    """Link the output of a task from the first other study that has made the same; that study, or None.

    Parameters
    ----------
    task : Task
        About to run: all that it needs is done.
    tasks : mapping of str to Task
        The plan by name.
    out : Path
        The study's directory.
    others : mapping
        From `plans_of`; an output that is damaged is passed over with a note.
    """
    if task.stage not in STAGES or (out / task.out).exists():
        return None
    for other, theirs in others.items():
        try:
            same = _made_the_same(task, tasks, out, other, theirs)
        except InputError as error:
            note(f"--reuse {os.path.relpath(other)}: nothing is taken over from it for {task.name}: {error}")
            continue
        if same:
            _link(other / task.out, out / task.out)
            record = read_record(other / "done" / f"{task.name}.json")
            write_json(out / "done" / f"{task.name}.json", {**record, "command": None})  # its seconds stay known
            note(f"{task.name}: taken over from {os.path.relpath(other)}")
            return other
    return None


def expected(tasks: Sequence[Task], out: Path, others: Plans) -> set[str]:
    """Names of the tasks whose outputs other studies have by the same command, before the images were compared.

    Parameters
    ----------
    tasks : sequence of Task
        The plan.
    out : Path
        The study's directory; it need not exist.
    others : mapping
        From `plans_of`.
    """
    return {
        task.name
        for other, theirs in others.items()
        for task in tasks
        if task.stage in STAGES and _twin(task, theirs, out, other) is not None
    }


def _twin(task: Task, theirs: Mapping[str, Task], out: Path, other: Path) -> Task | None:
    """The task of another study that has ended with the same command; None where there is none."""
    twin = theirs.get(task.name)
    same = twin is not None and _command(task, out) == _command(twin, other) and is_done(twin, other)
    return twin if same else None


def _made_the_same(task: Task, tasks: Mapping[str, Task], out: Path, other: Path, theirs: Mapping[str, Task]) -> bool:
    """Whether another study has ended this task with the same command on the same inputs."""
    if (twin := _twin(task, theirs, out, other)) is None:
        return False
    _check_whole(twin, other)
    return all(
        need in theirs and _same(out / tasks[need].out, other / theirs[need].out) for need in _all_needs(task, tasks)
    )


def _check_whole(task: Task, study: Path) -> None:
    """Refuse an output that is damaged: weights by the checksum in the task's record, arrays by those in their file."""
    recorded = read_record(study / "done" / f"{task.name}.json").get("weights")
    if recorded is not None and recorded != weights_checksum(study / task.out):
        raise InputError(f"{study / task.out}: its weights are not those that the task wrote")
    place = study / task.out
    for path in [place] if place.is_file() else [place / name for name in _files(place)]:
        if path.suffix == ".npz":
            try:
                with zipfile.ZipFile(path) as archive:
                    damaged = archive.testzip()
            except (zipfile.BadZipFile, OSError):
                damaged = path.name
            if damaged:
                raise InputError(f"{path}: damaged")


def _all_needs(task: Task, tasks: Mapping[str, Task]) -> list[str]:
    """What a task reads: what it needs, and the images that these were made from."""
    found = dict.fromkeys(task.needs)
    for need in task.needs:
        if need in tasks:
            found |= dict.fromkeys(one for one in tasks[need].needs if one.startswith("write/"))
    return list(found)


def _command(task: Task, study: Path) -> list[str]:
    """The words of a command, those that name something outside the study by its place."""
    found = []
    for word in task.command:
        place = os.path.realpath(study / word) if word.startswith((".", "/")) else word
        found.append(place if os.path.exists(place) else word)
    return found


def _same(mine: Path, theirs: Path) -> bool:
    """Whether two outputs hold the same: betons by their images, other files by their bytes."""
    from prune.index.manifest import manifest_exists, manifest_path, open_manifest

    if mine.suffix == ".beton":
        places = [manifest_path(place) for place in (mine, theirs)]
        return all(map(manifest_exists, places)) and len({open_manifest(one).fingerprint for one in places}) == 1
    if mine.is_dir() and theirs.is_dir():
        files = [sorted(_files(place)) for place in (mine, theirs)]
        return files[0] == files[1] and all(_same(mine / name, theirs / name) for name in files[0] if _holds_data(name))
    if not (mine.is_file() and theirs.is_file()):
        return False
    return os.path.samefile(mine, theirs) or filecmp.cmp(mine, theirs, shallow=False)


def _files(place: Path) -> list[Path]:
    found = [path.relative_to(place) for path in place.rglob("*") if path.is_file()]
    return [path for path in found if not any(part.startswith(".") for part in path.parts)]


def _holds_data(name: Path) -> bool:
    return name.suffix in (".safetensors", ".npz")


def _link(source: Path, place: Path) -> None:
    """Link or copy a file or directory, whole or not at all; locks and other hidden files stay behind."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.reused")
    shutil.rmtree(part, ignore_errors=True)
    part.unlink(missing_ok=True)
    for name in _files(source) if source.is_dir() else [Path()]:
        to = part / name if source.is_dir() else part
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, to)
        except OSError:
            shutil.copyfile(source / name, to)
    part.rename(place)
