"""`transfer study --keep auto`: the cheap ladder that predicts, and which keep is to be confirmed next.

The ladder trains the surrogate's recipe on full data and on every rung of the first pruning method, first seed, and
probes it: ladder/CELL and ladder/probes/CELL/TARGET. It costs what the page and the ledger say under `search`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune.runs.files import read_json
from transfer.studies.settings import UNGUIDED, Study, cell_name
from transfer.verdicts import keep_search


def conditions(study: Study) -> list[tuple[str, float, int]]:
    """(method, keep, seed) of the ladder: full data and every rung; none without a ladder."""
    method = next((m for m in study.methods if m not in UNGUIDED), None)
    if not study.ladder or method is None:
        return []
    seed = study.seeds[0]
    return [("full", 1.0, seed), *((method, keep, seed) for keep in sorted(study.ladder))]


def prediction(study: Study, out: Path, margin: float) -> float | None:
    """The rung that the ladder predicts, from its probes; None while one is missing. `margin` in points."""
    values: dict[float, float] = {}
    for method, keep, seed in conditions(study):
        places = [out / "ladder/probes" / cell_name(method, keep, seed) / target for target in study.targets]
        if not all((place / "DONE").exists() for place in places):
            return None
        values[keep] = sum(read_json(place / "result.json")["value"] for place in places) / len(places)
    if not values:
        return None
    full = values.pop(1.0)
    return keep_search.predicted(values, full, margin / 100)


def next_keep(study: Study, out: Path, margin: float) -> float | None:
    """The keep that the backbone is to confirm next; None when the search has ended (or there is none)."""
    if not study.ladder:
        return None
    start = prediction(study, out, margin)
    if start is None:
        return None
    from transfer.verdicts.analysis import analyse, load
    from transfer.verdicts.headline import headline_rows

    holds = keep_search.held(headline_rows(analyse(load(out), out, margin=margin)))
    return keep_search.next_rung(study.ladder, holds, start)


def summary(study: Study, out: Path, margin: float) -> dict[str, Any] | None:
    """What results.json says of the search; None without one."""
    if not study.ladder:
        return None
    return {"ladder": sorted(study.ladder), "predicted": prediction(study, out, margin), "tried": list(study.keeps)}
