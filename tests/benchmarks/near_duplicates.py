"""Near-duplicates: how many planted copies features, the hash and both find, and how many finds are wrong.

    python tests/benchmarks/near_duplicates.py --data data --out runs/near-duplicates \
        --results tests/benchmarks/results/near-duplicates.md

4,000 images of CIFAR-100 and 1,000 handwritten digits (which share hashes by the dozen), and 150 copies each of six
kinds: identical pixels, JPEG of quality 30, brighter by 30 %, turned by 4 degrees, cropped to the central 90 %,
mirrored. A quarter-width ResNet-18 of 4 epochs gives the features. A find is right when both images are of one
original; pairs of two images that were not planted are listed by number, since CIFAR-100 has copies of its own. Some
2 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from published import END, REMARKS, made_here, publish

from prune.index.npz import open_arrays
from prune.scores.feature_files import open_features

EACH = 150


def turned(image: np.ndarray) -> np.ndarray:
    """Turned by 4 degrees; the border is mirrored."""
    side = len(image)
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), 4, 1.0)
    return cv2.warpAffine(image, turn, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def cropped(image: np.ndarray) -> np.ndarray:
    """The central 90 %, as large as before."""
    side = len(image)
    inner = round(0.9 * side)
    first = (side - inner) // 2
    part = image[first : first + inner, first : first + inner]
    return cv2.resize(part, (side, side), interpolation=cv2.INTER_CUBIC)


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identical": lambda image: image,
    "JPEG 30": lambda image: image,  # written at that quality
    "brighter": lambda image: np.clip(image * 1.3, 0, 255).astype(np.uint8),
    "turned 4": turned,
    "cropped 90 %": cropped,
    "mirrored": lambda image: image[:, ::-1],
}


def command(*arguments: object) -> None:
    """Run one of the project's commands; end with its exit code where it fails."""
    done = subprocess.run([sys.executable, "-m", *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def plant(data: Path, place: Path) -> None:
    """Write the images and their copies as class folders; a copy's name is its original's with the kind in front."""
    part = place.with_name(f".{place.name}")
    files = {name: sorted((data / name / "train").glob("*/*")) for name in ("cifar100", "digits")}
    drawn = random.Random("near-duplicates").sample(files["cifar100"], 4000)
    for file in [*drawn, *random.Random("digits").sample(files["digits"], 1000)]:
        target = part / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    for number, (kind, change) in enumerate(KINDS.items()):
        for file in drawn[number * EACH : (number + 1) * EACH]:
            image = Image.fromarray(np.ascontiguousarray(change(np.asarray(Image.open(file).convert("RGB")))))
            suffix, options = (".jpg", {"quality": 30}) if kind == "JPEG 30" else (".png", {})
            image.save(part / file.parent.name / f"copy{number}-{file.stem}{suffix}", **options)
    part.rename(place)


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "images").is_dir():
        plant(options.data, out / "images")
    beton = out / "set.beton"
    command("prune", "write", "--images", out / "images", "--out", beton, "--side", 32)
    command("pretrain", "--beton", beton, "--recipe", "tiny", "--loader", "torch", "--out", out / "surrogate")
    model = ("--model", out / "surrogate", "--loader", "torch")
    command("prune", "features", *model, "--betons", beton, "--out", out / "features")
    command("prune", "features", "--thumbnail", "--betons", beton, "--out", out / "thumbnails")
    features, hashes = out / "features/set.features.npz", out / "thumbnails/set.features.npz"
    scores = out / "scores.npz"
    command("prune", "score", "--source", features, "--also", "duplicates", "--hashes", hashes, "--out", scores)
    arrays, _ = open_arrays(scores, "winnow-scores/1")
    text = table([name.decode() for name in open_features(features).ids()], arrays)
    if options.results:
        publish(options.results, text)
    print(text)


def table(ids: list[str], arrays: dict[str, np.ndarray]) -> str:
    """The table as Markdown."""
    of, by = np.asarray(arrays["duplicate_of"]), np.asarray(arrays["duplicate_by"])
    stems = [Path(name).stem for name in ids]
    planted = [stem.startswith("copy") for stem in stems]
    origin = [stem.partition("-")[2] if copy else stem for stem, copy in zip(stems, planted)]
    folder = [Path(name).parent.name for name in ids]
    pairs = [(row, int(of[row])) for row in np.flatnonzero(of >= 0)]
    right = {row: (folder[a], origin[a]) == (folder[b], origin[b]) for row, (a, b) in zip(range(len(pairs)), pairs)}
    found: dict[str, list[int]] = {kind: [0, 0, 0] for kind in KINDS}
    wrong, others = [0, 0, 0], 0
    for number, (a, b) in enumerate(pairs):
        ways = [bool(by[a] & 1), bool(by[a] & 2), True]
        if right[number]:
            kind = list(KINDS)[int((stems[a] if planted[a] else stems[b])[4])]
            found[kind] = [count + way for count, way in zip(found[kind], ways)]
        elif planted[a] or planted[b]:
            wrong = [count + way for count, way in zip(wrong, ways)]
        else:
            others += 1
    total = [sum(found[kind][way] for kind in KINDS) for way in range(3)]
    lines = [
        "# Near-duplicates: features, perceptual hash, both",
        "",
        f"{made_here()}.",
        "`python tests/benchmarks/near_duplicates.py --data data --out runs/near-duplicates "
        "--results tests/benchmarks/results/near-duplicates.md`",
        "",
        f"{EACH} planted copies of each kind among 4,000 images of CIFAR-100 and 1,000 digits; features of a",
        "quarter-width ResNet-18. Every pair was compared on the images.",
        "",
        REMARKS,
        END,
        "",
        "| recall | features | hash | both |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {kind} | {' | '.join(f'{count / EACH:.2f}' for count in counts)} |" for kind, counts in found.items()]
    sure = [f"{good / max(1, good + bad):.3f}" for good, bad in zip(total, wrong)]
    lines += [f"| precision | {' | '.join(sure)} |", "", f"Pairs of two images that were not planted: {others}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
