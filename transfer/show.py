"""Print a study's verdicts as tables, and its overall verdict in one line.

    python -m transfer show --study runs/pets

Reads results.json and the predictions that it names; writes nothing. `--json` prints all figures instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Config:
    study: Path
    """Directory of `transfer study`."""
    margin: float | None = None
    """Points of accuracy below full data within which a method holds; the study's own margin (0.5) when absent."""
    price: float | None = None
    """Price of one hour of the machine: the speed-up, and with --json all costs, are then in money as well."""
    json: bool = False
    """Print JSON."""


def run(config: Config) -> dict[str, Any]:
    """Print the verdicts; returns the analysis."""
    import json

    from transfer.verdicts.advice import advice_sentences
    from transfer.verdicts.analysis import analyse
    from transfer.verdicts.headline import verdict_line
    from transfer.verdicts.leak_counts import leak_sentence
    from transfer.verdicts.results_file import load_results
    from transfer.verdicts.speed_up_rows import speed_up_sentences

    analysis = analyse(load_results(config.study), config.study, margin=config.margin, price=config.price)
    line, advice = verdict_line(analysis), advice_sentences(analysis)
    if config.json:
        print(json.dumps({**analysis, "verdict": line, "advice": advice}, indent=1, allow_nan=False))
        return analysis
    for sentence in speed_up_sentences(analysis):
        print(sentence)
    _print_tables(analysis)
    if leaks := leak_sentence(analysis):
        print(leaks)
    if rest := [sentence for sentence in advice if sentence not in speed_up_sentences(analysis)]:
        print(" ".join(rest))
    print(line)
    return analysis


def _print_tables(analysis: Mapping[str, Any]) -> None:
    from transfer.pages.tables import HEADER, condition_cells, speed_up_note, speed_up_table
    from transfer.verdicts.controls import CONTROLS
    from transfer.verdicts.headline import cost_of

    for evaluation in analysis["evaluations"]:
        part = [row for row in analysis["rows"] if row["evaluation"] == evaluation]
        for target in dict.fromkeys(row["target"] for row in part):
            rows = [row for row in part if row["target"] == target]
            title = f"{evaluation} on {target or 'the mean over targets'}"
            title += f", {rows[0]['n']} images" if target and rows[0]["n"] else ""
            body = [condition_cells(row, cost_of(analysis, row), digits=1) for row in rows]
            _print_table(title, HEADER, body, ["dim" if row["method"] in CONTROLS else "" for row in rows])
        if found := speed_up_table(analysis, evaluation):
            _print_table(f"speed-up, {evaluation}", *found, [""] * len(found[1]))
            print(speed_up_note(analysis))
    margin = f"{analysis['margin']:g} points"
    print(
        f"holds: shown to stay within {margin} of full data (the 95 % interval lies above -{margin}); loses: shown to "
        "fall below; undecided: the interval allows both."
    )


def _print_table(title: str, header: Sequence[str], body: Sequence[Sequence[str]], styles: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(
        title=Text(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left", title_style="bold"
    )
    for number, head in enumerate(header):
        table.add_column(head, justify="left" if number == 0 else "right", overflow="fold", no_wrap=number > 0)
    for cells, style in zip(body, styles):
        table.add_row(*map(Text, cells), style=style)
    if not console.is_terminal:  # a file or a pipe has no width of its own: as wide as the table
        console.width = 1000
        console.width = max(132, console.measure(table).maximum)
    console.print(table)
