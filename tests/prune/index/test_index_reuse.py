"""One index, the same training samples everywhere: through FFCV, through PyTorch, in a project without this package."""

import json
import os
import shutil
import subprocess
import venv
from collections import Counter
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder

from prune import materialize, write
from prune.data.dataset import open_dataset
from prune.index.manifest import Manifest, digest
from prune.index.pruned_index import PrunedIndex

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    """Three classes of twelve lossless images and one folder of JPEGs; half of them are kept."""
    root = tmp_path_factory.mktemp("reuse")
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "çat d"):
        (root / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.kron(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((6, 6, 1), np.uint8))
            Image.fromarray(pixels).save(root / "images" / name / f"{i}.{'jpg' if name == 'bee' else 'png'}")
    write.run(write.Config(images=str(root / "images"), out=root / "s.beton"))
    manifest = Manifest.load(root / "s.manifest.npz")
    rows = np.sort(rng.choice(len(manifest), 18, replace=False))
    PrunedIndex.from_rows(manifest, rows, provenance=[]).save(root / "x.index.npz")
    return SimpleNamespace(root=root, images=root / "images", index=root / "x.index.npz", beton=root / "s.beton")


def through_ffcv(beton: Path, rows: np.ndarray) -> tuple[Counter, Counter]:
    """Digests of pixels and of stored bytes of what the stock FFCV loader yields for `rows`."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    loader = Loader(
        str(beton),
        batch_size=5,
        num_workers=1,
        order=OrderOption.RANDOM,
        indices=rows,
        seed=3,
        drop_last=False,
        pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()], "position": [IntDecoder()]},
    )
    source = open_dataset(beton)
    pixels, stored = Counter(), Counter()
    for images, _, positions in loader:
        pixels.update(digest(image.tobytes()) for image in np.array(images))
        stored.update(digest(source.beton.stored(int(row))[0]) for row in np.array(positions).reshape(-1))
    return pixels, stored


@pytest.mark.slow
def test_ffcv_and_a_plain_dataloader_train_on_the_same_samples(made, tmp_path):
    index = PrunedIndex.load(made.index)
    rows = index.rows_in(Manifest.load(made.root / "s.manifest.npz"))
    pixels, stored = through_ffcv(made.beton, rows)
    small = materialize.run(materialize.Config(made.index, source=made.beton, out=tmp_path / "small.beton"))
    pixels_small, stored_small = through_ffcv(small, np.arange(len(index)))

    folder = ImageFolder(made.images)
    rows = index.rows([path for path, _ in folder.samples], root=made.images)
    loader = DataLoader(Subset(folder, rows), batch_size=5, shuffle=True, collate_fn=list)
    images = [np.array(image) for batch in loader for image, _ in batch]
    lossless = {row for row, place in enumerate(rows) if folder.samples[place][0].endswith("png")}
    plain = Counter(digest(np.array(folder[rows[row]][0]).tobytes()) for row in lossless)
    files = Counter(
        digest(
            Path(folder.samples[place][0]).read_bytes() if row not in lossless else np.array(folder[place][0]).tobytes()
        )
        for row, place in enumerate(rows)
    )
    assert len(images) == len(index) == pixels.total()
    # The stored bytes are the files' bytes, or the pixels of lossless files: sample for sample the same.
    assert files == stored == stored_small == Counter(index.digests.tolist())
    # And so are the pixels, exactly where no JPEG decoder stands between them; JPEGs differ by a few grey levels.
    assert 0 < plain.total() < len(index)
    assert plain <= pixels
    assert pixels == pixels_small
    assert plain <= Counter(digest(image.tobytes()) for image in images)


def closure(*names: str) -> set[str]:
    """Distributions that these need, and themselves."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name.lower() in found:
            continue
        found.add(name.lower())
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            extras = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
            if requirement.marker is None or any(requirement.marker.evaluate(extra) for extra in extras):
                try:
                    metadata.distribution(requirement.name)
                except metadata.PackageNotFoundError:
                    continue
                waiting.append(requirement.name)
    return found


def environment(place: Path, *names: str) -> Path:
    """A fresh virtual environment that holds these distributions and what they need; returns its site-packages."""
    venv.create(place, symlinks=True, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    for name in closure(*names):
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                os.symlink(Path(str(found.locate_file(top))), packages / top)
    return packages


def bare(python: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a bare Python outside this checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [python, *map(str, arguments)]
    return subprocess.run(command, cwd=python.parent, env=clean, capture_output=True, text=True)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """A Python with NumPy, torch, torchvision, and of this package the index alone."""
    place = tmp_path_factory.mktemp("bare") / "venv"
    packages = environment(place, "numpy", "torch", "torchvision")
    shutil.copytree(ROOT / "prune" / "index", packages / "prune" / "index")
    shutil.copy(ROOT / "prune" / "__init__.py", packages / "prune")
    return place / "bin" / "python"


COPIED = """
import importlib.util, json, sys
import numpy
from kept_samples import PrunedIndex
index = PrunedIndex.load(sys.argv[1])
others = index.sample(0.5, seed=1)
rest = index.without(others)
both = others | rest
both.save(sys.argv[2])
found = [name for name in ("prune", "torch", "tyro", "PIL") if importlib.util.find_spec(name)]
print(json.dumps([both.rows(json.loads(sys.argv[3])).tolist(), len(others & rest), len(rest), found]))
"""


def test_the_folder_works_under_another_name_where_only_numpy_is(made, tmp_path):
    packages = environment(tmp_path / "venv", "numpy")
    shutil.copytree(ROOT / "prune" / "index", packages / "kept_samples")
    index = PrunedIndex.load(made.index)
    listing = sorted((name.decode() for name in Manifest.load(made.root / "s.manifest.npz").ids), reverse=True)
    python = tmp_path / "venv/bin/python"
    run = bare(python, "-c", COPIED, made.index, tmp_path / "both.index.npz", json.dumps(listing))
    assert run.returncode == 0, run.stderr
    rows, shared, rest, found = json.loads(run.stdout)
    assert rows == [listing.index(name.decode()) for name in index.ids]
    assert (shared, rest, found) == (0, 9, [])
    again = PrunedIndex.load(tmp_path / "both.index.npz")  # what the copy wrote is an index here
    assert again.fingerprint == index.fingerprint
    assert [step["step"] for step in again.provenance] == ["sample", "union"]


def test_the_public_import_paths_give_the_same_classes():
    import prune
    import prune.index
    import prune.index.manifest
    import prune.manifest

    assert prune.PrunedIndex is prune.index.PrunedIndex is PrunedIndex
    assert prune.manifest.Manifest is Manifest
    assert prune.manifest.digest is digest
    assert prune.manifest.manifest_path is prune.index.manifest.manifest_path


@pytest.mark.slow
def test_the_example_runs_where_only_numpy_torch_and_torchvision_are(made, bare_python):
    example = ROOT / "examples" / "reuse_index.py"
    assert len(example.read_text().splitlines()) < 30
    missing = ["ffcv", "faiss", "timm", "tyro", "rich", "pytest", "prune.data", "pretrain"]
    code = f"import importlib.util as u, prune; print([n for n in {missing} if u.find_spec(n)], prune.PrunedIndex)"
    assert bare(bare_python, "-c", code).stdout == "[] <class 'prune.index.pruned_index.PrunedIndex'>\n"
    run = bare(bare_python, example, made.index, made.images)
    assert (run.returncode, run.stdout) == (0, "trained on 18 images\n"), run.stderr


def test_the_example_takes_the_samples_that_the_index_names_and_reports_what_a_copy_lacks(made, bare_python, tmp_path):
    ids = PrunedIndex.load(made.index).ids.tolist()
    shutil.copytree(made.images, tmp_path / "images")
    (tmp_path / "images" / ids[0].decode()).unlink()
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[4]); import reuse_index\n"
        "part = reuse_index.kept(sys.argv[1], sys.argv[2])\n"
        "print(json.dumps([part.dataset.samples[i][0] for i in part.indices]))\n"
        "reuse_index.kept(sys.argv[1], sys.argv[3])"
    )
    run = bare(bare_python, "-c", code, made.index, made.images, tmp_path / "images", ROOT / "examples")
    names = [str(Path(path).relative_to(made.images)).encode() for path in json.loads(run.stdout)]
    assert names == ids
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert f"1 of 18 kept samples are missing from the listing (first: '{ids[0].decode()}')" in last
