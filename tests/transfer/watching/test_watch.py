"""A compressed model beside its original: alarms, drift, the step to go back to, files in and out."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from prune import write
from transfer.__main__ import main
from transfer.watching import comparison, watch_report


def listed(world, folder: Path, rows: list[tuple[str, str]], *, labels: bool = True) -> Path:
    """Write the CSV beside the images."""
    return world.listed(folder / "new.csv", rows, ("path", "label") if labels else ("path",))


def watch(world, images: Path, *more: str) -> int:
    return main(["watch", "--run", str(world.run), "--images", str(images), *more])


@pytest.mark.parametrize("labels", [True, False])
def test_a_lost_class_alarms_and_the_newest_sound_step_is_named(world, tmp_path, capsys, labels):
    images = listed(world, tmp_path / "new", world.draw(tmp_path / "new", 15, 1), labels=labels)
    assert watch(world, images, "--reference", str(world.known), "--out", str(tmp_path / "seen.csv")) == 0
    # The reference shows the same loss: red already answers otherwise there, and nothing new has broken.
    assert "no alarm" in capsys.readouterr().out
    assert watch(world, images, "--json", "--out", str(tmp_path / "seen.csv")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["alarms"] == ["red"]
    assert found["measure"] == ("lost answers" if labels else "disagreement")
    assert (found["rollback"]["from"], found["rollback"]["to"]) == (2, 1)
    assert ("top1" in found) == labels
    with open(tmp_path / "seen.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 45
    assert {line["original"] for line in lines} == set(world.tones)
    assert "red" not in {line["compressed"] for line in lines}
    assert [line["agree"] == "1" for line in lines] == [line["original"] == line["compressed"] for line in lines]
    assert watch(world, images) == 0
    printed = capsys.readouterr().out
    assert "ALARM" in printed
    assert f"transfer rollback --run {world.run} --to 1" in printed


def reference(folder: Path, rows: dict[str, list[Path]]) -> Path:
    """Write a beton of copies: class name to pictures."""
    for name, pictures in rows.items():
        (folder / "images" / name).mkdir(parents=True)
        for i, picture in enumerate(pictures):
            shutil.copyfile(picture, folder / "images" / name / f"{i:02d}.png")
    write.run(write.Config(images=str(folder / "images"), out=folder / "reference.beton", workers=1))
    return folder / "reference.beton"


def alarms(world, tmp_path: Path, known: Path, capsys, *, labels: bool = True) -> list[str]:
    images = listed(world, tmp_path / "new", world.draw(tmp_path / "new", 15, 1), labels=labels)
    assert watch(world, images, "--reference", str(known), "--json") == 0
    return json.loads(capsys.readouterr().out)["alarms"]


@pytest.mark.parametrize("labels", [True, False])
def test_one_image_of_the_reference_does_not_excuse_a_whole_class(world, tmp_path, capsys, labels):
    pictures = {name: sorted((world.root / "known" / name).iterdir()) for name in world.tones}
    known = reference(tmp_path / "few", {**pictures, "red": pictures["red"][:1]})
    assert alarms(world, tmp_path, known, capsys, labels=labels) == ["red"]


def test_answers_that_change_without_loss_on_the_reference_excuse_no_lost_answers(world, tmp_path, capsys):
    # Red pictures that the reference calls blue: both models are wrong there, each in its own way.
    pictures = {name: sorted((world.root / "known" / name).iterdir()) for name in world.tones}
    known = reference(tmp_path / "harmless", {"blue": pictures["red"], "green": pictures["green"]})
    assert alarms(world, tmp_path, known, capsys) == ["red"]


def test_the_reference_s_classes_are_matched_by_name(world, tmp_path, capsys):
    pictures = {name: sorted((world.root / "known" / name).iterdir()) for name in world.tones}
    known = reference(tmp_path / "more", {"aqua": pictures["blue"][:3], **pictures})
    assert alarms(world, tmp_path, known, capsys) == []


def test_the_way_back_can_be_pasted_into_a_shell(world, tmp_path, capsys):
    run = shutil.copytree(world.run, tmp_path / "my run; it's")
    images = listed(world, tmp_path / "new", world.draw(tmp_path / "new", 15, 1))
    assert main(["watch", "--run", str(run), "--images", str(images), "--json"]) == 0
    command = json.loads(capsys.readouterr().out)["rollback"]["command"]
    assert shlex.split(command) == ["transfer", "rollback", "--run", str(run), "--to", "1"]


def test_a_table_program_finds_no_formula_in_what_is_written(tmp_path):
    lines = [{"path": "=HYPERLINK(0)", "label": "@SUM(A1)", "agree": 1}, {"path": "-1", "label": "-cat", "agree": -1}]
    watch_report.write_lines(tmp_path / "seen.csv", lines)
    with open(tmp_path / "seen.csv", newline="", encoding="utf-8") as file:
        found = list(csv.reader(file))
    assert found[1:] == [["'=HYPERLINK(0)", "'@SUM(A1)", "1"], ["-1", "'-cat", "-1"]]


def test_two_equal_models_never_alarm(world, tmp_path, capsys):
    images = listed(world, tmp_path / "new", world.draw(tmp_path / "new", 6, 2))
    command = ["watch", "--original", str(world.original), "--images", str(images)]
    assert main([*command, "--compressed", str(world.run / "steps" / "01"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["disagreement"], found["alarms"], found["rollback"]) == (0, [], None)
    assert found["similarity"] == pytest.approx(1)


@pytest.mark.parametrize(("shade", "moved"), [(0.0, False), (60.0, True)])
def test_features_drift_when_the_light_changes_and_not_by_chance(world, tmp_path, capsys, shade, moved):
    colours = {name: np.array(tone) + shade for name, tone in world.tones.items()}
    images = listed(world, tmp_path / "new", world.draw(tmp_path / "new", 15, 3, colours))
    assert watch(world, images, "--reference", str(world.known), "--json") == 0
    drift = json.loads(capsys.readouterr().out)["drift"]
    assert [drift[name]["drifted"] for name in ("original", "compressed")] == [moved, moved]


def test_images_that_cannot_be_read_are_counted_and_skipped(world, tmp_path, capsys):
    rows = world.draw(tmp_path / "new", 2, 4)
    (tmp_path / "new" / "broken.png").write_bytes(b"no image")
    images = listed(world, tmp_path / "new", [*rows, ("broken.png", "red"), ("gone.png", "red"), ("nul\0.png", "red")])
    assert watch(world, images, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["unreadable"] == ["broken.png", "gone.png", "nul\0.png"]
    assert "3 of 9 images cannot be read, first broken.png" in said.err


BAD = {
    "no column": ("name\na.png\n", "has no column `path`"),
    "label": ("path,label\na.png,purple\n", "line 2: the model has no class 'purple'"),
    "nothing": ("path\ngone.png\n", "lists no image that can be read"),
    "bytes": (b"path\n\xff\xfe.png\n", "not a CSV file in UTF-8"),
}


@pytest.mark.parametrize("what", list(BAD))
def test_a_bad_list_gets_one_line_and_exit_code_2(world, tmp_path, capsys, what):
    content, said = BAD[what]
    place = tmp_path / "new.csv"
    place.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert watch(world, place, "--out", str(tmp_path / "seen.csv")) == 2
    error = capsys.readouterr().err.strip()
    assert said in error.splitlines()[-1]
    assert not (tmp_path / "seen.csv").exists()


def test_other_runs_and_other_models_are_refused(world, tmp_path, capsys):
    images = listed(world, tmp_path / "new", world.draw(tmp_path / "new", 1, 5))
    assert main(["watch", "--images", str(images)]) == 2
    assert "give --run, or --original and --compressed" in capsys.readouterr().err
    assert main(["watch", "--images", str(images), "--run", str(tmp_path)]) == 2
    assert "not a run of `transfer compress`" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(world.original, other)
    spec = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps({**spec, "classes": ["x", "y", "z"]}))
    assert watch(world, images, "--compressed", str(other)) == 2
    assert "its classes are not those of" in capsys.readouterr().err


def test_wilson_intervals_are_those_of_the_textbook():
    # 1 of 10 at 95 %: z = 1.96, centre (0.1 + 0.192) / 1.384 = 0.211, half 0.1933: [0.0179, 0.4042].
    assert comparison.wilson(1, 10, 0.95) == pytest.approx((0.01787, 0.40415), abs=1e-4)
    assert comparison.wilson(0, 0, 0.95) == (0.0, 1.0)
    assert comparison.wilson(0, 50, 0.95)[0] == 0


def test_a_class_alarms_only_where_it_surely_goes_wrong_more_than_allowed():
    groups = np.array([0] * 100 + [1] * 100 + [2] * 4)
    wrong = np.zeros(204, bool)
    wrong[:20], wrong[100:106], wrong[200:] = True, True, True
    rows = comparison.by_class(groups, wrong, ["a", "b", "c", "d"], np.full(4, 0.05))
    # a: 20 % of 100, surely above 5 %; b: 6 % of 100 may be 5 %; c: too few; d: none.
    assert [row["alarm"] for row in rows] == [True, False, False, False]
    assert [row["wrong"] for row in rows] == [0.2, 0.06, 1.0, None]


def test_what_counts_against_the_compressed_model_by_hand():
    original, compressed, labels = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 2, 0]), np.array([0, 0, 1, 2, -1])
    groups, wrong = comparison.counted_errors(original, compressed)
    assert (groups.tolist(), wrong.tolist()) == ([0, 0, 1, 1, 2], [False, True, True, True, True])
    # With labels: the second and third were right before; the fourth is mended, the fifth has no label.
    groups, wrong = comparison.counted_errors(original, compressed, labels)
    assert (groups.tolist(), wrong.tolist()) == ([0, 0, 1, 2], [False, True, True, False])
    # Class 0 has two images, of which one went wrong; the others are too few and get the share of all, 2 of 4.
    assert comparison.error_shares(groups, wrong, 4, least=2).tolist() == [0.5, 0.5, 0.5, 0.5]
    assert comparison.error_shares(groups, wrong, 4, least=1).tolist() == [0.5, 1.0, 0.0, 0.5]


def test_similarity_ignores_rotation_scale_and_width_and_sees_other_features():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(300, 6))
    turned = 3 * first @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 5
    assert comparison.similarity(first, turned) == pytest.approx(1)
    assert comparison.similarity(first, np.c_[turned, np.zeros((300, 2))]) == pytest.approx(1)
    assert comparison.similarity(first, rng.normal(size=(300, 4))) < 0.1


def test_drift_by_chance_is_rare_and_a_shift_of_one_deviation_is_measured_as_one():
    rng = np.random.default_rng(1)
    reference = rng.normal(2, 3, (400, 8))
    by_chance = [comparison.drift(reference, rng.normal(2, 3, (50, 8)))["drifted"] for _ in range(40)]
    assert sum(by_chance) <= 3
    moved = comparison.drift(reference, rng.normal(5, 3, (400, 8)))
    assert moved["drifted"]
    assert moved["distance"] == pytest.approx(1, abs=0.1)
    assert not comparison.drift(np.ones((10, 3)), np.zeros((10, 3)))["drifted"]  # features that never vary say nothing
