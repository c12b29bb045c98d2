"""benchmark.sh: the list of runs, what is skipped, kills, failures, several at once, Slurm.

Most tests use a copy of the repository with a script that only does as if it learned, so that they take seconds; and
seeds from 2 on, because the row of seed 1 on PointMaze also holds the paths of its policy.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT, Run

sys.path.insert(0, str(ROOT / "results"))
import benchmark  # noqa: E402
import compare  # noqa: E402

# the files and flags of a method, no learning; its score depends on every update, and on what was done before a kill
QUICK = '''
import hashlib, json, signal, sys, time
from dataclasses import asdict, dataclass
from pathlib import Path

@dataclass
class Settings:
    task: str = "PointMaze"
    dataset: Path | None = None
    seed: int = 1
    out: Path = Path("runs")
    resume: bool = False
    overwrite: bool = False
    eval_every: int = 10
    eval_episodes: int = 50
    device: str = "cpu"
    cuda_graphs: bool = False
    threads: int = 0
    precision: str = "fp32"
    swap: bool = False
    swap_source: str = "batch"
    swap_batch: str = "equal"
    batch_size: int = 512
    updates: int = 500_000
    pause: float = 0.0  # seconds of an update
    hidden: tuple[int, ...] = (256, 256)

    def flags(self):
        return {k.replace("_", "-"): str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

DEFAULTS = Settings()

def write(path, value):
    path.with_suffix(".part").write_text(json.dumps(value))
    path.with_suffix(".part").replace(path)

def main():
    words, given = sys.argv[1:], {}
    while words:
        name = words.pop(0)[2:].replace("-", "_")
        kind = type(getattr(DEFAULTS, name))
        given[name] = True if kind is bool else kind(words.pop(0))
    s = Settings(**given)
    name = Path(__file__).stem + "-swap" * s.swap
    with open("started.txt", "a") as file:
        print(name, s.task, s.seed, "resume" * s.resume, file=file)
    for broken in Path(".").glob(f"broken-{s.seed}-*"):
        if broken.name.endswith("once"):
            broken.unlink()
        sys.exit("out of luck")
    folder = s.out / s.task / name / str(s.seed)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, result = folder / "checkpoint.pt", folder / "result.json"
    if (checkpoint.exists() or result.exists()) and not (s.resume or s.overwrite):
        print("quick.py: error: already holds a run", file=sys.stderr)
        sys.exit(2)
    if not s.resume:
        checkpoint.unlink(missing_ok=True)
        result.unlink(missing_ok=True)
    stop, start, state = [], 0, f"{s.seed} {s.swap}"
    if s.resume:
        try:
            start, state = json.loads(checkpoint.read_text())
        except ValueError:
            print("quick.py: error: not a checkpoint; start anew with --overwrite", file=sys.stderr)
            sys.exit(2)
        if start >= s.updates:
            print(f"quick.py: error: {checkpoint} is already at update {start}", file=sys.stderr)
            sys.exit(2)
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    for n in range(start + 1, s.updates + 1):
        state = hashlib.sha256(f"{state} {n}".encode()).hexdigest()
        time.sleep(s.pause)
        if n % 5 == 0 or stop or n == s.updates:
            write(checkpoint, [n, state])
        if stop and n < s.updates:
            sys.exit(143)
    scores = {"return": float(int(state[:4], 16)), "success": 0.0, "seen_success": 0.0, "unseen_success": 0.0}
    episode = {"seed": 5, "return": scores["return"], "success": False, "start": 0, "goal": 0}
    evaluation = {"update": n, **scores, "episodes": [episode]}
    (folder / "evaluations.jsonl").write_text(json.dumps(evaluation) + "\\n")
    data = s.dataset or Path("data/datasets") / f"{s.task}.npz"
    if not data.exists():
        sys.exit("its dataset could not be collected")
    import numpy as np
    hashes = sorted(json.loads(str(np.load(data)["manifest"]))["sha256"].items())
    write(result, {"method": Path(__file__).stem, "flags": s.flags(), "updates": n, "scores": scores,
                   "seconds": 1.0, "eval_seconds": 0.0, "updates_timed": n - start, "threads": 1,
                   "dataset_sha256": hashlib.sha256(bytes.fromhex("".join(v for _, v in hashes))).hexdigest(),
                   "file_sha256": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()})

if __name__ == "__main__":
    main()
'''
SMALL = ("--updates", "10")


class Clone:
    """A copy of the repository with these methods."""

    def __init__(self, folder, dataset, scripts):
        self.folder = folder
        for part in ("results", "data/datasets", "algos"):
            (folder / part).mkdir(parents=True)
        for path in (ROOT / "benchmark.sh", *ROOT.glob("results/*.py")):
            shutil.copy(path, folder / path.relative_to(ROOT))
        for name, text in scripts.items():
            (folder / "algos" / f"{name}.py").write_text(text)
        if "quick" not in scripts:
            shutil.copytree(ROOT / "envs", folder / "envs")
            shutil.copy(ROOT / "data/collect.py", folder / "data/collect.py")
        shutil.copy(dataset, folder / "data/datasets/PointMaze.npz")

    def start(self, *words, hostname=None, **environment):
        """benchmark.sh in a process group of its own, as if on the machine of this name."""
        command = [self.folder / "benchmark.sh", *map(str, words)]
        if hostname:
            code = ("import runpy, socket, sys; name = sys.argv.pop(1); socket.gethostname = lambda: name; "
                    "sys.path.insert(0, 'results'); runpy.run_path('results/benchmark.py', run_name='__main__')")
            command = [sys.executable, "-c", code, hostname, *map(str, words)]
        return subprocess.Popen(command, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                start_new_session=True, env=os.environ | {"PYTHON": sys.executable} | environment,
                                # a shell's background jobs, pytest's too, start with SIGINT ignored
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def call(self, *words, timeout=120, **more):
        """Exit status, stdout, stderr."""
        process = self.start(*words, **more)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            kill_group(process)
        return process.returncode, out, err

    def rows(self):
        path = self.folder / "results" / "runs.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def scores(self):
        """What a row says about learning, by method, swap and seed; fails if a run has two rows."""
        found = {}
        for row in self.rows():
            key = row["method"], row["flags"]["swap"], row["flags"]["seed"], row["file_sha256"], row["data"]
            assert key not in found, "two rows of one run"
            found[key] = [row[name] for name in ("scores", "curve", "episodes", "updates")]
        return found

    def started(self):
        path = self.folder / "started.txt"
        return path.read_text().splitlines() if path.exists() else []


def kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def clone(tmp_path, dataset):
    return Clone(tmp_path / "clone", dataset, {"quick": QUICK})


# --- the list of runs
def test_the_paper_s_171_cells_in_order(tmp_path):
    run = Run(tmp_path, ROOT / "results" / "benchmark.py", "--protocol", "paper", "--dry-run").wait()
    assert run.status == 0, run.err
    official = [line for line in run.out.splitlines() if "wgcsl" in line and "--variant gofar" not in line]
    assert len(official) == 90, "beside the paper's cells: the authors' version of WGCSL"
    cells = [re.search(r"algos/(\w+)\.py --task (\w+) (--swap )?--seed (\d+) ", line).groups()
             for line in run.out.splitlines() if line not in official]
    methods = {path.stem for path in (ROOT / "algos").glob("*.py")}
    assert len(set(cells)) == len(cells) and {cell[0] for cell in cells} == methods
    without_only = {"gcsl", "wgcsl", "am", "gofar", "bcq"}
    assert {(m, bool(s)) for m, _, s, _ in cells} == {
        (m, s) for m in methods for s in (False, True) if not (s and m in without_only)}
    assert len(cells) == 10 * 9 * sum(2 - (m in without_only) for m in methods)
    if len(methods) == 13:
        assert len({cell[:3] for cell in cells if cell[0] != "awr"}) == 171
    tasks = list(dict.fromkeys(cell[1] for cell in cells))
    assert tasks[:4] == ["PointMaze", "FetchReach", "FetchPush", "HandBlockZ"] and len(tasks) == 9
    maze = [int(seed) for _, task, _, seed in cells if task == "PointMaze"]
    assert maze == sorted(maze), "every cell has its first seed before any has its second"
    before = cells[:[task for _, task, _, _ in cells].index("FetchPick")]
    hand = {(method, int(seed)) for method, task, _, seed in before if task == "HandBlockZ"}
    assert hand == {(m, seed) for m in methods & {"dqapg", "td3bc", "awac", "cql", "gofar"} for seed in (1, 2)}
    line = next(x for x in run.out.splitlines() if "algos/dqapg.py --task FetchPush --swap --seed 7 " in x)
    assert "OMP_NUM_THREADS=1 python" in line and "--threads 1" in line and "--resume" not in line
    assert "--updates 500000" in line and "--eval-episodes 50" in line and "--precision fp32" in line
    assert not any("--batch-size" in x or "--samples" in x for x in run.out.splitlines())


def test_flags_of_one_method_in_one_protocol(tmp_path):
    """They reach every run of that method and no other, and flags after -- win over them."""
    def commands(*words):
        run = Run(tmp_path, ROOT / "results" / "benchmark.py", "--dry-run", "--tasks", "FetchPush", *words).wait()
        assert run.status == 0, run.err
        return run.out.splitlines()

    for line in commands("--methods", "cql,td3bc"):
        assert ("--batch-size 256 --samples 4 --lr 0.001 --weight 0.5 " in line) == ("algos/cql.py" in line), line
    for line in commands("--methods", "cql", "--", "--samples", "10"):
        assert "--batch-size 256" in line and line.index("--samples 4 ") < line.index("--samples 10 "), line
    extra = benchmark.list_cells(["cql"], ["FetchPush"], None, [1], "cpu", ["--samples", "10"])
    assert {(cell.flags["batch-size"], cell.flags["samples"]) for cell in extra} == {(256, 10)}


def test_too_few_episodes_for_pointmaze_are_refused_before_anything_runs(clone):
    words = "--seeds", "2", "--swap", "no", "--dry-run", "--tasks"
    status, out, err = clone.call(*words, "PointMaze", "--", *SMALL, "--eval-episodes", "2")
    assert status == 2 and err.count("\n") == 1 and "--eval-episodes" in err and not out
    assert clone.call(*words, "FetchPush", "--", *SMALL, "--eval-episodes", "2")[0] == 0


def test_without_jobs_where_the_cores_of_a_process_are_not_known(clone):
    """On macOS os has no sched_getaffinity."""
    code = ("import os, runpy, sys; del os.sched_getaffinity; sys.path.insert(0, 'results'); "
            "runpy.run_path('results/benchmark.py', run_name='__main__')")
    words = ["--seeds", "2", "--swap", "no", "--tasks", "PointMaze", "--", *SMALL]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=clone.folder, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0 and len(clone.rows()) == 1, done.stderr


def test_wgcsl_runs_as_the_paper_used_it_and_as_its_authors_have_it(clone, fake_slurm):
    """Two methods of one file: own settings, own folders, own rows, in one protocol."""
    names = ["wgcsl", "wgcsl-official"]
    for protocol in benchmark.PROTOCOLS:
        papers, official = benchmark.list_cells(names, ["PointMaze"], None, [1], protocol, [])
        assert (papers.flags["variant"], papers.flags["her-ratio"]) == ("gofar", 1.0)
        assert (official.flags["variant"], official.flags["her-ratio"]) == ("official", 0.8)
        assert {**papers.flags, "variant": "", "her-ratio": 0} == {**official.flags, "variant": "", "her-ratio": 0}
        assert papers.method == official.method == "wgcsl" and papers.folder != official.folder
        assert [cell.label for cell in (papers, official)] == [f"{name} PointMaze seed 1" for name in names]
    (clone.folder / "algos" / "wgcsl.py").write_text(QUICK.replace(
        "    pause:", "    variant: str = 'official'\n    her_ratio: float = 0.8\n    pause:"))
    words = "--tasks", "PointMaze", "--seeds", "2", "--jobs", "2", "--", *SMALL
    status, out, err = clone.call("--methods", "wgcsl,wgcsl-official", *words)
    assert status == 0, out + err
    assert sorted((row["flags"]["variant"], row["flags"]["her-ratio"], row["protocol"]) for row in clone.rows()) == [
        ("gofar", 1.0, "cpu-updates-10"), ("official", 0.8, "cpu-updates-10")]
    for name in names:
        status, out, _ = clone.call("--dry-run", "--methods", name, *words)
        assert status == 0 and out.startswith("# has a row: ") and out.count("\n") == 1, out
    both = ["--variant", "gofar", "--her-ratio", "1"]
    assert len(benchmark.list_cells(names, ["PointMaze"], None, [1], "cpu", both)) == 1, "flags make them the same run"
    status, out, _ = clone.call("--slurm", "--methods", "wgcsl,wgcsl-official", "--tasks", "PointMaze", "--seeds", "3",
                                "--", *SMALL, PATH=f"{fake_slurm}:{os.environ['PATH']}")
    assert status == 0 and "2 runs" in out, out
    listed, = clone.folder.glob("runs/slurm/*/0.txt")
    assert [line.split()[1] for line in listed.read_text().splitlines()] == names


def test_flags_that_are_no_setting_leave_a_run_in_its_protocol():
    def protocol(*extra):
        return benchmark.list_cells(["td3bc"], ["FetchPush"], "no", [1], "cpu", list(extra))[0].out.parent.name

    assert protocol("--alpha", "1.5") == "cpu-alpha-1.5"
    assert protocol("--device", "cpu", "--alpha=1.5", "--no-track", "--eval_every", "7", "--compile") == "cpu-alpha-1.5"
    assert protocol("--dataset", str(ROOT / "README.md")).startswith("cpu-dataset-")
    assert protocol("--alpha", "2.50") == protocol("--batch-size=512") == "cpu", "its default"  # of TD3+BC
    assert protocol("--lr", "2e-3") == "cpu-lr-2e-3"


def test_scripts_refuse_swap_as_the_table_says():
    for path in (ROOT / "algos").glob("*.py"):
        refused = benchmark.SWAPPING.get(path.stem, ("",))[0] == "refused"
        assert ('fail("--swap: ' in path.read_text()) == refused, path.name


def test_lists_and_protocols(clone):
    assert compare.PROTOCOLS == tuple(benchmark.PROTOCOLS)
    (clone.folder / "algos" / "bcq.py").write_text(QUICK)
    (clone.folder / "algos" / "gcsl.py").write_text(QUICK)

    def cells(*words):
        run = Run(clone.folder, clone.folder / "results" / "benchmark.py", "--dry-run", *words).wait()
        assert run.status == 0, run.err
        return run.out.splitlines()

    assert len(cells("--tasks", "PointMaze")) == 4 * 5 and len(cells("--tasks", "FetchReach,FetchPush")) == 4 * 2 * 3
    assert len(cells("--tasks", "PointMaze", "--swap", "both", "--seeds", "1,3-4")) == 5 * 3
    assert len(cells("--swap", "yes", "--seeds", "9")) == 2 * 9, "gcsl never, bcq if asked for"
    line, = cells("--methods", "quick", "--tasks", "FetchPush", "--swap", "no", "--seeds", "3", "--", "--pause", "1")
    assert line == ("OMP_NUM_THREADS=1 python algos/quick.py --task FetchPush --seed 3 --updates 20000 --eval-episodes "
                    f"50 --eval-every 5000 --precision bf16 --pause 1 --threads 1 --out runs/cpu-pause-1/{line[-12:]}")
    assert "--updates 15000" in cells("--tasks", "PointMaze")[0]


def test_bad_input_is_one_line_and_status_2(clone):
    words = ["--methods", "quick", "--tasks", "PointMaze"]
    for more, wanted in (
            (["--methods", "quick,sarsa"], "--methods quick,sarsa: 'sarsa' is none of quick"),
            (["--tasks", "PointMaze,Chess"], "'Chess' is none of PointMaze"), (["--seeds", "1,x"], "--seeds 1,x"),
            (["--seeds", "5-2"], "--seeds 5-2"), (["--jobs", "0"], "--jobs 0"), (["--swap", "maybe"], "--swap"),
            (["--slurm", "--gpus", "1", "--", "--device", "cpu"], "come with --gpus"),
            (["--method", "quick"], "--method"), (["--partition", "gpu"], "--partition: needs --slurm"),
            (["--", "--rate", "1"], "--rate"), (["--", "--updates", "ten"], "ten"), (["--", "--seed", "1"], "--seed"),
            (["--", "--dataset", "nothing.npz"], "--dataset nothing.npz: does not exist"),
            (["--", "--threads", "4"], "--threads"), (["--seeds", "3000000000"], "--seeds 3000000000")):
        run = Run(clone.folder, clone.folder / "results" / "benchmark.py", *words, *more).wait()
        assert run.status == 2 and len(run.error_lines) == 1 and wanted in run.err, (more, run.err)
    (clone.folder / "algos" / "gcsl.py").write_text(QUICK)
    run = Run(clone.folder, clone.folder / "results" / "benchmark.py", "--methods", "gcsl", "--swap", "yes").wait()
    assert run.status == 2 and len(run.error_lines) == 1 and "gcsl refuses it" in run.err
    (clone.folder / "algos" / "gcsl.py").write_text("import nothing_of_this_name")
    run = Run(clone.folder, clone.folder / "results" / "benchmark.py").wait()
    assert run.status == 2 and len(run.error_lines) == 1 and "algos/gcsl.py cannot be loaded" in run.err
    (clone.folder / "results" / "runs.jsonl").write_text('{"method": "quick"\n')
    run = Run(clone.folder, clone.folder / "results" / "benchmark.py", *words).wait()
    assert run.status == 2 and len(run.error_lines) == 1 and "runs.jsonl, line 1" in run.err
    assert not clone.started()


# --- runs
def test_skips_what_has_a_row_and_runs_again_what_has_changed(clone):
    words = "--seeds", "2-3", "--jobs", "2", "--tasks", "PointMaze", "--", *SMALL
    status, out, err = clone.call(*words)
    assert status == 0 and not err, err
    assert len(clone.scores()) == 4 == len(clone.started()) and "4 of 4 runs have a row" in out, out
    assert clone.call(*words)[0] == 0 and len(clone.started()) == 4
    (clone.folder / "results" / "runs.jsonl").unlink()
    status, out, _ = clone.call(*words)
    assert status == 0 and len(clone.scores()) == 4 == len(clone.started()), "finished runs without a row get one"
    assert all(line.startswith("# has a row: ") for line in clone.call("--dry-run", *words)[1].splitlines())
    clone.call("--seeds", "2", "--tasks", "PointMaze", "--", "--updates", "15")
    assert len(clone.rows()) == 6 == len(clone.started()), "other settings are another run"
    script = clone.folder / "algos" / "quick.py"
    script.write_text(QUICK + "# changed\n")
    status, out, _ = clone.call(*words)
    assert status == 0 and len(clone.started()) == 10 and len(clone.rows()) == 10, out
    (clone.folder / "data/datasets/PointMaze.npz").unlink()
    assert clone.call(*words)[0] == 0 and len(clone.started()) == 10, "without the dataset any will do"


def test_rows_of_another_dataset_do_not_count(clone, dataset):
    import numpy as np
    words = "--seeds", "2", "--swap", "no", "--tasks", "PointMaze", "--", *SMALL
    assert clone.call(*words)[0] == 0
    with np.load(dataset) as file:
        arrays = dict(file)
    manifest = json.loads(str(arrays["manifest"]))
    manifest["sha256"]["actions"] = "00" * 32
    np.savez(clone.folder / "data/datasets/PointMaze.npz", **arrays | {"manifest": json.dumps(manifest)})
    assert clone.call(*words)[0] == 0 and len(clone.scores()) == 2 == len(clone.started())


def test_data_of_another_machine_are_the_same_but_for_their_last_bits(clone, dataset):
    import numpy as np
    file, words = clone.folder / "data/datasets/PointMaze.npz", ("--swap", "no", "--tasks", "PointMaze", "--jobs", "1")
    with np.load(dataset) as found:
        arrays = dict(found)
    manifest = json.loads(str(arrays["manifest"]))
    manifest["expert"]["sha256"], manifest["arguments"]["noise"] = "11" * 32, 0.0
    manifest["versions"] |= {"gymnasium-robotics": "1"}

    def runs_again(seed, **changed):
        manifest["sha256"] |= changed
        np.savez(file, **arrays | {"manifest": json.dumps(manifest)})
        before = len(clone.started())
        assert clone.call(*words, "--seeds", seed, "--", *SMALL)[0] == 0
        return len(clone.started()) - before

    assert runs_again("2-3") == 2
    assert runs_again("2-4", actions="00" * 32) == 1 and len({row["dataset_sha256"] for row in clone.rows()}) == 2
    del manifest["arguments"]["noise"]  # manifests from before an argument lack it; then it was 0
    assert runs_again("2-4", observations="00" * 32) == 0 and len({row["data"] for row in clone.rows()}) == 1
    manifest["arguments"]["noise"] = 0.1
    assert runs_again("2-4") == 3
    assert runs_again("2", success="22" * 32) == 1
    manifest["expert"]["sha256"] = "33" * 32
    assert runs_again("2-3") == 1, "the same bits, whoever made them"
    assert len({row["data"] for row in clone.rows()}) == 3
    assert runs_again("2", actions="44" * 32) == 1 and len(clone.scores()) == 9 and len({row["data"] for row in clone.rows()}) == 4


def test_rows_of_the_data_of_before_do_not_count_without_a_dataset_either(clone):
    sys.path.insert(0, str(ROOT / "results"))
    import report
    words = "--seeds", "2", "--swap", "no", "--tasks", "PointMaze", "--dry-run", "--", *SMALL
    assert clone.call(*(word for word in words if word != "--dry-run"))[0] == 0
    (clone.folder / "data/datasets/PointMaze.npz").unlink()
    assert clone.call(*words)[1].startswith("# has a row: ")
    rows = clone.folder / "results" / "runs.jsonl"
    earlier = sorted(report.EARLIER)[0]
    row = json.loads(rows.read_text()) | {"dataset_sha256": earlier, "data": earlier}
    rows.write_text(json.dumps(row) + "\n")
    assert "# has a row" not in clone.call(*words)[1]


def test_a_failing_run_is_tried_twice_and_the_others_go_on(clone):
    (clone.folder / "broken-3-always").touch()
    (clone.folder / "broken-2-once").touch()
    words = "--seeds", "2-4", "--swap", "no", "--jobs", "1", "--tasks", "PointMaze", "--", *SMALL
    status, out, err = clone.call(*words)
    assert status == 1 and not err
    assert {key[2] for key in clone.scores()} == {2, 4}
    assert [line.split()[2] for line in clone.started()] == ["2", "3", "4", "2", "3"]
    assert out.count("to be tried once more") == 2 and "exit status 1, out of luck" in out
    assert "FAILED quick PointMaze seed 3: exit status 1, out of luck" in out and "2 of 3 runs have a row" in out
    (clone.folder / "broken-3-always").unlink()
    assert clone.call(*words)[0] == 0 and len(clone.started()) == 6


def test_a_damaged_checkpoint_is_started_anew_and_a_lost_result_too(clone):
    words = "--seeds", "2-3", "--swap", "no", "--jobs", "1", "--tasks", "PointMaze", "--", *SMALL
    assert clone.call(*words)[0] == 0
    before = clone.scores()
    (clone.folder / "results" / "runs.jsonl").unlink()
    for folder, name in zip(sorted(clone.folder.glob("runs/cpu-*/*/PointMaze/quick/?")), ("damaged", "lost")):
        (folder / "result.json").unlink()
        if name == "damaged":
            (folder / "checkpoint.pt").write_text("no checkpoint")
    status, out, _ = clone.call(*words)
    assert status == 0 and clone.scores() == before and len(clone.started()) == 6, out
    (clone.folder / "results" / "runs.jsonl").unlink()
    for folder in clone.folder.glob("runs/cpu-*/*/PointMaze/quick/?"):  # results of other data, without checkpoints
        (folder / "checkpoint.pt").unlink()
        (folder / "result.json").write_text("{}")
    status, out, _ = clone.call(*words)
    assert status == 0 and clone.scores() == before and len(clone.started()) == 8, out


def test_a_task_without_data_is_tried_once(clone):
    status, out, _ = clone.call("--seeds", "2-5", "--swap", "no", "--jobs", "1", "--tasks", "PointMaze,FetchPick",
                                "--", *SMALL)
    assert status == 1 and len(clone.scores()) == 4 and len(clone.started()) == 5, out
    assert "its dataset could not be collected" in out and out.count("FAILED") == 4


def test_an_interrupt_before_the_first_import_is_not_lost(clone, tmp_path):
    slow = tmp_path / "python"
    slow.write_text(f'#!/bin/sh\ntouch {tmp_path}/called\nsleep 1\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    process = clone.start("--seeds", "2", "--tasks", "PointMaze", "--", *SMALL, PYTHON=str(slow))
    wait_for((tmp_path / "called").exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130 and not clone.started() and not clone.rows()


def test_killed_twenty_times_at_random_moments(clone, tmp_path, dataset):
    words = "--seeds", "2-5", "--jobs", "2", "--tasks", "PointMaze", "--", "--updates", "100", "--pause", "0.02"
    other = Clone(tmp_path / "other", dataset, {"quick": QUICK})
    undisturbed = other.start(*[word if word != "0.02" else "0.0" for word in words])
    kills, rng = 0, random.Random()
    while kills < 20:
        process = clone.start(*words)
        try:
            process.wait(rng.uniform(0.1, 1.5))
            break
        except subprocess.TimeoutExpired:
            kills += 1
        how = rng.choice(["group", "group", "alone", "SIGTERM", "SIGINT"])
        if how == "group":
            kill_group(process)
        elif how == "alone":  # its runs go on, and hold their locks
            process.kill()
            process.wait()
        else:
            process.send_signal(getattr(signal, how))
            process.wait(30)
    status, out, err = clone.call(*words)
    assert status == 0 and not err, (out, err)
    assert undisturbed.wait(60) == 0
    assert clone.scores() == other.scores() and len(other.scores()) == 8, f"after {kills} kills"
    assert kills >= 5, "it was ready too soon"


def test_real_runs_killed_at_random_moments(tmp_path, dataset):
    """Three times; the environment variable KILLS asks for more, each takes about ten seconds."""
    scripts = {name: (ROOT / "algos" / f"{name}.py").read_text() for name in ("dqapg", "td3bc")}
    clone = Clone(tmp_path / "clone", dataset, scripts)
    kills, real = int(os.environ.get("KILLS", 3)), 0
    flags = (f"--updates {400 * kills} --batch-size 32 --hidden 16 --eval-every 200 --eval-episodes 9 --checkpoint-every 20 "
             "--precision fp32").split()
    words = "--seeds", "2", "--swap", "yes", "--jobs", "2", "--tasks", "PointMaze", "--", *flags
    wanted = {}
    for method in scripts:  # never killed, and without the benchmark
        run = Run(tmp_path, clone.folder / "algos" / f"{method}.py", *flags, "--swap", "--seed", 2, "--threads", 1,
                  "--out", tmp_path / "whole").wait()
        assert run.status == 0, run.err
        log = (tmp_path / "whole" / "PointMaze" / f"{method}-swap" / "2" / "evaluations.jsonl").read_text()
        wanted[method] = [json.loads(line) for line in log.splitlines()]
    for _ in range(kills):
        process = clone.start(*words)
        logs = lambda: [path.read_text().count("\n+") for path in clone.folder.glob("runs/**/2.log")]  # noqa: E731
        before = logs()
        wait_for(lambda: logs() != before or process.poll() is not None, 60)
        time.sleep(random.uniform(0.5, 4))
        kill_group(process)
        real += len(clone.rows()) < len(wanted)
    assert real > kills / 2, f"all was done after {real} kills"
    status, out, err = clone.call(*words, timeout=600)
    assert status == 0 and not err, (out, err)
    rows = clone.rows()
    assert sorted(row["method"] for row in rows) == sorted(wanted)
    for row in rows:
        evaluations = wanted[row["method"]]
        assert row["curve"] == [[e["update"], e["return"], e["success"], e["unseen_success"]] for e in evaluations]
        assert row["scores"].items() <= evaluations[-1].items()
        assert row["episodes"]["final_distance"] == [e["final_distance"] for e in evaluations[-1]["episodes"]]


# --- one run at a time, in this process
@pytest.fixture
def cell(tmp_path, monkeypatch):
    """A run of td3bc that has no row, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    cell, = benchmark.list_cells(["td3bc"], ["FetchPush"], "no", [7777], "cpu", [])
    cell.folder.mkdir(parents=True)
    return cell


def test_results_of_other_settings_or_that_are_torn_are_not_finished(cell):
    row = {"method": "td3bc", "flags": cell.flags, "updates": 20_000, "file_sha256": cell.sha, "dataset_sha256": "00"}

    def finished(last=20_000, flags=None, **changed):
        (cell.folder / "result.json").write_text(json.dumps(row | {"flags": cell.flags | (flags or {})} | changed))
        (cell.folder / "evaluations.jsonl").write_text(f'{{"update": 5000}}\n{{"update": {last}}}\n')
        return cell.finished()

    assert finished() and finished(flags={"eval-every": 7})
    assert not finished(last=15_000) and not finished(file_sha256="11") and not finished(method="awac")
    for name, value in (("updates", 10_000), ("seed", 3), ("task", "FetchPick"), ("swap", True)):
        assert not finished(flags={name: value}), name


def test_updates_and_episodes_of_each_task():
    cells = benchmark.list_cells(["td3bc"], benchmark.TASKS, "no", [1], "cpu", [])
    assert {cell.task: [cell.flags[name] for name in ("updates", "eval-episodes", "eval-every")] for cell in cells} == {
        "PointMaze": [15_000, 180, 2500], "FetchReach": [5000, 50, 1000],
        **{task: [20_000, 100 if task.startswith("Hand") else 50, 5000] for task in benchmark.TASKS[2:]}}


def test_cuda_graphs_are_left_out_with_compile():
    plain, compiled = (benchmark.list_cells(["td3bc"], ["FetchPush"], "no", [1], "cpu", extra, 1)[0]
                       for extra in ([], ["--compile"]))
    assert plain.flags["cuda-graphs"] and not compiled.flags["cuda-graphs"] and compiled.flags["device"] == "cuda"


def test_long_flags_that_differ_at_their_end_have_folders_of_their_own():
    def folder(count):
        cell, = benchmark.list_cells(["td3bc"], ["FetchPush"], "no", [1], "cpu", ["--hidden", *["256"] * count])
        return cell.out.parent.name

    names = {folder(60), folder(61)}
    assert len(names) == 2 and max(map(len, names)) < 200


def test_time_left_is_that_of_runs_like_it(cell):
    rows = benchmark.Rows.__new__(benchmark.Rows)
    rows.rows = [{"method": method, "flags": {"task": task}, "seconds": seconds, "updates_timed": 100}
                 for method, task, seconds in (
                     ("td3bc", "FetchPush", 9999), ("td3bc", "FetchPush", 1), ("td3bc", "FetchPush", 2),
                     ("td3bc", "FetchPush", 3), ("td3bc", "FetchPick", 50), ("dqapg", "FetchPush", 70))]
    assert rows.seconds_left(cell) == pytest.approx(0.02 * 20_000)
    (cell.folder / "metrics.jsonl").write_text('{"update": 14000}\n{"update": 15000}\n{"upd')
    assert cell.updates_done() == 15_000 and rows.seconds_left(cell) == pytest.approx(0.02 * 5000)
    rows.rows = rows.rows[4:]
    assert rows.seconds_left(cell) == pytest.approx(0.5 * 5000), "of the method, if there is none of the task"


def test_a_slurm_task_that_comes_no_further_does_not_queue_again(cell, monkeypatch, capsys):
    words, runner = [], benchmark.Runner([cell], 1, array_task=True)
    monkeypatch.setattr(benchmark.subprocess, "Popen", lambda *_, **__: object())
    monkeypatch.setattr(benchmark.subprocess, "run", lambda it: words.append(it) or subprocess.CompletedProcess(it, 0))
    for name, value in (("JOB", "42"), ("TASK", "4")):
        monkeypatch.setenv(f"SLURM_ARRAY_{name}_ID", value)
    runner.start(cell)
    assert runner.requeue() == 1 and "give it more --time" in capsys.readouterr().out and not words
    (cell.folder / "checkpoint.pt").touch()
    assert runner.requeue() == 0 and words == [["scontrol", "requeue", "42_4"]]
    _, held = runner.running.popitem()[1]
    held.close()
    runner.start(cell)  # goes on from that checkpoint, and writes no other
    assert runner.requeue() == 1 and len(words) == 1


def test_a_slurm_task_waits_a_minute_for_its_lock(cell):
    runner, held = benchmark.Runner([], 1, array_task=True), benchmark.lock(cell.folder.with_name(f".{cell.seed}.lock"))
    with held:
        runner.start(cell)
        assert list(runner.waiting) == [cell] and not runner.failed and cell.not_before > time.time()
        runner.began -= 61
        runner.start(cell)
        assert runner.failed == [(cell, "is running elsewhere")] and not runner.running


def test_no_run_with_a_method_that_has_changed_meanwhile(cell):
    runner, cell.sha = benchmark.Runner([], 1), "0" * 64
    runner.start(cell)
    cell.log.write_text("anything\n")
    runner.end(subprocess.CompletedProcess([], 1), cell, open(cell.log))
    assert [reason.split(";")[0] for _, reason in runner.failed] == [
        "algos/td3bc.py has changed meanwhile", "algos/td3bc.py changed while it ran"] and not runner.running


def test_slurm_gets_no_run_that_has_a_row(cell, monkeypatch, capsys):
    monkeypatch.setattr(benchmark.shutil, "which", lambda _: "/bin/sbatch")
    monkeypatch.setattr(benchmark.Rows, "have", lambda rows, cell: True)
    benchmark.submit([cell], [], argparse.Namespace(sbatch="", jobs=None))
    assert "every run has a row" in capsys.readouterr().out


# --- several at once
def test_two_on_one_machine_and_on_two(clone):
    words = "--seeds", "2-5", "--jobs", "2", "--tasks", "PointMaze", "--", "--updates", "20", "--pause", "0.03"
    first = clone.start(*words)
    wait_for(clone.started)
    status, _, err = clone.call(*words)
    assert status == 2 and len(err.splitlines()) == 1 and "another benchmark" in err
    status, out, err = clone.call(*words, hostname="elsewhere")
    assert status == 0 and not err and "is running elsewhere" in out
    assert first.wait(60) == 0
    assert len(clone.scores()) == 8 and len(clone.started()) == 8, "no run twice"


def test_rows_of_many_at_once_are_all_kept(clone):
    with open(clone.folder / "results" / "report.py", "a") as file:  # slowly, so that they would meet
        file.write("quick_save = save_rows\ndef save_rows(rows):\n    import time; time.sleep(0.1); quick_save(rows)\n")
    processes = [clone.start("--seeds", f"{seed}-{seed + 3}", "--jobs", "4", "--tasks", "PointMaze", "--", *SMALL,
                             hostname=f"machine{seed}") for seed in (2, 4, 6)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(clone.scores()) == 16 == len(clone.started())


def test_runs_left_behind_by_a_killed_benchmark_are_waited_for(clone):
    words = "--seeds", "2", "--swap", "no", "--tasks", "PointMaze", "--", "--updates", "30", "--pause", "0.1"
    process = clone.start(*words)
    wait_for(clone.started)
    process.kill()
    process.wait()
    status, out, err = clone.call(*words)
    assert status == 0 and not err and "is running elsewhere" in out, (out, err)
    assert len(clone.scores()) == 1 == len(clone.started())


def test_ctrl_c_saves_checkpoints(clone):
    words = "--seeds", "2", "--swap", "no", "--tasks", "PointMaze", "--", "--updates", "200", "--pause", "0.05"
    process = clone.start(*words)
    wait_for(lambda: any(clone.folder.glob("runs/**/checkpoint.pt")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and not err and "stopped" in out
    assert "--resume" in clone.call("--dry-run", *words)[1]


def test_rows_damaged_meanwhile_lose_nothing(clone):
    words = "--seeds 2-3 --swap no --jobs 2 --tasks PointMaze -- --updates 30 --pause 0.1".split()
    process = clone.start(*words)
    wait_for(lambda: len(list(clone.folder.glob("runs/*/*/PointMaze/quick/?/checkpoint.pt"))) == 2)
    (clone.folder / "results" / "runs.jsonl").write_text("{}\n")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)  # one is to be started again, the other one is running
    out, err = process.communicate(timeout=30)
    assert process.returncode == 2 and len(err.splitlines()) == 1 and "line 1: not a result row" in err
    (clone.folder / "results" / "runs.jsonl").unlink()
    status, out, _ = clone.call(*words)
    assert status == 0 and len(clone.scores()) == 2 and "running elsewhere" not in out
    assert not [line for line in clone.started()[2:] if not line.endswith("resume")], "what was done is kept"


# --- Slurm
@pytest.fixture
def fake_slurm(tmp_path):
    """A folder with an sbatch and a scontrol that write down how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(f"""#!/bin/bash
case "$*" in *--partition=nowhere*) echo "sbatch: error: invalid partition specified: nowhere" >&2
    echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2; exit 1;; esac
printf '%s\\n' "$*" >> {folder}/sbatch.txt; echo "$((41 + $(wc -l < {folder}/sbatch.txt)));cluster"
""")
    (folder / "scontrol").write_text(f"#!/bin/bash\necho \"$*\" >> {folder}/scontrol.txt\n")
    for path in folder.iterdir():
        path.chmod(0o755)
    return folder


def test_slurm_script_runs_each_cell_and_queues_again(clone, fake_slurm):
    words = ["--seeds", "2-3", "--tasks", "PointMaze"]
    extra = ["--", "--updates", "20", "--pause", "0.05"]
    path = f"{fake_slurm}:{os.environ['PATH']}"
    status, out, err = clone.call(*words, "--slurm", "--partition", "gpu", "--time", "12:00:00", "--gpus", "1",
                                  "--jobs", "3", "--sbatch=--account='a b' --mem=4G", *extra, PATH=path)
    assert status == 0 and not err and "job 42: 4 runs" in out, (out, err)
    assert not clone.started(), "nothing runs here"
    line, = (fake_slurm / "sbatch.txt").read_text().splitlines()
    for flag in ("--array=1-4%3", "--partition=gpu", "--time=12:00:00", "--gpus=1", "--requeue", "--signal=B:USR1@300",
                 "--cpus-per-task=1", f"--chdir={clone.folder}", "--account=a b", "--mem=4G", "--open-mode=append"):
        assert flag in line, flag
    script = Path(line.split()[-1])

    def task(number):
        """What Slurm does with task `number` of the array."""
        return subprocess.Popen(["bash", script], cwd=clone.folder, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, env=os.environ | {
                                    "SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_JOB_ID": "42", "PATH": path})

    tasks = [task(number) for number in (1, 2, 3)]
    assert [process.wait(60) for process in tasks] == [0, 0, 0]
    last = task(4)
    wait_for(lambda: any(clone.folder.glob("runs/*/*/PointMaze/quick-swap/3/checkpoint.pt")))
    last.send_signal(signal.SIGUSR1)
    assert last.wait(60) == 0 and "queues again as job 42_4" in last.stdout.read()
    assert (fake_slurm / "scontrol.txt").read_text() == "requeue 42_4\n" and len(clone.scores()) == 3
    assert task(4).wait(60) == 0 and len(clone.scores()) == 4
    assert [line.endswith("resume") for line in clone.started()] == [False] * 4 + [True]
    assert all(row["flags"]["device"] == "cuda" and row["flags"]["cuda-graphs"] for row in clone.rows())
    status, out, _ = clone.call(*words, "--slurm", *extra, PATH=path)
    assert status == 0 and "every run has a row" in out
    assert len((fake_slurm / "sbatch.txt").read_text().splitlines()) == 1


def test_slurm_long_lists_and_bad_input(clone, fake_slurm):
    path = f"{fake_slurm}:{os.environ['PATH']}"
    status, out, err = clone.call("--slurm", "--seeds", "1-600", "--tasks", "PointMaze", PATH=path)
    assert status == 0 and "job 42: 1000 runs" in out and "job 43: 200 runs" in out, err
    last = Path((fake_slurm / "sbatch.txt").read_text().split()[-1])
    assert len(last.with_suffix(".txt").read_text().splitlines()) == 200
    status, out, err = clone.call("--slurm", "--partition", "nowhere", PATH=path)
    assert status == 2 and len(err.splitlines()) == 1 and "invalid partition specified: nowhere" in err
    status, out, err = clone.call("--slurm", hostname="laptop", PATH="/nowhere")
    assert status == 2 and len(err.splitlines()) == 1 and "there is no sbatch on this machine" in err
    assert not clone.started()


@pytest.fixture
def slurm(tmp_path):
    """A real Slurm of one node, started for the test: the environment with which its commands find it."""
    daemons = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in (
        "slurmctld", "slurmd", "munged")}
    if missing := [name for name, path in daemons.items() if not path]:
        pytest.skip(f"no {', '.join(missing)} here; Debian and Ubuntu: apt-get install slurm-wlm munge")
    if os.geteuid():
        pytest.skip("starting a Slurm of its own needs root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # munged wants a short path to its socket
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    folder.chmod(0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    host, config = socket.gethostname().split(".")[0], folder / "slurm.conf"
    config.write_text(f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SchedulerType=sched/builtin
MpiDefault=none
KillWait=5
MessageTimeout=60
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP
""")
    commands = [[daemons["munged"], "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge/socket",
                 f"--pid-file={folder}/munge/pid", f"--seed-file={folder}/munge/seed",
                 f"--log-file={folder}/munge/log"],
                [daemons["slurmctld"], "-D", "-i", "-f", config], [daemons["slurmd"], "-D", "-N", host, "-f", config]]
    environment, processes = os.environ | {"SLURM_CONF": str(config)}, []
    try:
        for command in commands:
            log = open(folder / f"{Path(command[0]).name}.out", "w")
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if command is commands[0]:
                wait_for(lambda: (folder / "munge" / "socket").exists())
        if b"idle" not in (wait_for_node(environment)):
            logs = "\n".join(path.read_text()[-600:] for path in folder.glob("*.out"))
            pytest.skip(f"Slurm does not start on this machine: {logs}")
        yield {"SLURM_CONF": str(config)}
        subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=environment)
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_node(environment, seconds=30):
    """What sinfo says of the node, when it is idle or after this time."""
    end, state = time.monotonic() + seconds, b""
    while time.monotonic() < end and b"idle" not in state:
        state = subprocess.run(["sinfo", "--noheader", "--format=%t"], env=environment, capture_output=True).stdout
        time.sleep(0.2)
    return state


def test_real_slurm_array_with_preemption_and_time_limit(clone, slurm):
    words = "--seeds", "2-3", "--tasks", "PointMaze", "--", "--updates", "150", "--pause", "0.03"
    status, out, err = clone.call("--slurm", "--partition", "nowhere", *words, **slurm)
    assert status == 2 and len(err.splitlines()) == 1 and "nowhere" in err, err
    status, out, err = clone.call("--slurm", "--partition", "main", "--time", "10", *words, **slurm)
    assert status == 0 and not err and ": 4 runs" in out, (out, err)
    job, environment = re.search(r"job (\d+)", out)[1], os.environ | slurm

    def logs():
        return "\n".join(path.read_text() for path in clone.folder.glob("runs/slurm/*/*.log"))

    def half_way(name, seed):
        return lambda: any(60 > json.loads(path.read_text())[0] >= 10
                           for path in clone.folder.glob(f"runs/*/*/PointMaze/{name}/{seed}/checkpoint.pt"))

    wait_for(half_way("quick", 2))  # task 1: preempted; Slurm sends SIGTERM, then SIGKILL, and starts it again
    subprocess.run(["scontrol", "requeue", f"{job}_1"], env=environment, check=True)
    wait_for(half_way("quick-swap", 2))  # task 2: what --signal sends before the time limit
    scancel = subprocess.Popen(["scancel", "--batch", "--signal=USR1", f"{job}_2"], env=environment,
                               stderr=subprocess.DEVNULL)
    wait_for(lambda: "queues again" in logs())
    scancel.kill()  # the task has left, of which it says after a long wait that it cannot be altered now
    scancel.wait()

    def queue():
        return subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, text=True).stdout.strip()

    wait_for(lambda: not queue(), 150)
    assert len(clone.scores()) == 4, logs()
    assert sorted(line.split(" ", 1)[0] + line.split("PointMaze")[1] for line in clone.started()) == sorted([
        "quick 2 ", "quick 2 resume", "quick-swap 2 ", "quick-swap 2 resume", "quick 3 ", "quick-swap 3 "]), logs()
