"""The gate through the public commands: thumbnails, odds, width, and the cascade in which the surrogate sees a part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from prune import features, score, selection, write
from prune.index.npz import open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.models import networks
from prune.runs.files import InputError
from prune.scores.feature_files import open_features

ALIKE, OTHER = ("rose", "tulip"), ("one", "two", "three")


def picture(rng, kind):
    """A colourful smooth picture, or a black scrawl on white."""
    if kind in ALIKE:
        small = rng.integers(40, 220, (4, 4, 3)).astype(np.uint8)
        return Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC)
    return Image.fromarray(np.where(rng.random((32, 32, 1)) < 0.2, 0, 255).astype(np.uint8).repeat(3, axis=2))


def folder(root, counts, seed):
    rng = np.random.default_rng(seed)
    for kind, count in counts.items():
        (root / kind).mkdir(parents=True)
        for i in range(count):
            picture(rng, kind).save(root / kind / f"{i:03}.png")
    return str(root)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A source of which 80 of 380 images look like the target, its thumbnails, and a gate's scores."""
    root = tmp_path_factory.mktemp("gate")
    counts = dict.fromkeys(ALIKE, 40) | dict.fromkeys(OTHER, 100)
    write.run(write.Config(images=folder(root / "source", counts, 0), out=root / "source.beton"))
    write.run(write.Config(images=folder(root / "pets", dict.fromkeys(ALIKE, 40), 1), out=root / "pets.beton"))
    betons = (root / "source.beton", root / "pets.beton")
    features.run(features.Config(betons=betons, thumbnail=True, out=root / "thumbs"))
    score.run(
        score.Config(
            source=(root / "thumbs/source.features.npz",),
            targets=(root / "thumbs/pets.features.npz",),
            also=("domain",),
            out=root / "gate.npz",
        )
    )
    gate = selection.run(selection.Config(scores=root / "gate.npz", method="gate", out=root / "gate.index.npz"))
    return root, PrunedIndex.load(gate)


def names(index):
    return [bytes(name).decode().split("/")[0] for name in index.ids]


def test_the_gate_finds_its_width_and_lets_through_what_looks_like_the_target(pool):
    root, index = pool
    assert set(names(index)) == set(ALIKE)
    assert len(index) == pytest.approx(80, abs=4)
    assert index.provenance[-1]["gate"]["width"] == pytest.approx(80 / 380, abs=0.01)
    assert open_arrays(root / "gate.npz", "winnow-scores/1")[1]["gates"]["domain"]["reason"] == "shut"


def test_a_gate_comes_before_quota_and_rank_and_opens_where_the_budget_needs_it(pool, tmp_path, capsys):
    root, _ = pool
    base = {"scores": root / "gate.npz", "gate": "auto", "method": "random"}
    small = PrunedIndex.load(selection.run(selection.Config(**base, keep=0.1, out=tmp_path / "a.npz")))
    assert (len(small), set(names(small))) == (38, set(ALIKE))
    large = PrunedIndex.load(selection.run(selection.Config(**base, keep=0.5, out=tmp_path / "b.npz")))
    assert len(large) == 190
    assert names(large).count("rose") + names(large).count("tulip") >= 76
    assert "opened to 50.0% of the source" in capsys.readouterr().err


def test_floors_protected_classes_and_samples_of_always_hold_whatever_the_gate_says(pool, tmp_path):
    root, _ = pool
    (tmp_path / "always.txt").write_text("two/007.png\n")
    config = selection.Config(
        scores=root / "gate.npz", gate="auto", method="random", keep=0.4, floor=3, protect=("one",),
        always=tmp_path / "always.txt", out=tmp_path / "x.npz",
    )  # fmt: skip
    kept = names(index := PrunedIndex.load(selection.run(config)))
    assert kept.count("one") == 100
    assert b"two/007.png" in index.ids
    assert min(kept.count(kind) for kind in (*ALIKE, *OTHER)) >= 3


def save_untrained_model(place):
    """A small ResNet-18 with random weights that knows the source's classes."""
    torch.manual_seed(0)
    spec = {"arch": "resnet18", "kwargs": {"channels": [8, 8, 8, 8]}, "stem": "half", "resolution": 16,
            "classes": sorted((*ALIKE, *OTHER)), "mean": networks.MEAN, "std": networks.STD}  # fmt: skip
    networks.save_model(place, networks.build(spec), spec)


def test_a_cascade_scores_what_passed_alone_and_never_keeps_an_image_without_features(pool, tmp_path):
    root, gate = pool
    save_untrained_model(tmp_path / "model")
    betons = (root / "source.beton", root / "pets.beton")
    config = features.Config(betons=betons, model=tmp_path / "model", index=root / "gate.index.npz",
                             loader="torch", out=tmp_path / "f")  # fmt: skip
    features.run(config)
    part = open_features(tmp_path / "f/source.features.npz")
    assert (len(part), part.total, part.partial) == (len(gate), 380, True)
    assert np.array_equal(part.rows, gate.positions)
    score.run(
        score.Config(
            source=(tmp_path / "f/source.features.npz",),
            targets=(tmp_path / "f/pets.features.npz",),
            gate=root / "gate.npz",
            also=("prototype", "duplicates", "influence"),
            out=tmp_path / "s.npz",
        )
    )
    arrays = open_arrays(tmp_path / "s.npz", "winnow-scores/1")[0]
    without = np.setdiff1d(np.arange(380), gate.positions)
    for name in ("el2n", "entropy", "prototype", "influence"):
        values = np.asarray(arrays[f"sample/{name}"])
        assert values.shape == (380,)
        assert np.isnan(values[without]).all()
        assert np.isfinite(values[gate.positions]).all()
    assert np.array_equal(
        arrays["sample/domain"], open_arrays(root / "gate.npz", "winnow-scores/1")[0]["sample/domain"]
    )
    for method in ("winnow", "dp4tl-lm", "el2n", "influence", "d2", "d2-global", "k-center", "herding"):
        chosen = selection.Config(
            scores=tmp_path / "s.npz", gate="auto", method=method, keep=0.1, out=tmp_path / f"{method}.npz"
        )
        assert set(names(PrunedIndex.load(selection.run(chosen)))) <= set(ALIKE), method


@pytest.mark.parametrize("gated", [False, True])
def test_features_of_a_sample_of_the_source_give_class_votes_by_which_all_of_its_images_are_chosen(
    pool, tmp_path, gated
):
    root, gate = pool
    save_untrained_model(tmp_path / "model")
    base = {"betons": (root / "source.beton", root / "pets.beton"), "model": tmp_path / "model", "loader": "torch",
            "index": root / "gate.index.npz" if gated else None}  # fmt: skip
    arrays = {}
    for name, more in {"all": {}, "part": {"sample": 0.25, "seed": 3}}.items():
        features.run(features.Config(**base, **more, out=tmp_path / name))
        score.run(
            score.Config(
                source=(tmp_path / name / "source.features.npz",),
                targets=(tmp_path / name / "pets.features.npz",),
                gate=root / "gate.npz",
                out=tmp_path / f"{name}.npz",
            )
        )
        arrays[name] = open_arrays(tmp_path / f"{name}.npz", "winnow-scores/1")[0]
    part = open_features(tmp_path / "part/source.features.npz")
    whole = gate.positions if gated else np.arange(380)
    assert (len(part), part.total) == (round(len(whole) / 4), 380)
    assert set(part.rows) < set(whole)
    counts = np.bincount(part.label, minlength=5)
    expected = np.bincount(np.asarray(arrays["all"]["label"])[whole], minlength=5) / 4
    assert np.abs(counts - expected).max() <= 1  # every class in proportion
    assert len(open_features(tmp_path / "part/pets.features.npz")) == 80  # of targets all
    # LM votes come from the targets' logits alone: a pass over the source adds nothing to them.
    assert np.array_equal(arrays["part"]["class/lm/pets"], arrays["all"]["class/lm/pets"])
    assert arrays["part"]["class/fm/pets"].sum() == pytest.approx(80)
    for method in ("evidence", "dp4tl-lm", "dp4tl-fm"):
        out = tmp_path / f"{method}.index.npz"
        config = selection.Config(scores=tmp_path / "part.npz", gate="auto", method=method, keep=0.2, out=out)
        kept = PrunedIndex.load(selection.run(config))
        assert len(kept) == 76
        assert len(np.setdiff1d(kept.positions, part.rows)) > 40, method  # most of them have no features


def test_a_sample_is_drawn_again_alike_by_its_seed_and_another_one_makes_the_features_anew(pool, tmp_path):
    root, _ = pool
    save_untrained_model(tmp_path / "model")
    base = {"betons": (root / "source.beton",), "model": tmp_path / "model", "loader": "torch", "sample": 0.1}
    rows = []
    for seed, out in ((0, "a"), (0, "b"), (1, "c")):
        features.run(features.Config(**base, seed=seed, out=tmp_path / out))
        rows.append(open_features(tmp_path / out / "source.features.npz").rows)
    assert np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
    with pytest.raises(InputError, match="other"):
        features.run(features.Config(**base, seed=1, out=tmp_path / "a"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"sample": 0.0}, r"--sample 0.0: a share in \(0, 1\] is needed"),
        ({"sample": 1.5}, "--sample 1.5"),
        ({"sample": 0.5, "thumbnail": True, "model": None}, "--sample goes with --model"),
    ],
)
def test_a_sample_that_cannot_be_is_refused(pool, tmp_path, more, words):
    config = {"betons": (pool[0] / "source.beton",), "model": tmp_path / "model", "out": tmp_path / "f"}
    with pytest.raises(InputError, match=words):
        features.run(features.Config(**config | more))


@pytest.mark.parametrize(
    ("gate", "words"),
    [("domain:0", "a share in"), ("domain:2", "a share in"), ("domain:x", "a share in"), ("cats:0.5", "no cats score")],
)
def test_a_gate_that_cannot_be_is_refused(pool, tmp_path, gate, words):
    root, _ = pool
    config = selection.Config(scores=root / "gate.npz", gate=gate, method="random", keep=0.1, out=tmp_path / "x.npz")
    with pytest.raises(InputError, match=words):
        selection.run(config)
    assert list(tmp_path.iterdir()) == []


def test_odds_come_from_these_features_or_from_another_file(pool, tmp_path):
    root, _ = pool
    both = {"targets": (root / "thumbs/pets.features.npz",), "out": tmp_path / "x.npz"}
    source = (root / "thumbs/source.features.npz",)
    with pytest.raises(InputError, match="give one"):
        score.run(score.Config(source=source, also=("domain",), gate=root / "gate.npz", **both))
    with pytest.raises(InputError, match="--also domain needs --targets"):
        score.run(score.Config(source=source, also=("domain",), out=tmp_path / "x.npz"))
    with pytest.raises(InputError, match="give either --model or --thumbnail"):
        features.run(features.Config(betons=(root / "source.beton",), out=tmp_path))
