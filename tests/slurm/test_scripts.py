"""The scripts of slurm/ without a cluster: they parse, are clean, run with plain bash, and refuse mistakes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "slurm"
SCRIPTS = sorted(SLURM.glob("*.sh"))
STAGES = ("write", "surrogate", "prune", "pretrain", "transfer", "report")
FLAGS = ["--beton", "a.beton", "--recipe", "tiny", "--out", "x"]
DOCUMENTS = sorted(p for p in ROOT.rglob("*.md") if not {".venv", "runs", ".data"} & set(p.relative_to(ROOT).parts))
PROGRAMS = r"(?:python3? -m |accelerate launch |torchrun |sbatch |slurm/\w+\.sh |prune |pretrain |transfer )"
STARTS = rf"(?:[A-Z_]+=\S+ +)*(?:\S*/)?{PROGRAMS}"


def load_check():
    spec = importlib.util.spec_from_file_location("slurm_check", SLURM / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load_check()


def written(text: str) -> list[str]:
    """Every command of Winnow in a document's shell blocks."""
    blocks = re.findall(r"```(?:bash|sh|shell)\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [line.split(" #")[0] for line in lines if re.match(STARTS, line)]
    return [line.replace("[--dry-run]", "").split(" | ")[0] for line in found if "python -m pytest" not in line]


def scripted(text: str) -> list[str]:
    """Every command of Winnow in a script and its comments, with a word in the place of each variable."""
    whole = r"\b((?:python -m|accelerate launch|(?<!/)slurm/\w+\.sh) [^`)|;<\n]*)"
    found = []
    for line in re.findall(whole, text):
        line = re.sub(r"\s{2,}.*", "", line.replace("[--dry-run]", "--dry-run").replace("[--limit 8]", "--limit 8"))
        line = line.replace('-m "$@"', "-m pretrain --beton a --recipe tiny --out b").replace('"$@"', "--out b")
        line = line.rstrip().removesuffix('"') if line.count('"') % 2 else line  # inside a message
        if " --" in line and not re.search(r"FLAGS|STUDY|STAGE|\.\.\.|\$\(", line):
            found.append(re.sub(r'"?\$\{?\w+\}?"?', "1", line))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_of_every_document_parses(document):
    for line in written(document.read_text(encoding="utf-8")):
        check.check(check.shlex.split(line))


@pytest.mark.parametrize("script", [*SCRIPTS, SLURM / "check.py"], ids=lambda p: p.name)
def test_every_command_of_every_script_parses(script):
    for line in scripted(script.read_text(encoding="utf-8")):
        check.check(check.shlex.split(line))


def test_the_two_searches_find_commands():
    assert len(written((SLURM / "README.md").read_text())) >= 10
    shown = scripted((SLURM / "job.sh").read_text())
    assert any("--todo" in line for line in shown)
    assert sum("-m pretrain" in line for line in shown) == 4  # by accelerate, plainly, by srun once and for all
    assert scripted((SLURM / "submit.sh").read_text())[0].startswith("slurm/submit.sh")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("python -m pretrain --beton a --recipe tiny --epoch 2 --out b", "--epoch"),
        ("python -m prune select --scores a --method nonsense --keep x --out b", "--keep"),
        ("accelerate launch --num_procs 2 -m pretrain --beton a --recipe tiny --out b", "--num_procs"),
        ("accelerate launch pretrain --beton a --recipe tiny --out b", "-m PROGRAM"),
        ("torchrun --nproc_per_node 2 --nonsense -m pretrain --beton a --recipe tiny --out b", "nonsense"),
        ("sbatch --nodes 2 slurm/pretrain.sh --beton a --recipe tiny --out b", "write each option as --name=value"),
        ("sbatch --nodes=2 slurm/pretrain.sh --beton a --recipe tiny", "--out"),
        ("slurm/study.sh --limit 3 --sorce photos --out b", "--sorce"),
        ("slurm/submit.sh --limit 3 --out b", "--limit"),
        ("transfer probes --model a", "no step 'probes'"),
        ("slurm/nonsense.sh a", "no script"),
    ],
)
def test_a_wrong_command_is_refused_and_the_reason_named(line, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        check.check(line.split())


def test_a_script_takes_its_own_flags_anywhere():
    for line in ("slurm/study.sh --out b --limit 3 --keeps 0.2 --dry-run", "slurm/submit.sh pretrain --dry-run"):
        check.check([*line.split(), *(FLAGS if "pretrain" in line else [])])


def test_shellcheck_has_nothing_to_say():
    assert shutil.which("shellcheck"), "shellcheck: not installed: install/system.sh test"
    done = subprocess.run(
        ["shellcheck", "-x", "-P", ROOT, *SCRIPTS, ROOT / "install/system.sh", ROOT / ".ci/run"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == "", done.stdout
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("stage", [*STAGES, "submit", "study"])
def test_a_stage_is_an_executable_script_of_at_most_40_lines(stage):
    script = SLURM / f"{stage}.sh"
    assert os.access(script, os.X_OK)
    assert len(script.read_text().splitlines()) <= 40


def shell(*words: object, cwd: Path, path: str = "", **more: str) -> subprocess.CompletedProcess:
    """Run a script where no Slurm is."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "WINNOW_"))}
    environment["PATH"] = path or os.pathsep.join((str(Path(sys.executable).parent), "/usr/bin", "/bin"))
    return subprocess.run(list(map(str, words)), cwd=cwd, env={**environment, **more}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def without_slurm(tmp_path_factory) -> str:
    """A PATH on which there is no sbatch and no scontrol."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("bash", "env", "dirname", "sed", "cat", "sort", "cksum", "find", "awk", "tail", "mkdir", "grep"):
        (folder / name).symlink_to(shutil.which(name))
    return os.pathsep.join((str(Path(sys.executable).parent), str(folder)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    from prune import generate

    out = tmp_path_factory.mktemp("pictures") / "data"
    generate.run(generate.Config(out=out, per_class=8, rare=2, target_train=2, target_test=2, duplicates=0))
    return out


@pytest.fixture
def queue(tmp_path) -> SimpleNamespace:
    """A PATH with an sbatch that takes every job and an empty squeue; `jobs()` are the lines that it was given."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    stub(folder / "sbatch", f'echo "$*" >>{folder}/lines; echo 1')
    stub(folder / "squeue", "exit 0")
    path = os.pathsep.join((str(folder), str(Path(sys.executable).parent), "/usr/bin", "/bin"))
    lines = folder / "lines"
    return SimpleNamespace(path=path, jobs=lambda: lines.read_text().splitlines() if lines.exists() else [])


def stub(place: Path, text: str) -> None:
    place.write_text(f"#!/bin/bash\n{text}\n")
    place.chmod(0o755)


def asked(pictures: Path, **more: str) -> list[object]:
    flags = {"source": pictures / "source/train", "targets": f"signs={pictures / 'signs'}", "recipe": "tiny"}
    flags |= {"surrogate-recipe": "tiny", "keeps": "0.5", "seeds": "0", "methods": "winnow", **more}
    return [word for name, value in flags.items() for word in (f"--{name}", value)]


def test_a_dry_run_prints_every_sbatch_line_without_a_cluster_and_writes_nothing(pictures, without_slurm, tmp_path):
    done = shell(SLURM / "submit.sh", "--dry-run", *asked(pictures, out="x"), cwd=tmp_path, path=without_slurm)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [Path(line[-2]).stem for line in lines] == list(STAGES)
    assert all(line[0] == "sbatch" and line[-1] == "x" for line in lines)
    for line in lines:
        check.check(line)
    for number, line in enumerate(lines[1:], 1):
        assert f"--dependency=afterok:JOB{number}" in line
        assert "--kill-on-invalid-dep=yes" in line
    # 3 betons, surrogate, features, score, select, leaks: 2, backbone, probe, page: 2
    assert "13 commands parse" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_task_of_a_search_for_a_keep_has_a_script(pictures, without_slurm, tmp_path):
    words = asked(pictures, out="x", keep="auto")
    words += ["--ladder", "0.5", "0.7", "--methods", "full", "winnow", "--seeds", "0", "1"]
    words = [word for i, word in enumerate(words) if "--keeps" not in words[max(0, i - 1) : i + 1]]
    done = shell(SLURM / "study.sh", "--dry-run", *words, cwd=tmp_path, path=without_slurm)
    assert done.returncode == 0, done.stderr
    tasks = []
    for line in done.stdout.splitlines():
        shown = line.split()
        assert Path(shown[-2]).stem in STAGES
        array = next(word for word in shown if word.startswith("--array="))
        tasks += map(int, array.removeprefix("--array=").partition("%")[0].split(","))
    assert sorted(tasks) == list(range(1, len(tasks) + 1))
    stages = [line.split()[-2] for line in done.stdout.splitlines()]
    assert sum(stage.endswith("pretrain.sh") for stage in stages) >= 2  # the small networks, and then their probes
    chain = shell(SLURM / "submit.sh", "--dry-run", *words, cwd=tmp_path, path=without_slurm)
    assert chain.returncode == 0, chain.stderr


def test_arrays_follow_the_levels_of_the_plan_with_a_limit(pictures, without_slurm, tmp_path):
    done = shell(SLURM / "study.sh", "--dry-run", "--limit", 3, *asked(pictures, out="x"), cwd=tmp_path,
                 path=without_slurm)  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = []
    for line in done.stdout.splitlines():
        words = line.split()
        array = next(word for word in words if word.startswith("--array=")).removeprefix("--array=")
        after = next((word for word in words if word.startswith("--dependency=")), "").removeprefix("--dependency=")
        shown.append((Path(words[-2]).stem, array, after))
    # Lines 1 and 2 write source and signs.train; 3 the test images, whose classes are those of 2; 4 is the surrogate.
    assert shown[:5] == [
        ("write", "1,2%3", ""),
        ("write", "3%3", "afterok:JOB1"),
        ("surrogate", "4%3", "afterok:JOB1"),
        ("prune", "5,6%3", "afterok:JOB2:JOB3"),  # features of the source and signs.train, and of signs.test
        ("prune", "7,8%3", "afterok:JOB4"),  # scores, and test images in the source
    ]
    assert shown[-1][0] == "report"


def test_a_gate_is_found_in_the_job_that_writes_the_betons(pictures, without_slurm, tmp_path):
    words = asked(pictures, out="x", gate="auto")
    chain = shell(SLURM / "submit.sh", "--dry-run", *words, cwd=tmp_path, path=without_slurm)
    assert chain.returncode == 0, chain.stderr
    assert [Path(line.split()[-2]).stem for line in chain.stdout.splitlines()] == list(STAGES)
    assert "16 commands parse" in chain.stderr  # without a gate 13
    arrays = shell(SLURM / "study.sh", "--dry-run", *words, cwd=tmp_path, path=without_slurm)
    scripts = [Path(line.split()[-2]).stem for line in arrays.stdout.splitlines()]
    # Level 0 writes source and signs.train; 1 signs.test, and thumbnails; 2 and 3 are scores and index of the gate.
    assert scripts[:5] == ["write", "write", "write", "write", "surrogate"]
    planned = shell(sys.executable, "-m", "transfer", "study", *words, "--plan-only", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    done = shell(SLURM / "write.sh", "x", cwd=tmp_path, path=without_slurm)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x/indices/gate.index.npz").exists()


def test_every_task_of_a_plan_is_run_by_the_script_that_its_job_starts(pictures, without_slurm, tmp_path):
    words = [sys.executable, "-m", "transfer", "study", *asked(pictures, out="x", gate="auto"), "--plan-only"]
    assert shell(*words, cwd=tmp_path).returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "x/plan.jsonl").read_text().splitlines()]
    taken = {}
    for stage in STAGES:
        text = (SLURM / f"{stage}.sh").read_text()
        taken |= dict.fromkeys(re.search(r'^stage "([^"]*)"', text, re.MULTILINE)[1].split(), stage)
    for kind in {line["stage"] for line in lines}:
        command = f'WINNOW_ENV=/dev/null; . {SLURM}/queue.sh; script_of "{kind}"'
        assert shell("bash", "-c", command, cwd=tmp_path).stdout.strip() == taken[kind]


def test_a_misspelt_flag_ends_a_dry_run(pictures, without_slurm, tmp_path):
    for words in (
        ["submit.sh", "--dry-run", *asked(pictures, out="x", marign="2")],
        ["submit.sh", "--dry-run", *asked(pictures, out="x", keeps="2")],
        ["submit.sh", "--dry-run", "pretrain", *FLAGS, "--epoch", "2"],
        ["study.sh", "--dry-run", "--limit", "2", *asked(pictures)],
    ):
        done = shell(SLURM / words[0], *words[1:], cwd=tmp_path, path=without_slurm)
        assert done.returncode == 2, words
        assert "sbatch" not in done.stdout
    assert "--out is missing" in done.stderr


@pytest.mark.parametrize("script", ["submit.sh", "study.sh"])
def test_a_study_that_refuses_the_flags_queues_nothing(script, pictures, queue, tmp_path):
    words = [sys.executable, "-m", "transfer", "study", *asked(pictures, out="x"), "--plan-only"]
    assert shell(*words, cwd=tmp_path).returncode == 0
    for flags, said in ((["--recipe", "rn50-16ep"], "other settings"), (["--seedz", "3"], "--seedz")):
        done = shell(SLURM / script, "--out", "x", *flags, cwd=tmp_path, path=queue.path)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
    assert queue.jobs() == []
    assert shell(SLURM / script, "--out=x", cwd=tmp_path, path=queue.path).returncode == 0
    assert len(queue.jobs()) >= len(STAGES)


@pytest.mark.parametrize("script", ["submit.sh", "study.sh"])
def test_own_flags_may_come_anywhere_and_paths_may_have_spaces(script, pictures, queue, tmp_path):
    words = [*asked(pictures), "--out=my runs/x", "--dry-run"]
    if script == "study.sh":
        words = [*words[:4], "--limit=3", *words[4:], "--limit", "5"]
    done = shell(SLURM / script, *words, cwd=tmp_path, path=queue.path)
    assert done.returncode == 0, done.stderr
    lines = [check.shlex.split(line) for line in done.stdout.splitlines()]
    assert {Path(line[-2]).stem for line in lines} == set(STAGES)
    for line in lines:
        check.check(line)
        assert line[-1] == "my runs/x"
        assert any(word.startswith("--output=my runs/x/slurm/") for word in line)
        assert script == "submit.sh" or any(re.fullmatch(r"--array=.*%5", word) for word in line)
    done = shell(SLURM / "submit.sh", "pretrain", *FLAGS[:-1], "my runs/y", "--dry-run", cwd=tmp_path, path=queue.path)
    assert check.shlex.split(done.stdout)[-1] == "my runs/y", done.stderr
    assert queue.jobs() == []
    assert not (tmp_path / "my runs").exists()


@pytest.mark.parametrize("words", [["--limit"], ["--out", "x", "--limit"], ["--limit", "--out", "x"], ["--limit=0"]])
def test_a_limit_that_is_no_number_is_one_line(words, queue, tmp_path):
    done = shell(SLURM / "study.sh", *words, cwd=tmp_path, path=queue.path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--limit needs a number" in done.stderr


@pytest.mark.parametrize("script", [f"{name}.sh" for name in (*STAGES, "submit", "study")])
def test_help_prints_the_comment_at_the_head_of_the_script(script, tmp_path):
    for word in ("--help", "-h"):
        done = shell(SLURM / script, word, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"  slurm/{script} " in done.stdout
        assert not re.search("SBATCH|shellcheck|^#", done.stdout, re.MULTILINE)
    words = ["--out", "x", "--help"] if script in ("submit.sh", "study.sh") else ["-h"]
    assert shell(SLURM / script, *words, cwd=tmp_path).stdout == done.stdout
    assert list(tmp_path.iterdir()) == []


def test_without_slurm_a_submit_says_what_to_do(without_slurm, tmp_path):
    done = shell(SLURM / "submit.sh", "pretrain", *FLAGS, cwd=tmp_path, path=without_slurm)
    assert done.returncode == 2
    assert "no sbatch here; plain bash runs a stage" in done.stderr


def test_a_stage_runs_with_plain_bash_with_flags_and_with_a_plan(pictures, without_slurm, tmp_path):
    flags = ["--images", pictures / "signs/train", "--out", "signs.beton"]
    done = shell(SLURM / "write.sh", *flags, cwd=tmp_path, path=without_slurm)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "signs.manifest.npz").exists()
    words = [sys.executable, "-m", "transfer", "study", *asked(pictures, out="x", methods="random"), "--plan-only"]
    assert shell(*words, cwd=tmp_path).returncode == 0
    done = shell(SLURM / "write.sh", "x", cwd=tmp_path, path=without_slurm)
    assert done.returncode == 0, done.stderr
    assert {place.name for place in (tmp_path / "x/data").glob("*.beton")} == {
        "source.beton", "signs.train.beton", "signs.test.beton",
    }  # fmt: skip
    todo = shell(sys.executable, "-m", "transfer", "study", "--out", "x", "--todo", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[2] for line in todo] == ["select", "pretrain", "evaluate", "collect", "collect"]
    again = shell(SLURM / "write.sh", "x", cwd=tmp_path, path=without_slurm)
    assert "up to date: no task of this stage is left" in again.stderr


NEED_PROGRESS = """
WINNOW={root} WINNOW_ENV=/dev/null; . {root}/slurm/job.sh
SLURM_JOB_ID=7 SLURM_RESTART_COUNT=$1; need_progress logs "my runs/out"; echo "resumes"
"""


def test_a_job_is_stopped_only_when_two_requeues_brought_no_progress(tmp_path):
    def start(restarts: int) -> bool:
        done = shell("bash", "-c", NEED_PROGRESS.format(root=ROOT), "-", restarts, cwd=tmp_path)
        assert (done.returncode == 0) == ("resumes" in done.stdout)
        return done.returncode == 0

    def made(name: str, text: str = "") -> None:
        (tmp_path / "my runs/out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "my runs/out" / name).write_text(text)

    assert start(0)
    assert start(1)  # the first requeue without progress
    restarts = 2
    for name, text in (
        ("checkpoint/000000005/files.json", ""),
        ("checkpoint/000000008/files.json", ""),
        ("source.features.npz", ""),
        ("work/4/checkpoint/000000003/files.json", ""),  # of `transfer compress`
        ("cells/raw-s0/checkpoint-02/000000003/files.json", ""),  # of `transfer incremental`
        ("cells/raw-s0/round-0003/records.json", ""),  # of `transfer stream`
        ("../.out.journal", "one image"),  # of `prune materialize --out out`
        ("../.out.journal", "two images"),
    ):
        made(name, text)
        assert start(restarts), name
        assert start(restarts + 1), name
        restarts += 2
    made("config.json")
    made(".model.safetensors.7.partial")
    assert not start(restarts)
    assert start(0)  # submitted again


@pytest.fixture
def job(tmp_path):
    """Start transfer.sh on a plan as Slurm would, in a directory with a space.

    `job(restarts, a=0, b=85)`: the tasks that are to run and the exit code of each; a task that ends with 0 is done.
    """
    study, folder = tmp_path / "my runs/pets", tmp_path / "stubs"
    study.mkdir(parents=True)
    folder.mkdir()
    (study / "plan.jsonl").touch()
    stub(folder / "srun", 'while [ "$1" != python ]; do shift; done; exec "$@"')
    stub(folder / "scontrol", f'echo "$*" >>{folder}/requeued')
    stub(
        folder / "python",
        f'last=${{@: -1}}; cd {folder}; [ "$last" != --todo ] || exec cat rows; exit "$(cat "$last")"',
    )

    def start(restarts: int, **tasks: int) -> SimpleNamespace:
        (folder / "rows").write_text("".join(f"{k} 0 evaluate {name} {name}\n" for k, name in enumerate(tasks)))
        for k, code in enumerate(tasks.values()):
            (folder / str(k)).write_text(str(code))
        (folder / "requeued").unlink(missing_ok=True)
        slurm = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts), "WINNOW_ENV": "/dev/null"}
        path = os.pathsep.join((str(folder), "/usr/bin", "/bin"))
        done = shell(SLURM / "transfer.sh", "my runs/pets", cwd=tmp_path, path=path, **slurm)
        return SimpleNamespace(code=done.returncode, said=done.stderr, requeued=(folder / "requeued").exists())

    return start


def test_a_job_that_finishes_tasks_is_not_stopped(job):
    assert "no progress" not in job(0, a=0, b=143, c=0).said  # preempted when a was done
    assert "no progress" not in job(1, b=0, c=143).said
    assert "no progress" not in job(2, c=143).said
    assert "no progress" not in job(3, c=143).said
    assert "no progress in two requeues" in job(4, c=143).said


def test_a_checkpoint_in_a_directory_with_a_space_is_progress(job, tmp_path):
    for restarts in range(4):
        assert "no progress" not in job(restarts, a=143).said
        (tmp_path / f"my runs/pets/a/checkpoint/00000000{restarts}").mkdir(parents=True)


def test_a_job_is_requeued_exactly_when_its_exit_code_is_85(job):
    for tasks, code, said in (
        ({"a": 85}, 85, "what is done so far is saved; back to the queue"),
        ({"a": 0, "b": 138}, 85, "tasks finished: 1; back to the queue"),
        ({"a": 138}, 138, "with nothing saved: give the stage more --time"),
        ({"a": 0, "b": 137}, 137, "killed (exit code 137), or another process failed: read above"),
        ({"a": 0, "b": 2}, 2, ""),
        ({"a": 0, "b": 0}, 0, ""),
    ):
        done = job(0, **tasks)
        assert (done.code, done.requeued) == (code, code == 85), done.said
        assert said in done.said


def test_a_container_stands_between_srun_and_python_where_env_sh_says_so(tmp_path):
    folder, said = tmp_path / "stubs", tmp_path / "said"
    folder.mkdir()
    stub(folder / "srun", f'echo "$@" >>{said}')
    stub(folder / "scontrol", 'case $1 in show) echo "n1 NodeAddr=10.0.0.1 x" ;; esac')
    (tmp_path / "env.sh").write_text("SRUN=(--container-image=w.sqsh)\nINSIDE=(apptainer exec --nv w.sif)\n")
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_CPUS_PER_TASK": "4", "SLURM_NTASKS": "2"}
    path = os.pathsep.join((str(folder), "/usr/bin", "/bin"))
    for env, first, last in (
        (tmp_path / "env.sh", "--container-image=w.sqsh ", "rank.sh apptainer exec --nv w.sif python -m pretrain "),
        ("/dev/null", "--cpus-per-task=4 ", "rank.sh python -m pretrain "),  # an env.sh without them
    ):
        said.unlink(missing_ok=True)
        done = shell(SLURM / "pretrain.sh", *FLAGS, cwd=tmp_path, path=path, WINNOW_ENV=str(env), **slurm)
        assert done.returncode == 0, done.stderr
        assert said.read_text().startswith(first)
        assert last in said.read_text()


def test_scaling_measures_stops_and_resumes_on_half_of_the_processes(tmp_path):
    small = {"RECIPE": "lamps", "STEPS": "12", "PER": "4", "PROCESSES": "2", "IMAGES": "60", "WIDTH": "64"}
    here = {"WINNOW_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "WINNOW_ENV": "/dev/null", "PYTHONPATH": str(ROOT)}
    path = os.pathsep.join((str(Path(sys.executable).parent), "/usr/bin", "/bin"))
    done = shell(SLURM / "scaling.sh", "out", cwd=tmp_path, path=path, **small, **here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ +2 +\d+ +1\.000$", done.stdout, re.MULTILINE)
    assert "SIGUSR1 on 2 processes: exit code 85 (85 is right); resuming on 1" in done.stdout
    assert re.search(r"resumed and done: resuming from step \d+", done.stdout)
    assert (tmp_path / "out/stopped/DONE").exists()


def test_a_process_takes_its_place_from_slurm(tmp_path):
    slurm = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "4"}
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    for devices, local in (("0,1,2,3", "1"), ("2", "0"), ("", "1")):  # one device: with --gpus-per-task
        done = shell(SLURM / "rank.sh", "env", cwd=tmp_path, CUDA_VISIBLE_DEVICES=devices, **slurm)
        found = dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith(names))
        assert found == dict(zip(names, ("5", "8", local, "4")))


def test_tasks_beyond_a_thousand_are_array_tasks_that_slurm_can_number(tmp_path, without_slurm):
    # Stands in for the plan, whose rows these are, and for a check that agrees.
    stand_in = '#!/bin/sh\nif [ "$1" = -m ]; then cat rows; else cat; fi\n'
    (tmp_path / "python").write_text(stand_in)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "rows").write_text("".join(f"{n} 0 pretrain out name\n" for n in (998, 999, 1000, 1001)))
    path = os.pathsep.join((str(tmp_path), without_slurm))
    done = shell(SLURM / "study.sh", "--dry-run", "--out", "x", cwd=tmp_path, path=path, WINNOW_ENV="/dev/null",
                 LIMIT="4")  # fmt: skip
    assert done.returncode == 0, done.stderr
    options = [[w for w in line.split() if w.startswith(("--array", "--export"))] for line in done.stdout.splitlines()]
    assert options == [
        ["--array=998,999%4", "--export=ALL,WINNOW_OFFSET=0"],
        ["--array=0,1%4", "--export=ALL,WINNOW_OFFSET=1000"],
    ]


def test_the_plan_that_check_reads_is_the_one_that_the_study_prints(pictures, tmp_path):
    words = [sys.executable, "-m", "transfer", "study", *asked(pictures, out="x"), "--dry-run", "--json"]
    text = shell(*words, cwd=tmp_path).stdout
    broken = json.loads(text)
    broken["lines"][3]["command"][-2] = "--oot"
    for given, code in ((text, 0), (json.dumps(broken), 2)):
        done = subprocess.run(
            [sys.executable, SLURM / "check.py", "--plan"], input=given, capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == code, done.stderr
    assert "--oot" in done.stderr
