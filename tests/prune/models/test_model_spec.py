"""A model.json from elsewhere: what is not on the list is refused in one line, before anything is built."""

import json

import pytest
import torch

from prune.models import networks
from prune.models.model_spec import read_spec
from prune.runs.files import InputError, read_json, write_json

SPEC = {
    "arch": "resnet18", "kwargs": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}, "stem": "half",
    "classes": ["a", "b"], "resolution": 16, "mean": [123.0, 116.0, 103.0], "std": [58.0, 57.0, 57.0],
    "recipe": None, "index": None, "source": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    networks.save_model(folder, networks.build(SPEC), SPEC)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kwargs": {"checkpoint_path": "evil.pth"}}, "'checkpoint_path' is not an argument that a model file may set"),
        ({"kwargs": {"pretrained": True}}, "'pretrained' is not an argument"),
        ({"kwargs": {"cache_dir": "/etc"}}, "'cache_dir' is not an argument"),
        ({"kwargs": "channels"}, "kwargs 'channels': a mapping"),
        ({"kwargs": {"channels": [8, 8, 8, 10**9]}}, r"channels \[8, 8, 8, 1000000000\]: of another type, or out of"),
        ({"kwargs": {"drop_path_rate": 1.5}}, "drop_path_rate 1.5"),
        ({"arch": ["resnet18"]}, r"arch \['resnet18'\]: the name of one of timm's models"),
        ({"arch": "hf-hub:timm/resnet18"}, "arch 'hf-hub:timm/resnet18'"),
        ({"arch": "resnet18x"}, "model 'resnet18x' is not one of timm's"),
        ({"resolution": -3}, "resolution -3: 8 to 4096 pixels"),
        ({"resolution": 4097}, "resolution 4097"),
        ({"resolution": True}, "resolution True"),
        ({"std": [0, 1, 1]}, r"std \[0, 1, 1\]: three finite numbers above 0"),
        ({"mean": [float("nan"), 1, 1]}, "mean .*: three finite numbers"),
        ({"classes": [1, 2]}, "classes: a list of names"),
        ({"widths": {"fc": [10**9, 8]}}, "not a list of positive whole numbers"),
        ({"widths": []}, "widths .*: a mapping"),
        ({"recipe": 3}, "recipe 3: a text"),
        ({"stem": "large"}, "stem 'large'"),
        ({"format": "winnow-model/2"}, "format 'winnow-model/2': winnow-model/1 is expected"),
    ],
)
def test_a_field_that_no_model_of_ours_has_is_refused_in_one_line(model, tmp_path, changes, message):
    (tmp_path / "model.json").write_text(json.dumps({**read_json(model / "model.json"), **changes}))
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=message) as refused:
        networks.load_model(tmp_path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    "text", ["[" * 1_000_000, "{" + '"a":{' * 100_000, '{"arch": ' + "9" * 5000 + "}", "[]", "", "\x00", "null"]
)
def test_json_that_describes_nothing_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(InputError, match=r"model\.json: ") as refused:
        read_spec(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["arch", "classes", "resolution", "mean", "std"])
def test_a_missing_field_is_named(tmp_path, name):
    write_json(tmp_path / "model.json", {key: value for key, value in SPEC.items() if key != name})
    with pytest.raises(InputError, match=f"incomplete .'{name}' is missing"):
        read_spec(tmp_path)


def test_a_network_larger_than_its_weights_is_refused_before_it_is_built(model, tmp_path, monkeypatch):
    spec = {**SPEC, "arch": "vit_giant_patch14_dinov2", "stem": "imagenet", "kwargs": {}}
    write_json(tmp_path / "model.json", spec)
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    taken = []
    real = networks.timm.create_model
    monkeypatch.setattr(
        networks.timm, "create_model",
        lambda *a, **k: taken.append(torch.empty(0).device.type) or real(*a, **k),
    )  # fmt: skip
    with pytest.raises(InputError, match="numbers are too few for it"):
        networks.load_model(tmp_path)
    assert taken == ["meta"]


def test_what_we_write_is_read_as_it_was_written(model):
    assert read_spec(model) == {**SPEC, "format": "winnow-model/1"}
    assert networks.load_model(model)[1] == read_spec(model)
