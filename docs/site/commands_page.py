"""Pages of the commands: every flag with its type, default and meaning, from the `Config` of each step."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_markdown import cell, module_text, plain

from prune.runs.path_checks import field_texts

PROGRAMS = {
    "prune": "Which images to pretrain on.",
    "pretrain": "One training loop, for the surrogate and the backbone.",
    "transfer": "What the backbone is worth on the targets, and how small it can get.",
}


def steps(program: str) -> dict[str, str]:
    """The commands of a program and their modules."""
    if program == "pretrain":
        return {"pretrain": "pretrain.train"}
    table: dict[str, str] = import_module(f"{program}.__main__").STEPS
    return {f"{program} {name}": text.split(":")[0] for name, text in table.items()}


def page(program: str) -> str:
    """The page of a program, as Markdown."""
    parts = [f"# Commands of {program}", PROGRAMS[program]]
    parts.append(
        "Every command ends with one of the [exit codes](../exit-codes.md). Where an output is up to date, the same "
        "command returns at once; where it was stopped, it resumes."
    )
    for command, module in steps(program).items():
        step = import_module(module)
        parts += [f"## {command}", module_text(_own_text(step)), _table(step.Config)]
    return "\n\n".join(parts) + "\n"


def _own_text(step: Any) -> str:
    """The module's docstring, without what some steps append to it for `--help`: other pages list these tables."""
    tree = ast.parse(inspect.getsource(step))
    return ast.get_docstring(tree) or ""


def _table(config: type) -> str:
    rows = [f"| {flag} | {kind} | {default} | {text} |" for flag, kind, default, text in options(config)]
    return "\n".join(["| option | value | default | meaning |", "|---|---|---|---|", *rows])


def options(config: type, prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Flag, kind of value, default and meaning of every field of a config class, as cells of a table."""
    hints, texts, found = get_type_hints(config, include_extras=True), field_texts(config), []
    for field in dataclasses.fields(config):
        hint, marks = _bare(hints[field.name])
        if dataclasses.is_dataclass(hint):
            found += options(hint, f"{prefix}{field.name.replace('_', '-')}.")  # type: ignore[arg-type]
            continue
        name = f"{prefix}{field.name.replace('_', '-')}"
        positional = any("Positional" in repr(mark) for mark in marks)
        aliases = [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
        flags = [name.upper()] if positional else [f"--{name}", *aliases]
        if hint is bool:
            flags.append(f"--no-{name}")
        cells = ", ".join(f"`{flag}`" for flag in flags)
        found.append((cells, cell(_kind(hint)), _default(field), cell(texts.get(field.name, ""))))
    return found


def _bare(hint: Any) -> tuple[Any, list[Any]]:
    """A type without its annotations, and these."""
    marks: list[Any] = []
    while get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        marks += more
    return hint, marks


def _kind(hint: Any) -> str:
    hint, _ = _bare(hint)
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_kind(part) for part in parts if part is not NoneType)
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin in (tuple, list):
        kinds = [_kind(part) for part in parts if part is not Ellipsis]
        return f"several: {kinds[0]}" if Ellipsis in parts or origin is list else " ".join(kinds)
    names = {int: "whole number", float: "number", str: "text", Path: "path", bool: "switch"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return plain(" ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value))
