"""How small a decoder gets within 3 % of its perplexity, by one command, three seeds; against the original trained on.

    python tests/benchmarks/compress_language.py --work work --out tests/benchmarks/results/compress-language.md
    python tests/benchmarks/compress_language.py --work work --seeds 0 ...                     (one seed alone)

A Llama-style decoder is trained from random weights on the docstrings of the standard library, but those of a few
modules, on which perplexity and the groups of prompts are measured. `transfer compress-language` then shrinks it. Every
part resumes: what WORK has is not made again. About a minute of one core a seed; more steps: --steps 5000.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published import END, REMARKS, made_here, publish

from prune.runs.command_line import run_step
from prune.runs.files import note, read_json, write_json

os.environ["HF_HUB_OFFLINE"] = "1"
HELD_OUT = ("argparse", "datetime", "statistics", "tarfile", "threading", "zipfile")
VOCABULARY, WINDOW, BATCH, RATE, RECOVERY = 512, 64, 16, 4e-3, 40
HELD = 96
"""Held-out windows that are measured."""
SETTINGS = ["--size", "0.6", "--window", f"{WINDOW}", "--recovery-steps", f"{RECOVERY}", "--batch-size", f"{BATCH}",
            "--learning-rate", "1e-3", "--held-out-windows", f"{HELD}", "--importance-windows", "128", "--threads", "1",
            "--precision", "fp32"]  # fmt: skip


def docstrings(place: Path) -> list[str]:
    """Docstrings of a module."""
    try:
        tree = ast.parse(place.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return []
    nodes = (n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef)))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def prepare(work: Path) -> None:
    """Write train.txt, held-out.txt, tokenizer.json and prompts.jsonl."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if (work / "prompts.jsonl").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(p for p in library.rglob("*.py") if not {"site-packages", "test", "tests"} & set(p.parts))
    text = {p: docstrings(p) for p in files}
    held = [p for p in files if p.parent == library and p.stem in HELD_OUT]
    train = "\n\n".join(one for p in files if p not in held for one in text[p])
    (work / "train.txt").write_text(train, encoding="utf-8")
    (work / "held-out.txt").write_text("\n\n".join(one for p in held for one in text[p]), encoding="utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(train.split("\n\n"), trainer)
    tokenizer.save(str(work / "tokenizer.json"))
    cases = []
    for place in held:  # a group for each module: the second half of a docstring's first lines
        pieces = [" ".join(one.split())[:200] for one in text[place] if len(one) > 200][:40]
        cases += [{"prompt": p[:100], "continuation": p[100:140], "group": place.stem} for p in pieces]
    (work / "prompts.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")


def windows(work: Path) -> torch.Tensor:
    """Windows of the training text."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(work / "tokenizer.json")).encode((work / "train.txt").read_text("utf-8")).ids
    return torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)


def learn(network: Any, data: torch.Tensor, steps: int, rate: float, seed: int) -> None:
    """Plain training by AdamW, linear warm-up and fall."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    draw = torch.Generator().manual_seed(seed)
    network.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50, (steps - step) / (0.5 * steps))
        rows = data[torch.randint(0, len(data), (BATCH,), generator=draw)]
        network(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    network.eval()


def original(work: Path, seed: int, steps: int) -> Path:
    """A model directory of Hugging Face, trained on the text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    place = work / f"model-{seed}"
    if (place / "tokenizer.json").exists():
        return place
    note(f"training {place}")
    torch.manual_seed(seed)
    network = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=192, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, head_dim=8, max_position_embeddings=WINDOW, tie_word_embeddings=True,
    ))  # fmt: skip
    learn(network, windows(work), steps, RATE, seed)
    network.save_pretrained(place)
    (place / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())
    return place


def trained_on(work: Path, seed: int, steps: int) -> float:
    """Perplexity of the original after as many more steps as the recoveries took together, with nothing removed."""
    from transfer.language.causal_lm import open_language_model
    from transfer.language.language_onnx import torch_logits
    from transfer.language.likelihood_test import measure
    from transfer.language.prompts import read_prompts
    from transfer.language.token_windows import open_tokenizer, read_text, spread

    place = work / f"trained-on-{seed}.json"
    if place.exists():
        return float(read_json(place)["perplexity"])
    network = open_language_model(work / f"model-{seed}").network
    learn(network, windows(work), steps, 1e-3, 100 + seed)
    tokenizer = open_tokenizer(work, VOCABULARY)
    held = spread(read_text(tokenizer, [work / "train.txt"], [work / "held-out.txt"], WINDOW).held_out, HELD)
    prompts = read_prompts(work / "prompts.jsonl", tokenizer, WINDOW)
    found = measure(torch_logits(network), held, prompts).perplexity
    write_json(place, {"perplexity": found, "steps": steps})
    return found


def compress(work: Path, seed: int) -> list[dict[str, Any]]:
    """The journal of the one command."""
    from transfer.compression import journal

    out = work / f"run-{seed}"
    command = ["--model", str(work / f"model-{seed}"), "--text", str(work / "train.txt"), "--held-out",
               str(work / "held-out.txt"), "--prompts", str(work / "prompts.jsonl"), "--seed", str(seed), "--out",
               str(out), *SETTINGS]  # fmt: skip
    if code := run_step("transfer compress-language", "transfer.compress_language", command):
        raise SystemExit(code)
    return journal.read_journal(out)


def last_of(entries: list[dict[str, Any]], kinds: tuple[str, ...]) -> dict[str, Any] | None:
    """The last accepted step of these kinds."""
    found = [e for e in entries if e["verdict"] == "accepted" and e["kind"] in kinds]
    return found[-1] if found else None


def rows_of(work: Path, seed: int, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the page says of one seed: the original, trained on, shrunk, int8, int4."""
    first = entries[0]
    shrinking = [e for e in entries if e["kind"] in ("both", "heads", "channels")]
    more = trained_on(work, seed, RECOVERY * len(shrinking))
    named = {"original": first, "heads and channels removed": last_of(entries, ("both", "heads", "channels"))}
    named |= {"int8": last_of(entries, ("int8",)), "4-bit weights": last_of(entries, ("int4",))}
    rows = [{"seed": seed, "what": "original trained on", "perplexity": more, "params": 1.0, "bytes": None, "ms": None}]
    for name, entry in named.items():
        if entry is not None:
            rows.append({
                "seed": seed, "what": name, "perplexity": entry["perplexity"], "ms": entry["latency_ms"],
                "params": entry["params"] / first["params"], "bytes": entry["bytes"] / first["bytes"],
            })  # fmt: skip
    return rows


NAMES = ("original", "original trained on", "heads and channels removed", "int8", "4-bit weights")
HEADER = "| | parameters | file | perplexity | against the original | ms a window |\n|---|---|---|---|---|---|"
STEPS = "| seed | step | kind | ratio | parameters | perplexity | verdict | why |\n|---|---|---|---|---|---|---|---|"


def page(work: Path, found: dict[int, list[dict[str, Any]]], steps: int) -> str:
    """The table over the seeds, and every step."""
    rows = {seed: rows_of(work, seed, entries) for seed, entries in found.items()}
    parameters = next(iter(found.values()))[0]["params"]
    held = ", ".join(HELD_OUT)
    lines = [
        "# A decoder within 3 % of its perplexity",
        "",
        f"Originals: Llama-style, 4 layers, 8 query heads on 4 key and value heads, 64 wide, {VOCABULARY} tokens",
        f"of byte-level BPE, {parameters:,} parameters, trained for {steps} steps of {BATCH} windows of {WINDOW}",
        f"tokens on the standard library's docstrings but those of {held}.",
        "Perplexity is measured on those; a group of prompts is one of these modules and may lose 0.1 nats a token.",
        f"Recovery: {RECOVERY} steps of the same batch after each step that shrinks. Latency: one window, one thread,",
        "no key-value cache. File: bytes against the original's fp32 weights.",
        "",
        f"Made: {made_here()}.",
        "",
        REMARKS,
        END,
        "",
        HEADER,
        *(_row(name, rows) for name in NAMES),
        "",
        f"Means over the seeds {', '.join(map(str, found))}; in brackets the smallest and the largest value.",
        "",
        "## Steps",
        "",
        STEPS,
    ]
    for seed, entries in found.items():
        lines += [
            f"| {seed} | {e['step']} | {e['kind']} | {e['what'].get('ratio') or 0:.2g} | {e['params']:,} "
            f"| {e['perplexity']} | {e['verdict']} | {e['reason']} |"
            for e in entries[1:]
        ]
    return "\n".join(lines) + "\n"


def _row(name: str, rows: dict[int, list[dict[str, Any]]]) -> str:
    mine = {seed: one for seed, ones in rows.items() for one in ones if one["what"] == name}
    if not mine:
        return f"| {name} | not accepted in any seed | | | | |"
    first = {seed: next(one for one in ones if one["what"] == "original") for seed, ones in rows.items()}
    change = [100 * (one["perplexity"] / first[seed]["perplexity"] - 1) for seed, one in mine.items()]
    some = f" ({len(mine)} of {len(rows)} seeds)" if len(mine) < len(rows) else ""
    columns = [_mean([one[key] for one in mine.values()], digits) for key, digits in (("params", 3), ("bytes", 3))]
    columns += [_mean([one["perplexity"] for one in mine.values()], 2), f"{_mean(change, 1)} %"]
    return f"| {name}{some} | {' | '.join(columns)} | {_mean([one['ms'] for one in mine.values()], 2)} |"


def _mean(values: list[float | None], digits: int) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    return f"{np.mean(known):.{digits}f} [{min(known):.{digits}f}, {max(known):.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepare(given.work)
    found = {}
    for seed in given.seeds:
        original(given.work, seed, given.steps)
        found[seed] = compress(given.work, seed)
        publish(given.out, page(given.work, found, given.steps))


if __name__ == "__main__":
    main()
