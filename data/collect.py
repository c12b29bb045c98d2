"""Collects the offline dataset of a task, the same every time, into data/datasets/<task>.npz.

    python data/collect.py --task PointMaze

PointMaze: an A* expert with noise walks each of the three demonstrated start-goal pairs ten times (App. C.3 and D of
Yang et al. 2023, arXiv 2302.08865). The robot tasks are not available yet.

The file holds, for N episodes of T steps:
    observations (N, T+1, obs_dim), achieved_goals (N, T+1, goal_dim), desired_goals (N, goal_dim)  float32
    actions (N, T, action_dim)  float32, as applied, in the environment's units
    success (N, T)  bool, whether the goal is achieved in the state after action t, by the environment's own rule
    source (N,)  uint8, 1 expert and 0 random;  seeds (N,)  int64, what env.reset was given
    manifest  JSON text: versions, arguments, counts, mean returns and a SHA-256 of every array
A copy of the manifest is written beside it as <task>.json.
"""

import contextlib
import errno
import hashlib
import heapq
import io
import json
import os
import platform
import signal
import sys
import zlib
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows: two processes may both collect, the file is whole all the same
    fcntl = None

REPOSITORY = Path(__file__).resolve().parents[1]
FORMAT = 1
ROBOT_TASKS = ("FetchReach", "FetchPush", "FetchPick", "FetchSlide",
               "HandBlockZ", "HandBlockParallel", "HandBlockXYZ", "HandEggRotate")


@dataclass
class Args:
    task: str = "PointMaze"  # PointMaze
    out: Path | None = None  # the file to write; by default data/datasets/<task>.npz of this repository
    seed: int = 0  # another seed gives other episodes
    episodes_per_pair: int = 10  # PointMaze: trajectories for each of the three demonstrated start-goal pairs
    action_noise: float = 0.3  # PointMaze: deviation of the noise on every way-point of A*, clipped at 1
    step_length: float = 0.6  # PointMaze: distance between way-points
    force: bool = False  # collect again although the file is there


def fail(message):
    """One line to stderr, exit status 2."""
    print(f"collect.py: error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def episode_seed(task, split, episode, seed):
    """The seed of one episode, which depends on nothing but these four."""
    key = [zlib.crc32(task.encode()), zlib.crc32(split.encode()), episode, seed]
    return int(np.random.SeedSequence(key).generate_state(1)[0] % 2**31)


def sha256(array):
    """Hash of dtype, shape and bytes of an array."""
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()


def plan(start, goal, cell=0.5, radius=0.4):
    """A* on an 8-connected grid that keeps `radius` from the walls: a path (K, 2) from start to goal, both included.

    The first author's later collector has cells of 0.4 and a radius of 0.7, for which the passages of width 1 of this
    maze leave no room. RuntimeError if there is no path.
    """
    from envs.pointmaze import SIZE, WALLS
    shape = (SIZE / cell).astype(int) + 1
    centers = np.stack(np.meshgrid(*(np.arange(n) * cell for n in shape), indexing="ij"), -1)
    gap = np.maximum(np.maximum(WALLS[:, :2] - centers[..., None, :], centers[..., None, :] - WALLS[:, 2:]), 0)
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
    else:
        raise RuntimeError(f"no path from {start} to {goal}")
    path = [target]
    while parent[path[-1]] is not None:
        path.append(parent[path[-1]])
    return np.array([start, *(centers[c] for c in reversed(path)), goal])


def resample(path, step):
    """Way-points (K, 2) at equal distances of at most `step` along a path, without its start, with its end."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(0, along[-1], max(1, int(np.ceil(along[-1] / step))) + 1)[1:]
    return np.stack([np.interp(at, along, path[:, k]) for k in range(2)], 1)


def collect_pointmaze(args):
    """Episodes of the A* expert: arrays by name, as described at the top of this file."""
    import envs  # noqa: F401  registers PointMaze-v0
    from envs.pointmaze import DEMONSTRATED_PAIRS, HORIZON, MAX_STEP
    env = gym.make("PointMaze-v0")
    episodes = []
    for k in tqdm(range(len(DEMONSTRATED_PAIRS) * args.episodes_per_pair), unit=" episodes", dynamic_ncols=True):
        clusters = DEMONSTRATED_PAIRS[k // args.episodes_per_pair]
        seed = episode_seed("PointMaze", "expert", k, args.seed)
        noise_rng = np.random.default_rng([seed, 1])
        state, _ = env.reset(seed=seed, options=dict(zip(("start", "goal"), clusters)))
        position, goal = state["observation"], state["desired_goal"]
        way = resample(plan(position, goal), args.step_length)
        observations, actions, success = [position], [], []
        for _ in range(HORIZON):
            target = position  # after the last way-point, the goal, the trajectory stays there
            if len(way):
                noise = (noise_rng.normal(size=2) * args.action_noise).clip(-1, 1)
                target = way[0] + noise * (len(way) > 1)
            action = (target - position).clip(-MAX_STEP, MAX_STEP).astype(np.float32)
            state, _, _, _, info = env.step(action)
            position = state["observation"]
            # stopped by a wall on its way: plan again from there
            way = way[1:] if np.linalg.norm(position - target) < 1e-3 else resample(plan(position, goal), args.step_length)
            observations.append(position)
            actions.append(action)
            success.append(info["is_success"])
        episodes.append((np.array(observations), goal, np.array(actions), np.array(success), seed))
    observations, goals, actions, success, seeds = (np.array(column) for column in zip(*episodes))
    return {"observations": observations.astype(np.float32), "achieved_goals": observations.astype(np.float32),
            "desired_goals": goals.astype(np.float32), "actions": actions, "success": success,
            "source": np.ones(len(seeds), np.uint8), "seeds": seeds.astype(np.int64)}


def describe(arrays, args, env_id):
    """The manifest of a dataset, a dict for JSON."""
    source, success = arrays["source"], arrays["success"]
    manifest = {"format": FORMAT, "task": args.task, "env_id": env_id, "horizon": success.shape[1],
                "arguments": arguments(args)}
    for name, chosen in (("expert", source == 1), ("random", source == 0)):
        manifest[name] = {"episodes": int(chosen.sum())}
        if chosen.any():
            manifest[name] |= {"return": float(success[chosen].sum(1).mean()),
                               "success": float(success[chosen, -1].mean())}
    packages = ("numpy", "gymnasium", "gymnasium-robotics", "mujoco")
    manifest["versions"] = {"python": platform.python_version()} | {name: version(name) for name in packages}
    manifest["platform"] = f"{platform.system()} {platform.machine()}"
    manifest["sha256"] = {name: sha256(array) for name, array in arrays.items()}
    return manifest


def arguments(args):
    """The settings that the arrays depend on."""
    return {key: value for key, value in asdict(args).items() if key not in ("out", "force")}


def check_existing(path, args):
    """The manifest of an existing file; fails unless it is whole and was made with the same settings."""
    try:
        with np.load(path, allow_pickle=False) as file:
            manifest = json.loads(str(file["manifest"]))
            whole = manifest["sha256"] == {name: sha256(file[name]) for name in file.files if name != "manifest"}
            made_with = dict(manifest["arguments"])
    except Exception as error:  # a damaged or foreign file raises one of many kinds
        fail(f"--out {path}: is there but is not a readable dataset ({error}); replace it with --force")
    if not whole:
        fail(f"--out {path}: is there but its arrays differ from its manifest; replace it with --force")
    for key, value in arguments(args).items():
        if made_with.get(key) != value:
            fail(f"--{key.replace('_', '-')} {value}: {path} is there and was made with {made_with.get(key)}; "
                 "replace it with --force or name another --out")
    return manifest


@contextlib.contextmanager
def locked(path):
    """Waits until no other process collects `path`. The lock goes with its process, however that ends."""
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{path}: another process is collecting it, waiting", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(path, content):
    """Writes bytes under a temporary name, then renames: `path` is the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def parse():
    """tyro.cli, with the frame of lines around its error message made into one line."""
    framed = io.StringIO()
    try:
        with contextlib.redirect_stderr(framed):
            return tyro.cli(Args, description=__doc__)
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("╭╮╰╯│─ ") for line in framed.getvalue().splitlines()][1:]
        fail(" ".join(lines[:lines.index("")] if "" in lines else lines) + "; see --help")


def main():
    args = parse()
    # SIGTERM ends like Ctrl-C, through the clean-up in write()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if args.task in ROBOT_TASKS:
        fail(f"--task {args.task}: its expert is not available yet; PointMaze is")
    if args.task != "PointMaze":
        fail(f"--task {args.task}: unknown; known are PointMaze and, not available yet, {', '.join(ROBOT_TASKS)}")
    for flag, value, good in (("seed", args.seed, args.seed >= 0), ("action-noise", args.action_noise, 0 <= args.action_noise <= 10),
                              ("episodes-per-pair", args.episodes_per_pair, args.episodes_per_pair > 0),
                              ("step-length", args.step_length, 0.05 <= args.step_length <= 2)):
        if not good:
            fail(f"--{flag} {value}: out of range; see --help")
    sys.path.insert(0, str(REPOSITORY))
    out = args.out or REPOSITORY / "data" / "datasets" / f"{args.task}.npz"
    if out.suffix != ".npz" or out.is_dir():
        fail(f"--out {out}: must name a file that ends in .npz")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out):  # whoever comes second waits here, then finds the file
            if out.exists() and not args.force:
                manifest = check_existing(out, args)
                write(out.with_suffix(".json"), (json.dumps(manifest, indent=1) + "\n").encode())
                print(f"{out} is there already; --force collects it again")
                return
            arrays = collect_pointmaze(args)
            manifest = describe(arrays, args, "PointMaze-v0")
            content = io.BytesIO()
            np.savez_compressed(content, **arrays, manifest=np.array(json.dumps(manifest)))
            write(out, content.getvalue())
            write(out.with_suffix(".json"), (json.dumps(manifest, indent=1) + "\n").encode())
    except KeyboardInterrupt:
        print(f"collect.py: interrupted, {out} is as it was", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        hint = "free space there" if error.errno == errno.ENOSPC else "name another file"
        fail(f"--out {out}: {error.strerror or error}; {hint}")
    expert = manifest["expert"]
    print(f"{out}: {expert['episodes']} expert episodes, mean return {expert['return']:.1f}, "
          f"success {expert['success']:.2f}")


if __name__ == "__main__":
    main()
