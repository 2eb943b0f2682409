"""Turn a study into one page: verdict, charts, tables, costs, what was kept, and how to reproduce it.

    python -m transfer report --study runs/pets                      # runs/pets/report.html and results.csv
    python -m transfer report --study runs/pets --price 2.5 --markdown docs/pets.md
    python -m transfer report --study runs/pets --groups cameras.csv --tracker tensorboard

Reads results.json, and beside it predictions, indices, scores and the source's beton (for pictures). The page opens
without a network. A study that is still running is reported as far as it is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.runs.experiment_tracker import Tracker, send
from prune.runs.extras import need_modules
from prune.runs.files import InputError, at_least, atomic, note
from prune.runs.path_checks import Written

if TYPE_CHECKING:
    from transfer.pages.kept_images import Selection


@dataclass(frozen=True)
class Config:
    study: Path
    """Directory of `transfer study`."""
    out: Path | None = None
    """Page to write, X.html, with the table as X.csv beside it; the study's report.html and results.csv when absent."""
    margin: float | None = None
    """Points of accuracy below full data within which a method holds; the study's own margin (0.5) when absent."""
    price: float | None = None
    """Price of one hour of the machine; adds the costs in money."""
    source: Path | None = None
    """Beton of the source, for the pictures; by default the one that the study wrote or used."""
    groups: Path | None = None
    """Table of ids and groups (camera, site, ...) of images of the source; adds what is kept of each."""
    tracker: Tracker | None = None
    """Also send verdicts, costs, classes and the figure to this tracker, whose files lie in the study's tracker/."""
    markdown: Written[Path | None] = None
    """Write the tables as Markdown to this file as well."""


def run(config: Config) -> Path:
    """Write the page; returns its path."""
    at_least(config, 0, "margin", "price")
    from transfer.pages.report_page import report_html, shown_conditions
    from transfer.pages.tables import results_csv, study_markdown
    from transfer.verdicts.analysis import analyse
    from transfer.verdicts.headline import verdict_line
    from transfer.verdicts.reliability import reliability_by_evaluation
    from transfer.verdicts.results_file import load_results

    if not config.study.is_dir():
        raise InputError(f"--study {config.study}: no such directory")
    out = config.out or config.study / "report.html"
    table_place = config.study / "results.csv" if config.out is None else out.parent / f"{out.stem}.csv"
    if len({place.resolve() for place in (out, table_place, config.markdown or config.study)}) < 3:
        raise InputError(f"--out {out}: page, table and --markdown need different names")
    for place in (out, table_place, config.markdown):
        if place is not None and place.is_dir():
            raise InputError(f"{place}: is a directory; a file is expected")
    if config.tracker is not None:
        need_modules(config.tracker)
    results = load_results(config.study)
    analysis = analyse(results, config.study, margin=config.margin, price=config.price)
    shown = _shown(config, results, analysis)
    pictures, audit = _pictures(config, shown), _audit(config, results, shown)
    line, date = verdict_line(analysis), _date(config.study)
    table = results_csv(analysis)
    calibration = reliability_by_evaluation(results, config.study, shown_conditions(analysis))
    text = report_html(
        analysis,
        line=line,
        date=date,
        table=table,
        selections=shown.selections,
        pictures=pictures,
        calibration=calibration,
        audit=audit,
    )
    made = {out: text, table_place: table}
    if config.markdown is not None:
        made[config.markdown] = study_markdown(analysis, line, date)
    for place, content in made.items():
        with atomic(place) as partial:
            partial.write_text(content, encoding="utf-8")
    note(f"{out}: {len(text.encode()) / 1e6:.1f} MB, opens without a network")
    if config.tracker is not None:
        from transfer.pages.study_figure import study_figures
        from transfer.pages.tracked_study import study_curves, study_tables

        figures = {f"study/{name}": svg for name, svg in study_figures(analysis).items() if name == "wide"}
        found = study_tables(analysis, line, shown.selections)
        send(
            config.tracker,
            config.study / "tracker",
            config.study.resolve().name,
            found,
            study_curves(analysis),
            figures,
        )
    note(line)
    return out


@dataclass(frozen=True)
class _Shown:
    """What the page shows of the kept images: all selections, the one that the verdict is about, the source's beton."""

    selections: list[Selection]
    best: Selection | None
    beton: Path | None


def _shown(config: Config, results: dict[str, Any], analysis: dict[str, Any]) -> _Shown:
    from transfer.pages.kept_images import open_selections, source_beton
    from transfer.pages.report_page import selection_shown_first

    selections = open_selections(results, config.study)
    best = selections[selection_shown_first(analysis, selections)] if selections else None
    return _Shown(selections, best, config.source or source_beton(results, config.study))


def _pictures(config: Config, shown: _Shown) -> dict[str, Any] | None:
    """Pictures of the selection that the verdict is about."""
    from transfer.pages.kept_images import picture_groups

    if shown.beton is None or shown.best is None:
        return None
    try:
        return {"title": shown.best.title, "groups": picture_groups(shown.best, shown.beton)}
    except InputError as error:
        if config.source is not None:
            raise
        note(f"no pictures: {error}")
        return None


def _audit(config: Config, results: dict[str, Any], shown: _Shown) -> dict[str, Any] | None:
    """The audit of the selection that the verdict is about."""
    from transfer.pages.kept_audit import audit_of, source_manifest

    manifest = source_manifest(config.study, shown.beton) if shown.best is not None else None
    if manifest is None or shown.best is None:
        if config.groups is not None:
            raise InputError(f"--groups {config.groups}: the study's indices or its source are gone; give --source")
        return None
    try:
        return audit_of(results, config.study, manifest, shown.best, config.groups)
    except InputError as error:
        if config.groups is not None:
            raise
        note(f"no audit: {error}")
        return None


def _date(study: Path) -> str:
    """Day on which the results were written (UTC)."""
    import time

    return time.strftime("%Y-%m-%d", time.gmtime((study / "results.json").stat().st_mtime))
