"""The command that runs a study again, from the settings in its results."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

_FLAGS = ("methods", "keeps", "seeds", "recipe", "surrogate_recipe", "surrogate_sample", "feature_sample", "gate",
          "side", "floor", "epochs", "surrogate_epochs", "margin", "loader", "evaluations", "full_lengths", "uses",
          "compute", "surrogates", "init")  # fmt: skip


def study_command(config: Mapping[str, Any]) -> str | None:
    """`transfer study ...` as typed in the study's directory; None where the settings do not name the images.

    Parameters
    ----------
    config : mapping
        "config" of results.json: "source" and "places" (by target), each {"train", "test"}, and the flags' values.
    """
    source, places = config.get("source"), config.get("places")
    if not isinstance(source, Mapping) or not isinstance(places, Mapping):
        return None
    targets = [f"{name}={_root(parts)}" for name, parts in places.items()]
    words = ["transfer", "study", "--out", ".", "--source", _root(source), "--targets", *targets]
    guides = config.get("guides")
    if guides and list(guides) != list(places):
        words += ["--guides", *guides]
    for name in _FLAGS:
        value = config.get(name)
        if value is None or value == []:
            continue
        texts = [_text(one) for one in value] if isinstance(value, list) else [_text(value)]
        words += ["--" + name.replace("_", "-"), *texts]
    if config.get("ladder"):
        search = [] if config.get("compute") else ["--keep", "auto"]
        words += [*search, "--ladder", *map(_text, config["ladder"])]
    return shlex.join(words)


def _root(parts: Mapping[str, Any]) -> str:
    """The place that was given for a data set: the parent of its train split where it has a test split."""
    train, test = str(parts["train"]), parts.get("test")
    if train.endswith(".beton"):
        return train
    if train.startswith("torchvision:"):
        return train.rsplit(":", 1)[0]
    return str(PurePosixPath(train).parent) if test else train


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
