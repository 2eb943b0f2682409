"""From images to an index in one command: betons, gate, surrogate, features, scores, selection, and a page.

    transfer auto --source photos --targets pets=pets --keep 0.2 --out runs/pets
    transfer auto --source photos --targets pets=pets --keep 0.2 --out runs/pets --print-commands

Runs the commands that one would type, chooses their settings by the source (how many images, of which size), and says
why. They and the reasons are in OUT/commands.sh. The same command resumes: what is up to date is not made again. The
surrogate is trained, unless a model of timm is named: --surrogate timm:resnet18.a1_in1k fetches its weights, and
--surrogate timm:resnet18:weights.safetensors reads them from a file.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prune.runs.compute_device import DeviceFlag, using
from prune.runs.files import InputError, at_least, atomic, note
from prune.runs.path_checks import need_directory

if TYPE_CHECKING:
    from transfer.studies.auto_plan import AutoPlan


@dataclass(frozen=True)
class Config:
    source: str
    """Images to choose from: a directory of class folders (or with such a train/), or what `prune write --images` takes
    besides; or a beton."""
    targets: tuple[str, ...]
    """name=DIR, DIR with train/ and test/ of class folders; the train splits guide the selection."""
    out: Path
    """Directory for all that is made."""
    keep: float = 0.2
    """Fraction of the source to keep, in (0, 1]."""
    surrogate: str | None = None
    """timm:MODEL[:WEIGHTS], RECIPE:SHARE, or the share of the source to train on; chosen by the source when absent."""
    gate: bool = True
    """Let thumbnails shut out what is of another domain than the targets, before the surrogate."""
    floor: int | None = None
    """The least that every class keeps; when absent up to 20, as long as that is no more than a tenth of the kept."""
    loader: Literal["ffcv", "torch"] | None = None
    """Image loader; when absent FFCV where it is installed."""
    seed: int = 0
    """Seed of the surrogate, of scores and of draws."""
    print_commands: bool = False
    """Print the commands and run nothing."""
    json: bool = False
    """Print commands, reasons and the index's path as JSON on standard output."""
    device: DeviceFlag = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""


def run(config: Config) -> None:
    """Make the index, or print the commands."""
    from transfer.studies.auto_plan import plan, source_facts, source_name
    from transfer.studies.places import parse_targets, source_splits, target_splits

    if not 0 < config.keep <= 1:
        raise InputError(f"--keep {config.keep} is outside (0, 1]")
    if not config.targets:
        raise InputError("--targets: name at least one, as in --targets pets=data/pets")
    at_least(config, 0, "seed", "floor")
    need_directory(config.out)
    source = source_splits(config.source).train
    targets = {name: target_splits(name, place) for name, place in parse_targets(config.targets).items()}
    made = plan(
        source,
        targets,
        source_facts(source),
        config.keep,
        config.out,
        asked=(config.source, *config.targets),
        name=source_name(config.source),
        gate=config.gate,
        surrogate=config.surrogate,
        floor=config.floor,
        loader=config.loader,
        seed=config.seed,
    )
    doubt: list[str] = []
    if not config.print_commands:
        with using(config.device):
            doubt = _execute(config, made)
    if config.json:
        facts = {"index": made.index, "commands": made.commands, "why": made.why, "next": made.next, "doubt": doubt}
        json.dump(facts, sys.stdout, indent=1)
        sys.stdout.write("\n")
    elif config.print_commands:
        print(made.script(), end="")


def _execute(config: Config, made: AutoPlan) -> list[str]:
    """Run the commands in order; the first that fails ends the program with its exit code.

    Returns why the index is not to be relied on; nothing where its surrogate knows the source's classes.
    """
    import shlex

    from prune.runs.run_lock import directory_lock
    from transfer.studies.auto_plan import SCRIPT_BEGIN
    from transfer.studies.worker import execute

    with directory_lock(config.out):
        script = config.out / "commands.sh"
        if script.exists() and not script.read_text(encoding="utf-8", errors="replace").startswith(SCRIPT_BEGIN):
            raise InputError(f"{script}: is not one of `transfer auto`; give another --out, or move it")
        with atomic(script) as partial:
            partial.write_text(made.script(), encoding="utf-8")
        for line in made.why:
            note(line)
        for number, command in enumerate(made.commands, 1):
            note(f"{number}/{len(made.commands)}: {shlex.join(command)}")
            with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
                code, _ = execute(["python", "-m", *command])
            if code:
                raise SystemExit(code)
    doubt = _doubt(made)
    doubtful = "made, but not to be relied on"
    how = doubtful if doubt else "done"
    note(f"{made.index}: {how}; the commands are in {config.out / 'commands.sh'}. What to type next:")
    for line in doubt:
        note(line)
    for line in made.next:
        note(line)
    if doubt:  # whoever reads one line reads the last
        note(f"{made.index}: {doubtful}: its surrogate only guesses")
    return doubt


def _doubt(made: AutoPlan) -> list[str]:
    """Why the index is not to be relied on, and the way out: said by a step in the middle, where nobody looks."""
    from prune.scores.feature_files import open_features
    from prune.scores.surrogate_check import guessing_sentence

    scored = [command[command.index("--source") + 1] for command in made.commands if command[:2] == ["prune", "score"]]
    said = [text for place in scored if (text := guessing_sentence(open_features(Path(place))))]
    way = (
        "# first give the surrogate more: the same command with --surrogate timm:resnet18.a1_in1k, whose weights are "
        "trained, or --surrogate small-rn18:1, which trains for longer, and with another --out; more images help, too"
    )
    return [*(f"# {text}" for text in said), way] if said else []
