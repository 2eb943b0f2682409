"""`transfer auto`: the commands that it chooses, and that typing them gives the same index."""

from __future__ import annotations

import json
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from prune.index.pruned_index import PrunedIndex
from transfer import __main__ as transfer
from transfer.studies.auto_plan import SourceFacts, plan
from transfer.studies.places import Splits


def planned(facts, **settings):
    settings = {"asked": ["photos", "pets=pets"], "name": "photos", "loader": "torch"} | settings
    made = plan("photos", {"pets": Splits("pets/train", "pets/test")}, facts, 0.2, Path("runs/pets"), **settings)
    return [shlex.join(command) for command in made.commands], made


def test_the_commands_are_those_of_the_long_way_with_its_names():
    commands, made = planned(SourceFacts(1_281_167, 1000, 400), gate=False, floor=20)
    assert commands == [
        "prune write --images photos --out runs/pets/photos.beton",
        "prune write --images pets/train --out runs/pets/pets.beton",
        "pretrain --beton runs/pets/photos.beton --recipe rn18-surrogate --sample 0.25 --loader torch "
        "--out runs/pets/surrogate",
        "prune features --model runs/pets/surrogate --betons runs/pets/photos.beton runs/pets/pets.beton "
        "--loader torch --out runs/pets/features",
        "prune score --source runs/pets/features/photos.features.npz --targets runs/pets/features/pets.features.npz "
        "--out runs/pets/scores.npz",
        "prune select --scores runs/pets/scores.npz --method winnow --keep 0.2 --floor 20 "
        "--out runs/pets/pets-20.index.npz",
        "prune show runs/pets/pets-20.index.npz --html runs/pets/pets-20.html --source runs/pets/photos.beton "
        "--scores runs/pets/scores.npz",
    ]
    assert "transfer study --source photos --targets pets=pets --recipe rn50-16ep --out runs/pets/study" in made.next


@pytest.mark.parametrize(
    ("facts", "recipe"),
    [
        (SourceFacts(5_000, 10, 32), "--recipe tiny-surrogate --loader"),
        (SourceFacts(50_000, 100, 32), "--recipe small-rn18-surrogate --loader"),
        (SourceFacts(5_000, 10, 300), "--recipe small-rn18-64 --loader"),
        (SourceFacts(100_000, 100, 300), "--recipe rn18-surrogate --sample 0.5 "),
    ],
)
def test_the_surrogate_follows_the_sources_size(facts, recipe):
    commands, made = planned(facts)
    assert recipe in " ".join(commands)
    assert any("The surrogate is trained by recipe" in line for line in made.why)


def test_a_named_surrogate_is_taken_and_floors_take_no_more_than_a_tenth_of_the_kept():
    commands, _ = planned(SourceFacts(10_000, 100, 32), surrogate="timm:resnet18:w.pth")
    assert "prune surrogate --arch resnet18 --weights w.pth --out runs/pets/surrogate" in commands
    select = next(line for line in commands if "--method winnow" in line)
    assert "--floor 2 " in select  # 2,000 are kept, a tenth of that over 100 classes
    commands, made = planned(SourceFacts(1_000, 100, 32), surrogate="tiny:0.5")
    assert "--recipe tiny --sample 0.5" in " ".join(commands)
    assert not any("--floor" in line for line in commands)
    assert any("No class has a floor" in line for line in made.why)


@pytest.mark.slow
def test_one_command_gives_what_its_printed_commands_give_byte_for_byte_and_resumes(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = toy.root / "data"
    asked = ["--source", str(data / "source/train"), "--targets", f"signs={data / 'signs'}", "--keep", "0.3"]
    asked += ["--loader", "torch", "--device", "cpu", "--surrogate", "lanterns-surrogate:1"]
    assert transfer.main(["auto", *asked, "--out", "typed", "--print-commands"]) == 0
    script = capsys.readouterr().out
    assert not Path("typed").exists()
    for line in script.splitlines():
        if line.startswith(("prune ", "pretrain ")):
            program, *arguments = shlex.split(line)
            assert import_module(f"{program}.__main__").main(arguments) == 0, line
    assert transfer.main(["auto", *asked, "--out", "one", "--json"]) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out[said.out.rindex('{\n "index"') :])
    assert facts["index"] == "one/signs-30.index.npz"
    assert Path("one/signs-30.index.npz").read_bytes() == Path("typed/signs-30.index.npz").read_bytes()
    assert Path("one/commands.sh").read_text() == script.replace("typed/", "one/")
    assert len(PrunedIndex.load(Path(facts["index"]))) > 0
    assert Path("one/signs-30.html").is_file()
    assert "What to type next" in said.err
    before = Path("one/surrogate/model.safetensors").stat().st_mtime_ns
    assert transfer.main(["auto", *asked, "--out", "one", "--json"]) == 0
    assert Path("one/surrogate/model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_end_repeats_that_the_surrogate_only_guesses_and_what_to_type_instead(toy, tmp_path, capsys):
    data, out = toy.root / "data", tmp_path / "out"
    noise = write_noise(tmp_path / "noise")  # classes that no surrogate can tell apart
    asked = ["--source", str(noise), "--targets", f"signs={data / 'signs'}", "--out", str(out), "--no-gate", "--json"]
    assert transfer.main(["auto", *asked, "--surrogate", "tiny:0.2", "--loader", "torch", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    middle, end, _ = said.err.split("made, but not to be relied on")
    assert said.err.strip().endswith("made, but not to be relied on: its surrogate only guesses")
    assert "no more than guessing" in middle
    assert "no more than guessing" in end
    assert "--surrogate timm:resnet18.a1_in1k" in end
    assert ": done;" not in said.err
    facts = json.loads(said.out[said.out.rindex('{\n "index"') :])
    assert len(facts["doubt"]) == 2
    # What is said to type is understood.
    for surrogate in ("timm:resnet18.a1_in1k", "small-rn18:1"):
        assert (
            transfer.main(["auto", *asked[:-3], str(tmp_path / "x"), "--surrogate", surrogate, "--print-commands"]) == 0
        )


def write_noise(folder):
    from PIL import Image

    rng = np.random.default_rng(0)
    for k in range(120):
        place = folder / f"class{k % 4}" / f"{k:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(place)
    return folder


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--targets", "signs={data}/signs", "--keep", "2"], "--keep 2.0 is outside (0, 1]"),
        (["--targets", "signs={data}/nothing"], "no such directory"),
        (["--targets", "signs={data}/signs", "--surrogate", "magic"], "--surrogate magic: give timm:MODEL"),
        (["--targets", "signs={data}/signs", "--surrogate", "timm:nonet"], "timm:nonet: not one of timm's models"),
    ],
)
def test_a_mistake_gets_one_line_and_nothing_is_written(toy, tmp_path, capsys, flags, words):
    data, out = toy.root / "data", tmp_path / "out"
    flags = [flag.format(data=data) for flag in flags]
    assert transfer.main(["auto", "--source", str(data / "source/train"), "--out", str(out), *flags]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
    assert not out.exists()


def test_a_script_of_the_users_own_is_not_overwritten(toy, tmp_path, capsys):
    data, out = toy.root / "data", tmp_path / "out"
    out.mkdir()
    (out / "commands.sh").write_text("echo mine\n")
    flags = ["--source", str(data / "source/train"), "--targets", f"signs={data}/signs", "--out", str(out)]
    assert transfer.main(["auto", *flags]) == 2
    assert "is not one of `transfer auto`" in capsys.readouterr().err
    assert (out / "commands.sh").read_text() == "echo mine\n"
