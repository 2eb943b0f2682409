"""`prune gone`: a deletion list is applied, and what is left of the images anywhere is found and named."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prune.__main__ import main
from prune.data.dataset import open_dataset

GONE = "cat/1.jpg"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Twelve photograph-like JPEGs of two classes, the beton, an index of all, its page, and the list of one image."""
    root = tmp_path_factory.mktemp("gone")
    for k in range(12):
        place = root / "im" / ("cat", "dog")[k % 2] / f"{k // 2}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(k)
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((300, 300), Image.Resampling.BICUBIC).save(place, quality=90)
    ids = "".join(f"{path.relative_to(root / 'im')}\n" for path in sorted((root / "im").rglob("*.jpg")))
    (root / "all.txt").write_text(ids)
    (root / "deleted.txt").write_text(f"{GONE}\n")
    ran("write", "--images", root / "im", "--out", root / "x.beton")
    kept = ("--source", root / "x.beton", "--holds", "keep")
    ran("import", root / "all.txt", *kept, "--out", root / "all.index.npz")
    ran("combine", root / "all.index.npz", root / "deleted.txt", "--how", "without", "--out", root / "new.index.npz")
    ran("materialize", root / "new.index.npz", "--source", root / "x.beton", "--out", root / "clean/part.beton")
    return root


def ran(*words: object) -> int:
    return main([str(word) for word in words])


def searched(source: Path, capsys, *places: object, flags: tuple[object, ...] = ()) -> tuple[int, str]:
    given = flags or ("--source", source / "x.beton")
    capsys.readouterr()
    try:
        code = ran("gone", source / "deleted.txt", *places, *given)
    except SystemExit as end:
        code = int(str(end.code))
    return code, capsys.readouterr().out


def stored(source: Path) -> bytes:
    return (source / "im" / GONE).read_bytes()


def encoded(source: Path, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture = Image.open(source / "im" / GONE)
    picture.thumbnail((112, 112))
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_what_was_made_without_the_listed_images_is_clean(source, capsys):
    clean = source / "clean"
    ran("export", source / "new.index.npz", "--out", clean / "ids.txt")
    ran("export", source / "new.index.npz", "--out", clean / "ids.csv")
    ran("show", source / "new.index.npz", "--html", clean / "p.html", "--source", clean / "part.beton",
        "--allow-changed")  # fmt: skip
    code, out = searched(source, capsys, clean, source / "new.index.npz")
    assert code == 0
    assert "nothing is left of 1 deleted image in 6 files" in out
    assert "searched for their ids, the bytes of 1, the pictures of 1" in out


def test_an_index_a_manifest_and_texts_are_searched_for_ids(source, capsys, tmp_path):
    ran("export", source / "all.index.npz", "--out", tmp_path / "ids.csv")
    (tmp_path / "note.json").write_text('{"dropped": ["im/cat/1.jpg"]}')
    (tmp_path / "other.json").write_text('{"dropped": ["cat/1.jpg2", "bobcat/1.jpg"]}')
    np.save(tmp_path / "names.npy", np.array([GONE]))
    code, out = searched(source, capsys, tmp_path, source / "all.index.npz", flags=("--json",))
    assert code == 1
    left = {(Path(t["place"].split(": ")[0]).name, t["kind"]) for t in json.loads(out)["left"]}
    assert left == {(name, "id") for name in ("ids.csv", "note.json", "names.npy", "all.index.npz")}
    code, out = searched(source, capsys, source / "x.manifest.npz", flags=("--json",))
    assert code == 1
    assert json.loads(out)["left"][0]["id"] == GONE


def test_bytes_under_another_name_are_found_in_images_betons_tars_and_tables(source, capsys, tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "copy.jpg").write_bytes(stored(source))
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for name, data in (("000.jpg", stored(source)), ("001.txt", b"harmless")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    table = pa.table({"image": [{"bytes": stored(source), "path": "q.jpg"}], "label": [0]})
    parquet.write_table(table, tmp_path / "t.parquet")
    for name in ("a", "b"):
        (tmp_path / "renamed" / name).mkdir(parents=True)
        (tmp_path / "renamed" / name / "z.jpg").write_bytes(stored(source) if name == "a" else encoded(source, "JPEG"))
    ran("write", "--images", tmp_path / "renamed", "--out", tmp_path / "y.beton")
    code, out = searched(
        source, capsys, *(tmp_path / n for n in ("copy.jpg", "s.tar", "t.parquet", "y.beton", "y.manifest.npz")),
        flags=("--source", source / "x.manifest.npz", "--json"),
    )  # fmt: skip
    assert code == 1
    found = json.loads(out)
    assert found["sought"] == {"ids": 1, "bytes": 1, "pictures": 0}
    assert [(Path(t["place"].split(": ")[0]).name, t["kind"]) for t in found["left"]] == [
        (name, "bytes") for name in ("copy.jpg", "s.tar", "t.parquet", "y.beton", "y.manifest.npz")
    ]


def test_a_member_of_a_tar_is_found_by_its_key(source, capsys, tmp_path):
    for name, mode in (("s.tar", "w"), ("s.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as shard:
            shard.addfile(tarfile.TarInfo("cat/1.cls"), io.BytesIO(b""))
        code, out = searched(source, capsys, tmp_path / name)
        assert code == 1
        assert f"{name}: cat/1.cls: id of {GONE}" in out


def test_a_thumbnail_on_a_page_and_a_copy_encoded_again_are_found_by_their_picture(source, capsys, tmp_path):
    ran("show", source / "all.index.npz", "--html", tmp_path / "p.html", "--source", source / "x.beton",
        "--pictures", "6")  # fmt: skip
    text = (tmp_path / "p.html").read_text()
    assert GONE in text
    (tmp_path / "nameless.html").write_text(text.replace(GONE, "a picture"))
    (tmp_path / "again.webp").write_bytes(encoded(source, "WEBP", quality=30))
    code, out = searched(source, capsys, tmp_path)
    assert code == 1
    assert "again.webp: picture of cat/1.jpg" in out
    assert "p.html: id of cat/1.jpg" in out
    assert "nameless.html: picture " in out
    kept = open_dataset(source / "clean/part.beton").manifest.ids.tolist()
    assert not any(f"of {name.decode()}" in out for name in kept)
    # Without pictures the nameless page and the copy are not found: what --exact leaves out.
    flags = ("--source", source / "x.beton", "--exact")
    assert searched(source, capsys, tmp_path / "nameless.html", tmp_path / "again.webp", flags=flags)[0] == 0


def test_bytes_that_a_kept_image_also_has_are_no_trace(tmp_path, capsys):
    for name in ("cat/0.png", "cat/1.png", "dog/0.png"):
        (tmp_path / "im" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red" if "cat" in name else "blue").save(tmp_path / "im" / name)
    (tmp_path / "deleted.txt").write_text("cat/1.png\n")
    ran("write", "--images", tmp_path / "im", "--out", tmp_path / "x.beton")
    flags = ("--source", tmp_path / "x.manifest.npz")
    assert searched(tmp_path, capsys, tmp_path / "im/cat/0.png", flags=flags)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere: no such file or directory"),
        (("broken.npz",), "broken.npz: cannot be read as an archive of arrays"),
        (("broken.tar",), "broken.tar: not a readable tar file"),
        (("broken.npy",), "broken.npy: not a plain .npy array"),
        (("packed.zip",), "packed.zip: is packed and cannot be searched"),
    ],
)
def test_what_cannot_be_searched_is_an_error_and_never_clean(source, tmp_path, capsys, words, message):
    for name in ("broken.npz", "broken.tar", "broken.npy", "packed.zip"):
        (tmp_path / name).write_bytes(b"nonsense" * 200)
    capsys.readouterr()
    assert ran("gone", source / "deleted.txt", *(tmp_path / word for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error


def test_a_list_of_which_the_source_knows_nothing_proves_nothing(source, tmp_path, capsys):
    wrong = tmp_path / "wrong.txt"
    wrong.write_text(f"photos/{GONE}\n")
    capsys.readouterr()
    assert ran("gone", wrong, source / "all.index.npz", "--source", source / "x.beton") == 2
    said = capsys.readouterr()
    assert "none of its ids is in" in said.err
    assert "photos/cat/1.jpg" in said.err
    assert "nothing is left" not in said.out
    out = tmp_path / "y.index.npz"
    assert ran("combine", source / "all.index.npz", wrong, "--how", "without", "--out", out) == 0
    assert "no listed id was kept" in capsys.readouterr().err


def test_of_ids_that_the_source_does_not_know_nothing_is_certified(source, tmp_path, capsys):
    listed = tmp_path / "typo.txt"
    listed.write_text(f"{GONE}\ncat/1.jpgg\ndog/nope.jpg\n")
    with pytest.raises(SystemExit) as end:
        ran("gone", listed, source / "new.index.npz", "--source", source / "x.beton")
    said = capsys.readouterr()
    assert end.value.code == 1
    assert "nothing is left of 1 deleted image in 1 file" in said.out
    assert (
        f"2 of 3 listed ids are not in {source / 'x.beton'}: nothing is shown of these (first: cat/1.jpgg)" in said.err
    )
    with pytest.raises(SystemExit):
        ran("gone", listed, source / "new.index.npz", "--source", source / "x.beton", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["sought"]["ids"] == 1
    assert found["unknown"] == ["cat/1.jpgg", "dog/nope.jpg"]


def test_a_comment_behind_an_id_is_no_part_of_it(source, tmp_path, capsys):
    listed = tmp_path / "with.txt"
    listed.write_text(f"{GONE}  # asked in May\ndog/1.jpg \n")
    out = tmp_path / "y.index.npz"
    assert ran("combine", source / "all.index.npz", listed, "--how", "without", "--out", out) == 0
    assert "2 ids read without the spaces or the comment behind it" in capsys.readouterr().err
    assert ran("gone", listed, out, "--source", source / "x.manifest.npz") == 0
    assert "nothing is left of 2 deleted images in 1 file" in capsys.readouterr().out
    assert ran("gone", listed, out) == 2
    assert "a comment behind an id, or a name? --source tells them apart" in capsys.readouterr().err
    imported = tmp_path / "i.index.npz"
    assert ran("import", listed, "--source", source / "x.manifest.npz", "--holds", "remove", "--out", imported) == 0
    assert "keeps 10 of 12 samples" in capsys.readouterr().err
    listed.write_text(f"{GONE}  # asked in May\n{GONE}\n")
    assert ran("import", listed, "--source", source / "x.manifest.npz", "--holds", "remove", "--out", out) == 2
    assert "1 id is repeated" in capsys.readouterr().err
