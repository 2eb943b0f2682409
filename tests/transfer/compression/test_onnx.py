"""Files for devices: parity with PyTorch, quantisation, mixed precision, quantisation-aware training, bad files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional

from prune.data.beton import BetonWriter
from prune.index.manifest import Manifest
from prune.models import networks
from prune.models.forward_flops import multiply_adds
from prune.runs.files import InputError
from transfer.__main__ import main
from transfer.compression import onnx_export, onnx_model, qat, quantization
from transfer.evaluation import image_arrays

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SIDE = 16
CLASSES = ["red", "green", "blue", "grey"]
SPECS = {
    "resnet": {"arch": "resnet18", "kwargs": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}, "stem": "small"},
    "vit": {
        "arch": "vit_tiny_patch16_224",
        "kwargs": {"img_size": SIDE, "patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2},
        "stem": "imagenet",
    },
}


def pictures(n: int, seed: int, gap: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Noisy squares of four colours that lie `gap` grey levels apart, (n, r, r, 3) uint8, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    tone = (100 + gap * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]))[labels]
    noise = rng.normal(0, 45, (n, SIDE, SIDE, 3))
    return np.clip(tone[:, None, None] + noise, 0, 255).astype(np.uint8), labels


def write_beton(place: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    with BetonWriter(place, len(images)) as writer:
        crc = [writer_crc(writer, image, int(label)) for image, label in zip(images, labels)]
    column = np.full(len(images), SIDE, np.int32)
    Manifest(
        ids=np.array([f"{CLASSES[k]}/{i:04d}.png".encode() for i, k in enumerate(labels)]),
        labels=labels.astype(np.int32),
        digests=np.array([hash(image.tobytes()) & (2**63 - 1) for image in images], np.uint64),
        classes=CLASSES,
        nbytes=column * SIDE * 3,
        width=column,
        height=column,
        crc32=np.array(crc, np.uint32),
    ).save(place.with_suffix(".manifest.npz"))
    return place


def writer_crc(writer: BetonWriter, image: np.ndarray, label: int) -> int:
    import zlib

    data = image.tobytes()
    writer.add(data, jpeg=False, height=SIDE, width=SIDE, label=label)
    return zlib.crc32(data)


def learn(model: torch.nn.Module, spec: dict, epochs: int, gap: int = 60) -> None:
    images, labels = pictures(256, 1, gap)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(epochs):
        for x, y in image_arrays.normalised_batches(images, labels, spec, 32):
            functional.cross_entropy(model(x), y).backward()
            optimiser.step()
            optimiser.zero_grad()


@pytest.fixture(scope="module", params=list(SPECS))
def trained(request, tmp_path_factory):
    """A network that has learnt the colours, as a model directory, and its fp32 file."""
    spec = {
        **SPECS[request.param],
        "classes": CLASSES,
        "resolution": SIDE,
        "mean": networks.MEAN,
        "std": networks.STD,
        "recipe": "tiny",
        "index": None,
        "source": "0" * 32,
    }
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = networks.build(spec).train()
    learn(model, spec, 6)
    folder = tmp_path_factory.mktemp(request.param)
    networks.save_model(folder / "model", model.eval(), spec)
    model, spec = networks.load_model(folder / "model")
    path = onnx_model.export_onnx(model, spec, folder / "fp32.onnx")
    return folder, model, spec, path


def test_fp32_files_answer_as_pytorch_does_for_any_number_of_images(trained):
    _, model, spec, path = trained
    opened = onnx_model.session(path)
    for count in (1, 3, 130):
        images, _ = pictures(count, count)
        wanted = image_arrays.predictor(model, spec)(images)
        assert np.abs(onnx_model.predict(opened, images) - wanted).max() < 1e-3
    assert (wanted.argmax(1) == pictures(130, 130)[1]).mean() > 0.8  # it has learnt, so agreement means something
    assert onnx_model.facts(opened, path)["classes"] == CLASSES


def test_files_name_their_layers_like_pytorch_and_hold_no_path_of_this_machine(trained):
    _, model, _, path = trained
    modules = {n for n, m in model.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))}
    assert set(onnx_model.layers(path)) == modules
    assert str(ROOT).encode() not in path.read_bytes()
    assert b"site-packages" not in path.read_bytes()


def test_int8_files_are_small_and_agree_with_fp32(trained, capsys):
    folder, _, spec, path = trained
    images, _ = pictures(400, 2)
    with quantization.Quantizer(path, pictures(128, 3)[0]) as quantizer:
        int8 = quantizer.write(folder / "int8.onnx")
    answers = [onnx_model.predict(onnx_model.session(p), images).argmax(1) for p in (path, int8)]
    agreement = float((answers[0] == answers[1]).mean())
    with capsys.disabled():
        factor = path.stat().st_size / int8.stat().st_size
        print(f"\n{spec['arch']}: int8 top-1 agreement {agreement:.4f}, {factor:.2f}x smaller")
    assert agreement >= 0.97
    stored = {t.name: t.data_type for t in onnx.load(str(int8)).graph.initializer}
    assert sum(kind == onnx.TensorProto.INT8 for kind in stored.values()) >= len(onnx_model.layers(path))
    weights = [
        onnx.numpy_helper.to_array(t)
        for t in onnx.load(str(int8)).graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    ]
    assert max(np.abs(w.astype(int)).max() for w in weights) <= 64  # 7 bits: two products fit into 16 bits


def test_quantising_writes_nothing_beside_the_model_and_a_file_cut_by_a_full_disk_is_named(trained, tmp_path):
    path = trained[3]
    before = path.parent.stat().st_mtime_ns
    with quantization.Quantizer(path, pictures(32, 3)[0]) as quantizer:
        quantizer.write(tmp_path / "int8.onnx")
    assert path.parent.stat().st_mtime_ns == before
    (tmp_path / "torn.onnx").write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(OSError, match="No space left on device"), quantization._full_disk(str(tmp_path)):
        onnx.load(str(tmp_path / "torn.onnx"))


def test_layers_kept_in_fp32_stay_so_and_bring_the_answers_nearer(trained):
    folder, _, _, path = trained
    images = pictures(128, 4)[0]
    wanted = onnx_model.predict(onnx_model.session(path), images)
    with quantization.Quantizer(path, images) as quantizer:
        ranked = quantization.sensitive_layers(quantizer, images)
        assert sorted(name for name, _ in ranked) == sorted(quantizer.layers)
        losses = [loss for _, loss in ranked]
        assert losses == sorted(losses, reverse=True)
        apart = []
        for kept in ([], [name for name, _ in ranked[: len(ranked) - 1]]):
            file = quantizer.write(folder / "mixed.onnx", kept)
            apart.append(quantization.divergence(wanted, onnx_model.predict(onnx_model.session(file), images)))
        assert apart[1] < apart[0]
        tried = []

        def third(file: Path) -> bool:
            tried.append(onnx_model.facts(onnx_model.session(file), file)["keep_float"])
            return len(tried) == 3

        worst = [name for name, _ in ranked]
        given = quantizer, folder / "mixed.onnx", images
        assert quantization.quantise_until_accepted(*given, third, most=4) == worst[:2]
        assert tried == [[], worst[:1], worst[:2]]
        assert quantization.quantise_until_accepted(*given, lambda _: False, most=1) is None
        with pytest.raises(InputError, match="no layer 'nose'"):
            quantizer.write(folder / "mixed.onnx", ["nose"])
        with pytest.raises(InputError, match="nothing to quantise"):
            quantizer.write(folder / "mixed.onnx", quantizer.layers)


def test_quantisation_aware_training_rounds_inside_the_block_and_leaves_a_plain_network(trained):
    _, model, spec, _ = trained
    images, labels = pictures(64, 5)
    x, y = next(image_arrays.normalised_batches(images, labels, spec, 64))
    before = model(x)
    state, order = list(model.state_dict()), [id(p) for p in model.parameters()]
    first = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    with qat.fake_quantised(model):
        rounded = model(x)
        channel = first.weight[0].detach()
        steps = channel / (channel.abs().max() / 64)
        assert torch.allclose(steps, steps.round(), atol=1e-3)
        functional.cross_entropy(rounded, y).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert 0 < (rounded - before).abs().max() < 1
    assert torch.equal(model(x), before)
    assert (list(model.state_dict()), [id(p) for p in model.parameters()]) == (state, order)
    model.zero_grad(set_to_none=True)
    with pytest.raises(InputError, match="no layer 'nose'"), qat.fake_quantised(model, ["nose"]):
        pass


def test_training_with_rounding_brings_back_what_rounding_lost(monkeypatch):
    """With one bit and a sign rounding ruins a network that was trained without it; training with it must recover."""
    monkeypatch.setattr(qat, "BITS", 1)
    spec = {**SPECS["resnet"], "classes": CLASSES, "resolution": SIDE, "mean": networks.MEAN, "std": networks.STD}
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = networks.build(spec).train()
    learn(model, spec, 6, gap=20)

    def accuracy() -> float:
        images, labels = pictures(400, 2, gap=20)
        return float((image_arrays.predictor(model.eval(), spec)(images).argmax(1) == labels).mean())

    whole = accuracy()
    with qat.fake_quantised(model):
        ruined = accuracy()
        learn(model.train(), spec, 4, gap=20)
        recovered = accuracy()
    assert whole > ruined + 0.3
    assert recovered > ruined + 0.3


def test_divergence_of_two_answers_worked_out_by_hand():
    # p = (1/2, 1/2), q = (1/4, 3/4): 1/2 log 2 + 1/2 log(2/3) = 0.1438
    assert quantization.divergence(np.zeros((1, 2)), np.log([[0.25, 0.75]])) == pytest.approx(0.14384104)
    assert quantization.divergence(np.array([[1e4, 0.0]]), np.array([[1e4, 0.0]])) == 0


def test_costs_are_measured_and_multiply_adds_counted(trained):
    _, _, _, path = trained
    assert onnx_model.latency_ms(path, runs=10) > 0
    assert onnx_model.peak_memory(path) > path.stat().st_size / 2
    assert multiply_adds(torch.nn.Conv2d(3, 5, 3, padding=1), 8) == 8 * 8 * 5 * 3 * 9


def test_export_step_writes_compares_measures_and_runs_once(trained, tmp_path, capsys):
    folder, _, _, _ = trained
    train = write_beton(tmp_path / "colours.train.beton", *pictures(96, 6))
    test = write_beton(tmp_path / "colours.test.beton", *pictures(120, 7))
    command = ["export", "--model", str(folder / "model"), "--images", str(train), "--test", str(test)]
    command += ["--out", str(tmp_path / "device"), "--allow-worse"]  # a network this small may be slower in int8
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "agrees %" in printed
    assert "model.int8.onnx" in printed
    result = json.loads((tmp_path / "device" / "result.json").read_text())
    torch_file, fp32, int8 = result["files"]
    assert fp32["difference"] < 1e-3
    assert fp32["agreement"] == 1
    assert int8["agreement"] > 0.9
    assert abs(torch_file["top1"] - int8["top1"]) < 0.1
    assert int8["bytes"] < fp32["bytes"]
    assert main([*command, "--json"]) == 0
    again = capsys.readouterr()
    assert "up to date" in again.err
    assert json.loads(again.out) == result
    assert main([*command, "--seed", "1"]) == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err


@pytest.mark.parametrize("trained", ["resnet"], indirect=True)
def test_an_int8_file_that_is_slower_is_no_success_until_it_is_allowed(trained, tmp_path, capsys, monkeypatch):
    train, out = write_beton(tmp_path / "colours.train.beton", *pictures(48, 6)), tmp_path / "device"
    command = ["export", "--model", str(trained[0] / "model"), "--images", str(train), "--agreement", "0"]
    command += ["--out", str(out)]
    monkeypatch.setattr(onnx_export, "time_ratio", lambda *_: 1.5)  # as if these times had been measured
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"^1$"):
            main(command)
        assert "not accepted: it takes 1.50 times fp32's time" in capsys.readouterr().err
        assert {p.name for p in out.glob("*.onnx")} == {"model.onnx", "model.int8.rejected.onnx"}
    rejected = (out / "model.int8.rejected.onnx").read_bytes()
    assert main([*command, "--allow-worse"]) == 0
    assert {p.name for p in out.glob("*.onnx")} == {"model.onnx", "model.int8.onnx"}
    assert (out / "model.int8.onnx").read_bytes() == rejected
    monkeypatch.setattr(onnx_export, "time_ratio", lambda *_: 1.05)  # within the margin
    assert main([*command[:-1], str(tmp_path / "other")]) == 0
    assert (tmp_path / "other/model.int8.onnx").read_bytes() == rejected


def test_layers_that_are_to_stay_in_fp32_are_checked_before_anything_is_written(trained, tmp_path, capsys):
    folder, model, _, path = trained
    train = write_beton(tmp_path / "colours.train.beton", *pictures(24, 6))
    command = ["export", "--model", str(folder / "model"), "--images", str(train), "--out", str(tmp_path / "device")]
    there = onnx_model.layers(path)
    for names, said in (([there[0], "nosuch"], "--keep-float nosuch: no such layer"), (there, "names every layer")):
        assert main([*command, "--keep-float", *names]) == 2
        assert said in capsys.readouterr().err
    assert main([*command, "--seed", "-1"]) == 2
    assert "--seed -1" in capsys.readouterr().err
    assert not (tmp_path / "device").exists()
    for name in there:
        onnx_export.need_layers(model, [name])


def test_an_export_that_answers_otherwise_is_refused_and_removed(tmp_path):
    from transfer.compression.onnx_export import check_parity

    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    check_parity(np.zeros((2, 2)), np.full((2, 2), 9e-4), path)
    with pytest.raises(InputError, match=r"differs from PyTorch by 0\.0011"):
        check_parity(np.zeros((2, 2)), np.full((2, 2), 1.1e-3), path)
    assert not path.exists()
    path.write_bytes(b"x")
    with pytest.raises(InputError, match="differs from PyTorch by nan"):
        check_parity(np.zeros((2, 2)), np.full((2, 2), np.nan), path)


def damaged(path: Path, folder: Path) -> dict[str, Path]:
    whole = path.read_bytes()
    made = {name: folder / f"{name}.onnx" for name in ("short", "empty", "text", "foreign", "missing")}
    made["short"].write_bytes(whole[: len(whole) // 2])
    made["empty"].write_bytes(b"")
    made["text"].write_text("not a network")
    foreign = onnx.load(str(path))
    foreign.ClearField("metadata_props")
    onnx.save(foreign, str(made["foreign"]))
    return made


def test_damaged_and_foreign_files_get_one_line_and_exit_code_2(trained, tmp_path, capsys):
    folder, _, _, path = trained
    (tmp_path / "new.csv").write_text("path\na.png\n")
    for name, file in damaged(path, tmp_path).items():
        command = ["watch", "--original", str(folder / "model"), "--compressed", str(file)]
        assert main([*command, "--images", str(tmp_path / "new.csv")]) == 2, name
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1, error
        assert str(file) in error


@pytest.mark.parametrize("what", ["weights", "spec", "foreign", "nothing"])
def test_damaged_and_foreign_model_directories_get_one_line_and_exit_code_2(trained, tmp_path, capsys, what):
    folder, _, _, _ = trained
    place = tmp_path / "model"
    place.mkdir()
    weights = (folder / "model" / "model.safetensors").read_bytes()
    spec = (folder / "model" / "model.json").read_text()
    (place / "model.safetensors").write_bytes(weights[: len(weights) // 2] if what == "weights" else weights)
    if what != "nothing":
        text = {"spec": spec[: len(spec) // 2], "foreign": '{"arch": "resnet18"}'}.get(what, spec)
        (place / "model.json").write_text(text)
    beton = write_beton(tmp_path / "colours.train.beton", *pictures(12, 6))
    assert main(["export", "--model", str(place), "--images", str(beton), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert str(place) in error
    assert not (tmp_path / "out").exists()


def test_the_example_runs_a_file_with_onnx_runtime_and_numpy_alone(trained, tmp_path):
    _, _, _, path = trained
    image = pictures(1, 8)[0][0]
    np.save(tmp_path / "one.npy", image)
    np.save(tmp_path / "large.npy", image.repeat(3, 0).repeat(3, 1))
    # The project and torch cannot be imported in this process: an attempt would end it.
    program = """
import runpy, sys
sys.modules.update(dict.fromkeys(("torch", "timm", "onnx", "prune", "pretrain", "transfer", "PIL", "cv2")))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-c", program, str(ROOT / "examples" / "run_onnx.py"), str(path)]
    command += [str(tmp_path / "one.npy"), str(tmp_path / "large.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    best = CLASSES[onnx_model.predict(onnx_model.session(path), image[None])[0].argmax()]
    first, second = (line.split("  ", 1) for line in done.stdout.splitlines())
    assert first[1].startswith(best)
    assert second[1] == first[1]  # three times as large by repeating: the same picture after averaging


def example(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_example_takes_one_picture_or_several_and_refuses_what_is_none(trained, tmp_path):
    _, _, _, path = trained
    images, _ = pictures(2, 8)
    wrong = {"grey": images[0, :, :, 0], "float": images[0] / 255, "alpha": np.zeros((8, 8, 4), np.uint8)}
    for name, pixels in {**wrong, "several": images}.items():
        np.save(tmp_path / f"{name}.npy", pixels)
    (tmp_path / "text.npy").write_text("no array")
    for name in (*wrong, "text", "gone"):
        done = example("run_onnx.py", path, tmp_path / f"{name}.npy")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
        assert f"{name}.npy" in done.stderr
    done = example("run_onnx.py", path, tmp_path / "several.npy")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr


@pytest.mark.parametrize("name", ["run_onnx.py", "reuse_index.py"])
def test_examples_without_arguments_show_how_they_are_used(name):
    done = example(name)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"python examples/{name}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["missing", "text", "empty picture", "not ours"])
def test_an_example_says_in_one_line_what_is_wrong_with_its_files(trained, tmp_path, kind):
    path = trained[-1]
    picture = tmp_path / "picture.npy"
    np.save(picture, np.zeros((8, 8, 3), np.uint8))
    if kind == "missing":
        path = tmp_path / "no.onnx"
    elif kind == "empty picture":
        picture.write_bytes(b"")
    elif kind == "text":
        path = tmp_path / "text.onnx"
        path.write_text("not a network")
    else:
        model = onnx.load(path)
        del model.metadata_props[:]
        path = tmp_path / "other.onnx"
        onnx.save(model, path)
    done = example("run_onnx.py", path, picture)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    done = example("reuse_index.py", tmp_path / "no.index.npz", tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr


def test_a_file_takes_pixels_and_normalises_them_itself(trained):
    _, _, _, path = trained
    taken = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()
    assert [(i.name, i.type, i.shape[1:]) for i in taken] == [("images", "tensor(uint8)", [SIDE, SIDE, 3])]


def test_a_file_averages_over_the_mirror_image_and_names_the_crop_where_the_model_does(trained, tmp_path):
    _, model, plain_spec, _ = trained
    spec = {**plain_spec, "mirror": True, "crop_ratio": 0.75}
    images, _ = pictures(7, 9)
    path = onnx_model.export_onnx(model, spec, tmp_path / "mirror.onnx")
    session = onnx_model.session(path)
    plain = image_arrays.predictor(model, plain_spec)
    mean = (plain(images) + plain(images[:, :, ::-1])) / 2
    assert image_arrays.predictor(model, spec)(images) == pytest.approx(mean, abs=1e-4)
    assert onnx_model.predict(session, images) == pytest.approx(mean, abs=1e-3)
    assert onnx_model.predict(session, images[:, :, ::-1]) == pytest.approx(mean, abs=1e-3)
    assert onnx_model.facts(session, path)["crop_ratio"] == 0.75
    # The picture, three times as large, within a white frame that the crop cuts off.
    wide = np.full((SIDE * 4, SIDE * 5, 3), 255, np.uint8)
    wide[SIDE // 2 : -SIDE // 2, SIDE:-SIDE] = images[0].repeat(3, 0).repeat(3, 1)
    np.save(tmp_path / "wide.npy", wide)
    done = example("run_onnx.py", path, tmp_path / "wide.npy")
    assert done.returncode == 0, done.stderr
    best = CLASSES[mean[0].argmax()]
    assert done.stdout.split("  ")[1].startswith(best)
