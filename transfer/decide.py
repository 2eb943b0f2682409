"""One page for who decides on storage: bytes, accuracy, cost, decoding, and what a tenth less loses.

    transfer decide runs/study --html decision.html --storage-price 0.023 --price 2.5
    transfer decide runs/pets-2gb.index.npz --source runs/photos.beton --curves runs/photos.curves.npz
    transfer decide runs/stream --json

Reads a study, an index (of `prune select`, or of `prune budget` with its qualities), or a run of `transfer stream` or
`transfer incremental`; trains nothing. With a beton it measures decoding for half a second. What no record has is
called unknown, and the command that finds it out is named.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from prune.runs.files import InputError, at_least, atomic, note, read_json
from prune.runs.path_checks import Written

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Config:
    place: Annotated[Path, tyro.conf.Positional]
    """Directory of `transfer study`, `stream` or `incremental`; or an index, NAME.index.npz."""
    html: Written[Path | None] = None
    """Page to write, X.html (extra `report`)."""
    source: Path | None = None
    """Beton of the source, for decoding time and the fields of `prune write --fields`; a study's own when absent."""
    curves: Path | None = None
    """For an index: curves of `prune curves`, for its worth and what a tenth less costs."""
    trained: Path | None = None
    """For an index: `pretrain` run on what it keeps, for the time of training."""
    evaluation: Path | None = None
    """For an index: run of `transfer probe`, `knn` or `finetune` on that model, for the accuracy."""
    margin: float | None = None
    """For a study: points below all data within which a part holds; the study's own when absent."""
    storage_price: float | None = None
    """Price of a gigabyte stored for a month; the storage of an option then has a price."""
    price: float | None = None
    """Price of one hour of the machine that trains."""
    watts: float | None = None
    """Mean power of that machine while it trains, from a meter or its counters: gives the energy of training."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> dict[str, Any]:
    """Print the options; returns them."""
    at_least(config, 0, "margin", "storage_price", "price", "watts")
    import json

    from transfer.pages.decision_page import HEADER, UNKNOWN, cells_of, decision_html

    if config.html is not None and (config.html.suffix != ".html" or config.html.is_dir()):
        raise InputError(f"--html {config.html}: a file that ends in .html is expected")
    decision = _decision(config)
    if config.html is not None:
        with atomic(config.html) as partial:
            partial.write_text(decision_html(decision), encoding="utf-8")
        note(f"{config.html}: opens without a network")
    if config.json:
        json.dump(decision, sys.stdout, indent=1, allow_nan=False)
        sys.stdout.write("\n")
        return decision
    cells = [cells_of(one) for one in decision["options"]]
    told = [k for k in range(len(HEADER)) if any(row[k] not in (UNKNOWN, "-") for row in cells)]
    _print([HEADER[k] for k in told], [[row[k] for k in told] for row in cells])
    for text in decision["notes"]:
        print(text)
    for name, counts in decision["retention"].items():
        print(f"{name}: " + ", ".join(f"{value} {count:,}" for value, count in list(counts.items())[:10]))
    for one in decision["unknown"]:
        print(f"unknown: {one['what']}; {one['command']}")
    print(decision["why"])
    return decision


def _decision(config: Config) -> dict[str, Any]:
    from transfer.pages.storage_options import chosen_of

    place = config.place
    if not place.exists():
        raise InputError(f"{place}: no such file or directory; a study, a run or an index is expected")
    if place.is_file():
        kind, found = "plan", _of_index(config)
    elif (place / "results.json").is_file() or (place / "plan.jsonl").is_file():
        kind, found = "study", _of_study(config)
    else:
        kind, found = "run", _of_run(config)
    options, unknown, margin = found["options"], found["unknown"], found.get("margin")
    notes = _decoding(config, found)
    _costs(config, options)
    unknown += _unknown_costs(config, options)
    chosen, why = chosen_of(kind, options, margin)
    retention, of = _retention(config, found)
    if not retention:
        unknown.append(
            {"what": "licence and consent", "command": "prune write --images IMAGES --out BETON --fields TABLE"}
        )
    return {
        "kind": kind,
        "options": options,
        "chosen": chosen,
        "why": why,
        "unknown": unknown,
        "retention": retention,
        "retention_of": of,
        "notes": notes,
        "settings": {name: str(value) for name, value in vars(config).items() if value is not None},
    }


def _of_study(config: Config) -> dict[str, Any]:
    from transfer.pages.kept_images import open_selections, source_beton
    from transfer.pages.storage_options import study_options
    from transfer.verdicts.analysis import analyse
    from transfer.verdicts.results_file import load_results

    for flag in ("curves", "trained", "evaluation"):
        if getattr(config, flag) is not None:
            raise InputError(f"--{flag}: is for an index; {config.place} is a study")
    results = load_results(config.place)
    analysis = analyse(results, config.place, margin=config.margin)
    indices = {(one.method, one.keep): one.index for one in open_selections(results, config.place)}
    options, unknown = study_options(analysis, results, indices, config.place)
    source = config.source or source_beton(results, config.place)
    return {
        "options": options,
        "unknown": [one._asdict() for one in unknown],
        "margin": analysis["margin"],
        "source": source,
        "index": next(iter(indices.values()), None),
    }


def _of_index(config: Config) -> dict[str, Any]:
    from prune.byte_budget.budget_inputs import read_curves
    from prune.index.pruned_index import PrunedIndex
    from transfer.pages.storage_options import plan_options

    if config.margin is not None:
        raise InputError(f"--margin: is for a study; {config.place} is an index")
    index = PrunedIndex.load(config.place)
    curves = None if config.curves is None else read_curves(config.curves, index)
    source = config.source or Path("SOURCE.beton")
    names = {"index": str(config.place), "source": str(source), "model": "SURROGATE"}
    options, found = plan_options(index, curves, names)
    plan, unknown = options[1], [one._asdict() for one in found]
    if config.evaluation is not None:
        plan["accuracy"] = _evaluated(config.evaluation)
    else:
        train = f"prune materialize {config.place} --source {source} --out part.beton, pretrain --beton part.beton"
        probe = "transfer probe --model MODEL --train TRAIN --test TEST --out PROBE, and --evaluation PROBE here"
        unknown.append({"what": "accuracy", "command": f"{train} --recipe RECIPE --out MODEL, {probe}"})
    if config.trained is not None:
        plan |= _trained(config.trained)
    else:
        unknown.append({"what": "time of training", "command": "the same training, with --trained MODEL here"})
    return {"options": options, "unknown": unknown, "source": config.source, "index": index}


def _of_run(config: Config) -> dict[str, Any]:
    from transfer.pages.storage_options import run_options

    place = config.place / "result.json"
    if not place.is_file():
        raise InputError(f"{config.place}: neither a study nor a run of `transfer stream` or `transfer incremental`")
    result = read_json(place)
    if not isinstance(result, dict) or result.get("task") not in ("stream", "incremental") or not result.get("summary"):
        raise InputError(f"{place}: not a result of `transfer stream` or `transfer incremental`")
    options, unknown = run_options(result, config.place)
    return {"options": options, "unknown": [one._asdict() for one in unknown], "source": config.source, "index": None}


def _evaluated(place: Path) -> dict[str, Any]:
    """Accuracy in percent from result.json of a probe, k-NN or fine-tuning."""
    file = place / "result.json" if place.is_dir() else place
    result = read_json(file)
    value = result.get("value") if isinstance(result, dict) else None
    if not isinstance(value, (int, float)):
        raise InputError(f"--evaluation {file}: no result of `transfer probe`, `knn` or `finetune`")
    return {"value": 100 * float(value)}


def _trained(place: Path) -> dict[str, Any]:
    """Seconds and images of a training, from its metrics.jsonl."""
    import json

    file = place / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        seconds, samples = (sum(float(line[key]) for line in lines) for key in ("seconds", "samples"))
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"--trained {place}: no run of `pretrain` with its metrics.jsonl") from None
    if not samples:
        raise InputError(f"--trained {file}: has no epoch")
    return {"seconds": seconds, "samples": samples, "training_ms": 1e3 * seconds / samples}


def _decoding(config: Config, found: dict[str, Any]) -> list[str]:
    """Measure decoding where there is a beton; adds it to the options, and returns notes on how."""
    from prune.data.dataset import open_dataset
    from prune.data.decoding_time import decoding_time

    options, index, source = found["options"], found["index"], found["source"]
    notes = ["Storage is what the images take; in a study the surrogate and the selection are part of the training."]
    if any(one["seconds"] is not None for one in options):
        even = any(one.get("even_seconds") for one in options)
        made = "" if even else ", and prices and energy made of them,"
        what = "wall-clock seconds of the machine that trained"
        notes.append(f"Times of training{made} are {what}, its other load included.")
        if even:
            notes.append(
                "Prices and energy are by FLOPs: each training counts as if it had run at the mean speed of all, so "
                "that other load during one of them does not change how they compare; surrogates and selections count "
                "as measured."
            )
    if source is None or index is None:
        if index is not None:
            found["unknown"].append({"what": "decoding time", "command": "give --source BETON"})
        return notes
    try:
        dataset = open_dataset(source)
        rows: np.ndarray = index.rows_in(dataset.manifest)
    except InputError as error:
        if config.source is not None:
            raise
        found["unknown"].append({"what": f"decoding time ({error})", "command": "give --source BETON"})
        return notes
    planned = bool(index.quality.any())
    if planned:
        measured = {"plan": decoding_time(dataset, rows, index.quality), "source": decoding_time(dataset, rows)}
    else:
        measured = dict.fromkeys([one["group"] for one in options], decoding_time(dataset, rows))
    for one in options:
        time = measured.get(one["group"])
        if time is None:
            continue
        one["decode_ms"] = time.ms
        if one.get("training_ms"):
            one["decode_share"] = time.ms / one["training_ms"]
    time = next(iter(measured.values()))
    power = "no counter of energy is readable here" if time.watts is None else f"at {time.watts:,.0f} W by its counters"
    notes.append(
        f"Decoding was measured on one core of this machine, with {time.images} images ({power}); its share is of the "
        "time that training takes an image, and cores share it."
    )
    return notes


def _costs(config: Config, options: list[dict[str, Any]]) -> None:
    """Add prices and energy to the options, where what they need is given."""
    for one in options:
        if config.storage_price is not None and one["bytes"] is not None:
            one["storage"] = one["bytes"] / 1e9 * config.storage_price
        if one["seconds"] is not None:
            hours = (one.get("even_seconds") or one["seconds"]) / 3600
            one |= {} if config.price is None else {"price": hours * config.price}
            one |= {} if config.watts is None else {"kwh": hours * config.watts / 1000}


def _unknown_costs(config: Config, options: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What the flags of prices and power would tell."""
    from prune.runs.energy_counter import EnergyMeter

    found = []
    if config.storage_price is None:
        found.append({"what": "storage a month", "command": "--storage-price PRICE, of a gigabyte for a month"})
    if any(one["seconds"] is not None for one in options):
        if config.price is None:
            found.append({"what": "price of training", "command": "--price PRICE, of an hour of the machine"})
        if config.watts is None:
            counters = ", ".join(EnergyMeter().readable()) or "none readable here: RAPL and NVML are looked for"
            how = f"--watts WATTS, the machine's mean power while it trains, from a meter or its counters ({counters})"
            found.append({"what": "energy of training", "command": how})
    return found


def _retention(config: Config, found: dict[str, Any]) -> tuple[dict[str, dict[str, int]], str]:
    """Fields of the images that the chosen index, or a study's first, keeps; and whose they are."""
    from prune.data.sample_fields import open_fields
    from prune.index.manifest import manifest_exists, manifest_path, open_manifest

    source, index = found["source"], found["index"]
    if source is None or not (source.suffix != ".beton" or manifest_exists(manifest_path(source))):
        return {}, ""
    fields = open_fields(source)
    if fields is None:
        return {}, ""
    if index is None or config.place.is_dir():
        return fields.counted(), "All images of the source."
    return fields.counted(index.rows_in(open_manifest(source))), "Images that the index keeps."


def _print(header: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    table = Table()
    for number, head in enumerate(header):
        table.add_column(head, justify="left" if number == 0 else "right", overflow="fold")
    for cells in rows:
        table.add_row(*map(Text, cells))
    if not console.is_terminal:  # a file or a pipe has no width of its own: as wide as the table
        console.width = 1000
        console.width = max(132, console.measure(table).maximum)
    console.print(table)
