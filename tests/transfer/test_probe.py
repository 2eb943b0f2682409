"""Probe, nearest neighbours and fine-tuning as commands: a network, two small betons, and the files they write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prune import write
from prune.data.dataset import open_dataset
from prune.index.npz import open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.models import networks
from prune.models.forward_flops import forward_flops
from prune.runs.files import InputError
from transfer import finetune, knn, probe
from transfer.evaluation import target_splits
from transfer.evaluation.evaluation_result import FORMAT
from transfer.evaluation.target_splits import target_name

SPEC = {
    "arch": "resnet18",
    "kwargs": {"channels": [8, 8, 8, 8]},
    "stem": "half",
    "classes": ["one", "two"],
    "resolution": 16,
    "mean": networks.MEAN,
    "std": networks.STD,
}
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def tree(root, counts, seed):
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(COLOURS[name] + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return str(root)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A model directory and betons: pets.train, pets.test (without blue images) and other.test (another class list)."""
    folder = tmp_path_factory.mktemp("probe")
    torch.manual_seed(0)
    network = networks.build(SPEC)
    networks.save_model(folder / "model", network, SPEC)
    train = tree(folder / "train", {"red": 12, "green": 12, "blue": 12}, 0)
    write.run(write.Config(images=train, out=folder / "pets.train.beton", workers=1))
    test = tree(folder / "test", {"red": 5, "green": 4}, 1)
    names = folder / "pets.train.manifest.npz"
    write.run(write.Config(images=test, out=folder / "pets.test.beton", classes=names, workers=1))
    write.run(write.Config(images=test, out=folder / "other.test.beton", workers=1))
    return folder


def config(case, out, **more):
    values = {"model": case / "model", "train": case / "pets.train.beton", "test": case / "pets.test.beton"}
    return probe.Config(**{**values, "out": out, **more})


def test_a_clear_target_is_probed_and_its_predictions_are_kept(case, tmp_path):
    out = tmp_path / "probe"
    probe.run(config(case, out))
    result = json.loads((out / "result.json").read_text())
    arrays, meta = open_arrays(out / "predictions.npz", "winnow-predictions/1")
    assert result["task"] == "probe"
    assert result["target"] == "pets"
    assert result["value"] >= 8 / 9  # even an untrained network separates plain colours
    assert (arrays["label"] == arrays["predicted"]).mean() == result["value"]
    # Folders in order: blue, green, red; no test image is blue.
    assert meta["classes"] == ["blue", "green", "red"]
    assert arrays["label"].tolist() == [1] * 4 + [2] * 5
    assert result["per_class"][0] is None
    assert result["mean_per_class"] == pytest.approx(np.mean(result["per_class"][1:]))
    assert (result["n"], result["n_train"], result["samples"]) == (9, 36, 45)
    assert arrays["confidence"].dtype == np.float32
    assert 0 <= result["ece"] <= 1


def test_a_finished_probe_is_not_repeated_and_another_is_refused(case, tmp_path, capsys):
    out = tmp_path / "probe"
    probe.run(config(case, out))
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    probe.run(config(case, out))
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(InputError, match="seed: 0 -> 1"):
        probe.run(config(case, out, seed=1))


def test_test_labels_do_not_reach_the_classifier(case, tmp_path):
    """With shuffled test labels the predictions stay what they were."""
    folder = tmp_path / "shuffled"
    colours = {"red": "green", "green": "red"}
    for name in colours:
        (folder / colours[name]).mkdir(parents=True)
        for path in (case / "test" / name).iterdir():
            (folder / colours[name] / f"{name}-{path.name}").write_bytes(path.read_bytes())
    beton = tmp_path / "pets.test.beton"
    write.run(write.Config(images=str(folder), out=beton, classes=case / "pets.train.manifest.npz", workers=1))
    probe.run(config(case, tmp_path / "a"))
    probe.run(config(case, tmp_path / "b", test=beton))
    first, second = (open_arrays(tmp_path / k / "predictions.npz", FORMAT)[0]["predicted"] for k in "ab")
    assert sorted(first.tolist()) == sorted(second.tolist())
    results = [json.loads((tmp_path / k / "result.json").read_text()) for k in "ab"]
    assert results[0]["regularisation"] == results[1]["regularisation"]
    assert results[0]["value"] + results[1]["value"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"test": "other.test.beton"}, "class list is not that of"),
        ({"test": "pets.train.beton"}, "holds the same images"),
        ({"test": "absent.beton"}, "absent.beton"),
        ({"model": "train"}, "not a trained model"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_is_written(case, tmp_path, more, said):
    with pytest.raises(InputError, match=said):
        probe.run(config(case, tmp_path / "out", **{k: case / v for k, v in more.items()}))
    assert not (tmp_path / "out").exists()


def result_of(out):
    return json.loads((out / "result.json").read_text())


def test_few_shots_and_neighbours_reuse_the_features_of_the_probe(case, tmp_path, monkeypatch):
    probe.run(config(case, tmp_path / "probe"))
    shared = tmp_path / "probe/features"
    monkeypatch.setattr("prune.models.feature_extraction.extract", None)  # computing features again would fail
    probe.run(config(case, tmp_path / "few", shots=5, features=shared))
    few = result_of(tmp_path / "few")
    assert (few["task"], few["shots"], few["n_train"], few["n"]) == ("few-shot", 5, 15, 9)
    assert few["value"] >= 7 / 9
    values = {"model": case / "model", "train": case / "pets.train.beton", "test": case / "pets.test.beton"}
    knn.run(knn.Config(**values, out=tmp_path / "knn", k=5, features=shared))
    near = result_of(tmp_path / "knn")
    arrays, meta = open_arrays(tmp_path / "knn/predictions.npz", FORMAT)
    assert near["task"] == "knn"
    assert near["value"] == (arrays["label"] == arrays["predicted"]).mean() >= 7 / 9
    assert meta["classes"] == ["blue", "green", "red"]
    assert 0 <= near["ece"] <= 1
    with pytest.raises(InputError, match="k: 5 -> 6"):
        knn.run(knn.Config(**values, out=tmp_path / "knn", k=6, features=shared))


@pytest.mark.parametrize("head", [None, "new", "probe"])
def test_a_model_and_each_beton_are_opened_once(case, tmp_path, monkeypatch, head):
    opened = []

    def counted(module, name):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda place: (opened.append(Path(place).name), real(place))[1])

    counted(networks, "load_model")
    counted(target_splits, "open_dataset")
    if head is None:
        probe.run(config(case, tmp_path / "out"))
    else:
        finetune.run(tuned(case, tmp_path / "out", head=head, epochs=1))
    assert sorted(opened) == ["model", "pets.test.beton", "pets.train.beton"]


def test_splits_of_one_name_are_refused_since_their_features_would_overwrite_each_other(case, tmp_path):
    for split in ("train", "test"):
        for kind in ("beton", "manifest.npz"):
            (tmp_path / split).mkdir(exist_ok=True)
            (tmp_path / split / f"pets.{kind}").write_bytes((case / f"pets.{split}.{kind}").read_bytes())
    places = {split: tmp_path / split / "pets.beton" for split in ("train", "test")}
    with pytest.raises(InputError, match="both named 'pets'"):
        probe.run(config(case, tmp_path / "out", **places))


def test_folders_and_betons_of_the_same_images_are_probed_alike(case, tmp_path):
    probe.run(config(case, tmp_path / "a"))
    probe.run(config(case, tmp_path / "b", train=case / "train", test=case / "test"))
    first, second = result_of(tmp_path / "a"), result_of(tmp_path / "b")
    assert first["value"] == second["value"]
    assert first["train"] == second["train"]
    with pytest.raises(InputError, match="both as betons, or both as images"):
        probe.run(config(case, tmp_path / "c", train=case / "train"))
    assert not (tmp_path / "c").exists()


def test_a_torchvision_set_by_name_is_probed(case, tmp_path, monkeypatch):
    import torchvision

    class Dots(torchvision.datasets.FakeData):
        """A set with a test part, as torchvision's own are called."""

        def __init__(self, root, train=True):
            super().__init__(24 if train else 8, (3, 16, 16), 2, random_offset=0 if train else 50)
            self.targets = [i % 2 for i in range(self.size)]

    monkeypatch.setattr(torchvision.datasets, "Dots", Dots, raising=False)
    monkeypatch.setattr(torchvision.datasets, "__all__", (*torchvision.datasets.__all__, "Dots"))
    places = {half: f"torchvision:Dots:{tmp_path}:{half}" for half in ("train", "test")}
    probe.run(config(case, tmp_path / "out", **{half: Path(place) for half, place in places.items()}))
    found = result_of(tmp_path / "out")
    assert (found["target"], found["n"], found["n_train"]) == ("dots", 8, 24)


def tuned(case, out, **more):
    values = {"model": case / "model", "train": case / "pets.train.beton", "test": case / "pets.test.beton"}
    return finetune.Config(**{**values, "out": out, "epochs": 3, "batch_size": 12, "loader": "torch", **more})


def test_fine_tuning_leaves_a_model_with_the_targets_classes(case, tmp_path, capsys):
    finetune.run(tuned(case, tmp_path / "full"))
    found = result_of(tmp_path / "full")
    assert (found["task"], found["recipe"], found["n"], found["n_train"]) == ("finetune", "small", 9, 36)
    assert found["value"] >= 6 / 9
    # 3 epochs of 3 steps of 12 images, and 9 test images.
    assert found["samples"] == 3 * 36 + 9
    network, spec = networks.load_model(tmp_path / "full")
    assert spec["classes"] == ["blue", "green", "red"]
    assert network.get_classifier().out_features == 3
    arrays, _ = open_arrays(tmp_path / "full/predictions.npz", FORMAT)
    assert (arrays["label"] == arrays["predicted"]).mean() == found["value"]
    lines = (tmp_path / "full/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert not (tmp_path / "full/checkpoint").exists()
    finetune.run(tuned(case, tmp_path / "full"))
    assert "up to date" in capsys.readouterr().err
    # What it leaves is a model directory like any other.
    probe.run(config(case, tmp_path / "again", model=tmp_path / "full"))


@pytest.mark.slow
def test_fine_tuning_on_an_index_sees_only_its_images(case, tmp_path):
    manifest = open_dataset(case / "pets.train.beton").manifest
    index = PrunedIndex.from_rows(manifest, np.flatnonzero(np.asarray(manifest.labels) != 1), provenance=[])
    index.save(tmp_path / "x.index.npz")
    for head in ("new", "probe"):
        finetune.run(tuned(case, tmp_path / head, index=tmp_path / "x.index.npz", head=head))
        found, spec = result_of(tmp_path / head), networks.load_model(tmp_path / head)[1]
        assert (found["n_train"], found["index"]) == (len(index), index.fingerprint)
        assert (spec["index"], spec["source"]) == (index.fingerprint, manifest.fingerprint)
        assert found["per_class"][1] == 0.0  # of green no image was seen: no test image of it is recognised
    PrunedIndex.from_rows(manifest, np.arange(0), provenance=[]).save(tmp_path / "none.index.npz")
    with pytest.raises(InputError, match="keeps no image"):
        finetune.run(tuned(case, tmp_path / "out", index=tmp_path / "none.index.npz"))
    assert not (tmp_path / "out").exists()


def test_the_classifier_of_a_probe_moves_into_the_network(case):
    from prune.models.networks import features_and_logits
    from transfer.evaluation.finetuning import set_head, with_new_head
    from transfer.evaluation.logistic import Linear

    backbone, spec = networks.load_model(case / "model")
    network = with_new_head(backbone, {**spec, "classes": ["a", "b", "c"]}).eval()
    images = torch.rand(4, 3, 16, 16)
    features, logits = features_and_logits(network, images)
    assert not logits.any()  # an empty classifier
    torch.testing.assert_close(features, features_and_logits(backbone, images)[0])
    rng = np.random.default_rng(0)
    one = [rng.normal(size=8).astype(np.float32) for _ in range(4)]
    # No training image of class 1 was there: the probe knows 0 and 2 alone.
    linear = Linear(
        one[0], np.abs(one[1]) + 0.5, np.stack(one[2:]), np.array([0.3, -0.2], np.float32), np.array([0, 2])
    )
    set_head(network, linear)
    x = features.detach().numpy()
    wanted = (x - linear.mean) / linear.scale @ linear.weight.T + linear.bias
    found = network.get_classifier()(features).detach().numpy()
    np.testing.assert_allclose(found[:, [0, 2]], wanted, atol=1e-4)
    assert (found[:, 1] < wanted.min(1)).all()


def test_probe_then_finetune_runs_on_shared_features(case, tmp_path):
    finetune.run(tuned(case, tmp_path / "both", head="probe", epochs=1, features=tmp_path / "shared"))
    found = result_of(tmp_path / "both")
    assert (found["head"], found["n"]) == ("probe", 9)
    assert (tmp_path / "shared/pets.train.features.npz").exists()


@pytest.mark.slow
def test_fine_tuning_that_was_stopped_resumes_to_the_same_weights(case, tmp_path, monkeypatch):
    from pretrain import preemption

    finetune.run(tuned(case, tmp_path / "whole"))
    monkeypatch.setattr("transfer.evaluation.finetuning.SHORT", 0)  # with checkpoints, as a long run has them
    steps = iter(range(99))
    monkeypatch.setattr(preemption, "stop_requested", lambda: next(steps) == 4)  # after the fifth step
    with pytest.raises(preemption.Requeue):
        finetune.run(tuned(case, tmp_path / "cut"))
    assert not (tmp_path / "cut/DONE").exists()
    assert (tmp_path / "cut/checkpoint/000000005").exists()
    finetune.run(tuned(case, tmp_path / "cut"))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [({"epochs": 0}, "--epochs 0"), ({"lr": -1.0}, "--lr -1"), ({"features": "x"}, "--head probe"),
     ({"seed": -1}, "--seed -1"),
     ({"test": "other.test.beton"}, "class list")],
)  # fmt: skip
def test_fine_tuning_refuses_before_it_writes(case, tmp_path, more, said):
    more = {k: case / v if isinstance(v, str) else v for k, v in more.items()}
    with pytest.raises(InputError, match=said):
        finetune.run(tuned(case, tmp_path / "out", **more))
    assert not (tmp_path / "out").exists()


def test_fine_tuning_never_replaces_the_model_that_it_reads(case, tmp_path):
    network, spec = networks.load_model(case / "model")
    networks.save_model(tmp_path / "model", network, spec)
    before = (tmp_path / "model/model.safetensors").read_bytes()
    with pytest.raises(InputError, match="is the directory of --model"):
        finetune.run(tuned(case, tmp_path / "model", model=tmp_path / "model"))
    assert (tmp_path / "model/model.safetensors").read_bytes() == before
    assert not (tmp_path / "model/config.json").exists()


@pytest.mark.slow
def test_a_short_fine_tuning_that_was_stopped_reports_that_it_starts_over(case, tmp_path, monkeypatch, capsys):
    from pretrain import preemption

    steps = iter(range(99))
    with monkeypatch.context() as patch:
        patch.setattr(preemption, "stop_requested", lambda: next(steps) == 4)
        with pytest.raises(preemption.Requeue):
            finetune.run(tuned(case, tmp_path / "cut"))
    assert "has no checkpoint; the same command starts it over" in capsys.readouterr().err
    assert not (tmp_path / "cut/checkpoint").exists()
    finetune.run(tuned(case, tmp_path / "cut"))
    assert result_of(tmp_path / "cut")["samples"] == 3 * 36 + 9


def test_a_target_is_named_after_its_place():
    names = [target_name(Path(p)) for p in ("x/pets.train.beton", "x/pets/train", "torchvision:CIFAR10:sets:train")]
    assert names == ["pets", "pets", "cifar10"]


def test_numbers_that_are_impossible_are_refused_before_anything_is_written(case, tmp_path):
    with pytest.raises(InputError, match="--shots 0"):
        probe.run(config(case, tmp_path / "out", shots=0))
    with pytest.raises(InputError, match="--seed -1"):
        probe.run(config(case, tmp_path / "out", seed=-1))
    values = {"model": case / "model", "train": case / "pets.train.beton", "test": case / "pets.test.beton"}
    for value in (1e-320, 0.0, float("nan")):
        with pytest.raises(InputError, match="--temperature"):
            knn.run(knn.Config(**values, out=tmp_path / "out", temperature=value))
    assert not (tmp_path / "out").exists()


def test_the_least_temperature_gives_the_nearest_image_all_of_the_vote():
    from transfer.evaluation.nearest_neighbours import classify

    train, test = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.1]])
    found = classify(train, np.array([1, 0]), test, classes=2, temperature=knn.LOWEST_TEMPERATURE)
    assert (found[0].tolist(), found[1].tolist()) == ([1], [1.0])


def test_flops_of_inference_are_counted_on_the_network():
    # One 3x3 convolution from 3 to 4 channels at 8 x 8: 2 * 27 * 4 * 64 = 13,824 FLOPs.
    assert forward_flops(torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), 8) == 13824
