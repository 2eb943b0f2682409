"""`prune surrogate`: weights from a file become a model directory that `prune features` takes."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from prune import PrunedIndex, features, selection, surrogate
from prune.__main__ import main
from prune.data.dataset import open_dataset
from prune.index.npz import open_arrays
from prune.models import networks
from prune.runs.files import InputError, read_json
from prune.scores.feature_files import FORMAT, open_features

ARCH = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small model of 18 classes, its weights as safetensors and as a checkpoint of data parallel training."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    model = timm.create_model(ARCH, num_classes=18).eval()
    save_file(model.state_dict(), str(folder / "m.safetensors"))
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}},
        folder / "m.pth",
    )
    return folder, model


def test_weights_of_a_local_file_give_the_features_and_logits_of_the_source(weights, toy, tmp_path):
    folder, model = weights
    names = open_dataset(toy.source).manifest.classes
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    made = ["surrogate", "--arch", ARCH, "--weights", folder / "m.safetensors", "--names", tmp_path / "names.txt",
            "--resolution", "32", "--out", tmp_path / "model"]  # fmt: skip
    assert main([str(word) for word in made]) == 0
    features.run(features.Config(model=tmp_path / "model", betons=(toy.train,), out=tmp_path, loader="torch"))
    arrays, meta = open_arrays(tmp_path / "train.features.npz", FORMAT)
    assert meta["model"]["classes"] == names  # LM finds the source's classes
    with torch.no_grad():
        expected = model.get_classifier()(torch.from_numpy(arrays["features"].astype(np.float32))).numpy()
    assert np.allclose(arrays["logits"], expected, atol=0.02 * np.abs(expected).max())
    assert np.ptp(arrays["logits"], axis=0).max() > 0


def test_the_two_kinds_of_file_hold_the_same_weights(weights, tmp_path):
    folder, model = weights
    for name in ("m.safetensors", "m.pth"):
        surrogate.run(surrogate.Config(ARCH, tmp_path / name, folder / name))
        network, spec = networks.load_model(tmp_path / name)
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in network.state_dict().items())
        assert spec["classes"][17] == "class-00017"
        assert spec["resolution"] == 224
        assert spec["mean"] == pytest.approx([255 * 0.485, 255 * 0.456, 255 * 0.406])


def test_a_model_of_imagenets_classes_names_them_by_synset(tmp_path):
    torch.save(timm.create_model(ARCH).state_dict(), tmp_path / "m.pth")
    surrogate.run(surrogate.Config(ARCH, tmp_path / "model", tmp_path / "m.pth"))
    classes = read_json(tmp_path / "model/model.json")["classes"]
    assert len(classes) == 1000
    assert (classes[0], classes[999]) == ("n01440764", "n15075141")


def test_same_out_and_weights_return_at_once_and_others_are_refused(weights, tmp_path, capsys):
    folder, _ = weights
    config = surrogate.Config(ARCH, tmp_path / "model", folder / "m.pth")
    surrogate.run(config)
    stamp = (tmp_path / "model/model.json").stat().st_mtime_ns
    surrogate.run(config)
    assert (tmp_path / "model/model.json").stat().st_mtime_ns == stamp
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(InputError, match="weights"):
        surrogate.run(surrogate.Config(ARCH, tmp_path / "model", folder / "m.safetensors"))


def test_a_finished_directory_is_seen_before_weights_are_fetched(weights, tmp_path, monkeypatch, capsys):
    _, model = weights
    monkeypatch.setattr(timm, "create_model", lambda arch, pretrained: model)
    surrogate.run(surrogate.Config(ARCH, tmp_path / "model"))

    def no_network(*args, **kwargs):
        raise OSError("we couldn't connect")

    monkeypatch.setattr(timm, "create_model", no_network)
    capsys.readouterr()
    surrogate.run(surrogate.Config(ARCH, tmp_path / "model"))
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(InputError, match="resolution: None -> 64"):
        surrogate.run(surrogate.Config(ARCH, tmp_path / "model", resolution=64))


def test_what_is_no_such_model_is_one_clear_line(weights, tmp_path, monkeypatch):
    folder, _ = weights
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "two.txt").write_text("ant\nbee\n")
    (tmp_path / "same.txt").write_text("ant\nant\n")
    (tmp_path / "latin.txt").write_bytes("bär\n".encode("latin-1"))

    class Code:
        def __reduce__(self):
            return (print, ("code in a checkpoint ran",))

    torch.save({"state_dict": Code()}, tmp_path / "code.pth")
    wrong = [
        ({"arch": "resnet18x"}, "not one of timm's"),
        ({"weights": tmp_path / "none.pth"}, "no such file"),
        ({"weights": tmp_path / "text.pth"}, "safely"),
        ({"weights": tmp_path / "code.pth"}, "safely"),
        ({"arch": "resnet18"}, "not weights of resnet18"),
        ({"names": tmp_path / "two.txt"}, "2 names for a model of 18 classes"),
        ({"names": tmp_path / "same.txt"}, "'ant' twice"),
        ({"names": tmp_path / "latin.txt"}, r"latin\.txt: not UTF-8 text"),
        ({"resolution": 0}, "--resolution 0"),
    ]
    for change, message in wrong:
        config = {"arch": ARCH, "out": tmp_path / "model", "weights": folder / "m.pth"} | change
        with pytest.raises(InputError, match=message) as error:
            surrogate.run(surrogate.Config(**config))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()

    def no_network(*args, **kwargs):
        raise OSError("we couldn't connect")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(InputError, match=r"no weights by name .*connect.*--weights"):
        surrogate.run(surrogate.Config(ARCH, tmp_path / "model"))


def test_weights_by_name_are_those_that_timm_gives(weights, tmp_path, monkeypatch):
    _, model = weights
    monkeypatch.setattr(timm, "create_model", lambda arch, pretrained: model if pretrained else None)
    surrogate.run(surrogate.Config(ARCH, tmp_path / "model"))
    monkeypatch.undo()
    network, _ = networks.load_model(tmp_path / "model")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in network.state_dict().items())


def test_a_model_without_classes_gives_features_alone(toy, tmp_path):
    arch = "vit_small_patch14_dinov2"  # timm builds it without a classifier
    options = {"depth": 1, "embed_dim": 24, "num_heads": 2, "img_size": 28}
    small = timm.create_model(arch, **options)
    spec = {"arch": arch, "kwargs": options, "classes": [], "resolution": 28, "mean": (0, 0, 0), "std": (255,) * 3}
    networks.save_model(tmp_path / "model", small, spec)
    features.run(features.Config(model=tmp_path / "model", betons=(toy.train,), out=tmp_path, loader="torch"))
    found = open_features(tmp_path / "train.features.npz")
    assert found.features.shape == (len(open_dataset(toy.train)), 24)
    assert found.logits.shape == (len(found), 0)
    assert found.columns(["ant"]) is None


def test_without_a_classifier_fm_chooses_and_lm_says_in_one_line_why_it_cannot(toy, tmp_path, capsys):
    torch.manual_seed(0)
    bare = timm.create_model(ARCH, num_classes=0).state_dict()
    torch.save({"teacher": {f"module.backbone.{name}": v for name, v in bare.items()}}, tmp_path / "dino.pth")
    surrogate.run(surrogate.Config(ARCH, tmp_path / "model", tmp_path / "dino.pth", resolution=32))
    said = capsys.readouterr().err
    assert "dino.pth: entry 'teacher', prefix 'module.backbone.'" in said
    assert "features only, for FM; LM needs classes" in said
    betons = (toy.source, toy.train)
    features.run(features.Config(model=tmp_path / "model", betons=betons, out=tmp_path, loader="torch"))
    scores = tmp_path / "scores.npz"
    assert main(["score", "--source", str(tmp_path / "source.features.npz"), "--targets",
                 str(tmp_path / "train.features.npz"), "--out", str(scores)]) in (None, 0)  # fmt: skip
    chosen = {}
    for method in ("dp4tl-fm", "winnow"):
        out = tmp_path / f"{method}.index.npz"
        selection.run(selection.Config(scores=scores, method=method, keep=0.3, floor=2, out=out))
        chosen[method] = len(PrunedIndex.load(out))
    assert min(chosen.values()) > 0
    with pytest.raises(InputError, match="LM needs targets, and a surrogate that knows the source's classes") as error:
        selection.run(selection.Config(scores=scores, method="dp4tl-lm", keep=0.3, out=tmp_path / "lm.index.npz"))
    assert "\n" not in str(error.value)
