"""data/: what is collected and converted is what the environment does, and experts train as they should."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import collect
import convert
import gymnasium as gym
import mrn
import numpy as np
import pytest
import robots
import torch
from conftest import ROOT
from tools import ROBOTS

CARDS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "data/experts").glob("*.json")}


def call(monkeypatch, module, *flags):
    """main() of a script, in this process; the flags may stand in one text."""
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *" ".join(map(str, flags)).split()])
    module.main()


def arrays_of(path):
    arrays = dict(np.load(path))
    return arrays, json.loads(str(arrays.pop("manifest")))


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


def refused(capsys, call, *words):
    """Fails with one line on stderr that holds the words, and exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        call()
    lines = [x for x in capsys.readouterr().err.splitlines() if x and "%|" not in x]  # no progress bars
    assert end.value.code == 2 and len(lines) == 1 and all(word in lines[0] for word in words), lines


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    """Each test has a folder of its own for its files and Minari's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "minari").mkdir()


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    """The PointMaze dataset as data/collect.py writes it without flags."""
    path = tmp_path_factory.mktemp("data") / "PointMaze.npz"
    with pytest.MonkeyPatch.context() as patch:
        call(patch, collect, "--out", path)
    return path


@pytest.fixture(scope="module")
def reach(tmp_path_factory):
    """A small FetchReach dataset."""
    path = tmp_path_factory.mktemp("data") / "FetchReach.npz"
    flags = "--task FetchReach --expert-episodes 4 --random-episodes 3 --workers 2 --out"
    with pytest.MonkeyPatch.context() as patch:
        call(patch, collect, flags, path)
    return path


# --- collect.py
def test_pointmaze_data_are_those_of_the_card(maze):
    arrays, manifest = arrays_of(maze)
    told = CARDS["PointMaze"]["dataset"]
    assert {name: collect.sha256(x) for name, x in arrays.items()} == told["sha256"] == manifest["sha256"]
    assert all(manifest[name] == told[name] for name in ("task", "arguments", "expert", "random"))


def test_pointmaze_data_are_what_the_environment_does(maze):
    arrays, _ = arrays_of(maze)
    env = gym.make("envs:paper/PointMaze")
    for k in (0, 13, 29):
        pair = dict(zip(("start", "goal"), ((0, 2), (1, 1), (2, 0))[k // 10], strict=True))
        state, _ = env.reset(seed=int(arrays["seeds"][k]), options=pair)
        np.testing.assert_array_equal(arrays["desired_goals"][k], state["desired_goal"].astype(np.float32))
        for t in range(100):
            state, reward, _, _, _ = env.step(arrays["actions"][k, t])
            np.testing.assert_array_equal(arrays["observations"][k, t + 1], np.float32(state["observation"]))
            assert arrays["success"][k, t] == (reward == 0)
    assert arrays["success"][:, -1].all() and not arrays["success"][:, 0].any()


@pytest.mark.parametrize("task", ["FetchReach", "FetchSlide", "FetchPick", "HandEggRotate"])
def test_the_fast_stepper_equals_env_step(task):
    (env, _, horizon), (fast, step, _) = robots.make(task), robots.make(task)
    rng = np.random.default_rng(0)
    for t in range(120):
        if t % horizon == 0:
            start, fast_start = env.reset(seed=t)[0], fast.reset(seed=t)[0]
            assert all(np.array_equal(start[key], fast_start[key]) for key in start)
        action = rng.uniform(-1.25, 1.25, env.action_space.shape).astype(np.float32)
        expected, (observation, achieved) = env.step(action)[0], step(action)
        np.testing.assert_array_equal(observation, expected["observation"])
        np.testing.assert_array_equal(achieved, expected["achieved_goal"])


@pytest.mark.parametrize("task", ["FetchPush", "HandBlockZ"])
def test_replay_in_the_plain_environment(task):
    """Seed and actions of an episode give its other arrays in a new environment, bit for bit.

    The second and third come after others in the same process: nothing of those is left in them.
    """
    robot = collect.Robot(task, collect.load_expert(ROOT / f"data/experts/{task}.pt", task))
    for job in (("random", 4, 7), ("expert", 0, 7), ("expert", 1, 7, 0.2, 0.3)):
        made = robot.episode(*job)
        env = gym.make(f"envs:paper/{task}")
        state, _ = env.reset(seed=int(made["seeds"]))
        np.testing.assert_array_equal(state["desired_goal"].astype(np.float32), made["desired_goals"])
        for t, action in enumerate(made["actions"]):
            np.testing.assert_array_equal(state["observation"].astype(np.float32), made["observations"][t])
            np.testing.assert_array_equal(
                state["achieved_goal"].astype(np.float32), made["achieved_goals"][t]
            )
            state, _, _, truncated, info = env.step(action)
            assert info["is_success"] == made["success"][t]
        assert truncated and np.abs(made["actions"]).max() <= 1


def test_exploration_of_the_expert():
    """The action that FetchReach ignores shows it: a mixture of Gaussian noise and of random actions."""
    robot = collect.Robot(
        "FetchReach", collect.load_expert(ROOT / "data/experts/FetchReach.pt", "FetchReach")
    )

    def actions(*exploration):
        return np.stack([robot.episode("expert", k, 0, *exploration)["actions"] for k in range(12)])

    assert np.abs(actions()[..., 3]).max() < 0.1
    explored = np.abs(actions(0.2, 0.3)[..., 3])
    for bound, normal in (
        (0.2, 0.317),
        (0.4, 0.0455),
        (0.7, 0.0005),
    ):  # share of a normal distribution beyond
        share = 0.3 * (1 - bound) + 0.7 * normal
        assert (explored > bound).mean() == pytest.approx(share, abs=0.04)
    by_chance = np.abs(actions(0.0, 0.3)[..., 3]) > 0.1
    assert 0 < by_chance.mean(1).min() < by_chance.mean(1).max() < 0.6  # decided at every step anew


def test_an_episode_with_a_warning_is_drawn_again():
    robot = collect.Robot("FetchReach", None)
    plain, calls, step = robot.episode("random", 0, 0), [], robot.step

    def unstable(action):
        calls.append(action)
        if len(calls) == 20:
            robot.env.data.qvel[0] = 1e12
        return step(action)

    robot.step = unstable
    redrawn = robot.episode("random", 0, 0)
    assert len(calls) == 100 and (plain["redrawn"], redrawn["redrawn"]) == (0, 1)
    assert np.isfinite(redrawn["observations"]).all() and redrawn["seeds"] != plain["seeds"]
    robot.step = step
    again = robot.episode("random", 0, 0)  # the bad state leaves nothing behind
    assert all(np.array_equal(again[name], plain[name]) for name in plain)


def test_a_robot_dataset(reach, monkeypatch, capsys):
    arrays, manifest = arrays_of(reach)
    assert arrays["source"].tolist() == [1] * 4 + [0] * 3 and len(set(arrays["seeds"].tolist())) == 7
    assert arrays["observations"].shape == (7, 51, 10) and arrays["actions"].shape == (7, 50, 4)
    assert manifest["task"] == "FetchReach" and manifest["arguments"]["expert_random_eps"] == 0.3
    assert manifest["expert"]["sha256"] == CARDS["FetchReach"]["sha256"]
    assert manifest["expert"]["return"] == arrays["success"][:4].sum(1).mean()
    robot = collect.Robot("FetchReach", None)  # in one process, after another episode: the same
    robot.episode("random", 0, 0)
    last = robot.episode("random", 2, 0)
    assert all(np.array_equal(last[name], arrays[name][-1]) for name in arrays)
    # checks of the file: whole, damaged, other arguments
    call(monkeypatch, collect, "--task", "FetchReach", "--out", reach, "--verify")
    assert "bit for bit" in capsys.readouterr().out
    few = "--task FetchReach --expert-episodes 4 --random-episodes 3 --out"
    call(monkeypatch, collect, few, reach)
    assert "already" in capsys.readouterr().out
    other = str(ROOT / "data/experts/FetchPush.pt")
    for flags in (["--seed", "1"], ["--expert", other]):
        refused(capsys, lambda flags=flags: call(monkeypatch, collect, few, reach, *flags), "--force")
    arrays["actions"][3, 2, 1] += 1e-6
    np.savez("edited.npz", **arrays, manifest=json.dumps(manifest))
    verify = "--task FetchReach --out edited.npz --verify"
    refused(capsys, lambda: call(monkeypatch, collect, verify), "actions")
    manifest["sha256"]["actions"] = collect.sha256(arrays["actions"])
    np.savez("edited.npz", **arrays, manifest=json.dumps(manifest))
    refused(capsys, lambda: call(monkeypatch, collect, verify), "1 of 7")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_collection_leaves_no_file_and_no_process(number):
    flags = "--task FetchReach --workers 1 --out x.npz"
    command = [sys.executable, ROOT / "data/collect.py", *flags.split()]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(workers := children.read_text().split()) < 2 or "spawn_main" not in cmdline(workers[-1]):
        time.sleep(0.1)
    time.sleep(4)
    process.send_signal(number)
    assert process.wait(30) != 0
    end = time.monotonic() + 30
    while any(cmdline(worker) for worker in workers):
        assert time.monotonic() < end, workers
        time.sleep(0.1)
    assert not list(Path().glob("x.npz*"))


def cmdline(process):
    path = Path(f"/proc/{process}/cmdline")
    return path.read_text() if path.exists() else ""


def test_failures_are_one_line_and_leave_nothing(monkeypatch, capsys):
    for flags, word in (
        (["--task", "PointMaze", "--expert-noise", "0"], "--expert-noise"),
        (["--task", "FetchPush", "--expert", "missing.pt", "--out", "y.npz"], "missing.pt"),
        (["--task", "PointMaze", "--out", "folder/PointMaze.npz", "--episodes-per-pair", "1"], "folder"),
        (["--task", "PointMaze", "--out", "text.npz"], "text.npz"),
    ):
        Path("folder").write_text("")  # a file where a folder should be
        Path("text.npz").write_text("no dataset")
        refused(capsys, lambda flags=flags: call(monkeypatch, collect, *flags), word)
        assert {path.name for path in Path().iterdir()} == {"folder", "text.npz", "minari"}


# --- experts
@pytest.mark.parametrize("task", ROBOTS)
def test_a_card_describes_its_expert_and_the_readme_repeats_it(task):
    card = CARDS[task]
    content = (ROOT / f"data/experts/{task}.pt").read_bytes()
    assert (
        collect.hashlib.sha256(content).hexdigest() == card["sha256"] == card["dataset"]["expert"]["sha256"]
    )
    text = (ROOT / "data/README.md").read_text()
    told, data = card["evaluation"], card["dataset"]
    numbers = [f"{card['steps']:,}", f"{told['return']:.1f}", f"{told['success']:.3f}"]
    numbers += [f"{data['expert']['return']:.1f}", f"{data['expert']['success']:.3f}"]
    row = re.search(rf"^\| {task} \|.*$", text, re.MULTILINE)[0]
    assert row.split(" | ")[1:6] == numbers


TINY = {"workers": 0, "threads": 1, "precision": "fp32", "cycles_per_epoch": 2, "eval_episodes": 2}
TINY |= {"episodes_per_cycle": 2, "updates_per_cycle": 3, "batch_size": 32, "replay_size": 5000}


def train(monkeypatch, **settings):
    """Trains an expert in this process; returns its checkpoint."""
    monkeypatch.setattr(mrn.signal, "signal", lambda *_: None)
    args = mrn.Args(**{"task": "FetchReach", "runs": Path("runs")} | TINY | settings)
    mrn.train(args)
    return torch.load(args.runs / args.task / "checkpoint.pt", weights_only=True)


def test_a_resumed_expert_equals_one_without_a_break(monkeypatch, capsys):
    whole = train(monkeypatch, steps=400)
    handlers = {}
    monkeypatch.setattr(mrn.signal, "signal", handlers.__setitem__)
    add = mrn.Replay.add

    def stop(replay, *args):  # in the first cycle
        handlers[signal.SIGTERM](signal.SIGTERM, None)
        return add(replay, *args)

    settings = {"task": "FetchReach", "runs": Path("parts"), "steps": 400} | TINY
    monkeypatch.setattr(mrn.Replay, "add", stop)
    with pytest.raises(SystemExit, match="after cycle 1"):
        mrn.train(mrn.Args(**settings))
    monkeypatch.setattr(mrn.Replay, "add", add)
    refused(capsys, lambda: mrn.train(mrn.Args(**settings)), "--resume")
    refused(capsys, lambda: mrn.train(mrn.Args(**settings | {"gamma": 0.9, "resume": True})), "gamma")
    mrn.train(mrn.Args(**settings, resume=True))
    parts = torch.load("parts/FetchReach/checkpoint.pt", weights_only=True)

    def flat(value, prefix=""):
        if isinstance(value, dict):
            return {k: v for key, x in value.items() for k, v in flat(x, f"{prefix}/{key}").items()}
        return {prefix: value.numpy()} if isinstance(value, torch.Tensor) else {}

    assert same(flat(whole), flat(parts)) and len(flat(whole)) > 100
    # collect.py reads the expert, with the same actions
    actor, normaliser = mrn.Actor(13, 4), mrn.Normaliser(10, 3, 5.0)
    saved = torch.load("parts/FetchReach/expert_last.pt", weights_only=True)
    expert = collect.load_expert("parts/FetchReach/expert_last.pt", "FetchReach")
    actor.load_state_dict(saved["actor"])
    normaliser.load_state_dict(parts["normaliser"])
    obs, goal = torch.randn(10), torch.randn(3)
    action = collect.expert_action(expert, obs.double().numpy(), goal.double().numpy())
    np.testing.assert_allclose(action, actor(normaliser(obs, goal)).detach().numpy(), atol=1e-4)


def test_the_metric_critic():
    torch.manual_seed(0)
    x, action = torch.randn(50, 8), torch.randn(50, 2)
    critic = mrn.MetricResidualCritic(5, 3, 2, hidden=8, embedding=2)
    f, phi = critic.f(torch.cat([x[:, :5], action], 1)), critic.phi(x)
    heads = (critic.sym, critic.sym_out), (critic.asym, critic.asym_out)
    sym, asym = ((out(net(f)) - out(net(phi))).tolist() for net, out in heads)
    wanted = [-np.sqrt(np.mean(np.square(s))) - max(0, *a) for s, a in zip(sym, asym, strict=True)]
    assert critic(x, action).tolist() == pytest.approx(wanted, rel=1e-4)


def test_hindsight():
    """Achieved goals that name their episode and time show which became goals."""
    code = np.stack(np.meshgrid(np.arange(3), np.arange(5), indexing="ij"), -1).astype(np.float32)
    episodes = {"observations": code, "achieved_goals": code, "actions": 10 * code[:, :-1]}
    episodes["desired_goals"] = -np.ones((3, 2), np.float32)

    class Env:
        @staticmethod
        def compute_reward(achieved, goal, info):
            return -(achieved != goal).any(-1).astype(np.float32)

    rng = np.random.default_rng(0)
    observation, after, goal, action, reward = mrn.sample(episodes, 20_000, 0.8, Env, rng)
    (i, t), hind = observation.T, goal[:, 0] >= 0
    assert (after == observation + [0, 1]).all() and (action == 10 * observation).all()
    assert hind.mean() == pytest.approx(0.8, abs=0.02) and (goal[hind, 0] == i[hind]).all()
    assert (reward == -(after != goal).any(-1).astype(int)).all()
    for k in range(4):
        share = np.bincount(goal[hind & (t == k), 1].astype(int), minlength=5) / (hind & (t == k)).sum()
        assert share == pytest.approx([0] * (k + 1) + [1 / (4 - k)] * (4 - k), abs=0.04)


# --- convert.py
def walks(n=5, steps=6):
    """A buffer.pkl of PointMaze: points that move as they like."""
    rng = np.random.default_rng(0)
    u = rng.uniform(-1, 1, (n, steps, 2))
    o = 5 + np.concatenate([np.zeros((n, 1, 2)), u.cumsum(1)], 1)
    return {"o": o, "ag": o.copy(), "g": np.repeat(rng.uniform(3, 7, (n, 1, 2)), steps, 1), "u": u}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("extra", [0, 1])  # of as many actions as observations the last has no outcome
def test_pickle(protocol, extra, monkeypatch):
    data = walks()
    data["u"][1, 2, 0] = 2.5
    data["u"] = np.asfortranarray(data["u"].astype(">f4"))
    steps = 6 - extra
    cut = data | {"o": data["o"][:, : steps + 1], "ag": data["ag"][:, : steps + 1]}
    Path("b.pkl").write_bytes(pickle.dumps(cut | {"note": [np.float64(1)]}, protocol))
    call(
        monkeypatch, convert, "--source b.pkl --split random --task PointMaze --random-episodes 4 --out b.npz"
    )
    arrays, manifest = arrays_of("b.npz")
    np.testing.assert_array_equal(arrays["observations"], data["o"][:4, : steps + 1].astype(np.float32))
    np.testing.assert_array_equal(arrays["actions"], data["u"][:4, :steps].clip(-2, 2).astype(np.float32))
    np.testing.assert_array_equal(arrays["desired_goals"], data["g"][:4, 0].astype(np.float32))
    distance = np.linalg.norm(data["o"][:4, 1 : steps + 1] - data["g"][:4, :1], axis=-1)
    assert np.array_equal(arrays["success"], distance < 2) and 0 < arrays["success"].mean() < 1
    assert manifest["clipped_actions"] == 1 and manifest["random"]["episodes"] == 4
    assert manifest["task"] == "PointMaze" and manifest["versions"] == {}
    if not extra:
        call(monkeypatch, convert, "--source", "b.npz", "--out", "again.pkl")
        back = pickle.loads(Path("again.pkl").read_bytes())
        for name in data:
            assert np.allclose(back[name], data[name][:4].clip(-2, 2) if name == "u" else data[name][:4])


class Harm:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


HARMS = Harm(os.system, "touch harmed"), Harm(np.ndarray, (1,), np.dtype("O"), b"A" * 8)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("harm", HARMS)
def test_pickles_run_no_code(harm, protocol, monkeypatch, capsys):
    for data in ({**walks(), "o": harm}, harm):
        Path("bad.pkl").write_bytes(pickle.dumps(data, protocol))
        flags = "--source bad.pkl --task PointMaze --out x.npz"
        refused(capsys, lambda: call(monkeypatch, convert, flags), "--source bad.pkl")
        assert not Path("harmed").exists() and not Path("x.npz").exists()


def test_ogbench_there_and_back(maze, monkeypatch, capsys):
    call(monkeypatch, convert, "--source", maze, "--out", "ogbench:o.npz")
    rows = dict(np.load("o.npz"))
    assert rows["observations"].shape == (30 * 101, 2) and np.flatnonzero(rows["terminals"])[0] == 100
    rows = {name: x[51:] for name, x in rows.items()}  # the first trajectory has 49 steps
    np.savez("o.npz", **rows)
    source = "--source ogbench:o.npz --task PointMaze --out x.npz"
    refused(capsys, lambda: call(monkeypatch, convert, source), "--goal-dims")
    call(monkeypatch, convert, source, "--goal-dims", "0", "2")
    (ours, _), (back, _) = arrays_of(maze), arrays_of("x.npz")
    assert back["lengths"].tolist() == [49] + [100] * 29
    for name in ("observations", "achieved_goals", "actions"):
        np.testing.assert_array_equal(back[name][1:], ours[name][1:])
        np.testing.assert_array_equal(back[name][0, :49], ours[name][0, 51:100])
    np.testing.assert_array_equal(back["desired_goals"], ours["achieved_goals"][:, -1])
    assert not back["actions"][0, 49:].any() and not back["success"][0, 49:].any()
    assert (back["observations"][0, 49:] == ours["observations"][0, -1]).all()
    refused(capsys, lambda: call(monkeypatch, convert, "--source", "x.npz", "--out", "x.pkl"), "lengths")
    np.savez("own.npz", **{name: back[name] for name in (*convert.STATES, "actions", "lengths")})
    call(monkeypatch, convert, "--source", "own.npz", "--task", "PointMaze", "--out", "y.npz")
    assert same(arrays_of("y.npz")[0], back)


def test_minari_there_and_back(reach, monkeypatch):
    for k, source in enumerate((reach, "short.npz")):
        call(monkeypatch, convert, "--source", source, "--out", f"minari:own/reach-v{k}")
        call(monkeypatch, convert, "--source", f"minari:own/reach-v{k}", "--out", f"{k}.npz")
        ours, back = arrays_of(source), arrays_of(f"{k}.npz")
        assert same(ours[0], back[0]) and ours[1] == back[1]
        if not k:  # the same with episodes of different lengths
            arrays, manifest = ours
            arrays["lengths"] = np.array([50, 3, 50, 1, 50, 50, 20])
            np.savez("long.npz", **arrays, manifest=json.dumps(manifest))
            call(monkeypatch, convert, "--source", "long.npz", "--out", "short.npz")
    assert (ours[0]["observations"][1, 3:] == arrays["observations"][1, 3]).all()


def minari_dataset(name, env, change=lambda k, episode: None):
    """A Minari dataset of four random episodes, as others write them."""
    minari = pytest.importorskip("minari")
    buffers = []
    for k in range(4):
        states, actions = [env.reset(seed=k)[0]], []
        env.action_space.seed(k)
        for _ in range(min(5 + k, env.spec.max_episode_steps)):
            actions.append(env.action_space.sample())
            states.append(env.step(actions[-1])[0])
        n = len(actions)
        episode = {"observations": {key: np.array([s[key] for s in states]) for key in states[0]}}
        episode |= {"actions": np.array(actions), "rewards": np.zeros(n), "seed": k}
        episode |= {"terminations": np.zeros(n, bool), "truncations": np.arange(n) == n - 1}
        change(k, episode)
        buffers.append(minari.data_collector.EpisodeBuffer(**episode))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            name, buffers, env=env, data_format="hdf5", requirements=["mujoco==3.0.0"]
        )
    return f"minari:{name}"


def test_a_minari_dataset_of_others(monkeypatch, capsys):
    """Arguments of the environment stay (Minari#304), an action without a next state goes (Minari#199)."""
    corridor = [[1] * 9, [1, "r", 0, 0, 0, 0, 0, "g", 1], [1] * 9]
    kwargs = {"maze_map": corridor, "max_episode_steps": 7}
    states = []

    def change(k, episode):
        states.append(episode["observations"]["observation"])
        if k == 1:
            episode["observations"] = {key: x[:-1] for key, x in episode["observations"].items()}

    env = gym.make("gymnasium_robotics:PointMaze_UMaze-v3", **kwargs)
    source = minari_dataset("test/corridor-v0", env, change)
    call(monkeypatch, convert, "--source", source, "--out", "x.npz")
    printed = capsys.readouterr().out
    assert "1 of 25 transitions" in printed and "maze_map" in printed and "mujoco 3.0.0" in printed
    arrays, manifest = arrays_of("x.npz")
    assert manifest["env_kwargs"] == kwargs and manifest["task"] == "gymnasium_robotics:PointMaze_UMaze-v3"
    assert manifest["origin"][0]["dropped_transitions"] == 1 and manifest["versions"]["mujoco"] == "3.0.0"
    assert arrays["lengths"].tolist() == [5, 5, 7, 7] and arrays["seeds"].tolist() == [0, 1, 2, 3]
    for k, length in enumerate(arrays["lengths"]):
        assert (arrays["observations"][k, : length + 1] == np.float32(states[k][: length + 1])).all()
    assert gym.make(manifest["task"], **manifest["env_kwargs"]).unwrapped.maze.map_length == 3
    call(monkeypatch, convert, "--source", source, "--task", manifest["task"], "--out", "y.npz")
    assert arrays_of("y.npz")[1]["env_kwargs"] == {}
    wrapped = gym.wrappers.ClipAction(gym.make("gymnasium_robotics:FetchReach-v4"))
    source = minari_dataset("test/wrapped-v0", wrapped)
    refused(capsys, lambda: call(monkeypatch, convert, "--source", source, "--out", "z.npz"), "ClipAction")
    call(monkeypatch, convert, "--source", source, "--task", "FetchReach", "--out", "z.npz")


def test_goals_that_change_within_an_episode(monkeypatch, capsys):
    """As in Minari's PointMaze sets: the first state has the goal of the episode before (Minari#265)."""

    def change(k, episode):
        goals = episode["observations"]["desired_goal"]
        goals[: 1 if k == 1 else 0] = [9, 9, 9]  # alone with its goal
        goals[4 if k == 2 else 99 :] = [1, 1, 1]  # after four steps

    source = minari_dataset("test/goals-v0", gym.make("gymnasium_robotics:FetchReach-v4"), change)
    flags = ["--source", source, "--out", "x.npz"]
    refused(capsys, lambda: call(monkeypatch, convert, *flags), "episode 1, at state 1", "--split-goals")
    call(monkeypatch, convert, *flags, "--split-goals")
    assert "1 of 26 transitions" in capsys.readouterr().out
    arrays, _ = arrays_of("x.npz")
    assert arrays["lengths"].tolist() == [5, 5, 4, 3, 8] and arrays["seeds"].tolist() == [0, -1, 2, -1, 3]
    assert (arrays["desired_goals"][3] == 1).all() and not (arrays["desired_goals"] == 9).any()
    np.testing.assert_array_equal(arrays["observations"][2, 4], arrays["observations"][3, 0])


def test_bad_conversions(maze, reach, monkeypatch, capsys):
    Path("x.npz").write_text("mine")
    for flags, word in (
        (["--source", maze, "--out", "x.npz"], "--force"),
        (["--source", maze, "--out", "x.hdf5"], "--out x.hdf5"),
        (["--source", "x.npz", "--out", "y.npz"], "x.npz"),
        (["--source", maze, "--out", "y.npz", "--expert-episodes", "31"], "there are 30"),
        (["--source", maze, "--random-source", reach, "--out", "y.npz"], "--task"),
        (["--source", maze, "--task", "FetchReach", "--out", "y.npz"], "observations"),
        (["--source", maze, "--task", "no.such:Env-v0", "--out", "y.npz"], "--task no.such:Env-v0"),
    ):
        refused(capsys, lambda flags=flags: call(monkeypatch, convert, *flags), word)
        assert Path("x.npz").read_text() == "mine" and not Path("y.npz").exists()


REACH = "--task FetchReach --out y.npz"
MAZE = "--source maze.npz --out"


@pytest.mark.parametrize(
    "module, flags, words",
    [
        (collect, "--task Nowhere", "--task Nowhere: PointMaze HandBlockZ"),
        (collect, f"{REACH} --expert {ROOT}/data/experts/HandBlockZ.pt", "--expert HandBlockZ"),
        (collect, f"{REACH} --expert {ROOT}/data/experts/HandBlockZ.json", "--expert .json: UnpicklingError"),
        (collect, f"{REACH} --workers 0", "--workers"),
        (collect, f"{REACH} --expert-episodes 0 --random-episodes 0", "--expert-episodes --random-episodes"),
        (convert, "--source missing --out minari:bad", "minari:bad"),  # the source is not read
        (convert, f"{MAZE} maze.npz/y.npz", "maze.npz/y.npz"),
        (convert, f"{MAZE} y.npz --expert-episodes 0", "--expert-episodes"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line(module, flags, words, maze, monkeypatch, capsys):
    Path("maze.npz").write_bytes(maze.read_bytes())
    refused(capsys, lambda: call(monkeypatch, module, flags), *words.split())
