"""A study's directory may come from elsewhere: its settings and its plan are checked before anything is run or written.

Names become paths: each is one or more components of a fixed alphabet. Commands are steps of ours alone, and what they
write lies inside the study.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, read_json
from transfer.studies.cascade import OPEN, gate_setting
from transfer.studies.settings import Study

SETTINGS_FORMAT = "winnow-study-settings/1"
STEPS = {
    "prune": ("write", "surrogate", "features", "score", "select", "leaks"),
    "pretrain": (),
    "transfer": ("probe", "knn", "finetune", "study", "report"),
}
"""The steps that a plan may run, by program; `pretrain` is a step itself."""
STAGES = (
    "write", "gate", "surrogate", "features", "score", "select", "leaks", "search", "pretrain", "evaluate", "collect",
    "report",
)  # fmt: skip
_OUTPUTS = ("--out", "--report", "--html", "--rest", "--study", "--run", "--json-out")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,199}")
_MOST = 16


def is_inside(place: Any) -> bool:
    """Whether a text is a relative path of plain components: it names something below the directory that it is in.

    Examples
    --------
    >>> [is_inside(place) for place in ("backbones/winnow-k0.2-s0", "../x", "/etc", "a//b", "a/../b", ".ssh/x", "")]
    [True, False, False, False, False, False, False]
    """
    if not isinstance(place, str):
        return False
    parts = place.split("/")
    return len(parts) <= _MOST and all(_PART.fullmatch(part) for part in parts)


def check_record(record: Mapping[str, Any], out: Path) -> None:
    """Raise `InputError` for a line of plan.jsonl that no plan of ours has; the message says what is wrong with it."""
    for name in ("name", "out"):
        if not is_inside(record[name]):
            raise InputError(f"{name} {_shown(record[name])} is not a path of plain names inside the study")
    if record["stage"] not in STAGES:
        raise InputError(f"stage {_shown(record['stage'])}: there are {', '.join(STAGES)}")
    if type(record["level"]) is not int or not 0 <= record["level"] < 1000:
        raise InputError(f"level {_shown(record['level'])} is not a small whole number")
    needs = record["needs"]
    if not isinstance(needs, list) or not all(is_inside(need) for need in needs):
        raise InputError(f"needs {_shown(needs)}: names of tasks are expected")
    _check_command(record["command"])
    base = os.path.realpath(out)
    if not os.path.realpath(out / record["out"]).startswith(f"{base}{os.sep}"):
        raise InputError(f"out {_shown(record['out'])} lies outside the study, behind a link")


def _check_command(command: Any) -> None:
    if not isinstance(command, list) or not all(isinstance(word, str) and "\0" not in word for word in command):
        raise InputError(f"command {_shown(command)}: a list of texts is expected")
    program = command[2] if command[:2] == ["python", "-m"] and len(command) > 3 else None
    if program not in STEPS or (STEPS[program] and command[3] not in STEPS[program]):
        raise InputError(f"command {_shown(' '.join(command[:4]))} is not a step that a plan has")
    step = command[3] if STEPS[program] else program
    whole_study = step in ("study", "report")  # they write results.json and report.html of the study itself
    if step == "study" and command[4:] != ["--out", ".", "--collect"]:
        raise InputError(f"command {_shown(' '.join(command))} is not a step that a plan has")
    for flag, value in _values(command):
        if flag == "--metric":  # its value is code that would be imported
            raise InputError(
                f"--metric {_shown(value)}: a metric is taken from the command line only, never from a plan"
            )
        if flag in _OUTPUTS and not (is_inside(value) or (whole_study and value == ".")):
            raise InputError(f"{flag} {_shown(value)} of its command is not a path of plain names inside the study")


def _values(command: Sequence[str]) -> list[tuple[str, str]]:
    """Flags and their first values, written `--flag value` or `--flag=value`."""
    found = []
    for word, following in zip(command, [*command[1:], ""]):
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            found.append((flag.replace("_", "-"), value if equals else following))
    return found


def read_settings(out: Path) -> dict[str, Any]:
    """Read and check study.json of the study in `out`.

    Raises
    ------
    InputError
        No such file, not a study's settings, or a value of another type than a study has.
    """
    place = out / "study.json"
    settings = read_json(place)
    if not isinstance(settings, dict) or settings.get("format") != SETTINGS_FORMAT:
        raise InputError(f"{place}: is not a study's settings file")
    try:
        _check_settings(settings)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return settings


def _check_settings(settings: Mapping[str, Any]) -> None:
    known = {each.name for each in fields(Study)} - {"sizes", "recipe_epochs"} | {"format", "margin"}
    if unknown := sorted(settings.keys() - known):
        raise InputError(f"{_shown(unknown[0])} is not a setting of a study of this version")
    texts = ("methods", "guides", "evaluations", "surrogates", "reuse")
    numbers = ("keeps", "ladder", "full_lengths")
    for name in (*texts, *numbers, "seeds"):
        kind = "texts" if name in texts else "numbers"
        right = str if name in texts else int if name == "seeds" else (int, float)
        value = settings.get(name)
        needed = name in ("methods", "keeps", "seeds", "guides")
        if value is None and (name == "ladder" or (name not in settings and not needed)):
            continue
        if not isinstance(value, list) or not all(isinstance(v, right) and not isinstance(v, bool) for v in value):
            raise InputError(f"{name} {_shown(value)}: a list of {kind} is expected")
    for name in ("recipe", "surrogate_recipe"):
        if not isinstance(settings.get(name), str):
            raise InputError(f"{name} {_shown(settings.get(name))}: the name of a recipe is expected")
    for name in ("margin", "surrogate_sample"):
        if not _is_number(settings.get(name)):
            raise InputError(f"{name} {_shown(settings.get(name))}: a number is expected")
    for name in ("side", "floor", "epochs", "surrogate_epochs", "compute", "feature_sample"):
        if settings.get(name) is not None and not _is_number(settings[name]):
            raise InputError(f"{name} {_shown(settings[name])}: a number is expected")
    if not _is_number(settings.get("uses", 1)):
        raise InputError(f"uses {_shown(settings['uses'])}: a number is expected")
    if missing := {"methods", "keeps", "seeds", "guides", "side"} - settings.keys():
        raise InputError(f"{min(missing)!r} is missing")
    gate = settings.get("gate", OPEN)
    if not isinstance(gate, str) or gate_setting(gate) != gate:
        raise InputError(f"gate {_shown(gate)}: open, auto or a share is expected")
    for name in ("loader", "init"):
        if not isinstance(settings.get(name), (str, type(None))):
            raise InputError(f"{name} {_shown(settings[name])}: a text is expected")
    targets = settings.get("targets")
    if not isinstance(targets, dict) or not targets:
        raise InputError(f"targets {_shown(targets)}: places by name are expected")
    for name, splits in {"source": settings.get("source"), **targets}.items():
        if not _PART.fullmatch(name):
            raise InputError(f"targets: {_shown(name)} is not a plain name")
        if not isinstance(splits, dict) or set(splits) != {"train", "test"} or not isinstance(splits["train"], str):
            raise InputError(f"{name}: the places of its train and test split are expected")
        if not isinstance(splits["test"], str) and (name != "source" or splits["test"] is not None):
            raise InputError(f"{name}: the place of its test split is expected")


def read_record(place: Path) -> dict[str, Any]:
    """Read done/NAME.json of a task: "command", "needs" and "seconds"."""
    record: dict[str, Any] = read_json(place)
    sound = isinstance(record, dict) and {"command", "needs", "seconds"} <= record.keys()
    if not sound or not _is_number(record["seconds"]):
        raise InputError(f"{place}: is not the record of a task; remove it, and the task runs again")
    return record


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e15


def _shown(value: Any) -> str:
    try:
        text = ascii(value)
    except RecursionError:
        return f"a nested {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
