"""Compression that removes whole attention heads, through its commands, on a tiny vision transformer."""

from __future__ import annotations

import json
import shutil

import pytest

from prune.models import networks
from prune.runs.files import InputError
from transfer import compress, rollback
from transfer.__main__ import main
from transfer.compression import journal

pytestmark = pytest.mark.slow

VIT = {
    "arch": "vit_tiny_patch16_224",
    "kwargs": {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4},
    "recipe": "tiny-vit",
}


@pytest.fixture(scope="module")
def case(tmp_path_factory, make_colour_case):
    return make_colour_case(tmp_path_factory.mktemp("heads"), VIT, kinds=("heads", "inner"), least=0.2)


@pytest.fixture(scope="module")
def done(case):
    compress.run(case.config(case.root / "done"))
    return case.root / "done"


def heads(directory):
    model, spec = networks.load_model(directory)
    return [block.attn.num_heads for block in model.blocks], {block.attn.head_dim for block in model.blocks}, spec


def test_every_step_removes_a_share_of_all_heads_and_the_rest_keep_their_dimension(case, done):
    first, *tried = journal.read_journal(done)
    assert [(line["kind"], line["verdict"]) for line in tried] == [("heads", "accepted")] * 2
    left = 8
    for line, gone in zip(tried, (2, 2)):  # 8 * 0.75 = 6, 6 * 0.75 = 4.5, to the even 4
        counts, widths, _ = heads(journal.step_directory(done, line["step"]))
        left -= gone
        assert (sum(counts), widths) == (left, {8})
        removed = line["what"]["removed"]
        assert {one["layer"]: len(one["channels"]) for one in removed} == line["what"]["layers"]
        assert {one["unit"] for one in removed} == {"heads"}
        assert sum(len(one["channels"]) for one in removed) == gone
        assert line["params"] < first["params"]
        assert line["macs"] < first["macs"]
    rollback.run(rollback.Config(shutil.copytree(done, done.parent / "back"), 1))
    assert case.files(done.parent / "back") == case.files(done / "steps/01")


def test_explain_names_heads_by_their_number_in_the_original(done, capsys):
    lost = {one["layer"]: one["channels"] for one in journal.read_journal(done)[2]["what"]["removed"]}
    layer = next(iter(lost))
    before = {one["layer"]: one["channels"] for one in journal.read_journal(done)[1]["what"]["removed"]}.get(layer, [])
    left = [head for head in range(4) if head not in before]
    assert main(["explain", "--run", str(done), "--step", "2", "--layer", layer]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    header = next(i for i, words in enumerate(lines) if words[0] == "head")
    rows = [words for words in lines[header:] if words[0].isdigit()]
    assert [int(words[0]) for words in rows] == lost[layer]
    if before:
        assert [int(words[1]) for words in rows] == [left[head] for head in lost[layer]]
    assert main(["explain", "--run", str(done), "--step", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["unit"] == "heads"
    assert main(["explain", "--run", str(done), "--step", "1"]) == 0
    assert "of 4 heads" in capsys.readouterr().out


def test_a_run_that_was_killed_between_two_steps_ends_with_the_same_bytes(case, done, tmp_path):
    run = shutil.copytree(done, tmp_path / "run")
    (run / "DONE").unlink()
    journal.write_journal(run, journal.read_journal(run)[:2])
    shutil.rmtree(run / "steps/02")
    journal.make_current(run, run / "steps/01")
    compress.run(case.config(run))
    assert case.files(run) == case.files(done)


def test_heads_and_channels_of_the_blocks_shrink_together_and_no_head_gets_thinner(case, tmp_path):
    asked = case.config(tmp_path / "run", kinds=("both", "channels"), recovery_epochs=0.0, protect=("blocks.0.attn",))
    compress.run(asked)
    counts, widths, spec = heads(tmp_path / "run")
    assert (counts, widths) == ([4, 2], {8})  # 3 of 4 heads, then 2 of 3: one block alone may lose them
    layers = [set(line["what"]["layers"]) for line in journal.read_journal(tmp_path / "run")[1:]]
    assert layers == [{"blocks.1.attn", "blocks.0.mlp.fc1", "blocks.1.mlp.fc1"}] * 2
    # The other kinds leave heads alone in such a run: whole ones go, or none.
    shutil.rmtree(tmp_path / "run")
    compress.run(case.config(tmp_path / "run", kinds=("heads", "channels"), recovery_epochs=0.0, least=0.25, steps=6))
    lines = journal.read_journal(tmp_path / "run")
    assert {line["kind"] for line in lines[1:]} == {"heads", "channels"}
    counts, widths, spec = heads(tmp_path / "run")
    assert (counts, widths) == ([1, 1], {8})  # one stays in each block
    assert spec["widths"]["blocks.0.attn.qkv"][0] == 24
    nothing = [line for line in lines if line["reason"] == "nothing is left to remove at this ratio"]
    assert [line["kind"] for line in nothing] == ["heads"]
    assert [line for line in lines if not line.get("counted", True)] == nothing
    assert journal.tried(lines) == 6


@pytest.mark.parametrize(
    ("arch", "more", "said"),
    [
        ("resnet18", {"kinds": ("heads",)}, "--kinds heads, both: ResNet has no attention whose heads"),
        ("resnet18", {"kinds": ("both", "int8")}, "--kinds heads, both: ResNet has no attention whose heads"),
        (
            VIT["arch"],
            {"protect": ("blocks.0.attn", "blocks.1.attn")},
            "blocks.1.attn: no head is left that a step may remove",
        ),
        (VIT["arch"], {"kinds": ("heads", "rewind")}, "rewind removes single weights"),
    ],
)
def test_where_no_head_can_go_one_line_says_so_and_nothing_is_written(case, tmp_path, arch, more, said):
    kwargs = VIT["kwargs"] if arch == VIT["arch"] else {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}
    spec = {**case.spec, "arch": arch, "kwargs": kwargs}
    networks.save_model(tmp_path / "model", networks.build(spec), spec)
    with pytest.raises(InputError, match=said) as error:
        compress.run(case.config(tmp_path / "run", model=tmp_path / "model", **more))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
