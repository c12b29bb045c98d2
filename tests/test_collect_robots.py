"""data/collect.py for the robot tasks: episodes, workers, experts, and what bad input gets."""

import contextlib
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import imageio
import numpy as np
import pytest
import torch
from conftest import Run, run_main

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "data"))
import cards
import collect

with contextlib.redirect_stderr(io.StringIO()):
    import mrn

SCRIPT = ROOT / "data" / "collect.py"
DIMS = {"FetchReach": (10, 3, 4, 50), "FetchPush": (25, 3, 4, 50), "HandBlockZ": (61, 7, 20, 100)}
SIZE = ("--expert-episodes", 3, "--random-episodes", 3)
PUBLISHED = sorted(path.stem for path in collect.EXPERTS.glob("*.pt"))


def run(*flags):
    return run_main(collect, *flags)


@pytest.fixture(autouse=True, scope="module")
def one_module():
    """Processes import by name what they run: the module must be that of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "collect", collect)
        yield


def load(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays.pop("manifest"))), arrays


def one_line(capsys, *parts):
    """The error message, which must be one line that holds the parts."""
    lines = [line for line in capsys.readouterr().err.split("\n") if line.strip() and "%|" not in line]
    assert len(lines) == 1 and lines[0].startswith("collect.py: error: "), lines
    assert all(part in lines[0] for part in parts), lines[0]


@pytest.fixture(scope="module")
def reach(tmp_path_factory):
    """A dataset of three episodes of either kind, from two workers."""
    path = tmp_path_factory.mktemp("data") / "reach.npz"
    assert run("--task", "FetchReach", "--out", path, "--workers", 2, *SIZE) == 0
    return path


@pytest.fixture
def copy(reach, tmp_path):
    path = tmp_path / "reach.npz"
    path.write_bytes(reach.read_bytes())
    return path


def rewrite(path, change):
    """Puts a changed manifest, with the right hashes, into a file."""
    manifest, arrays = load(path)
    change(manifest, arrays)
    manifest["sha256"] = {name: collect.sha256(array) for name, array in arrays.items()}
    np.savez(path, **arrays, manifest=np.array(json.dumps(manifest)))


# --- episodes
@pytest.mark.parametrize("task", ["FetchReach", "FetchSlide", "FetchPick", "HandEggRotate"])
def test_thin_stepper_equals_env_step(task):
    assert mrn.stepper_matches_env(task, steps=120)


@pytest.mark.parametrize("task", [task for task in ("FetchReach", "FetchPush", "HandBlockZ") if task in PUBLISHED])
def test_replay_in_the_plain_environment(task):
    """Shapes, and the seed and actions of an episode in a new gym.make environment give its other arrays, bit for bit.

    The second and third episode come after others in the same process: nothing of those is left in them.
    """
    obs_dim, goal_dim, act_dim, horizon = DIMS[task]
    robot = collect.Robot(task, collect.load_expert(task)[0])
    d = collect.stack([robot.episode(*job) for job in (("random", 4, 7), ("expert", 0, 7), ("expert", 1, 7, 0.2, 0.3))])
    assert {name: (a.dtype.str, a.shape[1:]) for name, a in d.items()} == {
        "observations": ("<f4", (horizon + 1, obs_dim)), "achieved_goals": ("<f4", (horizon + 1, goal_dim)),
        "desired_goals": ("<f4", (goal_dim,)), "actions": ("<f4", (horizon, act_dim)),
        "success": ("|b1", (horizon,)), "source": ("|u1", ()), "seeds": ("<i8", ())}
    assert d["source"].tolist() == [0, 1, 1] and np.abs(d["actions"]).max() <= 1 and len(set(d["seeds"].tolist())) == 3
    assert d["actions"][0].std() == pytest.approx(1 / np.sqrt(3), abs=0.05)
    for i, actions in enumerate(d["actions"]):
        env = gym.make(mrn.TASKS[task][0])
        state, _ = env.reset(seed=int(d["seeds"][i]))
        np.testing.assert_array_equal(state["desired_goal"].astype(np.float32), d["desired_goals"][i])
        for t in range(horizon + 1):
            np.testing.assert_array_equal(state["observation"].astype(np.float32), d["observations"][i, t])
            np.testing.assert_array_equal(state["achieved_goal"].astype(np.float32), d["achieved_goals"][i, t])
            if t < horizon:
                state, _, _, truncated, info = env.step(actions[t])
                assert info["is_success"] == d["success"][i, t] and truncated == (t == horizon - 1)


def test_exploration_of_the_expert():
    """The action that FetchReach ignores shows it: a mixture of Gaussian noise and of uniformly random actions."""
    robot = collect.Robot("FetchReach", collect.load_expert("FetchReach")[0])

    def actions(*exploration):
        return np.stack([robot.episode("expert", k, 0, *exploration)["actions"] for k in range(20)])  # (20, 50, 4)

    plain, explored = actions(), np.abs(actions(0.2, 0.3)[..., 3])
    assert np.abs(plain[..., 3]).max() < 0.1
    assert (explored > 0.7).mean() == pytest.approx(0.3 * 0.3, abs=0.03)
    assert (explored > 0.4).mean() == pytest.approx(0.3 * 0.6 + 0.7 * 0.0455, abs=0.04)  # 0.18 with 0.1, 0.31 with 0.3
    random = actions(0.0, 1.0)
    assert [random.mean(), random.std()] == pytest.approx([0, 1 / np.sqrt(3)], abs=0.03)
    first = actions(0.0, 0.3)[:, 0]  # in the same state the expert does the same, unless chance steps in
    assert 0.4 <= (first == plain[:, 0]).all(-1).mean() <= 0.95


@pytest.mark.parametrize("task, expected", [
    ("FetchPush", (0.2, 0.3)), ("HandBlockZ", (0.2, 0.0)), ("FetchReach", (0.1, 0.3))])
def test_who_explores(task, expected):
    args = collect.Args(task=task, expert_noise=0.1 if task == "FetchReach" else None)
    collect.check(args)
    assert (args.expert_noise, args.expert_random_eps) == expected
    assert {job[3:] for job in collect.robot_jobs(args)} == {expected}


def test_random_numbers_are_drawn_in_the_order_of_the_published_files():
    """Random episodes, and those of an expert that does not explore, are those of before there was exploration."""
    robot = collect.Robot("HandBlockZ", collect.load_expert("HandBlockZ")[0])
    drawn, shown = robot.episode("random", 3, 0), robot.episode("expert", 3, 0)
    rng = np.random.default_rng([int(drawn["seeds"]), 1])
    np.testing.assert_array_equal(drawn["actions"], rng.uniform(-1, 1, drawn["actions"].shape).astype(np.float32))
    env = gym.make("HandManipulateBlockRotateZ-v1")
    state, _ = env.reset(seed=int(shown["seeds"]))
    first = collect.expert_action(robot.expert, state["observation"], state["desired_goal"])
    np.testing.assert_array_equal(shown["actions"][0], first)


def test_the_expert_is_that_of_the_trainer():
    """Float64 and one state at a time against the network of mrn.py, float32 and in a batch."""
    expert, _ = collect.load_expert("FetchReach")
    policy, _ = mrn.load_expert(collect.EXPERTS / "FetchReach.pt")
    rng = np.random.default_rng(0)
    observations, goals = rng.normal(1, 2, (50, 10)), rng.normal(1, 2, (50, 3))
    ours = np.array([collect.expert_action(expert, *row) for row in zip(observations, goals)])
    assert ours.dtype == np.float32 and 0.1 < np.abs(ours).mean() < 1
    np.testing.assert_allclose(ours, policy(observations.astype(np.float32), goals.astype(np.float32)), atol=1e-4)


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
    assert redrawn["seeds"] == collect.episode_seed("FetchReach", "random", 0, 0, attempt=1) != plain["seeds"]
    assert np.isfinite(redrawn["observations"]).all()
    robot.step = step
    again = robot.episode("random", 0, 0)  # the bad state leaves nothing behind
    assert all(np.array_equal(again[name], plain[name]) for name in plain)


def test_chance_decides_at_every_step_anew():
    robot = collect.Robot("FetchReach", collect.load_expert("FetchReach")[0])
    for k in range(3):  # the expert hardly uses the action that FetchReach ignores
        share = (np.abs(robot.episode("expert", k, 0, 0.0, 0.3)["actions"][:, 3]) > 0.1).mean()
        assert 0.05 < share < 0.6


def test_jobs_have_the_seed_and_redrawn_episodes_are_counted_by_kind(monkeypatch):
    args = collect.Args(task="FetchReach", seed=5, expert_episodes=2, random_episodes=3)
    assert [job[:3] for job in collect.robot_jobs(args)] == [
        *(("expert", k, 5) for k in range(2)), *(("random", k, 5) for k in range(3))]
    made = [{"source": np.uint8(split == "expert"), "redrawn": k} for split, k, *_ in collect.robot_jobs(args)]
    monkeypatch.setattr(collect, "simulate", lambda *_: (made, 0.0))
    assert collect.collect_robots(args, None)[1] == {"expert": 1, "random": 3}


def test_verify_compares_both_kinds_with_their_errors(copy, monkeypatch, capsys):
    """Another machine's episodes may differ by less than 5 standard errors, here of the experts' observations."""
    _, d = load(copy)
    rewrite(copy, lambda manifest, arrays: manifest.update(platform="Plan9 mips"))
    means, jobs = d["observations"][:3].mean(1), []
    error = (np.sqrt(2 * means.var(0) / 3) + 1e-4) * (means.std(0) > 0.01)  # fingers do not move

    def verify(shift, **changed):
        def again(task, expert, its_jobs, workers):
            jobs[:] = [job[:3] for job in its_jobs]
            d["observations"][:3] += shift * error
            return [{name: array[k] for name, array in (d | changed).items()} for k in range(6)], 0.0

        monkeypatch.setattr(collect, "simulate", again)
        status = run("--task", "FetchReach", "--out", copy, "--verify")
        d["observations"][:3] -= shift * error
        return status

    assert verify(0) == 0 == verify(4.5) and "4.5 standard errors" in capsys.readouterr().out
    assert jobs == [(split, k, 0) for split in ("expert", "random") for k in range(3)]
    assert verify(5.5) == 2
    one_line(capsys, "5.5 standard errors", "--force")
    for source in (0, 1):
        assert verify(0, success=d["success"] ^ (d["source"] == source)[:, None]) == 2
        one_line(capsys, "standard errors")


def test_an_episode_is_drawn_a_hundred_times_at_most():
    robot, calls = collect.Robot("FetchReach", None), []

    def unstable(action):
        calls.append(action)
        assert len(calls) <= 100 * robot.horizon
        robot.env.data.warning.number[0] += 1
        return np.zeros(10), np.zeros(3)

    robot.step = unstable
    with pytest.raises(RuntimeError, match="random episode 4: .* 100 times"):
        robot.episode("random", 4, 0)
    assert len(calls) == 100 * robot.horizon


def test_angles_of_a_matrix_are_those_of_the_environment():
    rng = np.random.default_rng(0)
    for k in range(30):
        roll, pitch, yaw = rng.uniform(-3, 3, 3) if k % 3 else (rng.uniform(-3, 3), np.pi / 2, rng.uniform(-3, 3))
        matrix = mrn.rotations.euler2mat(np.array([roll, pitch, yaw]))
        if not k % 3:  # exactly in the singularity
            matrix[1, 2] = matrix[2, 2] = 0.0
        np.testing.assert_array_equal(mrn.euler_angles(matrix.ravel()), mrn.rotations.mat2euler(matrix))


# --- the file
def test_dataset(reach):
    manifest, d = load(reach)
    assert d["source"].tolist() == [1, 1, 1, 0, 0, 0] and d["observations"].shape == (6, 51, 10)
    assert manifest["sha256"] == {name: collect.sha256(array) for name, array in d.items()}
    assert json.loads(reach.with_suffix(".json").read_text()) == manifest
    assert (manifest["task"], manifest["env_id"], manifest["horizon"]) == ("FetchReach", "FetchReach-v4", 50)
    assert manifest["arguments"] == {"task": "FetchReach", "seed": 0, "expert_episodes": 3, "random_episodes": 3,
                                     "expert_noise": 0.2, "expert_random_eps": 0.3}
    assert manifest["expert"]["sha256"] == json.loads((collect.EXPERTS / "FetchReach.json").read_text())["sha256"]
    assert manifest["expert"]["return"] > 30 > 10 > manifest["random"]["return"]
    assert manifest["redrawn"] == {"expert": 0, "random": 0} and str(ROOT) not in json.dumps(manifest)
    assert d["seeds"].tolist() == [collect.episode_seed("FetchReach", split, k, 0)
                                   for split in ("expert", "random") for k in range(3)]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_matter(reach, tmp_path, workers):
    assert run("--task", "FetchReach", "--out", tmp_path / "d.npz", "--workers", workers, *SIZE) == 0
    assert (tmp_path / "d.npz").read_bytes() == reach.read_bytes()  # hashes, manifest and all


def test_an_existing_file_is_kept(copy, capsys):
    before = os.stat(copy).st_ino
    assert run("--task", "FetchReach", "--out", copy, *SIZE) == 0
    assert "is there already" in capsys.readouterr().out and os.stat(copy).st_ino == before
    assert run("--task", "FetchReach", "--out", copy, *SIZE[:2], "--random-episodes", 4) == 2
    one_line(capsys, "--random-episodes 4", "made with 3")
    rewrite(copy, lambda manifest, arrays: manifest["expert"].update(sha256="0" * 64))
    assert run("--task", "FetchReach", "--out", copy, *SIZE) == 2
    one_line(capsys, "another expert", "--force")


def test_a_file_that_is_older_than_the_flag(tmp_path, capsys):
    command = ("--task", "FetchReach", "--out", tmp_path / "d.npz", "--expert-noise", 0, *SIZE)
    assert run(*command, "--expert-random-eps", 0) == 0
    rewrite(tmp_path / "d.npz", lambda manifest, arrays: manifest["arguments"].pop("expert_random_eps"))
    assert run(*command, "--expert-random-eps", 0) == 0 and run(*command, "--verify") == 0
    assert run(*command) == 2
    one_line(capsys, "--expert-random-eps 0.3", "made with 0.0", "--force")


def test_another_mujoco_version(copy, capsys):
    rewrite(copy, lambda manifest, arrays: manifest["versions"].update(mujoco="3.8.0 and unknown"))
    assert run("--task", "FetchReach", "--out", copy, *SIZE) == 0
    error = capsys.readouterr().err
    assert "warning" in error and "3.8.0 and unknown" in error and collect.version("mujoco") in error
    for flags in (SIZE, ("--verify",)):
        assert run("--task", "FetchReach", "--out", copy, "--strict", *flags) == 2
        one_line(capsys, "--strict", "3.8.0 and unknown", collect.version("mujoco"))


def test_verify(copy, capsys):
    def verify():
        return run("--task", "FetchReach", "--out", copy, "--verify", "--workers", 1)

    def other_machine(manifest, arrays):
        manifest["platform"] = "Plan9 mips"

    def edit(manifest, arrays):
        arrays["observations"][2, 7, 1] += 1e-6

    assert verify() == 0 and "bit for bit" in capsys.readouterr().out
    rewrite(copy, edit)
    assert verify() == 2
    one_line(capsys, "observations of episode 2")
    rewrite(copy, other_machine)  # where such a difference is nothing unusual ...
    assert verify() == 0 and "standard errors" in capsys.readouterr().out
    rewrite(copy, lambda manifest, arrays: arrays["observations"].__iadd__(0.1))  # ... but this one is
    assert verify() == 2
    one_line(capsys, "standard errors", "--force")


@pytest.mark.parametrize("task, opengl", [("FetchReach", "egl"), ("FetchReach-v4", "nonsense"),
                                          ("gymnasium_robotics:FetchReach-v4", "nonsense")])
def test_training_reads_it(task, opengl, reach, tmp_path):
    """Under the task's name or its environment's, and with no OpenGL, as nothing is drawn."""
    command = [sys.executable, ROOT / "algos" / "dqapg.py", "--task", task, "--dataset", reach, "--swap", "--updates",
               "5", "--eval-episodes", "2", "--threads", "1", "--out", tmp_path / "runs"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300,
                            env=os.environ | {"MUJOCO_GL": opengl})
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "FetchReach" / "dqapg-swap" / "1" / "result.json").exists()


def test_training_warns_of_another_mujoco_version(copy, tmp_path):
    rewrite(copy, lambda manifest, arrays: manifest["versions"].update(mujoco="3.8.0"))
    command = (ROOT / "algos" / "td3bc.py", "--task", "FetchReach", "--dataset", copy, "--updates", 2, "--hidden", 8,
               "--eval-episodes", 1, "--out", tmp_path / "runs")
    here = collect.version("mujoco")
    strict = Run(tmp_path, *command, "--strict").wait()
    line, = strict.error_lines
    assert strict.status == 2 and all(part in line for part in ("error", "--strict", "3.8.0", here))
    assert not (tmp_path / "runs").exists()
    done = Run(tmp_path, *command).wait()
    line, = done.error_lines
    assert done.status == 0 and all(part in line for part in ("td3bc.py: warning", str(copy), "3.8.0", here))


# --- experts
@pytest.fixture
def experts(tmp_path, monkeypatch):
    """A folder for the experts of a test, with that of FetchReach."""
    folder = tmp_path / "experts"
    folder.mkdir()
    for name in ("FetchReach.pt", "FetchReach.json"):
        (folder / name).write_bytes((collect.EXPERTS / name).read_bytes())
    monkeypatch.setattr(collect, "EXPERTS", folder)
    return folder


def test_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    """A limit on the size of files makes the write fail half-way with an OSError, as a full disk does."""
    (tmp_path / "data").mkdir()
    path, size = tmp_path / "data" / "d.npz", ("--task", "FetchReach", *SIZE)
    assert run(*size, "--out", path) == 0
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    command = [sys.executable, SCRIPT, *map(str, size), "--out", path, "--force", "--seed", "1"]
    full = subprocess.run(command, capture_output=True, text=True, timeout=100, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (20_000, 20_000)))
    lines = [line for line in full.stderr.replace("\r", "\n").split("\n") if line.strip() and "%|" not in line]
    assert full.returncode == 2 and len(lines) == 1 and "--out" in lines[0], full.stderr
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before and len(before) == 3


def test_missing_expert(experts, tmp_path, capsys):
    assert run("--task", "HandBlockXYZ", "--out", tmp_path / "d.npz") == 2
    one_line(capsys, "--task HandBlockXYZ", "python data/mrn.py --task HandBlockXYZ")
    assert not (tmp_path / "d.npz").exists()


@pytest.mark.parametrize("damage", ["edited", "truncated", "no card", "bad card", "foreign", "harmful"])
def test_damaged_expert(experts, tmp_path, capsys, damage):
    content = bytearray((experts / "FetchReach.pt").read_bytes())
    if damage == "edited":
        content[len(content) // 2] ^= 1
    elif damage == "truncated":
        del content[-1000:]
    elif damage in ("foreign", "harmful"):  # with the right hash
        content = io.BytesIO()
        torch.save({"actor": {}} if damage == "foreign" else subprocess.Popen, content)
        content = content.getvalue()
        (experts / "FetchReach.json").write_text(json.dumps({"sha256": hashlib.sha256(content).hexdigest()}))
    elif damage == "no card":
        (experts / "FetchReach.json").unlink()
    else:
        (experts / "FetchReach.json").write_text("{")
    (experts / "FetchReach.pt").write_bytes(content)
    assert run("--task", "FetchReach", "--out", tmp_path / "d.npz") == 2
    one_line(capsys, "--task FetchReach", "FetchReach.pt")
    assert not (tmp_path / "d.npz").exists()


@pytest.mark.parametrize("task", PUBLISHED)
def test_published_experts_have_a_card(task):
    expert, digest = collect.load_expert(task)
    card, path = json.loads((collect.EXPERTS / f"{task}.json").read_text()), collect.EXPERTS / f"{task}.pt"
    assert path.stat().st_size == card["bytes"] < 1e6 and card["env_id"] == mrn.TASKS[task][0]
    assert card["evaluation"]["episodes"] >= 200
    assert card["gate_reached"] == (card["evaluation"]["success"] >= cards.GATES[task])


def test_tables_of_the_readme_are_those_of_the_cards():
    text = cards.README.read_text()
    for name, table in cards.tables().items():
        assert f"<!-- table {name} -->\n{table}\n<!-- end -->" in text, "run python data/cards.py"


@pytest.mark.parametrize("content", ["{", "[1]", '{"task": "FetchReach", "evaluation": {}}'])
def test_a_damaged_card_is_one_line(tmp_path, monkeypatch, capsys, content):
    (tmp_path / "FetchReach.json").write_text(content)
    monkeypatch.setattr(cards, "EXPERTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["cards.py", "--check"])
    with pytest.raises(SystemExit) as end:
        cards.main()
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.count("\n") == 1 and "FetchReach.json" in line, line


def test_a_readme_without_its_tables_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cards, "README", tmp_path / "README.md")
    monkeypatch.setattr(sys, "argv", ["cards.py"])
    for text in (None, "", "<!-- table experts -->\n"):
        if text is not None:
            cards.README.write_text(text)
        with pytest.raises(SystemExit) as end:
            cards.main()
        line = capsys.readouterr().err
        assert end.value.code == 2 and line.count("\n") == 1 and "README.md" in line, line


def test_a_cards_scores():
    env = gym.make("FetchReach-v4").unwrapped
    goals = np.array([[1.0, 0, 0], [0, 0, 0]])
    achieved = np.array([[[1.04, 0, 0], [1.0, 0, 0.02], [1, 0.06, 0]], [[1, 1, 1], [0, 0, 0], [0, 0.01, 0]]])
    scores = cards.scores(env, achieved, goals)
    assert (scores["return"], scores["success"], scores["success_any"], scores["return_error"]) == (2, 0.5, 1, 0)
    env.distance_threshold = 0.03
    assert cards.scores(env, achieved, goals)["return"] == 1.5


# --- bad input, and ends that come early
@pytest.mark.parametrize("flags, named", [
    (["--expert-episodes", "-1"], "--expert-episodes -1"), (["--random-episodes", "x"], "--random-episodes"),
    (["--expert-noise", "nan"], "--expert-noise nan"), (["--expert-random-eps", "1.1"], "--expert-random-eps 1.1"),
    (["--workers", "0"], "--workers 0"),
    (["--expert-episodes", "0", "--random-episodes", "0"], "--expert-episodes 0"), (["--video", "a.avi"], "--video a.avi"),
    (["--video", "no/a.mp4"], "--video no/a.mp4"), (["--verify"], "--out"), (["--task", "FetchFetch"], "--task FetchFetch"),
    (["--episodes-per-pair", "3"], "--episodes-per-pair"), (["--step-length", "1"], "--step-length"),
    (["--task", "PointMaze", "--video", "a.mp4"], "--video"), (["--task", "PointMaze", "--speed"], "--speed")])
def test_bad_flags(flags, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("--task", "FetchReach", "--out", "d.npz", *flags) == 2
    one_line(capsys, named)
    assert not list(tmp_path.iterdir())


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes in /proc")
@pytest.mark.parametrize("victim", ["worker", "parent"])
def test_killed(tmp_path, victim):
    """Kills a worker, then the parent ends with a line; or the parent, then the workers end."""
    command = [sys.executable, SCRIPT, "--task", "FetchReach", "--out", tmp_path / "d.npz", "--workers", "2"]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    seen = ""
    while "0%|" not in seen:  # the bar is there when all workers are ready
        seen += (character := parent.stderr.read(1))
        assert character, seen
    workers = [pid for pid in children(parent.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[0] if victim == "worker" else parent.pid, signal.SIGKILL)
    error = parent.communicate(timeout=60)[1]
    if victim == "worker":
        lines = [line for line in error.splitlines() if line.strip() and "%|" not in line]
        assert parent.returncode == 2 and len(lines) == 1 and "worker process died" in lines[0], error
    deadline = time.monotonic() + 60
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))
    assert [path.name for path in tmp_path.iterdir()] == [".d.npz.lock"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes in /proc")
@pytest.mark.parametrize("script, flags", [
    ("collect", ["--out", "d.npz"]),
    ("mrn", ["--steps", "100", "--episodes-per-cycle", "2", "--updates-per-cycle", "3", "--eval-episodes", "2"])])
def test_ctrl_c_while_the_workers_import(tmp_path, script, flags):
    """A terminal sends it to all processes of the group: the workers must not print what they were importing."""
    command = [sys.executable, ROOT / "data" / f"{script}.py", "--task", "FetchReach", "--workers", "2", *flags]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path,
                              start_new_session=True,
                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    deadline = time.monotonic() + 60
    while len([pid for pid in children(parent.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]) < 2:
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    os.killpg(parent.pid, signal.SIGINT)
    error = parent.communicate(timeout=100)[1]
    lines = [line for line in error.replace("\r", "\n").splitlines() if line.strip() and "%|" not in line]
    assert parent.returncode == 130 and len(lines) == (script == "collect"), error


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_training_script_that_ends_while_it_collects_takes_its_collector_along(tmp_path, number):
    for name in ("algos/td3bc.py", "data/collect.py", "data/mrn.py", "data/experts/FetchReach.pt",
                 "data/experts/FetchReach.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    script = subprocess.Popen([sys.executable, "algos/td3bc.py", "--task", "FetchReach"], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                              # a shell lets processes in the background ignore it
                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    seen = ""
    while "0%|" not in seen:
        seen += (character := script.stderr.read(1))
        assert character, seen
    collector, = children(script.pid)
    started = [collector, *children(collector)]
    assert len(started) > 2
    script.send_signal(number)
    error = script.communicate(timeout=60)[1]  # ends when the collector, which has the same stderr, has ended too
    assert script.returncode == (130 if number == signal.SIGINT else -number) and "Traceback" not in error, error
    deadline = time.monotonic() + 60
    while any(map(alive, started)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, started))
    assert [path.name for path in (tmp_path / "data" / "datasets").iterdir()] == [".FetchReach.npz.lock"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("script, flags", [
    ("collect.py", ["--task", "FetchReach", "--out", "reach.npz", "--workers", 1, *SIZE]), ("mrn.py", ["--help"])])
def test_what_draws_nothing_needs_no_opengl(script, flags, reach, tmp_path):
    script = subprocess.run([sys.executable, ROOT / "data" / script, *map(str, flags)], cwd=tmp_path, text=True,
                            capture_output=True, env=os.environ | {"MUJOCO_GL": "nonsense"})
    assert script.returncode == 0, script.stderr
    assert "--task" in script.stdout or (tmp_path / "reach.npz").read_bytes() == reach.read_bytes()


def test_no_opengl_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    assert run("--task", "FetchReach", "--video", tmp_path / "a.mp4") == 2
    one_line(capsys, "--video", "MUJOCO_GL")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes in /proc")
def test_a_process_that_renders_ends_with_its_parent_and_leaves_nothing(tmp_path):
    command = [sys.executable, SCRIPT, "--task", "FetchReach", "--video", tmp_path / "a.mp4"]
    parent, renders, deadline = subprocess.Popen(command, stderr=subprocess.DEVNULL), [], time.monotonic() + 60
    while not renders:
        assert parent.poll() is None and time.monotonic() < deadline
        renders = [pid for pid in children(parent.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        time.sleep(0.02)
    time.sleep(0.5)  # it has its arguments
    parent.kill()
    parent.wait()
    while alive(renders[0]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(renders[0]) and not list(tmp_path.iterdir())


def test_video(tmp_path):
    """It has a frame for each state; on a full disk, here a limit on the size of files, the old one stays."""
    path = tmp_path / "a.mp4"
    command = [sys.executable, SCRIPT, "--task", "FetchReach", "--video", path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "no offscreen OpenGL" in result.stderr:
        pytest.skip("no offscreen OpenGL here")
    assert result.returncode == 0, result.stderr
    assert imageio.get_reader(path, format="FFMPEG").count_frames() == 51
    before = path.read_bytes()
    full = subprocess.run(command, capture_output=True, text=True, timeout=300, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (8000, 8000)))
    assert full.returncode == 2 and full.stderr.count("\n") == 1 and "--video" in full.stderr, full.stderr
    assert "OpenGL" not in full.stderr and [p.name for p in tmp_path.iterdir()] == ["a.mp4"] and path.read_bytes() == before
