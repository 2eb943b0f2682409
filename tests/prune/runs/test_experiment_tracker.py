from __future__ import annotations

import json
from contextlib import suppress

import psutil

from prune.runs.experiment_tracker import markdown, send

TABLES = {"selection/classes": (("class", "kept"), [["cat | <b>dog</b>", 3], ["newt", 0]])}
CURVES = {"accuracy/winnow": [(20, 61.5), (40, 70.25)]}


def test_tensorboard_reads_back_tables_as_text_and_curves_as_scalars_and_a_second_report_replaces_the_first(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        send("tensorboard", tmp_path, "pets", TABLES, CURVES)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("accuracy/winnow")] == [(20, 61.5), (40, 70.25)]
    (text,) = events.Tensors("selection/classes/text_summary")
    (said,) = text.tensor_proto.string_val
    assert said.decode().splitlines() == [
        "| class | kept |",
        "| --- | --- |",
        "| cat &#124; &lt;b>dog&lt;/b> | 3 |",
        "| newt | 0 |",
    ]


def test_weights_and_biases_keeps_tables_and_figures_on_this_machine_when_it_is_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "own"))
    figure = "<svg xmlns='http://www.w3.org/2000/svg'><text>front</text></svg>"
    send("wandb", tmp_path, "pets", TABLES, CURVES, {"study/wide": figure})
    assert "1 tables, 1 curves, 1 figures" in capsys.readouterr().err
    assert not [one for one in children() if "wandb" in one]
    (media,) = tmp_path.glob("wandb/offline-run-*/files/media")
    (table,) = (media / "table").rglob("classes_*.table.json")
    assert json.loads(table.read_text())["data"] == [["cat | <b>dog</b>", "3"], ["newt", "0"]]
    (page,) = (media / "html").rglob("*.html")
    assert page.read_text() == figure


def children() -> list[str]:
    """Command lines of this process's children, whichever thread started them; threads and children may be ending."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            found.append(" ".join(child.cmdline()))
    return found


def test_no_cell_of_a_table_becomes_markup():
    assert markdown((("a",), [["`x` [y](z)"]])).splitlines()[-1] == "| &#96;x&#96; &#91;y](z) |"
