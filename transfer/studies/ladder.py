"""The ladder of `--keep auto` and `--compute`: small networks that predict the keep, and which keep comes next.

The surrogate's recipe is trained on full data and, with the first pruning method and the first seed, at every keep of
the ladder, and probed: ladder/RUN and ladder/probes/RUN/TARGET. The costs list it under the stage `search`. With
`--compute` each keep is trained for the share of the compute that the backbone will have for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune.runs.files import read_json
from transfer.studies.settings import Study, run_name
from transfer.verdicts import keep_search
from transfer.verdicts.controls import CONTROLS


def ladder_runs(methods: Sequence[str], ladder: Sequence[float], seeds: Sequence[int]) -> list[tuple[str, float, int]]:
    """(method, keep, seed) of the ladder: full data and every keep on it; empty without a ladder."""
    method = next((m for m in methods if m not in CONTROLS), None)
    if not ladder or method is None:
        return []
    return [("full", 1.0, seeds[0]), *((method, keep, seeds[0]) for keep in sorted(ladder))]


def ladder_prediction(
    runs: Sequence[tuple[str, float, int]], targets: Sequence[str], out: Path, margin: float | None
) -> float | None:
    """The keep that the ladder's probes predict; None while a probe is missing.

    The smallest within `margin` points of full data; without a margin, at a given total compute, the most accurate.
    """
    accuracies: dict[float, float] = {}
    for method, keep, seed in runs:
        places = [out / "ladder/probes" / run_name(method, keep, seed) / target for target in targets]
        if not all((place / "DONE").exists() for place in places):
            return None
        accuracies[keep] = sum(read_json(place / "result.json")["value"] for place in places) / len(places)
    if not accuracies:
        return None
    full = accuracies.pop(1.0)
    if margin is None:
        return keep_search.most_accurate_keep(accuracies)
    return keep_search.predicted_keep(accuracies, full, margin / 100)


def next_keep(study: Study, out: Path, margin: float) -> float | None:
    """The keep that the backbone is to confirm next; None when the search has ended (or there is none)."""
    runs = ladder_runs(study.methods, study.ladder, study.seeds)
    start = ladder_prediction(runs, list(study.targets), out, None if study.compute else margin)
    if start is None:
        return None
    from transfer.verdicts.analysis import analyse
    from transfer.verdicts.headline import headline_rows
    from transfer.verdicts.results_file import load_results

    rows = headline_rows(analyse(load_results(out), out, margin=margin))
    if study.compute:
        return keep_search.keep_to_try(study.ladder, keep_search.accuracy_by_keep(rows), start)
    holds = keep_search.keeps_that_hold(rows)
    return keep_search.keep_to_confirm(study.ladder, holds, start)


def search_summary(settings: Mapping[str, Any], out: Path) -> dict[str, Any] | None:
    """The search as results.json records it; None for a study without one."""
    ladder = settings.get("ladder")
    if not ladder:
        return None
    runs = ladder_runs(settings["methods"], ladder, settings["seeds"])
    compute = settings.get("compute")
    predicted = ladder_prediction(runs, list(settings["targets"]), out, None if compute else settings["margin"])
    found = {"ladder": sorted(ladder), "predicted": predicted, "tried": list(settings["keeps"])}
    return {**found, "compute": compute} if compute else found
