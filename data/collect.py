"""Collects the offline dataset of a task, the same every time, into data/datasets/<task>.npz.

    python data/collect.py --task PointMaze
    python data/collect.py --task HandBlockZ --verify
    python data/collect.py --task HandBlockZ --video hand.mp4

PointMaze: an A* expert with noise walks each of the three demonstrated start-goal pairs ten times (App. C.3
and D of Yang et al. 2023, arXiv 2302.08865). Robot tasks: 500 episodes of an expert, failures included, and
2,000 of uniformly random actions (Sec. 5 and App. D). The expert explores as in its training.
OGBench's point mazes (ogbench-pointmaze-medium-stitch): walks from cell to cell with noise, as in its files.

The file holds, for N episodes of T steps:
    observations (N, T+1, obs_dim), achieved_goals (N, T+1, goal_dim), desired_goals (N, goal_dim)  float32
    actions (N, T, action_dim)  float32, as applied, in the environment's units
    success (N, T)  bool, whether the goal is achieved in the state after action t, by the environment's rule
    source (N,)  uint8, 1 expert and 0 random;  seeds (N,)  int64, what env.reset was given
    manifest  JSON text: task, arguments, counts, mean returns, versions and a SHA-256 of every array
"""

import hashlib
import heapq
import io
import json
import multiprocessing
import os
import platform
import re
import signal
import sys
import threading
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro
from scipy.sparse.csgraph import shortest_path
from tools import OGBENCH, REPOSITORY, ROBOTS, TASKS, bar_pace, fail, replace
from tqdm import tqdm

from envs.ogbench import move_points
from envs.pointmaze import DEMONSTRATED_PAIRS, MAX_STEP, SIZE, WALLS


@dataclass
class Args:
    task: str = "PointMaze"  # a task of the paper, or a point maze of OGBench
    out: Path | None = None  # the file to write; by default data/datasets/<task>.npz
    seed: int = 0  # another seed gives other episodes
    force: bool = False  # collect again although the file is there
    verify: bool = False  # only check the file: its hashes, and a sample of its episodes made anew
    video: Path | None = None  # only film the expert: its first episode without exploration, as .mp4
    workers: int = os.cpu_count() or 1  # robot tasks: processes; the data do not depend on it
    expert: Path | None = None  # robot tasks: expert.pt of data/mrn.py; by default data/experts/<task>.pt
    expert_episodes: int = 500  # robot tasks: episodes of the expert (Sec. 5)
    random_episodes: int = 2000  # robot tasks: episodes of uniformly random actions (Sec. 5)
    expert_noise: float = 0.2  # robot tasks: deviation of the noise on the expert's actions, in [-1, 1]
    expert_random_eps: float | None = None
    """robot tasks: share of random actions in place of the expert's; by default 0.3 (Fetch), 0 (Hand)"""
    episodes_per_pair: int = 10  # PointMaze: trajectories for each of the three demonstrated pairs
    action_noise: float = 0.3  # PointMaze: deviation of the noise on every way-point of A*, clipped at 1
    step_length: float = 0.6  # PointMaze: distance between way-points
    episodes: int | None = None  # OGBench: trajectories; by default as many as in OGBench's file


SETTINGS = {  # on which the arrays depend
    "PointMaze": ("episodes_per_pair", "action_noise", "step_length"),
    "robots": ("expert_episodes", "random_episodes", "expert_noise", "expert_random_eps"),
    "OGBench": ("episodes",),
}


def episode_seed(task, split, episode, seed, attempt=0):
    """The seed of one episode, which depends on nothing else; a redrawn episode has had more attempts."""
    key = [zlib.crc32(task.encode()), zlib.crc32(split.encode()), episode, seed] + [attempt] * (attempt > 0)
    return int(np.random.SeedSequence(key).generate_state(1)[0] % 2**31)


# --- PointMaze
def plan(start, goal, cell=0.5, radius=0.4):
    """A* on an 8-connected grid that keeps `radius` from the walls: a path (K, 2) with start and goal.

    Both numbers are ours: the author's later collector has 0.4 and 0.7, too wide for the passages here.
    """
    shape = (SIZE / cell).astype(int) + 1
    centers = np.stack(np.meshgrid(*(np.arange(n) * cell for n in shape), indexing="ij"), -1)
    gap = np.maximum(
        np.maximum(WALLS[:, :2] - centers[..., None, :], centers[..., None, :] - WALLS[:, 2:]), 0
    )
    free = (np.linalg.norm(gap, axis=-1) > radius).all(-1)

    def nearest(point):
        distance = np.where(free, np.linalg.norm(centers - point, axis=-1), np.inf)
        return tuple(int(k) for k in np.unravel_index(distance.argmin(), distance.shape))

    source, target = nearest(start), nearest(goal)
    cost, parent, queue = {source: 0.0}, {source: None}, [(0.0, source)]
    neighbours = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    while queue:
        _, here = heapq.heappop(queue)
        if here == target:
            break
        for di, dj in neighbours:
            there = (here[0] + di, here[1] + dj)
            if not (0 <= there[0] < shape[0] and 0 <= there[1] < shape[1] and free[there]):
                continue
            new = cost[here] + cell * np.hypot(di, dj)
            if new < cost.get(there, np.inf):
                cost[there], parent[there] = new, here
                heuristic = cell * np.hypot(there[0] - target[0], there[1] - target[1])
                heapq.heappush(queue, (new + heuristic, there))
    path = [target]
    while parent[path[-1]] is not None:
        path.append(parent[path[-1]])
    return np.array([start, *(centers[c] for c in reversed(path)), goal])


def resample(path, step):
    """Way-points (K, 2) at equal distances of at most `step` along a path, without its start."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0, along[-1], max(1, int(np.ceil(along[-1] / step))) + 1)[1:]
    return np.stack([np.interp(at, along, path[:, k]) for k in range(2)], 1)


def collect_pointmaze(args):
    """Episodes of the A* expert: arrays by name, as described at the top of this file."""
    env = gym.make("paper/PointMaze")
    episodes = []
    for k in tqdm(range(3 * args.episodes_per_pair), unit=" episodes", **bar_pace()):
        start, end = DEMONSTRATED_PAIRS[k // args.episodes_per_pair]
        seed = episode_seed("PointMaze", "expert", k, args.seed)
        noise_rng = np.random.default_rng([seed, 1])
        state, _ = env.reset(seed=seed, options={"start": start, "goal": end})
        position, goal = state["observation"], state["desired_goal"]
        way = resample(plan(position, goal), args.step_length)
        observations, actions, success = [position], [], []
        for _ in range(env.spec.max_episode_steps):
            target = position  # after the last way-point, the goal, the trajectory stays there
            if len(way):
                noise = (noise_rng.normal(size=2) * args.action_noise).clip(-1, 1)
                target = way[0] + noise * (len(way) > 1)
            action = (target - position).clip(-MAX_STEP, MAX_STEP).astype(np.float32)
            state, _, _, _, info = env.step(action)
            position, way = state["observation"], way[1:]
            if np.linalg.norm(position - target) >= 1e-3:  # stopped by a wall: plan again from there
                way = resample(plan(position, goal), args.step_length)
            observations.append(position)
            actions.append(action)
            success.append(info["is_success"])
        episodes.append((np.array(observations, np.float32), goal, np.array(actions), success, seed))
    observations, goals, actions, success, seeds = (np.array(x) for x in zip(*episodes, strict=True))
    return {
        "observations": observations,
        "achieved_goals": observations,
        "desired_goals": goals.astype(np.float32),
        "actions": actions,
        "success": success,
        "source": np.ones(len(seeds), np.uint8),
        "seeds": seeds.astype(np.int64),
    }


# --- OGBench's point mazes
def collect_ogbench(args, rows):
    """These episodes of points that walk from cell centre to cell centre with noise of deviation 0.5.

    navigate: to one corner, crossing or dead end after another; stitch: to a cell four cells away, and stay
    there. OGBench's data hold no goals: as in convert.py, a trajectory's last position is its desired goal.
    """
    env, stitch = gym.make(f"paper/{args.task}").unwrapped, args.task.endswith("stitch")
    free = env.env.maze_map == 0
    cells = np.argwhere(free)  # (C, 2), row and column
    centers = 4.0 * cells[:, ::-1] - 4  # x and y
    adjacent = np.abs(cells[:, None] - cells).sum(-1) == 1
    distance, before = shortest_path(adjacent, unweighted=True, return_predecessors=True)
    onward = np.where(before < 0, np.arange(len(cells)), before)  # [goal, cell]: the next cell
    up, down, left, right = (free[tuple((cells + d).T)] for d in ((-1, 0), (1, 0), (0, -1), (0, 1)))
    turns = np.flatnonzero((up != down) | (left != right) | (up == left))  # the others lie in a corridor
    ends = [np.flatnonzero(d == 4) if (d == 4).any() else [k] for k, d in enumerate(distance)]

    seeds = [episode_seed(args.task, "expert", k, args.seed) for k in rows]
    rngs = [np.random.default_rng(seed) for seed in seeds]
    start = np.array([rng.integers(len(cells)) for rng in rngs])
    goal = np.array([rng.choice(ends[k] if stitch else turns) for rng, k in zip(rngs, start, strict=True)])
    position, target = (centers[k] + [rng.uniform(-1, 1, 2) for rng in rngs] for k in (start, goal))
    steps = 200 if stitch else 2000 if "giant" in args.task else 1000
    noise = np.array([rng.normal(0, 0.5, (steps, 2)) for rng in rngs])
    observations, actions = [position], []
    for t in tqdm(range(steps), unit=" steps", **bar_pace()):
        here = np.abs(position[:, None] - centers).max(-1).argmin(1)
        way = centers[onward[goal, here]] - position
        action = way / (np.linalg.norm(way, axis=-1, keepdims=True) + 1e-6) + noise[:, t]
        actions.append(action.clip(-1, 1).astype(np.float32))
        position = move_points(env.env, position, actions[-1])
        observations.append(position)
        reached = env.compute_reward(position, target, {}) == 0
        for k in np.flatnonzero(reached & (not stitch)):
            goal[k] = rngs[k].choice(turns)
            target[k] = centers[goal[k]] + rngs[k].uniform(-1, 1, 2)
    observations = np.stack(observations, 1).astype(np.float32)
    last = observations[:, -1]
    return {
        "observations": observations,
        "achieved_goals": observations,
        "desired_goals": last,
        "actions": np.stack(actions, 1),
        "success": env.compute_reward(observations[:, 1:], last[:, None], {}) == 0,
        "source": np.ones(len(seeds), np.uint8),
        "seeds": np.array(seeds),
    }


# --- robot tasks
def load_expert(path, task):
    """The networks in an expert.pt of data/mrn.py, as float64 arrays."""
    import torch

    try:
        expert = torch.load(path, weights_only=True)
        if expert["task"] != task:
            fail(f"--expert {path}: was trained for {expert['task']}")
        actor, names = expert["actor"], ["body.0", "body.2", "body.4", "head"]
        layers = [[actor[f"{k}.{part}"].double().numpy() for part in ("weight", "bias")] for k in names]
        mean, std = (
            np.concatenate([expert[f"{part}_{kind}"].double().numpy() for part in ("obs", "goal")])
            for kind in ("mean", "std")
        )
        return {"layers": layers, "mean": mean, "std": std, "clip": expert["clip"]}
    except Exception as error:  # a foreign file raises one of many kinds
        fail(f"--expert {path}: is not an expert.pt of data/mrn.py ({type(error).__name__})")


def expert_action(expert, observation, goal):
    """The action (act_dim,) float32 for an observation (obs_dim,) and a goal (goal_dim,), both float64.

    One state at a time and in float64, so that the action, rounded to float32, depends neither on a batch
    nor, but for one rounding in millions, on how a CPU's matrix product orders its sums.
    """
    x = (np.concatenate([observation, goal]) - expert["mean"]) / expert["std"]
    x = x.clip(-expert["clip"], expert["clip"])
    *body, (weight, bias) = expert["layers"]
    for w, b in body:
        x = np.maximum(w @ x + b, 0)
    return np.tanh(weight @ x + bias).astype(np.float32)


class Robot:
    """A robot task, in which every episode runs as the first of a new environment."""

    def __init__(self, task, expert):
        import robots

        self.task, self.expert, self.compute_reward = task, expert, robots.compute_reward
        self.env, self.step, self.horizon = robots.make(task)
        self.mujoco, self.kind = robots.mujoco, robots.mujoco.mjtState.mjSTATE_INTEGRATION
        self.new = np.empty(self.mujoco.mj_stateSize(self.env.model, self.kind))
        self.mujoco.mj_getState(self.env.model, self.env.data, self.new, self.kind)

    def reset(self, seed):
        self.mujoco.mj_setState(self.env.model, self.env.data, self.new, self.kind)
        self.env.data.warning.number[:] = 0
        return self.env.reset(seed=seed)[0]

    def episode(self, split, episode, seed, noise=0.0, random_eps=0.0):
        """Its row in each array of the file; drawn again, and counted, where MuJoCo warns of a bad state."""
        for attempt in range(100):
            own_seed = episode_seed(self.task, split, episode, seed, attempt)
            start = self.reset(own_seed)
            observation, goal = start["observation"], start["desired_goal"]
            rng, shape = np.random.default_rng([own_seed, 1]), (self.horizon, *self.env.action_space.shape)
            if split == "random":
                drawn, random = rng.uniform(-1, 1, shape), np.ones(self.horizon, bool)
            else:
                drawn, random = noise * rng.standard_normal(shape), rng.random(self.horizon) < random_eps
                drawn[random] = rng.uniform(-1, 1, (random.sum(), shape[1]))
            observations, achieved = [observation], [start["achieved_goal"]]
            actions = drawn.astype(np.float32)
            for action, by_chance in zip(actions, random, strict=True):
                if not by_chance:
                    action[:] = np.clip(action + expert_action(self.expert, observation, goal), -1, 1)
                observation, now = self.step(action)
                observations.append(observation)
                achieved.append(now)
            if not self.env.data.warning.number.any():
                break
        else:
            raise RuntimeError(f"{split} episode {episode}: MuJoCo warned of a bad state 100 times")
        achieved = np.array(achieved)
        reward = self.compute_reward(self.env, achieved[1:], np.tile(goal, (self.horizon, 1)))
        return {
            "observations": np.array(observations, np.float32),
            "achieved_goals": achieved.astype(np.float32),
            "desired_goals": goal.astype(np.float32),
            "actions": actions,
            "success": reward == 0,
            "source": np.uint8(split != "random"),
            "seeds": np.int64(own_seed),
            "redrawn": attempt,
        }


def start_worker(task, expert):
    global robot
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()  # a parent that is killed cannot end its workers
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    robot = Robot(task, expert)


def run_episode(job):
    return robot.episode(*job)


def jobs_of(args):
    """Arguments of Robot.episode, in the order of the file."""
    counts = {"expert": args.expert_episodes, "random": args.random_episodes}
    exploration = args.seed, args.expert_noise, args.expert_random_eps
    return [(split, k, *exploration) for split, count in counts.items() for k in range(count)]


def simulate(args, jobs):
    """The arrays of these episodes, and how many of either kind were drawn again."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    os.environ |= threads | {"MUJOCO_GL": "disable"}  # of the workers
    expert = load_expert(args.expert, args.task) if args.expert_episodes else None
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(args.workers, len(jobs)), context, start_worker, (args.task, expert))
    try:
        episodes = pool.map(run_episode, jobs)
        episodes = list(tqdm(episodes, total=len(jobs), unit=" episodes", **bar_pace()))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C would wait for all episodes
    arrays = {name: np.stack([episode[name] for episode in episodes]) for name in episodes[0]}
    attempts = arrays.pop("redrawn")
    codes = {"expert": 1, "random": 0}
    return arrays, {kind: int(attempts[arrays["source"] == code].sum()) for kind, code in codes.items()}


def write_video(args):
    os.environ.setdefault(
        "MUJOCO_GL", "egl" if sys.platform == "linux" else "glfw"
    )  # before MuJoCo is imported
    import imageio

    robot = Robot(args.task, load_expert(args.expert, args.task))
    made = robot.episode("expert", 0, args.seed)
    robot.reset(int(made["seeds"]))
    frames = []
    try:  # drawing the goal changes the simulation of a Hand: a second environment only shows the states
        camera = gym.make(f"paper/{args.task}", render_mode="rgb_array").unwrapped
        camera.reset(seed=0)
        camera.render()
    except Exception as error:  # a missing library raises one of many kinds
        fail(f"--video: OpenGL does not work here ({error}); set MUJOCO_GL to egl, osmesa or glfw")
    camera.goal = robot.env.goal
    for action in [None, *made["actions"]]:
        if action is not None:
            robot.step(action)
        for name in ("qpos", "qvel", "mocap_pos", "mocap_quat"):
            getattr(camera.data, name)[:] = getattr(robot.env.data, name)
        robot.mujoco.mj_forward(camera.model, camera.data)
        frames.append(camera.render())
    content = imageio.mimwrite("<bytes>", frames, format="mp4", fps=camera.metadata["render_fps"])
    replace(args.video, lambda part: part.write_bytes(content))
    print(f"{args.video}: return {made['success'].sum()}")


# --- the file
def sha256(array):
    """Hash of type, shape and contents of an array."""
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()


def machine():
    """What the last bits of a simulation depend on besides versions."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{platform.platform()} {(names or [platform.processor()])[0]}"


def make_manifest(arrays, task, arguments):
    """The manifest of a dataset, a dict for JSON."""
    packages = ("numpy", "gymnasium", "gymnasium-robotics", "mujoco") + ("ogbench",) * (task in OGBENCH)
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    manifest = {"task": task, "env_kwargs": {}, "arguments": arguments, "versions": versions}
    last = arrays.get("lengths", np.full(len(arrays["actions"]), arrays["actions"].shape[1])) - 1
    for kind, code in (("expert", 1), ("random", 0)):
        rows = np.flatnonzero(arrays["source"] == code)
        success = arrays["success"][rows]
        manifest[kind] = {"episodes": len(rows)}
        if len(rows):
            end = success[np.arange(len(rows)), last[rows]]  # at the end of each episode
            manifest[kind] |= {"return": float(success.sum(1).mean()), "success": float(end.mean())}
    return manifest | {"platform": machine(), "sha256": {name: sha256(x) for name, x in arrays.items()}}


def read(path):
    """Arrays and manifest of a dataset."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        return arrays, json.loads(str(arrays.pop("manifest", "{}")))
    except Exception as error:  # a damaged or foreign file raises one of many kinds
        fail(f"{path}: is not a dataset of this program ({error!r})")


def save(path, arrays, manifest):
    content = io.BytesIO()
    np.savez(content, **arrays, manifest=np.array(json.dumps(manifest)))
    replace(path, lambda part: part.write_bytes(content.getvalue()))
    for kind in ("expert", "random"):
        if (told := manifest[kind])["episodes"]:
            scores = f"mean return {told['return']:.1f}, success {told['success']:.2f}"
            print(f"{path}: {told['episodes']} {kind} episodes, {scores}")


def verify(path, args):
    """Makes a sample of a file's episodes anew (PointMaze: all); fails unless they are equal bit for bit."""
    arrays, manifest = read(path)
    if "origin" in manifest or manifest.get("task") != args.task:
        fail(f"--verify: {path} was not collected here for {args.task}")
    damaged = [name for name, array in arrays.items() if manifest["sha256"].get(name) != sha256(array)]
    if damaged:
        fail(f"--verify: {path} is damaged or edited, {damaged} differ from its manifest")
    made = Args(**manifest["arguments"], workers=args.workers, expert=args.expert)
    rows = np.arange(len(arrays["seeds"]))
    if args.task == "PointMaze":
        fresh = collect_pointmaze(made)
    else:  # ten of either kind
        kinds = [kind for code in (1, 0) if len(kind := rows[arrays["source"] == code])]
        rows = np.unique([kind[np.linspace(0, len(kind) - 1, 10).astype(int)] for kind in kinds])
    if args.task in OGBENCH:
        fresh = collect_ogbench(made, rows)
    elif args.task in ROBOTS:
        jobs = jobs_of(made)
        fresh, _ = simulate(made, [jobs[row] for row in rows])
    wrong = sum(any((arrays[x][row] != fresh[x][k]).any() for x in fresh) for k, row in enumerate(rows))
    if wrong:
        here = make_manifest(fresh, args.task, {})
        there, here = (f"{m['versions']} on {m['platform']}" for m in (manifest, here))
        fail(f"--verify: {wrong} of {len(rows)} episodes made anew differ; {path}: {there}, here: {here}")
    print(f"{path}: whole; {len(rows)} episodes made anew are the same, bit for bit")


def main():
    args = tyro.cli(tyro.conf.FlagCreatePairsOff[Args], description=__doc__)
    if args.task in OGBENCH and ("pointmaze" not in args.task or "teleport" in args.task):
        file = args.task.removeprefix("ogbench-") + "-v0.npz"
        where = f"https://rail.eecs.berkeley.edu/datasets/ogbench/{file}"
        out = f"--out data/datasets/{args.task}.npz"
        command = f"python data/convert.py --source ogbench:{file} --task {args.task} {out}"
        fail(f"--task {args.task}: only OGBench has its data: download {where}, then {command}")
    if args.task not in (*TASKS, *OGBENCH):
        fail(f"--task {args.task}: must be one of {', '.join(TASKS)}, or a point maze of OGBench")
    robots = args.task in ROBOTS
    kind = "robots" if robots else "OGBench" if args.task in OGBENCH else "PointMaze"
    others = [name for other, names in SETTINGS.items() if other != kind for name in names]
    for name in others + ["video", "expert"] * (not robots):
        if getattr(args, name) != getattr(Args, name):
            fail(f"--{name.replace('_', '-')}: has no meaning for --task {args.task}")
    if args.episodes is None:
        args.episodes = 5000 if args.task.endswith("stitch") else 500 if "giant" in args.task else 1000
    counts = args.workers, args.episodes_per_pair, max(args.expert_episodes, args.random_episodes)
    if min(*counts, args.episodes) < 1:
        names = "--workers, --episodes-per-pair, --episodes, and --expert-episodes or --random-episodes"
        fail(f"{names}: must be at least 1")
    if args.expert_random_eps is None:
        args.expert_random_eps = 0.3 if args.task.startswith("Fetch") else 0.0
    args.expert = args.expert or REPOSITORY / f"data/experts/{args.task}.pt"
    out = args.out or REPOSITORY / f"data/datasets/{args.task}.npz"
    arguments = {name: getattr(args, name) for name in ("task", "seed", *SETTINGS[kind])}
    try:
        if args.verify:
            return verify(out, args)
        if args.video:
            return write_video(args)
        expert = {}  # what the manifest says of it
        if robots and args.expert_episodes:
            expert = {"sha256": hashlib.sha256(args.expert.read_bytes()).hexdigest()}
        if out.exists() and not args.force:
            _, manifest = read(out)
            if manifest.get("arguments") != arguments or not expert.items() <= manifest["expert"].items():
                fail(
                    f"--out {out}: is there, made with other arguments or another expert; --force replaces it"
                )
            print(f"{out}: is there already; --force collects it again")
            return
        redrawn = {}
        if robots:
            arrays, redrawn = simulate(args, jobs_of(args))
        elif kind == "OGBench":
            arrays = collect_ogbench(args, range(args.episodes))
        else:
            arrays = collect_pointmaze(args)
        manifest = make_manifest(arrays, args.task, arguments) | {"redrawn": redrawn}
        manifest["expert"] |= expert
        save(out, arrays, manifest)
    except (ImportError, OSError, RuntimeError) as error:
        fail(f"--task {args.task}: {error}" if isinstance(error, ImportError) else error)


if __name__ == "__main__":
    main()
