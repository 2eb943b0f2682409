"""`winnow PROGRAM ...`: `prune`, `pretrain` and `transfer` behind a name that no other program is likely to have.

winnow prune select --help
winnow --completion bash > ~/.local/share/bash-completion/completions/winnow
winnow slurm --out cluster
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from prune.runs import command_line
from prune.runs.exit_codes import ExitCode, table

PROGRAMS = {
    "prune": "choose which images to pretrain on",
    "pretrain": "train a surrogate or a backbone on all images or on the chosen ones",
    "transfer": "evaluate a pretrained backbone on the targets; compress, export and watch it",
}
SLURM, SLURM_STEP = "slurm", "winnow.slurm_files"
SHELLS = ("bash", "zsh")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a program, or print the overview, the version or a completion script; the exit code."""
    command_line.drop_unread_output()
    argv = list(sys.argv[1:] if argv is None else argv)
    first, *rest = argv or [""]
    if first in ("", "-h", "--help"):
        print(_overview())
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
    if first == "--version":
        from prune.index.version import VERSION

        print(f"winnow {VERSION}")
        return ExitCode.DONE
    if first == "--completion":
        if len(rest) != 1 or rest[0] not in SHELLS:
            return _refuse(f"--completion needs a shell: {' or '.join(SHELLS)}")
        print(_completion(rest[0]))
        return ExitCode.DONE
    if first == SLURM:
        return command_line.run_step(f"winnow {SLURM}", SLURM_STEP, rest)
    if first in PROGRAMS:
        code: int = import_module(f"{first}.__main__").main(rest, program=f"winnow {first}")
        return code
    return _refuse(f"no program {first!r}; there are {', '.join((*PROGRAMS, SLURM))}{_hint(first)}")


def _completion(shell: str) -> str:
    from prune.__main__ import STEPS as PRUNE
    from transfer.__main__ import STEPS as TRANSFER
    from winnow.completion import script

    training = f"pretrain.train: {PROGRAMS['pretrain']}"
    slurm = f"{SLURM_STEP}: where the Slurm scripts and the examples lie"
    return script(shell, {"prune": PRUNE, "pretrain": training, "transfer": TRANSFER, SLURM: slurm})


def _hint(word: str) -> str:
    """The full command, where only the name of a step was given."""
    programs = [name for name in ("prune", "transfer") if word in import_module(f"{name}.__main__").STEPS]
    return f". Did you mean: {' or '.join(f'winnow {name} {word}' for name in programs)}?" if programs else ""


def _refuse(mistake: str) -> int:
    print(f"winnow: {mistake}", file=sys.stderr)
    return ExitCode.WRONG_INPUT


def _overview() -> str:
    lines = {
        **{f"{name} ...": what for name, what in PROGRAMS.items()},
        SLURM: "where the Slurm scripts and the examples lie, or a copy of them",
        "--version": "print the version",
        f"--completion {'|'.join(SHELLS)}": "print the completion script of a shell",
    }
    width = max(map(len, lines))
    return "\n".join(
        ["usage: winnow PROGRAM ...", "", "Pretrain on the part of your data that matters.", ""]
        + [f"  {name:<{width}}  {what}" for name, what in lines.items()]
        + ["", "`winnow PROGRAM --help` lists the steps of a program. Exit codes of all:", "", table()]
    )


if __name__ == "__main__":
    sys.exit(main())
