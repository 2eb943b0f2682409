"""From images to a budget and back: curves, allocations, and betons that hold exactly the bytes that were allocated."""

from __future__ import annotations

import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from prune import budget, codec_table, curves, materialize, write
from prune.__main__ import main
from prune.byte_budget.budget_inputs import budget_of, floors
from prune.byte_budget.codec_comparison import ranked
from prune.byte_budget.curve_prediction import predict
from prune.byte_budget.distortion import dropped, fmse, psnr
from prune.data import image_codecs
from prune.data.beton import best_page, beton_bytes
from prune.data.dataset import open_dataset
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays, save_arrays
from prune.index.provenance import record
from prune.index.pruned_index import PrunedIndex
from prune.models import networks
from prune.runs.files import InputError
from prune.scores.feature_files import order_fingerprint

N = 48


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    """Three classes of 16 images, raw and JPEG, some grey or not square; a surrogate; curves with half resolutions."""
    root = tmp_path_factory.mktemp("budget")
    rng = np.random.default_rng(0)
    for i in range(N):
        folder = root / "images" / ("ant", "bee", "cat")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(
            (25 + i % 4, 24), Image.BICUBIC
        )
        image = Image.fromarray(
            np.asarray(coarse) // 2 + rng.integers(0, 1 + 3 * i, (24, 25 + i % 4, 3)).astype("u1") // 2
        )
        image = image.convert("L") if i % 8 == 5 else image
        image.save(folder / f"{i:02d}.{'png' if i % 2 else 'jpg'}")
    write.run(write.Config(images=str(root / "images"), out=root / "s.beton"))
    torch.manual_seed(0)
    spec = {
        "arch": "resnet18", "kwargs": {"channels": (8, 8, 16, 16)}, "stem": "half", "classes": ["ant", "bee", "cat"],
        "resolution": 24, "mean": list(networks.MEAN), "std": list(networks.STD), "recipe": "tiny", "index": None,
        "source": None,
    }  # fmt: skip
    networks.save_model(root / "model", networks.build(spec), spec)
    manifest = Manifest.load(root / "s.manifest.npz")
    index = PrunedIndex.from_rows(manifest, np.arange(N), score=np.arange(N), provenance=[record("select", {}, {})])
    index.save(root / "all.index.npz")
    config = curves.Config(
        root / "s.beton", model=root / "model", out=root / "s.curves.npz", qualities=(90, 50, 10), half=True
    )
    curves.run(config)
    return SimpleNamespace(root=root, index=index, config=config, total=index.source_nbytes)


def settings(made, tmp_path, **given) -> budget.Config:
    given = {"curves": made.config.out, "out": tmp_path / "b.index.npz", **given}
    return budget.Config(made.root / "all.index.npz", **given)


def test_fidelity_by_hand():
    # (1 + 9) / 2; 10 log10(255^2 / 25) = 34.15 dB; the mean of (0, 0) and (2, 0) is (1, 0), half a unit away from each.
    assert fmse(np.array([1.0, 5.0]), np.array([2.0, 2.0])) == 5
    assert psnr(np.full((2, 2, 3), 10, np.uint8), np.full((2, 2, 3), 15, np.uint8)) == pytest.approx(34.15, abs=0.01)
    assert psnr(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)) == np.inf
    np.testing.assert_allclose(dropped(np.array([[0.0, 0], [2, 0]]), np.array([1.0, 0])), [0.5, 0.5])


def test_psnr_holds_one_image_in_float_at_a_time():
    stack = np.random.default_rng(0).integers(0, 256, (6, 5, 200, 200, 3), dtype=np.uint8)
    tracemalloc.start()
    found = psnr(stack, stack[:, :1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (6, 5)
    assert found.dtype == np.float32
    assert np.isinf(found[:, 0]).all()
    error = (stack[4, 3].astype(float) - stack[4, 0]) ** 2
    assert found[4, 3] == pytest.approx(10 * np.log10(255**2 / error.mean()), abs=1e-4)
    assert peak < 3 * 200 * 200 * 3 * 4


def test_curves_hold_the_bytes_that_the_encoder_makes(made):
    arrays, meta = open_arrays(made.config.out, "winnow-curves/1")
    assert arrays["level"].tolist() == [0, 90, 50, 10, 190, 150, 110]
    source = open_dataset(made.root / "s.beton")
    for row in (0, 5, 17):
        data, jpeg = source.beton.stored(row)
        pixels = image_codecs.decode(data) if jpeg else np.frombuffer(data, np.uint8).reshape(24, -1, 3)
        want = [len(data), *(len(image_codecs.encode_level(pixels, int(q))) for q in arrays["level"][1:])]
        assert arrays["nbytes"][row].tolist() == want
    assert (arrays["fmse"][:, 0] == 0).all()
    assert (arrays["fmse"][:, 3].mean() > arrays["fmse"][:, 1].mean() > 0).all()
    assert np.isinf(arrays["psnr"][:, 0]).all()
    assert (arrays["psnr"][:, 1] > arrays["psnr"][:, 3]).all()
    assert (arrays["dropped"] > 0).all()
    assert meta["prediction"] is None


def test_curves_stopped_between_blocks_resume_and_end_with_the_same_values(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(curves, "BLOCK", 20)
    config = curves.Config(**{**vars(made.config), "out": tmp_path / "c.npz"})
    real, blocks = curves.measure, []

    def stopping(*given):
        if len(blocks) == 2:
            raise KeyboardInterrupt
        blocks.append(1)
        return real(*given)

    monkeypatch.setattr(curves, "measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        curves.run(config)
    blocks[:] = [1]  # one block is left to do
    curves.run(config)
    assert len(blocks) == 2
    old, new = (open_arrays(path, "winnow-curves/1")[0] for path in (made.config.out, config.out))
    for name in old:
        np.testing.assert_allclose(old[name], new[name], rtol=1e-3, atol=1e-5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.npz"]
    curves.run(config)
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(InputError, match="seed: 0 -> 1"):
        curves.run(curves.Config(**{**vars(config), "seed": 1}))


@pytest.mark.parametrize("policy", ["adaptive", "uniform", "drop"])
@pytest.mark.parametrize("ratio", [0.15, 0.5])
def test_materialised_bytes_are_the_allocated_bytes_and_within_the_budget(made, tmp_path, policy, ratio, capsys):
    config = settings(made, tmp_path, policy=policy, ratio=ratio, floor=2, json=True)
    budget.run(config)
    told = json.loads(capsys.readouterr().out)
    index = PrunedIndex.load(config.out)
    assert told["bytes"] == index.nbytes.sum() <= told["budget"] == int(ratio * made.total)
    assert (index.per_class()[0] >= 2).all()
    if policy != "adaptive":
        assert len(set(index.quality.tolist())) == 1
    out = materialize.run(materialize.Config(config.out, source=made.root / "s.beton", out=tmp_path / "m.beton"))
    new, old = open_dataset(out), open_dataset(made.root / "s.beton")
    assert new.manifest.nbytes.tolist() == index.nbytes.tolist()
    assert int(new.beton.sizes.sum()) == told["bytes"]
    for row, (place, level) in enumerate(zip(index.positions.tolist(), index.quality.tolist())):
        data, jpeg = old.beton.stored(place)
        if level:
            pixels = image_codecs.decode(data) if jpeg else np.frombuffer(data, np.uint8).reshape(24, -1, 3)
            data = image_codecs.encode_level(pixels, level)
            assert image_codecs.decode(data).shape[:2] == (new.beton.heights[row], new.beton.widths[row])
        assert new.beton.stored(row)[0] == data
    budget.run(config)
    assert "up to date" in capsys.readouterr().err


def test_another_encoder_than_the_measured_one_is_refused(made, tmp_path, monkeypatch):
    config = settings(made, tmp_path, policy="uniform", quality=50, ratio=0.5)
    budget.run(config)
    real = image_codecs.encode_level
    monkeypatch.setattr(image_codecs, "encode_level", lambda pixels, level: real(pixels, level) + b"\0")
    with pytest.raises(InputError, match="are allocated: the curves were measured with another encoder"):
        materialize.run(materialize.Config(config.out, source=made.root / "s.beton", out=tmp_path / "m.beton"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.index.npz"]


@pytest.mark.slow
def test_mixed_qualities_open_in_stock_ffcv_and_in_the_plain_loader(made, tmp_path):
    from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    from prune.data.crops import render
    from prune.data.loader import open_loader
    from prune.data.stored_images import Stored, decode

    quality = np.resize([0, 90, 50, 10, 150], N)
    index = PrunedIndex.from_rows(
        Manifest.load(made.root / "s.manifest.npz"), np.arange(N), quality=quality, provenance=[]
    )
    index.save(tmp_path / "mixed.index.npz")
    out = materialize.run(
        materialize.Config(tmp_path / "mixed.index.npz", source=made.root / "s.beton", out=tmp_path / "m.beton")
    )
    source = open_dataset(out)
    stored = []
    for row in range(N):
        data, jpeg = source.beton.stored(row)
        stored.append(decode(Stored(data, jpeg, int(source.beton.heights[row]), int(source.beton.widths[row]))))
    loader = open_loader(source, resolution=12, batch_size=16, workers=1, loader="torch")
    shown = np.concatenate([batch[0].permute(0, 2, 3, 1).numpy() for batch in loader.epoch(np.arange(N))])
    boxes = loader_boxes(source)
    want = np.stack([render(pixels, box, False, 12) for pixels, box in zip(stored, boxes)])
    np.testing.assert_array_equal(shown, want)
    pipelines = {"image": [CenterCropRGBImageDecoder((12, 12), 1.0), ToTensor()], "label": [IntDecoder(), ToTensor()]}
    stock = Loader(str(out), batch_size=16, num_workers=1, order=OrderOption.SEQUENTIAL, pipelines=pipelines)
    batches = [(image.numpy().copy(), label.numpy().copy()) for image, label, *_ in stock]
    images, labels = (np.concatenate(column) for column in zip(*batches))
    np.testing.assert_array_equal(labels[:, 0], index.labels)
    # FFCV decodes with the fast transform: about one grey level off, more in fine noise at high qualities.
    assert np.abs(images.astype(int) - want).mean((1, 2, 3)).max() < 4


def loader_boxes(source) -> np.ndarray:
    from prune.data.crops import center_crops

    return center_crops(source.beton.heights, source.beton.widths).boxes


def test_bytes_of_predicted_curves_are_counted_before_they_are_used(made, tmp_path, capsys):
    config = curves.Config(**{**vars(made.config), "out": tmp_path / "part.npz", "sample": 0.5})
    curves.run(config)
    assert "median error" in capsys.readouterr().err
    arrays, meta = open_arrays(config.out, "winnow-curves/1")
    assert arrays["measured"].sum() == 24
    assert 0 <= meta["prediction"]["bytes"] < 0.3
    given = settings(made, tmp_path, curves=config.out, ratio=0.3)
    with pytest.raises(InputError, match="measured in part: give --source"):
        budget.run(given)
    budget.run(settings(made, tmp_path, curves=config.out, ratio=0.3, source=made.root / "s.beton"))
    index = PrunedIndex.load(given.out)
    assert index.nbytes.sum() <= 0.3 * made.total
    out = materialize.run(materialize.Config(given.out, source=made.root / "s.beton", out=tmp_path / "m.beton"))
    assert open_dataset(out).manifest.nbytes.tolist() == index.nbytes.tolist()


def test_the_worth_of_samples_decides_who_stays(made, tmp_path):
    for lowest in (False, True):
        out = tmp_path / f"{lowest}.npz"
        budget.run(
            settings(made, tmp_path, out=out, policy="uniform", quality=50, ratio=0.1, value="index", lowest=lowest)
        )
    assert (
        PrunedIndex.load(tmp_path / "False.npz").scores.mean() > PrunedIndex.load(tmp_path / "True.npz").scores.mean()
    )


def test_prediction_recovers_a_power_law():
    rng = np.random.default_rng(0)
    facts = rng.lognormal(5, 1, (200, 2))
    nbytes, loss = 3 * facts[:, :1] ** 0.5 * facts[:, 1:], 0.1 / facts[:, :1]
    found = predict(facts[:150], nbytes[:150], loss[:150], facts[150:], seed=0)
    assert found.bytes_error < 0.05
    np.testing.assert_allclose(found.distortion, loss[150:], rtol=0.2)


def test_amounts_and_floors_by_hand():
    assert [budget_of(text, None, 0) for text in ("2GB", "1.5KiB", "10", "3 mb")] == [2 * 10**9, 1536, 10, 3 * 10**6]
    assert budget_of(None, 0.25, 1001) == 250
    assert floors(0.1, np.array([20, 5, 0])).tolist() == [2, 1, 0]
    assert floors(7, np.array([20, 5, 0])).tolist() == [7, 5, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "either --bytes or --ratio"),
        ({"bytes": "many"}, "--bytes many"),
        ({"ratio": 2.0}, "outside"),
        ({"ratio": 0.5, "quality": 50}, "uniform"),
        ({"ratio": 0.5, "value": "el2n"}, "give --scores"),
        ({"ratio": 0.5, "policy": "uniform", "quality": 33}, "measured are 0 10 50 90"),
        ({"ratio": 0.001, "floor": 16}, "the floors alone need"),
        ({"ratio": 0.5, "seed": -1}, "--seed -1"),
        ({"ratio": 0.5, "floor": float("inf")}, "floor inf is neither"),
        ({"ratio": 0.5, "floor": float("nan")}, "floor nan is neither"),
        ({"ratio": 0.5, "floor": -1.0}, "--floor -1.0"),
        ({"ratio": 0.5, "floor": 2.7}, "--floor 2.7 is neither"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(made, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        budget.run(settings(made, tmp_path, **change))
    assert list(tmp_path.iterdir()) == []


def test_curves_of_another_source_are_refused(made, tmp_path):
    arrays, meta = open_arrays(made.config.out, "winnow-curves/1")
    save_arrays(tmp_path / "o.npz", arrays, {**meta, "fingerprint": "other"})
    with pytest.raises(InputError, match="curves of another source"):
        budget.run(settings(made, tmp_path, curves=tmp_path / "o.npz", ratio=0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "--batch-size 0"),
        ({"workers": -1}, "--workers -1"),
        ({"resolution": 0}, "--resolution 0"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_curves_name_mistakes_before_they_measure(made, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        curves.run(curves.Config(**{**vars(made.config), "out": tmp_path / "c.npz", **change}))
    assert list(tmp_path.iterdir()) == []


def test_a_learned_codec_as_tables_is_named_as_what_it_is(made, tmp_path, capsys):
    place = tmp_path / "learned.safetensors"
    place.write_bytes(b"any")
    out = tmp_path / "c.npz"
    command = ["curves", str(made.root / "s.beton"), "--model", str(made.root / "model"), "--out", str(out)]
    assert main([*command, "--tables", str(place)]) == 2
    error = capsys.readouterr().err
    assert "learned.safetensors: a learned codec does not go into a beton; give JPEG tables of `prune codecs" in error
    assert not out.exists()


@pytest.mark.parametrize(("flag", "name"), [("--train", "x.safetensors"), ("--fit", "x.npz")])
def test_a_file_of_another_kind_where_a_codec_is_to_be_written_is_refused_with_the_flags_name(
    made, tmp_path, capsys, flag, name
):
    place = tmp_path / name
    if flag == "--fit":
        save_arrays(place, {"steps": np.zeros(1)}, {"format": "winnow-jpeg-tables/99"})
    else:
        save_file({"a": np.zeros(1)}, place, {"winnow": json.dumps({"format": "winnow-codec/1"})})
    before = place.read_bytes()
    command = ["codecs", str(made.root / "s.beton"), "--model", str(made.root / "model"), "--codecs", "jpeg"]
    assert main([*command, flag, str(place)]) == 2
    assert f"give another {flag}, or remove it" in capsys.readouterr().err
    assert place.read_bytes() == before


def permuted(made, folder, **changes):
    """Curves of the source with the images in the opposite order."""
    arrays, meta = open_arrays(made.config.out, "winnow-curves/1")
    turned = {name: values[::-1] if len(values) == N else values for name, values in arrays.items()}
    save_arrays(folder / "turned.curves.npz", turned, {**meta, **changes})
    return folder / "turned.curves.npz"


def test_curves_in_another_order_of_the_images_are_refused(made, tmp_path):
    with pytest.raises(InputError, match=r"turned.* in another order than the index; run `prune curves`"):
        budget.run(settings(made, tmp_path, curves=permuted(made, tmp_path), ratio=0.5))
    assert [entry.name for entry in tmp_path.iterdir()] == ["turned.curves.npz"]
    with pytest.raises(InputError, match=r"turned.* in another order than .*manifest\.npz; give another --out"):
        curves.run(curves.Config(**{**vars(made.config), "out": permuted(made, tmp_path, order="00000000")}))


def test_curves_of_a_version_that_recorded_no_order_are_read_and_count_as_the_same(made, tmp_path, capsys):
    arrays, meta = open_arrays(made.config.out, "winnow-curves/1")
    old = {name: values for name, values in arrays.items() if name != "digest"}
    save_arrays(tmp_path / "old.npz", old, {key: value for key, value in meta.items() if key != "order"})
    out = budget.run(settings(made, tmp_path, curves=tmp_path / "old.npz", ratio=0.5))
    written = out.read_bytes()
    assert 0 < PrunedIndex.load(out).nbytes.sum() <= 0.5 * made.total
    assert "up to date" not in capsys.readouterr().err
    budget.run(settings(made, tmp_path, ratio=0.5))  # into the same --out
    assert "up to date" in capsys.readouterr().err
    assert out.read_bytes() == written


def test_scores_in_another_order_than_the_curves_are_refused(made, tmp_path):
    scores = {"sample/el2n": np.arange(N, dtype=np.float32)}
    for order, fits in ((None, True), (order_fingerprint(made.root / "s.manifest.npz"), True), ("00000000", False)):
        meta = {"format": "winnow-scores/1", "fingerprint": made.index.source, "order": order}
        save_arrays(tmp_path / "scores.npz", scores, meta)
        config = settings(made, tmp_path, ratio=0.5, scores=tmp_path / "scores.npz", value="el2n")
        if fits:
            budget.run(config)
        else:
            with pytest.raises(InputError, match=r"scores\.npz: lists the images in another order than .*curves"):
                budget.run(config)


def test_codecs_are_ranked_at_equal_bytes(made, capsys):
    # At 15 bytes, halfway between 10 and 22.5 on a logarithmic scale, a's error is 3 and b's 4.
    points = [
        {"codec": name, "quality": q, "bytes": size, "fmse": error, "psnr": 30}
        for name, q, size, error in (("a", 1, 10, 4), ("a", 2, 22.5, 2), ("b", 1, 10, 6), ("b", 2, 22.5, 2))
    ]
    middle = ranked(points)["at"][2]
    assert middle["bytes"] == pytest.approx(15)
    assert [(row["codec"], round(row["fmse"], 6)) for row in middle["codecs"]] == [("a", 3), ("b", 4)]
    command = ["codecs", str(made.root / "s.beton"), "--model", str(made.root / "model"), "--sample", "6", "--json"]
    assert main([*command, "--qualities", "90", "20"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {point["codec"] for point in told["points"]} == set(image_codecs.CODECS)
    assert all((point["share"], point["whole"]) == (0, point["bytes"]) for point in told["points"])
    assert (told["source_images"], told["with_more_images"]) == (N, None)
    for size in told["at"]:
        errors = [row["fmse"] for row in size["codecs"]]
        assert errors == sorted(errors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qualities": ()}, "--qualities : at least one"),
        ({"qualities": (90, 101)}, "--qualities 90 101"),
        ({"codecs": ()}, "at least one codec"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_codecs_named_wrongly_are_refused(made, change, message):
    with pytest.raises(InputError, match=message):
        codec_table.run(codec_table.Config(made.root / "s.beton", made.root / "model", **change))


@pytest.mark.parametrize("each", [2_000, 150_000, 1_300_000])
def test_the_smallest_file_has_the_page_that_its_images_ask_for(each):
    sizes = np.full(400, each)
    chosen = beton_bytes(sizes, best_page(sizes))
    assert chosen == min(beton_bytes(sizes, 1 << bits) for bits in range(21, 26))
    assert chosen < beton_bytes(sizes, 1 << 28)
    if each == 1_300_000:  # a page of 2 MiB would hold one image and be a third empty
        assert best_page(sizes) > 1 << 21
