"""data/collect.py: the PointMaze dataset, its file, and what bad input gets."""

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import Run, run_main

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import envs  # noqa: F401  registers PointMaze-v0
from envs.pointmaze import DEMONSTRATED_PAIRS, GOALS, STARTS, WALLS, compute_reward, sweep

SCRIPT = ROOT / "data" / "collect.py"
spec = importlib.util.spec_from_file_location("collect", SCRIPT)
collect = importlib.util.module_from_spec(spec)
sys.modules["collect"] = collect
spec.loader.exec_module(collect)


def run(*flags):
    return run_main(collect, *flags)


def load(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays.pop("manifest"))), arrays


def clearance(points):
    """Distance of points (..., 2) to the nearest wall."""
    points = np.asarray(points)[..., None, :]
    return np.linalg.norm(points - np.clip(points, WALLS[:, :2], WALLS[:, 2:]), axis=-1).min(-1)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "new folder" / "maze.npz"
    assert run("--task", "PointMaze", "--out", path) == 0
    return path


@pytest.fixture
def small(tmp_path):
    """A dataset of three episodes."""
    path = tmp_path / "small.npz"
    assert run("--out", path, "--episodes-per-pair", 1) == 0
    return path


def one_line(capsys, flag):
    """The error message, which must be one line that names the flag."""
    lines = [line for line in capsys.readouterr().err.split("\n") if line.strip() and "%|" not in line]
    assert len(lines) == 1 and lines[0].startswith("collect.py: error: ") and flag in lines[0], lines
    return lines[0]


# --- contents
def test_format(path):
    manifest, arrays = load(path)
    expected = {"observations": ("<f4", (30, 101, 2)), "achieved_goals": ("<f4", (30, 101, 2)),
                "desired_goals": ("<f4", (30, 2)), "actions": ("<f4", (30, 100, 2)), "success": ("|b1", (30, 100)),
                "source": ("|u1", (30,)), "seeds": ("<i8", (30,))}
    assert {name: (a.dtype.str, a.shape) for name, a in arrays.items()} == expected
    assert (arrays["source"] == 1).all() and len(set(arrays["seeds"].tolist())) == 30
    assert (arrays["observations"] == arrays["achieved_goals"]).all() and np.abs(arrays["actions"]).max() <= 2
    assert manifest["sha256"] == {name: collect.sha256(a) for name, a in arrays.items()}
    assert (manifest["task"], manifest["env_id"], manifest["horizon"]) == ("PointMaze", "PointMaze-v0", 100)
    assert manifest["expert"]["episodes"] == 30 and manifest["random"]["episodes"] == 0
    assert manifest["expert"]["return"] == pytest.approx(arrays["success"].sum(1).mean())
    assert manifest["versions"]["gymnasium"] == gym.__version__
    assert json.loads(path.with_suffix(".json").read_text()) == manifest
    assert str(ROOT) not in json.dumps(manifest)


def test_hash_covers_type_shape_and_contents():
    a = np.arange(6, dtype=np.float32)
    assert len({collect.sha256(x) for x in (a, a.reshape(2, 3), a.view(np.int32), a + 1)}) == 4
    assert collect.sha256(a) == collect.sha256(a.copy())


def test_replay_gives_the_same_episodes(path):
    """Seed and actions in a fresh environment reproduce every observation and success."""
    _, d = load(path)
    for i, actions in enumerate(d["actions"]):
        env = gym.make("PointMaze-v0")
        start, goal = DEMONSTRATED_PAIRS[i // 10]
        obs, _ = env.reset(seed=int(d["seeds"][i]), options={"start": start, "goal": goal})
        for point, box in ((d["observations"][i, 0], STARTS[start]), (d["desired_goals"][i], GOALS[goal])):
            assert (box[[0, 2]] - 1e-5 <= point).all() and (point <= box[[1, 3]] + 1e-5).all()
        np.testing.assert_array_equal(obs["desired_goal"].astype(np.float32), d["desired_goals"][i])
        for t, action in enumerate(actions):
            np.testing.assert_array_equal(obs["observation"].astype(np.float32), d["observations"][i, t])
            obs = env.step(action)[0]
            assert d["success"][i, t] == (compute_reward(obs["achieved_goal"], obs["desired_goal"]) == 0)
        np.testing.assert_array_equal(obs["observation"].astype(np.float32), d["observations"][i, -1])


def test_experts_reach_the_goal_and_stay(path):
    _, d = load(path)
    observations, returns = d["observations"].astype(float), d["success"].sum(1)
    low, high = WALLS[:, :2] + 1e-5, WALLS[:, 2:] - 1e-5  # float32 rounds a point at a wall by up to 1e-6
    assert not ((low < observations[..., None, :]) & (observations[..., None, :] < high)).all(-1).any()
    assert d["success"][:, -1].all() and (30 < returns).all() and (returns < 75).all()
    for i in range(30):
        at_goal = np.linalg.norm(observations[i, :-1] - d["desired_goals"][i], axis=1) < 1e-4
        assert at_goal[-20:].all()  # padded at the goal ...
        assert np.abs(d["actions"][i][at_goal]).max() < 1e-4  # ... with zero actions


def test_action_noise_moves_the_way_points(path, tmp_path):
    def step_lengths(file):
        return np.linalg.norm(load(file)[1]["actions"], axis=-1)
    assert run("--out", tmp_path / "plain.npz", "--episodes-per-pair", 1, "--action-noise", 0) == 0
    plain, noisy = step_lengths(tmp_path / "plain.npz"), step_lengths(path)
    assert plain.max() < 0.6 + 1e-5 and 1.2 < noisy.max()
    assert noisy[noisy > 1e-4].std() > 0.2


def test_noise_of_the_way_points(path, monkeypatch):
    """It is new for every episode and either dimension, and at most 1."""
    def noise(d):
        starts, goals = d["observations"][:, 0], d["desired_goals"]
        first = [collect.resample(collect.plan(*pair), 0.6)[0] for pair in zip(starts, goals)]
        return starts + d["actions"][:, 0] - first

    usual = noise(load(path)[1])
    assert usual.std() == pytest.approx(0.3, abs=0.1) and len(set(usual.round(4).ravel().tolist())) == 60
    monkeypatch.setattr("envs.pointmaze.HORIZON", 1)
    loud = np.abs(noise(collect.collect_pointmaze(collect.Args(action_noise=10.0, episodes_per_pair=4))))
    assert loud.max() <= 1 + 1e-5 and (loud > 0.999).mean() > 0.5


def test_a_plan_is_made_anew_where_a_wall_stopped_it(path):
    _, d = load(path)
    stops = 0
    for seed, points, actions, goal in zip(d["seeds"], d["observations"], d["actions"], d["desired_goals"]):
        noise = (np.random.default_rng([seed, 1]).normal(size=(100, 2)) * 0.3).clip(-1, 1)
        for t in 1 + np.flatnonzero(np.linalg.norm(np.diff(points, axis=0) - actions, axis=1) > 0.01):
            way = collect.resample(collect.plan(points[t], goal), 0.6)
            np.testing.assert_allclose(points[t] + actions[t], way[0] + noise[t] * (len(way) > 1), atol=1e-4)
            stops += 1
    assert stops > 10


def test_step_length(tmp_path):
    assert run("--out", tmp_path / "d.npz", "--episodes-per-pair", 1, "--action-noise", 0, "--step-length", 1.5) == 0
    assert 1.2 < np.linalg.norm(load(tmp_path / "d.npz")[1]["actions"], axis=-1).max() <= 1.5 + 1e-5


def test_success_in_a_manifest_is_that_of_the_last_state():
    arrays = {"source": np.array([1, 1, 0]), "success": np.array([[1, 0], [1, 1], [0, 1]], bool)}
    manifest = collect.describe(arrays, collect.Args(), "PointMaze-v0")
    assert manifest["expert"] == {"episodes": 2, "return": 1.5, "success": 0.5}
    assert manifest["random"] == {"episodes": 1, "return": 1.0, "success": 1.0}


def test_every_goal_can_be_reached_from_every_start():
    env = gym.make("PointMaze-v0")
    for start in range(3):
        for goal in range(3):
            obs, _ = env.reset(seed=3 * start + goal, options={"start": start, "goal": goal})
            plan = collect.plan(obs["observation"], obs["desired_goal"])
            np.testing.assert_array_equal(plan[[0, -1]], [obs["observation"], obs["desired_goal"]])
            ends, axis = sweep(plan[:-1], np.diff(plan, axis=0))
            np.testing.assert_allclose(ends, plan[1:], atol=1e-9)
            assert (axis == -1).all() and clearance(plan[1:-1]).min() > 0.4


def test_plans_are_shortest_paths():
    """Against the distances that relaxing all edges of the same grid until nothing changes gives."""
    points = np.stack(np.meshgrid(np.arange(49) * 0.5, np.arange(37) * 0.5, indexing="ij"), -1)
    free = clearance(points) > 0.4
    for start, goal in (((21.5, 15.0), (2.0, 3.0)), ((21.0, 9.0), (2.0, 9.0)), ((22.0, 2.0), (2.0, 16.0))):
        distance = np.where((points == start).all(-1), 0, np.inf)
        for _ in range(300):
            for i, j in ((0, 1), (1, 0), (1, 1), (1, -1)):
                for sign in (1, -1):
                    through = np.roll(distance, (sign * i, sign * j), (0, 1)) + 0.5 * np.hypot(i, j)
                    distance = np.where(free, np.minimum(distance, through), np.inf)
        plan = collect.plan(np.array(start), np.array(goal))
        length = np.linalg.norm(np.diff(plan, axis=0), axis=1).sum()
        assert length == pytest.approx(distance[(points == goal).all(-1)].item())


def test_resample():
    path = np.array([[0, 0], [3, 0], [3, 4.0]])
    points = collect.resample(path, 0.6)
    assert (points[-1] == path[-1]).all() and len(points) == 12 and (points[0] != path[0]).any()
    steps = np.diff(np.concatenate([path[:1], points]), axis=0)
    assert (np.linalg.norm(steps, axis=1) <= 0.6 + 1e-9).all()


# --- the same again, and other seeds
def test_same_settings_same_hashes_other_seed_others(small, tmp_path):
    first = load(small)[0]["sha256"]
    for seed in (0, 1):
        other = tmp_path / f"{seed}.npz"
        assert run("--out", other, "--episodes-per-pair", 1, "--seed", seed) == 0
        hashes = load(other)[0]["sha256"]
        same = {name for name in hashes if hashes[name] == first[name]}
        assert same == (set(hashes) if seed == 0 else {"source"})
    assert (tmp_path / "0.npz").read_bytes() == small.read_bytes()


def test_seeds_depend_on_task_split_episode_and_seed():
    seeds = {collect.episode_seed(*key) for key in (("PointMaze", "expert", 0, 0), ("PointMaze", "expert", 1, 0),
                                                    ("PointMaze", "random", 0, 0), ("FetchPush", "expert", 0, 0),
                                                    ("PointMaze", "expert", 0, 1))}
    assert len(seeds) == 5 and all(0 <= seed < 2**31 for seed in seeds)


def test_an_existing_file_is_kept_unless_forced(small, capsys):
    before = os.stat(small).st_ino
    small.with_suffix(".json").unlink()
    assert run("--out", small, "--episodes-per-pair", 1) == 0
    assert "is there already" in capsys.readouterr().out
    assert os.stat(small).st_ino == before
    assert json.loads(small.with_suffix(".json").read_text()) == load(small)[0]  # the copy is made good
    assert run("--out", small, "--episodes-per-pair", 1, "--force") == 0
    assert os.stat(small).st_ino != before


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "changed"])
def test_an_existing_bad_file_is_an_error(small, capsys, damage):
    content = small.read_bytes()
    if damage == "changed":
        manifest, arrays = load(small)
        arrays["actions"][0, 0, 0] += 1
        np.savez(small, **arrays, manifest=np.array(json.dumps(manifest)))
    else:
        small.write_bytes({"truncated": content[:len(content) // 2], "foreign": b"hello", "empty": b""}[damage])
    bad = small.read_bytes()
    capsys.readouterr()
    assert run("--out", small, "--episodes-per-pair", 1) == 2
    assert "--force" in one_line(capsys, "--out") and small.read_bytes() == bad
    assert run("--out", small, "--episodes-per-pair", 1, "--force") == 0 and small.read_bytes() == content


def test_an_existing_file_with_other_settings_is_an_error(small, capsys):
    capsys.readouterr()
    assert run("--out", small, "--episodes-per-pair", 1, "--seed", 5) == 2
    assert "made with 0" in one_line(capsys, "--seed 5")


def test_two_processes_at_once_leave_one_good_file(tmp_path):
    path = tmp_path / "maze.npz"
    command = [sys.executable, SCRIPT, "--task", "PointMaze", "--out", path, "--episodes-per-pair", "3"]
    processes = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                 for _ in range(2)]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("expert episodes, mean return" in output for output in outputs) == 1  # one collected ...
    assert sum("is there already" in output for output in outputs) == 1  # ... the other found the file
    manifest, arrays = load(path)
    assert manifest["sha256"] == {name: collect.sha256(a) for name, a in arrays.items()}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".maze.npz.lock", "maze.json", "maze.npz"]


def test_the_second_process_waits_for_the_lock(small, tmp_path):
    """The race above may be over before the second process has started; here it starts while the lock is held."""
    path = tmp_path / "maze.npz"
    with collect.locked(path):
        process = subprocess.Popen([sys.executable, SCRIPT, "--out", path, "--episodes-per-pair", "1"], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert "waiting" in process.stdout.readline()
        path.write_bytes(small.read_bytes())  # what the holder of the lock does
        assert process.poll() is None
    assert "is there already" in process.communicate(timeout=60)[0] and process.returncode == 0


# --- bad input
@pytest.mark.parametrize("flags, named", [
    (["--task", "Nonsense"], "--task Nonsense"),
    (["--out", "x" * 300 + ".npz"], "--out xxx"), (["--episodes-per-pair", str(10**21)], "--episodes-per-pair 1000"),
    (["--episodes-per-pair", "0"], "--episodes-per-pair 0"), (["--episodes-per-pair", "x"], "--episodes-per-pair"),
    (["--action-noise", "-1"], "--action-noise -1"), (["--action-noise", "nan"], "--action-noise nan"),
    (["--action-noise", "inf"], "--action-noise inf"), (["--seed", "-1"], "--seed -1"),
    (["--expert-noise", "0.7"], "--expert-noise"), (["--random-episodes", "5"], "--random-episodes"),
    (["--step-length", "0"], "--step-length 0"), (["--nonsense", "1"], "--nonsense"), (["--task"], "--task"),
    (["--out", "maze.txt"], "--out maze.txt"), (["--out", "/dev/null/maze.npz"], "--out /dev/null/maze.npz")])
def test_bad_flags(flags, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*(["--out", "maze.npz"] if "--out" not in flags else []), *flags) == 2
    one_line(capsys, named)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ['{"my": "settings"}', "no JSON", "[]", "7", '"sha256"',
                                     '{"sha256": "of an expert, in its card"}'])
def test_a_file_that_is_no_manifest_stays(content, tmp_path, capsys):
    (tmp_path / "maze.json").write_text(content)
    flags = "--out", tmp_path / "maze.npz", "--episodes-per-pair", 1
    assert run(*flags) == 2
    one_line(capsys, "maze.json, which is none")
    assert (tmp_path / "maze.json").read_text() == content and not (tmp_path / "maze.npz").exists()
    assert not run(*flags, "--force")
    manifest, _ = load(tmp_path / "maze.npz")
    assert json.loads((tmp_path / "maze.json").read_text()) == manifest


def test_out_that_is_a_folder(tmp_path, capsys):
    (tmp_path / "maze.npz").mkdir()
    assert run("--out", tmp_path / "maze.npz") == 2
    one_line(capsys, "--out")


def test_full_disk_leaves_the_old_file_and_no_other(small):
    """A limit on the size of files makes the write fail half-way with an OSError, as a full disk does."""
    before = {file.name: file.read_bytes() for file in small.parent.iterdir()}
    command = [sys.executable, SCRIPT, "--out", small, "--force", "--episodes-per-pair", "10"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (8000, 8000)))
    lines = [line for line in result.stderr.split("\n") if line.strip() and "%|" not in line]
    assert result.returncode == 2 and len(lines) == 1 and "--out" in lines[0], result.stderr
    assert before.keys() == {".small.npz.lock", "small.json", "small.npz"}
    assert {file.name: file.read_bytes() for file in small.parent.iterdir()} == before


def test_of_two_files_both_are_written_or_none(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OSError):
        collect.write({tmp_path / "a": b"new", tmp_path / "missing" / "b": b"new"})
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        collect.write({tmp_path / "a": b"new", tmp_path / "folder": b"new"})
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
    (tmp_path / "folder").rmdir()
    collect.write({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new", "b": b"new"}


@pytest.mark.parametrize("change, named", [
    ({"episodes_per_pair": 2}, "its manifest says 6"), ({"episodes_per_pair": 2.5}, "does not come from collect.py"),
    ({"episodes_per_pair": 0}, "has --episodes-per-pair 0"), ({"seed": -3}, "has --seed -3"),
    ({"step_length": 0}, "has --step-length 0"), ({"action_noise": None}, "does not come from collect.py"),
    ({}, "does not come from collect.py")])  # and an array too many
def test_verifying_a_file_with_an_edited_manifest(small, capsys, change, named):
    manifest, arrays = load(small)
    manifest["arguments"] |= change
    if not change:
        arrays["lengths"] = np.full(3, 200)
        manifest["sha256"]["lengths"] = collect.sha256(arrays["lengths"])
    np.savez(small, **arrays, manifest=np.array(json.dumps(manifest)))
    capsys.readouterr()
    assert run("--out", small, "--verify") == 2
    assert named in one_line(capsys, "--verify")


def test_a_killed_process_leaves_no_lock_and_no_dataset_or_the_old_one(tmp_path):
    path = tmp_path / "maze.npz"
    run = Run(tmp_path, SCRIPT, "--out", path, "--episodes-per-pair", 1000)
    run.wait_for(lambda: "episodes/s" in run.err)
    assert run.signal(signal.SIGKILL).wait().status == -signal.SIGKILL
    assert not path.exists() and not path.with_suffix(".json").exists()
    assert Run(tmp_path, SCRIPT, "--out", path, "--episodes-per-pair", 1).wait().status == 0 and path.exists()
    before, rest = path.read_bytes(), ["--out", path, "--episodes-per-pair", "2", "--force"]
    code = "import collect, os; os.replace = lambda *_: os.kill(os.getpid(), 9); collect.main()"  # when all is written
    killed = subprocess.run([sys.executable, "-c", code, *rest], cwd=SCRIPT.parent, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL and path.read_bytes() == before
