"""The script with which a shell completes the programs, their steps, flags and choices."""

from __future__ import annotations

import contextlib
import functools
import io
import operator
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import tyro


def script(shell: str, commands: Mapping[str, str | Mapping[str, str]]) -> str:
    """Make the completion script of `winnow`.

    Parameters
    ----------
    shell : {"bash", "zsh"}
    commands : mapping of str to str or mapping of str to str
        Name of each command to its "module: what it does", or to its steps in the same form.
    """
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        tyro.cli(_union(commands), prog="winnow", args=["--tyro-print-completion", shell])
    # A help text of several lines would be offered as several words.
    lines = out.getvalue().rstrip().split("\n")
    return "\n".join(one.replace("\\n", " ") if one.startswith("COMPLETION_SPEC =") else one for one in lines)


def _union(commands: Mapping[str, str | Mapping[str, str]]) -> Any:
    """The commands as a type that tyro reads: a union of the configs of their modules."""
    members = []
    for name, value in commands.items():
        if isinstance(value, str):
            module, _, what = value.partition(":")
            kind, described = import_module(module).Config, what.strip()
        else:
            kind, described = _union(value), ""
        members.append(Annotated[kind, tyro.conf.subcommand(name, description=described)])
    return functools.reduce(operator.or_, members)
