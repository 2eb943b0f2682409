"""Shards and tables as sources: parquet, `save_to_disk`, the hub, WebDataset; written here by their own libraries."""

from __future__ import annotations

import io
import json
import os
import runpy
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import webdataset
from PIL import Image

from prune import export, write
from prune.data.dataset import open_dataset
from prune.data.image_listing import list_images
from prune.data.listing import Reading
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError

NAMES = ["cat", "dog", "elk"]


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (20 * number,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = [png(number) for number in range(6)]
LABELS = [0, 1, 0, 1, 2, 2]


@pytest.fixture
def data():
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    datasets.disable_progress_bars()
    return datasets.Dataset.from_dict(
        {"image": [{"bytes": b, "path": None} for b in IMAGES], "label": LABELS}, features
    )


def table(path, images=IMAGES, labels=LABELS, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.table({"image": images, "label": labels}), path, **options)
    return str(path)


def read_all(listing):
    return [listing.read(row) for row in range(len(listing.ids))]


def test_shards_are_one_source_whose_ids_are_shard_and_row(data, tmp_path):
    for k in range(2):
        (tmp_path / "hub/data").mkdir(parents=True, exist_ok=True)
        data.shard(2, k).to_parquet(tmp_path / f"hub/data/train-{k:05d}-of-00002.parquet")
    expected = [f"train-{k:05d}-of-00002/{row}" for k in range(2) for row in range(3)]
    for place in ("hub", "hub/data/*.parquet", "hub/data/train-{00000..00001}-of-00002.parquet"):
        listing = list_images(str(tmp_path / place))
        assert listing.ids == expected
        assert read_all(listing) == IMAGES
        assert [listing.classes[k] for k in listing.labels] == [NAMES[k] for k in LABELS]
        assert not listing.numbered


def test_a_single_file_keeps_the_ids_it_always_had(tmp_path):
    listing = list_images(table(tmp_path / "t.parquet", [IMAGES[0]] * 11, [k % 2 for k in range(11)]))
    assert listing.ids == [f"t/{row:02d}" for row in range(11)]
    assert (listing.classes, listing.numbered) == (["0", "1"], True)


def test_splits_are_told_apart_and_the_named_one_can_be_given(data, tmp_path):
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        data.to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match="holds the splits train, validation: name one") as error:
        list_images(str(tmp_path))
    way = str(error.value).split("'")[1]
    assert set(list_images(way).ids) == {f"train-00000-of-00001/{row}" for row in range(6)}
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "dict")
    with pytest.raises(InputError, match=r"holds the splits train, test: name one of them, as in .*dict/train"):
        list_images(str(tmp_path / "dict"))
    for folder in ("train", "test"):
        table(tmp_path / f"converted/{folder}/0000.parquet")
    with pytest.raises(InputError, match="holds the splits test, train"):
        list_images(str(tmp_path / "converted"))
    assert list_images(str(tmp_path / "converted/train")).ids[0] == "0000/0"


def test_a_set_that_lacks_shards_is_refused_unless_its_files_are_named(tmp_path, capsys):
    table(tmp_path / "train-00001-of-00003.parquet")
    with pytest.raises(InputError, match="2 of the 3 shards of train are missing, first number 0") as error:
        list_images(str(tmp_path))
    assert len(list_images(str(error.value).split("'")[1]).ids) == 6
    assert "2 of the 3 shards" in capsys.readouterr().err


def test_shards_of_one_name_in_several_folders_keep_apart(tmp_path):
    for part in ("a", "b"):
        table(tmp_path / f"parts/{part}/0.parquet")
    assert list_images(str(tmp_path / "parts")).ids[::6] == ["a/0/0", "b/0/0"]


def test_a_folder_of_class_folders_is_no_source_of_shards_whatever_lies_beside_them(tmp_path):
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/1.png").write_bytes(IMAGES[0])
    table(tmp_path / "photos/labels.parquet")
    assert list_images(str(tmp_path / "photos")).ids == ["cat/1.png"]


def test_pipes_and_links_in_a_folder_are_no_shards(tmp_path):
    table(tmp_path / "t/1.parquet")
    os.mkfifo(tmp_path / "t/2.parquet")
    assert len(list_images(str(tmp_path / "t")).ids) == 6
    (tmp_path / "real").mkdir()
    (tmp_path / "real/1.png").write_bytes(IMAGES[0])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat").symlink_to(tmp_path / "real")
    (tmp_path / "photos/cat.tar").write_bytes(b"what the folder was unpacked from")
    assert list_images(str(tmp_path / "photos")).ids == ["cat/1.png"]


def test_row_groups_are_read_once_each_by_many_threads_in_order(tmp_path, monkeypatch):
    images = [png(k % 7) for k in range(500)]
    listing = list_images(table(tmp_path / "t.parquet", images, [k % 2 for k in range(500)], row_group_size=10))
    reads = []
    whole = pa.parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        pa.parquet.ParquetFile, "read_row_group", lambda self, k, **o: reads.append(k) or whole(self, k, **o)
    )
    from prune.runs.cores import in_order

    assert list(in_order(listing.read, range(500), workers=8)) == images
    assert sorted(reads) == list(range(50))


def test_images_of_a_damaged_row_group_are_skipped_and_named_and_the_others_written(tmp_path):
    rng = np.random.default_rng(0)
    images = []
    for _ in range(40):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    place = Path(table(tmp_path / "t.parquet", images, [0, 1] * 20, row_group_size=10, write_page_checksum=True))
    chunk = pa.parquet.ParquetFile(place).metadata.row_group(2).column(0)
    whole = bytearray(place.read_bytes())
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    whole[begin : begin + 40] = bytes(40)
    place.write_bytes(whole)
    write.run(write.Config(images=str(place), out=tmp_path / "x.beton"))
    manifest = open_dataset(tmp_path / "x.beton").manifest
    assert [int(bytes(one)[2:]) for one in manifest.ids] == [*range(20), *range(30, 40)]
    assert [name for name, _ in manifest.meta["skipped"]] == [f"t/{row}" for row in range(20, 30)]
    assert {reason[:28] for _, reason in manifest.meta["skipped"]} == {"row group 2 cannot be read ("}


def test_texts_are_classes_and_paths_are_images(tmp_path):
    (tmp_path / "images").mkdir()
    for k, image in enumerate(IMAGES):
        (tmp_path / f"images/{k}.png").write_bytes(image)
    paths = [f"images/{k}.png" for k in range(6)]
    listing = list_images(table(tmp_path / "t.parquet", paths, [NAMES[k] for k in LABELS]))
    assert read_all(listing) == IMAGES
    assert [listing.classes[k] for k in listing.labels] == [NAMES[k] for k in LABELS]
    structs = pa.array([{"bytes": None, "path": path} for path in paths])
    listing = list_images(table(tmp_path / "s.parquet", structs, pa.array(["b", "a"] * 3).dictionary_encode()))
    assert read_all(listing) == IMAGES
    assert (listing.classes, listing.labels.tolist()) == (["a", "b"], [1, 0] * 3)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, -1, -1, 0, 1], r"2 images have no label \(-1\)"),
        ([0, 1, None, 1, 0, 1], "1 image has no label; every image needs one"),
        ([[0], [1, 2], [0], [1], [0], [1]], "gives several labels an image; one is supported"),
        ([0, 1, 10**9, 1, 0, 1], "labels up to 1000000000 for 6 images: these are no numbers of classes"),
        ([0, 1, 0.5, 1, 0, 1], "a whole number for every image"),
        ([b"x"] * 6, "a whole number for every image, not binary"),
    ],
)
def test_labels_that_are_none_are_one_line(tmp_path, labels, words):
    with pytest.raises(InputError, match=words) as error:
        list_images(table(tmp_path / "t.parquet", labels=labels))
    assert "\n" not in str(error.value)


def test_of_several_labels_the_user_names_one(tmp_path):
    place = tmp_path / "t.parquet"
    coarse = datasets.ClassLabel(names=["pet", "wild"])
    features = datasets.Features(
        {"picture": datasets.Image(), "fine": datasets.ClassLabel(names=NAMES), "coarse": coarse}
    )
    rows = {"picture": [{"bytes": image, "path": None} for image in IMAGES], "fine": LABELS, "coarse": [0, 1] * 3}
    datasets.Dataset.from_dict(rows, features).to_parquet(place)
    with pytest.raises(InputError, match="found picture, fine, coarse: name them by --path-column and --label-column"):
        list_images(str(place))
    listing = list_images(str(place), reading=Reading(label_column="coarse"))
    assert [listing.classes[k] for k in listing.labels] == ["pet", "wild"] * 3
    assert read_all(listing) == IMAGES
    assert list_images(str(place), reading=Reading(path_column="1", label_column="2")).classes == NAMES
    with pytest.raises(InputError, match=r"--label-column kind: .* has the columns picture, fine, coarse"):
        list_images(str(place), reading=Reading(label_column="kind"))
    with pytest.raises(InputError, match="--root and --delimiter are for lists"):
        list_images(str(place), reading=Reading(label_column="fine", delimiter=","))


def test_files_that_do_not_fit_are_named(data, tmp_path):
    data.to_parquet(tmp_path / "a-0.parquet")
    data.cast_column("label", datasets.ClassLabel(names=["x", "y", "z"])).to_parquet(tmp_path / "a-1.parquet")
    with pytest.raises(InputError, match=r"a-1\.parquet: its columns or class names differ from those of .*a-0"):
        list_images(str(tmp_path))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(InputError, match=r"broken\.parquet: damaged, or not a parquet file"):
        list_images(str(tmp_path / "broken.parquet"))
    pa.parquet.write_table(pa.table({"picture": IMAGES, "label": LABELS}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="columns image and label are expected; found picture, label"):
        list_images(str(tmp_path / "c.parquet"))
    for pattern, words in (("no-*.parquet", "no file matches"), ("n-{0..3}.parquet", "4 of its files are missing")):
        with pytest.raises(InputError, match=words):
            list_images(str(tmp_path / pattern))
    with pytest.raises(InputError, match="no such file"):
        list_images(str(tmp_path / "none.parquet"))


def test_a_beton_written_when_class_names_were_not_read_is_up_to_date(data, tmp_path):
    data.to_parquet(tmp_path / "t.parquet")
    pa.parquet.write_table(pa.parquet.read_table(tmp_path / "t.parquet").replace_schema_metadata(), tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new.parquet")
    (tmp_path / "t.parquet").rename(tmp_path / "named")
    (tmp_path / "new.parquet").rename(tmp_path / "t.parquet")
    config = write.Config(images=str(tmp_path / "t.parquet"), out=tmp_path / "x.beton")
    write.run(config)
    assert open_dataset(tmp_path / "x.beton").manifest.classes == ["0", "1", "2"]
    (tmp_path / "named").rename(tmp_path / "t.parquet")
    write.run(config)


def test_a_saved_data_set_is_mapped_and_its_ids_are_split_and_row(data, tmp_path):
    data.save_to_disk(tmp_path / "saved", num_shards=2)
    listing = list_images(str(tmp_path / "saved"))
    assert listing.ids == [f"data/{row}" for row in range(6)]
    assert read_all(listing) == IMAGES
    assert [listing.classes[k] for k in listing.labels] == [NAMES[k] for k in LABELS]
    (tmp_path / "saved/data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"1 of its 2 files are missing, first data-00001-of-00002\.arrow"):
        list_images(str(tmp_path / "saved"))


def test_a_hub_name_is_read_from_the_cache_without_a_network(data, tmp_path, monkeypatch):
    from datasets.packaged_modules.parquet.parquet import Parquet

    data.to_parquet(tmp_path / "train.parquet")
    files = {"train": [str(tmp_path / "train.parquet")]}
    cache = tmp_path / "cache"
    Parquet(cache_dir=str(cache), dataset_name="animals", data_files=files, hash="0" * 16).download_and_prepare()
    (cache / "owner___animals").mkdir()
    next((cache / "animals").iterdir()).rename(cache / "owner___animals/default")  # where a download would lie
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    listing = list_images("hf://owner/animals:train")
    assert listing.ids == [f"train/{row}" for row in range(6)]
    assert read_all(listing) == IMAGES
    assert [listing.classes[k] for k in listing.labels] == [NAMES[k] for k in LABELS]
    with pytest.raises(
        InputError, match=r"hf://owner/plants:train: .*hf download owner/plants.*--local-dir DIR"
    ) as error:
        list_images("hf://owner/plants:train")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="hf://OWNER/NAME:SPLIT is expected"):
        list_images("hf://owner name")


def tar(path, samples):
    """A shard written by webdataset; a sample is its key and its other members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as sink:
        for key, members in samples:
            sink.write({"__key__": key, **members})
    return path


def test_tars_are_read_by_key_and_their_labels_come_from_cls_json_or_txt(tmp_path):
    tar(tmp_path / "t/x-0.tar", [("a/1", {"png": IMAGES[0], "cls": "2"}), ("a/2", {"png": IMAGES[1], "cls": 0})])
    tar(tmp_path / "t/x-1.tar", [("a/1", {"png": IMAGES[2], "cls": "1"}), ("note", {"md": b"no image"})])
    listing = list_images(str(tmp_path / "t"))
    assert listing.ids == ["x-0/a/1", "x-0/a/2", "x-1/a/1"]
    assert (listing.labels.tolist(), listing.classes, listing.numbered) == ([2, 0, 1], ["0", "1", "2"], True)
    assert read_all(listing) == IMAGES[:3]
    assert listing.ignored == {".md": 1}
    for suffix, content in (("json", {"label": "dog", "width": 4}), ("txt", "dog"), ("json", {"class_name": "dog"})):
        place = tar(tmp_path / "u.tar", [("1", {"jpg": IMAGES[0], suffix: content}), ("2", {"jpg": b"", "cls": "cat"})])
        listing = list_images(str(place))
        assert [listing.classes[k] for k in listing.labels] == ["dog", "cat"]


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([("1", {"png": IMAGES[0]})], r"the sample '1' has no label: a member \.cls or \.txt, or a \.json"),
        ([("1", {"png": IMAGES[0], "json": {"label": [1, 2]}})], r"'1'\.json gives several labels; one an image"),
        ([("1", {"png": IMAGES[0], "jpg": IMAGES[1], "cls": 1})], "the sample '1' has two images, 1.jpg and 1.png"),
        ([(str(k), {"png": IMAGES[0], "txt": f"a dog on {k} hills"}) for k in range(30)], "these are captions"),
        ([("1", {"md": b"text"})], "holds no images"),
    ],
)
def test_shards_without_usable_labels_are_one_line(tmp_path, samples, words):
    with pytest.raises(InputError, match=words) as error:
        list_images(str(tar(tmp_path / "x.tar", samples)))
    assert "\n" not in str(error.value)


def test_a_tar_that_is_damaged_or_compressed_is_named(tmp_path):
    whole = tar(tmp_path / "x.tar", [("1", {"png": IMAGES[0] * 40, "cls": 1})]).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:1000])
    with pytest.raises(InputError, match=r"x\.tar: (cut short|not a readable tar file)"):
        list_images(str(tmp_path / "x.tar"))
    with tarfile.open(tmp_path / "y.tar.gz", "w:gz"):
        pass
    with pytest.raises(InputError, match="a compressed tar cannot be read at any place: unpack it"):
        list_images(str(tmp_path / "y.tar.gz"))


def test_a_tar_that_ends_between_two_samples_is_read_and_named_and_one_cut_in_a_header_is_refused(tmp_path, capsys):
    samples = [(str(k), {"png": IMAGES[k], "cls": k % 2}) for k in range(4)]
    place = tar(tmp_path / "t/x-0.tar", samples)
    with tarfile.open(place) as shard:
        begins = [member.offset for member in shard]
    whole = place.read_bytes()
    assert len(list_images(str(place)).ids) == 4
    assert "zeros that end a tar" not in capsys.readouterr().err
    place.write_bytes(whole[: begins[4]])  # the header of the third sample's first member
    tar(tmp_path / "t/x-1.tar", [("9", {"png": IMAGES[5], "cls": 1})])
    assert list_images(str(tmp_path / "t")).ids == ["x-0/0", "x-0/1", "x-1/9"]
    said = capsys.readouterr().err
    assert said.count("without the zeros that end a tar") == 1
    assert said.startswith(f"{place}: ")
    place.write_bytes(whole[: begins[4] + 100])
    with pytest.raises(InputError, match=rf"x-0\.tar: cut short or damaged behind byte {begins[4]:,}"):
        list_images(str(place))
    damaged = bytearray(whole)
    damaged[begins[4] : begins[4] + 512] = b"\xff" * 512
    place.write_bytes(damaged)
    with pytest.raises(InputError, match="cut short or damaged behind byte"):
        list_images(str(place))


def test_a_tar_that_ends_inside_a_sample_is_refused(tmp_path):
    samples = [(str(k), {"cls": k % 2, "png": IMAGES[k]}) for k in range(4)]
    place = tar(tmp_path / "x.tar", samples)
    with tarfile.open(place) as shard:
        begins = [member.offset for member in shard]
    place.write_bytes(place.read_bytes()[: begins[5]])  # behind the third sample's label, before its image
    with pytest.raises(InputError, match="cut short inside the sample '2', which has a label and no image"):
        list_images(str(place))


def test_the_same_key_in_two_shards_comes_back_from_an_index_as_the_same_two_samples(tmp_path):
    """The key of one sample even looks like the id of another: 1/1 in shard 1."""
    samples = [("1", {"png": IMAGES[0], "cls": 0}), ("1/1", {"png": IMAGES[1], "cls": 1}),
               ("2", {"png": IMAGES[2], "cls": 0})]  # fmt: skip
    other = [("1", {"png": IMAGES[3], "cls": 1}), ("2", {"png": IMAGES[4], "cls": 0})]
    tar(tmp_path / "tars/0.tar", samples)
    tar(tmp_path / "tars/1.tar", other)
    write.run(write.Config(images=str(tmp_path / "tars/{0..1}.tar"), out=tmp_path / "x.beton"))
    source = open_dataset(tmp_path / "x.beton")
    assert [bytes(one) for one in source.manifest.ids] == [b"0/1", b"0/1/1", b"0/2", b"1/1", b"1/2"]
    kept = np.array([0, 3])
    index = PrunedIndex.from_rows(source.manifest, kept, provenance=[])
    index.save(tmp_path / "kept.npz")
    for name, given in (("with", tmp_path / "x.beton"), ("without", None)):
        shards = (tmp_path / "tars/0.tar", tmp_path / "tars/1.tar")
        export.run(export.Config(tmp_path / "kept.npz", tmp_path / name, shards=shards, source=given))
        urls = sorted(str(path) for path in (tmp_path / name).iterdir())
        found = [(s["__key__"], s["png"]) for s in webdataset.WebDataset(urls, shardshuffle=False)]
        assert found == [("1", IMAGES[0]), ("1", IMAGES[3])]


def test_class_shards_whose_keys_begin_with_their_own_name_are_matched_by_whole_keys(tmp_path):
    """A source of class folders, exported from shards that carry its classes' names."""
    for name, number in (("cat/1.png", 0), ("cat/2.png", 1), ("dog/1.png", 2)):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(IMAGES[number])
    write.run(write.Config(images=str(tmp_path / "photos"), out=tmp_path / "x.beton"))
    PrunedIndex.from_rows(open_dataset(tmp_path / "x.beton").manifest, np.array([1, 2]), provenance=[]).save(
        tmp_path / "kept.npz"
    )
    shards = (
        tar(tmp_path / "cat.tar", [("cat/1", {"png": IMAGES[0]}), ("cat/2", {"png": IMAGES[1]})]),
        tar(tmp_path / "dog.tar", [("dog/1", {"png": IMAGES[2]})]),
    )
    export.run(export.Config(tmp_path / "kept.npz", tmp_path / "out", shards=shards))
    for name, members in (("cat", ["cat/2.png"]), ("dog", ["dog/1.png"])):
        with tarfile.open(tmp_path / f"out/{name}.tar") as kept:
            assert kept.getnames() == members


def test_a_test_split_without_its_highest_class_has_the_train_splits_labels(tmp_path):
    train = list_images(table(tmp_path / "train.parquet", [IMAGES[0]] * 12, list(range(12))))
    test = list_images(table(tmp_path / "test.parquet", [IMAGES[0]] * 3, [3, 1, 9]), train.classes)
    assert test.labels.tolist() == [3, 1, 9]
    assert json.dumps(test.classes) == json.dumps(train.classes)


def test_the_example_selects_the_kept_samples_in_a_data_set_of_the_same_shards(data, tmp_path, monkeypatch):
    for k in range(2):
        data.shard(2, k).to_parquet(tmp_path / f"train-{k:05d}-of-00002.parquet")
    write.run(write.Config(images=str(tmp_path / "train-*.parquet"), out=tmp_path / "x.beton"))
    source = open_dataset(tmp_path / "x.beton")
    PrunedIndex.from_rows(source.manifest, np.array([1, 2, 4]), provenance=[]).save(tmp_path / "kept.npz")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    example = runpy.run_path(str(Path(__file__).parents[3] / "examples/select_in_datasets.py"))
    part = example["kept"](str(tmp_path / "kept.npz"), sorted(map(str, tmp_path.glob("*.parquet"))))
    assert [np.asarray(row["image"])[0, 0, 0] for row in part] == [20, 40, 80]
    assert [row["label"] for row in part] == [1, 0, 2]
