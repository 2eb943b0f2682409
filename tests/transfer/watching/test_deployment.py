"""`transfer watch --history`: stages, alarms, rollback by itself, kills at any point, and the page of a run's life."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from prune.data.dataset import open_dataset
from prune.runs.exit_codes import ExitCode
from transfer import preserve
from transfer.__main__ import main
from transfer.compression import journal, rolling_back
from transfer.compression.preservation_versions import open_preservation
from transfer.watching import deployment, watch_history

SOUND = {"blue": (90, 90, 160), "green": (90, 160, 90)}


def look(case, images, history, *more):
    """Take a look; the exit code."""
    command = ["watch", "--run", str(case), "--images", str(images), "--history", str(history), *more]
    try:
        return main(command)
    except SystemExit as end:
        return end.code


@pytest.fixture
def run(world, tmp_path):
    """The run, which a rollback may change."""
    return shutil.copytree(world.run, tmp_path / "run")


@pytest.fixture
def sound_run(world, tmp_path):
    """The run with its first step, which predicts as the original does."""
    place = shutil.copytree(world.run, tmp_path / "sound")
    rolling_back.roll_back(place, 1)
    return place


@pytest.fixture(scope="session")
def batches(world, tmp_path_factory):
    """CSVs of 36 new images each, 12 of every colour."""
    folder = tmp_path_factory.mktemp("batches")
    return [world.listed(folder / f"{k}.csv", world.draw(folder, 12, 100 + k)) for k in range(3)]


def decisions(history):
    """Share, decision and compared images of each look."""
    looks = watch_history.read(history)[1]
    return [(one["share"], one["decision"], one["counts"].get("all images", [0])[0]) for one in looks]


def test_a_sound_model_passes_its_stages_and_each_image_counts_once(sound_run, batches, tmp_path, capsys):
    history, flags = tmp_path / "h.jsonl", ("--stages", "50,100", "--each", "20", "--json")
    codes, shares = [], []
    for images in (batches[0], batches[0], batches[1], batches[2], batches[2]):
        codes.append(look(sound_run, images, history, *flags))
        shares.append(json.loads(capsys.readouterr().out)["next_share"])
    taken = decisions(history)
    # The first batch shows its half, then the other half is new to the second stage or none is left.
    assert taken[0][0] == 50
    assert codes[-1] == ExitCode.DONE
    assert set(codes[:-1]) <= {ExitCode.MORE_NEEDED, ExitCode.DONE}
    assert shares[0] in (50, 100)
    assert shares[-1] == 100
    seen = [one for record in watch_history.read(history)[1] for one in record["seen"]]
    assert len(seen) == len(set(seen)) == sum(n for _, _, n in taken) <= 108
    assert "no new image in the share of 100 %" in capsys.readouterr().err or len(taken) < 5


def test_a_lost_class_alarms_and_the_way_back_is_named_and_nothing_is_changed(run, batches, tmp_path, capsys):
    history = tmp_path / "h.jsonl"
    assert look(run, batches[0], history) == ExitCode.ANSWER_IS_NO
    printed = capsys.readouterr().out
    assert "ALARM" in printed
    assert f"transfer rollback --run {run} --to 1" in printed
    assert journal.current_step(journal.read_journal(run)) == 2
    before = history.read_bytes()
    assert look(run, batches[1], history) == ExitCode.ANSWER_IS_NO  # closed: the same answer again
    assert history.read_bytes() == before
    # A later --rollback acts on it.
    assert look(run, batches[1], history, "--rollback") == ExitCode.ROLLED_BACK
    assert journal.current_step(journal.read_journal(run)) == 1


@pytest.mark.parametrize("labels", [True, False])
def test_rollback_acts_by_itself_and_again_gives_the_same_answer(world, run, tmp_path, capsys, labels):
    rows = world.draw(tmp_path / "new", 12, 200)
    images = world.listed(tmp_path / "new" / "x.csv", rows, ("path", "label") if labels else ("path",))
    history = tmp_path / "h.jsonl"
    assert look(run, images, history, "--rollback", "--json") == ExitCode.ROLLED_BACK
    found = json.loads(capsys.readouterr().out)
    assert found["alarms"] == ["red", "all images"] or "red" in found["alarms"]
    assert found["measure"] == ("lost answers" if labels else "disagreement")
    assert (found["rollback"]["from"], found["rollback"]["to"], found["next_share"]) == (2, 1, 0)
    entries = journal.read_journal(run)
    assert journal.current_step(entries) == 1
    assert entries[-1]["reason"] == "by watch, look 1, from step 2"
    assert journal.file_digests(run) == entries[1]["files"]
    assert look(run, images, history, "--rollback") == ExitCode.ROLLED_BACK
    assert len(journal.read_journal(run)) == len(entries)
    rolling_back.roll_back(run, 0)
    assert look(run, images, history, "--rollback") == ExitCode.WRONG_INPUT
    assert "its model is that of step 0; begin another --history" in capsys.readouterr().err


def test_with_few_images_of_the_broken_class_the_original_is_the_way_back(run, batches, tmp_path):
    assert look(run, batches[0], tmp_path / "h.jsonl", "--rollback", "--least", "13") == ExitCode.ROLLED_BACK
    assert journal.current_step(journal.read_journal(run)) == 0


def test_a_watch_killed_between_history_and_rollback_acts_the_next_time(run, batches, tmp_path, monkeypatch):
    history = tmp_path / "h.jsonl"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deployment, "roll_back", killed)
        assert look(run, batches[0], history, "--rollback") == ExitCode.INTERRUPTED
    assert journal.current_step(journal.read_journal(run)) == 2
    assert look(run, batches[1], history) == ExitCode.ROLLED_BACK
    assert journal.current_step(journal.read_journal(run)) == 1
    assert len(decisions(history)) == 1


def test_restarted_at_any_point_the_decisions_are_those_of_an_undisturbed_watch(
    sound_run, batches, tmp_path, monkeypatch
):
    flags = ("--stages", "30,60,100", "--each", "15")
    for images in batches:
        look(sound_run, images, tmp_path / "whole.jsonl", *flags)

    def killed(*_):
        raise KeyboardInterrupt

    history = tmp_path / "h.jsonl"
    for images in batches:
        with monkeypatch.context() as patch:  # before the look is written
            patch.setattr(watch_history, "write", killed)
            assert look(sound_run, images, history, *flags) == ExitCode.INTERRUPTED
        look(sound_run, images, history, *flags)
    (_, one), (_, two) = (watch_history.read(place) for place in (tmp_path / "whole.jsonl", history))
    assert [{**a, "time": ""} for a in one] == [{**b, "time": ""} for b in two]
    assert len(one) == 3


def test_the_reference_holds_later_images_and_is_named_by_its_version(world, sound_run, batches, tmp_path, capsys):
    first, second = tmp_path / "a.index.npz", tmp_path / "b.index.npz"
    config = {"train": world.known, "model": world.original, "size": 18, "floor": 4}
    preserve.run(preserve.Config(out=first, **config))
    preserve.run(preserve.Config(out=second, set=first, add=batches[0], **{**config, "size": 40}))
    members = open_preservation(second, open_dataset(world.known).manifest)
    given = ("--reference", str(world.known), "--index", str(second), "--json")
    assert main(["watch", "--run", str(sound_run), "--images", str(batches[1]), *given]) == 0
    assert json.loads(capsys.readouterr().out)["reference_set"] == members.record
    page = tmp_path / "life.html"
    flags = ("--each", "36", "--html", str(page))
    assert look(sound_run, batches[1], tmp_path / "h.jsonl", *given, *flags) == 0
    assert json.loads(capsys.readouterr().out)["preserve"] == members.record
    text = page.read_text()
    for part in (members.checksum, "Compression", "Preservation set", "Deployment", "no alarm so far", "<svg"):
        assert part in text
    assert "<script" not in text
    # Another version is another reference.
    other = ("--reference", str(world.known), "--index", str(first))
    assert look(sound_run, batches[2], tmp_path / "h.jsonl", *other) == ExitCode.WRONG_INPUT
    assert "begun with another --reference or --index" in capsys.readouterr().err


def test_images_that_wait_for_a_label_count_once_they_have_it(world, sound_run, tmp_path, capsys):
    rows = world.draw(tmp_path / "new", 6, 300)
    history, place = tmp_path / "h.jsonl", tmp_path / "new" / "x.csv"
    flags = ("--each", "9")
    assert look(sound_run, world.listed(place, rows[:9]), history, *flags) == ExitCode.DONE
    world.listed(place, [*rows[:12], *((path, "") for path, _ in rows[12:])])
    assert look(sound_run, place, history, *flags) == ExitCode.DONE
    assert look(sound_run, world.listed(place, [*rows, rows[-1]]), history, *flags) == ExitCode.DONE
    assert [n for _, _, n in decisions(history)] == [9, 3, 6]
    assert "6 new images compared, 12 compared before" in capsys.readouterr().out


def test_without_stages_none_is_passed_and_too_few_images_leave_it_open(world, sound_run, tmp_path, capsys):
    rows = world.draw(tmp_path / "new", 2, 400)
    (tmp_path / "new" / "broken.png").write_text("no image")
    history, place, out = tmp_path / "h.jsonl", tmp_path / "new" / "x.csv", tmp_path / "seen.csv"
    listed = world.listed(place, [*rows, ("broken.png", "")])
    assert look(sound_run, listed, history, "--each", "7") == ExitCode.MORE_NEEDED
    said = capsys.readouterr().out
    assert "no alarm after 6 images; --each asks for 7; 1 listed image could not be read and is not judged" in said
    assert "stage" not in said
    assert look(sound_run, listed, history, "--each", "6", "--out", str(out)) == ExitCode.DONE  # nothing new
    said = capsys.readouterr()
    assert "no alarm after 6 images" in said.out
    assert "its header alone, as nothing new was compared" in said.err
    assert out.read_text() == "path,label,original,original_confidence,compressed,compressed_confidence,agree\n"
    assert main(["watch", "--run", str(sound_run), "--images", str(listed)]) == 0
    assert "no alarm; 1 listed image could not be read and is not judged" in capsys.readouterr().out


def test_losses_on_the_reference_are_allowed_in_a_deployment_too(world, run, batches, tmp_path):
    # Red is lost on the reference already: nothing new has broken.
    given = ("--reference", str(world.known), "--each", "36")
    assert look(run, batches[0], tmp_path / "h.jsonl", *given) == ExitCode.DONE


def test_the_csv_of_a_look_holds_the_images_of_its_share_alone(sound_run, batches, tmp_path):
    out = tmp_path / "seen.csv"
    look(sound_run, batches[0], tmp_path / "h.jsonl", "--stages", "40,100", "--out", str(out))
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (record,) = watch_history.read(tmp_path / "h.jsonl")[1]
    assert len(rows) == len(record["seen"]) == record["counts"]["all images"][0] < 36
    assert np.all([row["agree"] == "1" for row in rows])


BAD = {
    "stages": (("--stages", "10,5"), "each stage must be larger"),
    "share": (("--stages", "10,120"), "120 is no share of the traffic"),
    "error": (("--error", "0"), "a probability in"),
    "allowed": (("--allowed", "0"), "such as 0.5"),
    "each": (("--each", "0"), "at least 1"),
    "html": (("--html", "."), "is a directory"),
}


@pytest.mark.parametrize("what", list(BAD))
def test_bad_flags_get_one_line(world, batches, tmp_path, capsys, what):
    flags, said = BAD[what]
    assert look(world.run, batches[0], tmp_path / "h.jsonl", *flags) == ExitCode.WRONG_INPUT
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "h.jsonl").exists()


def test_other_histories_are_refused_in_one_line(world, run, sound_run, batches, tmp_path, capsys):
    def said(*arguments):
        assert look(*arguments) == ExitCode.WRONG_INPUT
        return capsys.readouterr().err.splitlines()[-1]

    history, flags = tmp_path / "h.jsonl", ("--stages", "50,100")
    look(sound_run, batches[0], history, *flags)
    capsys.readouterr()
    assert "begun with another compressed model" in said(run, batches[1], history, *flags)
    assert "begun with other --stages" in said(sound_run, batches[1], history, "--stages", "60,100")
    assert "begun with another --each" in said(sound_run, batches[1], history, *flags, "--each", "7")
    assert "begun with another --allowed" in said(sound_run, batches[1], history, *flags, "--allowed", "7")
    history.write_bytes(history.read_bytes()[:-5])
    assert "was cut or changed since it was written" in said(sound_run, batches[1], history, *flags)
    assert "the name must end in .jsonl" in said(run, batches[0], tmp_path / "h.txt")
    for flag in (("--stages", "1,2"), ("--rollback",), ("--html", "x.html")):
        assert main(["watch", "--run", str(run), "--images", str(batches[0]), *flag]) == ExitCode.WRONG_INPUT
        assert "give --history" in capsys.readouterr().err
    one = ["watch", "--original", str(world.original), "--compressed", str(world.run), "--images", str(batches[0])]
    assert main([*one, "--history", str(tmp_path / "x.jsonl"), "--rollback"]) == ExitCode.WRONG_INPUT
    assert "changes the model of a run; give --run" in capsys.readouterr().err


def test_two_models_without_a_run_are_watched_too_and_have_no_way_back(world, batches, tmp_path, capsys):
    models = ["--original", str(world.original), "--compressed", str(world.run / "steps" / "02")]
    command = ["watch", *models, "--images", str(batches[0]), "--history", str(tmp_path / "h.jsonl"), "--json"]
    with pytest.raises(SystemExit) as end:
        main([*command, "--html", str(tmp_path / "life.html")])
    assert end.value.code == ExitCode.ANSWER_IS_NO
    found = json.loads(capsys.readouterr().out)
    assert (found["rollback"], found["next_share"]) == (None, 0)
    assert "ALARM since look 1" in (tmp_path / "life.html").read_text()
