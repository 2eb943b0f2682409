"""Heads and channels of decoders: what goes together, what stays, and that the rest computes what it did."""

from __future__ import annotations

import copy
from itertools import chain

import numpy as np
import pytest
import torch

from transfer.language import head_removal, text_importance
from transfer.language.causal_lm import open_language_model, parameters, save_step
from transfer.language.head_removal import Parts

CONTEXT, VOCABULARY = 48, 512


def qwen2():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip


def qwen3():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip


def mistral():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=CONTEXT,
        )
    ).eval()  # fmt: skip


OTHERS = {"qwen2": qwen2, "qwen3": qwen3, "mistral": mistral}


@pytest.fixture
def make(decoders):
    """A small network by its name."""
    return lambda name: (OTHERS.get(name) or getattr(decoders, name))()


def logits(network, tokens):
    with torch.no_grad():
        return network(input_ids=tokens, use_cache=False).logits


@pytest.mark.parametrize("name", ["llama", "gpt2", *OTHERS])
def test_without_a_part_a_network_computes_what_it_does_when_the_part_is_silent(make, name):
    network = make(name)
    with torch.no_grad():
        for one in network.parameters():  # biases of fresh networks are zero
            if one.ndim == 1:
                one.add_(0.3 * torch.randn_like(one))
    tokens = torch.arange(2 * 9).view(2, 9) % VOCABULARY
    found = head_removal.parts_of(network)
    assert [one.kind for one in found] == ["heads", "channels"] * 2
    rng = np.random.default_rng(0)
    stays = [np.sort(rng.choice(one.size, one.size // 2, replace=False)) for one in found]
    silent = copy.deepcopy(network)
    with torch.no_grad():
        for one, stay in zip(found, stays):
            gone = np.setdiff1d(np.arange(one.size), stay)
            columns = (gone[:, None] * one.width + np.arange(one.width)).ravel()
            weight = silent.get_submodule(one.name).weight
            (weight if name == "gpt2" else weight.T)[columns] = 0
    smaller = copy.deepcopy(network)
    head_removal.remove(smaller, found, stays)
    assert torch.allclose(logits(smaller, tokens), logits(silent, tokens), atol=1e-5)
    assert not torch.allclose(logits(smaller, tokens), logits(network, tokens), atol=1e-3)
    lost = sum((one.size - len(stay)) * one.cost for one, stay in zip(found, stays))
    assert parameters(smaller) == parameters(network) - lost


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_a_step_opens_again_with_other_widths_in_every_layer(make, name, tmp_path):
    network = make(name)
    spec = {"format": "winnow-language/1", "architecture": type(network).__name__,
            "config": {**network.config.to_dict(), "architectures": [type(network).__name__]}}  # fmt: skip
    found = head_removal.parts_of(network)
    stays = [np.arange(min(k + 1, one.size)) for k, one in enumerate(found)]
    head_removal.remove(network, found, stays)
    (tmp_path / "tokenizer.json").write_text("{}")
    save_step(tmp_path, network, spec, tmp_path / "tokenizer.json")
    again = open_language_model(tmp_path)
    tokens = torch.arange(10).view(1, 10)
    assert torch.equal(logits(again.network, tokens), logits(network, tokens))
    assert parameters(again.network) == parameters(network)
    assert [one.size for one in head_removal.parts_of(again.network)] == [len(stay) for stay in stays]
    grown = again.network.generate(tokens, max_new_tokens=4, do_sample=False)  # with transformers' own cache
    assert grown.shape[1] <= 14


def parts(*sizes):
    kinds = ("heads", "channels")
    return [Parts(kinds[k % 2], f"layer{k}", size, 1, 10) for k, size in enumerate(sizes)]


def test_the_least_important_go_over_all_layers_and_each_layer_keeps_its_last_head():
    found = parts(2, 8, 3, 8)
    values = [np.array([0.1, 0.2]), np.ones(8), np.array([0.5, 0.3, 0.4]), np.ones(8)]
    stays = head_removal.least_important(found, values, 0.6, ["heads"])  # three of five heads
    # 0.1 goes, 0.2 is the last of its layer, then 0.3 and 0.4
    assert [s.tolist() for s in stays] == [[1], list(range(8)), [0], list(range(8))]


def test_channels_go_by_eights_where_their_number_is_a_multiple_of_eight():
    found = parts(2, 32, 2, 20)
    values = [np.ones(2), np.arange(32.0), np.ones(2), 100 + np.arange(20.0)]
    stays = head_removal.least_important(found, values, 0.25, ["channels"])  # 13 of 52: eight go, the best five stay
    assert stays[1].tolist() == list(range(8, 32))
    assert len(stays[3]) == 20
    stays = head_removal.least_important(found, values[::-1][:1] + values[1:3] + [-values[3]], 0.1, ["channels"])
    assert len(stays[3]) == 15  # 20 is none, so five may go


def test_the_last_step_ends_at_the_size_and_not_far_below_it():
    found = parts(4, 400, 4, 400)
    values = [np.arange(one.size, dtype=float) for one in found]
    ratio = head_removal.ratio_for(found, values, 0.5, ["channels"], 10_000, 8_000)  # a quarter of the channels
    stays = head_removal.least_important(found, values, ratio, ["channels"])
    assert 7_840 <= 10_000 - sum((o.size - len(s)) * o.cost for o, s in zip(found, stays)) <= 8_040
    assert head_removal.ratio_for(found, values, 0.1, ["channels"], 10_000, 8_000) == 0.1


def test_importance_is_the_derivative_of_the_loss_with_respect_to_a_gate_on_the_part(make):
    network = make("llama")
    tokens = torch.arange(2 * 12).view(2, 12) * 7 % VOCABULARY
    found = head_removal.parts_of(network)
    asked = torch.ones(2, 11, dtype=torch.bool)
    batch = (tokens, asked, torch.tensor([0, 1]))
    before = {name: p.clone() for name, p in network.named_parameters()}
    importance, rises = text_importance.taylor(network, found, iter([batch]), 2)
    assert all(torch.equal(before[n], p) and p.requires_grad and p.grad is None for n, p in network.named_parameters())

    def loss(place, part, gate):
        one = found[place]

        def scaled(_, given):
            factor = torch.ones(one.size * one.width, dtype=given[0].dtype)
            factor[part * one.width : (part + 1) * one.width] = gate
            return (given[0] * factor,)

        handle = network.get_submodule(one.name).register_forward_pre_hook(scaled)
        with torch.no_grad():
            losses = text_importance.window_losses(network, tokens, asked)[0].double()
        handle.remove()
        return losses

    network.double()
    importance, rises = text_importance.taylor(network, found, iter([batch]), 2)
    for place, part in ((0, 2), (1, 5), (2, 0), (3, 100)):
        slope = (loss(place, part, 1.05) - loss(place, part, 0.95)) / 0.1
        assert importance[place][part] == pytest.approx(slope.abs().mean().item(), rel=3e-2, abs=1e-5)
        assert rises[place][:, part] == pytest.approx((-slope).numpy(), rel=3e-2, abs=1e-5)


def test_the_planted_head_alone_is_of_no_importance_to_the_text(world):
    model = open_language_model(world.model)
    found = head_removal.parts_of(model.network)
    tokens = torch.from_numpy(world.windows[:8])
    batch = (tokens, torch.ones(8, CONTEXT - 1, dtype=torch.bool), torch.zeros(8, dtype=torch.int64))
    values, _ = text_importance.taylor(model.network, found, iter([batch]), 0)
    heads = list(chain.from_iterable(v.tolist() for one, v in zip(found, values) if one.kind == "heads"))
    assert heads[-1] == 0
    assert min(heads[:-1]) > 0
