"""Compare a compressed model with its original on new images: disagreement, drift, alarms, how far to roll back.

    python -m transfer watch --run runs/pets-small --images new.csv --reference pets.train.beton --out seen.csv
    python -m transfer watch --original runs/pets --compressed runs/device/model.int8.onnx --images new.csv

new.csv has a column `path` (relative to the file, or absolute) and may have a column `label`. Prints a table of
classes: how often the two models disagree (or, with labels, how often the compressed model is wrong where the original
is right). An alarm is raised for a class whose share is certainly more than --allowed points above its share on the
reference. With --reference the report also shows whether the features of the new images have drifted. With --run and an
alarm the earlier steps are compared on the same images, and the newest without an alarm is named. --out gets one line
for each image. Seconds for a thousand images of 32 px.

    python -m transfer watch --run runs/pets-small --images new.csv --history pets.jsonl --stages 1,10,50,100 --rollback

With --history one command watches a deployment, each time with the images that came: a test that stays valid however
often it looks (docs/methods.md) compares the models on the stage's share of the traffic, and the chance that a model
without loss is ever alarmed is at most --error. A stage is passed after --each images without an alarm. On an alarm
--rollback puts an earlier step in place. The same command resumes after a kill, and images are counted once. Exit code:
0 every stage passed (without --stages: --each images without an alarm), 80 nothing is wrong so far, 1 alarm, 81 rolled
back (docs/exit-codes.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.runs.files import InputError, at_least, note
from prune.runs.path_checks import Written

if TYPE_CHECKING:
    from transfer.watching.side_by_side import Predictor, Reference


@dataclass(frozen=True)
class Config:
    images: Path
    """CSV of the new images: `path`, and `label` (a class name) where it is known."""
    run: Path | None = None
    """Run directory of `transfer compress`: its original and its current model are compared."""
    original: Path | None = None
    """Model directory of the original; that of --run when absent."""
    compressed: Path | None = None
    """Model directory or ONNX file of the compressed model; that of --run when absent."""
    reference: Path | None = None
    """Beton of images of the kind that the models were trained for."""
    index: Path | None = None
    """Only the images of --reference that this index keeps, for instance a preservation set."""
    most: int = 2000
    """Largest number of images of the reference that are compared."""
    allowed: float = 5.0
    """Points of disagreement in a class that raise no alarm, in addition to those on the reference."""
    least: int = 5
    """A class with fewer new images raises no alarm."""
    history: Written[Path | None] = None
    """History of a deployment to write and to add to, .jsonl; one for each compressed model."""
    stages: str | None = None
    """Percents of the traffic that the compressed model gets, as in 1,10,50,100; all of it when absent."""
    each: int = 200
    """Images compared in a stage before the next one begins; without --stages, in all before --history ends with 0."""
    error: float = 0.05
    """Chance that a compressed model which is nowhere worse than allowed is ever alarmed, in any class at any look."""
    rollback: bool = False
    """On an alarm of --history, make an earlier step of --run its model."""
    html: Written[Path | None] = None
    """Page to write: the life of --run and of its --history."""
    out: Path | None = None
    """CSV to write: path, predictions and confidences of both models, agreement."""
    json: bool = False
    """Print everything as JSON instead of a table."""


def run(config: Config) -> dict[str, Any]:
    """Compare; returns the report that `--json` prints."""
    import json

    _check(config)
    if config.history is not None:
        return _deploy(config)
    from transfer.watching import side_by_side, watch_report
    from transfer.watching.incoming_images import read_incoming

    original, compressed = (side_by_side.open_predictor(place) for place in _places(config))
    side_by_side.need_alike(original, compressed)
    new = read_incoming(config.images, original.classes, original.resolution, original.crop_ratio)
    reference, named = _reference(config, original)
    report, lines = side_by_side.compare(
        original,
        compressed,
        new,
        reference,
        allowed=config.allowed,
        least=config.least,
        run=None if config.compressed is not None else config.run,
    )
    if named is not None:
        report["reference_set"] = named
    if config.out is not None:
        watch_report.write_lines(config.out, lines)
    print(json.dumps(report, indent=1, allow_nan=False) if config.json else watch_report.report_text(report))
    return report


def _deploy(config: Config) -> dict[str, Any]:
    """Take one look of a deployment; ends by an exit code where it is not passed."""
    import json

    from prune.runs.exit_codes import AnswerIsNo, MoreNeeded, RolledBack
    from prune.runs.run_lock import file_lock
    from transfer.watching import deployment_stages, watch_history, watch_report
    from transfer.watching.deployment import report

    assert config.history is not None
    with file_lock(config.history, "--history"):
        head, looks = watch_history.read(config.history)
        ended = looks[-1]["decision"] if looks else ""
        compared, known, unreadable = 0, 0, 0
        if ended == deployment_stages.ALARM and config.rollback:
            _add_rollback(config, head, looks)
        elif ended not in (deployment_stages.ALARM, deployment_stages.ROLLBACK):
            head, looks, compared, known, unreadable = _look(config, head, looks)
        if looks and looks[-1]["decision"] == deployment_stages.ROLLBACK:
            _carry_out(config, looks[-1])
        assert head is not None
        found = report(head, looks, compared, known, config.each) | {"unreadable": unreadable}
        if config.html is not None:
            _write_page(config, head, looks, found)
    print(json.dumps(found, indent=1, allow_nan=False) if config.json else watch_report.deployment_text(found))
    if found["decision"] == deployment_stages.ALARM:
        raise AnswerIsNo
    if found["decision"] == deployment_stages.ROLLBACK:
        raise RolledBack
    if found["decision"] != deployment_stages.PASSED:
        raise MoreNeeded
    return found


def _look(
    config: Config, head: dict[str, Any] | None, looks: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]], int, int, int]:
    """Compare the new images of the stage's share and add their look; also images compared now, before, unreadable."""
    from transfer.compression.acceptance import predicted_classes
    from transfer.watching import deployment, side_by_side, watch_history, watch_report
    from transfer.watching.deployment_stages import ALARM, ALL, ROLLBACK, current_stage, is_in_share, stages_of
    from transfer.watching.incoming_images import read_incoming

    assert config.history is not None
    shares = stages_of(config.stages) if config.stages is not None else (100.0,)
    made = {
        **dict(zip(("original", "compressed"), map(deployment.model_digest, _places(config)), strict=True)),
        "reference": _fingerprint(config),
        "points": config.allowed,
        "stages": list(shares),
        "each": config.each if config.stages is not None else 0,
        "error": config.error,
    }
    if head is not None:
        deployment.refuse_other(config.history, head, made)
    share, before = shares[current_stage(looks)], watch_history.seen(looks)
    known, now = set[int](), set[int]()

    def wanted(mark: int) -> bool:
        fresh = mark not in before and mark not in now
        (known if mark in before else now).add(mark)
        return fresh and is_in_share(mark, share)

    original, compressed = (side_by_side.open_predictor(place) for place in _places(config))
    side_by_side.need_alike(original, compressed)
    new = read_incoming(config.images, original.classes, original.resolution, original.crop_ratio, wanted)
    if head is None:
        reference, named = _reference(config, original)
        pair = None if reference is None else (reference, compressed.predict(reference.images)[1])
        labelled = bool(len(new.labels)) and bool((new.labels >= 0).all())
        head = deployment.begin(made, original.classes, labelled, pair, named, config.least)
    if not len(new.paths):
        note(f"{config.images}: no new image in the share of {share:g} %")
        if config.out is not None:
            watch_report.write_lines(config.out, [])
            note(f"{config.out}: its header alone, as nothing new was compared")
        return head, looks, 0, len(known), len(new.unreadable)
    logits, mine = original.predict(new.images)[1], compressed.predict(new.images)[1]
    first, second = predicted_classes(logits), predicted_classes(mine)
    counts = deployment.counted(head["measure"], original.classes, first, second, new.labels)
    used = (new.labels >= 0) | (head["measure"] != deployment.LOST)
    seen = [mark for mark, counts_now in zip(new.digests, used, strict=True) if counts_now]
    record = deployment.look(watch_history.rule_of(head), looks, seen, counts)
    if record["decision"] == ALARM and config.run is not None and config.compressed is None:
        record["rollback"] = deployment.way_back(
            config.run, new, original.classes, head, first, record["alarms"], config.least
        )
        record["decision"] = ROLLBACK if config.rollback else ALARM
    looks = [*looks, record]
    if config.out is not None:
        watch_report.write_lines(config.out, side_by_side.prediction_lines(new, original.classes, logits, mine))
    watch_history.write(config.history, head, looks)
    return head, looks, counts[ALL][0], len(known), len(new.unreadable)


def _add_rollback(config: Config, head: dict[str, Any] | None, looks: list[dict[str, Any]]) -> None:
    """Add the rollback to a history that ended with an alarm, where its way back is known."""
    from transfer.watching import deployment, watch_history

    assert config.history is not None
    assert head is not None
    if looks[-1]["rollback"] is not None:
        looks.append(deployment.rolled_back(looks[-1], len(looks) + 1))
        watch_history.write(config.history, head, looks)


def _carry_out(config: Config, last: dict[str, Any]) -> None:
    from transfer.watching.deployment import carry_out

    if config.run is None:
        raise InputError(f"--history {config.history}: ended with a rollback of a run; give that --run")
    carry_out(config.run, last)


def _write_page(config: Config, head: dict[str, Any], looks: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Write the page of the run's life."""
    from prune.index.pruned_index import PrunedIndex
    from prune.runs.files import atomic
    from transfer.compression.journal import read_journal
    from transfer.compression.preservation_versions import versions_of
    from transfer.pages.life_page import life_html

    assert config.html is not None
    versions = [] if config.index is None else versions_of(config.index, PrunedIndex.load(config.index))
    name = (config.run or config.compressed or config.images).resolve().name
    entries = read_journal(config.run) if config.run is not None else []
    text = life_html(name, entries, versions, head, looks, found["classes"])
    with atomic(config.html) as partial:
        partial.write_text(text, encoding="utf-8")


def _places(config: Config) -> tuple[Path, Path]:
    """Where the original and the compressed model lie."""
    from transfer.compression.journal import step_directory

    return config.original or step_directory(_run(config), 0), config.compressed or _run(config)


def _reference(config: Config, original: Predictor) -> tuple[Reference | None, dict[str, Any] | None]:
    """The images of --reference, and the version of the preservation set where --index chooses them."""
    from prune.data.dataset import open_dataset
    from transfer.compression.preservation_versions import open_preservation
    from transfer.evaluation.target_splits import kept_rows
    from transfer.watching import side_by_side

    if config.reference is None:
        return None, None
    dataset = open_dataset(config.reference)
    if config.index is None:
        return side_by_side.read_reference(dataset, kept_rows(dataset.manifest, None)[0], config.most, original), None
    members = open_preservation(config.index, dataset.manifest)
    return side_by_side.read_reference(dataset, members.rows, config.most, original, members.later), members.record


def _fingerprint(config: Config) -> str | None:
    """Identifies the images of --reference without reading them."""
    from prune.data.dataset import open_dataset
    from transfer.compression.preservation_versions import open_preservation

    if config.reference is None:
        return None
    manifest = open_dataset(config.reference).manifest
    if config.index is None:
        return manifest.fingerprint
    return f"{manifest.fingerprint} {open_preservation(config.index, manifest).fingerprint}"


def _run(config: Config) -> Path:
    assert config.run is not None
    return config.run


def _check(config: Config) -> None:
    if config.run is None and (config.original is None or config.compressed is None):
        raise InputError("give --run, or --original and --compressed")
    if config.run is not None:
        from transfer.compression.journal import need_journal

        need_journal(config.run, "--run ")
    if config.index is not None and config.reference is None:
        raise InputError("--index: chooses images of --reference; give both")
    if not 0 <= config.allowed <= 100:
        raise InputError(f"--allowed {config.allowed}: points from 0 to 100 are needed")
    at_least(config, 1, "least", "most", "each")
    _check_history(config)
    if config.out is not None and config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; a CSV file is expected")
    if config.out is not None and config.out.resolve() == config.images.resolve():
        raise InputError(f"--out {config.out}: is the file of --images")


def _check_history(config: Config) -> None:
    if config.history is None:
        if given := [name for name in ("stages", "rollback", "html") if getattr(config, name)]:
            raise InputError(f"--{given[0]}: belongs to a deployment; give --history")
        return
    if config.history.suffix != ".jsonl":
        raise InputError(f"--history {config.history}: the name must end in .jsonl")
    if config.stages is not None:
        from transfer.watching.deployment_stages import stages_of

        stages_of(config.stages)
    if not 0 < config.error < 1:
        raise InputError(f"--error {config.error}: a probability in (0, 1) is needed")
    if not config.allowed:
        raise InputError("--allowed 0: no test tells none from a few; with --history give more, such as 0.5")
    if config.rollback and (config.run is None or config.compressed is not None):
        raise InputError("--rollback: changes the model of a run; give --run, without --compressed")
    for flag in ("out", "html"):
        place = getattr(config, flag)
        if place is not None and place.resolve() == config.history.resolve():
            raise InputError(f"--{flag} {place}: is the file of --history")
    if config.html is not None and config.html.is_dir():
        raise InputError(f"--html {config.html}: is a directory; a page is expected")
