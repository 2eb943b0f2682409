"""One line of a study's plan, and what the planning of every stage asks of a study. Pure functions, no files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, need_file
from transfer.studies.settings import Study

WRITE, FORWARD, TRAIN = 0.1, 1.0, 3.0  # what an image costs, in forward passes: only shares of the whole matter


@dataclass(frozen=True)
class Line:
    """One step of the plan.

    Attributes
    ----------
    level : int
        0 for lines that need nothing; otherwise one more than the highest level among `needs`.
    name : str
        Unique; also the log's path below logs/.
    stage : str
        write, surrogate, features, score, select, leaks, search, pretrain, evaluate or collect.
    command : tuple of str
        What a user would type in the study's directory.
    out : str
        What the command makes, relative to the study's directory.
    needs : tuple of str
        Names of the lines that must be done before.
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
        """What plan.jsonl holds."""
        return {
            "level": self.level,
            "name": self.name,
            "stage": self.stage,
            "command": list(self.command),
            "out": self.out,
            "needs": list(self.needs),
            **self.facts,
        }


def read_plan(out: Path) -> list[Line]:
    """Lines of the plan in the study's directory `out`; `InputError` when there is none."""
    place = need_file(out / "plan.jsonl", "the plan of `transfer study`")
    lines = []
    for number, text in enumerate(place.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(text)
            known = {name: record.pop(name) for name in ("level", "name", "stage", "out")}
            command, needs = tuple(record.pop("command")), tuple(record.pop("needs"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{place}: line {number} is damaged; `transfer study --plan-only` writes it anew"
            ) from None
        lines.append(Line(**known, command=command, needs=needs, facts=record))
    return lines


def source_of(study: Study) -> str:
    return study.source.train if study.source.train.endswith(".beton") else "data/source.beton"


def needs_source(study: Study) -> tuple[str, ...]:
    return () if study.source.train.endswith(".beton") else ("write/source",)


def half_of(study: Study, target: str, half: str) -> str:
    """Beton of a target's half: the given one, or the one that the study writes."""
    place = getattr(study.targets[target], half)
    return place if place.endswith(".beton") else f"data/{target}.{half}.beton"


def needs_half(study: Study, target: str, half: str) -> tuple[str, ...]:
    return () if getattr(study.targets[target], half).endswith(".beton") else (f"write/{target}.{half}",)


def epochs_of(study: Study, recipe: str, given: float | None) -> float:
    return given or study.recipe_epochs.get(recipe, 1)


def loader_flags(study: Study) -> list[str]:
    return ["--loader", study.loader] if study.loader else []
