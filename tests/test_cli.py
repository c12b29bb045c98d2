"""The scripts in algos/ as users run them: results, bad input, kills and resuming, copying a file out."""

import copy
import dataclasses
import importlib.util
import io
import json
import math
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import speed
import torch
from conftest import ROOT, Run, load_module
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import envs  # noqa: F401  registers PointMaze-v0
from envs.pointmaze import DEMONSTRATED_PAIRS

SCRIPTS = sorted((ROOT / "algos").glob("*.py"))
DQAPG = ROOT / "algos" / "dqapg.py"
SMALL = ["--batch-size", 32, "--hidden", 32, "--eval-episodes", 9, "--threads", 1]
SWAP = {path: [] if 'fail("--swap' in path.read_text() else ["--swap"] for path in SCRIPTS}  # some cannot swap
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@pytest.fixture
def start(tmp_path, dataset):
    """Starts a small run on PointMaze in a temporary folder."""
    flags = ["--task", "PointMaze", "--dataset", dataset, *SMALL]
    return lambda script, *more, **kwargs: Run(tmp_path, script, *flags, *more, **kwargs)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def load(path):
    return torch.load(path, weights_only=True)


def equal(a, b):
    """Whether two nests of dicts and lists hold the same numbers and bit for bit the same tensors."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


# --- results
@each_script
def test_a_run_writes_its_results(script, start, tmp_path):
    run = start(script, *SWAP[script], "--updates", 60, "--log-every", 25, "--eval-every", 40, "--seed", 5).wait()
    assert run.status == 0 and not run.error_lines, run.err
    assert "60/60" in run.err, "a progress bar"
    folder = tmp_path / "runs" / "PointMaze" / (script.stem + "-swap" * len(SWAP[script])) / "5"
    assert str(folder.relative_to(tmp_path)) in run.out
    names = {path.name.split(".tfevents")[0] for path in folder.iterdir()}
    assert names >= {"settings.json", "metrics.jsonl", "evaluations.jsonl", "result.json", "checkpoint.pt",
                     "paths.png", "events.out"}
    assert [name for name in names if name.startswith(".")] == [".lock"], "temporary files"
    assert (folder / "paths.png").read_bytes().startswith(b"\x89PNG")
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["updates"], settings["hidden"], settings["swap"]) == (60, [32], bool(SWAP[script]))
    assert load(folder / "checkpoint.pt")["update"] == 60

    metrics = rows_of(folder / "metrics.jsonl")
    assert [row["update"] for row in metrics] == [25, 50, 60]
    assert all(len(row) > 1 and all(map(math.isfinite, row.values())) for row in metrics)
    assert any(name.endswith("loss") for name in metrics[0])

    evaluations = rows_of(folder / "evaluations.jsonl")
    assert [row["update"] for row in evaluations] == [40, 60]
    for row in evaluations:
        episodes = row["episodes"]
        assert [episode["seed"] for episode in episodes] == list(range(1_000_000, 1_000_009)), "for all"
        pairs = [(episode["start"], episode["goal"]) for episode in episodes]
        assert len(set(pairs)) == 9 and all(0 <= k <= 2 for pair in pairs for k in pair)
        for pair, episode in zip(pairs, episodes):
            assert episode["seen"] == (pair in DEMONSTRATED_PAIRS)
            assert 0 <= episode["return"] <= 100 and (episode["return"] > 0) == episode["success_any"]
            assert episode["success"] == (episode["final_distance"] < 2)
            assert episode["success"] <= episode["success_any"]
        for prefix, wanted in (("", (True, False)), ("seen_", (True,)), ("unseen_", (False,))):
            group = [episode for episode in episodes if episode["seen"] in wanted]
            assert len(group) == {"": 9, "seen_": 3, "unseen_": 6}[prefix]
            for key in ("return", "success", "success_any", "final_distance"):
                assert row[prefix + key] == pytest.approx(sum(episode[key] for episode in group) / len(group))

    board = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in board.Scalars("eval/return")] == [40, 60]
    assert [event.value for event in board.Scalars("eval/final_distance")] == pytest.approx(
        [row["final_distance"] for row in evaluations], rel=1e-6)
    assert {f"train/{name}" for name in metrics[0] if name != "update"} <= set(board.Tags()["scalars"])


class Walkers:
    """Episode 4k walks to its goal, 4k + 1 for 50 steps only, 4k + 2 after 50 steps, 4k + 3 never."""

    def __init__(self, n):
        self.kind, self.t = torch.arange(n) % 4, 0

    def act(self, obs, goal):
        self.t += 1
        near = (self.kind == 0) | (self.kind == 1) & (self.t <= 50) | (self.kind == 2) & (self.t > 50)
        return torch.where(near[:, None], (goal - obs) / 10, torch.tensor([[1.5, 0.7]]))


def test_evaluation_equals_single_environments(monkeypatch):
    """Against a loop over single environments, in a maze without inner walls, where walkers succeed."""
    module, n, horizon = load_module(DQAPG), 18, 100
    monkeypatch.setattr(envs.pointmaze, "move", lambda at, step: (at + step).clip(1.1, [22.9, 16.9]))
    env, reached = module.make_env("PointMaze")
    batch = gym.make_vec("PointMaze-v0", num_envs=n, vectorization_mode="vector_entry_point")
    found = module.evaluate(Walkers(n), batch, "PointMaze", reached, n, horizon, torch.device("cpu"))
    assert len(found) == n
    for i, row in enumerate(found):
        state, info = env.reset(seed=1_000_000 + i, options={"start": i % 3, "goal": i // 3 % 3})
        walkers, rewards, path = Walkers(n), [], [state["achieved_goal"]]
        for _ in range(horizon):
            obs, goal = (torch.from_numpy(state[key]).float().expand(n, 2)
                         for key in ("observation", "desired_goal"))
            state, reward, _, truncated, info = env.step(walkers.act(obs, goal)[i].numpy())
            rewards.append(reward)
            path.append(state["achieved_goal"])
        assert truncated and np.array_equal(row["path"], path)
        assert (row["return"], row["success_any"]) == (rewards.count(0), 0 in rewards)
        assert row["success"] == info["is_success"] == (rewards[-1] == 0)
        distance = np.linalg.norm(path[-1] - state["desired_goal"])
        assert row["final_distance"] == pytest.approx(distance, abs=1e-5)
    outcomes = {(row["success"], row["success_any"]) for row in found}
    assert outcomes == {(True, True), (False, True), (False, False)}


def test_an_evaluation_has_random_numbers_of_its_own(monkeypatch):
    """A policy that draws some draws the same at every evaluation, and training goes on as without it."""
    module = load_module(DQAPG)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # GPUs that are not used are not asked for their state
    _, reached = module.make_env("PointMaze")
    batch = gym.make_vec("PointMaze-v0", num_envs=9, vectorization_mode="vector_entry_point")
    agent, paths = SimpleNamespace(act=lambda obs, goal: 4 * torch.rand(9, 2) - 2), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        rows = module.evaluate(agent, batch, "PointMaze", reached, 9, 5, torch.device("cpu"))
        paths.append(np.stack([row["path"] for row in rows]))
        assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(*paths)


def test_the_deviation_of_a_summary_is_that_of_the_returns():
    rows = [{"return": r, "success": r > 0, "success_any": True, "final_distance": 1.0} for r in (0, 4, 8)]
    scores = load_module(DQAPG).summary(rows)
    assert scores["return_std"] == pytest.approx(math.sqrt(32 / 3)) and scores["success"] == pytest.approx(2 / 3)
    assert not any(name.startswith(("seen_", "unseen_")) for name in scores)


class Seen(Exception):
    """What an agent saw before its first update."""


def test_seed_horizon_and_precision_reach_the_training(tmp_path, monkeypatch):
    (tmp_path / "toymodule.py").write_text(TOY)
    monkeypatch.delitem(sys.modules, "toymodule", raising=False)
    monkeypatch.delitem(gym.registry, "Toy-v0", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # is put back at the end
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "toy.npz", observations=rng.normal(size=(20, 11, 2)), desired_goals=rng.normal(size=(20, 1)),
             achieved_goals=rng.normal(size=(20, 11, 1)), actions=rng.uniform(-1, 3, (20, 10, 1)))
    module = load_module(DQAPG)

    class Agent:
        optimizers = {}

        def __init__(self, settings, normalizer, horizon, device):
            self.seen = torch.initial_seed(), horizon

        def update(self, batch, n):
            raise Seen(*self.seen, torch.is_autocast_enabled("cpu"), batch.obs.tolist())

    def seen(seed, precision):
        experiment = module.Experiment("toymodule:Toy-v0", tmp_path / "toy.npz", seed=seed, precision=precision,
                                       out=tmp_path / "runs", overwrite=True)
        with pytest.raises(Seen) as stop:
            module.train(Agent, module.Settings(experiment))
        return stop.value.args

    *rest, drawn = seen(3, "bf16")
    assert rest == [3, 10, True], "PyTorch's seed, the steps of an episode of this environment, bfloat16"
    *rest, others = seen(4, "fp32")
    assert rest == [4, 10, False] and others != drawn
    assert seen(3, "fp32")[-1] == drawn


def test_each_form_of_an_update_is_recorded_once_and_then_replayed(monkeypatch):
    """--cuda-graphs with stand-ins for what needs a GPU; tests/test_cuda.py looks at the numbers on one."""
    module, called, replayed = load_module(DQAPG), [], []

    class Agent:
        o, a, optimizers = SimpleNamespace(target_every=3), SimpleNamespace(policy_delay=2), {}

        def update(self, batch, n):
            called.append((n, batch))
            return {"n": n}

    graph = type("Graph", (), {"replay": lambda self: replayed.append(self)})
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(
        Stream=lambda device: SimpleNamespace(wait_stream=lambda other: None), current_stream=lambda device: None,
        set_stream=lambda stream: None, CUDAGraph=graph, graph=lambda graph, stream: nullcontext()))
    update = module.graphed(Agent(), "cuda")
    for n in range(1, 25):
        metrics = update(module.Batch(*(torch.full((2,), float(n)) for _ in module.Batch._fields)), n)
        assert (metrics["n"] % 3 == 0, metrics["n"] % 2 == 0) == (n % 3 == 0, n % 2 == 0)
    assert [n for n, _ in called] == [1, 2, 3, 4, 5, 6, 9, 12], "twice in each of four forms"
    assert len(replayed) == 24 - 4 and len(set(replayed)) == 4
    held = {n: batch.goal.tolist() for n, batch in called}
    assert (held[4], held[5], held[9], held[12]) == ([22, 22], [23, 23], [21, 21], [24, 24]), "the latest batches"


# --- kills and resuming
def test_two_processes_do_not_train_in_one_folder(start, dataset, tmp_path):
    """Neither before its first checkpoint nor after; once the first has ended, however it has, the folder is free."""
    folder, other = tmp_path / "runs" / "PointMaze" / DQAPG.stem / "1", tmp_path / "other"
    other.mkdir()
    flags = ["--updates", 100_000, "--log-every", 1, "--eval-every", 100_000]
    second = ["--task", "PointMaze", "--dataset", dataset, *SMALL, *flags, "--out", tmp_path / "runs"]
    for how, every, tries in (([], 100_000, ([], ["--overwrite"])),
                              (["--overwrite"], 1, (["--overwrite"], ["--resume"])),
                              (["--resume"], 100_000, (["--resume"],))):
        began = time.time_ns()
        first = start(DQAPG, *flags, "--checkpoint-every", every, *how)
        for name in ("metrics.jsonl", *(["checkpoint.pt"] if every == 1 else [])):
            path = folder / name
            first.wait_for(lambda: path.exists() and path.stat().st_mtime_ns > began and path.stat().st_size)
        for again in tries:
            done = rows_of(folder / "metrics.jsonl")[-1]["update"]
            fails(Run(other, DQAPG, *second, *again), "--out", "another process", str(folder))
            first.wait_for(lambda: rows_of(folder / "metrics.jsonl")[-1]["update"] > done)
        assert first.signal(signal.SIGKILL).wait().status == -signal.SIGKILL
        updates = [row["update"] for row in rows_of(folder / "metrics.jsonl")]
        assert updates == list(range(1, len(updates) + 1))


@each_script
def test_a_killed_run_goes_on_bit_for_bit(script, start, tmp_path):
    """kill -9 at random moments (three times for DQAPG), then the rest, equals one run without a kill."""
    often = [*SWAP[script], "--log-every", 7, "--eval-every", 40, "--checkpoint-every", 5]
    folder = tmp_path / "cut" / "PointMaze" / (script.stem + "-swap" * len(SWAP[script])) / "1"
    checkpoint, done = folder / "checkpoint.pt", 0
    for kill in range(3 if script == DQAPG else 1):
        run = start(script, *often, "--out", "cut", "--updates", 100_000, *["--resume"] * (kill > 0))
        before = checkpoint.stat().st_mtime_ns if kill else 0
        run.wait_for(lambda: checkpoint.exists() and checkpoint.stat().st_mtime_ns > before)
        time.sleep(random.uniform(0, 0.2))
        assert run.signal(signal.SIGKILL).wait().status == -signal.SIGKILL
        assert load(checkpoint)["update"] > done, "a kill at any moment leaves a checkpoint that loads"
        done = load(checkpoint)["update"]
    runs = [start(script, *often, "--out", out, "--updates", done + 43, *more)
            for out, more in (("cut", ["--resume"]), ("whole", []))]
    assert [run.wait().status for run in runs] == [0, 0], runs[0].err + runs[1].err
    whole = tmp_path / "whole" / folder.relative_to(tmp_path / "cut")
    a, b = load(checkpoint), load(whole / "checkpoint.pt")
    assert a["update"] == done + 43 and len(a["optimizers"]) >= 1
    for key in a.keys() - {"flags"}:
        assert equal(a[key], b[key]), key
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (folder / name).read_text() == (whole / name).read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_a_checkpoint_and_say_how_to_go_on(number, start, tmp_path):
    run = start(DQAPG, "--updates", 100_000, "--out", "my runs", "--overwrite", "--log-every", 1)
    folder = tmp_path / "my runs" / "PointMaze" / "dqapg" / "1"
    run.wait_for(lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").stat().st_size)
    assert run.signal(number).wait().status == 128 + number and not run.error_lines
    n, line = load(folder / "checkpoint.pt")["update"], run.out.strip().splitlines()[-1]
    assert f"stopped at update {n}" in line
    command = shlex.split(line[line.index("python "):])[1:]
    again = Run(tmp_path, *command, "--updates", n + 3)
    checkpoint = folder / "checkpoint.pt"
    assert again.wait().status == 0, again.err
    assert load(checkpoint)["update"] == n + 3
    updates = [row["update"] for row in rows_of(folder / "metrics.jsonl")]
    assert updates == list(range(1, n + 4)), "went on, not anew"


# --- bad input
class Trap:
    """Unpickling it writes a file."""

    def __reduce__(self):
        return Path.write_text, (Path("trap"), "sprung")


def changed(dataset, **arrays):
    """A dataset file's content with other arrays and no manifest; None takes an array out."""
    with np.load(dataset) as file:
        kept = {name: file[name] for name in file.files if name != "manifest"} | arrays
    content = io.BytesIO()
    np.savez(content, **{name: array for name, array in kept.items() if array is not None})
    return content.getvalue()


def npy(array):
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


def edited(dataset):
    """A dataset file's content with one number changed and the old manifest."""
    with np.load(dataset) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["observations"][0, 0, 0] += 1e-3
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def spoiled(array, value, dtype=None):
    """A copy of an array with one entry replaced."""
    array = array.astype(dtype or array.dtype)
    array[3, 5] = value
    return array


ARRAYS = ("observations", "achieved_goals", "desired_goals", "actions")
FILES = {  # content of a dataset file that cannot be used, from the path of a good one
    "empty": lambda d: b"",
    "truncated": lambda d: d.read_bytes()[:-2000],
    "text": lambda d: b"observations,actions\n0,0\n",
    "one array": lambda d: npy(np.zeros((3, 4, 2))),
    "pickle": lambda d: pickle.dumps(Trap()),
    "pickle in npy": lambda d: npy(np.array([Trap()])),
    "pickle in npz": lambda d: changed(d, observations=np.array([[Trap()]], object)),
    "no goals": lambda d: changed(d, desired_goals=None),
    "no actions": lambda d: changed(d, actions=None),
    "no episodes": lambda d: changed(d, **{name: np.load(d)[name][:0] for name in ARRAYS}),
    "wide observations": lambda d: changed(d, observations=np.zeros((30, 101, 3), np.float32)),
    "one step short": lambda d: changed(d, achieved_goals=np.zeros((30, 100, 2), np.float32)),
    "flat actions": lambda d: changed(d, actions=np.zeros(30, np.float32)),
    "text for numbers": lambda d: changed(d, observations=np.full((30, 101, 2), "one")),
    "NaN": lambda d: changed(d, observations=spoiled(np.load(d)["observations"], np.nan)),
    "too large for float32": lambda d: changed(d, observations=spoiled(np.load(d)["observations"].astype(float), 1e39)),
    "infinite goal": lambda d: changed(d, desired_goals=np.full((30, 2), np.inf, np.float32)),
    "actions too large": lambda d: changed(d, actions=spoiled(np.load(d)["actions"], 2.01)),
    "actions too small": lambda d: changed(d, actions=spoiled(np.load(d)["actions"], -2.01)),
    "long lengths": lambda d: changed(d, lengths=np.full(30, 101)),
    "zero lengths": lambda d: changed(d, lengths=np.zeros(30, int)),
    "too few lengths": lambda d: changed(d, lengths=np.full(29, 100)),
    "edited": edited,
    "foreign manifest": lambda d: changed(d, manifest=np.array('{"made by": "someone else"}')),
    "list for manifest": lambda d: changed(d, manifest=np.array("[1, 2]")),
    "other task": lambda d: changed(d, manifest=np.char.replace(np.load(d)["manifest"], "PointMaze", "Push")),
}


def fails(run, *names):
    """Asserts exit status 2 and one line on stderr with all the names."""
    assert run.wait().status == 2, run.err
    assert len(run.error_lines) == 1, run.err
    assert all(name in run.error_lines[0] for name in names), run.err


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_bad_dataset(content, dataset, start, tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(content(dataset))
    fails(start(DQAPG, "--dataset", path, "--updates", 20), "--dataset", "bad.npz")
    assert {file.name for file in tmp_path.iterdir()} == {"bad.npz", ".stdout", ".stderr"}, "wrote something"


@pytest.mark.parametrize("name", ["missing.npz", "x" * 300])
def test_no_dataset_of_this_name(name, start, tmp_path):
    fails(start(DQAPG, "--dataset", name, "--updates", 20), f"--dataset {name}: does not exist")
    assert {file.name for file in tmp_path.iterdir()} == {".stdout", ".stderr"}, "wrote something"


@pytest.mark.parametrize("flags", [
    "--task Nowhere", "--task Nowhere-v0", "--task CartPole-v1", "--task no:Nowhere-v0", "--dataset no.npz",
    "--dataset .", "--updates 0", "--batch-size 0", "--batch-size -2", "--batch-size 33 --swap", "--hidden 0",
    "--hidden 8 -1", "--lr 0", "--lr nan", "--her-ratio 1.1", "--her-ratio nan", "--polyak -0.1", "--seed -1",
    "--threads -1", "--threads 100000", "--device hpu",
    "--eval-episodes 0", "--log-every 0", "--eval-every 0", "--checkpoint-every 0", "--target-every 0",
    "--gamma 1.01", "--gamma nan", "--device cuda", "--device nonsense", "--device meta", "--cuda-graphs",
    "--cuda-graphs --compile", "--task FetchReachDense-v4",
    "--resume", "--out file",
    "--out file/a", "--updates many", "--precision fp8", "--swap-source nowhere",
    "--swap-filter values", "--swap-filter far --swap"])
def test_bad_flags(flags, start, tmp_path):
    if flags == "--device cuda" and torch.cuda.is_available():
        flags = "--device cuda:99"
    (tmp_path / "file").touch()
    fails(start(DQAPG, "--updates", 20, *flags.split()), flags.split()[0])
    assert {file.name for file in tmp_path.iterdir()} == {"file", ".stdout", ".stderr"}, "wrote something"


def test_the_readme_s_dataset_of_an_own_task(tmp_path):
    """Its Python lines make a file, its command trains on it to a return within 1 of what it says, and the lines after
    it run that policy."""
    text = (ROOT / "README.md").read_text()
    code, policy = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    command, said = re.search(r"    python (algos/.* --dataset reach\.npz .*)\n", text)[1], "a return of 48 of 50"
    assert said in " ".join(text.split())
    (tmp_path / "make.py").write_text(code)
    assert (made := Run(tmp_path, tmp_path / "make.py").wait()).status == 0, made.err
    script, *flags = command.split()
    assert (run := Run(tmp_path, ROOT / script, *flags, "--threads", 1).wait()).status == 0, run.err
    result, = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/*/result.json"))
    assert result["scores"]["return"] >= 47 and result["flags"]["dataset"] == "reach.npz"
    (tmp_path / "policy.py").write_text(policy)
    shutil.copy(ROOT / script, tmp_path)
    assert (run := Run(tmp_path, tmp_path / "policy.py").wait()).status == 0, run.err
    assert 45 <= int(run.out.removeprefix("return ")) <= 50


@pytest.mark.parametrize("method, flag", [("bcq", "--soft-minimum 7"), ("wgcsl", "--baw-queue 20000000")])
def test_bad_flags_of_a_method(method, flag, start, tmp_path):
    fails(start(ROOT / "algos" / f"{method}.py", "--updates", 20, *flag.split()), flag)
    assert {file.name for file in tmp_path.iterdir()} == {".stdout", ".stderr"}, "wrote something"


@each_script
def test_settings_of_the_method_must_be_finite(script, capsys):
    module = load_module(script)
    numbers = [field.name for field in dataclasses.fields(module.Algorithm) if field.type is float]
    for name in numbers:
        settings = copy.deepcopy(module.DEFAULTS)
        setattr(settings.algorithm, name, math.nan)
        with pytest.raises(SystemExit) as stop:
            module.check(settings.flags())
        assert stop.value.code == 2 and f"--{name.replace('_', '-')} nan" in capsys.readouterr().err
    module.check(copy.deepcopy(module.DEFAULTS).flags())


@pytest.mark.parametrize("script", [path for path in SCRIPTS if not SWAP[path]], ids=lambda path: path.stem)
def test_swapping_is_refused_where_it_is_not_defined(script, start, tmp_path):
    fails(start(script, "--swap", "--updates", 20), "--swap")
    assert {file.name for file in tmp_path.iterdir()} == {".stdout", ".stderr"}, "wrote something"


@each_script
def test_unknown_flags_fail(script, tmp_path):
    fails(Run(tmp_path, script, "--swapp"), "--swapp")
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, dataset):
    """A folder with the runs/ of a finished run of 20 updates."""
    folder = tmp_path_factory.mktemp("finished")
    flags = ["--dataset", dataset, *SMALL, "--updates", 20]
    assert Run(folder, DQAPG, *flags).wait().status == 0
    return folder / "runs"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("flags, named", [
    ("--updates 20", "--overwrite"), ("--resume --overwrite", "--overwrite"), ("--resume --updates 20", "--updates"),
    ("--resume --lr 0.01", "--lr"), ("--resume --hidden 16", "--hidden"), ("--resume --her-ratio 0.4", "--her-ratio"),
    ("--resume --batch-size 64", "--batch-size"), ("--resume --variant alg3", "--variant"),
    ("--resume --dataset other.npz", "--dataset"),
    pytest.param("--overwrite --track", "--track", marks=pytest.mark.skipif(
        importlib.util.find_spec("wandb") is not None, reason="Weights & Biases is installed"))])
def test_a_finished_run_is_not_touched_by_mistake(flags, named, finished, start, dataset, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    (tmp_path / "other.npz").write_bytes(changed(dataset, desired_goals=np.ones((30, 2), np.float32)))
    before = contents(tmp_path / "runs")
    fails(start(DQAPG, "--updates", 40, *flags.split()), named)
    assert contents(tmp_path / "runs") == before


def test_on_resume_no_flag_may_change_that_changes_what_is_learned(tmp_path, capsys):
    module = speed.load("dqapg")
    buffer, agent = speed.make(module, (2, 2, 2), swap=False)
    flags, path = module.Settings().flags(), tmp_path / "checkpoint.pt"
    groups = module.Relabelling, module.Optimisation, module.Algorithm
    own = {field.name.replace("_", "-") for group in groups for field in dataclasses.fields(group)} - {"updates"}
    module.save(path, 7, agent, buffer, flags, "hash")
    for name in flags:
        if name in own | {"task", "seed", "precision"}:
            with pytest.raises(SystemExit):
                module.load(path, agent, buffer, flags | {name: "another"}, "hash")
            assert f"--{name} another: " in capsys.readouterr().err
        else:
            assert module.load(path, agent, buffer, flags | {name: "another"}, "hash") == 7


def test_a_finished_run_without_its_checkpoint_is_kept_too(finished, start, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    (tmp_path / "runs" / "PointMaze" / "dqapg" / "1" / "checkpoint.pt").unlink()
    before = contents(tmp_path / "runs")
    fails(start(DQAPG, "--updates", 40), "--overwrite")
    assert contents(tmp_path / "runs") == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
@pytest.mark.parametrize("line", [b'{"update": 1', b"[1]", b'{"n": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_log(name, line, finished, start, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    log = tmp_path / "runs" / "PointMaze" / "dqapg" / "1" / name
    log.write_bytes(line + b"\n" + log.read_bytes())
    before = contents(tmp_path / "runs")
    fails(start(DQAPG, "--updates", 40, "--resume"), "--resume", name)
    assert contents(tmp_path / "runs") == before


def test_overwrite_starts_anew(finished, start, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    folder = tmp_path / "runs" / "PointMaze" / "dqapg" / "1"
    (folder / "note.json").write_text("the user's own")
    run = start(DQAPG, "--updates", 100_000, "--overwrite")
    settings = folder / "settings.json"
    run.wait_for(lambda: settings.exists() and "100000" in settings.read_text() and "updates/s" in run.err)
    run.signal(signal.SIGKILL).wait()
    assert not {"checkpoint.pt", "result.json", "paths.png"} & {path.name for path in folder.iterdir()}
    assert start(DQAPG, "--updates", 10).wait().status == 0
    assert load(folder / "checkpoint.pt")["update"] == 10 and (folder / "note.json").read_text() == "the user's own"
    assert [row["update"] for row in rows_of(folder / "metrics.jsonl")] == [10]


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


BAD_CHECKPOINTS = {  # from the content of a good one
    "empty": lambda good: b"",
    "truncated": lambda good: good[:len(good) // 2],
    "text": lambda good: b"no checkpoint",
    "pickle": lambda good: pickle.dumps(Trap(), 2),
    "pickle in a checkpoint": lambda good: saved(torch.load(io.BytesIO(good)) | {"agent": Trap()}),
    "list": lambda good: saved([1, 2]),
    "no agent": lambda good: saved({k: v for k, v in torch.load(io.BytesIO(good)).items() if k != "agent"}),
    "other agent": lambda good: saved(torch.load(io.BytesIO(good)) | {"agent": {"weight": torch.zeros(3)}}),
    "no update": lambda good: saved({k: v for k, v in torch.load(io.BytesIO(good)).items() if k != "update"}),
}


@pytest.mark.parametrize("content", BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
def test_bad_checkpoint(content, finished, start, tmp_path):
    shutil.copytree(finished, tmp_path / "runs")
    checkpoint = tmp_path / "runs" / "PointMaze" / "dqapg" / "1" / "checkpoint.pt"
    checkpoint.write_bytes(content(checkpoint.read_bytes()))
    before = contents(tmp_path / "runs")
    fails(start(DQAPG, "--updates", 40, "--resume"), "--resume", "checkpoint.pt")
    assert contents(tmp_path / "runs") == before and not (tmp_path / "trap").exists()


def test_full_disk(finished, start, tmp_path):
    """No file may grow beyond 50 kB, so that writing the checkpoint fails in the middle."""
    shutil.copytree(finished, tmp_path / "runs")
    before = contents(tmp_path / "runs")
    fails(start(DQAPG, "--updates", 40, "--resume", largest_file=50_000), "--out")
    after = contents(tmp_path / "runs")
    new = {path.name.split(".tfevents")[0] for path in after.keys() - before.keys()}
    assert new == {"events.out"} and [path.name for path in after if path.name.startswith(".")] == [".lock"]
    checkpoint = next(path for path in before if path.name == "checkpoint.pt")
    assert after[checkpoint] == before[checkpoint]


# --- with and without data
def test_the_dataset_is_collected_when_it_is_missing(dataset, tmp_path):
    """In a copy of the repository without datasets."""
    shutil.copytree(ROOT / "envs", tmp_path / "envs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("algos/dqapg.py", "data/collect.py"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    run = Run(tmp_path, tmp_path / "algos" / "dqapg.py", "--task", "PointMaze", *SMALL, "--updates", 5).wait()
    assert run.status == 0, run.err
    made = tmp_path / "data" / "datasets" / "PointMaze.npz"
    assert f"{made} is missing, collecting it" in run.out and "100%" in run.err.split("5/5")[0]
    with np.load(made) as found, np.load(dataset) as expected:
        assert all(np.array_equal(found[name], expected[name]) for name in ARRAYS)


TOY = """
import gymnasium as gym
import numpy as np

class Toy(gym.Env):
    # a point on a line that wants to be within 0.5 of its goal: reward 1 there, else 0; ends at 3
    def __init__(self):
        box = lambda n: gym.spaces.Box(-9, 9, (n,), np.float32)
        spaces = dict(observation=box(2), achieved_goal=box(1), desired_goal=box(1))
        self.observation_space = gym.spaces.Dict(spaces)
        self.action_space = gym.spaces.Box(np.float32([-1]), np.float32([3]))

    def compute_reward(self, achieved, desired, info):
        return (np.abs(achieved - desired) < 0.5).all(-1).astype(float)

    def observe(self):
        x = np.float32([self.x])
        return dict(observation=np.append(x, np.float32(1)), achieved_goal=x, desired_goal=self.goal.copy())

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.goal = 0.0, self.np_random.uniform(1, 2, 1).astype(np.float32)
        return self.observe(), {}

    def step(self, action):
        self.x += 0.4 * float(np.clip(action, -1, 3)[0])
        observation = self.observe()
        reward = float(self.compute_reward(observation["achieved_goal"], self.goal, {}))
        return observation, reward, self.x > 3, False, {}

gym.register("Toy-v0", Toy, max_episode_steps=10)
"""


@each_script
def test_a_script_alone_in_a_folder(script, tmp_path):
    """Copied out of the repository it trains on any goal environment."""
    shutil.copy(script, tmp_path)
    (tmp_path / "toymodule.py").write_text(TOY)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 3, (20, 10, 1))
    x = np.concatenate([np.zeros((20, 1, 1)), 0.4 * actions.cumsum(1)], 1)
    np.savez(tmp_path / "toy.npz", observations=np.concatenate([x, np.ones_like(x)], -1), achieved_goals=x,
             desired_goals=rng.uniform(1, 2, (20, 1)), actions=actions, lengths=rng.integers(1, 11, 20))
    copy = tmp_path / script.name
    flags = ["--task", "toymodule:Toy-v0", "--dataset", "toy.npz", *SMALL, "--updates", 60]
    run = Run(tmp_path, copy, *flags).wait()
    assert run.status == 0 and not run.error_lines, run.err
    folder = tmp_path / "runs" / "toymodule:Toy-v0" / script.stem / "1"
    episodes = rows_of(folder / "evaluations.jsonl")[-1]["episodes"]
    assert len(episodes) == 9 and load(folder / "checkpoint.pt")["update"] == 60
    if script == DQAPG:
        fails(Run(tmp_path, copy, "--task", "PointMaze", "--updates", 5), "--task PointMaze")
        for task in ("toymodule:Toy-v0", "FetchReach"):
            fails(Run(tmp_path, copy, "--task", task, "--seed", 2), "--dataset")


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_a_vector_environment_of_its_own(mode, tmp_path):
    """It evaluates, unless it starts the next episode at once: its last states are not those of the episode."""
    toy = TOY.replace("self.x > 3, False", "False, False").replace(
        "max_episode_steps=10)", "max_episode_steps=10, vector_entry_point=many)")
    (tmp_path / "toymodule.py").write_text(toy.replace("gym.register", f"""
def many(num_envs, **kwargs):
    print("here are", num_envs)
    limited = lambda: gym.wrappers.TimeLimit(Toy(), 10)
    return gym.vector.SyncVectorEnv([limited] * num_envs, autoreset_mode=gym.vector.AutoresetMode.{mode})

gym.register"""))
    shutil.copy(DQAPG, tmp_path)
    rng, files = np.random.default_rng(0), []
    np.savez(tmp_path / "toy.npz", observations=rng.normal(size=(20, 11, 2)), desired_goals=rng.normal(size=(20, 1)),
             achieved_goals=rng.normal(size=(20, 11, 1)), actions=rng.uniform(-1, 3, (20, 10, 1)))
    for text in ((tmp_path / "toymodule.py").read_text(), toy.replace(", vector_entry_point=many", "")):
        (tmp_path / "toymodule.py").write_text(text)
        flags = ["--task", "toymodule:Toy-v0", "--dataset", "toy.npz", *SMALL, "--updates", 20, "--out", len(files)]
        run = Run(tmp_path, tmp_path / DQAPG.name, *flags).wait()
        assert run.status == 0 and ("here are 9" in run.out) == (not files), run.err
        files.append(rows_of(tmp_path / str(flags[-1]) / "toymodule:Toy-v0" / DQAPG.stem / "1" / "evaluations.jsonl"))
    for one, by_one in zip(*(rows[-1]["episodes"] for rows in files), strict=True):
        assert one.pop("final_distance") == pytest.approx(by_one.pop("final_distance"), abs=1e-4)
        assert one == by_one


def test_what_is_reached_is_asked_with_the_achieved_goal_first(tmp_path, monkeypatch):
    """For a reward that is not symmetric: here a point may also be beyond its goal."""
    toy = TOY.replace("(np.abs(achieved - desired) < 0.5)", "(achieved > desired - 0.5)")
    assert toy != TOY
    (tmp_path / "toymodule.py").write_text(toy)
    monkeypatch.delitem(sys.modules, "toymodule", raising=False)
    monkeypatch.delitem(gym.registry, "Toy-v0", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    _, reached = load_module(DQAPG).make_env("toymodule:Toy-v0")
    x = np.array([[0.0], [5.0]])
    assert reached(x, x[::-1]).tolist() == [False, True]


@pytest.mark.parametrize("reward, named", [
    ("1.0 if np.linalg.norm(achieved - desired, axis=-1) < 0.5 else 0.0", "whole batches"),
    ("float(np.linalg.norm(achieved - desired) < 0.5)", "whole batches"), ("info['x']", "whole batches"),
    ("-np.linalg.norm(achieved - desired, axis=-1)", "sparse reward"),
    ("(np.abs(achieved - desired) > 0.5).all(-1).astype(float)", "sparse reward"),  # a cost
    ("np.array([[0]] * len(achieved) + [0], object)[:-1]", "sparse reward")])
def test_a_reward_that_does_not_fit_is_refused(reward, named, tmp_path):
    toy = TOY.replace("(np.abs(achieved - desired) < 0.5).all(-1).astype(float)", reward)
    assert toy != TOY
    (tmp_path / "toymodule.py").write_text(toy)
    shutil.copy(DQAPG, tmp_path)
    fails(Run(tmp_path, tmp_path / DQAPG.name, "--task", "toymodule:Toy-v0", "--updates", 5), "--task", named)


@pytest.mark.parametrize("old, new", [
    ("import gymnasium", "raise RuntimeError('no')\nimport gymnasium"),
    ("import gymnasium", "raise SystemExit(3)\nimport gymnasium"), ("box = lambda", "assert False\n        box = lambda"),
    ("super().reset", "raise FileNotFoundError('model.xml')\n        super().reset"),
    ("np.float32([-1]), np.float32([3])", "np.float32([3]), np.float32([3])"),
    ("return dict(observation=np.append(x, np.float32(1))", "return dict(observation=np.ones((1, 2), np.float32)")])
def test_an_environment_that_does_not_work_is_refused(old, new, tmp_path):
    assert TOY.count(old) == 1
    (tmp_path / "toymodule.py").write_text(TOY.replace(old, new))
    shutil.copy(DQAPG, tmp_path)
    run = Run(tmp_path, tmp_path / DQAPG.name, "--task", "toymodule:Toy-v0", "--updates", 5).wait()
    *before, line = run.error_lines
    assert run.status == 2 and "--task toymodule:Toy-v0" in line and "Traceback" not in run.err
    assert not before or "site-packages/gymnasium" in before[0], "gymnasium may warn too"


@pytest.mark.parametrize("task", ["a:b:c", ":"])
def test_a_task_that_is_no_name(task, tmp_path):
    fails(Run(tmp_path, DQAPG, "--task", task), f"--task {task}")


def test_too_little_memory_is_one_line(start, tmp_path):
    fails(start(DQAPG, "--hidden", 2_000_000_000, "--updates", 5), "--hidden", "memory")


def test_the_real_command_line(tmp_path):
    """The other tests fork their processes from one that has done the imports; this one starts Python."""
    command = [sys.executable, DQAPG, "--task", "Nowhere"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2 and not list(tmp_path.iterdir())
    assert run.stderr.count("\n") == 1 and "--task Nowhere" in run.stderr


def evaluate_toy(end, action, episodes, tmp_path, monkeypatch):
    """The toy task, with episodes that end like that, and its rows of an evaluation of one action."""
    (tmp_path / "toymodule.py").write_text(TOY.replace("self.x > 3, False", end))
    monkeypatch.delitem(sys.modules, "toymodule", raising=False)
    monkeypatch.delitem(gym.registry, "Toy-v0", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    module = load_module(DQAPG)
    env, reached = module.make_env("toymodule:Toy-v0")
    batch = gym.vector.SyncVectorEnv([lambda: env])
    agent = SimpleNamespace(act=lambda obs, goal: torch.full((1, 1), action))
    return env, module.evaluate(agent, batch, "toymodule:Toy-v0", reached, episodes, 10, torch.device("cpu"))


@pytest.mark.parametrize("end", ["self.x > 3, False", "False, self.x > 3"])  # it terminates, or is cut off early
def test_evaluation_ends_with_its_episodes(end, tmp_path, monkeypatch):
    """Nothing after the end of an episode counts, neither its steps nor the next one's goal."""
    (env, rows), returns = evaluate_toy(end, 3.0, 8, tmp_path, monkeypatch), set()
    for row in rows:
        goal = env.reset(seed=row["seed"])[0]["desired_goal"][0]
        assert np.allclose(row["path"][:, 0], [0, 1.2, 2.4] + [3.6] * 8), "over at 3.6"
        hits = [abs(x - goal) < 0.5 for x in (1.2, 2.4, 3.6)]
        assert (row["return"], row["success"], row["success_any"]) == (sum(hits), False, any(hits))
        assert row["final_distance"] == pytest.approx(3.6 - goal, abs=1e-5)
        returns.add(row["return"])
    assert returns == {0, 1}


def test_an_episode_that_ends_at_its_goal_is_a_success(tmp_path, monkeypatch):
    _, rows = evaluate_toy("reward > 0, False", 1.0, 4, tmp_path, monkeypatch)
    assert [(row["return"], row["success"]) for row in rows] == [(1, True)] * 4


@pytest.mark.parametrize("name, flags, named", [
    ("collect", ["--no-such-flag", "3"], "--no-such-flag"), ("cards", ["--episodes", "x"], "--episodes"),
    ("convert", ["--source", "a.npz"], "--out"), ("mrn", ["--steps", "x"], "--steps")])
def test_a_bad_flag_of_a_script_in_data_is_one_line(tmp_path, name, flags, named):
    run = Run(tmp_path, ROOT / "data" / f"{name}.py", *flags).wait()
    line, = run.error_lines
    assert run.status == 2 and line.startswith(f"{name}.py: error: ") and named in line, line
