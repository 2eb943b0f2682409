"""What a disk that takes no more, and a signal, print: one line with the file, what is safe and what to type."""

import errno
import os
import re
import signal
from dataclasses import make_dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from prune.runs import command_line
from prune.runs.disk_errors import as_os_error, in_words, reserve
from prune.runs.files import atomic, needing
from prune.runs.stop_signals import Stopped, ended_by_signals


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            errno.ENOSPC,
            r"No space left on device: the disk at / has .* MB left; 2\.5 MB are needed; .*make room on",
        ),
        (errno.EDQUOT, r"quota there is used up; 2\.5 MB are needed; what was whole before is unchanged"),
        (errno.EFBIG, r"limit on the size of a file is reached; 2\.5 MB are needed; .*ulimit -f unlimited"),
        (errno.EROFS, r"Read-only file system; 2\.5 MB are needed; .*give a place where you may write"),
        (errno.EACCES, r"Permission denied; .*change its permissions"),
        (errno.EIO, r"does not answer as a disk should; .*connect it again"),
    ],
)
def test_an_error_of_the_disk_names_file_need_and_way_out_in_one_line(number, words):
    with pytest.raises(OSError, match=r".") as raised, needing(Path("/no/such/x.npz"), 2_500_000):
        raise OSError(number, os.strerror(number))
    line = in_words(raised.value)
    assert line.startswith("/no/such/x.npz: ")
    assert re.search(words, line)
    assert "\n" not in line


def test_of_a_copy_the_file_that_is_written_is_named_and_not_its_source():
    error = OSError(errno.ENOSPC, "No space left on device", "/from/x", None, "/proc/to/x")
    assert in_words(error).startswith("/proc/to/x: No space left on device: the disk at /proc has ")


def test_a_file_that_is_not_written_whole_keeps_the_older_one_and_is_named(tmp_path):
    place = tmp_path / "x.txt"
    place.write_text("older")

    def write():
        with atomic(place) as partial:
            partial.write_text("ne")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space") as raised:
        write()
    assert raised.value.filename == str(place)
    assert place.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_room_is_taken_before_a_mapped_file_is_filled(tmp_path, monkeypatch):
    place = tmp_path / "x.npy"
    with open(place, "wb") as file:
        file.truncate(1 << 20)
    reserve(place)
    assert place.stat().st_blocks * 512 >= 1 << 20

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space") as raised:
        reserve(place)
    assert (raised.value.filename, raised.value.__notes__) == (str(place), ["1.0 MB are needed"])


def test_the_words_of_safetensors_become_an_error_of_the_system():
    found = as_os_error(Exception("Error while serializing: I/O error: No space left (os error 28)"), Path("a.x"))
    assert (found.errno, found.filename) == (errno.ENOSPC, "a.x")
    assert as_os_error(Exception("invalid header"), Path("a.x")) is None


@pytest.fixture(autouse=True)
def signals_as_in_a_new_process():
    """A training that ran in this process before has handlers of its own; under nohup SIGHUP is ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(
    ("program", "after"),
    [("prune write", "begins again; nothing half-written is left"), ("prune curves", "resumes")],
)
def test_a_signal_ends_a_step_with_85_and_says_what_the_same_command_does(monkeypatch, capsys, name, program, after):
    def run(config):
        os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(command_line, "parse", lambda *_: make_dataclass("Config", [])())
    monkeypatch.setattr(command_line.importlib, "import_module", lambda _: SimpleNamespace(run=run))
    assert command_line.run_step(program, "any", []) == 85
    assert capsys.readouterr().err == f"{program}: stopped by {name}; the same command {after}\n"
    assert signal.getsignal(getattr(signal, name)) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_ignored_and_a_second_one_does_not_disturb_the_clean_up():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    cleaned = []

    def disturbed():
        os.kill(os.getpid(), signal.SIGHUP)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)

    try:
        with pytest.raises(Stopped), ended_by_signals():
            disturbed()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert cleaned == [True]
