"""A task of a study's plan: one command, what it makes and what it waits for; and the file that lists them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, atomic
from transfer.studies.study_checks import check_record

STEPS_LATER = "{equal-time}"
"""Placeholder in a command for a number of steps that is known once the costs that decide it are recorded."""


@dataclass(frozen=True)
class Task:
    """One command of the plan.

    Attributes
    ----------
    level : int
        0 for tasks that need nothing; otherwise one more than the highest level among `needs`.
    name : str
        Unique; also the log's path below logs/.
    stage : str
        write, gate, surrogate, features, score, select, leaks, search, pretrain, evaluate or collect.
    command : tuple of str
        What a user would type in the study's directory.
    out : str
        What the command makes, relative to the study's directory.
    needs : tuple of str
        Names of the tasks that must be done before.
    facts : dict
        method, keep, seed, target, evaluation: those that apply.
    samples : int
        Images seen, as estimated.
    cost : float
        The same in forward passes.
    """

    level: int
    name: str
    stage: str
    command: tuple[str, ...]
    out: str
    needs: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 0
    cost: float = 0.0

    def record(self) -> dict[str, Any]:
        """The task as plan.jsonl stores it."""
        return {
            "level": self.level,
            "name": self.name,
            "stage": self.stage,
            "command": list(self.command),
            "out": self.out,
            "needs": list(self.needs),
            **self.facts,
        }


def relocated(tasks: Sequence[Task], folder: str) -> list[Task]:
    """The same tasks with all that they make in `folder`, as tasks of a search.

    Names, outputs and needs among them get the folder in front, and so does every word of a command that is one of the
    outputs or lies in one. The facts keep the folder under "at", and what the task was under "kind".
    """
    names, outs = {task.name for task in tasks}, [task.out for task in tasks]

    def word(text: str) -> str:
        return f"{folder}/{text}" if any(text == out or text.startswith(f"{out}/") for out in outs) else text

    return [
        replace(
            task,
            name=f"{folder}/{task.name}",
            stage="search",
            command=tuple(map(word, task.command)),
            out=word(task.out),
            needs=tuple(f"{folder}/{need}" if need in names else need for need in task.needs),
            facts={**task.facts, "at": folder, "kind": task.stage},
        )
        for task in tasks
    ]


def write_plan(tasks: Iterable[Task], out: Path) -> None:
    """Write plan.jsonl, one task a line, into the study's directory `out`."""
    with atomic(out / "plan.jsonl") as partial:
        partial.write_text("".join(json.dumps(task.record()) + "\n" for task in tasks), encoding="utf-8")


def read_plan(out: Path) -> list[Task]:
    """Tasks of plan.jsonl in the study's directory `out`; `InputError` when there is none."""
    place = out / "plan.jsonl"
    if not place.is_file():
        raise InputError(
            f"{place}: no such file: the study has no plan yet; `transfer study --out {out} --plan-only`, with its "
            "flags, writes it"
        )
    tasks = []
    for number, text in enumerate(place.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            record = json.loads(text)
            check_record(record, out)
            known = {name: record.pop(name) for name in ("level", "name", "stage", "out")}
            command, needs = tuple(record.pop("command")), tuple(record.pop("needs"))
        except InputError as error:
            raise InputError(f"{place}: line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{place}: line {number} is damaged; `transfer study --plan-only` writes the plan again"
            ) from None
        tasks.append(Task(**known, command=command, needs=needs, facts=record))
    return tasks
