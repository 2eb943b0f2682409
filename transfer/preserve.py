r"""Build the preservation set: images of a target's train split on which a compressed model must not get worse.

    python -m transfer preserve --model runs/first --train pets.train.beton --out pets.preserve.index.npz \
        --rest pets.rest.index.npz
    python -m transfer preserve --train pets.train.beton --list must.txt --size 0 --out pets.preserve.index.npz
    python -m transfer preserve --model runs/first --train pets.train.beton --set pets.preserve.index.npz \
        --add seen.csv --out pets.preserve-2.index.npz --propose unlike.csv

Of the images that are chosen from a class, half cover the class (k-center on the model's features). The others are its
hardest images (smallest margin) and its most uncertain ones (highest entropy), in turns. No class gets fewer than
--floor. All images of --list are in the set, which is filled up with others. The set is an index like any other. A
network predicts images that it was trained on better than any smaller one can: fine-tune the model to be compressed on
the other images (--rest, then `transfer finetune --index`). Only the train split is read, never test images. Seconds.

With --set the set grows: --add reads the CSV of `transfer watch --out`, --runs the rejected steps of compressions on
this set. OUT is the next version; its images that are no training images lie in OUT's name with .later.beton. An image
without a label gets the original model's answer, and the set says so. The set stays at --size: cases that once broke a
model never leave, the others make room by coverage. Images that are unlike the set and have no label are not added:
--propose lists them for a person.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.compute_device import DeviceFlag, using
from prune.runs.files import InputError, need_file, note
from prune.runs.identity import Location, RunOption, identity
from prune.runs.outputs import claim_file, flat, index_record
from prune.runs.path_checks import Written

if TYPE_CHECKING:
    import numpy as np

    from prune.data.dataset import Dataset
    from prune.index.manifest import Manifest
    from prune.index.pruned_index import PrunedIndex
    from prune.models.networks import TrainedModel
    from transfer.compression.preservation_versions import PreservationSet


SIZE = 500
"""Images of a new set."""


@dataclass(frozen=True)
class Config:
    train: Location[Path]
    """Target's training images, `X.beton`."""
    out: Location[Path]
    """Index file to write (NAME.index.npz)."""
    rest: Location[Written[Path | None]] = None
    """Index file to write with all other training images, to train on."""
    model: Location[Path | None] = None
    """Model directory whose features and predictions choose; not needed with --list and --size 0."""
    size: int | None = None
    """Images of the set, those of --list included. 0: only those of --list. When absent 500, or the size of --set."""
    floor: int = 20
    """Smallest number of images of each class; smaller classes are included whole."""
    list: Location[Path | None] = None
    """Images that are in the set in any case: .txt of ids, .npy of rows, .csv or an index (.index.npz)."""
    index: Location[Path | None] = None
    """Choose only among the images that this index keeps, for instance those held out from training."""
    mistakes: bool = False
    """Rank hardness by EL2N, the model's mistakes first. For another model than the one that will be compressed, which
    cannot lose what it predicts wrongly."""
    set: Location[Path | None] = None
    """Preservation set to grow; it stays as it is, and --out is its next version."""
    add: Location[Path | None] = None
    """CSV of new images for --set, as `transfer watch --out` writes it: path, and label or original."""
    root: Location[Path | None] = None
    """Folder that the paths of --add are relative to; that of the CSV when absent."""
    runs: Location[tuple[Path, ...]] = ()
    """Runs of `transfer compress` on --set: images that a rejected step lost never leave the set."""
    false_alarms: float = 0.05
    """Chance that an image like the members of --set is taken for one that is unlike it."""
    propose: Location[Written[Path | None]] = None
    """CSV to write of the images of --add that are unlike the set and have no label."""
    loader: Literal["ffcv", "torch"] = "torch"
    """Image loader; ffcv for large sets."""
    workers: RunOption[int | None] = None
    """Decoding threads."""
    device: RunOption[DeviceFlag] = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""


def run(config: Config) -> Path:
    """Write the index; returns its path."""
    with using(config.device):
        return _run(config)


def _run(config: Config) -> Path:
    _check(config)
    config = replace(config, size=_size(config))
    from prune.data.dataset import open_dataset
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex
    from prune.models.networks import open_model

    if config.set is not None:
        return _grow(config)
    dataset = open_dataset(config.train)
    listed, allowed = _listed(config, dataset.manifest), _allowed(config, dataset.manifest)
    model = None if config.model is None else open_model(config.model)
    inputs: dict[str, Any] = {
        "train": dataset.manifest.fingerprint,
        "model": None if model is None else model.fingerprint,
        "list": _digest(listed),
        "index": None if allowed is None else _digest(allowed),
    }
    found: list[PrunedIndex] = []

    def last_step(path: Path) -> dict[str, Any]:
        found.append(PrunedIndex.load(path))
        return flat(found[-1].provenance[-1]) if found[-1].provenance else {}

    with claim_file(config.out, last_step, config, {"step": "preserve", **inputs}) as done:
        if done:
            index = found[-1]
        else:
            rows, reason, score = _chosen(config, model, dataset, listed, allowed)
            step = record("preserve", identity(config), inputs)
            index = PrunedIndex.from_rows(dataset.manifest, rows, score=score, reason=reason, provenance=[step])
            index.save(config.out)
            counts = index.per_class()[0]
            each = f"{counts.min()} to {counts.max()} per class"
            note(f"{config.out}: {len(index)} of {len(dataset)} training images, {each}")
            _note_margins(counts)
        if config.rest is not None:
            _save_rest(config.rest, dataset, index)
    return config.out


def _check(config: Config) -> None:
    if config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; an index file is expected")
    if config.rest is not None and (config.rest.is_dir() or config.rest == config.out):
        raise InputError(f"--rest {config.rest}: an index file other than --out is expected")
    size = SIZE if config.size is None else config.size
    if size < 0 or config.floor < 0:
        raise InputError(f"--size {size} --floor {config.floor}: 0 or more is needed")
    if config.set is not None:
        return _check_growth(config)
    if given := [name for name in ("add", "root", "runs", "propose") if getattr(config, name)]:
        raise InputError(f"--{given[0]}: belongs to a set that grows; give --set")
    if size and config.model is None:
        raise InputError("--model: choosing images needs a model; with --list alone give --size 0")
    if not size and config.list is None:
        raise InputError("--size 0: nothing would be in the set; give --list")


def _check_growth(config: Config) -> None:
    assert config.set is not None
    if given := [name for name in ("list", "index", "mistakes") if getattr(config, name)]:
        raise InputError(f"--{given[0]}: chooses a new set; it does not go with --set")
    if config.add is None and not config.runs:
        raise InputError("--set: nothing would change; give --add or --runs")
    if config.model is None:
        raise InputError("--set: give --model, the original model, whose features measure coverage")
    if config.size == 0:
        raise InputError("--size 0: a set that grows needs room for at least one image")
    if config.out.resolve() == config.set.resolve():
        raise InputError(f"--out {config.out}: is the set that grows, which stays as it is; give another")
    if config.propose is not None and config.add is None:
        raise InputError("--propose: lists images of --add; give both")
    if not 0 < config.false_alarms < 1:
        raise InputError(f"--false-alarms {config.false_alarms}: a share in (0, 1) is needed")


def _size(config: Config) -> int:
    """--size, or where it is absent that of an --out which exists, of --set, or `SIZE`."""
    from prune.index.pruned_index import PrunedIndex

    if config.size is not None:
        return config.size
    if config.set is None:
        return SIZE
    for place in (config.out, config.set):
        step = index_record(place) if place.is_file() else {}
        if step.get("step") == "preserve" and isinstance(step.get("size"), int) and step["size"]:
            return int(step["size"])
    return len(PrunedIndex.load(need_file(config.set, "a preservation set")))


def _note_margins(counts: np.ndarray) -> None:
    """Warn of a set that is too small for the margins of a compression; `counts`: images of each class, (c,)."""
    from transfer.compression.smallest_margin import default_margins_unresolved

    text = default_margins_unresolved(int(counts.sum()), min(filter(None, counts.tolist()), default=0))
    if text is not None:
        note(text)


def _save_rest(out: Path, dataset: Dataset, chosen: PrunedIndex) -> None:
    """Write an index of all training images outside the preservation set."""
    import numpy as np

    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex

    step = record("preserve-rest", {}, {"train": dataset.manifest.fingerprint, "preserve": chosen.fingerprint})
    with claim_file(out, index_record, None, flat(step)) as done:
        if not done:
            rows = np.setdiff1d(np.arange(len(dataset)), chosen.rows_in(dataset.manifest))
            PrunedIndex.from_rows(dataset.manifest, rows, provenance=[step]).save(out)


def _listed(config: Config, manifest: Manifest) -> np.ndarray:
    """Ascending rows of the images of --list."""
    import numpy as np

    from prune.data.sample_lists import listed_rows, read_list
    from prune.index.pruned_index import PrunedIndex

    if config.list is None:
        return np.zeros(0, np.int64)
    need_file(config.list, "a list of samples")
    if config.list.name.endswith(".index.npz"):
        return np.sort(PrunedIndex.load(config.list).rows_in(manifest))
    return listed_rows(read_list(config.list), manifest, allow_changed=None)[0]


def _allowed(config: Config, manifest: Manifest) -> np.ndarray | None:
    """Ascending rows of the images of --index."""
    from transfer.evaluation.target_splits import kept_rows

    return None if config.index is None else kept_rows(manifest, config.index)[0]


def _digest(rows: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:32]


def _chosen(
    config: Config, model: TrainedModel | None, dataset: Dataset, listed: np.ndarray, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, reasons and scores of the set."""
    import numpy as np

    from prune.index.pruned_index import REASONS
    from prune.models.feature_extraction import extract
    from transfer.compression.preservation_set import preserve

    if not config.size:
        reason = np.full(len(listed), REASONS.index("imported"), np.uint8)
        return listed, reason, np.full(len(listed), np.nan, np.float32)
    assert model is not None
    assert config.size is not None
    rows = np.arange(len(dataset), dtype=np.int64) if allowed is None else np.union1d(allowed, listed)
    workers = config.workers or (1 if config.loader == "torch" else None)
    passes = extract(model.network, model.spec, dataset, rows, loader=config.loader, workers=workers)
    features, logits, _ = (np.concatenate(part) for part in zip(*passes))
    label = np.asarray(dataset.manifest.labels)[rows]
    if config.mistakes and list(model.spec["classes"]) != list(dataset.manifest.classes):
        raise InputError(f"--mistakes: {config.model} has other classes than {config.train}")
    places, reason, score = preserve(
        features,
        logits,
        label,
        len(dataset.manifest.classes),
        config.size,
        floor=config.floor,
        always=np.isin(rows, listed),
        mistakes=config.mistakes,
    )
    return rows[places], reason, score


def _grow(config: Config) -> Path:
    """Write the next version of --set; returns the path of its index."""
    from prune.data.dataset import open_dataset
    from prune.index.pruned_index import PrunedIndex
    from prune.models.networks import open_model
    from transfer.compression.preservation_versions import checksum_of, open_preservation, rejected_cases

    assert config.set is not None
    assert config.model is not None
    dataset = open_dataset(config.train)
    members = open_preservation(config.set, dataset.manifest)
    lost: dict[str, str] = {}
    for run in config.runs:
        lost |= rejected_cases(run, members, dataset.manifest)
    model = open_model(config.model)
    if list(model.spec["classes"]) != list(dataset.manifest.classes):
        raise InputError(f"{config.model}: its classes are not those of {config.train}: give the original model")
    inputs: dict[str, Any] = {
        "train": dataset.manifest.fingerprint,
        "model": model.fingerprint,
        "set": members.checksum,
        "add": None if config.add is None else checksum_of(need_file(config.add, "a CSV of new images")),
        "runs": sorted(lost),
    }
    with claim_file(config.out, index_record, config, {"step": "preserve", **inputs}) as done:
        if not done:
            _write_version(config, dataset, members, lost, inputs)
        if config.rest is not None:
            _save_rest(config.rest, dataset, PrunedIndex.load(config.out))
    return config.out


def _write_version(
    config: Config, dataset: Dataset, members: PreservationSet, lost: dict[str, str], inputs: dict[str, Any]
) -> None:
    """Choose the members of the next version, and write its later images and then its index."""
    import numpy as np

    from prune.data.dataset import stored_image
    from prune.index.provenance import record
    from prune.index.pruned_index import PrunedIndex
    from transfer.compression.preservation_growth import grown
    from transfer.compression.preservation_versions import ANSWER, GIVEN, later_path
    from transfer.evaluation.image_arrays import read_images
    from transfer.watching.found_images import no_images, write_later
    from transfer.watching.set_additions import additions
    from transfer.watching.side_by_side import open_predictor

    assert config.model is not None
    assert config.size is not None
    original = open_predictor(config.model)
    view = original.resolution, original.crop_ratio
    images, labels = read_images(dataset, members.rows, view[0], loader="torch", workers=1, ratio=view[1])
    more, more_labels = members.read_later(*view)
    features = original.predict(np.concatenate([images, more]))[0]
    found, why, fresh = no_images(view[0]), list[str](), features[:0]
    if config.add is not None:
        found, why, fresh = additions(
            config.add, config.root, dataset.manifest, members, original, features, config.false_alarms, config.propose
        )
    ids = [*members.ids(dataset.manifest), *found.ids]
    stays = {**members.stays, **{name: why for name, why in lost.items() if name not in members.stays}}
    old = len(members)
    kept = grown(
        np.concatenate([features, fresh]),
        np.concatenate([labels, more_labels, found.labels]),
        len(dataset.manifest.classes),
        config.size,
        floor=config.floor,
        stays=np.array([name in stays for name in ids]),
        cases=np.concatenate([np.zeros(old, bool), found.broke]),
    )
    train, rest = np.flatnonzero(kept[: len(members.rows)]), kept[len(members.rows) :]
    if not len(train):
        raise InputError(f"--size {config.size}: no training image would be left in the set; raise it")
    earlier = [] if members.later is None else [stored_image(members.later, row) for row in range(len(members.later))]
    later = [image for image, stay in zip([*earlier, *found.stored], rest, strict=True) if stay]
    fingerprint = None
    if later:
        names = [name for name, stay in zip(ids[len(members.rows) :], rest, strict=True) if stay]
        numbers = np.concatenate([more_labels, found.labels])[rest]
        place = later_path(config.out)
        fingerprint = write_later(place, later, names, numbers, list(dataset.manifest.classes))
    classes = dataset.manifest.classes
    came = [
        {
            "id": found.ids[i],
            "class": classes[found.labels[i]],
            "label": ANSWER if found.answered[i] else GIVEN,
            "why": why[i],
            "stays": bool(found.broke[i]),
        }
        for i in np.flatnonzero(kept[old:])
    ]
    left = [name for name, stay in zip(ids[:old], kept[:old], strict=True) if not stay]
    changes = {
        "came": came,
        "stays": [{"id": name, "why": why} for name, why in lost.items() if name not in members.stays],
        "left": left,
    }
    facts = {"version": members.version + 1, "parent": members.checksum, "later": fingerprint, "changes": changes}
    step = record("preserve", identity(config), inputs, **facts)
    place_of = {int(row): at for at, row in enumerate(members.index.rows_in(dataset.manifest))}
    at = np.array([place_of[int(row)] for row in members.rows[train]])
    reason = members.index.reasons[at].copy()
    names = list(members.index.reason_names)
    names += [] if "protected" in names else ["protected"]
    reason[[ids[i] in stays for i in train]] = names.index("protected")
    index = PrunedIndex.from_rows(
        dataset.manifest,
        members.rows[train],
        score=members.index.scores[at],
        reason=reason,
        reason_names=tuple(names),
        provenance=[*members.index.provenance, step],
    )
    index.save(config.out)
    entered = int((kept[old:] & found.broke).sum())
    if entered < int(found.broke.sum()):
        note(f"{int(found.broke.sum()) - entered} cases found no room beside {entered}: raise --size to take them in")
    note(
        f"{config.out}: version {members.version + 1}, {int(kept.sum())} images, {len(later)} of them later ones; "
        f"{len(came)} came, {len(left)} left"
    )
    _note_margins(np.bincount(np.concatenate([labels, more_labels, found.labels])[kept]))
