"""Whole runs of the method files: results, evaluation, stops and resuming, bad input, a file on its own."""

import dataclasses
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import typing
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import play
import pytest
import torch
import tqdm
from conftest import ROOT, swaps
from speed import make
from tools import METHODS, load_method

from envs import pointmaze

each_method = pytest.mark.parametrize("method", METHODS)
each_way = pytest.mark.parametrize("method, swap", [(name, swap) for name in METHODS for swap in swaps(name)])


def folder_of(out, method, swap=False, seed=1):
    return Path(out, "toyenv:Toy", method + ("-swap" if swap else ""), str(seed))


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def load(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def assert_equal(a, b, where=""):
    """Two nests of dicts and lists hold the same values, and bit for bit the same tensors."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
    if isinstance(a, (dict, list, tuple)):
        assert len(a) == len(b), where
        for key in a if isinstance(a, dict) else range(len(a)):
            assert_equal(a[key], b[key], f"{where}.{key}")
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, where


def assert_same_run(a, b):
    """Weights, optimizers, random states and logs of two folders; their settings may differ."""
    one, two = load(a), load(b)
    for state in (one, two):
        for name in ("settings", "args"):
            state.pop(name, None)
    assert_equal(one, two)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (a / name).read_text() == (b / name).read_text(), name


def start(toy, cwd, method, *flags):
    """The script as a process, on the toy task."""
    small = {"task": "toyenv:Toy", "dataset": toy / "toy.npz", "hidden": 24, "batch-size": 32}
    small |= {"precision": "fp32", "threads": 1, "eval-episodes": 3}
    words = [word for name, value in small.items() for word in (f"--{name}", value)]
    command = [sys.executable, ROOT / f"algos/{method}.py", *words, *flags]
    env = os.environ | {"PYTHONPATH": str(toy)}
    return subprocess.Popen([str(x) for x in command], cwd=cwd, env=env, stderr=subprocess.DEVNULL)


class Gone:
    """stderr of a terminal that is no longer there."""

    def write(self, text):
        raise BrokenPipeError

    flush = write

    def isatty(self):
        return True


@pytest.fixture
def stop_in_update_17(monkeypatch):
    """stop_in_update_17(number) signals the runs that follow, and takes their terminal away if asked."""

    def arrange(number, terminal=True):
        class Bar(tqdm.tqdm):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **(kwargs | {"mininterval": 0, "miniters": 1}))

            def __iter__(self):
                for n in super().__iter__():
                    if n == 17:
                        self.fp = self.fp if terminal else Gone()
                        self.sp = self.status_printer(self.fp)
                        signal.raise_signal(number)
                    yield n

        monkeypatch.setattr(tqdm, "tqdm", Bar)

    return arrange


# --- results
def test_each_file_works_alone(toy, tmp_path):
    """Copied to an empty folder, with an environment and data of one's own, without this repository."""
    shutil.copytree(toy, tmp_path, dirs_exist_ok=True)
    flags = "--task toyenv:Toy --dataset toy.npz --hidden 24 --batch-size 32 --threads 1"
    flags += " --updates 12 --log-every 5 --eval-every 6 --eval-episodes 4"
    for method in METHODS:
        shutil.copy(ROOT / f"algos/{method}.py", tmp_path)
    code = f"""import runpy, sys
for method in {list(METHODS)}:
    sys.argv = [method + ".py", *{flags.split()}]
    runpy.run_path(sys.argv[0], run_name="__main__")"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
    for method in METHODS:
        folder = folder_of(tmp_path / "runs", method)
        settings = json.loads((folder / "settings.json").read_text())
        assert (settings["method"], settings["updates"], settings["hidden"]) == (method, 12, [24])
        metrics, evaluations = rows(folder / "metrics.jsonl"), rows(folder / "evaluations.jsonl")
        assert [row["update"] for row in metrics] == [5, 10, 12] and load(folder)["update"] == 12
        assert [row["update"] for row in evaluations] == [6, 12]
        for row in evaluations:
            episodes, scores = row.pop("episodes"), {"update": row["update"]}
            assert [episode["seed"] for episode in episodes] == [1_000_000 + i for i in range(4)]
            for group in {"", *(episode["group"] for episode in episodes)}:
                for key in ("return", "success", "success_any", "final_distance"):
                    values = [e[key] for e in episodes if group in ("", e["group"])]
                    scores[f"{group}_{key}".lstrip("_")] = np.mean(values)
            assert row == pytest.approx(scores)
        assert not list(folder.glob("*.part")) and list(folder.glob("events.out.tfevents*"))


def test_settings_reach_the_training(run):
    """Seed, precision and learning rate; and the same seed gives the same run."""
    variants = {"one": {}, "same": {}, "seed": {"seed": 2}, "bf16": {"precision": "bf16"}, "lr": {"lr": 1e-4}}
    variants |= {"first weights": {"lr": 0.0}, "others": {"lr": 0.0, "seed": 2}}
    for out, more in variants.items():
        assert run("dqapg", out=out, updates=3, **more)[0] == 0
    states = {out: load(folder_of(out, "dqapg", seed=more.get("seed", 1))) for out, more in variants.items()}
    weights = {out: state["agent"]["actor.layers.0.weight"] for out, state in states.items()}
    same = [out for out, weight in weights.items() if torch.equal(weight, weights["one"])]
    assert same == ["one", "same"]
    assert not torch.equal(weights["first weights"], weights["others"])
    biases = {out: state["agent"]["actor.layers.0.bias"].abs().max() for out, state in states.items()}
    assert biases["one"] == pytest.approx(3e-3, rel=0.1) and biases["lr"] == pytest.approx(3e-4, rel=0.1)
    assert states["one"]["horizon"] == 10 and states["one"]["stats"].keys() == {"obs", "goal", "action"}


def test_a_loss_that_is_not_finite_ends_the_run(run):
    status, lines = run("td3bc", lr=1e30, log_every=2)
    assert status == 2 and "--lr" in lines[-1] and not (folder_of("runs", "td3bc") / "checkpoint.pt").exists()


# --- evaluation
class Policy:
    """Goes towards the goal, and asks for more than the action space has: evaluate() clips it."""

    def __init__(self, gain):
        self.gain = gain

    def act(self, obs, goal):
        return self.gain * (goal - obs[:, : goal.shape[1]])


@pytest.mark.parametrize(
    "task, gain", [("toyenv:Toy", 30), ("toyenv:Toy", 0.3), ("envs:paper/PointMaze", 0.0225)]
)
def test_evaluation_equals_a_plain_loop(task, gain, toy, monkeypatch):
    """Steps after an early end do not count, nor does the next episode."""
    monkeypatch.setattr(pointmaze, "WALLS", pointmaze.WALLS[:1])  # without walls this policy can succeed
    module, env = load_method("dqapg"), gym.make(task)
    count = 18 if env.spec.vector_entry_point else 8
    envs = (
        gym.make_vec(env.spec, 9) if env.spec.vector_entry_point else gym.vector.SyncVectorEnv([lambda: env])
    )
    compute_reward, policy = env.get_wrapper_attr("compute_reward"), Policy(gain)
    found, scores = module.evaluate(policy, envs, compute_reward, module.Args(eval_episodes=count))
    expected, steps = [], set()
    for seed in range(1_000_000, 1_000_000 + count):
        (obs, info), rewards, over = env.reset(seed=seed), [], False
        while not over:
            pair = (torch.tensor(obs[name])[None].float() for name in ("observation", "desired_goal"))
            action = policy.act(*pair)[0].numpy().clip(env.action_space.low, env.action_space.high)
            obs, reward, terminated, truncated, _ = env.step(action)
            rewards.append(float(reward))
            over = terminated or truncated
        row = {"seed": seed, "group": info["group"], "return": rewards.count(0), "success": rewards[-1] == 0}
        distance = np.linalg.norm(obs["achieved_goal"] - obs["desired_goal"])
        expected.append(
            row | {"success_any": 0 in rewards, "final_distance": pytest.approx(distance, abs=1e-5)}
        )
        steps.add(len(rewards))
    assert found == expected
    assert {row["success_any"] for row in found} >= {True} and len(
        {row["final_distance"] for row in found}
    ) > 2
    assert task != "toyenv:Toy" or (min(steps) < 10) == (gain == 30)
    groups = {row["group"] for row in found}
    assert len(groups) == 2 and all(f"{group}_success" in scores for group in groups)


def test_evaluations_have_random_numbers_of_their_own(run):
    """BCQ draws proposals to act: training goes on as without them, and equal agents get equal scores."""
    run("bcq", out="once")
    run("bcq", out="often", eval_every=3)
    assert_equal(*(load(folder_of(out, "bcq"))["agent"] for out in ("once", "often")))
    run("bcq", out="same", eval_every=10, lr=0.0)
    first, second = rows(folder_of("same", "bcq") / "evaluations.jsonl")
    assert first["episodes"] == second["episodes"]


# --- stops and resuming
@each_way
def test_a_stopped_run_resumes_bit_for_bit(method, swap, run, stop_in_update_17):
    settings = {"swap": swap, "updates": 40, "log_every": 4, "eval_every": 20}
    whole, cut = (folder_of(out, method, swap) for out in ("whole", "cut"))
    assert run(method, out="whole", **settings)[0] == 0
    stop_in_update_17(signal.SIGTERM)
    assert "--resume" in run(method, out="cut", **settings)[0] and load(cut)["update"] == 17
    for name in (
        "metrics.jsonl",
        "evaluations.jsonl",
    ):  # as if it had gone on, and been killed while it wrote
        with (cut / name).open("a") as file:
            file.write('{"update": 18}\n{"upda')
    assert run(method, out="cut", resume=True, **settings)[0] == 0
    assert_same_run(whole, cut)
    assert [row["update"] for row in rows(cut / "metrics.jsonl")] == list(range(4, 41, 4))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the bar's, as it is closed
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_though_the_terminal_is_gone(number, run, stop_in_update_17):
    stop_in_update_17(number, terminal=False)
    status, _ = run("dqapg", updates=1000)
    assert "update 17" in status and load(folder_of("runs", "dqapg"))["update"] == 17


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dqapg", "cql", "wgcsl"])
def test_a_killed_run_resumes_bit_for_bit(method, toy, run):
    """kill -9 at random moments leaves a checkpoint that loads, and the rest equals a run without kills."""
    flags = {"swap": True, "log_every": 7, "eval_every": 50, "checkpoint_every": 5}
    words = [word for name, value in flags.items() for word in (f"--{name}", value) if word is not True]
    folder, done = folder_of("cut", method, swap=True), 0
    for kill in range(2):
        process = start(toy, ".", method, *words, "--updates", 10**6, "--out", "cut", *["--resume"] * kill)
        while not (folder / "checkpoint.pt").exists() or load(folder)["update"] <= done:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        process.wait()
        done = load(folder)["update"]
    assert run(method, out="cut", resume=True, updates=done + 20, **flags)[0] == 0
    assert run(method, out="whole", updates=done + 20, **flags)[0] == 0
    assert_same_run(folder, folder_of("whole", method, swap=True))


@pytest.mark.parametrize("file, bytes_left", [("checkpoint.pt", 0.5), ("metrics.jsonl", 0.9)])
def test_a_full_disk_destroys_nothing(file, bytes_left, run):
    """RLIMIT_FSIZE stands in for it: files cannot grow beyond a size."""
    run("dqapg", log_every=1, checkpoint_every=1)
    folder, limits = folder_of("runs", "dqapg"), resource.getrlimit(resource.RLIMIT_FSIZE)
    before = {
        name: (folder / name).read_bytes() for name in ("checkpoint.pt", "metrics.jsonl", "evaluations.jsonl")
    }
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(len(before[file]) * bytes_left), limits[1]))
    try:
        with pytest.raises((OSError, RuntimeError)):
            run("dqapg", log_every=1, checkpoint_every=1, updates=40, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for name, content in before.items():
        assert (folder / name).read_bytes().startswith(content) or name == "checkpoint.pt", name
    assert load(folder)["update"] >= 20


MAY_CHANGE = {"dataset", "updates", "out", "resume", "track", "log_every", "eval_every", "eval_episodes"}
MAY_CHANGE |= {"checkpoint_every", "device", "threads", "cuda_graphs"}


def another(field, value):
    """A value that a setting does not have."""
    if options := typing.get_args(field.type):
        return (16,) if ... in options else next(x for x in options if x != value)
    if isinstance(value, bool):
        return not value
    return "toyenv:Wrapped" if isinstance(value, str) else value / 2 or 0.25


def test_resume_refuses_what_would_be_another_run(run, toy):
    base = {"swap": True, "her_ratio": 0.4}
    assert run("dqapg", **base)[0] == 0
    before, args = contents("runs"), load_method("dqapg").Args(task="toyenv:Toy", batch_size=32, **base)
    refused = [field for field in dataclasses.fields(args) if field.name not in MAY_CHANGE]
    assert len(refused) > 15
    changes = {field.name: another(field, getattr(args, field.name)) for field in refused}
    data = dict(np.load(toy / "toy.npz"))
    data["observations"][0, 0, 0] += 1e-3
    np.savez("other.npz", **data)
    changes |= {"seed": 2, "batch_size": 64, "precision": "bf16", "dataset": "other.npz", "updates": 20}
    for name, value in changes.items():
        status, lines = run("dqapg", **(base | {"resume": True, "updates": 30, name: value}))
        named = "--updates" if name == "updates" else "--resume"
        assert status == 2 and len(lines) == 1 and named in lines[0] and contents("runs") == before, name
    for name in ("", "checkpoint.pt"):  # without --resume nothing is touched either
        (folder_of("runs", "dqapg", swap=True) / name).unlink() if name else None
        before = contents("runs")
        status, lines = run("dqapg", updates=30, **base)
        assert status == 2 and "--resume" in lines[0] and contents("runs") == before


def test_resume_takes_what_changes_nothing_that_is_learned(run, toy):
    shutil.copy(toy / "toy.npz", "copy.npz")
    run("dqapg", updates=40, out="whole")
    run("dqapg")
    new = {
        "dataset": "copy.npz",
        "log_every": 3,
        "eval_every": 7,
        "eval_episodes": 5,
        "checkpoint_every": 9,
        "threads": 0,
    }
    assert run("dqapg", updates=40, resume=True, **new)[0] == 0
    folder = folder_of("runs", "dqapg")
    assert_equal(load(folder)["agent"], load(folder_of("whole", "dqapg"))["agent"])
    assert [row["update"] for row in rows(folder / "evaluations.jsonl")] == [20, 21, 28, 35, 40]


# --- bad input
class Trap:
    """Unpickling it writes a file."""

    def __reduce__(self):
        return Path.write_text, (Path("trap"), "sprung")


BAD_DATA = {
    "no dataset at all": lambda data: "observations,actions\n0,0\n",
    "an array is missing": lambda data: data.pop("desired_goals") is None,
    "one state too few": lambda data: data.update(achieved_goals=data["achieved_goals"][:, 1:]),
    "not a number": lambda data: data.update(observations=np.where(data["observations"] > 2, np.nan, 0)),
    "actions in another unit": lambda data: data.update(actions=data["actions"] * 2),
    "a pickle": lambda data: data.update(observations=np.array([Trap()], object)),
    "lengths beyond T": lambda data: data.update(lengths=data["lengths"] + 9),
    "length 0": lambda data: data.update(lengths=data["lengths"] * 0),
    "made for another task": lambda data: data.update(manifest=json.dumps({"task": "FetchPush"})),
}


@pytest.mark.parametrize("change", BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data(change, run, toy):
    data = dict(np.load(toy / "toy.npz"))
    text = change(data)
    Path("bad.npz").write_text(text) if text else np.savez("bad.npz", **data)
    status, lines = run("dqapg", dataset="bad.npz")
    assert status == 2 and len(lines) == 1 and "--dataset bad.npz" in lines[0], lines
    assert [path.name for path in Path().iterdir()] == ["bad.npz"], "wrote something"


BAD_SETTINGS = [
    ("dqapg", {"dataset": "missing.npz"}),
    ("dqapg", {"task": "nopackage:Toy"}),
    ("dqapg", {"task": "toyenv:Nothing"}),
    ("dqapg", {"task": "gymnasium:CartPole-v1"}),  # no goals
    ("dqapg", {"task": "toyenv:Endless"}),  # no max_episode_steps
    ("dqapg", {"task": "toyenv:ZeroOne"}),  # rewards 0 and 1
    ("dqapg", {"task": "toyenv:Dense"}),  # minus the distance
    ("dqapg", {"task": "toyenv:OneByOne"}),  # rewards of a batch are not those of its rows
    ("dqapg", {"updates": 0}),
    ("dqapg", {"batch_size": 33, "swap": True}),
    ("dqapg", {"swap_ratio": 0.6, "swap": True}),
    ("dqapg", {"swap_source": "meet"}),
    ("dqapg", {"her_ratio": 1.1}),
    ("dqapg", {"gamma": 1.01}),
    ("dqapg", {"device": "nonsense"}),
    ("dqapg", {"device": "cuda:9"}),
    ("dqapg", {"cuda_graphs": True}),
    ("dqapg", {"resume": True}),
    ("gcsl", {"swap": True}),
    ("am", {"swap": True}),
    ("gofar", {"gamma": 1.0}),
    ("wgcsl", {"her_ratio": 0.0}),
]


@pytest.mark.parametrize("method, settings", BAD_SETTINGS, ids=str)
def test_bad_settings(method, settings, run):
    status, lines = run(method, **settings)
    flag = "--" + next(iter(settings)).replace("_", "-")
    assert status == 2 and len(lines) == 1 and flag in lines[0].replace("_", "-"), lines
    assert not list(Path().iterdir()), "wrote something"


def test_zero_one_rewards_are_refused_though_the_data_never_succeeds(run, toy):
    data = dict(np.load(toy / "toy.npz"))
    np.savez("failures.npz", **(data | {"desired_goals": data["desired_goals"] + 50}))
    status, lines = run("dqapg", task="toyenv:ZeroOne", dataset="failures.npz")
    assert status == 2 and "--task toyenv:ZeroOne" in lines[0]
    assert run("dqapg", dataset="failures.npz")[0] == 0


def test_the_reward_is_that_of_the_outermost_wrapper(run):
    run("dqapg")
    run("dqapg", task="toyenv:Wrapped")
    assert_same_run(folder_of("runs", "dqapg"), Path("runs", "toyenv:Wrapped", "dqapg", "1"))


def test_arguments_of_the_environment_are_kept_in_the_file(run, toy):
    manifest = json.dumps({"task": "toyenv:Toy", "env_kwargs": {"scale": 0.0}})
    np.savez("scaled.npz", **np.load(toy / "toy.npz"), manifest=manifest)
    run("dqapg", dataset="scaled.npz")
    assert all(
        e["return"] == 0 for e in rows(folder_of("runs", "dqapg") / "evaluations.jsonl")[-1]["episodes"]
    )


def test_a_checkpoint_cannot_run_code(run):
    run("dqapg")
    torch.save({"agent": Trap()}, folder_of("runs", "dqapg") / "checkpoint.pt")
    with pytest.raises(Exception, match="[Ww]eights"):
        run("dqapg", updates=30, resume=True)
    assert not Path("trap").exists()


def test_a_policy_plays_as_it_was_evaluated(run, capsys, monkeypatch):
    """By play.py, and by the code in README."""
    run("td3bc", swap=True)
    folder = Path("runs/toyenv:Toy/td3bc-swap/1")
    last = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    play.main(play.Args(folder, episodes=3))
    returns = [f"return {row['return']}, " for row in last["episodes"]]
    said = capsys.readouterr().out.splitlines()
    assert all(text in line for text, line in zip(returns, said[:3], strict=True))
    assert f"return {last['return']:.1f}, success {last['success']:.2f}" in said[3]
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    names, _ = {}, monkeypatch.syspath_prepend(ROOT / "algos")
    exec(code.replace("runs/FetchReach/td3bc-swap/1", str(folder)), names)
    agent, _ = play.load_policy(folder)
    inputs = torch.ones(1, 2), torch.ones(1, 1)
    assert torch.equal(agent.act(*inputs), names["agent"].act(*inputs))

    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["settings"]["version"] = 0
    torch.save(state, "other.pt")
    Path("text.pt").write_text("no checkpoint")
    for path, words in (
        ("other.pt", "version 0"),
        ("text.pt", "not a checkpoint"),
        ("none.pt", "no such file"),
    ):
        with pytest.raises(SystemExit):
            play.load_policy(Path(path))
        assert words in capsys.readouterr().err


# --- the rest
@each_method
def test_an_update_depends_on_its_number_only_through_the_periods(method):
    """CUDA graphs rely on it: they record one update for each set of periods that divide its number."""
    module = load_method(method)
    states = {}
    for n in (1, 2, 10, 12, 15, 20, 28, 31):
        buffer, agent = make(module, hidden=(8,), batch_size=16)
        torch.manual_seed(0)
        metrics = agent.update(buffer.sample(), n)
        state = {"metrics": metrics, "agent": agent.state_dict()}
        assert_equal(state, states.setdefault(tuple(n % period == 0 for period in agent.periods), state))


def test_each_kind_of_update_is_recorded_once_and_then_replayed(monkeypatch):
    """CUDA graphs, with stand-ins for what needs a GPU; test_cuda.py has the numbers."""
    module, recorded, replayed = load_method("dqapg"), [], []
    agent = SimpleNamespace(periods=(2, 3), optimizers={})
    agent.update = lambda batch, n: recorded.append((n, batch)) or n
    graph = type("Graph", (), {"replay": lambda self: replayed.append(self)})
    names = ("synchronize", "set_stream", "Stream", "current_stream")
    cuda = dict.fromkeys(names, lambda *_: None) | {
        "CUDAGraph": graph,
        "graph": lambda *_, **__: nullcontext(),
    }
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(**cuda))
    update = module.graphed(agent, "cuda")
    for n in range(1, 25):
        kind = update(module.Batch(*(torch.full((2,), float(n)) for _ in module.Batch._fields)), n)
        assert (kind % 2 == 0, kind % 3 == 0) == (n % 2 == 0, n % 3 == 0)
    assert [n for n, _ in recorded] == [1, 2, 3, 4, 5, 6, 9, 12], "twice in each of four kinds"
    assert len(replayed) == 24 - 4 and len(set(replayed)) == 4
    assert {n: batch.goal[0].item() for n, batch in recorded[3:]} == {4: 22, 5: 23, 6: 6, 9: 21, 12: 24}


@pytest.mark.slow
def test_the_data_of_the_paper_s_tasks_is_collected_when_it_is_missing(tmp_path):
    """In a copy of the repository without data; on PointMaze, which has groups and a picture of the paths."""
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("datasets", "experts"))
    (tmp_path / "algos").mkdir()
    shutil.copy(ROOT / "algos/dqapg.py", tmp_path / "algos")
    command = [
        sys.executable,
        "algos/dqapg.py",
        "--task",
        "PointMaze",
        "--swap",
        "--updates",
        "5",
        "--threads",
        "1",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    folder = tmp_path / "runs/PointMaze/dqapg-swap/1"
    assert (folder / "paths.png").read_bytes().startswith(b"\x89PNG")
    (row,) = rows(folder / "evaluations.jsonl")
    assert len(row["episodes"]) == 50 and {"return", "seen_return", "unseen_success"} <= row.keys()
    command[command.index("PointMaze")] = "Nowhere"
    nowhere = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert nowhere.returncode == 2 and "--task Nowhere" in nowhere.stderr.splitlines()[-1]
