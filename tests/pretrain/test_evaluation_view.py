"""What model.json says of the crop and the mirror image, everything that evaluates the model does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pretrain import train
from pretrain.recipes import RECIPES
from prune.data.crops import render
from prune.data.dataset import open_dataset
from prune.models import evaluation_view, networks
from prune.models.feature_extraction import extract
from prune.models.model_spec import check_spec
from prune.runs.files import InputError

SPEC = {
    "arch": "resnet18", "kwargs": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}, "stem": "half",
    "classes": ["a", "b", "c", "d"], "resolution": 16, "mean": [123.0, 116.0, 103.0], "std": [58.0, 57.0, 57.0],
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return networks.build(SPEC).eval()


def by_hand(network, beton, box, mirror):
    """Features of every image of 32 px: cut, shrunk to 16 px, and averaged with the mirror image."""
    source = open_dataset(beton)
    found = []
    for row in range(len(source)):
        pixels = np.frombuffer(source.beton.stored(row)[0], np.uint8).reshape(32, 32, 3)
        views = [render(pixels, np.array(box), flip, 16) for flip in ((False, True) if mirror else (False,))]
        shown = torch.from_numpy(np.stack(views).copy()).permute(0, 3, 1, 2)
        with torch.inference_mode():
            outputs = networks.features_and_logits(network, networks.normalise(shown, SPEC["mean"], SPEC["std"]))
        found.append(outputs[0].mean(0).numpy())
    return np.stack(found)


@pytest.mark.parametrize(
    ("more", "box", "mirror"),
    [
        ({}, (0, 0, 32, 32), False),  # a model.json of older versions
        ({"crop_ratio": 0.75, "mirror": False}, (4, 4, 24, 24), False),
        ({"crop_ratio": 0.875, "mirror": True}, (2, 2, 28, 28), True),
    ],
)
def test_features_are_those_of_the_crop_and_the_mirror_image_that_the_model_names(
    network, beton, write_beton, tmp_path, more, box, mirror
):
    few = write_beton(tmp_path / "few.beton", 12)
    spec = {**SPEC, **more}
    passes = extract(network, spec, open_dataset(few), np.arange(12), precision="fp32", loader="torch", workers=1)
    found = np.concatenate([features for features, _, _ in passes])
    assert found == pytest.approx(by_hand(network, few, box, mirror), abs=1e-5)


def test_a_recipe_s_evaluation_goes_into_model_json_and_decides_the_accuracy_of_the_validation(
    beton, tmp_path, monkeypatch, val_beton
):
    small = replace(RECIPES["tiny"], crop_ratio=0.625, mirror=True, evaluation=24)
    monkeypatch.setitem(RECIPES, "seen", small)
    options = {"loader": "torch", "workers": 1, "threads": 1, "precision": "fp32"}
    config = train.Config(beton, tmp_path / "run", "seen", val=val_beton, steps=12, **options)
    train.run(config)
    network, spec = networks.load_model(config.out)
    assert (spec["crop_ratio"], spec["mirror"], spec["resolution"]) == (0.625, True, 24)
    source = open_dataset(val_beton)
    rows = np.arange(len(source))
    right = 0
    for _, logits, which in extract(network, spec, source, rows, precision="fp32", loader="torch", workers=1):
        right += int((logits.argmax(1) == source.beton.labels[which]).sum())
    last = [line for line in (config.out / "metrics.jsonl").read_text().splitlines() if line][-1]
    assert f'"val_top1": {round(right / len(source), 6)}' in last
    assert evaluation_view.passes(spec) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_ratio": 0}, r"crop_ratio 0: a share in \(0, 1\]"),
        ({"crop_ratio": 1.5}, "crop_ratio 1.5"),
        ({"crop_ratio": "1"}, "crop_ratio '1'"),
        ({"crop_ratio": None}, "crop_ratio None"),
        ({"mirror": 1}, "mirror 1: true or false"),
    ],
)
def test_a_crop_or_mirror_that_no_recipe_has_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        check_spec({**SPEC, **change})
