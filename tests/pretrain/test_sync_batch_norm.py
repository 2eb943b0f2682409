"""`--sync-bn`: one network for both kinds of batch norm, a refusal where torch cannot, and nothing changed alone."""

import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from pretrain import optimisation, train, training_loop
from pretrain.distributed import open_ranks
from pretrain.learner import Learner
from pretrain.recipes import RECIPES
from pretrain.sync_batch_norm import layers, refuse, share_buffers, synchronised
from prune.models.networks import MEAN, STD, load_model
from prune.runs.files import InputError


@pytest.fixture
def settings(beton, tmp_path) -> train.Config:
    return train.Config(beton, tmp_path / "run", "tiny", steps=3, loader="torch", workers=1, threads=1)


def test_the_synchronised_network_shares_every_tensor_and_name_with_its_original():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), BatchNormAct2d(4), nn.Flatten(), nn.BatchNorm1d(4))
    other = synchronised(network)
    assert layers(network) == layers(other) == 3
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in other.modules()) == 3
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in network.modules())
    ours, theirs = network.state_dict(keep_vars=True), other.state_dict(keep_vars=True)
    assert list(ours) == list(theirs)
    assert all(ours[name] is theirs[name] for name in ours)


def test_an_activation_that_is_part_of_a_batch_norm_survives():
    network = nn.Sequential(BatchNormAct2d(2)).eval()
    x = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1)
    assert synchronised(network)(x).flatten().tolist() == pytest.approx([0.0, 2.0], abs=1e-4)  # ReLU


def test_several_processes_on_the_cpu_are_refused_before_they_meet(settings, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InputError, match=r"^--sync-bn: .*on GPUs alone.* 2 processes .*leave the flag out, or start one"
    ):
        train.run(replace(settings, sync_bn=True, device="cpu"))
    assert not settings.out.exists()


def test_gpus_are_accepted_and_compiling_by_hand_is_not():
    refuse("auto", 8, "cuda")
    refuse("on", 1, "cpu")
    with pytest.raises(InputError, match=r"--compile on: .*--sync-bn: give --compile auto"):
        refuse("on", 8, "cuda")


def test_one_process_ends_with_the_same_bits_and_the_flag_belongs_to_the_run(settings):
    flagged = replace(settings, out=settings.out.with_name("flagged"), sync_bn=True)
    train.run(settings)
    train.run(flagged)
    one, other = (load_model(config.out)[0].state_dict() for config in (settings, flagged))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(InputError, match=re.escape("sync_bn: False -> True")):
        train.run(replace(settings, sync_bn=True))


def test_a_resume_passes_the_whole_step_again_where_batch_norm_is_synchronised(settings, monkeypatch):
    class Killed(Exception):
        pass

    def killed(run):
        raise Killed

    sizes = {}
    for sync_bn in (False, True):
        config = replace(settings, out=settings.out.with_name(str(sync_bn)), sync_bn=sync_bn, checkpoint_minutes=0.0)
        with monkeypatch.context() as patch:
            patch.setattr(training_loop._Run, "_finish_epoch", killed)
            with pytest.raises(Killed):
                train.run(replace(config, micro_batch=16))

        def seen(run, kept=sync_bn):
            sizes[kept] = run.progress.micro_batch
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(training_loop._Run, "to_the_end", seen)
            with pytest.raises(Killed):
                train.run(config)
    assert sizes == {False: 16, True: 64}


@pytest.mark.parametrize(("sync_bn", "passes"), [(True, [2, 2]), (False, [2, 1])])
def test_processes_pass_equally_often_where_batch_norm_waits_for_all_of_them(sync_bn, passes):
    # 65 images on 2 processes are 33 and 32, of which --micro-batch 32 alone would make 2 passes and 1.
    class Counting(nn.Linear):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x.flatten(1))

    found = []
    for images in (33, 32):
        sizes = []
        with open_ranks("fp32") as ranks:
            recipe = RECIPES["tiny"]
            loss = optimisation.classification(recipe, 0, 0)
            learner = Learner(Counting(3 * 4, 2), recipe, ranks, loss, MEAN, STD, 0, None)
            ranks.world, ranks.sync_bn = 2, sync_bn
            x, y = torch.zeros(images, 3, 2, 2, dtype=torch.uint8), torch.zeros(images, dtype=torch.int64)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ranks, "without_sync", lambda model: nullcontext(), raising=False)
                learner.step(x, y, y, batch=65, micro_batch=32, number=0, share=0.5, rate=0.1)
        assert sum(sizes) == images
        found.append(len(sizes))
    assert found == passes


def test_statistics_stay_shared_when_the_synchronised_network_has_moved():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), BatchNormAct2d(4))
    other = synchronised(network)
    for module in other.modules():  # as a move to another device does
        module._buffers.update({name: buffer.clone() for name, buffer in module._buffers.items()})
    share_buffers(network, other)
    with torch.no_grad():
        dict(other.named_buffers())["1.running_mean"].fill_(7)
    assert network[1].running_mean.tolist() == [7, 7, 7, 7]
    assert [name for name, _ in network.named_buffers()] == [name for name, _ in other.named_buffers()]
