"""Fields of samples, as licence and consent: beside the manifest, in no reader's way, shown for what an index keeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prune.__main__ import main
from prune.data.dataset import open_dataset
from prune.data.sample_fields import fields_path, open_fields
from prune.index.manifest import Manifest, manifest_path
from prune.index.pruned_index import PrunedIndex

TABLE = "id,licence,consent\ncat/0.png,cc0-1.0,yes\ncat/1.png,cc-by-4.0,yes\ndog/0.png,cc0-1.0,\nelsewhere.png,x,no\n"


@pytest.fixture
def place(tmp_path) -> Path:
    """Five images in two classes, their table and their beton."""
    for name in ("cat/0", "cat/1", "cat/2", "dog/0", "dog/1"):
        (tmp_path / "im" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "im" / f"{name}.png")
    (tmp_path / "t.csv").write_text(TABLE)
    assert written(tmp_path, "--fields", str(tmp_path / "t.csv")) == 0
    return tmp_path


def written(place: Path, *flags: str, out: str = "x.beton") -> int:
    return main(["write", "--images", str(place / "im"), "--out", str(place / out), *flags])


def index_of(place: Path, rows: list[int]) -> str:
    PrunedIndex.from_rows(Manifest.load(place / "x.manifest.npz"), np.array(rows), provenance=[]).save(
        place / "i.index.npz"
    )
    return str(place / "i.index.npz")


def test_fields_lie_beside_the_manifest_and_change_neither_beton_nor_fingerprint(place):
    assert written(place, out="plain.beton") == 0
    assert (place / "plain.beton").read_bytes() == (place / "x.beton").read_bytes()
    ours, plain = (Manifest.load(place / f"{name}.manifest.npz") for name in ("x", "plain"))
    assert ours.fingerprint == plain.fingerprint
    assert len(open_dataset(place / "x.beton")) == 5
    # Rows: cat/0, cat/1, cat/2, dog/0, dog/1.
    assert open_fields(place / "x.beton").counted() == {
        "licence": {"cc0-1.0": 2, "not told": 2, "cc-by-4.0": 1},
        "consent": {"not told": 3, "yes": 2},
    }
    assert open_fields(place / "plain.beton") is None


def test_a_changed_table_is_taken_by_the_same_command_and_the_images_stay(place, capsys):
    before = (place / "x.beton").stat().st_mtime_ns
    (place / "t.csv").write_text(TABLE.replace("cat/1.png,cc-by-4.0,yes", "cat/1.png,cc-by-4.0,withdrawn"))
    assert written(place, "--fields", str(place / "t.csv")) == 0
    assert "x.fields.npz: replaced by those of" in capsys.readouterr().err
    assert open_fields(place / "x.beton").counted()["consent"]["withdrawn"] == 1
    assert (place / "x.beton").stat().st_mtime_ns == before
    assert written(place) == 0  # without a table they stay
    assert open_fields(place / "x.beton").counted()["consent"]["withdrawn"] == 1


def test_show_counts_the_values_of_what_is_kept_and_the_card_has_its_licence(place, capsys):
    index, fields = index_of(place, [0, 3]), ("--fields", str(place / "x.beton"))
    capsys.readouterr()
    assert main(["show", index, *fields]) == 0
    out = capsys.readouterr().out
    assert "licence: cc0-1.0 2\n" in out
    assert "consent: not told 1, yes 1\n" in out or "consent: yes 1, not told 1\n" in out
    assert main(["show", index, *fields, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fields"]["licence"] == {"cc0-1.0": 2}
    assert main(["card", index, *fields]) == 0
    card = capsys.readouterr().out
    assert "license: cc0-1.0\n" in card
    assert "| consent | " in card
    assert main(["card", index_of(place, [0, 1]), *fields]) == 0
    mixed = capsys.readouterr().out
    assert "license: other\n" in mixed
    assert "cc-by-4.0 (1)" in mixed


def test_a_page_of_an_index_shows_fields_and_escapes_them(place):
    (place / "t.csv").write_text("id,licence\ncat/0.png,<script>alert(1)</script>\n")
    assert written(place, "--fields", str(place / "t.csv")) == 0
    page = ("--html", str(place / "p.html"), "--source", str(place / "x.beton"))
    assert main(["show", index_of(place, [0, 3]), *page]) == 0
    text = (place / "p.html").read_text()
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text


def test_a_materialized_part_keeps_its_fields_alone(place):
    index = index_of(place, [1, 3])
    assert main(["materialize", index, "--source", str(place / "x.beton"), "--out", str(place / "part.beton")]) == 0
    fields = open_fields(place / "part.beton")
    assert fields.counted()["licence"] == {"cc-by-4.0": 1, "cc0-1.0": 1}
    assert fields.texts["consent"] == ["", "yes"]


def test_shards_have_their_fields_in_the_order_of_the_ids(place):
    for shard in ("2/2", "1/2"):
        name = f"parts/{shard[0]}.beton"
        assert written(place, "--fields", str(place / "t.csv"), "--shard", shard, out=name) == 0
    whole, parts = open_fields(place / "x.beton"), open_fields(place / "parts")
    for name in ("licence", "consent"):
        assert [parts.texts[name][k] for k in parts.codes[name]] == [whole.texts[name][k] for k in whole.codes[name]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,licence\ncat/0.png,x\n", "no column id; found name, licence"),
        ("id\ncat/0.png\n", "the column id alone"),
        ("id,licence\n", "has no rows"),
        ("id,licence\ncat/0.png,x\ncat/0.png,y\n", "1 id in two rows, first 'cat/0.png'"),
        ("id,licence\n/data/cat/0.png,x\n", "none of its ids is an image here"),
        ("id,licence,licence\ncat/0.png,x,y\n", "two columns are called 'licence'"),
        ("id,licence,consent\ncat/0.png,x\n", "line 2 has another number of cells than the header's 3"),
        ("id,licence\ncat/0.png,cc0, or so\n", "line 2 has another number of cells than the header's 2"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(place, capsys, text, words):
    (place / "bad.csv").write_text(text)
    with pytest.raises(SystemExit) as end:
        raise SystemExit(written(place, "--fields", str(place / "bad.csv")))
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert words in error.replace('"', "'")


def test_fields_of_another_manifest_are_not_taken_for_its_own(place, capsys):
    assert written(place, "--fields", str(place / "t.csv"), out="y.beton") == 0
    (place / "t2.csv").write_text("id,licence\ncat/0.png,z\n")
    assert written(place, "--fields", str(place / "t2.csv"), out="y.beton") == 0
    shutil.copy(fields_path(manifest_path(place / "y.beton")), fields_path(manifest_path(place / "x.beton")))
    index = index_of(place, [0])
    assert main(["show", index, "--fields", str(place / "x.beton")]) == 2
    assert "not the fields that" in capsys.readouterr().err
