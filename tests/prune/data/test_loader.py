"""Both loaders yield the requested images, and never silently others."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from prune.data import ffcv_loader
from prune.data.beton import open_beton
from prune.data.crops import center_crops, padded_crops, random_resized_crops, render
from prune.data.dataset import open_dataset
from prune.data.loader import open_loader
from prune.data.stored_images import Stored, decode
from prune.index.manifest import manifest_path
from prune.runs.files import InputError


@pytest.fixture(scope="module")
def loaders(toy):
    pair = [open_loader(toy.source, resolution=32, batch_size=50, workers=1, loader=kind) for kind in ("ffcv", "torch")]
    yield pair
    for loader in pair:
        loader.close()


def gathered(loader, rows, **options):
    batches = list(loader.epoch(rows, **options))
    return [torch.cat(column) for column in zip(*batches)], [len(batch[0]) for batch in batches]


def test_rows_come_in_the_given_order_with_their_labels(loaders):
    rows = np.random.default_rng(0).permutation(len(loaders[0]))[:230]
    for loader in loaders:
        (images, labels, which), sizes = gathered(loader, rows)
        assert sizes == [50, 50, 50, 50, 30]
        assert which.tolist() == rows.tolist()
        assert labels.tolist() == loader.source.manifest.labels[rows].tolist()
        assert images.shape == (230, 3, 32, 32)
        assert images.dtype == torch.uint8


@pytest.mark.parametrize("resolution", [32, 20])
@pytest.mark.parametrize("draw", ["center", "resized", "padded"])
def test_both_loaders_yield_the_part_of_the_image_that_the_box_gives(loaders, draw, resolution):
    source = loaders[0].source
    heights, widths = source.beton.heights, source.beton.widths
    crops = {
        "center": lambda: center_crops(heights, widths, 0.9),
        "resized": lambda: random_resized_crops(heights, widths, seed=1, epoch=2),
        "padded": lambda: padded_crops(heights, widths, seed=1, epoch=2),
    }[draw]()
    rows = np.arange(3, 63)
    expected = []
    for row in rows:
        pixels = decode(Stored(*source.beton.stored(row), int(heights[row]), int(widths[row])))
        expected.append(render(pixels, crops.boxes[row], crops.flip[row], resolution).astype(int))
    reference = np.stack(expected).transpose(0, 3, 1, 2)
    (fast, _, _), _ = gathered(loaders[0], rows, crops=crops, resolution=resolution)
    (plain, _, _), _ = gathered(loaders[1], rows, crops=crops, resolution=resolution)
    np.testing.assert_array_equal(plain.numpy(), reference)
    assert np.abs(fast.numpy() - reference).max() <= 10  # FFCV decodes with the fast DCT
    assert np.abs(fast.numpy() - reference).mean() < 1.5


@pytest.mark.parametrize("count", [300, 200, 150])  # with 50 a batch: more batches than are decoded ahead, or fewer
def test_an_epoch_stopped_early_waits_for_the_images_in_work_and_the_next_one_is_right(loaders, monkeypatch, count):
    begun, ended = [threading.Event() for _ in range(2)], []
    release, real = threading.Event(), ffcv_loader.fill

    def fill(*arguments):
        if begun[0].is_set():  # the second batch: hold it until the test lets it go
            begun[1].set()
            assert release.wait(60)
        begun[0].set()
        real(*arguments)
        ended.append(threading.current_thread().name)

    before = threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(ffcv_loader, "fill", fill)
        batches = loaders[0].epoch(np.arange(count))
        next(batches)
        assert begun[1].wait(60)
        closing = threading.Thread(target=batches.close)
        closing.start()
        closing.join(0.05)
        assert closing.is_alive()  # a thread still writes into a batch
        release.set()
        closing.join(60)
        assert not closing.is_alive()
    assert len(ended) == 2  # the batch in work; those that only waited are cancelled
    assert threading.active_count() == before
    (_, _, which), _ = gathered(loaders[0], np.arange(7))
    assert which.tolist() == list(range(7))


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_any_number_of_threads_yields_the_same_images_in_batches_of_any_size(loaders, workers):
    loader = ffcv_loader.FfcvLoader(loaders[0].source, 32, 5, workers)
    for count in (1, 2, 3, 6, 31):
        rows = np.random.default_rng(count).permutation(len(loader))[:count]
        (found, labels, which), _ = gathered(loader, rows)
        (plain, expected, _), _ = gathered(loaders[0], rows)
        assert torch.equal(found, plain)
        assert labels.tolist() == expected.tolist()
        assert which.tolist() == rows.tolist()
    loader.close()


def test_a_loader_closed_during_an_epoch_ends_its_threads_and_decodes_no_more(toy):
    before = threading.active_count()
    loader = open_loader(toy.source, resolution=32, batch_size=10, workers=1)
    batches = loader.epoch(np.arange(200))
    assert next(batches)[2].tolist() == list(range(10))
    assert threading.active_count() == before + 1
    loader.close()
    batches.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="after shutdown"):
        next(loader.epoch(np.arange(10)))


def test_batches_are_safe_to_keep(loaders):
    batches = [images.clone() for images, _, _ in loaders[0].epoch(np.arange(400))]
    kept = [images for images, _, _ in loaders[0].epoch(np.arange(400))]
    assert all(torch.equal(a, b) for a, b in zip(batches, kept))


def test_memory_of_batches_that_nobody_holds_is_used_again(loaders):
    places = {images.data_ptr() for images, _, _ in loaders[0].epoch(np.arange(400).repeat(3) % len(loaders[0]))}
    assert len(places) <= 2 * ffcv_loader.AHEAD  # of 24 batches
    held = [images[0, 0] for images, _, _ in loaders[0].epoch(np.arange(400))]  # a view holds all of its batch
    assert len({view.data_ptr() for view in held}) == 8


def test_the_number_of_threads_of_torch_is_unchanged(loaders):
    torch.set_num_threads(2)
    try:
        gathered(loaders[0], np.arange(120))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_no_rows_give_no_batches(loaders):
    assert [list(loader.epoch(np.zeros(0, int))) for loader in loaders] == [[], []]


@pytest.mark.parametrize("kind", ["ffcv", "torch"])
def test_a_damaged_image_is_an_error_that_names_it_and_the_others_still_come(toy, tmp_path, kind):
    path = tmp_path / "x.beton"
    shutil.copy(toy.source, path)
    shutil.copy(manifest_path(toy.source), manifest_path(path))
    at = int(open_beton(path).samples["image"]["pointer"][5])
    with open(path, "r+b") as file:
        file.seek(at + 620)
        byte = file.read(1)
        file.seek(at + 620)
        file.write(bytes([byte[0] ^ 16]))
    loader = open_loader(path, resolution=32, batch_size=4, workers=1, loader=kind)
    name = open_dataset(path).manifest.ids[5].decode()
    with pytest.raises(InputError, match=rf"'{name}' \(row 5\) is damaged"):
        list(loader.epoch(np.arange(8)))
    (_, _, which), _ = gathered(loader, np.array([0, 6, 7]))
    assert which.tolist() == [0, 6, 7]
    loader.close()


def test_what_turbojpeg_refuses_is_decoded_by_pillow(toy, tmp_path):
    """A JPEG whose last bytes are missing but for the end marker: Pillow pads it, turbojpeg returns an error code."""
    import zlib

    from prune.data.beton import BetonWriter
    from prune.index.manifest import Manifest, digest

    source = open_dataset(toy.source)
    data = source.beton.stored(0)[0]
    data = data[:-40] + b"\xff\xd9"
    path = tmp_path / "x.beton"
    with BetonWriter(path, 2) as writer:
        for payload in (source.beton.stored(1)[0], data):
            writer.add(payload, jpeg=True, height=32, width=32, label=0)
    payloads = [source.beton.stored(1)[0], data]
    Manifest(
        ids=np.array([b"a", b"b"]),
        labels=np.zeros(2, np.int32),
        nbytes=np.array([len(p) for p in payloads]),
        width=np.full(2, 32),
        height=np.full(2, 32),
        digests=np.array([digest(p) for p in payloads], np.uint64),
        crc32=np.array([zlib.crc32(p) for p in payloads], np.uint32),
        classes=["x", "y"],
    ).save(manifest_path(path))
    loader = open_loader(path, resolution=32, batch_size=2, workers=1)
    (images, _, _), _ = gathered(loader, np.arange(2))
    loader.close()
    expected = decode(Stored(data, True, 32, 32)).transpose(2, 0, 1)
    np.testing.assert_array_equal(images[1].numpy(), expected)


def test_wrong_values_are_refused(toy):
    with pytest.raises(InputError, match="resolution 0"):
        open_loader(toy.source, resolution=0, batch_size=4)
    with pytest.raises(InputError, match="no such file"):
        open_loader(toy.root / "nothing.beton", resolution=8, batch_size=4)


def test_an_error_in_a_decoding_thread_is_raised_and_not_waited_for(loaders, monkeypatch):
    def broken(*arguments):
        raise MemoryError("no room")

    monkeypatch.setattr(ffcv_loader, "fill", broken)
    with pytest.raises(MemoryError, match="no room"):
        list(loaders[0].epoch(np.arange(5)))


def test_crops_are_drawn_for_the_rows_that_come_and_for_no_others(loaders):
    source = loaders[0].source
    heights, widths = source.beton.heights, source.beton.widths
    rows = np.random.default_rng(1).permutation(len(source))[:70]
    whole = padded_crops(heights, widths, seed=5, epoch=3)
    for loader in loaders:
        asked = []

        def draw(these, asked=asked):
            asked.append(these)
            return padded_crops(heights, widths, seed=5, epoch=3, rows=these)

        (drawn, _, _), _ = gathered(loader, rows, crops=draw)
        (taken, _, _), _ = gathered(loader, rows, crops=whole)
        assert torch.equal(drawn, taken)
        assert np.concatenate(asked).tolist() == rows.tolist()


def test_every_one_of_fifty_damaged_images_is_named_and_all_others_come_as_they_were(toy, tmp_path, loaders):
    path, rng = tmp_path / "x.beton", np.random.default_rng(6)
    shutil.copy(toy.source, path)
    shutil.copy(manifest_path(toy.source), manifest_path(path))
    beton = open_beton(path)
    bad = np.sort(rng.choice(len(beton), 50, replace=False))
    with open(path, "r+b") as file:
        for number, row in enumerate(bad):
            data = bytearray(beton.stored(row)[0])
            at, size = int(rng.integers(len(data))), int(rng.integers(1, 200))
            if number % 3 == 0:
                data[at] ^= 1 << int(rng.integers(8))
            elif number % 3 == 1:
                data[at : at + size] = rng.bytes(len(data[at : at + size]))
            else:
                data[:] = bytes(len(data))
            file.seek(int(beton.samples["image"]["pointer"][row]))
            file.write(data)
    loader = open_loader(path, resolution=32, batch_size=50, workers=1)
    for row in bad:
        with pytest.raises(InputError, match=rf"\(row {row}\) is damaged"):
            list(loader.epoch(np.array([row])))
    sound = np.setdiff1d(np.arange(len(beton)), bad)
    (found, _, _), _ = gathered(loader, sound)
    (whole, _, _), _ = gathered(loaders[0], sound)
    loader.close()
    assert torch.equal(found, whole)


@pytest.mark.slow
def test_the_compiled_code_is_read_back_by_the_next_process(loaders):
    gathered(loaders[0], np.arange(3))
    code = (
        "import sys; from prune.data.jpeg_decoder import fill\n"
        "from prune.data.loader import open_loader; from pathlib import Path\n"
        "loader = open_loader(Path(sys.argv[1]), resolution=16, batch_size=4, workers=1)\n"
        "list(loader.epoch([0, 1])); loader.close()\n"
        "assert fill.stats.cache_hits and not fill.stats.cache_misses, fill.stats\n"
        "assert 'ffcv' not in sys.modules"
    )
    place = str(loaders[0].source.beton.path)
    subprocess.run([sys.executable, "-c", code, place], cwd=Path(__file__).parents[3], check=True)
