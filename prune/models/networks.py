"""Build, save and load networks: `model.json` describes one, `model.safetensors` holds its weights.

Surrogates and backbones are built alike: timm models, with a different stem where the images are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from prune.models.model_spec import STEMS, check_kwargs, model_fingerprint, need_model, read_spec
from prune.models.pruned_widths import narrow
from prune.models.transfers import constant
from prune.models.weights_check import check_weights
from prune.runs.files import InputError, atomic, write_json

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, on the scale 0 to 255


def build(spec: Mapping[str, Any]) -> nn.Module:
    """Build a network with fresh weights.

    Parameters
    ----------
    spec : mapping
        "arch" (timm's name), "kwargs" (for `timm.create_model`), "classes" (names) and "stem": "imagenet" keeps timm's
        stem, "half" replaces a ResNet's by a 3x3 convolution of stride 2 without max-pool, "small" by one of stride 1.
        "widths" if channels were pruned: see `prune.models.pruned_widths`.

    Raises
    ------
    InputError
        timm has no such model, or the stem or the widths do not fit it.
    """
    arch, kwargs, stem = spec["arch"], dict(spec.get("kwargs") or {}), spec.get("stem", "imagenet")
    if not timm.is_model(arch):
        raise InputError(f"model {arch!r} is not one of timm's; see timm.list_models()")
    if stem not in STEMS:
        raise InputError(f"stem {stem!r}: {', '.join(STEMS)} are possible")
    check_kwargs(kwargs)
    try:
        model = timm.create_model(arch, pretrained=False, num_classes=len(spec["classes"]), **kwargs)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"model {arch!r} cannot be built with {kwargs}: {str(error).splitlines()[0]}") from None
    if stem != "imagenet":
        first = getattr(model, "conv1", None)
        if not isinstance(first, nn.Conv2d) or not hasattr(model, "maxpool"):
            raise InputError(f"stem {stem!r} fits timm's ResNets only; {arch!r} has another stem")
        model.conv1 = nn.Conv2d(3, first.out_channels, 3, 2 if stem == "half" else 1, 1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return narrow(model, _widths(model, spec)) if spec.get("widths") else model


def _widths(model: nn.Module, spec: Mapping[str, Any]) -> Any:
    """Widths of the spec; the classifier gets one output per class, whatever number was recorded for it."""
    widths = spec["widths"]
    if isinstance(widths, Mapping) and hasattr(model, "get_classifier"):
        fits: dict[str, Any] = {}
        for head in _heads(model):
            sizes = widths.get(head)
            if isinstance(sizes, list) and len(sizes) == 2:
                fits[head] = [len(spec["classes"]), sizes[1]]
        return {**widths, **fits}
    return widths


def head_names(model: nn.Module) -> list[str]:
    """Names of the weights of the classifier, or of both of a distilled network's, in the network's state dict."""
    return [f"{head}.{name}" for head, module in _heads(model).items() for name in module.state_dict()]


def classifier_of(model: nn.Module) -> nn.Module:
    """The classifier of a network that has one; `InputError` for a distilled one, whose two heads no step trains."""
    head = model.get_classifier()  # type: ignore[operator]
    if isinstance(head, (tuple, list)):
        raise InputError(
            f"a {type(model).__name__} has two classifiers; it gives features and logits, and cannot be trained or "
            "compressed here: choose a network with one"
        )
    assert isinstance(head, nn.Module)
    return head


def _heads(model: nn.Module) -> dict[str, nn.Module]:
    """The classifier by its name; both of a network that was trained by distillation (DeiT, LeViT)."""
    found = model.get_classifier()  # type: ignore[operator]
    heads = found if isinstance(found, (tuple, list)) else (found,)
    return {name: module for name, module in model.named_modules() if any(module is head for head in heads)}


def save_model(directory: Path, model: nn.Module, spec: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, then `model.json`, each atomically: where the second exists the first is complete."""
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    with atomic(directory / "model.safetensors") as partial:
        partial.write_bytes(save(weights))  # `save_file` makes files that only their owner may read
    write_json(directory / "model.json", {**spec, "format": "winnow-model/1"})


def load_model(directory: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a saved network, in evaluation mode, on the CPU.

    Returns
    -------
    model : nn.Module
    spec : dict
        The content of `model.json`.

    Raises
    ------
    InputError
        Not a model directory, or weights that are damaged or of another network.
    """
    directory = Path(directory)
    need_model(directory)
    spec = read_spec(directory)
    try:
        check_weights(directory / "model.safetensors", spec, build)
        model = build(spec)
        model.load_state_dict(load_file(str(directory / "model.safetensors")))
    except (KeyError, TypeError) as error:
        raise InputError(f"{directory}/model.json: incomplete ({error})") from None
    except InputError as error:
        here = "" if str(directory) in str(error) else f"{directory}/model.json: "
        raise InputError(f"{here}{error}") from None
    except (SafetensorError, OSError, RuntimeError) as error:
        raise InputError(
            f"{directory}/model.safetensors: damaged or of another network ({str(error).splitlines()[0]})"
        ) from None
    return model.eval(), spec


@dataclass(frozen=True)
class TrainedModel:
    """A model directory, opened once: the network, its description and its fingerprint.

    Attributes
    ----------
    network : nn.Module
        In evaluation mode, on the CPU when opened.
    spec : dict
        The content of `model.json`.
    fingerprint : str
        See `model_fingerprint`.
    """

    network: nn.Module
    spec: dict[str, Any]
    fingerprint: str


def open_model(directory: Path) -> TrainedModel:
    """Load the network of a model directory together with its fingerprint; `InputError` as in `load_model`."""
    network, spec = load_model(directory)
    return TrainedModel(network, spec, model_fingerprint(directory))


def features_and_logits(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the pooled features before the classifier, and the logits.

    Parameters
    ----------
    images : (b, 3, h, w) float

    Returns
    -------
    features : (b, d)
    logits : (b, c)
        c is 0 for a network without a classifier; of a distilled network with two, in evaluation mode, their average.
    """
    tokens = model.forward_features(images)  # type: ignore[operator]
    features = model.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
    classifier = model.get_classifier()  # type: ignore[operator]
    if isinstance(classifier, (tuple, list)):  # two heads, each on its own token: the network averages their logits
        bare = isinstance(classifier[0], nn.Identity)
        return features, features[:, :0] if bare else model.forward_head(tokens)  # type: ignore[operator]
    return features, features[:, :0] if isinstance(classifier, nn.Identity) else classifier(features)


def normalise(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Convert uint8 images to floats and standardise them; `mean` and `std` are on the scale 0 to 255."""
    shift, scale = (constant(tuple(float(v) for v in values), (1, 3, 1, 1), images.device) for values in (mean, std))
    return (images.float() - shift) / scale


def pick_precision(precision: str, device: torch.device) -> str:
    """Resolve "auto": "bf16" where the hardware computes in bfloat16, "fp32" where it would emulate it."""
    if precision not in ("auto", "bf16", "fp32"):
        raise InputError(f"--precision {precision}: auto, bf16 and fp32 are possible")
    if precision != "auto":
        return precision
    return "bf16" if computes_bf16(device) else "fp32"


def computes_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16; torch also says so of GPUs that emulate it, such as T4 and V100."""
    if device.type == "cuda":
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device)[0] >= 8
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


@contextmanager
def safe_memory_format(network: nn.Module) -> Iterator[None]:
    """Convert a network to the memory format in which its gradients are correct: channels last where that is safe.

    On the CPU with channels last, oneDNN's gradient of a 1x1 convolution of stride 2 writes beyond its memory for some
    numbers of channels, which pruned networks have. Multiples of 8 are safe; with channels first any number is, and
    images are converted as well until the block ends.
    """
    widths = [n for m in network.modules() if isinstance(m, nn.Conv2d) for n in (m.in_channels, m.out_channels)]
    on_cpu = next(network.parameters()).device.type == "cpu"
    if not on_cpu or all(n % 8 == 0 or n == 3 for n in widths):
        network.to(memory_format=torch.channels_last)
        yield
        return
    network.to(memory_format=torch.contiguous_format)
    hook = network.register_forward_pre_hook(lambda _, images: (images[0].contiguous(), *images[1:]))
    try:
        yield
    finally:
        hook.remove()


def strides_over_one_pixel(network: nn.Module, side: int) -> bool:
    """Whether a convolution with a stride gets a feature map of one pixel, for images of `side` pixels.

    In bf16 on the CPU, oneDNN (torch 2.15) leaves weight gradients of such a convolution uninitialised.
    """
    found: list[bool] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        assert isinstance(module, nn.Conv2d)
        found.append(max(module.stride) > 1 and max(module.kernel_size) > 1 and inputs[0].shape[-2:] == (1, 1))

    hooks = [m.register_forward_hook(look) for m in network.modules() if isinstance(m, nn.Conv2d)]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, side, side))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return any(found)
