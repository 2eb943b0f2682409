"""`prune features --logits summary`: without the logits scores are the same, and what needs all of them says so."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torch import nn

from prune import features, score, selection
from prune.data.dataset import open_dataset
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays, save_arrays
from prune.models import networks
from prune.models.feature_extraction import joined
from prune.models.linear_head import linear_head_of
from prune.runs.files import InputError
from prune.scores.feature_files import FORMAT, open_features, write_features
from prune.scores.logit_summary import LogitSummary, difficulty_of, summarised, summary_names
from prune.scores.streaming import as_float16, widen
from prune.scores.surrogate_check import right_predictions

BY_CHANCE = ("class/lm-chance/", "class/lm-apart/")
CLASSES = [f"class {k}" for k in range(12)]
MODEL = {"arch": "any", "classes": CLASSES, "fingerprint": "any"}


@pytest.fixture(scope="module")
def case(toy, tmp_path_factory):
    """Features by a network that lists the source's classes in another order; the target has six of them."""
    root = tmp_path_factory.mktemp("summary")
    torch.manual_seed(0)
    names = open_dataset(toy.source).manifest.classes
    spec = {
        "arch": "resnet18", "kwargs": {"channels": [8, 8, 16, 16]}, "stem": "half", "resolution": 24,
        "classes": names[::-1], "mean": networks.MEAN, "std": networks.STD,
    }  # fmt: skip
    network = networks.build(spec)
    nn.init.normal_(network.get_classifier().weight, std=2)
    networks.save_model(root / "model", network, spec)
    for logits in ("all", "summary"):
        extracted(SimpleNamespace(root=root), toy, root / logits, logits)
    return SimpleNamespace(root=root, toy=toy, k=len(names))


def extracted(case, toy, out, logits, **flags):
    common = {"loader": "torch", "workers": 1, "batch_size": 97} | flags
    features.run(features.Config((toy.source, toy.train), out, case.root / "model", logits=logits, **common))


def scored(source, target, out, also=("prototype",)):
    score.run(score.Config((source,), out, () if target is None else (target,), also=also, workers=1))
    return open_arrays(out, score.FORMAT)[0]


def assert_same_but_for_chance(one, other, bound):
    """Every array byte for byte; votes by chance of the logits differ by less than this share of their sum."""
    assert list(one) == list(other)
    for name, values in one.items():
        if name.startswith("class/lm-chance/"):
            assert np.abs(values - other[name]).sum() < bound * values.sum(), name
        elif name.startswith("class/lm-apart/"):
            assert np.abs(values - other[name]).max() < bound, name
        else:
            assert values.tobytes() == other[name].tobytes(), name


def test_scores_from_a_summary_are_those_from_all_logits_byte_for_byte(case, tmp_path):
    found = [
        scored(case.root / kind / "source.features.npz", case.root / kind / "train.features.npz", tmp_path / kind)
        for kind in ("all", "summary")
    ]
    assert {f"sample/{name}" for name in ("el2n", "grand", "entropy", "margin", "least-confidence", "prototype")} <= {
        *found[1]
    }
    assert {"class/lm/train", "class/lm-chance/train"} <= {*found[1]}
    assert_same_but_for_chance(*found, 1e-3)
    files = [open_features(case.root / kind / "source.features.npz") for kind in ("all", "summary")]
    assert right_predictions(files[0]) == right_predictions(files[1])


def test_a_summary_takes_24_bytes_an_image_and_the_last_layer_once(case):
    whole, small = (case.root / kind / "source.features.npz" for kind in ("all", "summary"))
    n, d = open_features(small).features.shape
    assert open_features(small).logits.shape == (n, 0)
    saved = whole.stat().st_size - small.stat().st_size
    head = (d + 1) * case.k * 4
    assert abs(saved - (n * (2 * case.k - 24) - head)) < 2000  # headers of the arrays
    assert open_features(small).summary.values.itemsize * len(summary_names()) == 24


def test_a_target_of_some_of_the_classes_keeps_its_logits_in_the_same_file(case):
    whole, same = (case.root / kind / "train.features.npz" for kind in ("all", "summary"))
    assert open_features(same).logits.shape[1] == case.k
    assert whole.read_bytes() == same.read_bytes()


def test_a_second_call_returns_at_once_and_another_kind_of_logits_is_refused(case, toy):
    place = case.root / "summary" / "source.features.npz"
    before = place.stat().st_mtime_ns
    extracted(case, toy, case.root / "summary", "summary")
    assert place.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="logits: 'summary' -> 'all'"):
        extracted(case, toy, case.root / "summary", "all")
    with pytest.raises(InputError, match="logits: 'all' -> 'summary'"):
        extracted(case, toy, case.root / "all", "summary")


def test_the_last_layer_is_that_of_the_network(case):
    network, _ = networks.load_model(case.root / "model")
    head = linear_head_of(network, 24)
    classifier = network.get_classifier()
    assert np.allclose(head[:-1].T, classifier.weight.detach().numpy(), atol=1e-5)
    assert np.allclose(head[-1], classifier.bias.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("step", ["suspects", "influence"])
def test_what_needs_all_logits_refuses_a_summary_and_names_the_flag(case, tmp_path, step):
    source, target = (case.root / "summary" / f"{name}.features.npz" for name in ("source", "train"))
    with pytest.raises(InputError, match=f"--also {step}: .*source.* `prune features --logits all` with another --out"):
        scored(source, target, tmp_path / "scores.npz", (step,))
    assert not (tmp_path / "scores.npz").exists()


def test_a_target_of_known_classes_whose_logits_are_a_summary_is_refused(case, toy, tmp_path):
    manifest = case.toy.source.with_name("source.manifest.npz")
    held = open_features(case.root / "summary" / "source.features.npz")
    target = tmp_path / "other.features.npz"
    write_features(
        target, held.features, held.logits, Manifest.load(manifest), manifest, held.model, summary=held.summary
    )
    with pytest.raises(InputError, match=r"votes of the target other: .*--logits all"):
        scored(held.path, target, tmp_path / "scores.npz")


def test_a_summary_of_an_index_is_that_of_its_images(case, toy, tmp_path):
    index = tmp_path / "third.index.npz"
    selection.run(selection.Config(index, manifest=toy.source.with_name("source.manifest.npz"), method="random",
                                   keep=(0.3,)))  # fmt: skip
    extracted(case, toy, tmp_path, "summary", index=index)
    part, whole = (open_features(place / "source.features.npz") for place in (tmp_path, case.root / "summary"))
    assert part.partial
    assert np.allclose(part.summary.values, whole.summary.values[part.rows], atol=1e-3)


def test_the_parts_of_several_processes_become_one_summary(tmp_path):
    values = np.arange(30, dtype=np.float32).reshape(5, 6) / 7
    parts = [tmp_path / f"{k}.npy" for k in range(3)]  # the third process had no images
    for path, rows in zip(parts, (slice(0, 3), slice(3, 5))):
        np.save(path, values[rows])
    whole = joined(tmp_path / "whole", 5, parts)
    assert whole.dtype == np.float32
    assert np.array_equal(whole, values)


def test_thumbnails_have_no_logits_to_summarise(toy, tmp_path):
    with pytest.raises(InputError, match="--logits summary goes with --model"):
        features.run(features.Config((toy.source,), tmp_path, thumbnail=True, logits="summary"))


def test_a_network_whose_logits_are_no_linear_function_of_its_features_is_refused():
    network = timm.create_model("resnet18", channels=(8, 8, 8, 8), num_classes=5)
    network.fc = nn.Sequential(nn.Linear(8, 5), nn.Tanh())
    with pytest.raises(InputError, match=r"classifier of this ResNet is not linear.* --logits all"):
        linear_head_of(network, 32)
    twice = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5, depth=1)
    with pytest.raises(InputError, match=r"has two classifiers.* --logits all"):
        linear_head_of(twice, 224)


def test_a_summary_whose_arrays_do_not_fit_is_refused(case, tmp_path):
    arrays, meta = open_arrays(case.root / "summary" / "source.features.npz", FORMAT)
    damaged = {"values": {"summary": arrays["summary"][:, :3]}, "head": {"head": arrays["head"][1:]}}
    for name, change in damaged.items():
        save_arrays(tmp_path / f"{name}.features.npz", {**arrays, **change}, meta)
        with pytest.raises(InputError, match="the summary of the logits is damaged"):
            open_features(tmp_path / f"{name}.features.npz")


def test_the_numbers_of_a_summary_are_those_worked_out_by_hand():
    # Logits (0, ln 3) are probabilities (1/4, 3/4); the third class is not the source's. The feature has the norm 5.
    logits = np.array([[0, 9, np.log(3)]], np.float16)
    row = summarised(np.array([[3, 4]], np.float16), logits, np.array([1]), np.array([0, 2]))[0]
    found = dict(zip(summary_names(), row.tolist()))
    error = np.sqrt(2) / 4
    wanted = {
        "entropy": np.log(4) - 0.75 * np.log(3), "margin": 0.5, "least-confidence": 0.25, "el2n": error,
        "grand": error * np.sqrt(26), "right": 1,
    }  # fmt: skip
    assert found == pytest.approx(wanted, rel=1e-3)
    assert summarised(np.zeros((1, 2), np.float16), logits, np.array([0]), np.array([0, 2]))[0][-1] == 0


@pytest.mark.parametrize("columns", [None, np.random.default_rng(1).permutation(300)[:287]])
def test_scores_of_an_image_do_not_depend_on_its_batch(columns):
    rng = np.random.default_rng(0)
    z, labels = as_float16(3 * rng.normal(size=(130, 300))), rng.integers(0, 287, 130)
    squared = rng.random(130).astype(np.float32)
    whole = difficulty_of(z, labels, squared, columns)
    for cuts in ([1, 2, 4, 64], [129], [7, 77]):
        parts = [
            difficulty_of(z[rows], labels[rows], squared[rows], columns)
            for rows in (slice(a, b) for a, b in zip([0, *cuts], [*cuts, 130]))
        ]
        for name, values in whole.items():
            assert np.concatenate([part[name] for part in parts]).tobytes() == values.tobytes(), name


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """3,000 drawn images of 12 classes, whole with all logits, whole as a summary, and as a summary in three shards."""
    root = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    n, d, c = 3000, 16, len(CLASSES)
    head = rng.normal(size=(d + 1, c)).astype(np.float32)

    def images(n, labels):
        x = (2 * np.eye(c, d)[labels] + rng.normal(size=(n, d))).astype(np.float32)
        return as_float16(x), as_float16(x @ head[:-1] + head[-1])

    def write(place, name, rows, x, z, labels, *, summary, shard=None):
        zeros, digests = np.full(len(rows), 8, np.int32), np.asarray(rows, np.uint64)
        ids = np.array([b"%06d.jpg" % row for row in rows])
        meta = {"config": {"shard": shard} if shard else {}}
        manifest = root / place / f"{name}.manifest.npz"
        Manifest(ids, labels[rows].astype("i4"), zeros, zeros, zeros, digests, zeros.astype("u4"), CLASSES, meta).save(
            manifest
        )
        values = summarised(x[rows], z[rows], labels[rows], np.arange(c)) if summary else None
        kept = None if values is None else LogitSummary(summary_names(), values, head)
        out = root / f"features-{place}" / f"{name}.features.npz"
        write_features(out, x[rows], z[rows], Manifest.load(manifest), manifest, MODEL, summary=kept)
        return out

    labels = np.sort(rng.integers(0, c, n))
    x, z = images(n, labels)
    whole = np.arange(n)
    for kind in ("all", "summary"):
        write(kind, "photos", whole, x, z, labels, summary=kind == "summary")
    for k, rows in enumerate(np.split(whole, [700, 1701])):
        write("shards", str(k + 1), rows, x, z, labels, summary=True, shard=f"{k + 1}/3")
    few = rng.integers(0, 3, 500)
    target = write("t", "t.train", np.arange(500), *images(500, few), few, summary=False)
    files = {kind: root / f"features-{kind}" / "photos.features.npz" for kind in ("all", "summary")}
    return SimpleNamespace(root=root, target=target, shards=root / "features-shards", **files)


def test_votes_by_chance_from_the_last_layer_differ_by_less_than_a_thousandth(drawn, tmp_path):
    found = [scored(getattr(drawn, kind), drawn.target, tmp_path / f"{kind}.npz") for kind in ("all", "summary")]
    assert_same_but_for_chance(*found, 1e-3)
    assert found[0]["class/lm-chance/t.train"].sum() == pytest.approx(500, rel=1e-5)


def test_scores_of_shards_with_summaries_are_those_of_one_file_byte_for_byte(drawn, tmp_path):
    also = ("prototype", "duplicates", "domain")
    one, shards = (
        scored(path, drawn.target, tmp_path / f"{k}.npz", also) for k, path in enumerate((drawn.summary, drawn.shards))
    )
    assert one.keys() == shards.keys()
    for name, values in one.items():
        assert values.tobytes() == shards[name].tobytes(), name


def test_shards_of_summaries_and_of_all_logits_do_not_mix(drawn, tmp_path):
    (tmp_path / "shards").symlink_to(drawn.root / "shards")
    folder = tmp_path / "features-shards"
    folder.mkdir()
    for k in (1, 2, 3):
        (folder / f"{k}.features.npz").write_bytes((drawn.shards / f"{k}.features.npz").read_bytes())
    held = open_features(drawn.shards / "2.features.npz")
    logits = as_float16(widen(held.features) @ held.summary.head[:-1] + held.summary.head[-1])
    manifest = tmp_path / "shards" / "2.manifest.npz"
    write_features(folder / "2.features.npz", held.features, logits, Manifest.load(manifest), manifest, MODEL)
    with pytest.raises(InputError, match=r"2\.features\.npz: holds all logits, and .*1\.features\.npz a summary"):
        open_features(folder)
