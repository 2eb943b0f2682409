"""`prune export`: the kept samples in the forms that other programs read."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from prune.export import Config, run
from prune.importing import Config as Import
from prune.importing import run as bring
from prune.index.manifest import Manifest
from prune.index.npz import save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.index.tar_shards import key_of
from prune.runs.files import InputError

IDS = [b"ant/1.jpg", b"ant/2,5.jpg", b"bee/3.jpg", "bee/ü.jpg".encode(), b"bee/9.jpg"]


@pytest.fixture
def source(tmp_path) -> Path:
    n = len(IDS)
    Manifest(
        ids=np.array(IDS),
        labels=np.array([0, 0, 1, 1, 1], np.int32),
        nbytes=np.full(n, 10, np.int32),
        width=np.full(n, 8, np.int32),
        height=np.full(n, 8, np.int32),
        digests=np.array([1, 2, 3, 4, 1 << 63], np.uint64),
        crc32=np.zeros(n, np.uint32),
        classes=['a"nt', "<bee>"],
    ).save(tmp_path / "s.manifest.npz")
    return tmp_path / "s.manifest.npz"


@pytest.fixture
def place(tmp_path, source) -> Path:
    index = PrunedIndex.from_rows(
        Manifest.load(source), np.array([1, 3, 4]), score=[0.1, np.nan, 2], reason=[0, 1, 4], provenance=[]
    )
    index.save(tmp_path / "x.index.npz")
    return tmp_path / "x.index.npz"


def test_npy_holds_the_rows_to_keep(place, tmp_path):
    run(Config(place, tmp_path / "rows.npy"))
    rows = np.load(tmp_path / "rows.npy", allow_pickle=False)
    assert rows.dtype == np.int64
    assert rows.tolist() == [1, 3, 4]


def test_rows_count_in_the_users_own_listing_when_it_is_given(place, tmp_path):
    listing = tmp_path / "files.txt"
    listing.write_bytes(b"\n".join(b"/data/" + name for name in reversed(IDS)) + b"\n")
    run(Config(place, tmp_path / "rows.npy", listing=listing, root="/data"))
    assert np.load(tmp_path / "rows.npy").tolist() == [0, 1, 3]  # 9, ü and "2,5" from the end; ascending
    with pytest.raises(InputError, match="3 of 3 kept samples are missing from the listing"):
        run(Config(place, tmp_path / "other.npy", listing=listing))
    with pytest.raises(InputError, match="--root /elsewhere"):
        run(Config(place, tmp_path / "other.npy", listing=listing, root="/elsewhere"))


def test_txt_holds_ids_one_a_line(place, tmp_path):
    run(Config(place, tmp_path / "ids.txt"))
    assert (tmp_path / "ids.txt").read_bytes() == b"ant/2,5.jpg\n" + IDS[3] + b"\nbee/9.jpg\n"


def test_csv_holds_all_columns_quoted_where_needed(place, tmp_path):
    run(Config(place, tmp_path / "all.csv"))
    with open(tmp_path / "all.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "row": "1", "id": "ant/2,5.jpg", "class": 'a"nt', "label": "0", "score": "0.100000001", "reason": "quota",
        "quality": "0", "nbytes": "10", "digest": "0000000000000002",
    }  # fmt: skip
    assert [row["score"] for row in rows] == ["0.100000001", "", "2"]
    assert rows[2]["digest"] == "8000000000000000"


def test_indices_is_what_dp4tl_loads_a_tensor_of_rows_to_keep(place, tmp_path):
    run(Config(place, tmp_path / "top.indices"))
    loaded = torch.load(tmp_path / "top.indices", weights_only=True)
    assert loaded.dtype == torch.int64
    assert loaded.tolist() == [1, 3, 4]
    run(Config(place, tmp_path / "again.indices"))
    assert (tmp_path / "again.indices").read_bytes() == (tmp_path / "top.indices").read_bytes()


def test_json_holds_rows_for_dataset_select_and_says_that_they_are_kept(place, tmp_path):
    run(Config(place, tmp_path / "rows.json"))
    found = json.loads((tmp_path / "rows.json").read_text())
    assert found["indices"] == [1, 3, 4]
    assert "KEEP" in found["meaning"]
    assert found["index"] == PrunedIndex.load(place).fingerprint


@pytest.mark.parametrize("name", ["rows.npy", "ids.txt", "all.csv", "top.indices", "rows.json"])
def test_what_is_exported_can_be_imported_again(place, source, tmp_path, name):
    run(Config(place, tmp_path / name))
    out = bring(Import(tmp_path / name, source=source, holds="keep", out=tmp_path / "back.index.npz"))
    assert PrunedIndex.load(out).fingerprint == PrunedIndex.load(place).fingerprint


def test_an_export_is_not_written_over_another_content(place, tmp_path, capsys):
    run(Config(place, tmp_path / "rows.npy"))
    run(Config(place, tmp_path / "rows.npy"))
    assert "up to date" in capsys.readouterr().err
    np.save(tmp_path / "rows.npy", np.arange(3))
    with pytest.raises(InputError, match="exists with other content"):
        run(Config(place, tmp_path / "rows.npy"))
    assert np.load(tmp_path / "rows.npy").tolist() == [0, 1, 2]
    assert not list(tmp_path.glob(".*"))


def test_mistakes_are_named_before_anything_is_written(place, source, tmp_path):
    with pytest.raises(InputError, match=r"must end in one of \.npy, \.txt"):
        run(Config(place, tmp_path / "rows.dat"))
    with pytest.raises(InputError, match="either in --source or in --listing"):
        run(Config(place, tmp_path / "rows.npy", source=source, listing=source))
    with pytest.raises(InputError, match="--allow-changed needs --source"):
        run(Config(place, tmp_path / "rows.npy", allow_changed=True))
    with pytest.raises(InputError, match="no such file"):
        run(Config(tmp_path / "none.npz", tmp_path / "rows.npy"))


def test_an_index_that_knows_no_rows_asks_for_an_order(place, source, tmp_path):
    from dataclasses import replace

    index = PrunedIndex.load(place)
    replace(index, positions=np.full(3, -1)).save(tmp_path / "names.npz")
    with pytest.raises(InputError, match="--source or --listing"):
        run(Config(tmp_path / "names.npz", tmp_path / "rows.npy"))
    run(Config(tmp_path / "names.npz", tmp_path / "rows.npy", source=source))
    assert np.load(tmp_path / "rows.npy").tolist() == [1, 3, 4]
    run(Config(tmp_path / "names.npz", tmp_path / "ids.txt"))


def shard(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            for suffix in ("jpg", "cls"):
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(name.encode())
                tar.addfile(info, io.BytesIO(name.encode()))
    return path


def names_in(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def test_shards_are_reduced_to_the_samples_to_keep(place, source, tmp_path):
    assert key_of(b"a.b/c.tar.gz") == b"a.b/c"
    shards = (shard(tmp_path / "0.tar", ["ant/1", "ant/2,5", "bee/3"]), shard(tmp_path / "1.tar", ["bee/ü", "bee/9"]))
    run(Config(place, tmp_path / "kept", shards=shards))
    assert names_in(tmp_path / "kept/0.tar") == ["ant/2,5.jpg", "ant/2,5.cls"]
    assert names_in(tmp_path / "kept/1.tar") == ["bee/ü.jpg", "bee/ü.cls", "bee/9.jpg", "bee/9.cls"]
    with pytest.raises(InputError, match=r"1 of 3 kept samples are in none of the shards \(first: 'ant/2,5.jpg'\)"):
        run(Config(place, tmp_path / "part", shards=shards[1:]))
    with pytest.raises(InputError, match="exists"):
        run(Config(place, tmp_path / "kept", shards=shards))
    flat = (shard(tmp_path / "flat.tar", ["1", "2,5", "3", "ü", "9"]),)
    with pytest.raises(InputError, match="3 of 3 kept samples are in none"):
        run(Config(place, tmp_path / "flat", shards=flat))
    run(Config(place, tmp_path / "flat", shards=flat, source=source))  # the source shows that file names are unique
    assert names_in(tmp_path / "flat/flat.tar")[::2] == ["2,5.jpg", "ü.jpg", "9.jpg"]
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 100)
    with pytest.raises(InputError, match="not a readable tar file"):
        run(Config(place, tmp_path / "broken", shards=(tmp_path / "broken.tar",)))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith((".", "part", "broken"))) == ["broken.tar"]


@pytest.mark.slow
def test_hugging_face_datasets_selects_the_kept_samples(place, tmp_path):
    datasets = pytest.importorskip("datasets")
    run(Config(place, tmp_path / "rows.json"))
    whole = datasets.Dataset.from_dict({"name": [name.decode() for name in IDS]})
    kept = whole.select(json.loads((tmp_path / "rows.json").read_text())["indices"])
    assert [name.encode() for name in kept["name"]] == PrunedIndex.load(place).ids.tolist()


def test_webdataset_reads_the_shards_and_finds_the_kept_samples_alone(place, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    shards = (shard(tmp_path / "0.tar", ["ant/1", "ant/2,5", "bee/3"]), shard(tmp_path / "1.tar", ["bee/ü", "bee/9"]))
    run(Config(place, tmp_path / "kept", shards=shards))
    found = list(webdataset.WebDataset(sorted(map(str, (tmp_path / "kept").iterdir())), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == ["ant/2,5", "bee/ü", "bee/9"]
    assert [sample["jpg"].decode() for sample in found] == ["ant/2,5", "bee/ü", "bee/9"]
    assert all(sample["cls"] == sample["jpg"] for sample in found)


@pytest.fixture
def images(tmp_path):
    for name in IDS:
        path = tmp_path / "photos" / name.decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "photos"


def test_fiftyone_gets_every_image_with_its_tag_class_reason_and_scores(place, source, tmp_path, images):
    meta = {"format": "winnow-scores/1", "fingerprint": Manifest.load(source).fingerprint}
    scores = {"sample/el2n": np.array([0.5, 1, 2, np.nan, 4], "<f4"), "sample/domain/pets": np.arange(5, dtype="<f4")}
    save_arrays(tmp_path / "scores.npz", scores, meta)
    config = Config(place, fiftyone=tmp_path / "fo", images=images, source=source, scores=tmp_path / "scores.npz")
    assert run(config) == tmp_path / "fo"
    samples = json.loads((tmp_path / "fo/samples.json").read_text())["samples"]
    assert [sample["tags"] for sample in samples] == [["dropped"], ["kept"], ["dropped"], ["kept"], ["kept"]]
    assert samples[3] == {
        "filepath": str(images / "bee/ü.jpg"),
        "tags": ["kept"],
        "metadata": None,
        "ground_truth": {"_cls": "Classification", "label": "<bee>"},
        "kept": True,
        "reason": "floor",
        "el2n": None,
        "domain_pets": 3.0,
    }
    assert all(Path(sample["filepath"]).is_file() for sample in samples)
    about = json.loads((tmp_path / "fo/metadata.json").read_text())
    assert "version" not in about  # FiftyOne reads it as plain samples, not as a dump of its database
    assert (about["name"], about["media_type"], about["info"]["kept"]) == ("x", "image", 3)
    before = (tmp_path / "fo/samples.json").read_bytes()
    run(config)
    assert (tmp_path / "fo/samples.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": None}, "--fiftyone needs --images"),
        ({"source": None}, "--fiftyone needs --images"),
        ({"out": Path("x.npy")}, "give no --out"),
        ({"images": Path("nothing")}, "no such folder"),
        ({"fiftyone": None}, "--images and --scores go with --fiftyone"),
        ({"fiftyone": None, "images": None}, "give --out, a file that ends in one of .npy"),
    ],
)
def test_a_wrong_call_for_fiftyone_writes_nothing(place, source, tmp_path, images, change, words):
    given = {"fiftyone": tmp_path / "fo", "images": images, "source": source} | change
    with pytest.raises(InputError, match=words):
        run(Config(place, **given))
    assert not (tmp_path / "fo").exists()


def test_images_that_are_missing_are_counted_and_another_folder_is_not_overwritten(place, source, tmp_path, images):
    config = Config(place, fiftyone=tmp_path / "fo", images=images, source=source)
    (images / "bee/3.jpg").unlink()
    with pytest.raises(InputError, match=r"1 image is not in it \(first: 'bee/3.jpg'\)"):
        run(config)
    (images / "bee/3.jpg").write_bytes(b"x")
    (tmp_path / "fo").mkdir()
    (tmp_path / "fo/mine.txt").write_text("")
    with pytest.raises(InputError, match="holds something else"):
        run(config)
