"""The ladder of `--keep auto` and `--compute`: small networks that predict the keep, and which keep comes next.

The surrogate's recipe is trained on full data and, with the first pruning method and the first seed, at every keep of
the ladder, and probed: ladder/RUN and ladder/probes/RUN/TARGET. The costs list it under the stage `search`. With
`--compute` each keep is trained for the share of the compute that the backbone will have for it. The guiding targets'
training images alone decide what the backbone tries; where `--keep auto` ends follows from the verdict on what it did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.studies.candidates import NONE, folder_of, with_surrogate
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
    runs: Sequence[tuple[str, float, int]], guides: Mapping[str, str], out: Path, margin: float, root: str = ""
) -> float | None:
    """The keep that small networks predict by `held_out_by_keep`; None while one is missing. `margin` in points.

    `root` ends with a slash: the directory of the chosen surrogate's search, where the study has chosen one.
    """
    small = [run for run in runs if run[0] != "full"]
    full = held_out_by_keep(runs[:1], guides, out, "ladder/probes")
    kept = held_out_by_keep(small, guides, out, f"{root}ladder/probes")
    if not full or len(kept) < len(small):
        return None
    return keep_search.predicted_keep(kept, full[1.0], margin / 100)


def held_out_by_keep(
    runs: Iterable[tuple[str, float, int]], guides: Mapping[str, str], out: Path, probes: str
) -> dict[float, float]:
    """By keep, how well the runs' features tell the classes of the guiding targets' training images apart.

    No test image plays a part: half of the training images are predicted from the other half. The mean over seeds and
    guides, of the best method at each keep; runs of which a target's features do not exist yet are left out.

    Parameters
    ----------
    runs : iterable of (method, keep, seed)
    guides : mapping of str to str
        Guiding targets, and where their train splits are.
    out : Path
    probes : str
        Directory of the runs' probes in the study.
    """
    from transfer.evaluation.held_out import held_out_accuracy_of

    found: dict[tuple[str, float], list[float]] = {}
    for method, keep, seed in runs:
        places = []
        for guide, train in guides.items():
            stem = Path(train).name.removesuffix(".beton") if train.endswith(".beton") else f"{guide}.train"
            places.append(out / probes / run_name(method, keep, seed) / guide / "features" / f"{stem}.features.npz")
        if all(place.exists() for place in places):
            found.setdefault((method, keep), []).extend(map(held_out_accuracy_of, places))
    by_keep: dict[float, float] = {}
    for (_, keep), values in found.items():
        mean = sum(values) / len(values)
        by_keep[keep] = max(mean, by_keep.get(keep, mean))
    return by_keep


def _compute_search(
    methods: Sequence[str], ladder: Sequence[float], keeps: Sequence[float], seeds: Sequence[int],
    guides: Mapping[str, str], out: Path, root: str,
) -> tuple[float | None, dict[float, float]]:  # fmt: skip
    """The keep that small networks predict at a given compute, and the accuracy of the backbone at every keep tried."""
    small = [run for run in ladder_runs(methods, ladder, seeds) if run[0] != "full"]
    predictions = held_out_by_keep(small, guides, out, f"{root}ladder/probes")
    predicted = keep_search.most_accurate_keep(predictions) if len(predictions) == len(small) else None
    tried = [(m, keep, seed) for m in methods if m not in CONTROLS for keep in keeps for seed in seeds]
    return predicted, held_out_by_keep(tried, guides, out, "probes")


def next_keep(study: Study, out: Path, margin: float) -> float | None:
    """The keep that the backbone is to confirm next; None when the search has ended (or there is none)."""
    root = _root(study.surrogate)
    study = with_surrogate(study, study.surrogate)
    runs = ladder_runs(study.methods, study.ladder, study.seeds)
    guides = {name: study.targets[name].train for name in study.guides}
    if study.compute and runs:
        start, tried = _compute_search(study.methods, study.ladder, study.keeps, study.seeds, guides, out, root)
        return None if start is None else keep_search.keep_to_try(study.ladder, tried, start)
    start = ladder_prediction(runs, guides, out, margin, root)
    if start is None:
        return None
    from transfer.verdicts.analysis import analyse
    from transfer.verdicts.headline import headline_rows
    from transfer.verdicts.results_file import load_results

    holds = keep_search.keeps_that_hold(headline_rows(analyse(load_results(out), out, margin=margin)))
    return keep_search.keep_to_confirm(study.ladder, holds, start)


def search_summary(settings: Mapping[str, Any], out: Path) -> dict[str, Any] | None:
    """The search as results.json records it; None for a study without one.

    At a given compute "confirmed" lists the keeps that the backbone tried, each with its accuracy on images held out of
    the guiding targets' training images.
    """
    ladder = settings.get("ladder")
    if not ladder:
        return None
    found = {"ladder": sorted(ladder), "tried": list(settings["keeps"])}
    root = _root(settings.get("surrogate"))
    methods = ["full", "gate"] if settings.get("surrogate") == NONE else settings["methods"]
    guides = {name: settings["targets"][name]["train"] for name in settings["guides"]}
    if settings.get("compute"):
        ladder, keeps, seeds = (settings[name] for name in ("ladder", "keeps", "seeds"))
        predicted, tried = _compute_search(methods, ladder, keeps, seeds, guides, out, root)
        return {**found, "predicted": predicted, "compute": settings["compute"], "confirmed": sorted(tried.items())}
    runs = ladder_runs(methods, ladder, settings["seeds"])
    return {**found, "predicted": ladder_prediction(runs, guides, out, settings["margin"], root)}


def _root(surrogate: str | None) -> str:
    """Where the small networks of the chosen surrogate are, with a slash at the end; "" without a choice."""
    return "" if surrogate is None else f"{folder_of(surrogate)}/"
