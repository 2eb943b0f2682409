"""The steps of a language model's compression: remove heads and channels, int8, 4-bit weights; each tested on text."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from prune.runs.identity import plain
from transfer.compression import journal
from transfer.compression.acceptance import Decision
from transfer.compression.int8_worth import MARGIN, time_ratio
from transfer.compression.journal import ACCEPTED, INT4, INT8, QUANTISING, ROLLED_BACK, CompressionPlan, Entry, Trial
from transfer.compression.removed_parts import removed_channels
from transfer.compression.trials import keep, scratch_of, work_through
from transfer.language import head_removal, language_onnx
from transfer.language.causal_lm import TOKENIZER, LanguageModel, open_language_model, parameters, save_step
from transfer.language.language_onnx import EMBEDDING, HEAD
from transfer.language.likelihood_test import Measured, TextTest
from transfer.language.text_importance import TextImportance
from transfer.language.text_recovery import TextRecovery

REMOVES = {"both": ("heads", "channels"), "heads": ("heads",), "channels": ("channels",)}
"""What each kind of step removes."""
_FALLBACKS: tuple[tuple[str, ...], ...] = ((), (EMBEDDING,), (EMBEDDING, HEAD))
"""What stays in fp32 when a quantised file is tried, until one is accepted."""


@dataclass(frozen=True)
class TextCompression:
    """What the steps of a compression have in common.

    Attributes
    ----------
    out : Path
        Run directory.
    model : LanguageModel
        The original.
    tokenizer : Path
        Its tokenizer.json.
    plan : CompressionPlan
    test : TextTest
    importance : TextImportance
    recovery : TextRecovery
    measure_latency : bool
        Of accepted steps, in ONNX Runtime, for one held-out window; a 4-bit file slower than int8 is then rejected.
    approve : bool
        Every step that passes the test waits for a person's yes.
    """

    out: Path
    model: LanguageModel
    tokenizer: Path
    plan: CompressionPlan
    test: TextTest
    importance: TextImportance
    recovery: TextRecovery
    measure_latency: bool
    approve: bool


def compress(compression: TextCompression) -> list[Entry]:
    """Try steps until the plan ends, after those that the journal has; returns all entries.

    Raises
    ------
    Requeue, NeedsApproval
        See `transfer.compression.trials.work_through`.
    """
    return work_through(
        compression.out,
        compression.plan,
        lambda: _record_original(compression),
        lambda trial: _try(compression, trial),
    )


def _record_original(compression: TextCompression) -> Entry:
    target = compression.out / "original"
    target.mkdir(parents=True, exist_ok=True)
    model, test = compression.model, compression.test
    save_step(target, model.network, model.spec, compression.tokenizer)
    journal.copy_whole(target / TOKENIZER, compression.out / TOKENIZER)
    decision, found = test.decide_original()
    entry = _entry(compression, Trial(0, 0, "original", None), target, model.network, (decision, found), {}, 0.0)
    journal.make_current(compression.out, target)
    journal.write_journal(compression.out, [entry])
    return entry


def _try(compression: TextCompression, trial: Trial) -> Entry:
    begin = time.perf_counter()
    scratch = scratch_of(compression.out, trial)
    base = journal.step_directory(compression.out, trial.base)
    network = open_language_model(base).network
    final = scratch / "model"
    final.mkdir(exist_ok=True)
    if trial.kind in QUANTISING:
        file, judged, what = _quantise(compression, trial, network, base, scratch)
        os.replace(file, final / file.name)
    else:
        judged, what = _shrink(compression, trial, network, scratch)
    save_step(final, network, compression.model.spec, compression.tokenizer)
    entry = _entry(compression, trial, final, network, judged, what, time.perf_counter() - begin)
    keep(compression.out, entry, final, approve=compression.approve)
    return entry


def _shrink(
    compression: TextCompression, trial: Trial, network: nn.Module, scratch: Path
) -> tuple[tuple[Decision, Measured], dict[str, Any]]:
    """Remove parts from a network, in place, and train it again."""
    assert trial.ratio is not None
    goal = compression.plan.size * parameters(compression.model.network)
    found, kinds = head_removal.parts_of(network), REMOVES[trial.kind]
    values, rises = compression.importance.of(network, found, trial.step)
    ratio = head_removal.ratio_for(found, values, trial.ratio, kinds, parameters(network), goal)
    stays = head_removal.least_important(found, values, ratio, kinds)
    lost = {one.name: one.size - len(stay) for one, stay in zip(found, stays) if len(stay) < one.size}
    what = {
        "ratio": ratio,
        "importance": compression.importance.criterion,
        "layers": lost,
        "removed": removed_channels(found, stays, values, rises, compression.test.prompts.names),
    }
    if not lost:
        decision, measured = compression.test.decide(language_onnx.torch_logits(network))
        return (decision.nothing_removed(), measured), what
    head_removal.remove(network, found, stays)
    compression.recovery.train(network, trial.step, scratch)
    return compression.test.decide(language_onnx.torch_logits(network)), what


def _quantise(
    compression: TextCompression, trial: Trial, network: nn.Module, base: Path, scratch: Path
) -> tuple[Path, tuple[Decision, Measured], dict[str, Any]]:
    """Write the first quantised file that passes the test, or the last one that was tried."""
    spec, test = compression.model.spec, compression.test
    float_file = exported(compression.out, base, network, spec)
    file = scratch / (INT8 if trial.kind == "int8" else INT4)
    bits = 8 if trial.kind == "int8" else 4
    for kept in _FALLBACKS:
        language_onnx.quantise_weights(float_file, file, spec, bits, kept)
        decision, measured = test.decide(language_onnx.runtime_logits(file))
        if decision.accepted:
            break
    what: dict[str, Any] = {"mode": "mixed" if kept else trial.kind, "keep_float": list(kept)}
    before = base / INT8 if (base / INT8).exists() else float_file
    if bits == 4 and decision.accepted:
        against = _not_worth(compression, file, before, what)
        if against:
            decision = replace(decision, accepted=False, reason="; ".join(against), beyond=None)
    return file, (decision, measured), what


def _not_worth(compression: TextCompression, file: Path, before: Path, what: dict[str, Any]) -> list[str]:
    """Why a 4-bit file is not worth having beside the file that it would replace; empty where it is."""
    name = "int8" if before.name == INT8 else "fp32"
    against = []
    if file.stat().st_size >= before.stat().st_size:
        against.append(f"it is no smaller than {name}, which is kept")
    if compression.measure_latency:
        ratio = time_ratio(*language_onnx.window_ms([before, file], compression.test.windows[:1]))
        what["time_ratio"] = round(ratio, 4)
        what["compared_with"] = name
        if not ratio <= 1 + MARGIN:
            against.append(f"it takes {ratio:.2f} times {name}'s time, so {name} is kept")
    return against


def _entry(
    compression: TextCompression,
    trial: Trial,
    directory: Path,
    network: nn.Module,
    judged: tuple[Decision, Measured],
    what: Mapping[str, Any],
    seconds: float,
) -> Entry:
    """The journal entry of a step whose model lies in `directory`."""
    decision, measured = judged
    written = [directory / name for name in (INT4, INT8, journal.WEIGHTS) if (directory / name).exists()]
    timed = decision.accepted and compression.measure_latency
    perplexity = measured.perplexity
    return {
        "step": trial.step,
        "base": trial.base,
        "kind": trial.kind,
        "what": plain(what),
        "params": parameters(network),
        "bytes": written[0].stat().st_size,
        "macs": multiply_adds(network),
        "latency_ms": _latency(compression, directory, network) if timed else None,
        "perplexity": round(perplexity, 4) if np.isfinite(measured.text_loss).all() else None,
        "accuracy": decision.accuracy,
        "per_class": dict(zip(compression.test.prompts.names, decision.per_class)),
        "overall_used": decision.overall_used,
        "class_used": decision.class_used,
        "nearest": decision.nearest,
        "beyond": decision.beyond,
        "tests": list(decision.tests),
        "verdict": ACCEPTED if decision.accepted else ROLLED_BACK,
        "reason": decision.reason,
        "files": journal.file_digests(directory),
        "seconds": round(seconds, 3),
        **journal.uncounted(journal.removed_nothing(what)),
    }


def multiply_adds(network: nn.Module) -> int:
    """Multiply-adds of one token: the matrices that it meets, without the products of attention with other tokens."""
    head = network.get_output_embeddings().weight.numel()  # type: ignore[operator]
    _, layers = head_removal.layers_of(network)
    return int(head + sum(p.numel() for layer in layers for p in layer.parameters() if p.ndim == 2))


def _latency(compression: TextCompression, directory: Path, network: nn.Module) -> float:
    """Milliseconds for one held-out window: of the quantised file where there is one, else as an fp32 file."""
    window = compression.test.windows[:1]
    for name in (INT4, INT8):
        if (directory / name).exists():
            return round(min(language_onnx.window_ms([directory / name], window)[0]), 4)
    file = exported(compression.out, directory, network, compression.model.spec)
    return round(min(language_onnx.window_ms([file], window)[0]), 4)


def exported(out: Path, directory: Path, network: nn.Module, spec: Mapping[str, Any]) -> Path:
    """OUT/export/model.onnx in fp32, written anew where it is not of the weights in a model directory."""
    place = out / "export/model.onnx"
    weights = journal.file_digests(directory)[journal.WEIGHTS]
    if language_onnx.weights_of(place) != weights:
        place.parent.mkdir(exist_ok=True)
        language_onnx.export_language_model(network, spec, place, weights)
    return place


def export_current(out: Path, entries: Sequence[Entry]) -> Path:
    """Write the run's current model as OUT/export/model.onnx, where that is not there yet; returns its place."""
    directory = journal.verified_directory(out, entries[journal.current_step(entries)])
    model = open_language_model(directory)
    return exported(out, directory, model.network, model.spec)
