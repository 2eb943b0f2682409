"""`prune score --append`: a pool that grows keeps scores, votes and gate, and only what is new is read and scored."""

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from prune import score, selection
from prune.__main__ import main
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays, save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.scores.domain import area_under_curve
from prune.scores.feature_files import content_fingerprint, write_features
from prune.scores.logit_summary import LogitSummary, summarised, summary_names
from prune.scores.streaming import as_float16

CLASSES = ["ant", "bee", "cat", "dog"]
MODEL = {"arch": "any", "classes": CLASSES, "fingerprint": "any"}
ALSO = ("prototype", "duplicates", "domain", "affinity", "suspects")
OF_ONE_IMAGE = ("entropy", "margin", "least-confidence", "el2n", "grand")


class Pool:
    """400 images of three classes, two thirds of them unlike the target; shards are written when they arrive."""

    def __init__(self, root, *, summaries=False):
        rng = np.random.default_rng(0)
        self.root, self.summaries, n = root, summaries, 400
        self.labels = rng.integers(0, 3, n)
        turn = rng.permutation(n)  # shards hold ids out of order, and new ones come between earlier ones
        self.ids = np.array([b"%05d-%s.jpg" % (turn[i], b"x" * (i % 5)) for i in range(n)])
        x = 3 * np.eye(3, 16)[self.labels] + rng.normal(size=(n, 16))
        x[:, 8] += 12 * (np.arange(n) % 3 > 0)
        self.x, self.z = as_float16(x), as_float16(np.c_[2 * x[:, :3], np.full(n, -3.0)])
        self.digests = rng.integers(1, 2**60, n).astype(np.uint64)
        like = 3 * np.eye(3, 16)[np.arange(60) % 2] + rng.normal(size=(60, 16))
        self.target = self._write("t", "t.train", np.arange(60), as_float16(like), self.z[:60], b"t/")

    def _write(self, place, name, rows, x, z, prefix=b"", model=MODEL, digests=None, labels=None):
        small = np.full(len(rows), 8, np.int32)
        manifest = self.root / place / f"{name}.manifest.npz"
        ids = np.array([prefix + self.ids[row] for row in rows])
        digests = self.digests[rows] if digests is None else digests
        labels = (self.labels[rows] if labels is None else labels).astype("i4")
        Manifest(ids, labels, small, small, small, digests, small.astype("u4"), CLASSES).save(manifest)
        out = self.root / f"features-{place}" / f"{name}.features.npz"
        summary = None
        if self.summaries and place != "t":
            values = summarised(x, z, labels, np.arange(4))
            summary = LogitSummary(summary_names(), values, np.zeros((17, 4), np.float32))
        write_features(out, x, z, Manifest.load(manifest), manifest, model, summary=summary)
        return out

    def arrive(self, name, rows, place="pool", **other):
        """Write a shard; returns its features, or the folder of all shards' features."""
        one = self._write(place, name, rows, self.x[rows], self.z[rows], **other)
        return one if len(list(one.parent.iterdir())) == 1 else one.parent

    def score(self, source, name, **config):
        out = self.root / f"{name}.scores.npz"
        if "append" not in config:
            config = {"targets": (self.target,), "also": ALSO} | config
        score.run(score.Config((source,), out, workers=1, **config))
        return out

    def grown(self):
        """Scores of the first 300, those of all by --append, and those of all scored at once."""
        first = self.score(self.arrive("first", np.arange(300)), "first")
        both = self.arrive("second", np.arange(300, 400))
        return SimpleNamespace(
            first=first, source=both, appended=self.score(both, "appended", append=first), whole=self.score(both, "all")
        )

    def rows(self, which):
        """Rows of the joined source, which is sorted by id, of images by their number."""
        return np.searchsorted(np.sort(self.ids), self.ids[which])


@pytest.fixture
def pool(tmp_path):
    return Pool(tmp_path)


def opened(path):
    return open_arrays(path, score.FORMAT)


def refused(capsys, *arguments):
    """The one line with which a command refuses."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_earlier_values_votes_and_gate_stay_and_new_ones_are_those_of_scoring_all(pool, capsys):
    case = pool.grown()
    said = capsys.readouterr().err
    (old, before), (new, meta), (all_, _) = map(opened, (case.first, case.appended, case.whole))
    assert new.keys() == old.keys() == all_.keys()
    kept, come = pool.rows(np.arange(300)), pool.rows(np.arange(300, 400))
    assert not np.array_equal(kept, np.sort(kept))
    for name, values in old.items():
        if name.startswith(("sample/", "looks_like")):
            assert new[name][kept].tobytes() == values.tobytes(), name
        elif name.startswith(("class/", "append/")):
            assert new[name].tobytes() == values.tobytes(), name
    for name in OF_ONE_IMAGE:
        assert new[f"sample/{name}"].tobytes() == all_[f"sample/{name}"].tobytes(), name
    assert new["label"].tobytes() == all_["label"].tobytes()
    for key in ("gates", "votes", "targets"):
        assert meta[key] == before[key], key
    assert before["gates"]["domain"]["width"] < 0.75  # a shut gate

    # By hand: the distance to the mean of the earlier images of the class, and of that to their median distance.
    means = [pool.x[:300][pool.labels[:300] == k].astype(float).mean(axis=0) for k in range(3)]
    far = np.linalg.norm(pool.x.astype(float) - np.array(means)[pool.labels], axis=1)
    assert np.allclose(new["sample/prototype"][come], far[300:], rtol=1e-5)
    middle = np.array([np.median(far[:300][pool.labels[:300] == k]) for k in range(3)])
    assert np.allclose(new["sample/moderate"][come], np.abs(far - middle[pool.labels])[300:], atol=1e-4)
    assert np.isnan(old["append/means"][3]).all()
    # New images like the target stand above the others, on the scale of the earlier ones.
    like, odds = np.arange(400) % 3 == 0, new["sample/domain"][pool.rows(np.arange(400))]
    assert area_under_curve(odds[300:][~like[300:]], odds[300:][like[300:]])[0] > 0.98
    assert area_under_curve(odds[:300][~like[:300]], odds[300:][like[300:]])[0] > 0.98
    assert area_under_curve(odds[300:][~like[300:]], odds[:300][like[:300]])[0] > 0.95
    width = before["gates"]["domain"]["width"]
    least = np.sort(odds[:300])[::-1][round(300 * width) - 1]
    assert f"gate: {np.mean(odds[300:] >= least):.1%} of new images look as much like the targets" in said
    # What needs all images is not made up.
    assert np.isnan(new["sample/affinity"][come]).all()
    assert (new["duplicate_of"][come] == -1).all()
    assert "not found for new images: affinity, suspects, suspicion, near-duplicates; for these score all" in said


def test_near_duplicates_keep_their_originals_in_the_new_order(pool):
    twins = np.arange(10, 20)
    pool.x[200:210] = pool.x[twins]
    case = pool.grown()
    (old, _), (new, _) = map(opened, (case.first, case.appended))
    order = np.argsort(pool.ids[:300])  # one beton keeps its own order
    assert not np.array_equal(order, np.arange(300))
    of = old["duplicate_of"]
    copies = np.flatnonzero(of >= 0)
    assert len(copies) == 10
    assert new["duplicate_of"][pool.rows(copies)].tolist() == pool.rows(of[copies]).tolist()


def test_features_of_earlier_shards_are_not_read(pool):
    first = pool.score(pool.arrive("first", np.arange(300)), "first")
    both = pool.arrive("second", np.arange(300, 400))
    clean = pool.score(both, "clean", append=first)
    place = both / "first.features.npz"
    with zipfile.ZipFile(place) as archive:
        members = {info.filename: info for info in archive.infolist()}
    for name, dtype in (("features.npy", np.float16), ("logits.npy", np.float16)):
        size = 300 * {"features.npy": 16, "logits.npy": 4}[name]
        data = place.read_bytes()
        kept = (pool.x if name == "features.npy" else pool.z)[:300].tobytes()
        begin = data.index(kept, members[name].header_offset)
        with open(place, "r+b") as file:
            file.seek(begin)
            file.write(np.full(size, np.nan, dtype).tobytes())
    (one, _), (other, _) = map(opened, (clean, pool.score(both, "blind", append=first)))
    for name, values in one.items():
        assert values.tobytes() == other[name].tobytes(), name


def test_features_without_logits_are_appended_from_their_summary(pool, tmp_path):
    (all_, _) = opened(pool.grown().whole)
    small = Pool(tmp_path / "small", summaries=True)
    first = small.score(small.arrive("first", np.arange(300)), "first", also=("prototype", "domain"))
    new, _ = opened(small.score(small.arrive("second", np.arange(300, 400)), "second", append=first))
    for name in OF_ONE_IMAGE:
        assert new[f"sample/{name}"].tobytes() == all_[f"sample/{name}"].tobytes(), name


def test_a_chain_of_shards_in_any_order_of_files_and_a_selection_that_says_so(pool):
    monday = pool.score(pool.arrive("m-first", np.arange(200)), "monday")
    tuesday = pool.score(pool.arrive("a-tuesday", np.arange(200, 300)), "tuesday", append=monday)
    source = pool.arrive("z-wednesday", np.arange(300, 400))
    wednesday = pool.score(source, "wednesday", append=tuesday)
    (one, _), (three, meta) = map(opened, (monday, wednesday))
    assert three["sample/domain"][pool.rows(np.arange(200))].tobytes() == one["sample/domain"].tobytes()
    assert not np.isnan(three["sample/moderate"]).any()
    direct, _ = opened(pool.score(source, "direct", append=monday))  # two days at once come to the same
    for name, values in three.items():
        assert values.tobytes() == direct[name].tobytes(), name
    chain = [(content_fingerprint(monday), 200), (content_fingerprint(tuesday), 300)]
    assert [(step["scores"], step["images"]) for step in meta["appended"]] == chain
    out = pool.root / "x.index.npz"
    selection.run(selection.Config(out, wednesday, keep=(0.2,)))
    index = PrunedIndex.load(out)
    assert len(index) == 80
    assert index.provenance[-1]["inputs"]["appended"] == meta["appended"]


def test_the_same_command_again_is_up_to_date_and_another_earlier_file_is_not(pool, capsys):
    case = pool.grown()
    command = ("score", "--source", case.source, "--append", case.first, "--out", case.appended)
    capsys.readouterr()
    before = case.appended.read_bytes()
    assert main([str(a) for a in command]) == 0
    assert "up to date" in capsys.readouterr().err
    assert case.appended.read_bytes() == before
    other = ("score", "--source", case.source, "--append", case.whole, "--out", case.appended)
    assert "append" in refused(capsys, *other)
    nothing = pool.score(case.source, "nothing", append=case.appended)
    assert "no new images" in capsys.readouterr().err
    (one, _), (same, _) = map(opened, (case.appended, nothing))
    assert all(values.tobytes() == same[name].tobytes() for name, values in one.items())


def test_images_that_are_gone_or_changed_are_refused_in_one_line(pool, capsys):
    first = pool.score(pool.arrive("first", np.arange(300)), "first")

    def said(place, rows, **other):
        source = pool.arrive("both", rows, place, **other)
        return refused(capsys, "score", "--source", source, "--append", first, "--out", pool.root / "no.scores.npz")

    every = np.arange(400)
    assert "2 images of" in (line := said("gone", every[2:]))
    assert f"gone, first {pool.ids[0].decode()!r}" in line
    turned = pool.digests.copy()
    turned[7] += np.uint64(1)
    assert f"other bytes, first {pool.ids[7].decode()!r}" in said("bytes", every, digests=turned)
    labels = pool.labels.copy()
    labels[9] = 3
    assert f"another label, first {pool.ids[9].decode()!r}" in said("labels", every, labels=labels)
    # A beton that was written again in its place: its earlier manifest is nowhere.
    source = pool.arrive("first", every[1:])
    assert "images of first.manifest.npz that it scored are gone" in refused(
        capsys, "score", "--source", source, "--append", first, "--out", pool.root / "no.scores.npz"
    )
    assert not (pool.root / "no.scores.npz").exists()


def test_one_beton_of_all_is_as_good_as_two(pool):
    case = pool.grown()
    whole = pool.arrive("both", np.argsort(pool.ids), "whole")
    (one, _), (other, _) = map(opened, (case.appended, pool.score(whole, "other", append=case.first)))
    for name, values in one.items():
        assert values.tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--also", "prototype"], "--also: the settings are those of"),
        (["--seed", "3"], "--seed: the settings are those of"),
        (["--targets", "{target}"], "--targets: the settings are those of"),
        (["--gate", "{first}"], "has a gate of its own"),
    ],
)
def test_settings_beside_append_are_refused(pool, capsys, flags, words):
    case = pool.grown()
    given = [flag.format(target=pool.target, first=case.whole) for flag in flags]
    new = pool.root / "new.scores.npz"
    assert words in refused(capsys, "score", "--source", case.source, "--append", case.first, *given, "--out", new)
    assert not new.exists()


def test_files_that_nothing_can_be_appended_to_are_refused(pool, capsys):
    first = pool.score(pool.arrive("first", np.arange(300)), "first")
    both = pool.arrive("second", np.arange(300, 400))

    def said(old, source=both):
        return refused(capsys, "score", "--source", source, "--append", old, "--out", pool.root / "no.scores.npz")

    arrays, meta = opened(first)
    older = pool.root / "older.scores.npz"
    save_arrays(older, {name: values for name, values in arrays.items() if not name.startswith("append/")}, meta)
    assert "holds no class means to append by" in (line := said(older))
    assert "score all images without --append, with another --out" in line
    leaks = pool.root / "leaks.scores.npz"
    save_arrays(leaks, {**arrays, "leak/t": np.zeros(300, "u1")}, meta)
    assert "marks leaks" in said(leaks)
    assert "clusters" in said(pool.score(both, "clusters", clusters=3, also=("prototype",)))
    assert "absent.npz" in said(pool.root / "absent.npz")
    broken = pool.root / "broken.scores.npz"
    for facts in ({"surrogate": 3}, {"gates": {"domain": {"width": "wide"}}}, {"scored_with": {"seed": "x"}}):
        save_arrays(broken, arrays, meta | facts)
        assert f"the meta's {next(iter(facts))} is not what `prune score` writes" in said(broken)
    save_arrays(broken, {**arrays, "sample/el2n": arrays["sample/el2n"][1:]}, meta)
    assert "sample/el2n is not what `prune score` writes" in said(broken)
    other = pool.arrive("first", np.arange(400), "other", model={**MODEL, "fingerprint": "another"})
    assert "another surrogate" in said(first, other)


def test_a_gate_from_thumbnails_grows_with_its_own_scores(pool, capsys):
    thumbnails = {**MODEL, "fingerprint": "thumbnails"}
    target = pool._write(
        "small", "t.train", np.arange(60), open_arrays(pool.target, "winnow-features/1")[0]["features"], pool.z[:60],
        b"t/", thumbnails,
    )  # fmt: skip

    def described(name, rows):  # thumbnails of the same betons, as a second features folder
        out = pool.root / "features-thumbnails" / f"{name}.features.npz"
        manifest = pool.root / "pool" / f"{name}.manifest.npz"
        write_features(out, pool.x[rows], pool.z[rows], Manifest.load(manifest), manifest, thumbnails)
        return out if name == "first" else out.parent

    early, late = np.arange(300), np.arange(300, 400)
    source = pool.arrive("first", early)
    gate = pool.score(described("first", early), "gate", targets=(target,), also=("domain",))
    first = pool.score(source, "first", also=("prototype",), gate=gate)
    source = pool.arrive("second", late)
    grown_gate = pool.score(described("second", late), "gate-2", append=gate)
    new = pool.root / "new.scores.npz"
    command = ("score", "--source", source, "--append", first, "--out", new)
    assert "its gate came from another file" in refused(capsys, *command)
    arrays, meta = opened(pool.score(source, "second", append=first, gate=grown_gate))
    assert arrays["sample/domain"].tobytes() == opened(grown_gate)[0]["sample/domain"].tobytes()
    assert meta["gates"] == opened(first)[1]["gates"]
    other = pool.score(pool.root / "features-thumbnails", "gate-3", targets=(target,), also=("domain",))
    assert "has other odds of earlier images" in refused(capsys, *command, "--gate", other)
