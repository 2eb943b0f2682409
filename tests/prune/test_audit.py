"""`prune audit`: kept shares of groups against chance, and the agreement of surrogates."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binomtest, hypergeom

from prune import __main__ as prune
from prune.index.manifest import Manifest
from prune.index.npz import save_arrays
from prune.methods.group_audit import agreement_by, kept_shares
from prune.methods.group_floors import read_groups

CLASSES = ["ant", "bee"]


@pytest.fixture
def case(tmp_path):
    """Two hundred images; camera b took every image that el2n ranks high, and a second surrogate ranks otherwise."""
    n = 200
    label = np.arange(n) % 2
    manifest = Manifest(
        ids=np.array([f"{CLASSES[k]}/{i:03d}.jpg".encode() for i, k in enumerate(label)]),
        labels=label.astype(np.int32),
        digests=np.arange(n, dtype=np.uint64),
        crc32=np.arange(n, dtype=np.uint32),
        classes=CLASSES,
        **{name: np.full(n, 8, np.int32) for name in ("nbytes", "width", "height")},
    )
    manifest.save(tmp_path / "s.manifest.npz")
    meta = {"format": "winnow-scores/1", "fingerprint": manifest.fingerprint, "manifest": "s.manifest.npz"}
    rank = np.arange(n, dtype="<f4")
    save_arrays(tmp_path / "a.npz", {"sample/el2n": rank}, meta)
    save_arrays(tmp_path / "b.npz", {"sample/el2n": np.where(label == 0, rank, -rank).astype("<f4")}, meta)
    rows = [f"{name.decode()},{'b' if k >= 100 else 'a'},s{k % 4}" for k, name in enumerate(manifest.ids)]
    (tmp_path / "groups.csv").write_text("\n".join(["id,camera,site", *rows]) + "\n")
    select = ["--scores", "a.npz", "--quota", "size", "--rank", "el2n:top", "--keep", "0.3", "--out", "x.index.npz"]
    return tmp_path, select


def test_kept_shares_are_compared_with_a_random_draw_and_flagged_after_holm():
    groups = np.repeat([0, 1, 2], [50, 30, 20])
    kept = np.zeros(100, bool)
    kept[:10], kept[50:65] = True, True  # 10 of 50, 15 of 30, none of 20
    a, b, c = kept_shares(kept, groups, ["a", "b", "c"])
    assert [row["share"] for row in (a, b, c)] == [0.2, 0.5, 0.0]
    assert {row["expected"] for row in (a, b, c)} == {0.25}
    interval = binomtest(15, 30).proportion_ci(0.95, method="wilson")
    assert (b["low"], b["high"]) == pytest.approx((interval.low, interval.high), abs=1e-6)
    p_b = 2 * hypergeom.sf(14, 100, 25, 30)
    p_c = 2 * hypergeom.cdf(0, 100, 25, 20)
    assert b["p"] == pytest.approx(3 * p_b, rel=1e-3)
    assert c["p"] == pytest.approx(2 * p_c, rel=1e-3)
    assert [row["beyond_doubt"] for row in (a, b, c)] == ["", "more", "fewer"]


def test_what_classes_explain_is_told_apart():
    label = np.repeat([0, 1], 40)
    groups = label.copy()  # each group is a class
    kept = label == 0
    rows = kept_shares(kept, groups, ["x", "y"], label)
    assert [(row["expected"], row["expected_in_classes"]) for row in rows] == [(0.5, 1.0), (0.5, 0.0)]


def test_random_draws_are_rarely_flagged():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 8, 400)
    flagged = 0
    for _ in range(200):
        kept = np.zeros(400, bool)
        kept[rng.choice(400, 120, replace=False)] = True
        flagged += any(row["beyond_doubt"] for row in kept_shares(kept, groups, list("abcdefgh")))
    assert flagged <= 16  # at most 5 % of 200 are expected


def test_agreement_is_one_for_equal_surrogates_and_chance_for_independent_ones():
    groups = np.repeat([0, 1], 50)
    kept = np.arange(100) % 2 == 0
    ranks = np.arange(100.0)
    (a, b) = agreement_by([kept, kept], [{"el2n": ranks}, {"el2n": -ranks}], groups, ["a", "b"])
    assert (a["overlap"], a["by_chance"], b["correlation"]["el2n"]) == (1.0, 0.5, -1.0)


def test_the_report_flags_the_camera_and_shows_where_surrogates_part(case, monkeypatch, capsys):
    folder, select = case
    monkeypatch.chdir(folder)
    assert prune.main(["select", *select]) == 0
    audit = ["audit", "--index", "x.index.npz", "--groups", "groups.csv", "--scores", "a.npz", "b.npz"]
    capsys.readouterr()
    assert prune.main([*audit, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    cameras = {row["group"]: row for row in report["groups"]["camera"]}
    assert (cameras["a"]["kept"], cameras["b"]["kept"]) == (0, 60)
    assert (cameras["a"]["beyond_doubt"], cameras["b"]["beyond_doubt"]) == ("fewer", "more")
    assert {row["beyond_doubt"] for row in report["groups"]["site"]} == {""}
    agreed = {row["group"]: (row["overlap"], row["correlation"]["el2n"]) for row in report["agreement"]["class"]}
    assert agreed == {"ant": (1.0, 1.0), "bee": (0.0, -1.0)}
    assert prune.main([*audit, "--out", "audit.md"]) == 0
    assert "| b | 100 | 60 | 60.0 % |" in (folder / "audit.md").read_text()
    assert "2 groups differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,camera\nx.jpg,a\n", "1 id is not in the source (first: 'x.jpg'"),
        ("name,camera\nant/000.jpg,a\n", "the columns id and one or more groups are expected"),
        ("id\nant/000.jpg\n", "the columns id and one or more groups are expected"),
        ("id,camera\nant/000.jpg,a\nant/000.jpg,b\n", "1 id is repeated"),
        ("id,camera\nant/000.jpg,\n", "the column camera is empty"),
    ],
)
def test_a_wrong_table_of_groups_gets_one_line(case, monkeypatch, capsys, text, words):
    folder, select = case
    monkeypatch.chdir(folder)
    assert prune.main(["select", *select]) == 0
    (folder / "wrong.csv").write_text(text)
    capsys.readouterr()
    assert prune.main(["audit", "--index", "x.index.npz", "--groups", "wrong.csv", "--scores", "a.npz"]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_a_table_in_latin_1_names_its_groups_and_images_as_people_read_them_and_says_so(tmp_path, capsys):
    ids = np.array(["ant/café.jpg".encode(), b"ant/\xe9t\xe9.jpg", b"bee/1.jpg"])  # a name in UTF-8, one in Latin-1
    place = tmp_path / "groups.csv"
    text = "id,Ländername\nant/café.jpg,Köln\nant/été.jpg,Zürich\nbee/1.jpg,Köln\n"
    place.write_bytes(text.encode("latin-1"))
    groups = read_groups(place, ids)
    assert groups.names == {"Ländername": ["Köln", "Zürich"]}
    assert groups.columns["Ländername"].tolist() == [0, 1, 0]
    assert capsys.readouterr().err == f"{place}: is not UTF-8, and is read as Windows-1252 (Latin-1)\n"
    place.write_text(text.replace("ant/été.jpg,Zürich\n", ""), encoding="utf-8")
    assert read_groups(place, ids).names == {"Ländername": ["Köln"]}
    assert capsys.readouterr().err == ""


def test_images_without_a_group_are_counted_and_said_so(case, monkeypatch, capsys):
    folder, select = case
    monkeypatch.chdir(folder)
    assert prune.main(["select", *select]) == 0
    lines = (folder / "groups.csv").read_text().splitlines()
    (folder / "groups.csv").write_text("\n".join(lines[:151]) + "\n")
    capsys.readouterr()
    assert prune.main(["audit", "--index", "x.index.npz", "--groups", "groups.csv", "--scores", "a.npz"]) == 0
    assert "camera: 50 of 200 images are in no group and count nowhere" in capsys.readouterr().err
