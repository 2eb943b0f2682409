"""Send tables, figures and curves to TensorBoard or Weights & Biases, each by its own library.

TensorBoard shows tables as text and curves as scalars; it has no place for SVG. Weights & Biases gets tables that can
be sorted, and figures as they are. Neither sees an image of a data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from prune.runs.extras import need_modules
from prune.runs.files import InputError, note, printable

Tracker = Literal["tensorboard", "wandb"]
Table = tuple[Sequence[str], Sequence[Sequence[object]]]
_PROJECT = "winnow"


def send(
    tracker: Tracker,
    place: Path,
    name: str,
    tables: Mapping[str, Table],
    curves: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    figures: Mapping[str, str] | None = None,
) -> None:
    """Send to a tracker, whose files lie in `place`; what was sent from there before is replaced in TensorBoard.

    Parameters
    ----------
    tracker : {"tensorboard", "wandb"}
    place : Path
        Folder; TensorBoard reads it, Weights & Biases keeps its own files there and syncs them unless WANDB_MODE is
        offline.
    name : str
        Of the run.
    tables : mapping of str to (head, rows)
    curves : mapping of str to sequence of (step, value), optional
    figures : mapping of str to str, optional
        SVG.

    Raises
    ------
    InputError
        The tracker's library is missing, or it cannot be reached.
    """
    need_modules(tracker)
    (_to_tensorboard if tracker == "tensorboard" else _to_wandb)(place, name, tables, curves or {}, figures or {})


def _to_tensorboard(
    place: Path,
    name: str,
    tables: Mapping[str, Table],
    curves: Mapping[str, Sequence[tuple[int, float]]],
    figures: Mapping[str, str],
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    folder = place / "tensorboard"
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for title, table in tables.items():
            writer.add_text(title, markdown(table))
        for title, points in curves.items():
            for step, value in points:
                writer.add_scalar(title, value, step)
    left = f"; {len(figures)} figures are on the page alone" if figures else ""
    note(f"{folder}: {len(tables)} tables, {len(curves)} curves{left}; tensorboard --logdir {place}")


def _to_wandb(
    place: Path,
    name: str,
    tables: Mapping[str, Table],
    curves: Mapping[str, Sequence[tuple[int, float]]],
    figures: Mapping[str, str],
) -> None:
    import wandb

    place.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True, disable_git=True)
    try:
        with wandb.init(project=_PROJECT, name=name, dir=str(place), settings=settings) as run:
            sent: dict[str, object] = {}
            for title, (head, rows) in tables.items():
                sent[title] = wandb.Table(columns=list(head), data=[list(map(str, row)) for row in rows])
            for title, points in curves.items():
                table = wandb.Table(columns=["step", "value"], data=[[float(x), float(y)] for x, y in points])
                sent[title] = wandb.plot.line(table, "step", "value", title=title)
            for title, svg in figures.items():
                sent[title] = wandb.Html(svg, inject=False)
            run.log(sent)
            where = run.dir if run.offline else run.url
    except wandb.Error as error:
        raise InputError(
            f"--tracker wandb: {str(error).splitlines()[0]}; WANDB_MODE=offline keeps the run on this machine"
        ) from None
    finally:
        wandb.teardown()  # its service is a process of its own
    note(f"{where}: {len(tables)} tables, {len(curves)} curves, {len(figures)} figures")


def markdown(table: Table) -> str:
    """A table in Markdown; nothing in a cell ends it or becomes markup.

    Examples
    --------
    >>> print(markdown((["class", "kept"], [["a|b", 3]])))
    | class | kept |
    | --- | --- |
    | a&#124;b | 3 |
    """
    head, rows = table
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in lines)


def _cell(value: object) -> str:
    text = printable(str(value)).replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return text.replace("\n", " ").replace("[", "&#91;").replace("`", "&#96;")
