r"""Score the source: what its classes are worth to the targets (LM, FM), and how hard, typical or new each sample is.

    prune score --source runs/features/source.features.npz \
        --targets runs/features/pets.train.features.npz --out runs/scores.npz

Class weights: lm, lm-soft, fm and fm-soft for every class and target, and the votes of shuffled features (lm-chance,
fm-chance), which show what votes are worth; LM needs a surrogate that knows the source's classes. Sample scores, see
below: el2n and grand need that too, some need --also, some --dynamics. Of several surrogates, give each one's features
of the source and of every target: el2n and grand are averaged by value, other scores by rank, votes by value, and the
agreement of the surrogates is printed. Where each surrogate left out a fold (`pretrain --fold`), every image is scored
by the one that did not train on it. Targets' test images never guide; --leaks only compares them with the source.
Features are streamed: ImageNet takes seconds on two cores, near-duplicates a minute or two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.files import InputError, at_least, need_file, note
from prune.runs.identity import Location, RunOption, identity
from prune.runs.outputs import claim_file
from prune.runs.path_checks import Written, note_suffix
from prune.scores import score_table

if TYPE_CHECKING:
    from prune.scores.feature_files import Features

    Also = str
else:
    Also = Literal[*score_table.ALSO, "duplicates"]

__doc__ = f"{__doc__}\nSample scores:\n\n{score_table.described()}\n"
FORMAT = "winnow-scores/1"


@dataclass(frozen=True)
class Config:
    source: Location[tuple[Path, ...]]
    """Features of the source, from `prune features`; one file for each surrogate, or a folder or a pattern in quotes
    that names those of all shards."""
    out: Location[Path]
    """Scores file to write (.npz)."""
    targets: Location[tuple[Path, ...]] = ()
    """Features of the targets' training images by the same surrogates. None: sample scores alone."""
    also: tuple[Also, ...] = ("prototype", "duplicates")
    """Scores and findings that need more than one pass: near-duplicates, suspected labels, the scores listed above.
    `prune select --gate` uses domain."""
    gate: Location[Path | None] = None
    """Another scores file of the same source, whose domain scores are taken over: those of thumbnails, for instance."""
    hashes: Location[Path | None] = None
    """Features file of `prune features --thumbnail` of the same source: its perceptual hashes find near-duplicates that
    features miss, mirrored, turned and cropped ones among them."""
    dynamics: Location[tuple[Path, ...]] = ()
    """dynamics.npz of `pretrain --dynamics`, for the scores from training dynamics."""
    leaks: Location[tuple[Path, ...]] = ()
    """Features of targets' test images: source images that nearly duplicate one are marked."""
    clusters: int = 0
    """Above 0: that many k-means clusters replace the classes (FM for a source without labels)."""
    temperature: float = 1.0
    """Softness of the soft votes, in standard deviations of the logits (or squared distances) over the classes."""
    similar: float = 0.95
    """Least cosine of near-duplicates and leaks, the mean feature subtracted."""
    stand_out: bool = True
    """Near-duplicates must also be far nearer than their other neighbours; off: the cosine alone decides, as in
    SemDeDup."""
    findings: Location[Written[Path | None]] = None
    """CSV file that lists near-duplicates, leaks and suspects by id."""
    append: Location[Path | None] = None
    """An earlier scores file of some of these images: only the others are scored, by its settings, votes, class means
    and gate."""
    seed: int = 0
    """Seed of k-means, which self-prototype, balance, clusters and near-duplicates use."""
    workers: RunOption[int] = 0
    """Threads; 0 = one per core."""


def run(config: Config) -> Path:
    """Write scores.npz; returns its path."""
    _check_config(config)
    import numpy as np

    from prune.index.npz import open_arrays, save_arrays
    from prune.methods.gate_scores import borrowed_gates, domain_gates
    from prune.scores import ensemble, folds, score_source
    from prune.scores.chance_votes import take_facts
    from prune.scores.feature_files import content_fingerprint, hashes_of, open_features
    from prune.scores.findings import write_findings
    from prune.scores.partial_features import all_labels, spread_rows
    from prune.scores.surrogate_check import guessing_sentence

    if config.append is not None:
        return _append(config, config.append)
    sources = [open_features(path) for path in config.source]
    targets = [open_features(path) for path in config.targets]
    tests = [open_features(path) for path in config.leaks]
    each = _by_surrogate(sources, targets, tests)
    inputs = {
        "also": sorted(config.also),
        "source": [s.content for s in sources],
        "targets": {t.name: [o.content for o in targets if o.name == t.name] for t in targets},
        "dynamics": [content_fingerprint(path) for path in config.dynamics],
        "leaks": {t.name: t.content for t in tests},
    }
    if config.gate is not None:
        inputs["gate"] = content_fingerprint(config.gate)
    hashes = None if config.hashes is None else hashes_of(config.hashes, sources[0])
    if config.hashes is not None:
        inputs["hashes"] = content_fingerprint(config.hashes)
    with claim_file(config.out, _record, config, inputs) as done:
        if done:
            if config.findings is not None:
                write_findings(config.findings, open_arrays(config.out, FORMAT)[0], sources[0])
            return config.out
        parts, first = [], sources[0]
        growing = len(sources) == 1 and not first.partial and not config.clusters
        for source in sources:
            if said := guessing_sentence(source):
                note(said)
        unseen = folds.unseen_masks(sources)
        keys = first.keys(config.seed)
        for place, source in enumerate(sources):
            arrays, centre = score_source.score_source(
                source,
                each[source.model["fingerprint"]],
                also=config.also,
                temperature=config.temperature,
                clusters=config.clusters,
                seed=config.seed,
                keys=keys,
                unseen=None if unseen is None else unseen[place],
                workers=config.workers or None,
                growing=growing,
            )
            if source is first:
                if "duplicates" in config.also:
                    arrays |= score_source.duplicates_of(
                        source, centre, config.similar, config.stand_out, config.seed, keys, hashes
                    )
                arrays |= score_source.leaks(source, tests, centre, config.similar, config.stand_out)
                seeds = score_source.seed_agreement(source, arrays, config.also, config.clusters, config.seed)
            if "influence" in config.also:
                mine = each[source.model["fingerprint"]]
                arrays |= score_source.influence_scores(source, mine, config.workers or None)
            parts.append(spread_rows(arrays, source.rows, source.total))
            if config.clusters:
                break  # clusters of different surrogates are different groups: nothing to average
        arrays, agreed = ensemble.together(parts)
        votes = take_facts(arrays)
        if unseen is not None and "looks_like" in arrays:
            masks = [spread_rows({"leak": mask}, first.rows, first.total)["leak"] for mask in unseen]
            arrays["looks_like"] = np.select(masks, [part["looks_like"] for part in parts], -1)
        if config.dynamics:
            more, also_agreed = ensemble.together(
                [score_source.dynamics_scores(path, first) for path in config.dynamics]
            )
            arrays, agreed = {**arrays, **more}, {**agreed, **also_agreed}
        gates: dict[str, Any] = {}
        if "domain" in config.also:
            mine = each[first.model["fingerprint"]]
            odds, gates = domain_gates(first, mine, config.seed, config.workers or None, growing=growing)
            arrays |= spread_rows(odds, first.rows, first.total)
        elif config.gate is not None:
            odds, gates = borrowed_gates(config.gate, first)
            arrays |= odds
        arrays |= {"label": all_labels(first), "position": np.arange(first.total, dtype="<i8")}
        names = list(dict.fromkeys(t.name for t in targets))
        agreements = {"agreement": agreed, "seed_agreement": seeds, "gates": gates, "votes": votes}
        save_arrays(config.out, arrays, _meta(config, first, names, inputs, arrays) | agreements)
        _report(config, first, arrays, agreed, seeds)
        for target, rules in votes.items():
            for rule in (rule for rule, one in rules.items() if not one["meaningful"]):
                note(
                    f"{rule.upper()} votes of {target} mean little: they are no farther from chance than shuffled ones"
                )
    return config.out


def _append(config: Config, old: Path) -> Path:
    """Write the scores of a source that has grown."""
    from prune.index.npz import open_arrays, save_arrays
    from prune.methods.gate_scores import borrowed_gates
    from prune.scores import appended_scores
    from prune.scores.feature_files import content_fingerprint, open_features
    from prune.scores.findings import write_findings

    appended_scores.check_settings(config, {"source", "out", "append", "gate", "findings", "workers"})
    source = open_features(config.source[0])
    inputs: dict[str, Any] = {
        "also": sorted(config.also),
        "source": [source.content],
        "targets": {},
        "dynamics": [],
        "leaks": {},
        "append": content_fingerprint(old),
    }
    if config.gate is not None:
        inputs["gate"] = content_fingerprint(config.gate)
    with claim_file(config.out, _record, config, inputs) as done:
        if done and config.findings is not None:
            write_findings(config.findings, open_arrays(config.out, FORMAT)[0], source)
        if not done:
            earlier = appended_scores.open_earlier(old, source)
            borrowed = None if config.gate is None else borrowed_gates(config.gate, source)
            arrays, lines = appended_scores.append(earlier, source, borrowed, config.workers or None)
            meta = _meta(config, source, earlier.meta["targets"], inputs, arrays)
            save_arrays(config.out, arrays, meta | appended_scores.facts(earlier))
            _report(config, source, arrays, {}, {})
            for line in lines:
                note(line)
    return config.out


def _check_config(config: Config) -> None:
    from prune.index.npz import open_arrays
    from prune.scores.feature_files import features_at

    if not config.source:
        raise InputError("--source: name at least one features file")
    for path in (*config.source, *config.targets, *config.leaks):
        features_at(path)
    if config.append is not None:
        open_arrays(need_file(config.append, "a scores file of `prune score`"), FORMAT)
    for path in config.dynamics:
        open_arrays(need_file(path, "dynamics.npz of `pretrain --dynamics`"), "winnow-dynamics/1")
    if not config.temperature > 0:
        raise InputError(f"--temperature {config.temperature} must be above 0")
    if not 0 < config.similar <= 1:
        raise InputError(f"--similar {config.similar} is outside (0, 1]")
    if config.clusters < 0 or config.clusters == 1:
        raise InputError(f"--clusters {config.clusters}: give 0 for none, or at least 2")
    if config.clusters and len(config.source) > 1:
        raise InputError("--clusters takes one surrogate: clusters of several cannot be averaged")
    if config.hashes is not None and not (config.stand_out and "duplicates" in config.also):
        raise InputError("--hashes find near-duplicates: ask for them with --also duplicates, without --no-stand-out")
    if "domain" in config.also and config.gate is not None:
        raise InputError("--also domain and --gate: give one, the odds come from these features or from another file")
    at_least(config, 0, "seed", "workers")


def _by_surrogate(sources: list[Features], targets: list[Features], tests: list[Features]) -> dict[str, list[Features]]:
    """Targets of each surrogate by its fingerprint, checked against the sources and each other."""
    import numpy as np

    from prune.scores.feature_files import check_order

    first = sources[0]
    if not len(first):
        raise InputError(f"{first.path}: no images")
    each: dict[str, list[Features]] = {}
    for source in sources:
        if source.source != first.source:
            raise InputError(f"{source.path}: features of another source than {first.path}")
        if not np.array_equal(source.rows, first.rows):
            raise InputError(f"{source.path}: features of other images of the source than {first.path}'s")
        way_out = "run `prune features` for both with the same beton"
        check_order(source.path, source.order, first.path, first.order, way_out)
        if source.model["fingerprint"] in each:
            raise InputError(f"{source.path}: a second file by the same surrogate")
        each[source.model["fingerprint"]] = []
    for target in (*targets, *tests):
        if not len(target):
            raise InputError(f"{target.path}: the target has no images")
        if target.model["fingerprint"] not in each:
            raise InputError(
                f"{target.path}: another surrogate than {first.path}'s made these features; "
                "run `prune features` for both with one --model"
            )
    for target in targets:
        if target.name.lower().replace("_", ".").replace("-", ".").split(".")[-1] == "test":
            raise InputError(f"{target.path}: {target.name} is a test split, and test images never guide the pruning")
        mine = each[target.model["fingerprint"]]
        if target.name in [t.name for t in mine]:
            raise InputError(f"target {target.name} is given twice")
        mine.append(target)
    for fingerprint, mine in each.items():
        if lost := {t.name for t in targets} - {t.name for t in mine}:
            source = next(s for s in sources if s.model["fingerprint"] == fingerprint)
            raise InputError(f"target {min(lost)}: no features by the surrogate of {source.path}")
    for test in tests:
        if [t.name for t in tests].count(test.name) > 1:
            raise InputError(f"--leaks: two test sets are named {test.name}; write one under another name, or omit it")
        if test.source in [t.source for t in targets]:
            raise InputError(f"{test.path}: the images of a target that guides the pruning are no test images")
        if test.model["fingerprint"] != first.model["fingerprint"]:
            raise InputError(f"{test.path}: --leaks needs the features of the first surrogate, {first.path}'s")
    return each


def _record(path: Path) -> dict[str, Any]:
    from prune.index.npz import open_arrays

    meta = open_arrays(path, FORMAT)[1]
    found: dict[str, Any] = meta.get("config", {}) | meta.get("inputs", {})
    return found


def _meta(
    config: Config,
    source: Features,
    targets: list[str],
    inputs: dict[str, Any],
    arrays: dict[str, Any],
) -> dict[str, Any]:
    from prune.scores.appended_scores import manifest_parts
    from prune.scores.feature_files import beside, order_fingerprint

    clusters = int(arrays["group"].max()) + 1 if "group" in arrays else 0
    return {
        "format": FORMAT,
        "classes": source.classes,
        "groups": [f"cluster-{k:05d}" for k in range(clusters)],
        "fingerprint": source.source,
        "manifest": beside(source.manifest, config.out),
        "order": source.order or order_fingerprint(source.manifest),
        "parts": manifest_parts(source.manifest),
        "features": beside(source.path, config.out),
        "targets": targets,
        "surrogate": {k: source.model.get(k) for k in ("arch", "fingerprint")},
        "config": identity(config),
        "inputs": inputs,
    }


def _report(
    config: Config, source: Features, arrays: dict[str, Any], agreed: dict[str, float], seeds: dict[str, float]
) -> None:
    from prune.scores.findings import finding_counts, write_findings

    scores = ", ".join(name[7:] for name in arrays if name.startswith("sample/")) or "no sample scores"
    part = f" of {source.total}" if source.partial else ""
    note(f"{config.out}: {len(source)}{part} samples; {scores}")
    note_suffix(config.out, ".npz")
    for line in finding_counts(arrays):
        note(line)
    if agreed:
        worst = min(agreed, key=lambda name: agreed[name])
        mean = sum(agreed.values()) / len(agreed)
        note(f"the surrogates agree at {mean:.2f} (mean rank correlation), least on {worst} ({agreed[worst]:.2f})")
    for name, value in seeds.items():
        kind = "adjusted Rand index" if name == "clusters" else "rank correlation"
        note(f"{name}: k-means of two seeds agrees at {value:.2f} ({kind})")
    if config.findings is not None:
        write_findings(config.findings, arrays, source)
