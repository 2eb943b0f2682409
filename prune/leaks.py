"""Report test images that the source also contains: near-duplicates between targets' test images and the source.

    prune leaks --source runs/features/source.features.npz --tests runs/tests/pets.test.features.npz \
        --out runs/leaks.json

Reads features of `prune features`, all by one surrogate, and writes counts, and examples by id. Pairs that the features
propose are compared on the images themselves: copies (re-encoded, mirrored, a little turned or cropped) are counted as
leaked, the others, which only look alike to the surrogate, as similar. Where the betons are not beside the manifests
that the features files name, nothing can be compared, and all pairs count as leaked. The rule is that of `prune score
--leaks`, which marks the same source images in its scores, so that `prune select --drop-leaks` drops them. Nothing is
selected or dropped here. Streams the source once for each test set: seconds for ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.runs.files import InputError, note, read_json, write_json
from prune.runs.identity import Location, identity
from prune.runs.outputs import claim_file
from prune.runs.path_checks import note_suffix

if TYPE_CHECKING:
    import numpy as np

    from prune.index.manifest import Manifest
    from prune.scores.feature_files import Features

FORMAT = "winnow-leaks/1"
EXAMPLES = 20
"""Number of pairs listed for each test set, the most alike first; all are counted."""
SHOWN = 10
"""Number of pairs whose images the file holds, as `data:` URIs."""
_SHOWN_BYTES = 6000


@dataclass(frozen=True)
class Config:
    source: Location[Path]
    """Features of the source, from `prune features`; a folder or a pattern in quotes names those of all shards."""
    tests: Location[tuple[Path, ...]]
    """Features of targets' test images by the same surrogate."""
    out: Location[Path]
    """File to write (.json)."""
    similar: float = 0.95
    """Smallest cosine of near-duplicates, after the source's mean feature is subtracted."""
    stand_out: bool = True
    """Pairs must also be far nearer than the test image's other neighbours in the source; off: the cosine decides."""


def run(config: Config) -> dict[str, Any]:
    """Write the counts; returns the content of the file."""
    _check(config)
    from prune.scores.feature_files import open_features
    from prune.scores.leakage import mean_feature

    source, tests = open_features(config.source), [open_features(path) for path in config.tests]
    _need_one_surrogate(source, tests)
    inputs = {"source": source.content, "tests": {test.name: test.content for test in tests}}
    with claim_file(config.out, _record, config, inputs) as done:
        if done:
            found: dict[str, Any] = read_json(config.out)
            return found
        centre = mean_feature(source.features)
        each = {test.name: _compared(config, source, test, centre) for test in tests}
        found = {
            "format": FORMAT,
            "config": identity(config),
            "inputs": inputs,
            "surrogate": {key: source.model.get(key) for key in ("arch", "fingerprint")},
            "source": {"name": source.name, "images": len(source), "fingerprint": source.source},
            "tests": each,
        }
        write_json(config.out, found)
        note(f"{config.out}: {'; '.join(_describe(name, one) for name, one in each.items())}")
        for test in tests:
            if test.source == source.source:
                note(f"{test.path}: these are the images of --source, so every one has a copy: itself")
        if source.partial:
            note(f"compared with the {len(source):,} of {source.total:,} source images that have features, no others")
        note_suffix(config.out, ".json")
    return found


def _record(path: Path) -> dict[str, Any]:
    made = read_json(path)
    if not isinstance(made, dict) or made.get("format") != FORMAT:
        raise InputError(f"{path}: exists and is not a file of `prune leaks`")
    found: dict[str, Any] = made.get("config", {}) | made.get("inputs", {})
    return found


def _check(config: Config) -> None:
    if not config.tests:
        raise InputError("--tests: name at least one features file")
    from prune.scores.feature_files import features_at

    for path in (config.source, *config.tests):
        features_at(path)
    if not 0 < config.similar <= 1:
        raise InputError(f"--similar {config.similar} is outside (0, 1]")
    if config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; a file is expected")


def _need_one_surrogate(source: Features, tests: list[Features]) -> None:
    """Raise `InputError` for files without images, by different surrogates, or of one name."""
    for one in (source, *tests):
        if not len(one):
            raise InputError(f"{one.path}: no images")
    for test in tests:
        same = test.features.shape[1] == source.features.shape[1]
        if test.model["fingerprint"] != source.model["fingerprint"] or not same:
            raise InputError(
                f"{test.path}: another surrogate than {source.path}'s computed these features; "
                "run `prune features` for both with one --model"
            )
        if [other.name for other in tests].count(test.name) > 1:
            raise InputError(f"--tests: two test sets are named {test.name}; compare one of them by itself")


def _compared(config: Config, source: Features, test: Features, centre: np.ndarray) -> dict[str, Any]:
    """Counts and examples of one test set, for the file."""
    import numpy as np

    from prune.data.dataset import stored_image
    from prune.data.image_likeness import COPY
    from prune.gallery.thumbnails import data_uri
    from prune.scores.leakage import both_sides
    from prune.scores.pair_check import images_of, pair_likeness

    features = np.asarray(test.features)
    for path, values in ((source.path, centre), (test.path, features)):
        if not np.isfinite(values).all():
            raise InputError(f"{path}: features that are not finite; the surrogate has diverged")
    of_source, of_test = both_sides(source.features, features, centre, config.similar, config.stand_out)
    proposed = len(np.flatnonzero(of_test >= 0))
    closest: list[dict[str, Any]] = []
    alike = np.ones(len(of_test), np.float32)
    if (images := images_of(source)) is not None and (others := images_of(test)) is not None:
        rows = np.flatnonzero(of_test >= 0)
        found = pair_likeness(images, source.rows[of_test[rows]], others, test.rows[rows])
        alike[rows] = np.round(found, 4)  # so that rounding errors do not decide which comes first
        back = np.flatnonzero(of_source >= 0)
        kept = pair_likeness(images, source.rows[back], others, test.rows[of_source[back]]) >= COPY
        of_source[back[~kept]] = -1
        for row in rows[np.argsort(-alike[rows], kind="stable")][:SHOWN]:
            pair = [(images, int(source.rows[of_test[row]])), (others, int(test.rows[row]))]
            shown = [data_uri(stored_image(data, at), _SHOWN_BYTES) for data, at in pair]
            names = [_text(data.manifest.ids[at]) for data, at in pair]
            closest.append({"ids": names, "likeness": round(float(alike[row]), 4), "images": shown})
        of_test[alike < COPY] = -1
    leaked = np.flatnonzero(of_test >= 0)
    pairs: list[list[str]] = []
    identical = None
    if (ours := _manifest(source)) is not None and (theirs := _manifest(test)) is not None:
        same = np.isin(theirs.digests[test.rows], ours.digests)
        identical = int(same.sum())
        listed = leaked[np.lexsort((-alike[leaked], ~same[leaked]))][:EXAMPLES]
        pairs = [[_text(ours.ids[source.rows[of_test[row]]]), _text(theirs.ids[test.rows[row]])] for row in listed]
    return {
        "images": len(test),
        "leaked": len(leaked),
        "similar": proposed - len(leaked),
        "compared": images is not None and others is not None,
        "source_images": int((of_source >= 0).sum()),
        "identical": identical,
        "pairs": pairs,
        "closest": closest,
        "fingerprint": test.source,
    }


def _text(name: bytes) -> str:
    return bytes(name).decode(errors="replace")


def _manifest(one: Features) -> Manifest | None:
    """The manifest in whose order the features' rows are; None where it is missing or has changed."""
    from prune.index.manifest import Manifest, manifest_exists
    from prune.scores.feature_files import order_fingerprint

    if not manifest_exists(one.manifest) or one.order not in (None, order_fingerprint(one.manifest)):
        return None
    manifest = Manifest.load(one.manifest)
    return manifest if manifest.fingerprint == one.source else None


def _describe(name: str, one: dict[str, Any]) -> str:
    held = f"{one['leaked']:,} of {one['images']:,} images of {name}"
    sure = "" if one["identical"] is None else f", {one['identical']:,} identical"
    what = "a copy" if one["compared"] else "a near-duplicate"
    alike = f"; {one['similar']:,} more only look alike to the surrogate" if one["similar"] else ""
    alike += "" if one["compared"] else "; by features alone, since the betons are not beside the manifests"
    return f"{held} have {what} in the source ({one['source_images']:,} of its images{sure}){alike}"
