"""Open a causal language model of Hugging Face from a directory; read and write the models of a compression's steps.

Only safetensors are read, no code that comes with a model is run, nothing is downloaded. A compressed model has layers
of different widths, which a config.json cannot describe; its model.json holds the original's configuration, and the
widths are those of the weights.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from prune.runs.files import InputError, atomic, read_json, write_json
from transfer.compression.journal import SPEC, WEIGHTS, copy_whole
from transfer.language.head_removal import fit_widths

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported

FORMAT = "winnow-language/1"
LLAMA = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
GPT2 = ("GPT2LMHeadModel",)
TOKENIZER = "tokenizer.json"
_NAMES_CODE = ("auto_map", "attn_implementation", "experts_implementation", "quantization_config")
_SHARDS = "model.safetensors.index.json"
_MODEL_TYPE = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2",
               "Qwen3ForCausalLM": "qwen3", "GPT2LMHeadModel": "gpt2"}  # fmt: skip


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in memory.

    Attributes
    ----------
    network : nn.Module
        Of `transformers`, fp32, in evaluation mode, on the CPU.
    spec : dict
        Content of model.json: "format", "architecture", "config" (the original's config.json).
    fingerprint : str
        Of configuration and weights.
    """

    network: nn.Module
    spec: dict[str, Any]
    fingerprint: str

    @property
    def context(self) -> int:
        """Largest number of tokens that the network takes."""
        return context_of(self.spec)


def context_of(spec: Mapping[str, Any]) -> int:
    """Largest number of tokens that a network takes; a sliding window limits it, as exported files have none."""
    config = spec["config"]
    longest = [config.get(key) for key in ("max_position_embeddings", "n_positions", "n_ctx")]
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    known = [n for n in (*longest, window) if type(n) is int and n > 0]
    return min(known, default=1024)


def is_language_model(directory: Path) -> bool:
    """Whether a directory looks like a causal language model of Hugging Face, or one that was compressed here."""
    for name, key in (("config.json", "architectures"), (SPEC, "architecture")):
        try:
            found = json.loads((Path(directory) / name).read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError, AttributeError):
            continue
        text = str(found)
        if "ForCausalLM" in text or "LMHeadModel" in text:
            return True
    return False


def open_language_model(directory: Path) -> LanguageModel:
    """Open a model's directory: one of Hugging Face, or a step of `transfer compress-language`.

    Raises
    ------
    InputError
        No such model, an architecture that is not known here, code of its own (`auto_map`), weights that are pickled,
        damaged or of other shapes.
    """
    directory = Path(directory)
    spec = read_spec(directory)
    if (directory / SPEC).is_file():
        return _open_step(directory, spec)
    _need_safetensors(directory)
    return _from_hub_files(directory, spec["config"], spec["architecture"])


def read_spec(directory: Path) -> dict[str, Any]:
    """What `LanguageModel.spec` will be, without the weights, which are not read.

    Raises
    ------
    InputError
        No such model, an architecture that is not known here, code of its own (`auto_map`), or no size of vocabulary.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; a causal language model of Hugging Face is expected")
    if (directory / SPEC).is_file():
        return _step_spec(directory)
    if not (directory / "config.json").is_file():
        raise InputError(f"{directory}: has no config.json: not a model directory of Hugging Face")
    config = read_json(directory / "config.json")
    for name in ("config.json", "tokenizer_config.json"):
        there = (directory / name).is_file() and read_json(directory / name)
        if isinstance(there, dict) and "auto_map" in there:
            raise InputError(
                f"{directory / name}: 'auto_map' asks for code that comes with the model, and none of that is run; "
                f"use a model of {', '.join(_MODEL_TYPE)}"
            )
    architecture = _architecture(config, directory / "config.json")
    return {"format": FORMAT, "architecture": architecture, "config": config}


def _step_spec(directory: Path) -> dict[str, Any]:
    spec = read_json(directory / SPEC)
    if not isinstance(spec, dict) or spec.get("format") != FORMAT:
        raise InputError(f"{directory / SPEC}: not of a language model that was compressed here")
    _architecture(spec.get("config"), directory / SPEC)
    return spec


def _architecture(config: Any, place: Path) -> str:
    known = config.get("architectures") if isinstance(config, dict) else None
    name = known[0] if isinstance(known, list) and known else None
    if name not in _MODEL_TYPE or config.get("model_type") != _MODEL_TYPE[name]:
        raise InputError(f"{place}: the architecture {name} is not known here; there are {', '.join(_MODEL_TYPE)}")
    if config.get("quantization_config") is not None:
        raise InputError(f"{place}: its weights are quantised already; give the model in fp32, fp16 or bf16")
    if type(config.get("vocab_size")) is not int:
        raise InputError(f"{place}: vocab_size is {config.get('vocab_size')!r}; a number of tokens is expected")
    if config.get("add_cross_attention"):
        raise InputError(f"{place}: has cross-attention: a decoder alone is expected")
    return str(name)


def _need_safetensors(directory: Path) -> None:
    if (directory / WEIGHTS).is_file() or (directory / _SHARDS).is_file():
        return
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in directory.glob(pattern))
    if pickled:
        open_it = f"AutoModelForCausalLM.from_pretrained({str(directory)!r})"
        code = f"from transformers import AutoModelForCausalLM; {open_it}.save_pretrained('safe')"
        raise InputError(
            f"{directory / pickled[0]}: pickled weights can run code when they are read, so only safetensors are; "
            f'where you trust the file: python -c "{code}", copy {TOKENIZER} to safe, and give --model safe'
        )
    raise InputError(f"{directory}: has no {WEIGHTS}")


def _from_hub_files(directory: Path, config: dict[str, Any], architecture: str) -> LanguageModel:
    """Let transformers match names and shapes; all that it does beyond that is refused before or afterwards."""
    import transformers

    files = [directory / WEIGHTS] if (directory / WEIGHTS).is_file() else _shards(directory)
    sizes = sum(_shapes(file)[1] for file in files)
    _refuse_large(config, architecture, sizes, directory)
    with _quiet_transformers():
        try:
            network, found = getattr(transformers, architecture).from_pretrained(
                str(directory), config=_configuration(config), local_files_only=True, trust_remote_code=False,
                use_safetensors=True, attn_implementation="sdpa", dtype=torch.float32, output_loading_info=True,
                ignore_mismatched_sizes=True,
            )  # fmt: skip
        except Exception as error:  # transformers raises many kinds
            raise InputError(f"{directory}: cannot be opened: {_first_line(error)}") from None
    for what in ("missing_keys", "mismatched_keys"):
        if wrong := sorted(map(str, found.get(what) or ())):
            words = "lacks the weight" if what == "missing_keys" else "has another shape for the weight"
            raise InputError(f"{directory}: {words} {wrong[0]}; config.json and weights do not belong together")
    if more := sorted(name for name in map(str, found.get("unexpected_keys") or ()) if name.endswith(".weight")):
        raise InputError(f"{directory}: has the weight {more[0]}, which the network of config.json has not")
    spec = {"format": FORMAT, "architecture": architecture, "config": config}
    network = network.eval()
    _check_finite(network, directory)
    return LanguageModel(network, spec, _fingerprint(spec, files))


def _shards(directory: Path) -> list[Path]:
    """Files of a model in several parts; names with folders are refused."""
    table = read_json(directory / _SHARDS)
    names = set(table.get("weight_map", {}).values()) if isinstance(table, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputError(f"{directory / _SHARDS}: damaged: it names no files beside it")
    if lost := [name for name in sorted(names) if not (directory / name).is_file()]:
        raise InputError(f"{directory / lost[0]}: no such file, but {_SHARDS} names it; copy all parts of the model")
    return [directory / name for name in sorted(names)]


def _shapes(file: Path) -> tuple[dict[str, list[int]], int]:
    """Names and shapes of a file's tensors, and how many numbers they hold."""
    try:
        with safe_open(str(file), "pt") as opened:
            shapes = {name: list(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: damaged, or not safetensors: {_first_line(error)}") from None
    return shapes, sum(int(torch.Size(shape).numel()) for shape in shapes.values())


def _refuse_large(config: dict[str, Any], architecture: str, numbers: int, directory: Path) -> None:
    """Refuse a configuration whose network is much larger than the weights, before it takes memory."""
    try:
        with torch.device("meta"):
            wanted = sum(p.numel() for p in _empty(config, architecture).parameters())
    except Exception as error:  # whatever a wrong value leads to
        raise InputError(f"{directory / 'config.json'}: no network can be built: {_first_line(error)}") from None
    if wanted > 1.05 * numbers + 4096:
        raise InputError(
            f"{directory / 'config.json'}: asks for {wanted:,} parameters, and the weights have {numbers:,}: "
            "they do not belong together"
        )


def _empty(config: dict[str, Any], architecture: str) -> nn.Module:
    """A network of this configuration, with random weights."""
    import transformers

    found: nn.Module = getattr(transformers, architecture)(_configuration(config))
    return found


def _configuration(config: dict[str, Any]) -> Any:
    """Configuration for transformers, without the entries that name code: kernels may come from a hub."""
    import transformers

    plain = {k: v for k, v in config.items() if not k.startswith("_") and k not in _NAMES_CODE}
    return transformers.AutoConfig.for_model(**plain)


def _open_step(directory: Path, spec: dict[str, Any]) -> LanguageModel:
    architecture = _architecture(spec.get("config"), directory / SPEC)
    if not (directory / WEIGHTS).is_file():
        raise InputError(f"{directory / WEIGHTS}: no such file")
    shapes, _ = _shapes(directory / WEIGHTS)
    with _quiet_transformers(), torch.device("meta"):
        try:
            fit_widths(_empty(spec["config"], architecture), shapes)
        except InputError:
            raise
        except Exception as error:  # as above
            raise InputError(f"{directory / SPEC}: no network can be built: {_first_line(error)}") from None
    with _quiet_transformers():
        network = _empty(spec["config"], architecture)
        fit_widths(network, shapes)
    wrong = network.load_state_dict(load_file(str(directory / WEIGHTS)), strict=False)
    if lost := [name for name in wrong.missing_keys if name != "lm_head.weight"] + list(wrong.unexpected_keys):
        raise InputError(f"{directory / WEIGHTS}: {lost[0]} does not belong to the network of {SPEC}")
    network.tie_weights()  # type: ignore[operator]
    _check_finite(network, directory)
    return LanguageModel(network.eval(), spec, _fingerprint(spec, [directory / WEIGHTS]))


def save_step(directory: Path, network: nn.Module, spec: Mapping[str, Any], tokenizer: Path) -> None:
    """Write weights, model.json and the tokenizer to an existing directory; a file is whole or absent.

    Parameters
    ----------
    directory : Path
    network : nn.Module
    spec : mapping
        See `LanguageModel`.
    tokenizer : Path
        tokenizer.json to copy.
    """
    tied = _is_tied(network)
    state = {name: t.detach().contiguous().cpu() for name, t in network.state_dict().items()}
    if tied:
        state.pop("lm_head.weight", None)
    with atomic(directory / WEIGHTS) as partial:
        save_file(state, str(partial), metadata={"format": "pt"})
    write_json(directory / SPEC, dict(spec))
    if tokenizer.resolve() != (directory / TOKENIZER).resolve():
        copy_whole(tokenizer, directory / TOKENIZER)


def _is_tied(network: nn.Module) -> bool:
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()  # type: ignore[operator]
    return head is not None and head.weight is embedding.weight


def parameters(network: nn.Module) -> int:
    """Number of parameters; weights that are shared count once."""
    return sum(p.numel() for p in network.parameters())


def _check_finite(network: nn.Module, directory: Path) -> None:
    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"{directory}: {name} has values that are not finite: the weights are damaged")


def _fingerprint(spec: Mapping[str, Any], files: list[Path]) -> str:
    total = hashlib.sha256(json.dumps(spec["config"], sort_keys=True).encode())
    for file in files:
        with open(file, "rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()[:32]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


class _quiet_transformers:
    """No warnings and progress bars of transformers in the block: what is wrong is said here, in one line."""

    def __enter__(self) -> None:
        self._logging: Any = importlib.import_module("transformers.utils.logging")
        self._before = self._logging.get_verbosity(), self._logging.is_progress_bar_enabled()
        self._logging.set_verbosity_error()
        self._logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self._logging.set_verbosity(self._before[0])
        if self._before[1]:
            self._logging.enable_progress_bar()
