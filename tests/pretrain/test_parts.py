"""The parts of the loop on arrays: InfoBatch, attacks, records, mixtures, averages, checkpoints; worked out by hand."""

import re
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pretrain import checkpoint
from pretrain.adversarial import FreeNoise, perturb
from pretrain.dynamics_recorder import Recorder
from pretrain.hooks import Progress
from pretrain.infobatch import InfoBatch
from pretrain.learner import Learner
from pretrain.optimisation import Average, build, classification, mixed, swapped
from pretrain.progress_bar import bar
from pretrain.recipe import Attack
from pretrain.recipes import RECIPES

ALONE = SimpleNamespace(total=lambda values: values, world=1, rank=0)
MEAN, STD = torch.full((1, 3, 1, 1), 120.0), torch.full((1, 3, 1, 1), 60.0)


# ---- InfoBatch


def test_infobatch_sees_all_at_first_and_all_at_the_end():
    chooser = InfoBatch(100, 0.5, seed=0)
    assert len(chooser.images_of(0, 0.0)[0]) == 100
    chooser.learn(np.arange(100, dtype=np.float32))
    kept, weight = chooser.images_of(7, 0.875)
    assert len(kept) == 100
    assert (weight == 1).all()


def test_infobatch_leaves_out_easy_images_only_and_counts_the_others_of_them_more():
    chooser = InfoBatch(1000, 0.75, seed=0)
    losses = np.where(np.arange(1000) < 600, 0.0, 5.0)  # mean 2: the first 600 are easy
    chooser.learn(losses)
    kept, weight = chooser.images_of(1, 0.5)
    assert set(range(600, 1000)) <= set(kept)
    assert (kept < 600).sum() == 150
    assert np.allclose(weight[:600], 4.0)  # 600 / 150
    assert np.allclose(weight[600:], 1.0)


def test_infobatch_gives_every_image_the_same_weight_on_average():
    chooser = InfoBatch(200, 0.5, seed=3)
    chooser.learn(np.linspace(0, 1, 200))
    total = np.zeros(200)
    for epoch in range(400):
        kept, weight = chooser.images_of(epoch, 0.1)
        total[kept] += weight[kept]
    assert np.abs(total / 400 - 1).max() < 0.25  # a weight of 0 or 2: standard deviation 0.05, 200 of them


def test_infobatch_counts_as_many_images_in_every_epoch():
    # Seven easy ones at a share of 0.5: three are seen and count 7/3 each, so that the weights sum to 8 in any draw.
    chooser = InfoBatch(8, 0.5, seed=0)
    chooser.learn(np.array([1, 1, 1, 1, 1, 1, 1, 9.0]))
    for epoch in range(20):
        kept, weight = chooser.images_of(epoch, 0.1)
        assert len(kept) == 4
        assert weight[kept].sum() == pytest.approx(8)
    tiny = InfoBatch(2, 0.9, seed=0)
    tiny.learn(np.array([1.0, 9.0]))
    assert tiny.images_of(0, 0.1)[0].tolist() == [0, 1]  # the only easy one stays


def test_infobatch_keeps_the_last_loss_of_an_image_that_was_not_seen():
    chooser = InfoBatch(3, 0.5, seed=0)
    chooser.learn(np.array([1.0, 2.0, np.nan]))
    chooser.learn(np.array([np.nan, 4.0, 3.0]))
    assert chooser.losses.tolist() == [1.0, 4.0, 3.0]


def test_infobatch_draws_depend_on_seed_and_epoch_alone():
    def choose(seed: int, epoch: int) -> list[int]:
        chooser = InfoBatch(50, 0.5, seed)
        chooser.learn(np.arange(50, dtype=np.float32))
        np.random.default_rng().random(3)
        return chooser.images_of(epoch, 0.2)[0].tolist()

    assert choose(1, 2) == choose(1, 2)
    assert choose(1, 2) != choose(1, 3)
    assert choose(1, 2) != choose(2, 2)


# ---- attacks


@settings(max_examples=20)
@given(st.sampled_from(["pgd", "fast"]), st.sampled_from(["linf", "l2"]), st.floats(0.1, 8), st.floats(0.1, 1))
def test_an_attack_stays_in_its_ball_and_among_grey_levels(kind, norm, epsilon, strength):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    images = (torch.randint(0, 256, (5, 3, 8, 8)).float() - MEAN) / STD
    moved = perturb(network, images, torch.arange(5) % 3, Attack(kind, norm, epsilon, 3), strength, MEAN, STD)
    change = (moved - images) * STD
    grey = moved * STD + MEAN
    assert grey.min() >= -1e-3
    assert grey.max() <= 255 + 1e-3
    if norm == "linf":
        assert change.abs().max() <= epsilon * strength + 1e-3
    else:
        assert change.flatten(1).norm(dim=1).max() <= 255 * epsilon * strength * (1 + 1e-4)


def test_an_attack_on_a_linear_model_finds_the_corner_of_the_ball():
    # The loss of class 0 with logits (w.x, 0), w > 0, grows as x falls: the worst image lies epsilon below everywhere.
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([torch.full((12,), 0.1), torch.zeros(12)]))
    images = (torch.full((2, 3, 2, 2), 100.0) - MEAN) / STD
    moved = perturb(network, images, torch.zeros(2, dtype=torch.int64), Attack("pgd", steps=4), 1.0, MEAN, STD)
    assert torch.allclose(moved * STD + MEAN, torch.full_like(moved, 96.0), atol=1e-3)


def test_an_attack_changes_neither_gradients_nor_batch_norm_nor_mode():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    before = {k: v.clone() for k, v in network.state_dict().items()}
    perturb(network.train(), torch.randn(4, 3, 8, 8), torch.arange(4) % 3, Attack("pgd"), 1.0, MEAN, STD)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_free_training_replays_each_batch_and_carries_the_noise_on_to_the_next():
    # Logits (0.1 w.x, 0) for class 0: the loss grows as grey levels fall, so each replay moves the noise by the whole
    # radius of 4 downwards, where it stays. Weights do not learn (rate 0): what the network sees is the noise alone.
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([torch.full((12,), 0.1), torch.zeros(12)]))
    seen, updates = [], []
    network.register_forward_pre_hook(lambda _, x: seen.append((x[0] * 60 + 120)[0, 0, 0, 0].item()))
    recipe = replace(RECIPES["tiny"], attack=Attack("free", epsilon=4.0, steps=2), lr=0.0, weight_decay=0.0)
    ranks = SimpleNamespace(
        sync_bn=False,
        **vars(ALONE),
        device=torch.device("cpu"),
        dtype=None,
        autocast=nullcontext,
        distribute=lambda net: net,
    )
    learner = Learner(network, recipe, ranks, classification(recipe, 0, 0), [120.0] * 3, [60.0] * 3, 0, None)
    learner.optimiser.register_step_pre_hook(lambda *_: updates.append(1))
    for number, grey in enumerate((100, 50, 2)):
        images = torch.full((2, 3, 2, 2), grey, dtype=torch.uint8)
        zeros = torch.zeros(2, dtype=torch.int64)
        learner.step(images, zeros, zeros, batch=2, micro_batch=2, number=number, share=0.5, rate=0.0)
    assert seen == pytest.approx([100, 96, 46, 46, 0, 0], abs=1e-3)  # 2 - 4 is no grey level
    assert len(updates) == 6
    assert learner.sums[2] == 6  # three steps of two images: a replay does not count them again
    assert torch.equal(learner.noise.values, torch.full((2, 3, 2, 2), -4.0))


def test_free_noise_stays_in_its_ball_and_an_overflow_does_not_move_it():
    mean = torch.zeros(1, 3, 1, 1)
    noise = FreeNoise(Attack("free", "l2", epsilon=1.0), mean, mean + 1)
    noise.fit(torch.Size((1, 3, 1, 1)))
    for gradient in ([3.0, 4.0, 0.0], [0.0, 0.0, 2.0], [float("nan"), 0.0, 0.0]):
        leaf = noise.values.clone().requires_grad_(True)
        leaf.grad = torch.tensor(gradient).view(1, 3, 1, 1)
        noise.move(leaf, slice(0, 1), 0.5)  # half of a radius of 255: steps and ball of 127.5
    # First (76.5, 102, 0), then with 127.5 upwards of length 180.3, so everything by 1 / sqrt(2); then no change.
    expected = torch.tensor([76.5, 102.0, 127.5]) / 2**0.5
    assert torch.allclose(noise.values.flatten(), expected, atol=1e-4)


# ---- records


def test_records_hold_probability_margin_and_correctness_by_image():
    recorder = Recorder(np.array([2, 5, 9]), torch.device("cpu"))
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    recorder.note(torch.tensor([9, 2]), torch.tensor([0, 2]), logits, torch.tensor([0.5, 2.0]))
    found = recorder.finish_epoch(ALONE)
    # Row 9: e^2 / (e^2 + 1 + e) = 0.66524, margin 2 - 1. Row 2: e / (1 + e^3 + e) = 0.11420, margin 1 - 3.
    assert found["probability"] == pytest.approx([0.11420, np.nan, 0.66524], abs=1e-5, nan_ok=True)
    assert found["margin"] == pytest.approx([-2.0, np.nan, 1.0], nan_ok=True)
    assert found["correct"] == pytest.approx([0.0, np.nan, 1.0], nan_ok=True)
    assert found["loss"] == pytest.approx([2.0, np.nan, 0.5], nan_ok=True)
    assert found["seen"].tolist() == [1, 0, 1]
    assert recorder.finish_epoch(ALONE)["seen"].tolist() == [0, 0, 0]


# ---- mixtures, averages, optimisers


@given(st.integers(0, 1000))
def test_cutmix_replaces_exactly_the_stated_share_and_mixup_is_linear(seed):
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    pasted, share = mixed(images, 0.0, 1.0, np.random.default_rng(seed))
    assert pasted[0].mean().item() == pytest.approx(1 - share)
    assert set(pasted.unique().tolist()) <= {0.0, 1.0}
    blended, share = mixed(images, 0.4, 0.0, np.random.default_rng(seed))
    assert torch.allclose(blended[0], torch.full((3, 8, 8), 1 - share))


def test_the_average_of_weights_follows_its_rule():
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    average = Average(network, 0.5)
    nn.init.constant_(network.weight, 1.0)
    average.update(network, 0)  # decay min(0.5, 1/10): 0 * 0.1 + 1 * 0.9
    assert average.values[0].item() == pytest.approx(0.9)
    nn.init.constant_(network.weight, 0.0)
    average.update(network, 100)  # decay min(0.5, 101/110)
    assert average.values[0].item() == pytest.approx(0.45)


def test_swapped_values_are_there_inside_and_the_old_bits_after():
    place = torch.tensor([0.1, 0.2])
    before = place.clone()
    with swapped([place], [torch.tensor([7.0, 8.0])]):
        assert place.tolist() == [7.0, 8.0]
    assert torch.equal(place, before)


def test_norms_and_biases_do_not_decay():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, free = build(network, RECIPES["tiny"]).param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert {p.ndim for p in free["params"]} == {1}
    assert (decayed["weight_decay"], free["weight_decay"]) == (RECIPES["tiny"].weight_decay, 0.0)


# ---- checkpoints


def save(directory, step):
    return checkpoint.save(
        directory,
        step,
        0,
        lambda: None,
        shared=lambda: {"value": torch.tensor(step)},
        mine={"own": torch.tensor([step])},
        progress={"step": step},
    )


def test_the_last_two_checkpoints_are_kept_and_what_a_killed_run_left_is_cleared(tmp_path):
    stale = tmp_path / ".000000002.partial"
    stale.mkdir()
    (stale / "rank0.safetensors").write_bytes(b"half")
    for step in (1, 2, 30):
        save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000002", "000000030"]
    shared, ranks, progress = checkpoint.load(checkpoint.newest(tmp_path))
    assert (shared["value"].item(), ranks[0]["own"].item(), progress) == (30, 30, {"step": 30})


@pytest.mark.parametrize("name", ["shared.safetensors", "rank0.safetensors", "progress.json", "files.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_any_damage_falls_back_to_the_checkpoint_before(tmp_path, capsys, name, harm):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    data = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 0x55
        path.write_bytes(data if harm == "flip" else data[: len(data) // 2])
    assert checkpoint.newest(tmp_path).name == "000000001"
    assert "000000002 is damaged" in capsys.readouterr().err
    assert checkpoint.newest(tmp_path / "nothing") is None


# ---- the bar


def test_the_bar_says_how_fast_and_how_long_it_waited_for_data(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes a terminal of a pipe
    monkeypatch.setenv("COLUMNS", "200")
    with bar("run") as on_step:
        on_step(Progress(epoch=2, epoch_samples=5000, epoch_seconds=2.0, waited=0.5), 1.0)
    said = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "epoch 3  2,500 images/s  25% waiting for data" in said
    with bar("run", "windows") as on_step:  # of text
        on_step(Progress(epoch=2, epoch_samples=5000, epoch_seconds=2.0, waited=0.5), 1.0)
    said = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "2,500 windows/s  25% waiting for data" in said
    assert "epoch" not in said
    monkeypatch.setenv("RANK", "1")
    with bar("run") as on_step:
        assert on_step is None
