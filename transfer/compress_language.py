r"""Shrink a language model step by step: a step is accepted when text and prompts lose no more than their margins.

    python -m transfer compress-language --model models/small-lm --text docs/*.txt --prompts prompts.jsonl \
        --size 0.6 --out runs/small-lm
    python -m transfer explain --run runs/small-lm --step 2
    python -m transfer rollback --run runs/small-lm --to 2

MODEL is a directory of Hugging Face (Llama, Mistral, Qwen2, Qwen3, GPT-2; config.json, safetensors, tokenizer.json). A
step removes the attention heads and MLP channels that matter least on the text (or quantises), trains shortly, and is
tested: perplexity on held-out text, and the likelihood of the reference continuations in each group of prompts, against
the original. Within the margins it is accepted; otherwise it is rolled back and tried with half the ratio, and then the
next kind of step follows. PROMPTS is JSON Lines: {"prompt": ..., "continuation": ..., "group": ...}.

OUT holds the current model, original/, steps/NN/ (each accepted step), export/ (the current model for ONNX Runtime in
fp32), journal.jsonl and result.json. The same command resumes a run that was killed. `transfer approve`, `rollback`,
`explain` and `compress-report` work as for `transfer compress`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.compute_device import DeviceFlag, using
from prune.runs.files import InputError, at_least, note, positive, write_json
from prune.runs.identity import Location, RunOption
from prune.runs.outputs import claim, finish

if TYPE_CHECKING:
    from pretrain.distributed import Ranks
    from transfer.compression.journal import CompressionPlan, Entry
    from transfer.language.causal_lm import LanguageModel
    from transfer.language.language_steps import TextCompression
    from transfer.language.prompts import Prompts
    from transfer.language.token_windows import Text


@dataclass(frozen=True)
class Config:
    model: Location[Path]
    """Directory of a causal language model; only read."""
    text: Location[tuple[Path, ...]]
    """UTF-8 text files like those that the model is for: importance and training use them."""
    prompts: Location[Path]
    """Preservation set: prompts with reference continuations in groups, JSON Lines."""
    out: Location[Path]
    """Run directory."""
    held_out: Location[tuple[Path, ...]] = ()
    """Text files on which perplexity is measured; the last tenth of --text when absent."""
    kinds: tuple[Literal["both", "heads", "channels", "int8", "int4"], ...] = (
        "both", "heads", "channels", "int8", "int4",
    )  # fmt: skip
    """Kinds of steps, in order: heads and MLP channels, heads alone, channels alone, int8, 4-bit weights."""
    size: float = 0.6
    """Share of the original's parameters at which shrinking ends."""
    ratio: float = 0.2
    """Share of the heads and channels that a step removes at first; a rejected step is tried with half."""
    least: float = 0.04
    """Smallest ratio that is tried before the next kind of step."""
    steps: int = 30
    """Largest number of steps tried; attempts that find nothing to remove, and rollbacks, do not count."""
    importance: Literal["text", "magnitude", "random"] = "text"
    """How heads and channels are ranked: gradients and activations on the text, norms of weights, or at random."""
    importance_windows: int = 256
    """Windows of the text by which `text` ranks."""
    window: int = 256
    """Tokens of a window; the model's context when that is shorter."""
    held_out_windows: int = 256
    """Largest number of held-out windows that are measured, evenly spread."""
    margin: float | None = 3.0
    """Percent by which perplexity on the held-out text may rise; None: any loss is allowed."""
    group_margin: float | None = 0.1
    """Nats by which the mean log likelihood of a continuation's token may fall in each group of prompts; None: any."""
    slack: float = 0.0
    """Standard errors of a loss that are allowed in addition to each margin."""
    recovery_steps: int = 200
    """Optimiser steps of training after each step that shrinks."""
    learning_rate: float = 3e-4
    """Peak learning rate of that training (AdamW)."""
    batch_size: int = 16
    """Windows of a training step."""
    distil: float = 0.5
    """Weight of the original's predictions in the loss, in [0, 1]."""
    seed: int = 0
    """Decides order and random draws."""
    approve: RunOption[bool] = False
    """Stop before a step is accepted, with exit code 75, until a person answers by `transfer approve`."""
    latency: RunOption[Literal["onnx", "none"]] = "onnx"
    """Measure accepted steps in ONNX Runtime on one thread, and reject 4-bit weights that are slower than int8."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the training; auto: bf16 where the hardware has it, fp32 elsewhere."""
    threads: RunOption[int | None] = None
    """Threads of torch; OMP_NUM_THREADS or the machine's cores when absent."""
    checkpoint_minutes: RunOption[float] = 10.0
    """Write a checkpoint of the training whenever this time has passed."""
    device: RunOption[DeviceFlag] = "auto"
    """auto: the GPU, where there is one; a job that was given a GPU and cannot use it is refused."""


def run(config: Config) -> None:
    """Compress, resume, or return at once when the run is done."""
    with using(config.device):
        _run(config)


def _run(config: Config) -> None:
    _check(config)
    from prune.runs.extras import need_modules

    need_modules("transformers", "tokenizers", "onnx", "onnxruntime", "onnxscript")
    from pretrain.distributed import open_ranks
    from transfer.compression import approval, journal
    from transfer.language import language_steps
    from transfer.language.causal_lm import context_of, open_language_model, read_spec
    from transfer.language.prompts import read_prompts
    from transfer.language.token_windows import open_tokenizer, read_text, tokenizer_fingerprint

    spec = read_spec(config.model)  # text and prompts before the weights, which take long
    tokenizer, context = open_tokenizer(config.model, int(spec["config"]["vocab_size"])), context_of(spec)
    text = read_text(tokenizer, config.text, config.held_out, min(config.window, context))
    prompts = read_prompts(config.prompts, tokenizer, context)
    model = open_language_model(config.model)
    inputs = {"model": model.fingerprint, "tokenizer": tokenizer_fingerprint(config.model)}
    inputs |= {"text": text.fingerprint, "prompts": prompts.fingerprint}
    with claim(config.out, config, inputs) as done:
        if done:
            entries = journal.read_journal(config.out)
            language_steps.export_current(config.out, entries)  # of another step after a rollback
            return note(f"{config.out}: up to date, its model is that of step {journal.current_step(entries)}")
        approval.need_answer(config.out, journal.read_journal(config.out))
        with open_ranks(config.precision, config.threads) as ranks:
            entries = language_steps.compress(_compression(config, model, text, prompts, ranks))
        _finish(config, entries, inputs)


def _compression(config: Config, model: LanguageModel, text: Text, prompts: Prompts, ranks: Ranks) -> TextCompression:
    """Measure the original, and choose the windows that the steps need."""
    from transfer.language.language_onnx import torch_logits
    from transfer.language.language_steps import TextCompression
    from transfer.language.likelihood_test import TextMargins, TextTest, measure
    from transfer.language.text_importance import TextImportance
    from transfer.language.text_recovery import TextRecovery
    from transfer.language.token_windows import spread

    held_out = spread(text.held_out, config.held_out_windows)
    original = measure(torch_logits(model.network), held_out, prompts)
    margins = TextMargins(config.margin, config.group_margin, config.slack)
    ranked = spread(text.train, config.importance_windows)
    return TextCompression(
        config.out,
        model,
        config.model / "tokenizer.json",
        plan=_plan(config),
        test=TextTest(held_out, prompts, margins, original),
        importance=TextImportance(config.importance, ranked, prompts, config.seed, ranks.device),
        recovery=TextRecovery(
            text.train,
            ranks,
            model.network,
            config.recovery_steps,
            config.learning_rate,
            config.batch_size,
            config.distil,
            config.seed,
            60 * config.checkpoint_minutes,
        ),
        measure_latency=config.latency == "onnx",
        approve=config.approve,
    )


def _plan(config: Config) -> CompressionPlan:
    from transfer.compression.journal import CompressionPlan

    return CompressionPlan(tuple(config.kinds), config.ratio, config.least, config.size, config.steps)


def _finish(config: Config, entries: list[Entry], inputs: dict[str, Any]) -> None:
    """Write the exported model and the result, and report where the compression ended."""
    from transfer.compression import journal
    from transfer.language.language_steps import export_current

    place = export_current(config.out, entries)
    result = journal.summary(entries)
    write_json(config.out / "result.json", {**result, **inputs})
    finish(config.out, seconds=sum(entry["seconds"] for entry in entries), inputs=inputs)
    first, final = result["original"], result["final"]
    parameters, size = final["params"] / first["params"], final["bytes"] / first["bytes"]
    note(
        f"{config.out}: ends with step {final['step']} at {parameters:.3f} of the parameters and {size:.3f} of the "
        f"file: {journal.describe(final)}"
    )
    if (text := journal.why_larger(entries, _plan(config))) is not None:
        note(text)
    note(f"{place}: for ONNX Runtime, fp32")
    for entry in entries:
        if entry["kind"] in journal.QUANTISING and entry["verdict"] == journal.ROLLED_BACK:
            note(f"{entry['kind']} was not accepted: {journal.reason(entry)}")


def _check(config: Config) -> None:
    from transfer.compression.trials import check_places
    from transfer.evaluation.output import need_one_process

    need_one_process()
    check_places(config.model.resolve(), config.out.resolve())
    for name, low, high in (("size", 0.0, 1.0), ("ratio", 0.0, 0.95), ("least", 0.0, 0.95)):
        if not low < (value := getattr(config, name)) <= high:
            raise InputError(f"--{name} {value}: a share in ({low:g}, {high:g}] is needed")
    if not 0 <= config.distil <= 1:
        raise InputError(f"--distil {config.distil}: a weight in [0, 1] is needed")
    at_least(config, 0, "margin", "group_margin", "slack", "recovery_steps", "checkpoint_minutes", "seed")
    at_least(config, 1, "steps", "importance_windows", "held_out_windows", "batch_size", "threads")
    positive(config, "learning_rate")
    if config.window < 4:
        raise InputError(f"--window {config.window}: at least 4 tokens are needed")
    if not config.text:
        raise InputError("--text: name at least one file")
    if not config.kinds or len(set(config.kinds)) < len(config.kinds):
        raise InputError("--kinds: name each kind once, and at least one")
    order = ["int8" in kind or "int4" in kind for kind in config.kinds]
    if order != sorted(order) or config.kinds[-2:] == ("int4", "int8"):
        raise InputError("--kinds: int8 and then int4 come last: a quantised network cannot be shrunk")
