"""Draw a small data set of which the truth is known, for demonstrations and tests.

    prune generate --out runs/toy
    prune generate --world lamps --out runs/lamps

In world `signs` the source has figures, which the target shares, and textures, which it does not. In world `lamps` only
the lamps, a known share of the source, help the target; the rest can be pruned without loss. World `lanterns` is easier
to learn, and its target's classes overlap: the best accuracy is about 86 %. Writes OUT/source/train, OUT/source/test,
OUT/signs/train and OUT/signs/test (one folder a class) and OUT/truth.json: which source classes matter to the target
`signs`, which are rare, which images are near-duplicates, which have a wrong label. Everything follows from the seed;
takes a few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.runs.files import InputError, at_least, note, write_json
from prune.runs.identity import Location
from prune.runs.outputs import claim, finish

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Config:
    out: Location[Path]
    """Directory to fill."""
    world: Literal["signs", "lamps", "lanterns"] = "signs"
    """What is drawn: signs among textures, lamps among grey patterns, or lanterns among them."""
    irrelevant: int = 12
    """Grey patterns of worlds lamps and lanterns, 1 to 24: there are 4 lamps, so with 12 a quarter of the source
    matters."""
    per_class: int = 150
    """Source images of an ordinary class."""
    rare: int = 24
    """Source images of a rare class."""
    target_train: int = 30
    """Target images of each class to guide the pruning and train the probe."""
    target_test: int = 200
    """Target images of each class to test on."""
    duplicates: float = 0.06
    """Share of an ordinary class whose images nearly repeat another image of it."""
    mislabelled: float = 0.04
    """Share of an ordinary class whose images have another class's label."""
    seed: int = 0
    """Seed of all random draws."""


def run(config: Config) -> None:
    """Draw the data set, unless it is up to date."""
    for flag, least in {"per_class": 8, "rare": 2, "target_train": 2, "target_test": 1}.items():
        if getattr(config, flag) < least:
            raise InputError(f"--{flag.replace('_', '-')} {getattr(config, flag)}: at least {least} is needed")
    for flag in ("duplicates", "mislabelled"):
        if not 0 <= getattr(config, flag) < 0.5:
            raise InputError(f"--{flag} {getattr(config, flag)}: a share from 0 to less than 0.5 is needed")
    if not 1 <= config.irrelevant <= 24:
        raise InputError(f"--irrelevant {config.irrelevant}: 1 to 24 patterns are possible")
    at_least(config, 0, "seed")
    with claim(config.out, config) as done:
        if done:
            note(f"{config.out}: up to date")
            return
        truth = draw(config)
        write_json(config.out / "truth.json", truth)
        finish(config.out, step="prune generate", images=truth["images"])
        matter = f"{len(truth['relevant'])} of {truth['classes']} classes matter"
        note(f"{config.out}: {truth['images']} source images, {matter}")


def draw(config: Config) -> dict[str, Any]:
    """Write all images; returns the content of truth.json."""
    import numpy as np

    from prune.data.synthetic_images import nearly

    rng = np.random.default_rng(config.seed)
    shared, others, scarce, picture = _world(config)
    names = [*shared, *others]
    duplicates: dict[str, str] = {}
    mislabelled: dict[str, str] = {}
    for name in names:
        count = config.rare if name in scarce else config.per_class
        repeats = 0 if name in scarce else round(count * config.duplicates)
        wrong = 0 if name in scarce else round(count * config.mislabelled)
        images: list[np.ndarray] = []
        for i in range(count):
            original = i - (count - repeats)
            if original >= 0:
                images.append(nearly(images[original + wrong], rng))
                duplicates[f"{name}/{i:04d}.jpg"] = f"{name}/{original + wrong:04d}.jpg"
            else:
                shown = name if i >= wrong else str(rng.choice([n for n in names if n not in (name, *scarce)]))
                images.append(picture(shown, rng))
                if i < wrong:
                    mislabelled[f"{name}/{i:04d}.jpg"] = shown
            _save(config.out / "source/train" / name / f"{i:04d}.jpg", images[-1])
        for i in range(max(4, count // 10)):
            _save(config.out / "source/test" / name / f"{i:04d}.jpg", picture(name, rng))
    for split, count in (("train", config.target_train), ("test", config.target_test)):
        for name in shared:
            for i in range(count):
                _save(config.out / "signs" / split / name / f"{i:04d}.jpg", picture(name, rng, worn=True))
    total = sum(config.rare if name in scarce else config.per_class for name in names)
    return {
        "relevant": list(shared),
        "rare": list(scarce),
        "classes": len(names),
        "images": total,
        "duplicates": duplicates,
        "mislabelled": mislabelled,
    }


def _world(config: Config) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], Any]:
    """Classes that the target shares, those that it does not, the rare ones, and the function that draws a class."""
    from prune.data.synthetic_images import FIGURES, LAMPS, RARE, TEXTURES, figure, lamp, lantern, pattern, texture

    if config.world == "signs":

        def sign(name: str, rng: np.random.Generator, worn: bool = False) -> np.ndarray:
            return figure(name, rng, worn=worn) if name in FIGURES else texture(name, rng)

        return FIGURES, TEXTURES, RARE, sign
    patterns = {f"pattern-{k:02d}": k for k in range(config.irrelevant)}

    def light(name: str, rng: np.random.Generator, worn: bool = False) -> np.ndarray:
        draws = lantern if config.world == "lanterns" else lamp
        return draws(name, rng, worn=worn) if name in LAMPS else pattern(patterns[name], rng)

    return LAMPS, tuple(patterns), (), light


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=92)
