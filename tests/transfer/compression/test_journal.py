"""The next trial as a function of the journal alone, and the journal's file."""

from __future__ import annotations

import json
import resource

import pytest

from prune.runs.files import InputError
from transfer.compression import journal
from transfer.compression.journal import ACCEPTED, ROLLED_BACK, CompressionPlan, Trial

PLAN = CompressionPlan(("channels", "inner", "int8"), ratio=0.2, least=0.05, size=0.5, steps=20)


def lines_of(*steps):
    """Entries from (kind, accepted, params); the original has 100 parameters."""
    rest = {"base": 0, "bytes": 400, "accuracy": 0.9, "reason": "", "files": {}}
    lines = [{"step": 0, "kind": "original", "what": {}, "params": 100, "verdict": ACCEPTED, **rest}]
    for kind, accepted, params in steps:
        verdict = ACCEPTED if accepted else ROLLED_BACK
        what = {"to": accepted - 1} if kind == "rollback" else {}
        lines.append({"step": len(lines), "kind": kind, "what": what, "params": params, "verdict": verdict, **rest})
    return lines


def test_a_rejected_step_is_tried_at_half_and_then_another_kind_follows():
    refused = [("channels", 0, 80)] * 3  # 0.2, 0.1 and 0.05; 0.025 is below the smallest
    assert journal.next_trial(lines_of(), PLAN) == Trial(1, 0, "channels", 0.2)
    assert journal.next_trial(lines_of(*refused[:1]), PLAN) == Trial(2, 0, "channels", 0.1)
    assert journal.next_trial(lines_of(*refused[:2]), PLAN) == Trial(3, 0, "channels", 0.05)
    assert journal.next_trial(lines_of(*refused), PLAN) == Trial(4, 0, "inner", 0.2)
    assert journal.next_trial(lines_of(*refused, *[("inner", 0, 90)] * 3), PLAN) == Trial(7, 0, "int8", None)


def test_accepted_steps_build_on_one_another_at_the_ratio_that_worked():
    lines = lines_of(("channels", 0, 64), ("channels", 1, 80), ("channels", 1, 65))
    assert journal.next_trial(lines, PLAN) == Trial(4, 3, "channels", 0.1)


def test_at_the_size_shrinking_ends_and_quantisation_follows_once():
    small = lines_of(("channels", 1, 50))
    assert journal.next_trial(small, PLAN) == Trial(2, 1, "int8", None)
    for accepted in (0, 1):
        assert journal.next_trial(lines_of(("channels", 1, 50), ("int8", accepted, 50)), PLAN) is None


def test_fewer_bits_follow_int8_whether_it_was_accepted_or_not_and_nothing_shrinks_a_quantised_network():
    plan = CompressionPlan(("both", "int8", "int4"), ratio=0.2, least=0.05, size=0.5, steps=20)
    for accepted, base in ((1, 2), (0, 1)):
        lines = lines_of(("both", 1, 50), ("int8", accepted, 50))
        assert journal.next_trial(lines, plan) == Trial(3, base, "int4", None)
    assert journal.next_trial(lines_of(("both", 1, 50), ("int8", 1, 50), ("int4", 1, 50)), plan) is None
    back_to_int8 = lines_of(("both", 1, 80), ("int8", 1, 80), ("rollback", 2 + 1, 80))
    assert journal.next_trial(back_to_int8, plan) == Trial(4, 2, "int4", None)


def test_a_rollback_by_hand_counts_as_a_rejection():
    lines = lines_of(("channels", 1, 80), ("channels", 1, 64), ("rollback", 1 + 1, 80))
    assert journal.current_step(lines) == 1
    assert journal.next_trial(lines, PLAN) == Trial(4, 1, "channels", 0.1)
    assert journal.accepted_steps(lines) == [0, 1, 2]


def test_the_number_of_steps_is_bounded():
    assert journal.next_trial(lines_of(("channels", 1, 90)), CompressionPlan(steps=1)) is None


def test_attempts_that_find_nothing_to_remove_and_rollbacks_by_hand_use_up_no_steps():
    plan = CompressionPlan(("channels", "inner"), ratio=0.2, least=0.05, size=0.5, steps=2)
    lines = lines_of(*[("channels", 0, 100)] * 3, ("inner", 1, 90), ("rollback", 0 + 1, 100))
    for line in (*lines[1:4], lines[5]):
        line["counted"] = False
    assert journal.tried(lines) == 1
    assert journal.next_trial(lines, plan) == Trial(6, 0, "inner", 0.1)
    assert journal.next_trial([*lines, {**lines[4], "step": 6, "verdict": ROLLED_BACK}], plan) is None
    assert "--steps 2 are used up" not in str(journal.why_larger(lines, plan))
    assert journal.reason({"reason": "nothing is left", "counted": False}) == (
        "nothing is left; does not count towards --steps"
    )


def test_in_the_journal_of_an_older_version_every_entry_counts_so_that_it_resumes_as_it_would_have():
    lines = lines_of(*[("channels", 0, 100)] * 3, ("inner", 1, 90), ("rollback", 0 + 1, 100))
    assert journal.tried(lines) == 5
    assert journal.next_trial(lines, CompressionPlan(("channels", "inner"), least=0.05, size=0.5, steps=5)) is None
    more = journal.next_trial(lines, CompressionPlan(("channels", "inner"), least=0.05, size=0.5, steps=6))
    assert more == Trial(6, 0, "inner", 0.1)


def test_a_mark_that_is_no_bool_is_no_entry():
    line = lines_of(("channels", 0, 100))[1]
    assert journal.is_entry({**line, "counted": False})
    assert not journal.is_entry({**line, "counted": 0})


def test_a_compression_that_ends_above_its_size_says_why_and_what_it_did_not_try():
    plan = CompressionPlan(("channels", "inner", "int8"), size=0.5, steps=2)
    used_up = journal.why_larger(lines_of(("channels", 1, 80), ("channels", 0, 64)), plan)
    assert used_up == (
        "--size 0.5 is not reached (0.800 of the parameters): --steps 2 are used up; inner, int8 not tried"
    )
    tried = lines_of(("channels", 0, 80), ("inner", 0, 80), ("int8", 1, 100))
    assert journal.why_larger(tried, PLAN) == (
        "--size 0.5 is not reached (1.000 of the parameters): no smaller step was accepted"
    )
    assert journal.why_larger(lines_of(("channels", 1, 50), ("int8", 0, 50)), PLAN) is None
    assert journal.why_larger(lines_of(("int8", 1, 100)), CompressionPlan(("int8",), size=0.5)) is None


def test_a_journal_is_read_back_as_it_was_written(tmp_path):
    assert journal.read_journal(tmp_path) == []
    lines = lines_of(("channels", 1, 80))
    journal.write_journal(tmp_path, lines)
    assert journal.read_journal(tmp_path) == lines


@pytest.mark.parametrize("text", ["{", "[]", '{"step": 1}', "\x00\xff"])
def test_a_damaged_journal_is_one_clear_line(tmp_path, text):
    journal.write_journal(tmp_path, lines_of())
    with open(tmp_path / "journal.jsonl", "a", encoding="latin-1") as file:
        file.write(text + "\n")
    with pytest.raises(InputError, match="line 2 is damaged"):
        journal.read_journal(tmp_path)


def test_files_that_changed_since_they_were_accepted_are_named(tmp_path):
    place = journal.step_directory(tmp_path, 1)
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"weights")
    (place / "model.json").write_text(json.dumps({}))
    line = {"step": 1, "files": journal.file_digests(place)}
    assert journal.verified_directory(tmp_path, line) == place
    (place / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(InputError, match=r"model\.safetensors: damaged or replaced"):
        journal.verified_directory(tmp_path, line)
    (place / "model.safetensors").unlink()
    with pytest.raises(InputError, match="step 1 is incomplete"):
        journal.verified_directory(tmp_path, line)


def test_a_copy_that_finds_no_room_leaves_the_older_file_and_names_the_copy(tmp_path):
    source, target = tmp_path / "from", tmp_path / "to"
    source.write_bytes(b"x" * 200_000)
    target.write_bytes(b"older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="too large") as raised:
            journal.copy_whole(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (raised.value.filename, raised.value.filename2) == (str(target), None)
    assert target.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from", "to"]
    journal.copy_whole(source, target)
    assert target.read_bytes() == source.read_bytes()
