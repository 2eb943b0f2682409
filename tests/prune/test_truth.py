"""On the generated data, whose truth is known: what a surrogate of a minute finds of it, from pictures to index."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pretrain import train
from prune import features, generate, score, selection, write
from prune.index.manifest import Manifest
from prune.index.npz import open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import read_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Source and target as `prune generate` draws them, scored by one surrogate; the truth as rows and class numbers.

    Twelve source images, stored anew at another quality, are put among the target's test images.
    """
    root = tmp_path_factory.mktemp("truth")
    generate.run(generate.Config(out=root / "data"))
    truth = read_json(root / "data/truth.json")
    leaked = [f"{name}/{i:04d}.jpg" for name in truth["relevant"] for i in (20, 21)]
    for i, name in enumerate(leaked):
        with Image.open(root / "data/source/train" / name) as image:
            image.save(root / "data/signs/test" / name.split("/")[0] / f"9{i:03d}.jpg", quality=75)
    betons = {"source": "source/train", "signs.train": "signs/train", "signs.test": "signs/test"}
    for name, folder in betons.items():
        write.run(write.Config(images=str(root / "data" / folder), out=root / f"{name}.beton"))
    train.run(train.Config(beton=root / "source.beton", out=root / "surrogate", recipe="demo", threads=1))
    places = tuple(root / f"{name}.beton" for name in betons)
    features.run(features.Config(model=root / "surrogate", betons=places, out=root))
    source, target, test = (root / f"{name}.features.npz" for name in betons)
    score.run(score.Config((source,), root / "scores.npz", (target,), ("duplicates", "suspects"), leaks=(test,)))
    manifest = Manifest.load(root / "source.manifest.npz")
    row = {name.decode(): i for i, name in enumerate(manifest.ids)}
    return SimpleNamespace(
        root=root,
        scores=open_arrays(root / "scores.npz", score.FORMAT)[0],
        manifest=manifest,
        relevant={manifest.classes.index(name) for name in truth["relevant"]},
        rare=[manifest.classes.index(name) for name in truth["rare"]],
        twins={tuple(sorted((row[a], row[b]))) for a, b in truth["duplicates"].items()},
        wrong=np.array([row[name] for name in truth["mislabelled"]]),
        shown=np.array([manifest.classes.index(name) for name in truth["mislabelled"].values()]),
        leaked=np.array([row[name] for name in leaked]),
    )


def chosen(known, **config):
    out = known.root / "a.index.npz"
    out.unlink(missing_ok=True)
    selection.run(selection.Config(out=out, scores=known.root / "scores.npz", **config))
    return PrunedIndex.load(out)


@pytest.mark.parametrize("rule", ["lm", "fm"])
def test_the_relevant_classes_have_the_most_votes(known, rule):
    for name in (rule, f"{rule}-soft"):
        votes = known.scores[f"class/{name}/signs.train"]
        first = set(np.argsort(-votes, kind="stable")[: len(known.relevant)].tolist())
        recall = len(first & known.relevant) / len(known.relevant)
        said = ", ".join(f"{known.manifest.classes[k]} {votes[k]:.1f}" for k in np.argsort(-votes, kind="stable"))
        assert recall == 1.0, f"{name}: recall {recall:.2f} at {len(known.relevant)}: {said}"


def test_dp4tl_keeps_the_relevant_classes_whole_before_any_other(known):
    sizes = np.bincount(known.manifest.labels)
    index = chosen(known, method="dp4tl-lm", budget=int(sizes[list(known.relevant)].sum()))
    assert set(index.labels.tolist()) == known.relevant


def test_near_duplicates_are_found(known):
    of = known.scores["duplicate_of"]
    found = {tuple(sorted((i, int(of[i])))) for i in np.flatnonzero(of >= 0)}
    right = len(found & known.twins)
    recall, precision = right / len(known.twins), right / len(found)
    # What a surrogate of a minute learns depends on the processor: 0.93 to 0.98 on one of them, over eight seeds.
    assert recall >= 0.9, f"recall {recall:.3f}, precision {precision:.3f} of {len(found)} pairs"
    assert precision >= 0.9, f"recall {recall:.3f}, precision {precision:.3f} of {len(found)} pairs"


def test_wrong_labels_are_among_the_hardest_tenth_and_among_the_suspects(known):
    n = len(known.manifest)
    for name in ("el2n", "grand"):
        hardest = np.argsort(-known.scores[f"sample/{name}"], kind="stable")[: n // 10]
        recall = np.isin(known.wrong, hardest).mean()
        assert recall >= 0.8, f"{name}: {recall:.2f} of {len(known.wrong)} wrong labels are in the hardest tenth"
    looks = known.scores["looks_like"][known.wrong]
    suspected = looks >= 0
    assert suspected.mean() >= 0.5, f"{suspected.mean():.2f} of the wrong labels are suspects"
    named = (looks == known.shown)[suspected].mean()
    assert named >= 0.9, f"{named:.2f} of the suspects look like what they show"


def test_rare_classes_keep_their_floor(known):
    for method in ("winnow", "dp4tl-lm", "dp4tl-fm", "el2n", "random"):
        kept, size = chosen(known, method=method, keep=0.15, floor=10).per_class()
        assert kept.sum() == round(0.15 * len(known.manifest)), method
        assert kept[known.rare].min() >= 10, f"{method}: rare classes keep {kept[known.rare].tolist()}"
        assert np.all(kept >= np.minimum(10, size)), method


def test_source_images_among_the_test_images_are_listed_and_dropped(known):
    found = np.flatnonzero(known.scores["leak/signs.test"])
    recall = np.isin(known.leaked, found).mean()
    twins = dict(known.twins) | {b: a for a, b in known.twins}  # near-duplicates of them leak as well
    right = [row in known.leaked or twins.get(int(row), -1) in known.leaked for row in found]
    assert recall >= 0.9, f"{recall:.2f} of {len(known.leaked)} leaks are found"
    assert np.mean(right) >= 0.9, f"{np.mean(right):.2f} of the {len(found)} images found do leak"
    kept = chosen(known, method="random", keep=0.9, drop_leaks=True)
    assert not np.isin(found, kept.positions).any()
