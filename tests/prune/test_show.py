"""`prune show`: an index in words, numbers and images."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prune import write
from prune.__main__ import main
from prune.data.stored_images import Stored
from prune.gallery import album
from prune.gallery.gallery_choice import duplicate_groups, panels
from prune.gallery.thumbnails import data_uri
from prune.index.index_summary import classes_to_list
from prune.index.manifest import Manifest, digest
from prune.index.npz import save_arrays
from prune.index.provenance import record
from prune.index.pruned_index import PrunedIndex
from prune.scores.feature_files import order_fingerprint

EVIL = "<script>alert(1)<∕script>"
NAMES = [EVIL, 'a"b&c', "[red]plain", "ünï"]


def jpeg(seed: int, side: int = 24, quality: int = 80) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    """Four classes of six images, the last of each a copy of the first; two of each class are kept."""
    root = tmp_path_factory.mktemp("show")
    for c, name in enumerate(NAMES):
        (root / "images" / name).mkdir(parents=True)
        for i in range(6):
            (root / "images" / name / f"{i}.jpg").write_bytes(jpeg(100 * c + i % 5))
    Image.fromarray(np.full((9, 12, 3), 7, np.uint8)).save(root / "images" / "ünï" / "raw.png")
    write.run(write.Config(images=str(root / "images"), out=root / "s.beton"))
    manifest = Manifest.load(root / "s.manifest.npz")
    rows = np.flatnonzero([name.endswith((b"/0.jpg", b"/3.jpg")) for name in manifest.ids.tolist()])
    step = record("select", {}, {}, method={"quota": "size", "rank": "el2n:top"})
    index = PrunedIndex.from_rows(manifest, rows, score=np.arange(8), reason=[0, 1] * 4, provenance=[step])
    index.save(root / "x.index.npz")
    scores = np.arange(len(manifest), dtype=np.float32)
    copy = np.full(len(manifest), -1, np.int64)
    copy[1] = 2  # a near-duplicate
    meta = {"format": "winnow-scores/1", "fingerprint": manifest.fingerprint}
    arrays = {"sample/el2n": scores, "sample/margin": -scores, "duplicate_of": copy}
    save_arrays(root / "scores.npz", arrays, meta)
    return SimpleNamespace(root=root, manifest=manifest, index=index, rows=rows)


def show(made, *flags: str) -> int:
    return main(["show", str(made.root / "x.index.npz"), *flags])


def test_the_words_say_that_listed_samples_are_kept(made, capsys):
    assert show(made) == 0
    out = capsys.readouterr().out
    assert "lists the samples to KEEP: 8 of 25 (32.0 %)" in out
    assert "all others are dropped" in out
    assert made.index.source in out
    assert "why: quota 4, floor 4" in out


def test_names_in_the_table_are_neither_markup_nor_control_sequences(made, tmp_path, capsys):
    source = Manifest(
        np.array([b"a"]), np.array([0], np.int32), *[np.array([1], np.int32)] * 3, np.array([1], np.uint64),
        np.array([1], np.uint32), ["[bold]x\x1b[31m"],
    )  # fmt: skip
    PrunedIndex.from_rows(source, np.array([0]), provenance=[]).save(tmp_path / "x.npz")
    assert main(["show", str(tmp_path / "x.npz")]) == 0
    out = capsys.readouterr().out
    assert r"[bold]x\x1b[31m" in out
    assert "\x1b" not in out


def test_json_has_every_number_and_nothing_else(made, capsys):
    assert show(made, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kept"], found["source"]["samples"], found["keep"]) == (8, 25, 0.32)
    assert found["reasons"] == {"quota": 4, "floor": 4}
    assert found["quality"] == {"original": 8}
    by_name = {entry["class"]: entry for entry in found["classes"]}
    assert by_name.keys() == set(NAMES)
    assert (by_name["ünï"]["kept"], by_name["ünï"]["total"]) == (2, 7)
    first = found["classes"][0]
    assert first["score"] == [0.0, 0.5, 1.0]  # the kept samples of the first class have the scores 0 and 1
    assert first["nbytes"] == int(made.manifest.nbytes[made.rows[:2]].sum())
    assert found["provenance"][0]["method"]["rank"] == "el2n:top"


class Page(HTMLParser):
    """Tags, the sources of images and the texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.figures: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.events: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.events += [name for name in found if name.startswith("on")]
        if tag == "figure":
            self.figure = (found["class"], found["title"])
        if tag == "img":
            self.figures.append((*self.figure, found["src"]))

    def handle_data(self, data):
        self.texts.append(data)


def page(made, tmp_path, *flags: str) -> tuple[Page, str]:
    place = tmp_path / "page.html"
    assert show(made, "--html", str(place), "--source", str(made.root / "s.beton"), *flags) == 0
    text = place.read_text(encoding="utf-8")
    return Page(text), text


def test_the_page_is_one_file_without_script_or_network(made, tmp_path):
    found, text = page(made, tmp_path)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(found.tags)
    assert not found.events
    assert not re.search(r"https?:|url\(|@import", text)
    assert all(source.startswith("data:image/") for _, _, source in found.figures)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text


def test_names_on_the_page_are_text(made, tmp_path):
    found, text = page(made, tmp_path)
    for name in NAMES:
        assert any(name in part for part in found.texts)
    assert "<script" not in text
    assert "<∕script" not in text


def test_the_page_shows_kept_and_dropped_images_with_their_own_bytes(made, tmp_path):
    found, _ = page(made, tmp_path)
    assert {kind for kind, _, _ in found.figures} == {"kept", "dropped"}
    kept = {made.manifest.ids[row].decode() for row in made.rows}
    for kind, title, source in found.figures:
        name = title.rpartition(" (row")[0]
        assert (kind == "kept") == (name in kept)
        head, _, data = source.partition(";base64,")
        content = base64.b64decode(data)
        Image.open(io.BytesIO(content)).load()
        if head == "data:image/jpeg":  # small JPEGs keep their bytes
            assert digest(content) == made.manifest.digests[made.manifest.ids.tolist().index(name.encode())]
        else:
            assert name == "ünï/raw.png"


def test_best_and_worst_of_both_sides_come_from_the_scores_file(made, tmp_path):
    found, text = page(made, tmp_path, "--scores", str(made.root / "scores.npz"), "--classes", EVIL, "--pictures", "2")
    assert "best: highest el2n" in text
    rows = [int(re.search(r"row (\d+),", title)[1]) for _, title, _ in found.figures]
    # All classes: kept rows are 0, 3, 6, 9, ..., 21 and 24 rows are scored by their number; then the class itself
    # (rows 0 to 5: kept 0 and 3); then the duplicates.
    kept, dropped = made.rows.tolist(), sorted(set(range(25)) - set(made.rows.tolist()))
    assert rows[:8] == [*kept[::-1][:2], *kept[:2], *dropped[::-1][:2], *dropped[:2]]
    assert rows[8:14] == [3, 0, 5, 4, 1, 2]
    _, text = page(made, tmp_path, "--scores", str(made.root / "scores.npz"), "--score", "margin")
    assert "highest margin" in text
    assert "best: highest margin" not in text  # the rank was by el2n


def test_scores_of_another_order_of_the_images_are_refused(made, tmp_path, capsys):
    manifest = made.root / "s.manifest.npz"
    for order, code in ((order_fingerprint(manifest), 0), ("00000000", 2)):
        meta = {"format": "winnow-scores/1", "fingerprint": made.manifest.fingerprint, "order": order}
        save_arrays(tmp_path / "scores.npz", {"sample/el2n": np.zeros(len(made.manifest), np.float32)}, meta)
        flags = ["--source", str(made.root / "s.beton"), "--scores", str(tmp_path / "scores.npz")]
        assert show(made, "--html", str(tmp_path / "p.html"), *flags) == code
    assert "in another order than" in capsys.readouterr().err


def test_without_scores_of_dropped_images_a_random_draw_is_shown_and_the_page_says_so(made, tmp_path):
    _, text = page(made, tmp_path)
    assert "a random draw (no scores known)" in text


def test_duplicates_are_shown_in_groups(made, tmp_path):
    _, text = page(made, tmp_path, "--scores", str(made.root / "scores.npz"))
    groups = text.split('id="duplicates"')[1].split('class="group"')[1:]
    rows = [sorted(int(row) for row in re.findall(r"<figure[^>]*\(row (\d+),", group)) for group in groups]
    # Of each class image 5 is image 0 again; 1 and 2 of the first class are near-duplicates. Groups of which a part
    # is kept come first.
    assert sorted(rows[:4]) == [[0, 5], [6, 11], [12, 17], [18, 23]]
    assert rows[4:] == [[1, 2]]


def test_a_damaged_image_costs_its_place_and_not_the_page(made, tmp_path):
    data = bytearray((made.root / "s.beton").read_bytes())
    at = bytes(data).find(jpeg(0))
    data[at + 300 : at + 320] = bytes(20)
    (tmp_path / "s.beton").write_bytes(data)
    (tmp_path / "s.manifest.npz").write_bytes((made.root / "s.manifest.npz").read_bytes())
    assert show(made, "--html", str(tmp_path / "p.html"), "--source", str(tmp_path / "s.beton")) == 0
    assert "cannot be shown" in (tmp_path / "p.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--html", "p.html"], "--html and --source go together"),
        (["--score", "el2n"], "are for the page"),
        (["--html", "{tmp}/p.html", "--source", "{root}/none.beton"], "none.beton: no such file"),
        (["--html", "{tmp}/p.html", "--source", "{root}/s.beton", "--classes", "cow"], "no such class"),
        (["--html", "{tmp}/mine.html", "--source", "{root}/s.beton"], "is not a page of `prune show`"),
        (["--html", "{tmp}", "--source", "{root}/s.beton"], "is a directory"),
        (["--html", "{tmp}/p.html", "--source", "{root}/s.beton", "--pictures", "0"], "at least 1"),
        (
            ["--html", "{tmp}/p.html", "--source", "{root}/s.beton", "--scores", "{root}/scores.npz", "--score", "x"],
            "holds el2n, margin",
        ),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(made, tmp_path, capsys, flags, message):
    (tmp_path / "mine.html").write_text("<p>dear diary</p>")
    assert show(made, *(flag.format(tmp=tmp_path, root=made.root) for flag in flags)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.html"]


def test_an_index_of_another_source_is_not_illustrated(made, tmp_path, capsys):
    (tmp_path / "images/x").mkdir(parents=True)
    (tmp_path / "images/y").mkdir(parents=True)
    for name in ("x/1.jpg", "y/2.jpg"):
        (tmp_path / "images" / name).write_bytes(jpeg(7))
    write.run(write.Config(images=str(tmp_path / "images"), out=tmp_path / "o.beton"))
    assert show(made, "--html", str(tmp_path / "p.html"), "--source", str(tmp_path / "o.beton")) == 2
    assert "made from another source" in capsys.readouterr().err


def test_of_many_classes_those_with_the_extreme_shares_are_shown():
    kept, total = np.array([0, 9, 5, 0, 1, 8]), np.array([10, 10, 10, 0, 10, 10])
    assert classes_to_list(kept, total, 10).tolist() == [0, 1, 2, 4, 5]  # class 3 is empty
    assert classes_to_list(kept, total, 4).tolist() == [0, 1, 4, 5]
    assert classes_to_list(kept, total, 3).tolist() == [0, 1, 4]  # of an odd number more from the low end


def test_a_panel_shows_the_ends_of_the_scores_and_no_image_twice():
    labels = np.zeros(6, int)
    kept = np.array([True, True, True, False, False, False])
    scores = np.array([0.5, np.nan, 0.9, 0.1, 0.1, 0.3])
    (panel,) = panels(labels, kept, scores, [0], 2)
    assert [strip.rows.tolist() for strip in panel.kept] == [[2, 0]]
    assert [strip.rows.tolist() for strip in panel.dropped] == [[5, 3], [4]]  # ties: the lower row first
    assert (panel.kept_count, panel.dropped_count) == (3, 3)


def test_duplicates_of_duplicates_and_equal_bytes_form_one_group():
    digests = np.array([1, 2, 3, 4, 2, 5, 6], np.uint64)
    copy_of = np.array([-1, 0, 1, -1, -1, 3, -1])
    # 1 is like 0, 2 like 1, 4 has the bytes of 1: {0, 1, 2, 4}; 5 is like 3: {3, 5}; 6 is alone.
    none = np.zeros(7, bool)
    groups = duplicate_groups(digests, copy_of, none, 9)
    assert [group.tolist() for group in groups] == [[0, 1, 2, 4], [3, 5]]
    partly = none.copy()
    partly[5] = True  # a group that is kept in part comes first
    assert [group.tolist() for group in duplicate_groups(digests, copy_of, partly, 1)] == [[3, 5]]
    assert [group.tolist() for group in duplicate_groups(digests, None, none, 9)] == [[1, 4]]
    assert duplicate_groups(digests[:0], None, none[:0], 9) == []


@given(sections=st.integers(1, 1200), pictures=st.integers(1, 12))
def test_the_images_of_a_page_share_its_bytes(sections, pictures):
    count, limit = album._shares(sections, pictures)
    assert 1 <= count <= pictures
    images = sections * 4 * count + 240
    if sections <= 1000:
        assert images * (limit * 4 / 3 + 450) <= 15e6


def test_a_hundred_classes_have_room_for_four_images_a_strip():
    # (100 + 1) * 4 * 4 + 240 = 1856 images; 14e6 / 1856 = 7543.1 bytes each; (7543.1 - 450) * 3 / 4 = 5319.8.
    assert album._shares(101, 4) == (4, 5319)


def test_a_thumbnail_stays_below_its_limit_even_when_it_is_noise():
    noise = jpeg(1, side=400, quality=95)
    for limit in (6000, 1500, 700):
        uri = data_uri(Stored(noise, True, 400, 400), limit)
        content = base64.b64decode(uri.partition(",")[2])
        assert len(content) <= limit
        assert max(Image.open(io.BytesIO(content)).size) <= 112
    assert len(noise) > 6000
    with pytest.raises(Exception, match="identify"):
        data_uri(Stored(b"<script>", True, 10, 10), 6000)


def test_help_does_not_wait_for_numpy():
    import subprocess
    import sys

    code = (
        "import sys; from prune.__main__ import main\n"
        "for step in ('show', 'combine', 'export', 'import', 'materialize'):\n"
        "    try: main([step, '--help'])\n"
        "    except SystemExit: pass\n"
        "print('heavy:', sorted({'numpy', 'torch', 'PIL'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.rstrip().endswith("heavy: []")
