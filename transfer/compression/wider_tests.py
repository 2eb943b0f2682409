"""What a compressed model must keep beside its accuracy: groups of images, calibration, a metric of the user's own.

Each test has a margin and compares a candidate with the original on the preservation set, as the acceptance test of
accuracy does; all of them must hold.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune.runs.files import InputError
from transfer.evaluation.metrics import calibration_error

Metric = Callable[[np.ndarray, np.ndarray], float]
"""(labels (n,) int64, logits (n, c) float64) -> a number, larger for a better model."""


@dataclass(frozen=True)
class Group:
    """Images that must not lose more than a margin of accuracy.

    Attributes
    ----------
    name : str
        `column=value` of the user's table.
    rows : (n,) bool
        Which images of the preservation set are in it.
    margin : float
        Points.
    """

    name: str
    rows: np.ndarray
    margin: float


@dataclass(frozen=True)
class WiderTests:
    """Tests beside accuracy overall and by class; by default there are none.

    Attributes
    ----------
    groups : tuple of Group
    calibration_margin : float, optional
        Points by which the expected calibration error may rise.
    metric : callable, optional
    metric_name : str
    metric_margin : float
        By how much the metric may fall, in its own unit.
    """

    groups: tuple[Group, ...] = ()
    calibration_margin: float | None = None
    metric: Metric | None = None
    metric_name: str = ""
    metric_margin: float = 0.0

    def values(self, labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
        """Calibration error in points, and the user's metric, as far as they are asked for.

        Raises
        ------
        InputError
            The user's metric fails, or does not give a number.
        """
        logits = np.asarray(logits, np.float64)
        found = {}
        if self.calibration_margin is not None:
            found["calibration error"] = expected_calibration_error(labels, logits)
        if self.metric is not None:
            found[self.metric_name] = _measured(self.metric, self.metric_name, labels, logits)
        return found

    def losses(self, original: Mapping[str, float], candidate: Mapping[str, float]) -> list[dict[str, Any]]:
        """For each of these values, what the journal records: both values, what was lost, the margin, if it holds."""
        margins = {"calibration error": (self.calibration_margin or 0.0, -1), self.metric_name: (self.metric_margin, 1)}
        found = []
        for name, before in original.items():
            margin, sign = margins[name]
            lost = sign * (before - candidate[name])
            holds = bool(lost <= margin + 1e-9)  # NaN does not hold
            found.append(
                {
                    "test": name,
                    "original": _recorded(before),
                    "value": _recorded(candidate[name]),
                    "lost": _recorded(lost),
                    "margin": margin,
                    "holds": holds,
                }
            )
        return found


def expected_calibration_error(labels: np.ndarray, logits: np.ndarray) -> float:
    """Expected calibration error of softmax(logits), in points; infinite where a logit is not finite.

    Examples
    --------
    >>> expected_calibration_error(np.array([0, 1]), np.log([[0.75, 0.25], [0.75, 0.25]]))  # 75 % sure, right by half
    25.0
    """
    if not np.isfinite(logits).all():
        return math.inf
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    sure = (shifted / shifted.sum(1, keepdims=True)).max(1)
    return round(100 * calibration_error(sure, logits.argmax(1) == labels), 6)


def _measured(metric: Metric, name: str, labels: np.ndarray, logits: np.ndarray) -> float:
    try:
        value = float(metric(labels.copy(), logits.copy()))
    except Exception as error:  # whatever the user's code raises
        raise InputError(f"--metric {name}: {type(error).__name__}: {error}") from None
    return value


def _recorded(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def open_metric(text: str) -> tuple[Metric, str]:
    """Import `module:function`, from the working directory too; returns it and the digest of its module's source.

    Only a command line may name it: importing runs the module's code.

    Raises
    ------
    InputError
        No such module or function, or one that does not take labels and logits.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise InputError(f"--metric {text}: a module and a function are expected, as in my_metrics:top5")
    place, _, name = text.partition(":")
    sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(place)
    except Exception as error:  # whatever the user's module raises
        raise InputError(f"--metric {text}: {place} cannot be imported ({type(error).__name__}: {error})") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    if not callable(metric := getattr(module, name, None)):
        raise InputError(f"--metric {text}: {place} has no function {name}")
    try:
        inspect.signature(metric).bind(None, None)
    except TypeError as error:
        raise InputError(f"--metric {text}: is called with labels and logits: {error}") from None
    except ValueError:  # some built-in functions have no signature
        pass
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        source = ""
    return metric, hashlib.sha256(source.encode()).hexdigest()[:32]


def named_margins(texts: Sequence[str], names: Sequence[str], margin: float | None) -> dict[str, float]:
    """Margin of every group, in points: its own of `NAME=POINTS`, or the common one; groups without one are left out.

    Raises
    ------
    InputError
        A text is no name with a number, names a group twice, or none that there is.

    Examples
    --------
    >>> named_margins(["camera=front=2"], ["camera=back", "camera=front"], 10.0)
    {'camera=back': 10.0, 'camera=front': 2.0}
    """
    own: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            points = float(number)
        except ValueError:
            points = -1.0
        if not 0 <= points < math.inf:
            raise InputError(f"--group-margins {text}: COLUMN=GROUP=POINTS is expected, as in camera=front=2")
        if name not in names or name in own:
            why = "named twice" if name in own else f"no such group; there are {', '.join(names[:8])}"
            raise InputError(f"--group-margins {text}: {why}")
        own[name] = points
    known = {name: own.get(name, margin) for name in names}
    return {name: points for name, points in known.items() if points is not None}


def groups_of(path: Path, ids: np.ndarray, rows: np.ndarray, texts: Sequence[str], margin: float | None) -> list[Group]:
    """Groups of a table (id and one or more columns) that have images in the preservation set.

    Parameters
    ----------
    path : Path
        .csv, .tsv or .jsonl; see `prune.methods.group_floors.read_groups`.
    ids : (n,) bytes
        Of all training images.
    rows : (k,) int
        Of the preservation set, in its order.
    texts, margin
        As in `named_margins`.

    Raises
    ------
    InputError
        The table or a margin is wrong, or no image of the preservation set has a group.
    """
    from prune.methods.group_floors import read_groups

    table = read_groups(path, ids)
    members: dict[str, np.ndarray] = {}
    for column, numbers in table.columns.items():
        for number, name in enumerate(table.names[column]):
            mask = numbers[rows] == number
            if mask.any():
                members[f"{column}={name}"] = mask
    if not members:
        raise InputError(f"--groups {path}: no image of the preservation set has a group there")
    margins = named_margins(texts, list(members), margin)
    return [Group(name, members[name], points) for name, points in margins.items()]
