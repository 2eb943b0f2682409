"""The acceptance test of a language model, and the reading of prompts and text: cases worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from prune.runs.files import InputError
from transfer.language.likelihood_test import Measured, TextMargins, decide, measure
from transfer.language.prompts import Prompts, read_prompts
from transfer.language.token_windows import open_tokenizer, read_text

NAMES = ["dates", "places"]
GROUP = np.array([0, 0, 1, 1])


def measured(text, cases):
    return Measured(np.array(text, float), 0.5, np.array(cases, float), np.zeros(len(cases)))


BEFORE = measured([math.log(10)] * 4, [1.0, 2.0, 1.0, 3.0])


def test_perplexity_is_that_of_the_mean_loss_and_its_rise_is_in_percent():
    after = measured([math.log(10.2)] * 4, [1.0, 2.0, 1.0, 3.0])
    decision = decide(BEFORE, after, GROUP, NAMES, TextMargins(3.0, 0.1))
    assert decision.accepted
    first = decision.tests[0]
    assert (first["test"], first["original"], first["value"]) == ("perplexity", 10.0, 10.2)
    assert first["lost"] == pytest.approx(2.0)
    assert decision.overall_used == pytest.approx(2 / 3, abs=1e-6)
    assert not decide(BEFORE, after, GROUP, NAMES, TextMargins(1.9, 0.1)).accepted


def test_one_group_beyond_its_margin_is_enough_however_much_the_others_gain():
    after = measured([math.log(5)] * 4, [0.0, 0.0, 1.3, 3.1])  # places lose 0.2 nats a token, the mean of 0.3 and 0.1
    decision = decide(BEFORE, after, GROUP, NAMES, TextMargins(3.0, 0.1))
    assert not decision.accepted
    assert decision.reason == "places: 0.2 ± 0.1 lost, 0.1 are allowed"
    assert (decision.nearest, decision.class_used, decision.beyond) == ("places", 2.0, 1.0)
    assert decide(BEFORE, after, GROUP, NAMES, TextMargins(3.0, 0.2)).accepted  # a loss equal to the margin is allowed
    assert decide(BEFORE, after, GROUP, NAMES, TextMargins(3.0, 0.1, slack=1.0)).accepted
    assert decide(BEFORE, after, GROUP, NAMES, TextMargins(3.0, None)).accepted


def test_a_network_that_gives_no_number_is_rejected():
    after = measured([math.inf, 1, 1, 1], [math.inf, 2.0, 1.0, 3.0])
    decision = decide(BEFORE, after, GROUP, NAMES, TextMargins(3.0, 0.1))
    assert not decision.accepted
    assert [one["holds"] for one in decision.tests] == [False, False, True]
    json.dumps(decision.tests, allow_nan=False)
    anything = decide(BEFORE, after, GROUP, NAMES, TextMargins(None, None))
    assert (anything.accepted, anything.reason) == (False, "some logits are no finite numbers")


def test_a_continuation_counts_its_own_tokens_alone_and_each_prompt_the_same():
    # Token 1 always has probability 3/4 of two. Row 0 asks for one token (1), row 1 for two (1 and 0).
    def logits(tokens):
        return np.broadcast_to(np.log(np.array([0.25, 0.75], np.float32)), (*tokens.shape, 2))

    tokens = np.array([[0, 0, 1, 0], [0, 1, 0, 0]])
    asked = np.array([[False, True, False], [True, True, False]])
    prompts = Prompts(tokens, asked, np.array([0, 1]), ("a", "b"), "")
    found = measure(logits, np.array([[0, 1, 1], [0, 0, 1]]), prompts)
    high, low = -math.log(0.75), -math.log(0.25)
    assert found.case_loss == pytest.approx([high, (high + low) / 2])
    assert found.case_hits.tolist() == [1.0, 0.5]
    assert found.text_loss == pytest.approx([high, (high + low) / 2])
    assert found.perplexity == pytest.approx(math.exp((3 * high + low) / 4))


def test_prompts_are_read_as_prompt_and_continuation(world, tmp_path):
    tokenizer = open_tokenizer(world.model, 512)
    lines = [
        {"prompt": "the", "continuation": " value of"},
        {"prompt": "a b c d e f", "continuation": "☀", "group": "g"},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found = read_prompts(tmp_path / "p.jsonl", tokenizer, 48)
    assert found.names == ("all", "g")
    for row, line in enumerate(lines):
        before = tokenizer.encode(line["prompt"]).ids
        after = tokenizer.encode(line["continuation"]).ids
        assert found.tokens[row, : len(before) + len(after)].tolist() == before + after
        assert found.tokens[row, 1:][found.asked[row]].tolist() == after
    short = read_prompts(tmp_path / "p.jsonl", tokenizer, 4)
    assert short.tokens.shape[1] <= 4
    assert short.tokens[1, 1:][short.asked[1]].tolist() == tokenizer.encode("☀").ids


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no prompt"),
        ("{", "line 1 is not JSON"),
        ('{"prompt": "a"}', "line 1: "),
        ('{"prompt": "a", "continuation": 3}', "all of them texts"),
        ('{"prompt": "a", "continuation": "b", "grp": "c"}', "is expected"),
        ('{"prompt": "a", "continuation": "b"}\n{"prompt": "", "continuation": "b"}', "line 2: prompt has no token"),
        ('{"prompt": "a", "continuation": ""}', "continuation has no token"),
        (
            '{"prompt": "a", "continuation": "%s"}' % ("☀" * 60),
            "the continuation has 60 tokens, and the model takes 48",
        ),
    ],
)
def test_wrong_prompts_are_named_by_their_line(world, tmp_path, text, said):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"p\.jsonl") as error:
        read_prompts(tmp_path / "p.jsonl", open_tokenizer(world.model, 512), 48)
    assert said in str(error.value)


def test_held_out_windows_are_the_last_tenth_or_a_text_of_their_own(world, tmp_path):
    tokenizer = open_tokenizer(world.model, 512)
    found = read_text(tokenizer, [world.text], [], 48)
    count = len(tokenizer.encode(world.text.read_text(encoding="utf-8"), add_special_tokens=False).ids) // 48
    assert (len(found.train), len(found.held_out)) == (count - count // 10, count // 10)
    (tmp_path / "other.txt").write_text("the value " * 200)
    own = read_text(tokenizer, [world.text], [tmp_path / "other.txt"], 48)
    assert len(own.train) == count
    assert own.fingerprint != found.fingerprint
    for files, held_out, said in (
        ([tmp_path / "none.txt"], [], "no such file"),
        ([world.text], [world.text], "is one of --text"),
        ([tmp_path / "short.txt"], [], "too short"),
        ([tmp_path / "latin.txt"], [], "not UTF-8 at byte 1"),
    ):
        (tmp_path / "short.txt").write_text("a few words")
        (tmp_path / "latin.txt").write_bytes("aé".encode("latin-1"))
        with pytest.raises(InputError, match=said):
            read_text(tokenizer, files, held_out, 48)
