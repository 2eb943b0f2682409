"""`prune score` beyond one pass: several surrogates, clusters, dynamics, leaks, findings; what `prune select` drops."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from prune import score, selection
from prune.__main__ import main
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays, save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError
from prune.scores.feature_files import order_fingerprint, write_features
from prune.scores.streaming import as_float16

CLASSES = ["ant", "bee", "cat"]


def write_manifest(place, labels, classes):
    n = len(labels)
    manifest = Manifest(
        ids=np.array([f"{classes[k]}/{i:04d}.jpg".encode() for i, k in enumerate(labels)], dtype="S24"),
        labels=np.asarray(labels, np.int32),
        nbytes=np.full(n, 100, np.int32),
        width=np.full(n, 8, np.int32),
        height=np.full(n, 8, np.int32),
        digests=np.arange(n, dtype=np.uint64),
        crc32=np.arange(n, dtype=np.uint32),
        classes=list(classes),
    )
    manifest.save(place)
    return place


def features_file(path, features, logits, manifest, model, classes=CLASSES):
    facts = {"arch": model, "classes": classes, "fingerprint": model}
    write_features(path, as_float16(features), as_float16(logits), Manifest.load(manifest), manifest, facts)


@pytest.fixture
def case(tmp_path):
    """300 samples of three classes in 16 dimensions, 20 near-duplicates, 15 wrong labels; two surrogates; a target."""
    rng = np.random.default_rng(0)
    true = np.repeat([0, 1, 2], 100)
    label = true.copy()
    wrong = np.sort(rng.choice(280, 15, replace=False))
    label[wrong] = (true[wrong] + 1) % 3
    centres = 3 * np.eye(3, 16)
    x = centres[true] + rng.normal(size=(300, 16))
    twins = np.setdiff1d(np.arange(200), wrong)[:20]
    x[280:] = x[twins] + 0.02 * rng.normal(size=(20, 16))
    true[280:], label[280:] = true[twins], true[twins]
    head = np.random.default_rng(1).normal(size=(16, 16)) / 4
    source = write_manifest(tmp_path / "s.manifest.npz", label, CLASSES)
    train = write_manifest(tmp_path / "t.train.manifest.npz", np.zeros(30, int), ["x"])
    test = write_manifest(tmp_path / "t.test.manifest.npz", np.zeros(10, int), ["x"])
    like = centres[np.r_[np.full(20, 1), np.full(10, 2)]] + rng.normal(size=(30, 16))
    held = np.r_[x[[5, 50]] + 0.01 * rng.normal(size=(2, 16)), 9 + rng.normal(size=(8, 16))]

    def files(name, turn):
        folder = tmp_path / name
        folder.mkdir()
        made = {}
        for part, features, manifest in (("s", x, source), ("t.train", like, train), ("t.test", held, test)):
            logits = 3 * features @ turn[:, :3]
            made[part] = folder / f"{part}.features.npz"
            features_file(made[part], features @ turn, logits, manifest, name)
        return made

    return SimpleNamespace(
        folder=tmp_path,
        one=files("one", np.eye(16)),
        two=files("two", np.eye(16) + 0.2 * head),
        out=tmp_path / "scores.npz",
        label=label,
        wrong=wrong,
        twins=twins,
    )


def scored(case, *surrogates, targets=True, **config):
    surrogates = surrogates or (case.one,)
    given = tuple(s["t.train"] for s in surrogates) if targets else ()
    score.run(score.Config(tuple(s["s"] for s in surrogates), case.out, given, **config))
    return open_arrays(case.out, "winnow-scores/1")


def kept(case, **config):
    out = case.folder / "a.index.npz"
    out.unlink(missing_ok=True)
    selection.run(selection.Config(out=out, scores=case.out, **({"keep": 0.5} | config)))
    return PrunedIndex.load(out)


def test_wrong_labels_are_among_the_hardest_and_among_the_suspects(case):
    arrays, _ = scored(case, also=("suspects",))
    hardest = np.argsort(-arrays["sample/el2n"])[:30]
    recall = np.isin(case.wrong, hardest).mean()
    assert recall >= 0.8, f"{recall:.2f} of the wrong labels are in the hardest tenth"
    looks = arrays["looks_like"]
    assert np.isin(case.wrong, np.flatnonzero(looks >= 0)).mean() >= 0.6
    found = case.wrong[looks[case.wrong] >= 0]
    assert np.mean(looks[found] == (case.label[found] - 1) % 3) >= 0.9  # and they look like what they are


def test_near_duplicates_and_leaks_are_found_listed_and_dropped(case, capsys):
    arrays, _ = scored(
        case, leaks=(case.one["t.test"],), also=("duplicates", "suspects"), findings=case.folder / "f.csv"
    )
    pairs = {tuple(sorted((i, int(of)))) for i, of in enumerate(arrays["duplicate_of"]) if of >= 0}
    truth = {(int(t), 280 + i) for i, t in enumerate(case.twins)}
    assert len(pairs & truth) / len(truth) >= 0.95, f"recall {len(pairs & truth)} of {len(truth)}"
    assert len(pairs & truth) / len(pairs) >= 0.95, f"precision {len(pairs & truth)} of {len(pairs)}"
    leaked = np.flatnonzero(arrays["leak/t.test"])
    assert set(leaked) >= {5, 50}
    assert len(leaked) <= 4  # their own near-duplicates may be there
    said = capsys.readouterr().err
    assert "near-duplicates: 2" in said
    assert f"leaks: {len(leaked)} source images" in said
    with open(case.folder / "f.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = Manifest.load(case.folder / "s.manifest.npz").ids
    assert {r["id"] for r in rows if r["kind"] == "leak"} == {names[i].decode() for i in leaked}
    assert sum(r["kind"] == "duplicate" for r in rows) == len(pairs)
    assert all(r["of"] in CLASSES and r["of"] != r["class"] for r in rows if r["kind"] == "suspect")

    copies = set(np.flatnonzero(arrays["duplicate_of"] >= 0))
    assert copies & set(kept(case, method="random", keep=0.9).positions)
    dropped = kept(case, method="random", keep=0.9, drop_duplicates=True, drop_leaks=True)
    assert not (copies | set(leaked)) & set(dropped.positions)
    assert not copies & set(kept(case, method="winnow", keep=0.5).positions)
    assert not copies & set(kept(case, method="semdedup", keep=0.5).positions)
    assert len(kept(case, method="winnow", keep=1.0)) == 300  # the budget comes before the wish
    with pytest.raises(InputError, match=r"samples, but 2\d\d are available"):
        kept(case, method="random", keep=1.0, drop_duplicates=True)


def test_what_is_always_kept_outweighs_what_is_dropped_and_clashes_with_never(case):
    scored(case, also=("duplicates",))
    copy = int(np.flatnonzero(open_arrays(case.out, "winnow-scores/1")[0]["duplicate_of"] >= 0)[0])
    name = Manifest.load(case.folder / "s.manifest.npz").ids[copy]
    (case.folder / "ids.txt").write_bytes(name + b"\n")
    index = kept(case, method="random", drop_duplicates=True, always=case.folder / "ids.txt")
    assert copy in index.positions
    assert copy in kept(case, method="winnow", keep=0.3, always=case.folder / "ids.txt").positions
    with pytest.raises(InputError, match="both name 1 sample"):
        kept(case, method="random", always=case.folder / "ids.txt", never=case.folder / "ids.txt")
    (case.folder / "ids.txt").write_text("ant/none.jpg\n")
    with pytest.raises(InputError, match=r"1 id is not in the source; the first is ant/none\.jpg"):
        kept(case, method="random", never=case.folder / "ids.txt")


def test_winnow_keeps_the_floor_of_a_class_made_of_near_duplicates(case):
    arrays, meta = open_arrays(scored(case) and case.out, "winnow-scores/1", mapped=False)
    cats = np.flatnonzero(case.label == 2)
    arrays["duplicate_of"][cats[1:]] = cats[0]
    save_arrays(case.out, arrays, meta)
    assert kept(case, method="winnow", floor=30).per_class()[0][2] == 30
    assert kept(case, method="winnow", keep=0.7, protect=("cat",)).per_class()[0][2] == len(cats)


def test_several_surrogates_are_averaged_by_rank_and_their_agreement_is_printed(case, capsys):
    both, meta = scored(case, case.one, case.two, also=("prototype",))
    assert 1 < both["sample/el2n"].max() <= 2**0.5  # in EL2N's own units
    assert 0.8 < meta["agreement"]["sample/el2n"] < 1
    assert "the surrogates agree at 0." in capsys.readouterr().err
    case.out.unlink()
    alone, meta = scored(case, also=("prototype",))
    assert meta["agreement"] == {}
    assert both["class/fm/t.train"].sum() == pytest.approx(30)
    assert {name for name in alone if not name.startswith("append/")} == set(both)  # nothing is appended to a mean
    assert len(kept(case, method="winnow")) == 150


def test_surrogates_targets_and_sources_must_fit_together(case):
    def run(sources, targets, **config):
        score.run(score.Config(sources, case.out, targets, **config))

    with pytest.raises(InputError, match="second file by the same surrogate"):
        run((case.one["s"], case.one["s"]), ())
    with pytest.raises(InputError, match=r"target t\.train: no features by the surrogate of .*two"):
        run((case.one["s"], case.two["s"]), (case.one["t.train"],))
    with pytest.raises(InputError, match="another surrogate"):
        run((case.one["s"],), (case.two["t.train"],))
    with pytest.raises(InputError, match="another source"):
        run((case.one["s"], case.two["t.train"]), ())
    with pytest.raises(InputError, match="given twice"):
        run((case.one["s"],), (case.one["t.train"], case.one["t.train"]))
    with pytest.raises(InputError, match="one surrogate"):
        run((case.one["s"], case.two["s"]), (), clusters=4)
    with pytest.raises(InputError, match="needs --targets"):
        run((case.one["s"],), (), also=("affinity",))
    with pytest.raises(InputError, match="are no test images"):
        run((case.one["s"],), (case.one["t.train"],), leaks=(case.one["t.train"],))
    for wrong in ({"similar": 0.0}, {"clusters": 1}, {"temperature": 0.0}):
        with pytest.raises(InputError, match=f"--{next(iter(wrong))}"):
            run((case.one["s"],), (), **wrong)
    assert not case.out.exists()


def test_test_images_change_nothing_but_the_leaks(case):
    without, _ = scored(case)
    before = {name: np.array(values) for name, values in without.items()}
    case.out.unlink()
    with_leaks, _ = scored(case, leaks=(case.one["t.test"],))
    assert set(with_leaks) == set(before) | {"leak/t.test"}
    for name, values in before.items():
        assert np.array_equal(values, with_leaks[name]), name


def test_clusters_replace_classes_in_quotas(case):
    arrays, meta = scored(case, clusters=5, also=())
    assert len(meta["groups"]) == 5
    assert arrays["class/fm/t.train"].shape == (5,)
    assert not any("/lm" in name for name in arrays)
    index = kept(case, method="dp4tl-fm", keep=0.3)
    best = int(arrays["class/fm/t.train"].argmax())
    inside = np.flatnonzero(arrays["group"] == best)
    assert len(np.intersect1d(inside, index.positions)) == min(len(inside), 90)
    with pytest.raises(InputError, match="use FM"):
        kept(case, method="dp4tl-lm")


def test_where_clusters_decide_the_agreement_of_two_seeds_is_printed(case, capsys):
    _, meta = scored(case, clusters=5, also=("self-prototype",))
    found = meta["seed_agreement"]
    assert set(found) == {"clusters", "self-prototype"}
    assert all(-1 <= value <= 1 for value in found.values())
    assert f"clusters: k-means of two seeds agrees at {found['clusters']:.2f}" in capsys.readouterr().err
    kept(case, method="random")
    assert f"two seeds agree at {found['clusters']:.2f}" in capsys.readouterr().err
    case.out.unlink()
    _, meta = scored(case, also=("self-prototype",))
    capsys.readouterr()
    kept(case, method="el2n")
    assert "two seeds" not in capsys.readouterr().err
    kept(case, method="self-prototype")
    assert f"two seeds agree at {meta['seed_agreement']['self-prototype']:.2f}" in capsys.readouterr().err


def test_relevant_classes_are_found_by_lm_and_by_fm(case):
    arrays, _ = scored(case)
    for rule in ("lm", "lm-soft", "fm", "fm-soft"):
        votes = arrays[f"class/{rule}/t.train"]
        assert set(np.argsort(-votes)[:2]) == {1, 2}, f"{rule}: {votes}"


def test_a_class_without_samples_gets_no_votes(case):
    classes = [*CLASSES, "dog"]
    empty = write_manifest(case.folder / "e.manifest.npz", case.label, classes)
    rng = np.random.default_rng(3)
    for name, manifest, n in (("e", empty, 300), ("t.train", case.folder / "t.train.manifest.npz", 30)):
        logits = rng.normal(size=(n, 4)) + [0, 0, 0, 9]  # all the world looks like a dog
        place = case.folder / f"{name}.features.npz"
        features_file(place, rng.normal(size=(n, 5)), logits, manifest, "m", classes)
    score.run(
        score.Config((case.folder / "e.features.npz",), case.out, (case.folder / "t.train.features.npz",), also=())
    )
    arrays, _ = open_arrays(case.out, "winnow-scores/1")
    for rule in ("lm", "lm-soft", "fm", "fm-soft"):
        assert arrays[f"class/{rule}/t.train"][3] == 0, rule
        assert arrays[f"class/{rule}/t.train"].sum() == pytest.approx(30), rule


def test_dynamics_of_a_part_of_the_source_leave_the_rest_unknown(case):
    rows = np.arange(0, 300, 2)
    fingerprint = Manifest.load(case.folder / "s.manifest.npz").fingerprint
    tables = {"probability": np.full((4, 150), 0.5, np.float16), "margin": np.zeros((4, 150), np.float16)}
    tables["probability"][:, 7] = [0.1, 0.9, 0.1, 0.9]
    tables |= {"correct": np.ones((4, 150), np.uint8), "position": rows, "label": case.label[rows].astype(np.int32)}
    meta = {"format": "winnow-dynamics/1", "fingerprint": fingerprint}
    save_arrays(case.folder / "dynamics.npz", tables, meta)
    arrays, _ = scored(case, dynamics=(case.folder / "dynamics.npz",), also=())
    assert np.isnan(arrays["sample/dual"][1::2]).all()
    assert arrays["sample/dual"][::2].argmax() == 7
    assert kept(case, method="dyn-unc", keep=1 / 300).positions.tolist() == [14]
    assert len(kept(case, method="dual", keep=0.9)) == 270  # the unknown come last, and still fill the budget
    save_arrays(case.folder / "dynamics.npz", tables, meta | {"fingerprint": "other"})
    case.out.unlink()
    with pytest.raises(InputError, match="another source"):
        scored(case, dynamics=(case.folder / "dynamics.npz",))


def test_dynamics_of_another_order_of_the_images_are_refused(case):
    manifest = Manifest.load(case.folder / "s.manifest.npz")
    tables = {name: np.full((4, 300), 0.5, np.float16) for name in ("probability", "margin")}
    tables |= {"correct": np.ones((4, 300), np.uint8), "position": np.arange(300), "label": case.label}
    meta = {"format": "winnow-dynamics/1", "fingerprint": manifest.fingerprint}
    for order in (None, order_fingerprint(case.folder / "s.manifest.npz")):  # older files do not tell
        save_arrays(case.folder / "dynamics.npz", tables, meta | {"order": order})
        case.out.unlink(missing_ok=True)
        scored(case, dynamics=(case.folder / "dynamics.npz",), also=())
    case.out.unlink()
    save_arrays(case.folder / "dynamics.npz", tables, meta | {"order": "00000000"})
    with pytest.raises(InputError, match=r"dynamics\.npz: lists the images in another order"):
        scored(case, dynamics=(case.folder / "dynamics.npz",), also=())
    assert not case.out.exists()


def turned(place):
    """The same source in the opposite order, at `place`."""
    manifest = Manifest.load(place.with_name("s.manifest.npz"))
    names = ("ids", "labels", "nbytes", "width", "height", "digests", "crc32")
    other = Manifest(**{name: getattr(manifest, name)[::-1] for name in names}, classes=manifest.classes)
    other.save(place)
    assert other.fingerprint == manifest.fingerprint
    return place


def test_surrogates_that_saw_the_images_in_different_orders_are_not_averaged(case):
    manifest = turned(case.folder / "turned.manifest.npz")
    arrays, _ = open_arrays(case.two["s"], "winnow-features/1", mapped=False)
    rows = [arrays[name][::-1] for name in ("features", "logits")]
    features_file(case.two["s"], *rows, manifest, "two")
    with pytest.raises(InputError, match=r"two.* in another order than .*one.*; run `prune features` for both"):
        scored(case, case.one, case.two)
    assert not case.out.exists()


def test_two_test_sets_of_one_name_are_refused(case):
    (case.folder / "other").mkdir()
    arrays, _ = open_arrays(case.one["t.test"], "winnow-features/1", mapped=False)
    other, manifest = case.folder / "other/t.test.features.npz", case.folder / "t.test.manifest.npz"
    features_file(other, -arrays["features"], arrays["logits"], manifest, "one")
    with pytest.raises(InputError, match=r"two test sets are named t\.test"):
        scored(case, leaks=(case.one["t.test"], other))
    assert not case.out.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dynamics", "{folder}/text.npz"], "text.npz: damaged, or not a winnow-dynamics file"),
        (["--dynamics", "{folder}/one/s.features.npz"], "winnow-dynamics is expected"),
        (["--seed", "-1"], "--seed -1"),
        (["--workers", "-1"], "--workers -1"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(case, capsys, flags, message):
    (case.folder / "text.npz").write_text("no archive")
    given = [flag.format(folder=case.folder) for flag in flags]
    assert main(["score", "--source", str(case.one["s"]), "--out", str(case.out), *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not case.out.exists()


def test_of_a_group_whose_original_is_dropped_one_copy_stays_and_the_seed_decides_which(case):
    arrays, meta = open_arrays(scored(case) and case.out, "winnow-scores/1", mapped=False)
    arrays["duplicate_of"][:] = -1
    arrays["duplicate_of"][[3, 7, 9]] = 50
    arrays["leak/x"] = (np.arange(300) == 50).astype("u1")
    save_arrays(case.out, arrays, meta)
    (case.folder / "never.txt").write_bytes(bytes(Manifest.load(case.folder / "s.manifest.npz").ids[50]) + b"\n")
    group = {3, 7, 9, 50}  # 297 of 300 are all but three of them
    stay = set()
    for seed in range(6):
        for flags in ({"never": case.folder / "never.txt"}, {"drop_leaks": True}):
            index = kept(case, method="random", keep=297 / 300, drop_duplicates=True, seed=seed, **flags)
            left = group & set(index.positions)
            assert len(left) == 1
            assert left <= set(kept(case, method="semdedup", keep=297 / 300, seed=seed, **flags).positions)
            stay |= left
    assert len(stay) > 1
    assert stay <= {3, 7, 9}


def test_coverage_ranks_find_the_features_and_say_why(case):
    scored(case, also=())
    index = kept(case, method="k-center", keep=0.1)
    assert {index.reason_names[r] for r in index.reasons} == {"coverage"}
    moved = case.one["s"].rename(case.folder / "moved.features.npz")
    with pytest.raises(InputError, match="--features"):
        kept(case, method="herding")
    assert len(kept(case, method="herding", features=moved)) == 150


def test_the_images_in_another_order_are_refused(case):
    scored(case, also=())
    with pytest.raises(InputError, match="another order"):
        kept(case, method="random", manifest=turned(case.folder / "turned.manifest.npz"))
