"""Collects the offline dataset of a task, the same every time, into data/datasets/<task>.npz.

    python data/collect.py --task PointMaze
    python data/collect.py --task HandBlockZ
    python data/collect.py --task HandBlockZ --verify
    python data/collect.py --task HandBlockZ --video hand.mp4

PointMaze: an A* expert with noise walks each of the three demonstrated start-goal pairs ten times (App. C.3 and D of
Yang et al. 2023, arXiv 2302.08865).
Robot tasks: 500 episodes of the expert data/experts/<task>.pt, failures included, and 2,000 of uniformly random actions
(Sec. 5 and App. D). The expert's actions have the noise of its training, on the Fetch tasks also its random actions.
Every episode has its own seed and starts in the state of a new environment, so that it does not depend on the episodes
before it, nor on the number of workers. Episodes in which MuJoCo warns of a bad state are drawn again from another
seed, and counted in the manifest as "redrawn".

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
import itertools
import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import zlib
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from unittest import mock

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


EXPERTS = REPOSITORY / "data" / "experts"
ARRAYS = {"observations", "achieved_goals", "desired_goals", "actions", "success", "source", "seeds"}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Args:
    task: str = "PointMaze"  # PointMaze, Fetch{Reach,Push,Pick,Slide}, HandBlock{Z,Parallel,XYZ} or HandEggRotate
    out: Path | None = None  # the file to write; by default data/datasets/<task>.npz of this repository
    seed: int = 0  # another seed gives other episodes
    expert_episodes: int = 500  # robot tasks: episodes of the expert (Sec. 5)
    random_episodes: int = 2000  # robot tasks: episodes of uniformly random actions (Sec. 5)
    # robot tasks: deviation of Gaussian noise on the expert's actions, which lie in [-1, 1]; by default 0.2
    expert_noise: float | None = None
    # robot tasks: probability of a uniformly random action in place of the expert's; by default 0.3 on the Fetch tasks,
    # 0 on the Hand tasks
    expert_random_eps: float | None = None
    workers: int = CORES  # robot tasks: processes; the data do not depend on it
    episodes_per_pair: int = 10  # PointMaze: trajectories for each of the three demonstrated start-goal pairs
    action_noise: float = 0.3  # PointMaze: deviation of the noise on every way-point of A*, clipped at 1
    step_length: float = 0.6  # PointMaze: distance between way-points
    force: bool = False  # collect again although the file is there
    verify: bool = False  # only check the file: its hashes, and a sample of its episodes made anew
    strict: bool = False  # refuse a file made with another mujoco version, which is warned about otherwise
    # robot tasks: only write a video, .mp4, of the expert to this file: its first episode, without exploration
    video: Path | None = None
    with_parent: bool = False  # stop when the process that started this one has ended, as the scripts of algos/ ask for
    speed: bool = False  # robot tasks: only measure collection against raw mj_step with the same controls


SETTINGS = {"PointMaze": ("episodes_per_pair", "action_noise", "step_length"),
            "robots": ("expert_episodes", "random_episodes", "expert_noise", "expert_random_eps")}
# expert_noise and expert_random_eps. The paper's Fetch data are WGCSL's, whose files are out of reach; that its expert
# explored as in training is what a file of the same authors suggests. Of the Hand data the paper names the trainer only;
# noise is an inference from its returns, and with random actions a Hand expert fails (README.md, "The expert explores")
EXPLORATION = {"Fetch": (0.2, 0.3), "Hand": (0.2, 0.0)}
NO_EXPLORATION = {"expert_random_eps": 0.0}  # of files that are older than this flag


def fail(message):
    """One line to stderr, exit status 2."""
    print(f"collect.py: error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def episode_seed(task, split, episode, seed, attempt=0):
    """The seed of one episode, which depends on nothing but these; a redrawn episode has had more attempts."""
    key = [zlib.crc32(task.encode()), zlib.crc32(split.encode()), episode, seed] + [attempt] * (attempt > 0)
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


# --- robot tasks


def import_mrn():
    """data/mrn.py, which takes seconds to import; without the notice of gymnasium_robotics, and without OpenGL.

    MuJoCo cannot be imported if MUJOCO_GL names one that is not there; to draw, import mujoco before.
    """
    with contextlib.redirect_stderr(io.StringIO()), mock.patch.dict(os.environ, MUJOCO_GL="disable"):
        import mrn
    return mrn


def load_expert(task):
    """The networks of data/experts/<task>.pt as float64 arrays, see expert_action(), and the file's SHA-256."""
    path = EXPERTS / f"{task}.pt"
    if not path.exists():
        fail(f"--task {task}: its expert {path} is missing; train it with `python data/mrn.py --task {task}` and "
             f"publish it with `python data/cards.py --expert {task}`")
    try:
        content, card = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())
        digest, expected = hashlib.sha256(content).hexdigest(), card["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"--task {task}: {path} or its card {path.stem}.json cannot be read ({error}); "
             "restore both, e.g. with `git checkout`")
    if digest != expected:
        fail(f"--task {task}: {path} is damaged or edited, its SHA-256 differs from its card {path.stem}.json; "
             "restore both, e.g. with `git checkout`")
    try:
        return read_expert(content), digest
    except Exception as error:  # a foreign file raises one of many kinds
        fail(f"--task {task}: {path} is not an expert of data/mrn.py ({type(error).__name__}: {error}); "
             "restore it, e.g. with `git checkout`")


def read_expert(content):
    """The networks in the bytes of an expert.pt of data/mrn.py, as float64 arrays."""
    import torch
    expert = torch.load(io.BytesIO(content), weights_only=True)
    names = ["body.0", "body.2", "body.4", "head"]
    layers = [[expert["actor"][f"{name}.{part}"].double().numpy() for part in ("weight", "bias")] for name in names]
    mean, std = (np.concatenate([expert[f"{part}_{kind}"].double().numpy() for part in ("obs", "goal")])
                 for kind in ("mean", "std"))
    return {"layers": layers, "mean": mean, "std": std, "clip": expert["clip"]}


def expert_action(expert, observation, goal):
    """The action (act_dim,) float32 for an observation (obs_dim,) and a goal (goal_dim,), both float64.

    One state at a time and in float64, so that the action, rounded to float32, depends neither on a batch nor, but for
    one rounding in millions, on how a CPU's matrix product orders its sums.
    """
    x = ((np.concatenate([observation, goal]) - expert["mean"]) / expert["std"]).clip(-expert["clip"], expert["clip"])
    *body, (weight, bias) = expert["layers"]
    for w, b in body:
        x = np.maximum(w @ x + b, 0)
    return np.tanh(weight @ x + bias).astype(np.float32)


class Robot:
    """The environment of a robot task, in which every episode runs as the first one of a new environment would."""

    def __init__(self, task, expert):
        import mujoco
        self.mj, self.mrn = mujoco, import_mrn()
        mujoco.set_mju_user_warning(lambda message: None)  # counted all the same; it would write MUJOCO_LOG.TXT
        self.task, self.expert = task, expert
        self.env, self.step, self.horizon = self.mrn.make_env(task)
        self.new = self.state()

    def state(self):
        kind = self.mj.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self.mj.mj_stateSize(self.env.model, kind))
        self.mj.mj_getState(self.env.model, self.env.data, state, kind)
        return state

    def restore(self, state):
        self.mj.mj_setState(self.env.model, self.env.data, state, self.mj.mjtState.mjSTATE_INTEGRATION)

    def reset(self, seed):
        self.restore(self.new)
        self.env.data.warning.number[:] = 0
        return self.env.reset(seed=seed)[0]

    def episode(self, split, episode, seed, noise=0.0, random_eps=0.0):
        """Runs one episode: a dict of its row in each array of the format, and of how often it was redrawn."""
        for attempt in itertools.count():
            if attempt == 100:
                raise RuntimeError(f"{split} episode {episode}: MuJoCo warned of a bad state 100 times")
            own_seed = episode_seed(self.task, split, episode, seed, attempt)
            start = self.reset(own_seed)
            observation, goal = start["observation"], start["desired_goal"]
            rng, shape = np.random.default_rng([own_seed, 1]), (self.horizon, *self.env.action_space.shape)
            if split == "random":
                drawn, random = rng.uniform(-1, 1, shape), np.ones(self.horizon, bool)
            else:
                drawn, random = noise * rng.standard_normal(shape), rng.random(self.horizon) < random_eps
                drawn[random] = rng.uniform(-1, 1, (random.sum(), shape[1]))
            observations, achieved, actions = [observation], [start["achieved_goal"]], drawn.astype(np.float32)
            for action, by_chance in zip(actions, random):
                if not by_chance:
                    action[:] = np.clip(action + expert_action(self.expert, observation, goal), -1, 1)
                observation, now = self.step(action)
                observations.append(observation)
                achieved.append(now)
            if not self.env.data.warning.number.any():
                break
        achieved = np.array(achieved)
        reward = self.mrn.compute_reward(self.env, achieved[1:], np.tile(goal, (self.horizon, 1)))
        return {"observations": np.array(observations, np.float32), "achieved_goals": achieved.astype(np.float32),
                "desired_goals": goal.astype(np.float32), "actions": actions, "success": reward == 0,
                "source": np.uint8(split != "random"), "seeds": np.int64(own_seed), "redrawn": attempt}

    def raw_seconds(self, split, episode, seed, noise=0.0, random_eps=0.0):
        """Seconds that mj_step alone takes with the controls of an episode, and mj_forward where env.step calls it."""
        made = self.episode(split, episode, seed, noise, random_eps)
        self.reset(int(made["seeds"]))
        data, start, controls = self.env.data, self.state(), []
        for action in made["actions"]:
            self.step(action)
            controls.append((data.ctrl.copy(), data.mocap_pos.copy(), data.mocap_quat.copy()))
        self.restore(start)
        began, forward = time.perf_counter(), 0.0
        for ctrl, mocap_pos, mocap_quat in controls:
            data.ctrl[:], data.mocap_pos[:], data.mocap_quat[:] = ctrl, mocap_pos, mocap_quat
            self.mj.mj_step(self.env.model, data, nstep=self.env.n_substeps)
            if getattr(self.env, "block_gripper", False):  # env.step then puts the fingers back into their place
                paused = time.perf_counter()
                self.mj.mj_forward(self.env.model, data)
                forward += time.perf_counter() - paused
        return time.perf_counter() - began - forward, forward


@contextlib.contextmanager
def without_ctrl_c():
    """Processes that start in here never get Ctrl-C, not even while they import; this one gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    multiprocessing.resource_tracker.ensure_running()  # starting it would end what follows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(pipe, task):
    """A process that gets the expert, then does what it is asked until the pipe closes.

    It closes when the parent ends, however that ends: no process is left behind.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows only now
    try:
        robot = Robot(task, pipe.recv())
        pipe.send(None)
        while True:
            method, *job = pipe.recv()
            pipe.send(getattr(robot, method)(*job))
    except (EOFError, ConnectionError):
        pass
    except Exception as error:  # told in one line by the parent
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def simulate(task, expert, jobs, workers, method="episode"):
    """Does each of the jobs, arguments of Robot.episode, in one of `workers` processes.

    Returns the results, in the order of the jobs, and the seconds they took from when all processes were ready.
    """
    context, processes, results = multiprocessing.get_context("spawn"), {}, [None] * len(jobs)
    try:
        for _ in range(min(workers, len(jobs))):
            pipe, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, task), daemon=True)
            with mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_NUM_THREADS="1",
                                 MUJOCO_GL="disable"), without_ctrl_c():  # see import_mrn()
                process.start()
                processes[pipe] = process
            theirs.close()

        def talk(pipe, *message):
            """Sends a message, or receives one; ends the program if the worker has died or failed."""
            try:
                answer = pipe.send(*message) if message else pipe.recv()
            except (EOFError, ConnectionError):
                processes[pipe].join(1)
                fail(f"--workers {workers}: a worker process died (exit code {processes[pipe].exitcode}; "
                     "is there enough memory?); nothing was written, try again with fewer")
            if isinstance(answer, Exception):
                fail(f"--task {task}: a worker process failed ({answer}); mujoco {version('mujoco')} is installed, is that "
                     "the version in requirements.txt?")
            return answer

        for pipe in processes:
            talk(pipe, expert)  # not an argument of the process: start() would wait for ever if it died at once
        for pipe in processes:
            talk(pipe)
        began, waiting, doing = time.monotonic(), enumerate(jobs), {pipe: [] for pipe in processes}

        def give(pipe):
            for k, job in itertools.islice(waiting, 1):
                doing[pipe].append(k)
                talk(pipe, (method, *job))

        for pipe in [*processes, *processes]:  # the second is there when the first is done
            give(pipe)
        with tqdm(total=len(jobs), unit=" episodes", dynamic_ncols=True) as bar:
            while any(doing.values()):
                for pipe in multiprocessing.connection.wait([pipe for pipe in processes if doing[pipe]]):
                    results[doing[pipe].pop(0)] = talk(pipe)
                    give(pipe)
                    bar.update()
        return results, time.monotonic() - began
    finally:
        for pipe, process in processes.items():
            pipe.close()
            process.terminate()
        for process in processes.values():
            process.join()


def robot_jobs(args):
    """The jobs of a dataset, in the order of the file."""
    counts = (("expert", args.expert_episodes), ("random", args.random_episodes))
    return [(split, k, args.seed, args.expert_noise, args.expert_random_eps)
            for split, count in counts for k in range(count)]


def stack(episodes):
    """The arrays of the format from results of Robot.episode."""
    return {name: np.stack([episode[name] for episode in episodes]) for name in episodes[0] if name != "redrawn"}


def collect_robots(args, expert):
    """Episodes of a robot task: arrays by name, as described at the top of this file, and counts of redrawn ones."""
    episodes, _ = simulate(args.task, expert, robot_jobs(args), args.workers)
    redrawn = {split: sum(episode["redrawn"] for episode in episodes if episode["source"] == code)
               for split, code in (("expert", 1), ("random", 0))}
    return stack(episodes), redrawn


def kind_of_machine():
    """What bits of a simulation may depend on besides versions: system, C library, processor, vector instructions.

    The processor counts because libraries choose their code by it: with the instructions alone, two machines of the
    same description differed in the last bits of HandBlockZ (desired goals, success and mean return were the same).
    """
    import torch
    processor = [platform.processor()]
    if Path("/proc/cpuinfo").exists():
        known = dict(re.findall(r"^(.+?)\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
        processor = [known[key] for key in ("vendor_id", "cpu family", "model") if key in known] or processor
    return " ".join(filter(None, [platform.system(), platform.machine(), "".join(platform.libc_ver()),
                                  torch.backends.cpu.get_cpu_capability(), "-".join(processor)]))


def measure(args, expert):
    """Prints how fast episodes are collected, of what mj_step alone allows with the same controls on as many cores.

    mj_step on its own knows no resets, observations, policy or rewards: all of them count as loss. So does mj_forward,
    which env.step calls once more on FetchReach, FetchPush and FetchSlide; the share with it is printed as well.
    """
    jobs = [("random" if k % 5 else "expert", k, args.seed, args.expert_noise, args.expert_random_eps)
            for k in range(160 * args.workers)]  # so many that the last episode, when one core waits, hardly counts
    shares = []
    for _ in range(3):
        episodes, seconds = simulate(args.task, expert, jobs, args.workers)
        raw, _ = simulate(args.task, expert, jobs, args.workers, "raw_seconds")
        steps, (alone, forward) = sum(len(episode["actions"]) for episode in episodes), np.sum(raw, 0)
        shares.append((alone / args.workers / seconds, (alone + forward) / args.workers / seconds))
        print(f"{args.task}, {args.workers} workers: {steps / seconds:,.0f} steps/s, raw mj_step "
              f"{steps * args.workers / alone:,.0f} steps/s, share {shares[-1][0]:.1%}", flush=True)
    share, more = np.median(shares, 0)
    print(f"{args.task}: median share {share:.1%}" + f" ({more:.1%} with mj_forward)" * (more > share)
          + f", load average {os.getloadavg()[0]:.1f}")


def render(path, task, seed, pipe):
    """Process that writes a video of the expert's first episode, with the OpenGL that MUJOCO_GL names.

    On failure it sends whether OpenGL is the reason, and a line that says what happened. It ends with its parent, and
    then removes the folder of `path`, for which a parent that was killed had no time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: (shutil.rmtree(path.parent, ignore_errors=True), os._exit(1)))
    threading.Thread(target=stop_with, args=(multiprocessing.parent_process().pid,), daemon=True).start()
    drawing = False
    try:
        import imageio
        robot = Robot(task, load_expert(task)[0])
        episode = robot.episode("expert", 0, seed)
        robot.reset(int(episode["seeds"]))
        # Drawing the goal changes the simulation of a Hand: a second environment, which only shows states, does that.
        drawing = True
        camera = gym.make(robot.env.spec, render_mode="rgb_array").unwrapped
        camera.reset(seed=0)
        camera.render()
        drawing = False
        camera.goal = robot.env.goal
        with imageio.get_writer(path, format="FFMPEG", fps=camera.metadata["render_fps"], codec="libx264",
                                ffmpeg_log_level="quiet") as video:
            for action in [None, *episode["actions"]]:
                if action is not None:
                    robot.step(action)
                for name in ("qpos", "qvel", "mocap_pos", "mocap_quat"):
                    getattr(camera.data, name)[:] = getattr(robot.env.data, name)
                robot.mj.mj_forward(camera.model, camera.data)
                video.append_data(camera.render())
        frames = imageio.get_reader(path, format="FFMPEG").count_frames()  # ffmpeg does not fail on a full disk
        if frames != len(episode["actions"]) + 1:
            raise OSError(f"only {frames} frames were written; is the disk full?")
    except Exception as error:  # a missing library raises one of many kinds
        pipe.send((drawing, f"{type(error).__name__}: {error}".splitlines()[0]))
        os._exit(1)  # some libraries crash when they are unloaded after that


def write_video(args):
    """Tries one OpenGL after the other, each in its own process: once loaded, one cannot be exchanged."""
    context, chosen = multiprocessing.get_context("spawn"), os.environ.get("MUJOCO_GL")
    backends = [chosen] if chosen else ["egl", "osmesa"] if sys.platform == "linux" else ["glfw"]
    reasons = []
    with tempfile.TemporaryDirectory(dir=args.video.parent, prefix=f".{args.video.name}.") as folder:
        temporary = Path(folder) / "video.mp4"
        for backend in backends:
            pipe, theirs = context.Pipe()
            process = context.Process(target=render, args=(temporary, args.task, args.seed, theirs), daemon=True)
            with mock.patch.dict(os.environ, MUJOCO_GL=backend):
                process.start()
            theirs.close()
            try:
                drawing, why = pipe.recv()
            except EOFError:  # it ended without a message: well, or by a crash of the OpenGL library
                drawing, why = True, "ended without a message"
            process.join()
            if process.exitcode == 0 and temporary.exists():
                os.replace(temporary, args.video)
                print(f"{args.video}: the expert's first episode on {args.task}, rendered with {backend}")
                return
            if not drawing:
                fail(f"--video {args.video}: {why}; nothing was written: free space there, or run "
                     "`pip install -r requirements.txt`")
            reasons.append(f"{backend}: {why}, exit code {process.exitcode}")
    fail(f"--video {args.video}: no offscreen OpenGL works here ({'; '.join(reasons)}); install libegl1 or libosmesa6, "
         "or name another with the variable MUJOCO_GL")


# --- the file


def versions():
    packages = ("numpy", "gymnasium", "gymnasium-robotics", "mujoco")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


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
    manifest["versions"] = versions()
    manifest["platform"] = f"{platform.system()} {platform.machine()}"
    manifest["sha256"] = {name: sha256(array) for name, array in arrays.items()}
    return manifest


def arguments(args):
    """The settings that the arrays depend on."""
    unused = {"out", "force"}
    if isinstance(args, Args):
        others = "robots" if args.task == "PointMaze" else "PointMaze"
        unused |= {"workers", "verify", "strict", "video", "with_parent", "speed", *SETTINGS[others]}
    return {key: value for key, value in asdict(args).items() if key not in unused}


def check_manifest(manifest):
    """Raises ValueError for a manifest without what the programs here read."""
    for name, kind in {"format": int, "task": str, "env_id": str, "arguments": dict, "versions": dict, "expert": dict,
                       "random": dict, "platform": str, "sha256": dict}.items():
        if not isinstance(manifest.get(name), kind):
            raise ValueError(f"its manifest has no {name}")
    for name in ("expert", "random"):
        if manifest[name].get("episodes") != 0 and not {"episodes", "return", "success"} <= manifest[name].keys():
            raise ValueError(f"its manifest lacks episodes, return or success of {name}")
    if manifest["format"] != FORMAT:
        raise ValueError(f"it has format {manifest['format']}, this program reads format {FORMAT}")


def read_dataset(path, mend):
    """The arrays and the manifest of a file, checked against its hashes."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        manifest = json.loads(str(arrays.pop("manifest")))
        check_manifest(manifest)
        whole = manifest["sha256"] == {name: sha256(array) for name, array in arrays.items()}
    except Exception as error:  # a damaged or foreign file raises one of many kinds
        fail(f"--out {path}: is there but is not a readable dataset ({error}); {mend}")
    if not whole:
        fail(f"--out {path}: is there but its arrays differ from its manifest; {mend}")
    return arrays, manifest


def other_mujoco(path, task, versions):
    """A line on the mujoco version that a dataset was made with, None if it is that of here."""
    there, here = versions.get("mujoco"), version("mujoco")
    if there != here and task != "PointMaze":  # which does not use it
        return (f"{path}: was made with mujoco {there}, here is {here}, in which the same seed and actions lead "
                "elsewhere")


def check_versions(path, manifest, args):
    """Warns of another mujoco version, or fails with --strict."""
    if message := other_mujoco(path, args.task, manifest["versions"]):
        if args.strict:
            fail(f"--strict: {message}; install that version or collect it again with --force")
        print(f"collect.py: warning: {message}", file=sys.stderr)


def check_existing(path, args, expert_hash=None):
    """The manifest of an existing file; fails unless it is whole and was made with the same settings."""
    _, manifest = read_dataset(path, "replace it with --force")
    made_with = NO_EXPLORATION | manifest["arguments"]
    for key, value in arguments(args).items():
        if made_with.get(key) != value:
            fail(f"--{key.replace('_', '-')} {value}: {path} is there and was made with {made_with.get(key)}; "
                 "replace it with --force or name another --out")
    if manifest["expert"].get("sha256") != expert_hash:
        fail(f"--out {path}: is there and was made with another expert than {EXPERTS / args.task}.pt; replace it with "
             "--force or name another --out")
    check_versions(path, manifest, args)
    return manifest


def verify(path, args):
    """Makes a sample of a file's episodes anew, PointMaze's all; fails unless they are the same.

    Bit for bit where versions and kind of machine are those of the manifest. Elsewhere by distribution: no statistic of
    the sample lies 5 standard errors or more from the file's.
    """
    if not path.exists():
        fail(f"--out {path}: does not exist; without --verify it is collected")
    arrays, manifest = read_dataset(path, "collect it again with --force")
    check_versions(path, manifest, args)
    made_with, robots = NO_EXPLORATION | manifest["arguments"], args.task != "PointMaze"
    if manifest["task"] != args.task:
        fail(f"--task {args.task}: {path} is of {manifest['task']}")
    names = ("seed", *SETTINGS["robots" if robots else "PointMaze"])
    whole = {"seed", "expert_episodes", "random_episodes", "episodes_per_pair"}
    if "origin" in manifest or arrays.keys() != ARRAYS or any(
            type(made_with.get(name)) not in (int, int if name in whole else float) for name in names):
        fail(f"--verify: {path} does not come from collect.py, so its episodes cannot be made anew")
    made = Args(task=args.task, workers=args.workers, **{name: made_with[name] for name in names})
    check(made, f"--verify: the manifest of {path} has ")
    same = manifest["versions"] == versions()
    count = made.expert_episodes + made.random_episodes if robots else 3 * made.episodes_per_pair
    for name, array in arrays.items():
        if len(array) != count:
            fail(f"--verify: {path} holds {name} of {len(array)} episodes, its manifest says {count}")
    if robots:
        same &= manifest["platform"] == kind_of_machine()
        jobs, most = robot_jobs(made), 10 if same else 100
        chosen = sorted({int(k) for first, n in ((0, made.expert_episodes), (made.expert_episodes, made.random_episodes))
                         for k in first + np.linspace(0, n - 1, min(n, most)).round()})
        expert = None
        if made.expert_episodes:
            expert, digest = load_expert(args.task)
            if manifest["expert"].get("sha256") != digest:
                fail(f"--verify: {path} was made with another expert than {EXPERTS / args.task}.pt; collect it again "
                     "with --force")
        fresh = stack(simulate(args.task, expert, [jobs[k] for k in chosen], args.workers)[0])
    else:
        chosen, fresh = list(range(len(arrays["seeds"]))), collect_pointmaze(made)
    if same:
        for name, array in fresh.items():
            wrong = [k for row, k in enumerate(chosen) if sha256(array[row]) != sha256(arrays[name][k])]
            if wrong:
                fail(f"--verify: {path}: {name} of episode {wrong[0]} ({len(wrong)} of {len(chosen)} episodes) differ "
                     "from those made anew; collect it again with --force")
        print(f"{path}: whole; {len(chosen)} episodes made anew are the same, bit for bit")
        return

    def statistics(data):
        """One row per episode: return, success at the end, mean observation."""
        return np.column_stack([data["success"].sum(1), data["success"][:, -1], data["observations"].mean(1)])

    worst = 0.0
    for code in np.unique(arrays["source"]):
        theirs, ours = (statistics({name: x[name][x["source"] == code] for name in ("success", "observations")})
                        for x in (arrays, fresh))
        error = np.sqrt(theirs.var(0) / len(theirs) + ours.var(0) / len(ours)) + 1e-4
        worst = max(worst, float((np.abs(theirs.mean(0) - ours.mean(0)) / error).max()))
    if worst >= 5:
        fail(f"--verify: {path}: {len(chosen)} episodes made anew differ from it by {worst:.1f} standard errors; "
             "collect it again with --force")
    print(f"{path}: whole; made with other versions or on another kind of machine, {len(chosen)} episodes made anew "
          f"differ by at most {worst:.1f} standard errors")


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


def write(contents):
    """Writes {path: bytes} under temporary names, then renames: each is the old file or the new one, never a part.

    They are all old or all new, unless it is killed, or the disk fails, between two renames.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in contents}
    for path in contents:
        if path.is_dir():  # os.replace would say so, when others have been replaced
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        for path, content in contents.items():
            with open(temporary[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def foreign(path):
    """The file that a dataset's manifest would replace, if it is there and no manifest, like a card; else None."""
    beside = path.with_suffix(".json")
    try:
        return None if not beside.exists() or isinstance(json.loads(beside.read_bytes())["sha256"], dict) else beside
    except (KeyError, ValueError, TypeError, IsADirectoryError):
        return beside


def with_manifest(path, content, manifest):
    """What write() is given for a dataset: the file, and its manifest beside it."""
    return {path: content, path.with_suffix(".json"): (json.dumps(manifest, indent=1) + "\n").encode()}


def parse(kind, description, fail, argv=None):
    """tyro.cli, with the frame of lines around its error message made into one line for fail()."""
    framed = io.StringIO()
    try:
        with contextlib.redirect_stderr(framed):
            return tyro.cli(kind, args=argv, description=description)
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("╭╮╰╯│─ ") for line in framed.getvalue().splitlines()][1:]
        fail(" ".join(lines[:lines.index("")] if "" in lines else lines) + "; see --help")


def check(args, where=""):
    """Fails on a flag that is out of range; fills in the flags whose default depends on the task."""
    if args.task != "PointMaze" and args.task not in ROBOT_TASKS:
        fail(f"--task {args.task}: unknown; known are PointMaze, {', '.join(ROBOT_TASKS)}")
    robots = args.task != "PointMaze"
    for name in SETTINGS["PointMaze"] if robots else ("video", "speed", *SETTINGS["robots"]):
        if getattr(args, name) != getattr(Args, name):
            fail(f"--{name.replace('_', '-')}: is for {'PointMaze' if robots else 'the robot tasks'}, not {args.task}; "
                 "leave it out or name another --task")
    noise, random_eps = EXPLORATION["Fetch" if args.task.startswith("Fetch") else "Hand"]
    args.expert_noise = noise if args.expert_noise is None else args.expert_noise
    args.expert_random_eps = random_eps if args.expert_random_eps is None else args.expert_random_eps
    for flag, value, good in (("seed", args.seed, args.seed >= 0),
                              ("expert-episodes", args.expert_episodes, 0 <= args.expert_episodes <= 10**6),
                              ("random-episodes", args.random_episodes, 0 <= args.random_episodes <= 10**6),
                              ("expert-noise", args.expert_noise, 0 <= args.expert_noise <= 10),
                              ("expert-random-eps", args.expert_random_eps, 0 <= args.expert_random_eps <= 1),
                              ("workers", args.workers, 1 <= args.workers <= 1024),
                              ("action-noise", args.action_noise, 0 <= args.action_noise <= 10),
                              ("episodes-per-pair", args.episodes_per_pair, 1 <= args.episodes_per_pair <= 10**6),
                              ("step-length", args.step_length, 0.05 <= args.step_length <= 2)):
        if not good:
            fail(f"{where}--{flag} {value}: out of range; see --help")
    if not args.expert_episodes + args.random_episodes:
        fail("--expert-episodes 0: with --random-episodes 0 there is nothing to collect")
    if args.video and (args.video.suffix != ".mp4" or not os.path.isdir(args.video.parent)):
        fail(f"--video {args.video}: must name a file that ends in .mp4, in a folder that is there")


def stop_with(parent):
    """Ends this process like SIGTERM once `parent` has ended, even if that was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def main():
    args = parse(Args, __doc__, fail)
    # SIGTERM ends like Ctrl-C, through the clean-up in write() and simulate()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    check(args)
    if args.with_parent:
        threading.Thread(target=stop_with, args=(os.getppid(),), daemon=True).start()
    sys.path.insert(0, str(REPOSITORY))
    out = args.out or REPOSITORY / "data" / "datasets" / f"{args.task}.npz"
    if out.suffix != ".npz" or os.path.isdir(out):  # unlike Path.is_dir without an error for a folder it may not enter
        fail(f"--out {out}: must name a file that ends in .npz")
    robots, expert, digest = args.task != "PointMaze", None, None
    try:
        if args.verify:
            verify(out, args)
            return
        if robots and (args.expert_episodes or args.video or args.speed):
            expert, digest = load_expert(args.task)
        if args.video:
            write_video(args)
            return
        if args.speed:
            measure(args, expert)
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out):  # whoever comes second waits here, then finds the file
            if not args.force and (other := foreign(out)):
                fail(f"--out {out}: its manifest would replace {other}, which is none; name another, or --force it")
            if out.exists() and not args.force:
                manifest = check_existing(out, args, digest)
                write({out.with_suffix(".json"): (json.dumps(manifest, indent=1) + "\n").encode()})
                print(f"{out} is there already; --force collects it again")
                return
            content = io.BytesIO()
            if robots:
                arrays, redrawn = collect_robots(args, expert)
                manifest = describe(arrays, args, import_mrn().TASKS[args.task][0])
                manifest |= {"redrawn": redrawn, "platform": kind_of_machine()}
                manifest["expert"] |= {"sha256": digest} if digest else {}
                # not compressed; whether that would pay was not measured
                np.savez(content, **arrays, manifest=np.array(json.dumps(manifest)))
            else:
                arrays = collect_pointmaze(args)
                manifest = describe(arrays, args, "PointMaze-v0")
                np.savez_compressed(content, **arrays, manifest=np.array(json.dumps(manifest)))
            write(with_manifest(out, content.getvalue(), manifest))
    except KeyboardInterrupt:
        print(f"collect.py: interrupted, {args.video or out} is as it was", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        flag, path = ("video", args.video) if args.video else ("out", out)
        hint = "free space there" if error.errno == errno.ENOSPC else "name another file"
        fail(f"--{flag} {path}: {error.strerror or error}; {hint}")
    parts = [f"{manifest[split]['episodes']} {split} episodes, mean return {manifest[split]['return']:.1f}, "
             f"success {manifest[split]['success']:.2f}" for split in ("expert", "random") if manifest[split]["episodes"]]
    print(f"{out}: {'; '.join(parts)}")


if __name__ == "__main__":
    main()
