"""The command line of `transfer`: who listens to signals, and help that prints well."""

from __future__ import annotations

import re
import signal

import pytest

from transfer import __main__ as command
from transfer.__main__ import STEPS, main


@pytest.fixture
def handlers():
    """The handlers of both signals, given back afterwards."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("step", list(STEPS))
def test_steps_that_train_note_a_signal_before_anything_slow_is_imported(monkeypatch, handlers, step):
    seen = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    monkeypatch.setattr(command.command_line, "main", lambda *_: seen.append(signal.getsignal(signal.SIGUSR1)))
    main([step, "--help"])
    assert callable(seen[0]) == (step in ("finetune", "compress", "compress-language", "incremental", "stream"))


@pytest.mark.parametrize("step", list(STEPS))
def test_help_shows_commands_as_they_are_typed(capsys, handlers, step):
    with pytest.raises(SystemExit):
        main([step, "--help"])
    said = capsys.readouterr().out.split("╭")[0]
    long = [line for line in said.splitlines() if re.search(r"\S {4,}--\w", line)]
    assert long == []
