"""What a training does at its start: one line on its device, the largest images, the compiler; and what it saves."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pretrain import checkpoint, compiling, distributed, learner, optimisation, train, training_loop
from pretrain.__main__ import main
from pretrain.recipes import RECIPES
from prune.runs.files import InputError

CPU, CARD = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def settings(beton, tmp_path) -> train.Config:
    return train.Config(
        beton, tmp_path / "run", "tiny", epochs=1, loader="torch", workers=1, threads=1, precision="fp32"
    )


@pytest.fixture
def growing(settings, monkeypatch) -> train.Config:
    """Two epochs, of 16 px and of 32 px."""
    monkeypatch.setitem(RECIPES, "growing", replace(RECIPES["tiny"], start_resolution=16, grow=(0.0, 0.5)))
    return replace(settings, recipe="growing", epochs=2)


def weights(config: train.Config) -> bytes:
    return (config.out / "model.safetensors").read_bytes()


def test_a_training_says_in_one_line_what_it_runs_on(settings, capsys):
    train.run(settings)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "training on cpu, fp32, 1 process, 1 decoder thread each, not compiled"


def test_a_training_whose_gpu_cannot_be_used_writes_nothing_unless_the_cpu_is_asked_for(
    settings, monkeypatch, capsys, beton
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("WINNOW_DEVICE", raising=False)
    words = ["--beton", str(beton), "--recipe", "tiny", "--steps", "1", "--loader", "torch", "--out", str(settings.out)]
    assert main([*words, "--workers", "1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not settings.out.exists()
    assert main([*words, "--workers", "1", "--device", "cpu"]) == 0


def test_images_that_grow_are_tried_at_their_largest_before_the_first_step(growing, monkeypatch, capsys):
    plain = optimisation.classification
    seen = []

    def small_memory(recipe, seed, rank):
        loss = plain(recipe, seed, rank)

        def limited(model, images, labels, step):
            seen.append(images.shape[-1])
            if images.shape[-1] > 16:
                raise torch.OutOfMemoryError
            return loss(model, images, labels, step)

        return limited

    monkeypatch.setattr(optimisation, "classification", small_memory)
    with pytest.raises(InputError, match="out of memory with 64 images in one forward pass: try --micro-batch 32"):
        train.run(growing)
    assert seen == [32]


def test_the_trial_changes_no_bit_of_the_training(growing, monkeypatch):
    train.run(growing)
    other = replace(growing, out=growing.out.with_name("other"))
    monkeypatch.setattr(training_loop._Run, "rehearse", lambda self: None)
    train.run(other)
    assert weights(growing) == weights(other)


def test_short_epochs_write_no_checkpoints_of_their_own(settings, monkeypatch):
    saved = []
    keep = checkpoint.save

    def noted(directory, step, *values, **named):
        saved.append(step)
        return keep(directory, step, *values, **named)

    monkeypatch.setattr(checkpoint, "save", noted)
    train.run(replace(settings, epochs=4))
    assert saved == []
    train.run(replace(settings, out=settings.out.with_name("often"), epochs=2, checkpoint_minutes=0.0))
    assert saved[-1] == 8


def test_a_rank_reads_its_own_part_of_a_checkpoint_unless_the_number_of_ranks_changed(tmp_path):
    place = tmp_path / "000000001"
    place.mkdir()
    checkpoint.write_state(place / "shared.safetensors", {})
    for rank in range(3):
        checkpoint.write_state(place / f"rank{rank}.safetensors", {"sums": torch.tensor([float(rank)])})
    (place / "progress.json").write_text("{}")
    _, own, _ = checkpoint.load(place, 1, 3)
    assert [list(part) for part in own] == [[], ["sums"], []]
    for everything in (checkpoint.load(place, 1, 2)[1], checkpoint.load(place)[1]):
        assert [float(part["sums"]) for part in everything] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("asked", "wanted", "device", "found"),
    [
        ("auto", True, CPU, (False, "not compiled (no GPU)")),
        ("auto", False, CARD, (False, "not compiled")),
        ("off", True, CARD, (False, "not compiled (--compile off)")),
    ],
)
def test_compiling_is_decided_by_flag_recipe_and_device(asked, wanted, device, found):
    assert compiling.decide(asked, wanted, device) == found


def test_a_machine_without_a_compiler_trains_uncompiled_and_says_why_and_on_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    compiled, why = compiling.decide("auto", True, CARD)
    assert not compiled
    assert why == "not compiled: this machine has no compiler (gcc, clang, cc)"
    with pytest.raises(InputError, match=r"--compile on: this machine has no compiler .*--compile off"):
        compiling.decide("on", True, CARD)
    monkeypatch.setenv("CC", "icx")
    assert "icx" in compiling.decide("auto", True, CARD)[1]


def test_the_network_is_distributed_first_and_then_compiled_for_each_size(settings, monkeypatch):
    class Spread(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images)

    given = []

    def compiled(module, **options):
        given.append((type(module), options))
        return module

    monkeypatch.setattr(distributed.Ranks, "distribute", lambda self, network: Spread(network))
    monkeypatch.setattr(torch, "compile", compiled)
    train.run(replace(settings, compile="on", steps=1, epochs=None))
    assert given == [(Spread, {"dynamic": False})]


@pytest.mark.slow
def test_a_compiler_that_fails_is_named_and_the_run_ends_as_an_uncompiled_one(settings, monkeypatch, capsys):
    train.run(settings)

    def broken(graph, inputs):
        raise RuntimeError("ptxas is missing")

    monkeypatch.setattr(learner, "decide", lambda *_: (True, "compiled"))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    other = replace(settings, out=settings.out.with_name("other"))
    train.run(other)
    assert "not compiled, since compiling failed: " in capsys.readouterr().err
    assert weights(settings) == weights(other)


def test_closed_fits_multiply_in_full_precision_whatever_a_training_has_set(monkeypatch):
    from transfer.evaluation import logistic

    seen = []
    plain = logistic.fit

    def noted(*values, **named):
        seen.append(torch.get_float32_matmul_precision())
        return plain(*values, **named)

    monkeypatch.setattr(logistic, "fit", noted)
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(40, 4)), np.arange(40) % 2
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # as `open_ranks` does on a GPU
    try:
        logistic.train_linear(x, y, seed=0, strengths=(1.0,))
        logistic.train_few_shot(x, y)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"highest"}


def test_a_network_without_a_deterministic_form_is_named_in_one_line():
    from pretrain import step_errors

    text = "reflection_pad2d_backward_cuda does not have a deterministic implementation, but you set something"
    wanted = r"--deterministic: reflection_pad2d_backward_cuda has no deterministic"
    with pytest.raises(InputError, match=wanted), step_errors.in_one_line(8):
        raise RuntimeError(text)
