"""Parts of the check: numbers on the GPU beside those of the CPU, the feature pass, and the commands of `transfer`."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch

from tests.gpu_check.data_parts import timed
from tests.gpu_check.sizes import Setting
from tests.gpu_check.training_parts import plain


def _model(c: Setting) -> Any:
    """Directory of a small model that was trained on the small images."""
    if "model" not in c.made:
        plain(c)
    return c.made["model"]


def _outputs(c: Setting, name: str, device: torch.device, precision: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, logits and labels of the small images of one part."""
    from prune.data.dataset import open_dataset
    from prune.models.feature_extraction import extract
    from prune.models.networks import load_model

    network, spec = load_model(_model(c))
    source = open_dataset(c.made[name])
    rows, how = np.arange(len(source)), {"loader": c.loader, "workers": 1 if c.tiny else None}
    passes = extract(network, spec, source, rows, precision=precision, device=device, **how)
    parts = list(passes)
    order = np.concatenate([rows for _, _, rows in parts])
    features, logits = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    return features, logits, np.asarray(source.beton.labels)[order]


def numbers(c: Setting) -> None:
    """The CPU in fp32 beside the device in fp32 and bf16: logits, features, predictions, and the same selection."""
    known = {name: _outputs(c, name, torch.device("cpu"), "fp32") for name in ("train", "test")}
    for precision in ("fp32", "bf16"):
        with c.report.trying(precision):
            found = {name: _outputs(c, name, c.device, precision) for name in ("train", "test")}
            _compare(c, precision, known, found)
    with c.report.trying("selection"):
        kept = [_selection(c, device) for device in dict.fromkeys(("cpu", c.device.type))]
        c.report.must("the same index from features of both", kept[0] == kept[-1], f"{len(kept[0])} images kept")


def _compare(c: Setting, precision: str, known: dict[str, Any], found: dict[str, Any]) -> None:
    (_, logits, _), (_, others, _) = known["test"], found["test"]
    enough = 0.9 if c.tiny else 0.99  # of 40 images one may lie between two classes
    apart = float(np.abs(logits - others).max() / np.abs(logits).max())
    same = float((logits.argmax(1) == others.argmax(1)).mean())
    if precision == "fp32":
        c.report.must("fp32: logits within 1e-3", apart < 1e-3, f"{apart:.2g} of the largest")
    c.report.must(f"{precision}: the same classes", same >= enough, f"{same:.4f} of the images")
    one, other = known["test"][0], found["test"][0]
    cosine = (one * other).sum(1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1) + 1e-12)
    c.report.must(
        f"{precision}: features point the same way", float(cosine.min()) > 0.999, f"cosine {cosine.min():.5f}"
    )
    from transfer.evaluation.nearest_neighbours import classify

    predicted = []
    for outputs, device in ((known, "cpu"), (found, c.device.type)):
        classes = int(known["train"][2].max()) + 1
        predicted.append(classify(outputs["train"][0], outputs["train"][2], outputs["test"][0], classes=classes,
                                  device=device)[0])  # fmt: skip
    same = float((predicted[0] == predicted[1]).mean())
    c.report.must(f"{precision}: nearest neighbours agree", same >= enough, f"{same:.4f} of the images")
    with c.report.trying(f"{precision}: linear probe"):
        from transfer.evaluation.logistic import train_linear

        fits = []
        for outputs, device in ((known, "cpu"), (found, c.device.type)):
            linear, _ = train_linear(outputs["train"][0], outputs["train"][2], seed=0, device=device)
            fits.append(linear.predict(outputs["test"][0])[0])
        same = float((fits[0] == fits[1]).mean())
        c.report.must(f"{precision}: linear probes agree", same >= enough, f"{same:.4f} of the images")


def _selection(c: Setting, device: str) -> list[int]:
    """Rows of an index that is chosen from features of this device, in fp32."""
    from prune import features, score, selection
    from prune.index.pruned_index import PrunedIndex

    folder = c.work / "selection" / device
    betons = (c.made["train"], c.made["target"])
    features.run(features.Config(betons, folder, _model(c), precision="fp32", loader=c.loader, device=device))
    files = [folder / f"{name}.features.npz" for name in ("train", "target")]
    score.run(score.Config((files[0],), folder / "scores.npz", (files[1],), also=("prototype",)))
    out = folder / "x.index.npz"
    selection.run(selection.Config(out, folder / "scores.npz", "winnow", keep=(0.3,), floor=1))
    return sorted(PrunedIndex.load(out).positions.tolist())


def features(c: Setting) -> None:
    """Features of large images, beside the bare forward pass of the same network on images that are there."""
    from prune.data.dataset import open_dataset
    from prune.models import networks
    from prune.models.feature_extraction import extract

    arch, side, batch = ("resnet18", 32, 16) if c.tiny else ("resnet50", 224, 256)
    spec = {"arch": arch, "classes": ["a"], "resolution": side, "mean": networks.MEAN, "std": networks.STD}
    spec |= {"kwargs": {"channels": (8, 8, 8, 8), "layers": (1, 1, 1, 1)}} if c.tiny else {}
    source = open_dataset(c.made["photos"])
    rows = np.resize(np.arange(len(source)), 2 * batch if c.tiny else 12 * batch)
    network = networks.build(spec)

    def whole() -> int:
        passes = extract(network, spec, source, rows, loader=c.loader, batch_size=batch, device=c.device)
        return sum(len(which) for _, _, which in passes)

    c.report.must("every image has features", whole() == len(rows), f"{len(rows)} images")
    begin = time.perf_counter()
    whole()
    speed = len(rows) / (time.perf_counter() - begin)
    bf16 = networks.pick_precision("auto", c.device) == "bf16"
    shown = torch.zeros(batch, 3, side, side, device=c.device).to(memory_format=torch.channels_last)

    def bare() -> None:
        with torch.inference_mode(), torch.autocast(c.device.type, torch.bfloat16, enabled=bf16):
            networks.features_and_logits(network, shown)

    forward = batch / timed(c, bare)
    c.report.speed(f"features of {arch} at {side} px", speed, "images/s")
    c.report.speed("features beside the bare forward pass", speed / forward, "of it", 0.9)


def transfer(c: Setting) -> None:
    """The commands that evaluate, shrink and export a model end with 0, and ONNX files predict what torch does."""
    from transfer.__main__ import main

    out, model = c.work / "transfer", str(_model(c))
    train, test = str(c.made["train"]), str(c.made["test"])
    data = ["--train", train, "--test", test]
    epochs = ["--epochs", "1"]
    commands: dict[str, list[str]] = {
        "probe": ["probe", "--model", model, *data, "--out", f"{out}/probe", "--features", f"{out}/features"],
        "knn": ["knn", "--model", model, *data, "--out", f"{out}/knn", "--features", f"{out}/features"],
        "finetune": ["finetune", "--model", model, *data, "--out", f"{out}/new", *epochs],
        "finetune from a probe": [
            "finetune", "--model", model, *data, "--head", "probe", "--out", f"{out}/head", *epochs,
            "--features", f"{out}/features"],
        "preserve": ["preserve", "--model", model, "--train", train, "--size", "40", "--floor", "2",
                     "--out", f"{out}/keep.index.npz"],
        "compress": ["compress", "--model", model, "--train", train, "--preserve", f"{out}/keep.index.npz",
                     "--out", f"{out}/small", "--kinds", "channels", "int8", "--steps", "2", "--recipe", c.recipe,
                     "--recovery-epochs", "0.5", "--margin", "100", "--class-margin", "100", "--latency", "none"],
        "export": ["export", "--model", model, "--images", train, "--test", test, "--calibrate", "20",
                   "--allow-worse", "--out", f"{out}/device"],
    }  # fmt: skip
    for name, words in commands.items():
        with c.report.trying(name):
            code = main(words)
            lacks = [m for m in ("scipy", "onnx", "onnxruntime", "onnxscript", "torch_pruning") if m in c.lacking]
            if code == 2 and lacks:
                c.report.unchecked(name, f"needs a module that is not installed ({', '.join(lacks)})")
                continue
            c.report.must(f"{name}: exit code 0", code == 0, f"exit code {code}")
    with c.report.trying("training with the rounding of int8"):
        from transfer.compression.qat import fake_quantised

        _round(c, fake_quantised)
    with c.report.trying("ONNX"):
        import onnxruntime  # noqa: F401

        found = json.loads((out / "device/result.json").read_text())
        share = next(file["agreement"] for file in found["files"] if file["file"] == "model.onnx")
        c.report.must("ONNX predicts as torch does", share >= 0.99, f"{share:.4f} of the images")
        _on_device(c, out / "device/model.onnx")


def _round(c: Setting, fake_quantised: Any) -> None:
    """One step with rounded weights and activations, in a training's precision, has finite gradients."""
    from pretrain.distributed import dtype_of
    from prune.models.networks import load_model

    network, spec = load_model(_model(c))
    network = network.to(c.device).train()
    side = int(spec["resolution"])
    dtype = dtype_of("auto")
    with fake_quantised(network), torch.autocast(c.device.type, dtype, enabled=dtype is not None):
        network(torch.randn(8, 3, side, side, device=c.device)).float().square().mean().backward()
        sound = all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None)
    c.report.must("training with the rounding of int8: finite gradients", sound)


def _on_device(c: Setting, path: Any) -> None:
    """The file's classes beside those of the network on the device."""
    from prune.data.dataset import open_dataset
    from prune.models.networks import load_model
    from transfer.compression import onnx_model
    from transfer.evaluation.image_arrays import predictor, read_images

    network, spec = load_model(_model(c))
    source = open_dataset(c.made["test"])
    images, _ = read_images(source, np.arange(len(source)), int(spec["resolution"]), loader="torch", workers=1)
    file = onnx_model.predict(onnx_model.session(path), images).argmax(1)
    torch_classes = predictor(network, spec, c.device)(images).argmax(1)
    share = float((file == torch_classes).mean())
    c.report.must("ONNX predicts as torch on the device", share >= 0.99, f"{share:.4f} of the images")
