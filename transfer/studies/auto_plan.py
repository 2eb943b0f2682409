"""What `transfer auto` runs: the commands from images to an index, and in plain words why each choice was made."""

from __future__ import annotations

import importlib.util
import io
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prune.methods.quota import budget_of
from prune.runs.files import InputError
from transfer.studies.candidates import TIMM, Candidate, candidate, need_model
from transfer.studies.places import Splits

SMALL_SIDE = 40
"""Shorter side in pixels up to which the networks for 32 px images are used."""
FEW = 20_000
"""Images below which a smaller network is trained, with small batches."""
ENOUGH = 50_000
"""Images on which a surrogate is trained: of a larger source that many, or a quarter."""
SCRIPT_BEGIN = "# The commands of `transfer auto`"
_LOOKED_AT = 64
_FLOOR, _FLOOR_SHARE = 20, 0.1


@dataclass(frozen=True)
class SourceFacts:
    """What the choices depend on: images, classes, and the median of the images' shorter sides in pixels."""

    images: int
    classes: int
    side: int


@dataclass(frozen=True)
class AutoPlan:
    """Commands in order, why they are what they are, and what to type next.

    Attributes
    ----------
    commands : list of list of str
        Program, step and flags, as typed.
    why : list of str
    index : str
        Path of the index that they make.
    next : list of str
        Comments and commands.
    """

    commands: list[list[str]]
    why: list[str]
    index: str
    next: list[str] = field(default_factory=list)

    def script(self) -> str:
        """The plan as a shell script."""
        lines = [f"{SCRIPT_BEGIN}, from images to an index. Why they are what they are:"]
        lines += [f"# - {line}" for line in self.why]
        return "\n".join([*lines, "set -e", *map(shlex.join, self.commands)]) + "\n"


def source_facts(place: str) -> SourceFacts:
    """Count a source's images and look at the size of some of them, evenly spaced; nothing is decoded."""
    import numpy as np
    from PIL import Image

    if place.endswith(".beton"):
        from prune.index.manifest import open_manifest

        manifest = open_manifest(Path(place))
        sides = np.minimum(manifest.width, manifest.height)
        return SourceFacts(len(manifest), len(manifest.classes), int(np.median(sides)))
    from prune.data.image_listing import list_images

    listing = list_images(place)
    found = []
    for row in np.unique(np.linspace(0, len(listing.ids) - 1, _LOOKED_AT).astype(int)).tolist():
        try:
            with Image.open(io.BytesIO(listing.read(row))) as image:
                found.append(min(image.size))
        except Exception:  # Pillow and readers raise all kinds of errors; `prune write` names broken images
            continue
    if not found:
        raise InputError(f"--source {place}: none of the images that were tried can be read")
    return SourceFacts(len(listing.ids), len(listing.classes), int(np.median(found)))


def plan(
    source: str,
    targets: dict[str, Splits],
    facts: SourceFacts,
    keep: float,
    out: Path,
    *,
    asked: Sequence[str],
    name: str = "",
    gate: bool = True,
    surrogate: str | None = None,
    floor: int | None = None,
    loader: str | None = None,
    seed: int = 0,
) -> AutoPlan:
    """Choose the commands.

    Parameters
    ----------
    source : str
        As `prune write --images` takes it, or a beton.
    targets : dict of str to Splits
        Their train splits guide the selection.
    facts : SourceFacts
    keep : float
    out : Path
        Directory of all that is made.
    asked : sequence of str
        Source and targets as the user gave them, for what to type next.
    name : str
        Of the source's beton.
    gate : bool
        Let thumbnails shut out other domains before the surrogate.
    surrogate : str, optional
        timm:NAME, timm:NAME:WEIGHTS, RECIPE:SHARE or a share; chosen by the source when absent.
    floor : int, optional
        The least that every class keeps; chosen when absent.
    loader : str, optional
        ffcv or torch; chosen by what is installed when absent.
    seed : int
    """
    counts = f"{facts.images:,} images in {facts.classes:,} classes"
    why = [f"The source has {counts}, of {facts.side} px (median of the shorter sides)."]
    commands: list[list[str]] = []

    def beton(name: str, place: str) -> str:
        if place.endswith(".beton"):
            return place
        commands.append(["prune", "write", "--images", place, "--out", str(out / f"{name}.beton")])
        return str(out / f"{name}.beton")

    name = name if name and name not in targets else "source"
    betons = [beton(name, source), *(beton(target, splits.train) for target, splits in targets.items())]
    stems = [Path(place).name.removesuffix(".beton") for place in betons]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"two betons are named {twice}.beton: give other names, as in --targets other={twice}.beton")
    reader = _reader(loader, why)
    seeds = ["--seed", str(seed)] if seed else []

    def features(folder: str) -> list[str]:
        paths = [str(out / folder / f"{stem}.features.npz") for stem in stems]
        return ["--source", paths[0], "--targets", *paths[1:]]

    inside, gated = [], []
    if gate:
        why.append(
            "Thumbnails come first: they shut out what looks like none of the targets, cost no network, and stay open "
            "where nothing is of another domain (--no-gate leaves them out)."
        )
        scores, index = str(out / "gate.scores.npz"), str(out / "gate.index.npz")
        commands.append(["prune", "features", "--thumbnail", "--betons", *betons, "--out", str(out / "thumbnails")])
        commands.append(["prune", "score", *features("thumbnails"), "--also", "domain", *seeds, "--out", scores])
        commands.append(["prune", "select", "--scores", scores, "--method", "gate", *seeds, "--out", index])
        inside, gated = ["--index", index], ["--gate", scores]
    model = str(out / "surrogate")
    commands.append(_surrogate(surrogate, facts, betons[0], inside, reader, seeds, model, why))
    commands.append(
        ["prune", "features", "--model", model, "--betons", *betons, *inside, *reader, "--out", str(out / "features")]
    )
    scores = str(out / "scores.npz")
    commands.append(["prune", "score", *features("features"), *gated, *seeds, "--out", scores])
    label = "-".join(targets) if len(targets) < 4 else "targets"
    made = str(out / f"{label}-{100 * keep:g}.index.npz")
    least = [*_floor(floor, facts, keep, why), *seeds]
    why.append(
        f"Method winnow keeps {keep:g}: whole classes as far as the targets' votes go beyond chance, at random inside "
        "each; what votes cannot stand for goes to the images most like the targets."
    )
    select = ["prune", "select", "--scores", scores, "--method", "winnow", "--keep", f"{keep:g}"]
    commands.append([*select, *least, "--out", made])
    page = made.removesuffix(".index.npz") + ".html"
    commands.append(["prune", "show", made, "--html", page, "--source", betons[0], "--scores", scores])
    return AutoPlan(commands, why, made, _next(asked, facts, betons[0], made, out))


def source_name(place: str) -> str:
    """Name of a source's beton: the last part of its path, without what a file name cannot hold.

    >>> source_name("data/photos/"), source_name("photos/train"), source_name("runs/x.beton"), source_name("hf://a/b:train")
    ('photos', 'photos', 'x', 'source')
    """
    if ":" in place:
        return "source"
    path = Path(place)
    stem = path.parent.name if path.name in ("train", "training") else path.name.removesuffix(".beton")
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "source"


def _reader(loader: str | None, why: list[str]) -> list[str]:
    if loader is None and importlib.util.find_spec("ffcv") is None:
        why.append("FFCV is not installed: PyTorch reads the images, more slowly.")
        loader = "torch"
    return ["--loader", loader] if loader == "torch" else []


def _surrogate(
    wanted: str | None,
    facts: SourceFacts,
    beton: str,
    inside: list[str],
    reader: list[str],
    seeds: list[str],
    out: str,
    why: list[str],
) -> list[str]:
    """The command that makes the surrogate."""
    if wanted is not None and wanted.startswith(TIMM):
        one = candidate(wanted)
        need_model(wanted, "surrogate")
        why.append(f"The surrogate is timm's {one.arch} with its trained weights: nothing is trained.")
        weights = ["--weights", one.weights] if one.weights else []
        return ["prune", "surrogate", "--arch", str(one.arch), *weights, "--out", out]
    small, few = facts.side <= SMALL_SIDE, facts.images < FEW
    recipe = {
        (True, True): "tiny-surrogate",
        (True, False): "small-rn18-surrogate",
        (False, True): "small-rn18-64",
        (False, False): "rn18-surrogate",
    }[small, few]
    sample = 1.0 if facts.images <= ENOUGH else round(max(0.25, ENOUGH / facts.images), 2)
    reason = f"fits {'fewer' if few else 'more'} than {FEW:,} images of {facts.side} px"
    if wanted is not None:
        one = _named(wanted)
        recipe, sample, reason = one.recipe or recipe, float(one.sample or 1), "is what --surrogate asks for"
    part = "all of the source" if sample == 1 else f"{sample:g} of the source"
    part += " that passes" if inside else ""
    why.append(f"The surrogate is trained by recipe {recipe}, which {reason}, on {part}.")
    share = [] if sample == 1 else ["--sample", f"{sample:g}"]
    return ["pretrain", "--beton", beton, *inside, "--recipe", recipe, *share, *reader, *seeds, "--out", out]


def _named(wanted: str) -> Candidate:
    """A recipe and a share as the user names them."""
    try:
        one = candidate(wanted)
    except InputError:
        one = Candidate()
    if one.sample is None:
        raise InputError(f"--surrogate {wanted}: give timm:MODEL[:WEIGHTS], RECIPE:SHARE or a share such as 0.25")
    return one


def _floor(floor: int | None, facts: SourceFacts, keep: float, why: list[str]) -> list[str]:
    budget = budget_of(keep, facts.images)
    if floor is None:
        floor = min(_FLOOR, int(_FLOOR_SHARE * budget / max(1, facts.classes)))
        why.append(
            f"Every class keeps at least {floor}: floors take no more than a tenth of what is kept, and 20 are enough."
            if floor
            else "No class has a floor: there are too many classes for what is kept (--floor gives one)."
        )
    return ["--floor", str(floor)] if floor else []


def _next(asked: Sequence[str], facts: SourceFacts, beton: str, index: str, out: Path) -> list[str]:
    recipe = "rn50-16ep" if facts.side > SMALL_SIDE else "tiny" if facts.images < FEW else "small-rn50"
    backbone = ["pretrain", "--beton", beton, "--index", index, "--recipe", recipe, "--out", str(out / "backbone")]
    source, *targets = asked
    study = ["transfer", "study", "--source", source, "--targets", *targets, "--recipe", recipe]
    return [
        "# pretrain the backbone on what is kept:",
        f"accelerate launch -m {shlex.join(backbone)}",
        "# or ask first whether it pays, with controls and intervals:",
        shlex.join([*study, "--out", str(out / "study")]),
    ]
