"""Write features files that need no network: thumbnails, histograms and perceptual hashes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prune.data.dataset import Dataset
from prune.data.perceptual_hash import VARIANTS, hashes
from prune.data.thumbnail_features import DIMENSIONS, NAME, describe, of_squares
from prune.index.manifest import manifest_path
from prune.index.npz import open_arrays
from prune.runs.disk_errors import reserve
from prune.runs.files import counted, note
from prune.runs.outputs import claim_file, scratch
from prune.scores.feature_files import FORMAT, check_order, order_fingerprint, write_features
from prune.scores.quantised_rows import QuantisedRows, as_stored


def describe_to_file(dataset: Dataset, out: Path, workers: int | None = None, dtype: str = "float16") -> None:
    """Write the thumbnail features of all images of a dataset, unless the file is up to date.

    Parameters
    ----------
    dataset : Dataset
    out : Path
        NAME.features.npz.
    workers : int, optional
        Threads; all cores when absent. The file does not depend on them.
    dtype : {"float16", "float32", "int8"}
        As of `prune.scores.quantised_rows.as_stored`.

    Raises
    ------
    InputError
        `out` was made otherwise, or an image cannot be read.
    """
    manifest = manifest_path(dataset.beton.path)
    inputs = {"model": NAME, "source": dataset.manifest.fingerprint}
    inputs |= {} if dtype == "float16" else {"features_dtype": dtype}  # which files of older versions do not name
    with claim_file(out, lambda path: open_arrays(path, FORMAT)[1]["made"], None, inputs) as done:
        if done:
            order = open_arrays(out, FORMAT)[1].get("order")
            check_order(out, order, manifest, order_fingerprint(manifest), "give another --out, or remove it")
            return
        with scratch(out) as folder:
            arrays = as_stored(np.empty((0, DIMENSIONS), np.float32), dtype)
            shapes = [(len(dataset), array.shape[1]) for array in arrays]
            places = [Path(folder, f"{k}.npy") for k in range(len(arrays))]
            files = [np.lib.format.open_memmap(p, "w+", a.dtype, s) for p, a, s in zip(places, arrays, shapes)]
            for place in places:
                reserve(place)
            marks = np.empty((len(dataset), len(VARIANTS)), np.uint64)
            for rows, (block, found) in of_squares(dataset, (describe, hashes), workers=workers):
                for file, array in zip(files, as_stored(block, dtype)):
                    file[rows] = array
                marks[rows] = found
            model = {"arch": NAME, "classes": [], "fingerprint": NAME}
            logits = np.empty((len(dataset), 0), np.float16)
            features = QuantisedRows(*files) if len(files) > 1 else files[0]
            write_features(out, features, logits, dataset.manifest, manifest, model, inputs, hashes=marks)
        note(f"{out}: {counted(len(dataset), 'image')}, {DIMENSIONS} features without a network")
