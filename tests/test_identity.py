"""What identifies a run is said at the field: changing any unmarked field of a finished step is refused."""

from __future__ import annotations

import ast
import hashlib
import inspect
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from prune.data.beton_writing import WritingSettings
from prune.index.npz import open_arrays, save_arrays
from prune.models.extraction_settings import ExtractionSettings
from prune.runs.files import InputError
from prune.runs.identity import Recorded, differences, identity, marked
from prune.scores.feature_files import open_features

MODULES = sorted(
    text.split(":")[0]
    for package in ("prune", "transfer")
    for text in import_module(f"{package}.__main__").STEPS.values()
) + ["pretrain.train"]
CLAIMING = [m for m in MODULES if "claim" in inspect.getsource(import_module(m))]
BY_SETTINGS = {"prune.write": WritingSettings, "prune.features": ExtractionSettings}
"""Steps whose work is a plain function that claims the output for settings of its own."""
IDLE = {"prune.features": frozenset({"seed"})}
"""Fields that decide nothing beside the defaults of the others: --seed without --sample."""
WITH_OUTPUT = CLAIMING + list(BY_SETTINGS)


def another(hint: Any, value: Any) -> Any:
    """A value of the field's type that differs from `value`."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        return (*(value or ()), another(inner, value[-1] if value else None))
    if hint is bool:
        return not value
    if hint is int:
        return 3 if value is None else value + 1
    if hint is float:
        return 0.25 if value is None else value / 2 + 0.0123
    if hint is Path:
        return Path("elsewhere") if value is None else value.with_name("elsewhere")
    return "another" if value is None else f"{value}x"


def bare(module: str) -> Any:
    """A config of the step with made-up values for fields without a default."""
    config = import_module(module).Config
    hints = get_type_hints(config)
    required = {
        f.name: another(hints[f.name], None)
        for f in fields(config)
        if f.default is MISSING and f.default_factory is MISSING
    }
    return config(**required)


@pytest.mark.parametrize("module", WITH_OUTPUT)
def test_every_unmarked_field_is_a_difference_and_no_marked_one(module):
    config = bare(module)
    record, hints = identity(config), get_type_hints(type(config))
    assert differences(record, config, {}) == []
    assert set(record) | marked(type(config)) == {f.name for f in fields(config)}
    for field in fields(config):
        changed = replace(config, **{field.name: another(hints[field.name], getattr(config, field.name))})
        found = differences(record, changed, {})
        if field.name in marked(type(config)):
            assert found == [], field.name
        else:
            assert [text.split(":")[0] for text in found] == [field.name]


@pytest.mark.parametrize("module", CLAIMING)
def test_every_step_claims_its_output_for_its_whole_config(module):
    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(import_module(module))))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("claim", "claim_file")
    ]
    configs = [ast.unparse(call.args[1 if call.func.id == "claim" else 2]) for call in calls]
    assert "config" in configs


@pytest.mark.parametrize("module", BY_SETTINGS)
def test_the_settings_of_a_plain_function_have_every_field_that_identifies_its_step(module):
    settings = BY_SETTINGS[module]
    own = {f.name for f in fields(settings)} - marked(settings)
    assert own == set(identity(bare(module)))


def test_all_steps_that_write_have_an_answer_to_whether_it_is_done():
    # `export`, `card`, `audit` and `pull` compare bytes, `study` grows, `auto` runs other steps, reports are written
    # anew, the others print or send.
    without = {"prune.audit", "prune.card", "prune.explain", "prune.gone", "prune.pull", "prune.push", "transfer.auto",
               "prune.export", "prune.verify", "prune.show", "prune.codec_table", "transfer.study", "transfer.report",
               "transfer.show", "transfer.rollback", "transfer.approve", "transfer.explain", "transfer.watch",
               "transfer.watch_codec", "transfer.compress_report", "transfer.decide"}  # fmt: skip
    assert set(MODULES) - set(WITH_OUTPUT) == without


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory) -> Mapping[str, Any]:
    """One finished run of every quick step: module name to its config."""
    import torch
    from safetensors.torch import save_file
    from timm import create_model

    from prune.models import networks

    root = tmp_path_factory.mktemp("identity")
    torch.manual_seed(0)
    classes = sorted(p.name for p in (toy.root / "data/source/train").iterdir())
    spec = {"arch": "resnet18", "kwargs": {"channels": [8, 8, 8, 8]}, "stem": "half", "classes": classes,
            "resolution": 16, "mean": networks.MEAN, "std": networks.STD}  # fmt: skip
    model = networks.build(spec)
    networks.save_model(root / "model", model, spec)
    save_file(create_model("mobilenetv3_small_050", num_classes=5).state_dict(), root / "weights.safetensors")
    rows = len(np.load(toy.root / "source.manifest.npz")["label"])
    np.savez(root / "arrays.npz", features=np.random.default_rng(0).normal(size=(rows, 4)).astype("f2"))
    index, features = root / "winnow.index.npz", root / "features"
    source = toy.source
    (root / "list.txt").write_text("0\n1\n5\n")
    base = {
        "prune.generate": {"out": root / "data", "per_class": 8, "rare": 2, "target_train": 2, "target_test": 1},
        "prune.write": {"images": str(toy.root / "data/signs/train"), "out": root / "x.beton"},
        "prune.surrogate": {"arch": "mobilenetv3_small_050", "weights": root / "weights.safetensors",
                            "out": root / "s"},
        "prune.features": {"model": root / "model", "betons": (source, toy.train, toy.test), "out": features},
        "prune.adopt": {"arrays": root / "arrays.npz", "manifest": toy.root / "source.manifest.npz", "model": "m",
                        "out": root / "a.npz"},
        "prune.score": {"source": (features / "source.features.npz",), "targets": (features / "train.features.npz",),
                        "out": root / "scores.npz"},
        "prune.extrapolate": {"scores": root / "part.npz", "features": features / "source.features.npz",
                              "out": root / "all.npz"},
        "prune.leaks": {"source": features / "source.features.npz", "tests": (features / "test.features.npz",),
                        "out": root / "leaks.json"},
        "prune.selection": {"scores": root / "scores.npz", "keep": 0.3, "out": index},
        "prune.curves": {"beton": source, "model": root / "model", "out": root / "curves.npz", "qualities": (50, 20)},
        "prune.budget": {"index": index, "curves": root / "curves.npz", "ratio": 0.2, "out": root / "b.index.npz"},
        "prune.combine": {"indices": (index, root / "b.index.npz"), "out": root / "c.index.npz"},
        "prune.importing": {"samples": root / "list.txt", "source": source, "holds": "keep", "out": root / "i.npz"},
        "prune.materialize": {"index": index, "source": source, "out": root / "m.beton"},
        "pretrain.train": {"beton": source, "recipe": "tiny", "steps": 1, "out": root / "trained", "loader": "torch"},
        "transfer.probe": {"model": root / "model", "train": toy.train, "test": toy.test, "out": root / "probe"},
        "transfer.knn": {"model": root / "model", "train": toy.train, "test": toy.test, "out": root / "knn"},
        "transfer.finetune": {"model": root / "model", "train": toy.train, "test": toy.test, "epochs": 0.1,
                              "out": root / "tuned"},
        "transfer.preserve": {"train": toy.train, "model": root / "model", "size": 20, "floor": 1,
                              "out": root / "p.index.npz"},
    }  # fmt: skip
    configs = {}
    for module, settings in base.items():
        step = import_module(module)
        configs[module] = step.Config(**settings)
        step.run(configs[module])
        if module == "prune.score":
            hide_half_of_the_scores(root / "scores.npz", root / "part.npz")
    return configs


def hide_half_of_the_scores(scores: Path, part: Path) -> None:
    """The scores of a part of the source: of a feature, so that others can be predicted."""
    arrays, meta = open_arrays(scores, "winnow-scores/1")
    features = open_features(scores.parent / meta["features"]).features
    known = np.arange(len(features)) % 2 == 0
    save_arrays(part, {**arrays, "sample/prototype": np.where(known, features[:, 0], np.nan).astype("<f4")}, meta)


def contents(out: Path) -> dict[str, str]:
    files = [p for p in sorted(out.rglob("*")) if p.is_file()] if out.is_dir() else [out]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def recorded(config: type) -> set[str]:
    """Fields that a step records as what they come to."""
    hints = get_type_hints(config, include_extras=True)
    return {name for name, hint in hints.items() if get_args(Recorded[int])[1] in get_args(hint)[1:]}


SLOW = {"transfer.compress", "transfer.compress_language", "transfer.export", "transfer.incremental", "transfer.stream"}


@pytest.mark.parametrize("module", sorted(set(WITH_OUTPUT) - SLOW))
def test_a_finished_step_refuses_any_other_setting_and_repeats_nothing(finished, module):
    step, config = import_module(module), finished[module]
    before, hints = contents(config.out), get_type_hints(type(config))
    step.run(config)
    for name in set(identity(config)) | recorded(type(config)) - IDLE.get(module, frozenset()):
        with pytest.raises(InputError):
            step.run(replace(config, **{name: another(hints[name], getattr(config, name))}))
    assert contents(config.out) == before
