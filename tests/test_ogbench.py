"""OGBench's tasks: starts and goals of the seeds, rewards against OGBench's own rule, collected data."""

import sys

import collect  # noqa: E402
import convert  # noqa: E402
import gymnasium as gym
import numpy as np
import pytest
from conftest import load_method
from scipy.sparse.csgraph import shortest_path

from envs.ogbench import TASKS

STITCH = "ogbench-pointmaze-medium-stitch"
SEEDS = range(1_000_000, 1_000_010)  # of an evaluation


def make(task=STITCH):
    pytest.importorskip("ogbench", reason="ogbench is not installed: pip install ogbench")
    return gym.make(f"envs:paper/{task}")


def call(monkeypatch, module, flags):
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *flags.split()])
    module.main()


def same(a, b):
    return all((a[key] == b[key]).all() for key in a)


def test_every_environment_is_ogbenchs():
    make()
    for task, steps in TASKS.items():
        name = task.removeprefix("ogbench-").rpartition("-")[0]
        assert (
            gym.spec(f"paper/{task}").max_episode_steps == gym.spec(f"{name}-v0").max_episode_steps == steps
        )


@pytest.mark.parametrize("task", [STITCH, "ogbench-antsoccer-arena-stitch"])
def test_seeds_take_the_five_tasks_in_turn_and_start_the_same_every_time(task):
    env, again = make(task), make(task)
    again.reset()
    again.step(again.action_space.sample())
    np.random.seed(1)
    before, starts = np.random.get_state()[1].copy(), []
    for seed in SEEDS:
        (state, info), its = env.reset(seed=seed), env.unwrapped.env.task_infos[seed % 5]
        assert info == {"is_success": False, "group": f"task{seed % 5 + 1}"}
        assert same(state, again.reset(seed=seed)[0])
        assert np.abs(state["desired_goal"] - its["goal_xy"]).max() <= 1
        assert np.abs(state["observation"][:2] - its.get("init_xy", its.get("agent_init_xy"))).max() <= 1
        starts.append(tuple(state["observation"]))
    assert len({*starts}) == 10 and (np.random.get_state()[1] == before).all()
    assert env.reset(options={"task_id": 4})[1]["group"] == "task4"
    assert len({env.reset()[1]["group"] for _ in range(30)}) == 5  # without a seed they are random


def test_teleports_depend_on_the_seed_alone():
    env, paths = make("ogbench-pointmaze-teleport-stitch").unwrapped, []
    for other in (0, 1):
        env.reset(seed=3)
        np.random.seed(other)
        paths.append([])
        for _ in range(10):
            env.env.set_xy(env.env.ij_to_xy((4, 6)))  # into a teleport
            env.step(np.zeros(2))
            paths[-1].append(tuple(env.env.get_xy()))
    assert paths[0] == paths[1] and len({*paths[0]}) == 3


def at_goal(inner, off):
    """Puts what counts for success so far from the goal."""
    if hasattr(inner, "set_agent_ball_xy"):
        return inner.set_agent_ball_xy(np.add(inner.cur_goal_xy, 2), np.add(inner.cur_goal_xy, off))
    if hasattr(inner, "set_xy"):
        return inner.set_xy(np.add(inner.cur_goal_xy, off))
    for k, goal in enumerate(getattr(inner, "_cube_target_mocap_ids", ())):
        inner._data.joint(f"object_joint_{k}").qpos[:3] = inner._data.mocap_pos[goal]
    if hasattr(inner, "_target_button_states"):
        inner._cur_button_states = inner._target_button_states.copy()
    if hasattr(inner, "_target_drawer_pos"):
        inner._data.joint("drawer_slide").qpos[0] = inner._target_drawer_pos
        inner._data.joint("window_slide").qpos[0] = inner._target_window_pos


SLOW = [
    pytest.param(f"ogbench-{name}-play", marks=pytest.mark.slow)
    for name in ("scene", "cube-double", "puzzle-3x3")
]


@pytest.mark.parametrize(
    "task", [STITCH, "ogbench-antsoccer-arena-stitch", "ogbench-antmaze-large-stitch", *SLOW]
)
def test_rewards_are_ogbenchs_successes_also_in_batches(task):
    env, rng, rows, rewards = make(task).unwrapped, np.random.default_rng(0), [], []
    tolerance = 1.0 if "point" in task else 0.5
    for seed in SEEDS[:5]:
        env.reset(seed=seed)
        for k in range(4):
            angle = rng.uniform(0, 2 * np.pi)
            off = tolerance * rng.uniform(0.6, 1.4) * np.array([np.cos(angle), np.sin(angle)])
            if k > 1:
                at_goal(env.env, off)
            state, reward, terminated, truncated, info = env.step(
                0.1 * rng.uniform(-1, 1, env.action_space.shape)
            )
            success = env.env._success if hasattr(env.env, "_success") else env.env.compute_success()
            assert (reward == 0) == success == info["is_success"] and not terminated and not truncated
            rows.append((state["achieved_goal"], state["desired_goal"]))
            rewards.append(reward)
    assert {*rewards} == {-1.0, 0.0}
    np.testing.assert_array_equal(env.compute_reward(*map(np.array, zip(*rows, strict=True)), {}), rewards)


def test_the_batch_equals_single_environments():
    """Points move as in MuJoCo: bit for bit until they touch a wall, and then but for a warm start."""
    singles, off = [make() for _ in range(20)], np.random.default_rng(0)
    batch = gym.make_vec(f"envs:paper/{STITCH}", 20, max_episode_steps=60)
    states, info = batch.reset(seed=4)
    assert list(info["group"][:3]) == ["task5", "task1", "task2"]
    touched = np.zeros(20, bool)
    for n in range(61):
        if n:  # towards the right or upwards, until a wall comes
            actions = off.uniform([-0.5, -0.5], 1, (20, 2)).astype(np.float32)
            before, (states, reward, terminated, truncated, _) = states, batch.step(actions)
            free = before["observation"] + 0.2 * actions
            touched |= (states["observation"] != free).any(-1)
            assert not terminated.any() and (truncated == (n == 60)).all()
        for k, env in enumerate(singles):
            state, its, *_ = env.step(actions[k]) if n else (env.reset(seed=4 + k)[0], 0)
            error = max(np.abs(states[key][k] - state[key]).max() for key in state)
            assert error < 1e-6 if touched[k] else error == 0
            assert not n or its == reward[k]
    assert touched.sum() > 5


@pytest.mark.parametrize("task", [STITCH, "ogbench-pointmaze-large-navigate"])
def test_collected_walks(task, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    env, flags = make(task), f"--task {task} --out walks.npz"
    call(monkeypatch, collect, f"{flags} --episodes 6")
    call(monkeypatch, collect, f"{flags} --verify")
    data, manifest = collect.read("walks.npz")
    steps = 200 if task == STITCH else 1000
    assert data["observations"].shape == (6, steps + 1, 2) and data["actions"].shape == (6, steps, 2)
    assert manifest["arguments"] == {"task": task, "seed": 0, "episodes": 6}
    np.testing.assert_array_equal(data["desired_goals"], data["achieved_goals"][:, -1])
    alone = collect.collect_ogbench(collect.Args(task=task), [4])
    assert all((alone[key][0] == data[key][4]).all() for key in alone)
    assert len(np.unique(data["observations"][:, 0], axis=0)) == 6
    np.testing.assert_array_equal(
        data["success"],
        env.unwrapped.compute_reward(data["achieved_goals"][:, 1:], data["desired_goals"][:, None], {}) == 0,
    )
    moved = np.diff(data["observations"], axis=1) - 0.2 * data["actions"]
    assert (np.abs(moved).max(-1) < 1e-4).mean() > 0.95  # walls stop the others
    cells = np.floor((data["observations"] + 6) / 4).astype(int)[..., ::-1]  # row and column
    free = env.unwrapped.env.maze_map == 0
    assert free[cells[..., 0], cells[..., 1]].all()
    where = np.argwhere(free)
    distance = shortest_path(np.abs(where[:, None] - where).sum(-1) == 1, unweighted=True)
    index = {tuple(cell): k for k, cell in enumerate(where)}
    ways = np.array([[index[tuple(cell)] for cell in path] for path in cells])
    apart = distance[ways[:, :1], ways].max(1)
    assert (apart == 4).all() if task == STITCH else apart.mean() > 8
    state, _ = env.reset(
        seed=int(data["seeds"][0]), options={"task_info": {"init_ij": where[0], "goal_ij": where[1]}}
    )
    env.unwrapped.env.set_xy(data["observations"][0, 0])
    for action, after in zip(data["actions"][0], data["observations"][0, 1:], strict=True):
        np.testing.assert_allclose(env.unwrapped.env.step(action)[0], after, atol=1e-4)

    module = load_method("dqapg")
    args = module.Args(task=task, dataset="walks.npz", gamma=0.99)
    _, loaded, _ = module.load(args)
    assert same(data, loaded)


def test_ogbenchs_files_need_no_goal_dims(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    task = "ogbench-antsoccer-arena-stitch"
    box, rng = make(task).observation_space["observation"], np.random.default_rng(0)
    rows = {"observations": rng.normal(size=(20, *box.shape)), "actions": rng.uniform(-1, 1, (20, 8))}
    np.savez("file.npz", **rows, terminals=np.arange(20) % 10 == 9)
    call(monkeypatch, convert, f"--source ogbench:file.npz --task {task} --out ours.npz")
    data = collect.read("ours.npz")[0]
    np.testing.assert_array_equal(data["achieved_goals"], data["observations"][..., 15:17])  # the ball


def test_without_ogbench_one_line_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ogbench", None)  # as if it were not installed
    np.savez("ours.npz", observations=np.zeros((1, 2, 2)), actions=np.zeros((1, 1, 2)))
    module = load_method("dqapg")
    for start in (
        lambda: call(monkeypatch, collect, f"--task {STITCH} --out x.npz"),
        lambda: module.load(module.Args(task=STITCH, dataset="ours.npz")),
    ):
        with pytest.raises(SystemExit) as stop:
            start()
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1 and "pip install ogbench" in error


def test_data_that_only_ogbench_has(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, collect, "--task ogbench-antmaze-medium-stitch")
    assert "ogbench/antmaze-medium-stitch-v0.npz" in capsys.readouterr().err
