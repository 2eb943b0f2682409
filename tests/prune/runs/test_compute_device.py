"""Which device computes, and that a job never trains on the CPU because its GPU cannot be used."""

import importlib

import pytest
import torch

from prune.models.networks import computes_bf16, pick_precision
from prune.runs import compute_device
from prune.runs.files import InputError
from prune.runs.identity import marked

_ASKS = ("CUDA_VISIBLE_DEVICES", "WINNOW_DEVICE", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")
COMMANDS = ["pretrain.config", "prune.features", "prune.curves"]
COMMANDS += [f"transfer.{name}" for name in ("probe", "knn", "finetune", "compress", "incremental", "stream")]
COMMANDS += ["transfer.preserve", "transfer.study"]


@pytest.fixture(autouse=True)
def unasked(monkeypatch):
    """A machine whose GPUs torch cannot use, and a job that says nothing about them."""
    for name in _ASKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(compute_device, "_opens", lambda place: False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("CUDA_VISIBLE_DEVICES", "0,1"), ("CUDA_VISIBLE_DEVICES", "MIG-7"), ("SLURM_JOB_GPUS", "3"),
     ("SLURM_GPUS_ON_NODE", "8")],
)  # fmt: skip
def test_a_job_that_was_given_a_gpu_and_cannot_use_it_is_refused_with_driver_build_and_way_out(
    monkeypatch, name, value
):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as refused:
        compute_device.current()
    text = str(refused.value)
    assert "\n" not in text
    for part in (
        "was given a GPU",
        "driver",
        f"torch {torch.__version__}",
        "CUDA",
        "--device cpu",
        "WINNOW_DEVICE=cpu",
    ):
        assert part in text
    monkeypatch.setenv("WINNOW_DEVICE", "cpu")
    assert compute_device.current() == "cpu"
    monkeypatch.delenv("WINNOW_DEVICE")
    with compute_device.using("cpu"):
        assert compute_device.current() == "cpu"


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_a_job_that_was_given_none_computes_on_the_cpu(monkeypatch, value):
    monkeypatch.setattr(compute_device, "_opens", lambda place: True)  # a card that this job must not use
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert compute_device.current() == "cpu"


def test_a_gpu_that_is_asked_for_and_absent_is_refused_and_a_wrong_name_too(monkeypatch):
    assert compute_device.current() == "cpu"
    with pytest.raises(InputError, match="--device cuda: no GPU can be used"), compute_device.using("cuda"):
        compute_device.current()
    monkeypatch.setenv("WINNOW_DEVICE", "tpu")
    with pytest.raises(InputError, match="WINNOW_DEVICE=tpu: auto, cpu or cuda"):
        compute_device.current()


def test_a_flag_stands_above_the_environment_and_ends_with_its_command(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute_device.current() == "cuda"
    monkeypatch.setenv("WINNOW_DEVICE", "cpu")
    with compute_device.using("cuda"):
        assert compute_device.current() == "cuda"
        with compute_device.using("auto"):  # a step that another step calls
            assert compute_device.current() == "cuda"
    assert compute_device.current() == "cpu"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\nGCC version: 12.3",
            "driver 550.54.15",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65  Release Build", "driver 580.65"),
        ("something else", "an NVIDIA driver of unknown version"),
    ],
)
def test_the_driver_is_named_as_the_kernel_names_it(tmp_path, text, found):
    (tmp_path / "version").write_text(text)
    assert compute_device.driver(tmp_path / "version") == found
    assert compute_device.driver(tmp_path / "gone") == "no NVIDIA driver"


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_that_computes_takes_the_device_and_its_results_do_not_depend_on_it(module):
    config = importlib.import_module(module).Config
    assert config.__dataclass_fields__["device"].default == "auto"
    if module != "transfer.study":  # whose settings are a list of their own
        assert "device" in marked(config)


@pytest.mark.parametrize(("capability", "precision"), [((7, 0), "fp32"), ((7, 5), "fp32"), ((8, 0), "bf16")])
def test_cards_that_only_emulate_bf16_are_not_taken_for_cards_that_have_it(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    card = torch.device("cuda")
    assert computes_bf16(card) is (precision == "bf16")
    assert pick_precision("auto", card) == precision  # features are not trained: no scaled loss is needed


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((9, 0), torch.bfloat16)])
def test_a_training_falls_back_to_fp16_where_bf16_is_emulated(monkeypatch, capability, dtype):
    from pretrain.distributed import dtype_of

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert dtype_of("auto") is dtype
    assert dtype_of("bf16") is torch.bfloat16
    with compute_device.using("cpu"), pytest.raises(InputError, match="--precision fp16 needs CUDA"):
        dtype_of("fp16")
