"""`prune features` and the networks it reads: what is stored is what the network computes, by whichever loader."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prune import __main__ as prune
from prune import features
from prune.data.dataset import open_dataset
from prune.data.stored_images import Stored, decode
from prune.index.manifest import manifest_path
from prune.index.npz import open_arrays, save_arrays
from prune.models import networks
from prune.models.feature_extraction import joined
from prune.models.model_spec import model_fingerprint
from prune.runs.files import InputError, read_json, write_json
from prune.scores.feature_files import FORMAT, open_features, order_fingerprint

SPEC = {
    "arch": "resnet18",
    "kwargs": {"channels": [8, 8, 16, 16]},
    "stem": "half",
    "classes": [f"c{i}" for i in range(18)],
    "resolution": 24,
    "mean": networks.MEAN,
    "std": networks.STD,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("model")
    networks.save_model(directory, networks.build(SPEC), SPEC)
    return directory


@pytest.fixture(scope="module")
def done(model, toy, tmp_path_factory):
    """Features by two processes, through the public command."""
    out = tmp_path_factory.mktemp("features")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "prune",
               "features", "--model", model, "--betons", toy.source, toy.train, "--out", out]  # fmt: skip
    ended = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return out


def test_features_say_which_fold_their_surrogate_left_out(toy, tmp_path):
    torch.manual_seed(0)
    networks.save_model(tmp_path / "fold", networks.build(SPEC), SPEC | {"fold": "1/2"})
    features.run(features.Config(model=tmp_path / "fold", betons=(toy.train,), out=tmp_path, loader="torch"))
    assert open_features(tmp_path / "train.features.npz").model["fold"] == "1/2"


@pytest.mark.processes
def test_two_processes_store_what_one_network_gives_each_image(done, model, toy):
    source = open_dataset(toy.source)
    arrays, meta = open_arrays(done / "source.features.npz", FORMAT)
    assert arrays["features"].shape == (len(source), 16)
    assert arrays["features"].dtype == np.float16
    assert arrays["logits"].shape == (len(source), 18)
    assert arrays["position"].tolist() == list(range(len(source)))
    assert arrays["label"].tolist() == source.manifest.labels.tolist()
    assert meta["fingerprint"] == source.manifest.fingerprint
    assert meta["model"]["fingerprint"] == model_fingerprint(model)
    network, spec = networks.load_model(model)
    for row in (0, len(source) // 2, len(source) - 1):
        pixels = decode(Stored(*source.beton.stored(row), 32, 32))
        small = torch.from_numpy(cv2.resize(pixels, (24, 24), interpolation=cv2.INTER_AREA)).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = network(networks.normalise(small, spec["mean"], spec["std"]))[0].numpy()
        # half floats, and FFCV's fast DCT, which is a few grey levels from Pillow's
        np.testing.assert_allclose(
            arrays["logits"][row].astype(np.float32), expected, atol=0.05 * np.abs(expected).max()
        )


@pytest.mark.processes
def test_the_logits_are_the_classifier_of_the_features(done, model):
    arrays, _ = open_arrays(done / "source.features.npz", FORMAT)
    network, _ = networks.load_model(model)
    classifier = network.get_classifier()
    with torch.no_grad():
        expected = classifier(torch.from_numpy(arrays["features"].astype(np.float32))).numpy()
    np.testing.assert_allclose(arrays["logits"], expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.processes
def test_no_parts_are_left_and_a_second_call_returns_at_once(done, model, toy, capsys):
    assert sorted(p.name for p in done.glob("*")) == [
        f"{name}.features.{kind}" for name in ("source", "train") for kind in ("json", "npz")
    ]
    before = (done / "train.features.npz").stat().st_mtime_ns
    features.run(features.Config(model=model, betons=(toy.train,), out=done))
    assert (done / "train.features.npz").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="resolution: None -> 16"):
        features.run(features.Config(model=model, betons=(toy.train,), out=done, resolution=16))


@pytest.mark.processes
def test_features_that_are_up_to_date_or_cannot_be_written_are_answered_without_torch(done, model, toy, tmp_path):
    (tmp_path / "afile").write_text("mine")
    thumbnails = ["--thumbnail", "--betons", str(toy.train), "--out", str(tmp_path / "t")]
    assert prune.main(["features", *thumbnails]) == 0
    betons = ["--betons", str(toy.source), str(toy.train)]
    same = ["--model", str(model), *betons, "--out"]
    cases = [
        ([*same, str(done)], 0, f"{done / 'source.features.npz'}: up to date"),
        ([*same, str(done), "--resolution", "16"], 2, "was made with other settings (resolution: None -> 16)"),
        (thumbnails, 0, "up to date"),
        ([*same, str(tmp_path / "afile")], 2, "afile: is a file; --out must be a directory"),
    ]
    program = (
        "import json, sys\nfrom prune.__main__ import main\n"
        "print([int(main(['features', *argv])) for argv in json.load(sys.stdin)], 'torch' in sys.modules)"
    )
    given = json.dumps([argv for argv, _, _ in cases])
    end = subprocess.run([sys.executable, "-c", program], input=given, capture_output=True, text=True)
    assert end.stdout.strip() == f"{[code for _, code, _ in cases]} False", end.stderr
    for _, _, message in cases:
        assert message in end.stderr
    assert (tmp_path / "afile").read_text() == "mine"


def test_features_below_a_linked_folder_find_their_manifest(model, toy, tmp_path):
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/away")
    run = features.Config(model=model, betons=(toy.train,), out=tmp_path / "link", loader="torch", workers=1)
    features.run(run)
    manifest = manifest_path(toy.train).resolve()
    for folder in ("link", "far/away"):
        found = open_features(tmp_path / folder / "train.features.npz")
        assert found.manifest == manifest
        assert found.order == order_fingerprint(manifest)
    (tmp_path / "one.features.npz").symlink_to(tmp_path / "far/away/train.features.npz")
    assert open_features(tmp_path / "one.features.npz").manifest == manifest


@pytest.mark.processes
def test_existing_features_in_another_order_of_the_images_are_refused(done, model, toy, tmp_path):
    arrays, meta = open_arrays(done / "train.features.npz", FORMAT)
    config = features.Config(model=model, betons=(toy.train,), out=tmp_path)
    save_arrays(tmp_path / "train.features.npz", arrays, {k: v for k, v in meta.items() if k != "order"})
    features.run(config)  # older files do not tell
    save_arrays(tmp_path / "train.features.npz", arrays, {**meta, "order": "00000000"})
    with pytest.raises(InputError, match=r"in another order than .*train\.manifest\.npz; give another --out"):
        features.run(config)


def test_parts_of_the_processes_are_joined_block_by_block_without_a_copy_in_memory(tmp_path):
    whole = (np.arange(30_000 * 64) % 1999).reshape(30_000, 64).astype(np.float16)
    parts = [tmp_path / f"{rank}.npy" for rank in range(4)]
    for part, rows in zip(parts, (whole[:9_000], whole[9_000:29_999], None, whole[29_999:])):
        if rows is not None:  # a rank without rows leaves no part
            np.save(part, rows)
    tracemalloc.start()
    found = joined(tmp_path / "whole", len(whole), parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, whole)
    assert peak < 2.5 * 8192 * 64 * 2  # a block as an array and as bytes
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"resolution": 0}, "--resolution 0"), ({"batch_size": 0}, "--batch-size 0"), ({"workers": -1}, "--workers -1")],
)
def test_mistakes_are_named_before_the_output_is_touched(model, toy, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        features.run(features.Config(model=model, betons=(toy.train,), out=tmp_path / "new", **change))
    assert not (tmp_path / "new").exists()


@pytest.mark.processes
def test_the_plain_loader_gives_nearly_the_same(done, model, toy, tmp_path):
    features.run(features.Config(model=model, betons=(toy.train,), out=tmp_path, loader="torch", workers=1))
    plain, _ = open_arrays(tmp_path / "train.features.npz", FORMAT)
    fast, _ = open_arrays(done / "train.features.npz", FORMAT)
    difference = np.abs(plain["logits"].astype(np.float32) - fast["logits"].astype(np.float32))
    assert difference.mean() < 0.02 * np.abs(fast["logits"]).mean()


def test_8_bit_features_are_those_of_float32_within_half_a_step_and_logits_do_not_change(model, toy, tmp_path):
    kinds = ("float16", "float32", "int8")
    files = {}
    for kind in kinds:
        made = features.Config(
            model=model, betons=(toy.train,), out=tmp_path / kind, loader="torch", features_dtype=kind
        )
        features.run(made)
        files[kind] = tmp_path / kind / "train.features.npz"
        written = files[kind].stat().st_mtime_ns
        features.run(made)
        assert files[kind].stat().st_mtime_ns == written
    found = {kind: open_features(file) for kind, file in files.items()}
    exact = np.asarray(found["float32"].features)
    assert exact.dtype == np.float32
    assert np.array_equal(exact.astype(np.float16), found["float16"].features)
    half = np.ptp(exact, axis=1, keepdims=True) / 510
    assert (np.abs(np.asarray(found["int8"].features) - exact) <= 1.001 * half + 1e-6).all()
    assert len({np.asarray(one.logits).tobytes() for one in found.values()}) == 1
    assert open_arrays(files["int8"], FORMAT)[0]["features"].dtype == np.int8
    with pytest.raises(InputError, match="features_dtype: 'int8' -> 'float16'"):
        features.run(features.Config(model=model, betons=(toy.train,), out=tmp_path / "int8", loader="torch"))


def test_thumbnails_in_8_bits_are_within_half_a_step_of_the_others(toy, tmp_path):
    found = []
    for kind in ("float32", "int8"):
        features.run(features.Config(thumbnail=True, betons=(toy.train,), out=tmp_path / kind, features_dtype=kind))
        found.append(open_features(tmp_path / kind / "train.features.npz"))
    exact = np.asarray(found[0].features)
    half = np.ptp(exact, axis=1, keepdims=True) / 510
    assert (np.abs(np.asarray(found[1].features) - exact) <= 1.001 * half + 1e-6).all()
    assert np.array_equal(found[0].hashes, found[1].hashes)
    with pytest.raises(InputError, match="give another --out"):
        features.run(features.Config(thumbnail=True, betons=(toy.train,), out=tmp_path / "int8"))


def test_another_kind_of_number_is_refused_in_one_line(model, toy, tmp_path, capsys):
    given = ["features", "--model", str(model), "--betons", str(toy.train), "--out", str(tmp_path)]
    assert prune.main([*given, "--features-dtype", "int4"]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "int4" in said
    assert "int8" in said


def test_a_network_comes_back_as_it_was_saved(model):
    network, spec = networks.load_model(model)
    weights = load_file(str(model / "model.safetensors"))
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert spec["classes"] == SPEC["classes"]
    assert not network.training


def test_foreign_and_damaged_models_get_one_line(model, tmp_path):
    with pytest.raises(InputError, match="not a trained model"):
        networks.load_model(tmp_path)
    save_file({"x": torch.zeros(2)}, str(tmp_path / "model.safetensors"))
    write_json(tmp_path / "model.json", read_json(model / "model.json"))
    with pytest.raises(InputError, match="of another network") as error:
        networks.load_model(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(InputError, match="damaged"):
        networks.load_model(tmp_path)
    write_json(tmp_path / "model.json", {**SPEC, "arch": "resnet18x"})
    with pytest.raises(InputError, match="'resnet18x' is not one of timm's"):
        networks.load_model(tmp_path)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 8), ("half", 16), ("small", 32)])
def test_the_stem_decides_how_much_of_a_small_image_is_left(stem, side):
    network = networks.build({**SPEC, "stem": stem})
    x = network.maxpool(network.act1(network.bn1(network.conv1(torch.zeros(1, 3, 32, 32)))))
    assert x.shape[2:] == (side, side)


@pytest.mark.parametrize("arch", ["resnet50", "vit_tiny_patch16_224", "convnext_atto"])
def test_features_feed_the_classifier_in_every_family(arch):
    network = networks.build({"arch": arch, "classes": ["a", "b", "c"]}).eval()
    with torch.no_grad():
        pooled, logits = networks.features_and_logits(network, x := torch.randn(2, 3, 224, 224))
        torch.testing.assert_close(logits, network(x))
    assert pooled.shape == (2, network.num_features)
    assert logits.shape == (2, 3)


def test_a_stem_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="fits timm's ResNets only"):
        networks.build({"arch": "vit_tiny_patch16_224", "classes": ["a", "b"], "stem": "half"})
