"""`prune score` and `prune select` on files: from features to an index."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from prune import score, selection
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays, save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.methods import presets
from prune.methods.presets import NAMES, method
from prune.runs.files import InputError
from prune.scores.feature_files import content_fingerprint, order_fingerprint

CLASSES = ["ant", "bee", "cat", "dog"]
SIZES = [40, 30, 20, 10]
EVERYTHING = (
    "prototype",
    "self-prototype",
    "affinity",
    "duplicates",
    "suspects",
    "domain",
    "influence",
    "zcore",
    "balance",
)


def write_features(path: Path, features, logits, label, *, classes, manifest=None, model=None) -> Path:
    n, name = len(label), path.name.removesuffix(".features.npz")
    manifest = manifest or Manifest(
        ids=np.array([f"{classes[k]}/{i:04d}.jpg".encode() for i, k in enumerate(label)], dtype="S16"),
        labels=np.asarray(label, np.int32),
        nbytes=np.full(n, 100, np.int32),
        width=np.full(n, 8, np.int32),
        height=np.full(n, 8, np.int32),
        digests=np.arange(n, dtype=np.uint64),
        crc32=np.arange(n, dtype=np.uint32),
        classes=classes,
    )
    manifest.save(path.with_name(f"{name}.manifest.npz"))
    save_arrays(
        path,
        {
            "features": np.asarray(features, np.float16),
            "logits": np.asarray(logits, np.float16),
            "label": np.asarray(label, np.int32),
            "position": np.arange(n, dtype=np.int64),
        },
        {
            "format": "winnow-features/1",
            "name": name,
            "classes": classes,
            "fingerprint": manifest.fingerprint,
            "manifest": f"{name}.manifest.npz",
            "model": model or {"arch": "toy", "classes": CLASSES, "fingerprint": "m"},
        },
    )
    return path


def make_case(folder: Path) -> SimpleNamespace:
    """A source of 100 samples in four classes, shuffled, and a target that looks like bees, a little like cats."""
    rng = np.random.default_rng(0)
    label = rng.permutation(np.repeat(np.arange(4), SIZES))
    centres = 6 * np.eye(4, 8)
    source = write_features(
        folder / "s.features.npz",
        centres[label] + rng.normal(size=(100, 8)),
        4 * np.eye(4)[label] + rng.normal(size=(100, 4)),
        label,
        classes=CLASSES,
    )
    like = np.array([1] * 9 + [2] * 3)
    target = write_features(
        folder / "t.train.features.npz",
        centres[like] + 0.1 * rng.normal(size=(12, 8)),
        4 * np.eye(4)[like],
        like - 1,
        classes=["x", "y"],
    )
    return SimpleNamespace(folder=folder, source=source, target=target, scores=folder / "scores.npz", label=label)


@pytest.fixture
def case(tmp_path):
    return make_case(tmp_path)


def scored_case(case, **config):
    score.run(score.Config((case.source,), case.scores, (case.target,), **config))
    return case


def scored(case, **config):
    return scored_case(case, **config).scores


def selected(case, name="a", **config):
    out = case.folder / f"{name}.index.npz"
    config = {"keep": 0.2} | config
    selection.run(selection.Config(scores=case.scores, out=out, **config))
    return PrunedIndex.load(out)


def test_scores_hold_votes_and_difficulty_of_every_sample(case):
    arrays, meta = open_arrays(scored(case), "winnow-scores/1")
    assert arrays["class/lm/t.train"].tolist() == [0, 9, 3, 0]
    assert arrays["class/fm/t.train"].tolist() == [0, 9, 3, 0]
    assert arrays["class/lm-soft/t.train"].argmax() == 1
    assert arrays["class/lm-soft/t.train"].sum() == pytest.approx(12, rel=1e-5)
    logits = open_arrays(case.source, "winnow-features/1")[0]["logits"].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(arrays["sample/el2n"], np.linalg.norm(p - np.eye(4)[case.label], axis=1), atol=1e-5)
    assert meta["targets"] == ["t.train"]
    assert set(arrays) >= {"label", "position", "sample/grand", "sample/entropy", "sample/margin"}


def test_scoring_twice_gives_the_same_bytes_and_other_settings_are_refused(case):
    first = scored(case).read_bytes()
    scored(case)
    case.scores.unlink()
    assert scored(case, workers=1).read_bytes() == first
    with pytest.raises(InputError, match="temperature"):
        scored(case, temperature=3.0)


def test_scores_do_not_depend_on_the_block_size_or_the_order(case, monkeypatch):
    from prune.scores import one_pass, streaming

    whole, _ = open_arrays(scored(case), "winnow-scores/1", mapped=False)
    monkeypatch.setattr(one_pass, "blocks", lambda n, rows=7: streaming.blocks(n, min(rows, 7)))
    case.scores.unlink()
    parts, _ = open_arrays(scored(case), "winnow-scores/1")
    for name, values in whole.items():
        assert np.allclose(values, parts[name], rtol=1e-4), name


def test_a_foreign_surrogate_gives_fm_alone_and_lm_says_so(case):
    for path in (case.source, case.target):
        arrays, meta = open_arrays(path, "winnow-features/1", mapped=False)
        meta["model"] = {"arch": "toy", "classes": ["p", "q", "r", "s"], "fingerprint": "m"}
        save_arrays(path, arrays, meta)
    arrays, _ = open_arrays(scored(case), "winnow-scores/1")
    assert "class/fm/t.train" in arrays
    assert not [name for name in arrays if "/lm" in name or name == "sample/el2n"]
    with pytest.raises(InputError, match="use FM"):
        selected(case, method="dp4tl-lm")
    assert len(selected(case, method="winnow")) == 20  # FM votes serve


def test_a_surrogate_that_knows_more_classes_is_matched_by_name(case):
    for path in (case.source, case.target):
        arrays, meta = open_arrays(path, "winnow-features/1", mapped=False)
        meta["model"] = {"arch": "toy", "classes": ["emu", *CLASSES[::-1]], "fingerprint": "m"}
        arrays["logits"] = np.c_[np.full(len(arrays["label"]), 50, np.float16), arrays["logits"][:, ::-1]]
        save_arrays(path, arrays, meta)
    arrays, _ = open_arrays(scored(case), "winnow-scores/1")
    assert arrays["class/lm/t.train"].tolist() == [0, 9, 3, 0]


def test_two_targets_count_equally_and_can_be_chosen(case):
    ants = case.folder / "u.train.features.npz"
    write_features(ants, 6 * np.eye(1, 8), [[9, 0, 0, 0]], [0], classes=["x"])
    score.run(score.Config((case.source,), case.scores, (case.target, ants)))
    # Shares: t gives bee 3/4 and cat 1/4, u gives ant 1. Mean over 20 samples: ant 10, bee 7.5, cat 2.5.
    found = [selected(case, f"a{seed}", quota="lm", base=0.0, seed=seed).per_class()[0].tolist() for seed in range(8)]
    # The seed decides between equal remainders.
    assert {tuple(kept) for kept in found} == {(10, 8, 2, 0), (10, 7, 3, 0)}
    kept, _ = selected(case, "b", quota="lm", base=0.0, targets=("u.train",)).per_class()
    assert kept.tolist() == [20, 0, 0, 0]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A case with every score there is, dynamics of six epochs among them."""
    made = make_case(tmp_path_factory.mktemp("everything"))
    rng = np.random.default_rng(1)
    probability = rng.uniform(size=(6, 100)).astype(np.float16)
    save_arrays(
        made.folder / "dynamics.npz",
        {
            "probability": probability,
            "margin": rng.normal(size=(6, 100)).astype(np.float16),
            "correct": (probability > 0.5).astype(np.uint8),
            "position": np.arange(100),
            "label": made.label.astype(np.int32),
        },
        {
            "format": "winnow-dynamics/1",
            "fingerprint": Manifest.load(made.folder / "s.manifest.npz").fingerprint,
        },
    )
    return scored_case(made, also=EVERYTHING, dynamics=(made.folder / "dynamics.npz",))


@pytest.mark.parametrize("method", NAMES)
def test_every_method_keeps_exactly_the_budget_and_repeats_byte_for_byte(everything, method):
    for keep in (0.05, 0.33, 1.0):
        places = [everything.folder / f"{method}-{keep}-{i}.index.npz" for i in (0, 1)]
        for place in places:
            selection.run(selection.Config(out=place, scores=everything.scores, method=method, keep=keep))
        index = PrunedIndex.load(places[0])
        assert len(index) == round(100 * keep)
        assert places[0].read_bytes() == places[1].read_bytes()


@pytest.fixture(scope="module")
def shuffled(everything, tmp_path_factory):
    """The same source with its images in another order, scored anew."""
    folder = tmp_path_factory.mktemp("shuffled")
    order = np.random.default_rng(9).permutation(100)
    manifest = Manifest.load(everything.folder / "s.manifest.npz")
    columns = ("ids", "labels", "nbytes", "width", "height", "digests", "crc32")
    moved = replace(manifest, **{name: getattr(manifest, name)[order] for name in columns}, meta={})
    arrays, _ = open_arrays(everything.source, "winnow-features/1", mapped=False)
    rows = {"label": everything.label, "features": arrays["features"], "logits": arrays["logits"]}
    source = write_features(
        folder / "s.features.npz", **{k: v[order] for k, v in rows.items()}, classes=CLASSES, manifest=moved
    )
    tables, meta = open_arrays(everything.folder / "dynamics.npz", "winnow-dynamics/1", mapped=False)
    turned = {name: tables[name][:, order] for name in ("probability", "margin", "correct")}
    save_arrays(folder / "dynamics.npz", tables | turned | {"label": moved.labels}, meta)
    made = SimpleNamespace(folder=folder, source=source, target=everything.target, scores=folder / "scores.npz")
    return scored_case(made, also=EVERYTHING, dynamics=(folder / "dynamics.npz",))


@pytest.mark.parametrize("method", NAMES)
def test_every_method_keeps_the_same_ids_in_whatever_order_the_manifest_lists_them(everything, shuffled, method):
    for keep, seed in ((0.05, 0), (0.33, 1), (0.7, 2)):
        found = []
        for case in (everything, shuffled):
            place = case.folder / f"order-{method}-{keep}.index.npz"
            config = {"method": method, "keep": keep, "seed": seed, "floor": 1}
            selection.run(selection.Config(out=place, scores=case.scores, **config))
            index = PrunedIndex.load(place)
            found.append(dict(zip(index.ids.tolist(), index.reasons.tolist())))
        assert found[0] == found[1], keep


@pytest.mark.parametrize("method", NAMES)
def test_every_method_is_part_of_a_mix_that_keeps_the_budget_in_whatever_order_the_manifest_lists_the_images(
    everything, shuffled, method
):
    mix = f"{method}:0.6,{'class-random' if method == 'random' else 'random'}:0.4"
    found = []
    for case in (everything, shuffled):
        place = case.folder / f"mix-{method}.index.npz"
        selection.run(selection.Config(out=place, scores=case.scores, mix=mix, keep=0.35, floor=1, seed=3))
        index = PrunedIndex.load(place)
        assert len(index) == 35
        found.append({name: index.reason_names[code] for name, code in zip(index.ids.tolist(), index.reasons)})
    assert found[0] == found[1]
    why = Counter(found[0].values())
    assert set(why) <= {"floor", *[part.split(":")[0] for part in mix.split(",")]}
    assert why[method] <= 21  # of 35
    assert sum(why.values()) == 35


def test_a_mix_says_which_part_kept_a_sample_and_how_it_was_made(case, capsys):
    scored(case, also=("domain",))
    index = selected(case, mix="lm:0.5,domain:0.3,random:0.2", report=case.folder / "r.csv", json=True)
    assert {index.reason_names[code]: int(n) for code, n in enumerate(np.bincount(index.reasons)) if n} == {
        "lm": 10,
        "domain": 6,
        "random": 4,
    }
    assert set(index.labels[index.reasons == index.reason_names.index("lm")]) == {1}  # bees have most votes
    assert index.provenance[-1]["parts"][1] == {
        "part": "domain",
        "share": 0.3,
        "quota": "threshold",
        "rank": "domain:top",
        "base": 0.0,
        "trim": 0.0,
    }
    rows = json.loads(capsys.readouterr().out)
    assert [sum(row[part] for row in rows) for part in ("lm", "domain", "random")] == [10, 6, 4]
    assert sum(row["kept"] for row in rows) == 20
    head = (case.folder / "r.csv").read_text().splitlines()[0]
    assert head == "class,size,available,weight,quota,kept,quota_reason,floor,protected,coverage,random,lm,domain"
    with pytest.raises(InputError, match=r"mix: .*0\.2' -> 'lm:0\.5,random:0\.5'"):
        selected(case, mix="lm:0.5,random:0.5")
    selected(case, "b", method="winnow")
    with pytest.raises(InputError, match="mix: None -> "):
        selected(case, "b", mix="lm:0.5,random:0.5")


def test_the_gate_lists_and_duplicates_hold_over_a_whole_mix(case):
    scored(case, also=("domain", "duplicates"))
    arrays, meta = open_arrays(case.scores, "winnow-scores/1", mapped=False)
    arrays["duplicate_of"] = np.where(np.arange(100) % 10 == 1, np.arange(100) - 1, -1)
    save_arrays(case.scores, arrays, meta)
    names = Manifest.load(case.folder / "s.manifest.npz").ids
    passing = np.argsort(-arrays["sample/domain"])[:50]
    (case.folder / "always.txt").write_bytes(names[passing[-1]])
    (case.folder / "never.txt").write_bytes(b"\n".join(names[passing[:5]]))
    index = selected(
        case,
        mix="domain:0.5,random:0.5",
        gate="domain:0.5",
        drop_duplicates=True,
        always=case.folder / "always.txt",
        never=case.folder / "never.txt",
    )
    assert set(index.positions) <= set(passing[5:])
    assert passing[-1] in index.positions
    copies = np.flatnonzero(arrays["duplicate_of"] >= 0)
    assert not [row for row in copies if {row, row - 1} <= set(index.positions)]


def test_a_mix_of_semdedup_drops_near_duplicates_from_all_parts_and_one_of_winnow_has_its_gate(case):
    scored(case, also=("domain", "duplicates"))
    arrays, meta = open_arrays(case.scores, "winnow-scores/1", mapped=False)
    arrays["duplicate_of"] = np.where(np.arange(100) < 50, np.arange(100) + 50, -1)
    meta["gates"]["domain"]["width"] = 0.4
    save_arrays(case.scores, arrays, meta)
    index = selected(case, mix="random:0.5,semdedup:0.5")
    assert index.positions.min() >= 50
    gated = selected(case, "b", mix="winnow:0.5,random:0.5")
    assert gated.provenance[-1]["gate"] == {"score": "domain", "width": 0.4}
    assert "gate" not in index.provenance[-1]


KEEPS = (0.15, 0.25, 0.5)


def places_of(case, name):
    return {keep: case.folder / f"{name}-{keep:g}.index.npz" for keep in KEEPS}


@pytest.mark.parametrize("config", [{"method": "winnow"}, {"method": "ccs"}, {"mix": "lm:0.5,el2n:0.5"}])
def test_several_keeps_write_the_indices_of_single_runs_byte_for_byte(case, config, capsys):
    scored(case)
    several, single = places_of(case, "several"), places_of(case, "single")
    base = {"scores": case.scores, "floor": 1, "protect": ("dog",), "keep": KEEPS, **config}
    out = case.folder / "several-{keep}.index.npz"
    assert selection.run(selection.Config(out=out, **base)) == several[0.5]
    for keep, place in single.items():
        selection.run(selection.Config(out=place, **base | {"keep": keep}))
        assert several[keep].read_bytes() == place.read_bytes()
        assert PrunedIndex.load(place).provenance[-1]["config"]["keep"] == keep
    stamps = [place.stat().st_mtime_ns for place in several.values()]
    capsys.readouterr()
    several[0.25].unlink()
    selection.run(selection.Config(out=out, **base))
    assert several[0.25].read_bytes() == single[0.25].read_bytes()
    assert [place.stat().st_mtime_ns for place in several.values()][::2] == stamps[::2]
    assert capsys.readouterr().err.count("up to date") == 2


NESTED = [name for name in NAMES if name not in ("dual", "ccs", "ccs-global", "evidence", "winnow")]


@pytest.mark.parametrize("method", NESTED)
def test_a_smaller_keep_is_part_of_a_larger_one_where_the_help_says_so(everything, method):
    out = everything.folder / f"nested-{method}-{{keep}}.index.npz"
    keeps = (0.1, 0.3, 0.5, 0.8)
    selection.run(selection.Config(out=out, scores=everything.scores, method=method, keep=keeps))
    found = [PrunedIndex.load(Path(str(out).replace("{keep}", f"{keep:g}"))) for keep in keeps]
    rounded = 0 if presets.method(method, 0.1).quota in ("threshold", "lm-whole", "fm-whole", "votes-whole") else 1
    for small, large in pairwise(found):
        lost = ~np.isin(small.positions, large.positions)
        assert np.bincount(small.labels[lost], minlength=4).max() <= rounded


def test_an_index_of_a_version_that_took_one_keep_alone_is_up_to_date(case, capsys):
    scored(case)
    selected(case, method="random")
    place = case.folder / "a.index.npz"
    index = PrunedIndex.load(place)
    config = index.provenance[-1]["config"]
    assert (config["keep"], config.pop("mix")) == (0.2, None)
    replace(index, provenance=index.provenance).save(place)  # as it was written before there were mixes
    stamp = place.read_bytes()
    for keep in (0.2, (0.2,)):
        selected(case, method="random", keep=keep)
    assert capsys.readouterr().err.count("up to date") == 2
    assert place.read_bytes() == stamp
    with pytest.raises(InputError, match=r"keep: 0\.2 -> 0\.3"):
        selected(case, method="random", keep=(0.3,))
    with pytest.raises(InputError, match=r"keep: 0\.2 -> None"):
        selected(case, method="random", keep=None, budget=20)


def test_one_keep_that_cannot_be_met_leaves_no_index_of_the_others(case):
    scored(case)
    out = case.folder / "{keep}.index.npz"
    with pytest.raises(InputError, match="needs 24 samples and the budget is 10"):
        selection.run(selection.Config(out=out, scores=case.scores, keep=(0.5, 0.1), floor=6))
    other = case.folder / "0.1.index.npz"
    selection.run(selection.Config(out=other, scores=case.scores, keep=0.1, method="random"))
    with pytest.raises(InputError, match="method: 'random' -> 'winnow'"):
        selection.run(selection.Config(out=out, scores=case.scores, keep=(0.5, 0.1)))
    assert [path.name for path in case.folder.glob("*.index.npz")] == ["0.1.index.npz"]


def test_reports_and_tables_of_several_keeps_are_one_for_each(case, capsys):
    scored(case)
    config = selection.Config(
        out=case.folder / "{keep}.index.npz",
        report=case.folder / "{keep}.csv",
        scores=case.scores,
        method="random",
        keep=(0.1, 0.2),
        json=True,
    )
    selection.run(config)
    tables = json.loads(capsys.readouterr().out)
    assert {keep: [row["kept"] for row in rows] for keep, rows in tables.items()} == {
        "0.1": [4, 3, 2, 1],
        "0.2": [8, 6, 4, 2],
    }
    assert (case.folder / "0.2.csv").read_text().splitlines()[1] == "ant,40,40,0.4,8,8,0,0,0,0,8"
    assert len(PrunedIndex.load(case.folder / "0.1.index.npz")) == 10


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"keep": (0.1, 0.2)}, r"several keeps need a file each; put \{keep\} into the name"),
        ({"keep": (0.1, 0.2), "out": "{keep}", "report": "r.csv"}, r"--report .*r.csv: several keeps"),
        ({"keep": (0.1, 0.10), "out": "{keep}"}, "--keep 0.1 0.1: one is named twice"),
        ({"keep": (0.1, 1.2), "out": "{keep}"}, "keep 1.2 is outside"),
        ({"keep": (0.1, 0.2), "budget": 10, "out": "{keep}"}, "either --keep or --budget"),
        ({"keep": (), "budget": 10, "out": "{keep}"}, "no --keep is given"),
        ({"mix": "lm:0.5"}, "sum to 0.5"),
        ({"mix": "lm:0.5,tdds:0.5"}, "needs training dynamics"),
        ({"mix": "lm:1", "method": "random"}, "--mix names its methods itself: give no --method"),
        ({"mix": "lm:1", "rank": "random"}, "give no --rank"),
        ({"mix": "lm:1", "base": 0.1}, "give no --base"),
    ],
)
def test_mistakes_in_keeps_and_mixes_are_named_and_write_nothing(case, config, message):
    scored(case)
    places = {"out": "a.index.npz", "keep": 0.2} | config
    places |= {name: case.folder / places[name] for name in ("out", "report") if name in places}
    before = sorted(case.folder.iterdir())
    with pytest.raises(InputError, match=message):
        selection.run(selection.Config(scores=case.scores, **places))
    assert sorted(case.folder.iterdir()) == before


def test_clusters_hold_the_same_images_in_whatever_order_the_manifest_lists_them(everything, shuffled):
    members = []
    for case in (everything, shuffled):
        out = case.folder / "clusters.npz"
        score.run(score.Config((case.source,), out, (case.target,), clusters=6, also=("self-prototype",)))
        arrays, meta = open_arrays(out, "winnow-scores/1")
        ids = Manifest.load(case.folder / "s.manifest.npz").ids
        members.append({frozenset(ids[arrays["group"] == k].tolist()) for k in range(6)})
        assert set(meta["seed_agreement"]) == {"clusters", "self-prototype"}
    assert members[0] == members[1]


def test_dp4tl_keeps_whole_classes_by_votes_and_fills_the_last_one_partly(case):
    scored(case)
    kept, total = selected(case, method="dp4tl-lm", keep=0.45).per_class()
    assert total.tolist() == SIZES
    assert kept.tolist() == [0, 30, 15, 0]
    assert selected(case, "b", method="dp4tl-fm", keep=0.45).per_class()[0].tolist() == [0, 30, 15, 0]


def test_random_keeps_by_size_and_class_random_equally(case):
    scored(case)
    assert selected(case, method="random").per_class()[0].tolist() == [8, 6, 4, 2]
    assert selected(case, "b", method="class-random").per_class()[0].tolist() == [5, 5, 5, 5]
    other = selected(case, "c", method="random", seed=1)
    assert other.fingerprint != selected(case, "a", method="random").fingerprint


def test_el2n_keeps_the_hardest_of_all_and_margin_the_most_torn(case):
    arrays, _ = open_arrays(scored(case), "winnow-scores/1")
    hardest = np.sort(np.argsort(-arrays["sample/el2n"], kind="stable")[:20])
    assert selected(case, method="el2n").positions.tolist() == hardest.tolist()
    torn = np.sort(np.argsort(arrays["sample/margin"], kind="stable")[:20])
    assert selected(case, "b", method="margin").positions.tolist() == torn.tolist()


def test_winnow_without_targets_keeps_every_class_its_share(case):
    score.run(score.Config((case.source,), case.scores))
    # 0.2 of 40, 30, 20 and 10.
    assert selected(case, method="winnow").per_class()[0].tolist() == [8, 6, 4, 2]


def test_winnow_without_targets_draws_as_dual_does_where_there_are_dynamics():
    assert method("winnow", 0.3, ("sample/el2n", "sample/dual", "sample/confidence")).rank == "dual:beta"
    assert method("winnow", 0.3, ("sample/el2n",)).rank == "el2n/entropy:bottom"


def test_winnow_keeps_whole_classes_in_the_order_of_evidence_and_no_near_duplicates(case):
    scored(case, also=("duplicates",))
    # Votes 9 to 3 for bee and cat, of 30 and 20 images: all bees, then cats until 40 are kept.
    assert selected(case, method="winnow", keep=0.4).per_class()[0].tolist() == [0, 30, 10, 0]
    arrays, meta = open_arrays(case.scores, "winnow-scores/1", mapped=False)
    bees = np.flatnonzero(case.label == 1)
    arrays["duplicate_of"] = np.full(100, -1)
    arrays["duplicate_of"][bees[1:6]] = bees[0]
    save_arrays(case.scores, arrays, meta)
    assert selected(case, "b", method="winnow", keep=0.4).per_class()[0].tolist() == [0, 25, 15, 0]


def test_winnow_by_scores_without_votes_by_chance_takes_the_votes_at_their_word_and_says_so(case, capsys):
    arrays, meta = open_arrays(scored(case), "winnow-scores/1", mapped=False)
    save_arrays(case.scores, {name: a for name, a in arrays.items() if "-chance/" not in name}, meta)
    assert selected(case, method="winnow", keep=0.4).per_class()[0].tolist() == [0, 30, 10, 0]
    assert "no votes by chance" in capsys.readouterr().err


def test_whole_classes_skip_a_share_of_each_that_is_last_by_the_rank_as_long_as_others_have_room(case):
    arrays, _ = open_arrays(scored(case), "winnow-scores/1")
    whole = {"quota": "votes-whole", "rank": "el2n:bottom", "keep": 0.3}
    # LM votes 9 to 3 for bee and cat, of 30 and 20 images: 30 - 7 of bee, then cat until 30 are kept.
    index = selected(case, trim=0.25, **whole)
    assert index.per_class()[0].tolist() == [0, 23, 7, 0]
    assert selected(case, "b", trim=0.0, **whole).per_class()[0].tolist() == [0, 30, 0, 0]
    with pytest.raises(InputError, match=r"--trim 1\.0"):
        selected(case, "c", trim=1.0, **whole)
    score, label = arrays["sample/el2n"], arrays["label"]
    dropped = np.setdiff1d(np.flatnonzero(label == 1), index.positions)
    assert score[dropped].min() >= score[index.positions[index.labels == 1]].max()


def test_base_spreads_a_share_of_the_budget_by_size_first(case):
    scored(case)
    # Half of 20 by size is 4, 3, 2, 1. LM votes 9 to 3 for bee and cat, who share what the others leave of 20, 15, as
    # 11.25 and 3.75; both are above their floors of 3 and 2.
    assert selected(case, quota="lm", base=0.5).per_class()[0].tolist() == [4, 11, 4, 1]
    assert selected(case, "b", quota="lm", base=1.0).per_class()[0].tolist() == [8, 6, 4, 2]
    assert selected(case, "c", quota="lm", base=0.0).per_class()[0].tolist() == [0, 15, 5, 0]


def test_a_list_of_ids_may_have_comments_which_are_counted_and_a_hash_without_a_space_is_a_name(case, capsys):
    scored(case)
    name = bytes(Manifest.load(case.folder / "s.manifest.npz").ids[0]).decode()
    never = case.folder / "commented.txt"
    never.write_text(f"# not these\n{name}\n#\n", encoding="utf-8")
    index = selected(case, "commented", method="random", keep=0.5, never=never)
    assert 0 not in index.positions
    assert "2 lines that begin with `# ` skipped as comments" in capsys.readouterr().err
    never.write_text(f"#not these\n{name}\n", encoding="utf-8")
    with pytest.raises(InputError, match="the first is #not these; a comment begins with `# `"):
        selected(case, "hash", method="random", keep=0.5, never=never)


def test_floor_protect_always_and_never_are_kept_and_say_why(case):
    scored(case)
    names = Manifest.load(case.folder / "s.manifest.npz").ids
    ants, bees = np.flatnonzero(case.label == 0), np.flatnonzero(case.label == 1)
    (case.folder / "always.txt").write_bytes(b"\n".join(names[ants[:2]]) + b"\n")
    (case.folder / "never.txt").write_bytes(b"\n".join(names[bees[:15]]) + b"\n")
    index = selected(
        case,
        method="dp4tl-lm",
        keep=0.35,
        floor=3,
        protect=("dog",),
        always=case.folder / "always.txt",
        never=case.folder / "never.txt",
    )
    # dog is kept whole (10), ant and cat have their floor (3), bee gets what is left: all 15 that may stay, then cat.
    assert index.per_class()[0].tolist() == [3, 15, 7, 10]
    assert not set(bees[:15]) & set(index.positions)
    assert set(ants[:2]) <= set(index.positions)
    why = {k: [index.reason_names[r] for r in index.reasons[index.labels == k]] for k in range(4)}
    assert sorted(why[0]) == ["floor", "protected", "protected"]
    assert set(why[3]) == {"protected"}
    assert set(why[1]) == {"quota"}  # all that may stay do: nothing was drawn
    assert set(why[2]) == {"random"}


def test_soft_quotas_average_lm_and_fm_sharpened_to_the_breadth_of_the_hard_votes(case):
    scored(case)
    arrays, meta = open_arrays(case.scores, "winnow-scores/1", mapped=False)
    votes = {"lm": [13, 0, 0, 0], "lm-soft": [7, 4, 1, 1], "fm": [9, 4, 0, 0], "fm-soft": [0, 6, 4, 0]}
    for rule, values in votes.items():
        arrays[f"class/{rule}/t.train"][:] = values
    save_arrays(case.scores, arrays, meta)
    # LM: all of it to class 0. FM: 6 to 4 squared is 9 to 4, the breadth of 9 and 4. Mean of (1, 0, 0, 0) and
    # (0, 9, 4, 0) / 13, times 26.
    assert selected(case, quota="soft", base=0.0, keep=None, budget=26).per_class()[0].tolist() == [13, 9, 4, 0]
    raw = selected(case, "b", quota="fm-soft", base=0.0).per_class()[0]
    assert raw.tolist() == [0, 12, 8, 0]


def test_weights_of_ones_own_set_the_quotas(case):
    scored(case)
    (case.folder / "w.json").write_text(json.dumps({"ant": 1, "bee": 0, "cat": 3, "dog": 0}))
    kept, _ = selected(case, quota="weights", base=0.0, weights=case.folder / "w.json").per_class()
    assert kept.tolist() == [5, 0, 15, 0]
    (case.folder / "w.json").write_text('{"ant": 1}')
    with pytest.raises(InputError, match="each of the source's 4 classes"):
        selected(case, "b", quota="weights", weights=case.folder / "w.json")


def test_same_out_and_settings_return_at_once_and_others_are_refused(case, capsys):
    scored(case)
    selected(case, method="random")
    stamp = (case.folder / "a.index.npz").stat().st_mtime_ns
    selected(case, method="random")
    assert (case.folder / "a.index.npz").stat().st_mtime_ns == stamp
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"keep: 0\.2 -> 0\.3"):
        selected(case, method="random", keep=0.3)


def test_other_features_under_the_same_settings_are_refused(case):
    scored(case)
    arrays, meta = open_arrays(case.source, "winnow-features/1", mapped=False)
    other = case.folder / "other.features.npz"
    save_arrays(other, arrays | {"features": arrays["features"][:, ::-1] * np.arange(8)}, meta)
    index = selected(case, method="k-center")
    assert selected(case, method="k-center", features=case.source).fingerprint == index.fingerprint
    with pytest.raises(InputError, match=r"features: None -> '[0-9a-f]{32}'"):
        selected(case, method="k-center", features=other)
    step = selected(case, "b", method="k-center", features=other).provenance[-1]
    assert step["inputs"]["features"] == content_fingerprint(other)
    with pytest.raises(InputError, match=r"features"):
        selected(case, "b", method="k-center")
    selected(case, "c", method="random")
    selected(case, "c", method="random", features=other)  # a rank that looks at no features is the same with others


def test_an_index_that_is_up_to_date_needs_its_features_no_more(case, capsys):
    scored(case)
    selected(case, method="k-center")
    case.source.unlink()
    selected(case, method="k-center")
    assert "up to date" in capsys.readouterr().err


def test_features_in_another_order_of_the_images_are_refused(case):
    scored(case)
    arrays, meta = open_arrays(case.source, "winnow-features/1", mapped=False)
    own = order_fingerprint(case.folder / "s.manifest.npz")
    for name, order in (("same", own), ("turned", "00000000")):
        save_arrays(case.folder / f"{name}.features.npz", arrays, meta | {"order": order})
    selected(case, method="k-center", features=case.folder / "same.features.npz")
    with pytest.raises(InputError, match=r"turned.* in another order than .*scores\.npz; run `prune features`"):
        selected(case, "b", method="k-center", features=case.folder / "turned.features.npz")


def test_a_random_draw_needs_the_manifest_alone(case):
    from prune.index.npz import open_arrays

    _, meta = open_arrays(scored(case), "winnow-scores/1")
    manifest = case.scores.parent / meta["manifest"]
    with_scores, without = case.folder / "a.index.npz", case.folder / "b.index.npz"
    selection.run(selection.Config(scores=case.scores, out=with_scores, method="random", keep=0.3, seed=4))
    selection.run(selection.Config(manifest=manifest, out=without, method="random", keep=0.3, seed=4))
    rows = [PrunedIndex.load(path).ids.tolist() for path in (with_scores, without)]
    assert rows[0] == rows[1]
    with pytest.raises(InputError, match="--scores"):
        selection.run(selection.Config(manifest=manifest, out=case.folder / "c.index.npz", method="winnow", keep=0.3))
    with pytest.raises(InputError, match="--manifest"):
        selection.run(selection.Config(out=case.folder / "c.index.npz", method="random", keep=0.3))


def test_dry_run_reports_and_writes_nothing(case, capsys):
    scored(case)
    config = selection.Config(
        scores=case.scores, out=case.folder / "x.index.npz", method="random", budget=10, dry_run=True, json=True
    )
    selection.run(config)
    rows = json.loads(capsys.readouterr().out)
    assert [row["kept"] for row in rows] == [4, 3, 2, 1]
    assert not (case.folder / "x.index.npz").exists()


def test_the_report_lists_every_class_with_its_reasons(case):
    scored(case)
    selected(case, method="random", report=case.folder / "r.csv")
    lines = (case.folder / "r.csv").read_text().splitlines()
    assert lines[0] == "class,size,available,weight,quota,kept,quota_reason,floor,protected,coverage,random"
    assert lines[1] == "ant,40,40,0.4,8,8,0,0,0,0,8"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"keep": 0.0}, "outside"),
        ({"keep": 1.5}, "outside"),
        ({"keep": None}, "either"),
        ({"budget": 5}, "either"),
        ({"keep": None, "budget": 101}, "--budget 101"),
        ({"method": "best"}, "no method 'best'"),
        ({"quota": "fair"}, "no quota 'fair'"),
        ({"rank": "el2n"}, "SCORE:WAY"),
        ({"rank": "aum:top"}, "needs training dynamics"),
        ({"rank": "affinity:top"}, "no affinity .*--also"),
        ({"rank": "k-center", "quota": "threshold"}, "works inside classes"),
        ({"drop_leaks": True}, "--leaks"),
        ({"drop_suspects": True}, "--also suspects"),
        ({"cut": 1.0}, "--cut"),
        ({"complexity": 0.0}, "--complexity"),
        ({"base": 1.5}, "--base"),
        ({"floor": 9}, "needs 36 samples and the budget is 20; the largest floor that fits is 5 samples"),
        ({"floor": 0.5}, "the largest floor that fits is 0.200"),
        ({"floor": 2.7}, "2.7 is neither"),
        ({"floor": float("inf")}, "inf is neither"),
        ({"floor": float("nan")}, "nan is neither"),
        ({"seed": -1}, "--seed -1"),
        ({"protect": ("cow",)}, "cow"),
        ({"protect": ("ant",)}, "protected"),
        ({"targets": ("pets",)}, "t.train"),
    ],
)
def test_mistakes_are_named_and_write_nothing(case, config, message):
    scored(case)
    with pytest.raises(InputError, match=message):
        selected(case, **config)
    assert not (case.folder / "a.index.npz").exists()


def test_scores_of_another_source_are_refused(case):
    scored(case)
    manifest = Manifest.load(case.folder / "s.manifest.npz")
    other = replace(manifest, digests=manifest.digests[::-1], meta={})
    other.save(case.folder / "other.manifest.npz")
    with pytest.raises(InputError, match="another source"):
        selected(case, manifest=case.folder / "other.manifest.npz")


@pytest.mark.parametrize("name", ["pets.test", "pets_test"])
def test_test_images_never_guide(case, name):
    path = write_features(case.folder / f"{name}.features.npz", np.ones((1, 8)), np.ones((1, 4)), [0], classes=["x"])
    with pytest.raises(InputError, match="test images never guide"):
        score.run(score.Config((case.source,), case.scores, (path,)))


def test_targets_without_images_or_of_another_surrogate_are_refused(case):
    empty = write_features(case.folder / "e.features.npz", np.ones((0, 8)), np.ones((0, 4)), [], classes=["x"])
    with pytest.raises(InputError, match="no images"):
        score.run(score.Config((case.source,), case.scores, (empty,)))
    model = {"arch": "toy", "classes": CLASSES, "fingerprint": "other"}
    other = write_features(
        case.folder / "o.features.npz", np.ones((1, 8)), np.ones((1, 4)), [0], classes=["x"], model=model
    )
    with pytest.raises(InputError, match="another surrogate"):
        score.run(score.Config((case.source,), case.scores, (other,)))
    assert not case.scores.exists()


def test_a_diverged_surrogate_is_noticed(case):
    arrays, meta = open_arrays(case.source, "winnow-features/1", mapped=False)
    arrays["logits"][7, 2] = np.inf
    save_arrays(case.source, arrays, meta)
    with pytest.raises(InputError, match="not finite"):
        scored(case)


def test_every_preset_is_named_in_the_help():
    missing = [name for name in NAMES if name not in (selection.__doc__ or "")]
    assert missing == []
