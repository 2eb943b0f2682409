"""Check commands against the real parsers, without running them and without a cluster.

    echo "python -m pretrain --beton a.beton --recipe tiny --out b" | python slurm/check.py
    transfer study ... --dry-run --json | python slurm/check.py --plan

Reads one command a line: `prune`, `pretrain` and `transfer` with or without `python -m`, `accelerate launch` or
`torchrun`, and with or without `sbatch` the scripts of the stages, `slurm/submit.sh`, `slurm/study.sh` and
`slurm/shards.sh`. --plan reads a study's plan, checks its commands, and prints `number level stage out name` for each
task. The first command that does not parse is printed with the reason, and the exit code is 2.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

PROGRAMS = ("prune", "pretrain", "transfer")
STAGES = {
    "write": ("prune", "write"),
    "surrogate": ("pretrain",),
    "prune": ("prune",),
    "pretrain": ("pretrain",),
    "transfer": ("transfer",),
    "report": ("transfer", "report"),
}
"""What the stage scripts run when they are given flags."""


def check(words: Sequence[str]) -> None:
    """Parse one command; `ValueError` says why it does not parse."""
    words = list(words)
    while words and "=" in words[0] and words[0].split("=")[0].isidentifier():
        words = words[1:]
    name = Path(words[0]).name if words else ""
    if words[1:3] == ["-m", "pretrain.launch"]:  # torchrun by another name
        words, name = ["torchrun", *words[3:]], "torchrun"
    if name in ("accelerate", "torchrun") or "torch.distributed.run" in words:
        words = _launched(words)
    elif name == "sbatch":
        first = next((k for k, word in enumerate(words[1:], 1) if not word.startswith("-")), None)
        if first is None or not words[first].endswith(".sh"):
            raise ValueError("no script follows sbatch's options; write each option as --name=value")
        words = words[first:]
        name = Path(words[0]).name
    elif name.startswith("python") and words[1:2] == ["-m"]:
        words = words[2:]
    if name.endswith(".sh"):
        return _script(name.removesuffix(".sh"), words[1:])
    program, *arguments = words or [""]
    if program not in PROGRAMS:
        raise ValueError(f"no program of Winnow: {program!r}")
    _program(program, arguments)


def _script(name: str, arguments: list[str]) -> None:
    if name == "scaling":
        return None  # no parser: one directory
    if name == "shards":
        return _program("prune", _without_own_flags(name, arguments))
    if name in ("submit", "study"):
        arguments = _without_own_flags(name, arguments)
        if name == "study" or arguments[:1] == [] or arguments[0] not in STAGES:
            return _program("transfer", ["study", *arguments])
        name, *arguments = arguments
    if name not in STAGES:
        raise ValueError(f"no script of slurm/: {name}.sh")
    if len(arguments) == 1 and not arguments[0].startswith("-"):
        return None  # a study's directory
    first, *rest = (*STAGES[name], *arguments)
    return _program(first, rest)


def _without_own_flags(name: str, arguments: list[str]) -> list[str]:
    words = [word for word in arguments if word not in ("--dry-run", *(("--here",) if name == "shards" else ()))]
    for flag in {"study": ("--limit",), "shards": ("--limit", "--shards")}.get(name, ()):
        if flag in words:
            place = words.index(flag)
            del words[place : place + 2]
    return words


def _program(program: str, arguments: list[str]) -> None:
    from prune.runs.command_line import parse

    main = import_module(f"{program}.__main__")
    module = "pretrain.train"
    if program == "pretrain" and arguments == ["--list"]:
        return
    if program != "pretrain":
        step, *arguments = arguments or ["--help"]
        if step in ("--help", "-h"):
            return
        if step not in main.STEPS:
            raise ValueError(f"{program} has no step {step!r}; there are {', '.join(main.STEPS)}")
        module, program = main.STEPS[step].split(":")[0], f"{program} {step}"
    _quietly(lambda: parse(program, import_module(module), arguments))


def _launched(words: list[str]) -> list[str]:
    """Parse a launcher's own options; what it launches."""
    if Path(words[0]).name == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        if words[1:2] != ["launch"]:
            raise ValueError("of accelerate's commands only `accelerate launch` starts programs")
        found = _quietly(lambda: launch_command_parser().parse_args(words[2:]))
    else:
        from torch.distributed.run import get_args_parser

        rest = words[words.index("torch.distributed.run") + 1 :] if "torch.distributed.run" in words else words[1:]
        found = _quietly(lambda: get_args_parser().parse_args(rest))
    if not found.module:
        raise ValueError("-m PROGRAM is missing")
    return [found.training_script, *found.training_script_args]


def _quietly(parse):
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return parse()
    except SystemExit as end:
        if end.code:
            raise ValueError(printed.getvalue().strip()) from None
        return None


def _plan(text: str) -> list[list[str]]:
    commands = []
    for number, task in enumerate(json.loads(text)["lines"], 1):
        print(number, task["level"], task["stage"], task["out"], task["name"])
        # A value that the study knows only when the task runs.
        commands.append(["1" if word == "{equal-time}" else word for word in task["command"]])
    return commands


def main() -> int:
    """Check the commands on standard input; the exit code."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__.strip())
        return 0
    text = sys.stdin.read()
    if not text.strip():  # the command in front of the pipe failed and has printed why
        return 2
    commands = _plan(text) if "--plan" in sys.argv[1:] else [shlex.split(line) for line in text.splitlines()]
    for words in filter(None, commands):
        try:
            check(words)
        except ValueError as error:
            print(f"{shlex.join(words)}\n{error}", file=sys.stderr)
            return 2
    print(f"winnow: {len(commands)} commands parse", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
