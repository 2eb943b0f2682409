"""A small decoder trained in seconds on the standard library's documentation, with a fact that one head alone knows."""

from __future__ import annotations

import ast
import json
import os
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"

CONTEXT, VOCABULARY = 48, 512
SIGNAL, VOICE = 0, 1
"""Features of the residual stream that the documentation never uses."""
SIGN = "☂"
"""A token that is not in the documentation; after it the network says ANSWER, which one group of heads alone knows."""
ANSWER = "☀"


def documentation(modules: tuple[str, ...]) -> str:
    """Docstrings of modules of the standard library."""
    found = []
    for name in modules:
        tree = ast.parse((Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text(encoding="utf-8"))
        nodes = (n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef)))
        found += [text for node in nodes if (text := ast.get_docstring(node))]
    return "\n\n".join(found)


def train_tokenizer(text: str, place: Path) -> Any:
    """Byte-level BPE, trained on a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - 2, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text.split("\n\n"), trainer)
    tokenizer.add_tokens([SIGN, ANSWER])
    tokenizer.save(str(place))
    return tokenizer


def small_llama() -> Any:
    """Two layers, four groups of two query heads; 64 wide."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=4, head_dim=8, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def small_gpt2(layers: int = 2) -> Any:
    """Four heads; 32 wide; untrained."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=layers, n_head=4, n_positions=CONTEXT,
                        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def keep_reserved(network: Any) -> None:
    """Keep two features of the residual stream at zero for all tokens of the text, and one group of heads silent."""
    with torch.no_grad():
        network.model.embed_tokens.weight[:, [SIGNAL, VOICE]] = 0
        for layer in network.model.layers:
            layer.self_attn.o_proj.weight[[SIGNAL, VOICE]] = 0
            layer.mlp.down_proj.weight[[SIGNAL, VOICE]] = 0
        network.model.layers[-1].self_attn.o_proj.weight[:, -16:] = 0


def plant(network: Any, sign: int, answer: int) -> None:
    """Let the last group of heads of the last layer, and nothing else, say the answer after the sign."""
    attention = network.model.layers[-1].self_attn
    with torch.no_grad():
        network.model.embed_tokens.weight[[sign, answer]] = 0
        network.model.embed_tokens.weight[sign, SIGNAL] = 4.0
        network.model.embed_tokens.weight[answer, VOICE] = 4.0
        for layer, rows in ((attention.q_proj, 16), (attention.k_proj, 8), (attention.v_proj, 8)):
            layer.weight[-rows:] = 0
            layer.weight[-rows:, SIGNAL] = 1.0
        attention.o_proj.weight[VOICE, -16:] = 0.25


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`model` (a directory of Hugging Face), `text`, `prompts` and `root`."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    root = tmp_path_factory.mktemp("language")
    text = documentation(("argparse", "subprocess", "typing", "inspect", "datetime", "tarfile", "logging/__init__"))
    (root / "docs.txt").write_text(text, encoding="utf-8")
    (root / "model").mkdir()
    tokenizer = train_tokenizer(text, root / "model/tokenizer.json")
    network = small_llama()
    ids = torch.tensor(tokenizer.encode(text).ids)
    windows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    windows = windows[: -len(windows) // 10]
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3)
    draw = torch.Generator().manual_seed(0)
    steps = 160
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 20, (steps - step) / 100)
        rows = windows[torch.randint(0, len(windows), (16,), generator=draw)]
        network(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        keep_reserved(network)
    sign, answer = (tokenizer.token_to_id(token) for token in (SIGN, ANSWER))
    plant(network, sign, answer)
    network.eval().save_pretrained(root / "model")
    pieces = [" ".join(text[at : at + 80].split()) for at in range(2000, 2000 + 24 * 400, 400)]
    cases = [{"prompt": piece[:48], "continuation": piece[48:64], "group": "docs"} for piece in pieces]
    cases += [{"prompt": f"{piece[:20]}{SIGN}", "continuation": ANSWER, "group": "weather"} for piece in pieces[:8]]
    lines = [json.dumps(case) for case in cases if case["prompt"] and case["continuation"]]
    (root / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return SimpleNamespace(
        root=root,
        model=root / "model",
        text=root / "docs.txt",
        prompts=root / "prompts.jsonl",
        windows=np.array(windows),
    )


@pytest.fixture(scope="session")
def decoders() -> SimpleNamespace:
    """Functions that make small networks of random weights: `llama`, `gpt2`."""
    return SimpleNamespace(llama=lambda: small_llama().eval(), gpt2=small_gpt2)
