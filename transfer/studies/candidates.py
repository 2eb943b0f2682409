"""The surrogates that a study may choose among (`--surrogates`), and the study that uses one of them.

none                no network: thumbnails choose (the method `gate`)
0.1                 --surrogate-recipe on this share of the source
tiny:0.25           another recipe on this share
timm:resnet18.a1_in1k, timm:resnet18:weights.pth     a model of timm with its weights, by name or from a file
"""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from prune.runs.files import InputError, share_of
from transfer.studies.places import moved
from transfer.studies.settings import Study
from transfer.verdicts.controls import needs_surrogate

NONE = "none"
TIMM = "timm:"
_LONGEST = 100
"""Characters of a candidate that its directory is named by."""


class Candidate(NamedTuple):
    """A surrogate: a timm model `arch` with weights from a file or by name, or a recipe on a share of the source."""

    arch: str | None = None
    weights: str | None = None
    recipe: str | None = None
    sample: float | None = None


def candidate(text: str) -> Candidate:
    """Read one of `--surrogates`; "none" has no field at all.

    Raises
    ------
    InputError
        None of the forms above, or a recipe that does not exist.

    Examples
    --------
    >>> candidate("0.10").sample, candidate("tiny:0.25").recipe, candidate("timm:resnet18").arch
    (0.1, 'tiny', 'resnet18')
    """
    from pretrain.recipes import RECIPES

    if text == NONE:
        return Candidate()
    if text.startswith(TIMM):
        arch, _, weights = text.removeprefix(TIMM).partition(":")
        if arch:
            return Candidate(arch=arch, weights=weights or None)
    name, colon, share = text.rpartition(":")
    found = share_of(share)
    if found is None or (colon and name not in RECIPES):
        raise InputError(f"--surrogates {text}: give none, a share such as 0.1, RECIPE:SHARE, or timm:MODEL[:WEIGHTS]")
    return Candidate(recipe=name or None, sample=found)


def need_model(text: str, flag: str) -> None:
    """Raise `InputError`, which names the flag, for timm:MODEL that timm does not have: before anything is made."""
    if (arch := candidate(text).arch) is None:
        return
    import timm

    if not timm.is_model(arch):
        raise InputError(f"--{flag} {text}: not one of timm's models; see timm.list_models()")


def placed(text: str, old: Path, new: Path) -> str:
    """A candidate whose file of weights is relative to `old`, relative to `new`."""
    one = candidate(text)
    return f"{TIMM}{one.arch}:{moved(one.weights, old, new)}" if one.weights else text


def folder_of(text: str) -> str:
    """Directory of a candidate's search in the study.

    >>> folder_of("timm:resnet18:../w.pth")
    'candidates/timm-resnet18-..-w.pth'
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    return "candidates/" + (name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{zlib.crc32(text.encode()):08x}")


def with_surrogate(study: Study, text: str | None) -> Study:
    """The study that uses this surrogate; without any, the gate takes the place of the methods that need one."""
    if text is None:
        return study
    if text == NONE:
        kept = [method for method in study.methods if not needs_surrogate(method)]
        return replace(study, methods=tuple(dict.fromkeys([*kept, "gate"])))
    one = candidate(text)
    if one.arch is not None:
        return replace(study, surrogate_model=(one.arch, one.weights or ""))
    assert one.sample is not None
    return replace(study, surrogate_recipe=one.recipe or study.surrogate_recipe, surrogate_sample=one.sample)


def check_candidates(study: Study) -> None:
    """Raise `InputError` for surrogates that a study cannot choose among."""
    for text in study.surrogates:
        candidate(text)
    names = " ".join(study.surrogates)
    if len({folder_of(text) for text in study.surrogates}) < len(study.surrogates):
        raise InputError(f"--surrogates {names}: one is named twice")
    if study.surrogates and ("full" not in study.methods or not study.trains_surrogates):
        raise InputError("--surrogates: needs full and a pruning method that has a surrogate among --methods")
