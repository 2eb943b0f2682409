"""What the check of a GPU found: results as they come, a JSON file after each part, a table at the end."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, SPEED, UNCHECKED, FACT = "passed", "FAILED", "speed", "not checked", "fact"
_GRACE = 20.0  # seconds after a part's cap until the whole check ends: an operation on a GPU may never return


@dataclass
class Result:
    """One line of the table."""

    part: str
    name: str
    kind: str
    text: str = ""
    value: float | None = None
    goal: float | None = None


@dataclass
class Report:
    """All results so far, written to `out`/check.json after each part."""

    out: Path
    facts: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    part: str = ""

    def must(self, name: str, holds: bool, text: str = "") -> None:
        """Record a check of correctness: one that does not hold fails the whole check."""
        self.results.append(Result(self.part, name, PASSED if holds else FAILED, text))

    def speed(self, name: str, value: float, unit: str, goal: float | None = None) -> None:
        """Record a measured speed beside its goal; it decides nothing."""
        self.results.append(Result(self.part, name, SPEED, unit, value, goal))

    def fact(self, name: str, text: str) -> None:
        """Record what is worth knowing."""
        self.results.append(Result(self.part, name, FACT, text))

    def unchecked(self, name: str, why: str) -> None:
        """Record what could not be checked, which is never passed."""
        self.results.append(Result(self.part, name, UNCHECKED, why))

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """Try one thing: a module that is not installed leaves it unchecked, any other error is a failure."""
        try:
            yield
        except TimeoutError:
            raise
        except ModuleNotFoundError as error:
            self.unchecked(name, f"{error.name} is not installed")
        except BaseException as error:  # also the SystemExit of a command
            if isinstance(error, KeyboardInterrupt):
                raise
            if "is not installed" in str(error) or "FFCV cannot be used" in str(error):
                return self.unchecked(name, str(error))
            said = str(error).strip().splitlines() or [type(error).__name__]
            self.must(name, False, f"{type(error).__name__}: {said[0][:300]}")
            self.errors.append(traceback.format_exc())
            print(traceback.format_exc(), flush=True)
        return None

    def run(self, name: str, cap: float, work: Callable[[], None]) -> None:
        """Run a part within `cap` seconds and write what is known by then."""
        self.part = name
        print(f"== {name}", flush=True)
        begin = time.perf_counter()
        ended = threading.Event()
        threading.Thread(target=self._give_up, args=(ended, cap), daemon=True).start()
        before = signal.signal(signal.SIGALRM, _too_late)
        signal.setitimer(signal.ITIMER_REAL, cap)
        try:
            with self.trying(f"all of {name}"):
                work()
        except TimeoutError:
            self.must(f"all of {name}", False, f"took longer than {cap:.0f} s")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            ended.set()
        self.seconds[name] = round(time.perf_counter() - begin, 1)
        self.write()

    def _give_up(self, ended: threading.Event, cap: float) -> None:
        if ended.wait(cap + _GRACE):
            return
        self.must(f"all of {self.part}", False, f"did not return {_GRACE:.0f} s after its {cap:.0f} s: ended")
        self.write()
        print(self.table(), flush=True)
        os._exit(1)

    def write(self) -> None:
        """Write OUT/check.json, whole."""
        self.out.mkdir(parents=True, exist_ok=True)
        content = {
            "format": "winnow-gpu-check/1",
            "facts": self.facts,
            "seconds": self.seconds,
            "results": [asdict(result) for result in self.results],
            "errors": self.errors,
        }
        partial = self.out / ".check.json.partial"
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self.out / "check.json")

    def table(self) -> str:
        """The results as text, one line each."""
        wide = max((len(r.name) for r in self.results), default=4)
        lines = []
        for r in self.results:
            text = r.text
            if r.value is not None:
                aim = f", goal {r.goal:g}: {'reached' if r.value >= r.goal else 'missed'}" if r.goal is not None else ""
                text = f"{r.value:,.4g} {r.text}{aim}"
            text = " ".join(text.split())[:160]
            lines.append(f"{r.part:<9} {r.name:<{wide}}  {r.kind:<11} {text}".rstrip())
        counts = {kind: sum(r.kind == kind for r in self.results) for kind in (PASSED, FAILED, UNCHECKED)}
        seconds = ", ".join(f"{name} {spent:g} s" for name, spent in self.seconds.items())
        return "\n".join([*lines, "", ", ".join(f"{n} {kind}" for kind, n in counts.items()), seconds])

    @property
    def failed(self) -> bool:
        """Whether any check of correctness failed."""
        return any(result.kind == FAILED for result in self.results)


def _too_late(number: int, frame: object) -> None:
    raise TimeoutError
