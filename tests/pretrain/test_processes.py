"""Several processes count what one counts, and the launchers start as many as they were asked for."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.processes]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(fork, beton, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("model") / "run"
    config = {"beton": str(beton), "out": str(out), "recipe": "tiny", "epochs": 2, "loader": "torch", "workers": 1}
    assert fork(1, config, count=False)["codes"] == [0]
    return out


def test_evaluation_of_1003_images_on_two_and_three_processes_equals_that_of_one(fork, write_beton, model, tmp_path):
    uneven = write_beton(tmp_path / "uneven.beton", 1003, seed=2)
    config = {"beton": str(uneven), "init": str(model), "recipe": "tiny", "out": "unused"}
    found = {}
    for world in (1, 2, 3):
        folder = tmp_path / str(world)
        folder.mkdir()
        assert fork(world, config, evaluate=True, log=str(folder), count=False)["codes"] == [0] * world
        ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]
        assert all(rank == ranks[0] for rank in ranks)
        assert (ranks[0]["world"], ranks[0]["n"]) == (world, 1003)
        found[world] = ranks[0]
    assert found[1]["top1"] == found[2]["top1"] == found[3]["top1"]
    assert 0.25 < found[1]["top1"] < 1  # a figure that could differ
    assert found[2]["loss"] == pytest.approx(found[1]["loss"], rel=1e-6)
    assert found[3]["loss"] == pytest.approx(found[1]["loss"], rel=1e-6)


def test_two_processes_train_as_one_that_accumulates_two_parts(fork, beton, tmp_path):
    lines = {}
    for world, micro in ((1, 32), (2, None)):
        out = tmp_path / str(world)
        config = {"beton": str(beton), "out": str(out), "recipe": "tiny", "epochs": 1, "micro_batch": micro}
        assert fork(world, {**config, "loader": "torch", "workers": 1}, count=False)["codes"] == [0] * world
        (lines[world],) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert json.loads((out / "provenance.json").read_text())["processes"] == world
    # The same groups for batch norm, the same global batches: equal but for the order of additions.
    assert lines[2]["loss"] == pytest.approx(lines[1]["loss"], rel=1e-4)
    assert lines[2]["top1"] == pytest.approx(lines[1]["top1"], abs=2 / 256)
    assert lines[2]["samples"] == lines[1]["samples"] == 256


def test_torchrun_starts_two_processes_of_one_run_with_the_ffcv_loader(beton, val_beton, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "pretrain", "--beton", str(beton), "--val", str(val_beton), "--recipe", "tiny", "--epochs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said = process.communicate(timeout=240)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, said
    provenance = json.loads((out / "provenance.json").read_text())
    assert (provenance["processes"], provenance["samples"]) == (2, 256)
    assert said.count("epoch 1") == 1  # rank 0 alone speaks


def test_a_training_goes_to_its_end_when_the_reader_of_its_output_has_left(beton, tmp_path):
    out = tmp_path / "run"
    command = f"{sys.executable} -m pretrain --beton {beton} --recipe tiny --epochs 3 --loader torch --out {out}"
    pipeline = f'{command} 2>&1 | head -n 1; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", pipeline], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.stdout.count("\n") == 1  # the next epoch's line finds no reader
    assert done.returncode == 0
    assert json.loads((out / "provenance.json").read_text())["epochs"] == 3


def test_help_is_answered_without_torch_or_numpy_and_list_names_every_recipe():
    code = (
        "import sys; from pretrain.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert main(['--list']) == 0\n"
        "slow = {'torch', 'numpy', 'ffcv', 'timm', 'accelerate'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--recipe" in done.stdout
    assert "vit-b16-100ep: vit_base_patch16_224" in done.stdout
