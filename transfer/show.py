"""Print a study's verdicts as a table, and the whole of it in one line.

    python -m transfer show --study runs/pets

Reads results.json and the predictions beside it; writes nothing. `--json` prints all figures instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer.studies.settings import UNGUIDED
from transfer.verdicts.headline import (
    against,
    alone_holding,
    bill_of,
    headline_rows,
    name,
    pruned_rows,
    smallest_holding,
)


@dataclass(frozen=True)
class Config:
    study: Path
    """Directory of `transfer study`."""
    margin: float | None = None
    """Points that a method may lie below full data and still hold; the study's own margin (0.5) when absent."""
    price: float | None = None
    """Price of one hour of the machine, for the bill."""
    json: bool = False
    """Print JSON."""


def run(config: Config) -> dict[str, Any]:
    """Print the verdicts; returns the analysis."""
    import json

    from transfer.verdicts import leak_counts
    from transfer.verdicts.advice import plain_words
    from transfer.verdicts.analysis import analyse, load

    analysis = analyse(load(config.study), config.study, margin=config.margin, price=config.price)
    line = verdict_line(analysis)
    if config.json:
        print(json.dumps({**analysis, "verdict": line, "advice": plain_words(analysis)}, indent=1, allow_nan=False))
        return analysis
    _print(analysis)
    if held := leak_counts.words(analysis):
        print(held)
    if words := plain_words(analysis):
        print(" ".join(words))
    print(line)
    return analysis


def verdict_line(results: Mapping[str, Any], folder: Path | None = None) -> str:
    """Say in one line whether pruning paid off, for the study's first evaluation and the mean over its targets.

    Parameters
    ----------
    results : mapping
        Of `analysis.analyse`, or results.json itself.
    folder : Path, optional
        The study's directory, needed with results.json: the predictions lie there.
    """
    if "rows" not in results:
        from transfer.verdicts.analysis import analyse

        results = analyse(results, folder)
    rows = headline_rows(results)
    tried = pruned_rows(results)
    judged = [row for row in tried if row["full"] is not None]
    if not tried:
        return "No verdict: the study holds controls alone, no pruning method."
    if not judged:
        best = max(tried, key=lambda row: row["mean"])
        return f"No verdict against full data, which this study has not trained; best is {name(best)}{_random(best)}."
    holding = smallest_holding(results)
    if holding is not None:
        return _it_holds(results, holding, rows)
    if isolated := alone_holding(results):
        return (
            f"Undecided: {name(isolated)} holds, {against(isolated)} against full data, but no pruning method is shown "
            "to hold at a larger keep, where it should be easier. More seeds or test images would decide."
        )
    best = max(judged, key=lambda row: row["full"]["value"])
    alone = [row for row in rows if row["method"] == "random" and row["verdict"] == "holds"]
    there = f" Random alone holds at keep {min(r['keep'] for r in alone):g}." if alone else ""
    keeps = ", ".join(f"{keep:g}" for keep in sorted({row["keep"] for row in judged}))
    closest = f"{name(best)}, {against(best)} against full data{_random(best)}"
    if best["full"]["seeds"] < 2:
        return f"Undecided: one seed decides nothing. Closest is {closest}.{there}"
    margin = f"{results['margin']:g} points"
    if all(row["verdict"] == "loses" for row in judged):
        lost = f"the best, {name(best)}, is {against(best)} against full data, beyond the margin of {margin}"
        nothing = "" if alone else " The smallest keep that holds is 1, full data, which saves nothing."
        return f"Pruning did not hold at any keep tried ({keeps}): {lost}{_random(best)}.{nothing}{there}"
    return (
        f"Undecided: no keep tried ({keeps}) is shown to hold within {margin}; closest is {closest}. "
        f"More seeds or test images would decide.{there}"
    )


def _it_holds(results: Mapping[str, Any], row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str:
    condition = (row["method"], row["keep"])
    over = "" if row["target"] else f" on the mean of {len(results['targets'])} targets"
    text = f"{name(row)} holds{over}: {against(row)} against full data"
    bill = bill_of(results, row)
    factor = bill and bill["factor_flops"]["1"]
    if bill and factor:
        uses = bill["break_even_uses_flops"]
        later = f" (pays from use {uses})" if uses and uses > 1 else ""
        text += f", at {factor:.1f}x less compute" if factor >= 1 else f", at {1 / factor:.1f}x MORE compute"
        text += f" with one use of the index{later}"
    text += _random(row)
    same = [r for r in results["rows"] if (r["method"], r["keep"]) == condition and r["target"] is not None]
    if lost := [r["target"] for r in same if r["evaluation"] == row["evaluation"] and r["verdict"] == "loses"]:
        text += f"; but it loses on {', '.join(lost)}"
    if any(r["method"] == "random" and r["keep"] <= row["keep"] and r["verdict"] == "holds" for r in rows):
        text += "; random holds as well, so the selection was not needed"
    if row["verdict_corrected"] != "holds":
        text += "; that is this cell read alone: corrected for all cells (Holm), it is not shown to hold"
    return text[0].upper() + text[1:] + "."


def _random(row: Mapping[str, Any]) -> str:
    if row["random"] is None:
        return ""
    points = f"by {abs(row['random']['value']):.1f} points"
    if row["beats_random"]:
        return f"; it beats random at the same keep {points}"
    if row["worse_than_random"]:
        return f"; random at the same keep beats it {points}"
    return f"; not shown to beat random at the same keep ({row['random']['value']:+.1f} points)"


def _print(analysis: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from transfer.pages.tables import HEADER, cells_of

    console = Console()
    if not console.is_terminal:
        console.width = 132  # a file or a pipe has no width of its own
    for evaluation in analysis["evaluations"]:
        part = [row for row in analysis["rows"] if row["evaluation"] == evaluation]
        for target in dict.fromkeys(row["target"] for row in part):
            rows = [row for row in part if row["target"] == target]
            title = f"{evaluation} on {target or 'the mean over targets'}"
            title += f", {rows[0]['n']} images" if target and rows[0]["n"] else ""
            table = Table(
                title=Text(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left", title_style="bold"
            )
            for number, head in enumerate(HEADER):
                table.add_column(head, justify="left" if number == 0 else "right", overflow="fold", no_wrap=number > 0)
            for row in rows:
                cells = cells_of(row, bill_of(analysis, row), digits=1)
                table.add_row(*map(Text, cells), style="dim" if row["method"] in UNGUIDED else "")
            console.print(table)
