"""Experts for the Fetch and Shadow Hand tasks: online DDPG + HER with a metric residual network critic.

    python data/mrn.py --task HandBlockZ

The paper's Shadow Hand data come from agents trained like those of Liu et al., "Metric Residual Networks for
Sample Efficient Goal-Conditioned Reinforcement Learning" (AAAI 2023, arXiv 2208.08133). This is their recipe:
collect 20 noisy episodes, make 40 updates on transitions relabelled in hindsight, move the targets; repeat.
The critic is minus a distance between an embedding of (state, action) and one of (state, goal),
    Q(s, a, g) = -( rms( sym(f(s,a)) - sym(phi(s,g)) ) + max_k relu( asym(f(s,a)) - asym(phi(s,g)) )_k ),
which obeys the triangle inequality, as the optimal cost of reaching a goal does.

A run lives in runs/experts/<task>/:
    checkpoint.pt, replay.npz   all that `--resume` needs to go on as if never stopped, after every epoch
    small.pt                    checkpoint.pt without the target networks: under 5 MB, for git
    expert.pt, expert_last.pt   actor and normaliser of the best and the last epoch, under 1 MB: `load_expert`
    log.jsonl, curve.png        one line per epoch; success and return against environment steps
    args.json                   settings and versions
"""

import atexit
import contextlib
import dataclasses
import hashlib
import io
import json
import math
import multiprocessing
import os
import pickle
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, Optional

if __name__ == "__main__":
    os.environ["MUJOCO_GL"] = "disable"  # nothing is drawn here, and an OpenGL that is not there stops the import

import gymnasium as gym
import mujoco
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from collect import without_ctrl_c

with contextlib.redirect_stderr(io.StringIO()):  # it prints a notice about other tasks
    import gymnasium_robotics
    from gymnasium_robotics.utils import rotations

gym.register_envs(gymnasium_robotics)

# task: (environment, epochs of 1,000 episodes in Liu et al., object)
TASKS = {
    "FetchReach": ("FetchReach-v4", 25, None),
    "FetchPush": ("FetchPush-v4", 50, "block"),
    "FetchPick": ("FetchPickAndPlace-v4", 50, "block"),
    "FetchSlide": ("FetchSlide-v4", 50, "puck"),
    "HandBlockZ": ("HandManipulateBlockRotateZ-v1", 50, "block"),
    "HandBlockParallel": ("HandManipulateBlockRotateParallel-v1", 100, "block"),
    "HandBlockXYZ": ("HandManipulateBlockRotateXYZ-v1", 100, "block"),
    "HandEggRotate": ("HandManipulateEggRotate-v1", 50, "egg"),
}


@dataclasses.dataclass
class Args:
    task: str = "HandBlockZ"
    """Fetch{Reach,Push,Pick,Slide}, HandBlock{Z,Parallel,XYZ} or HandEggRotate"""
    critic: Literal["mrn", "monolithic"] = "mrn"
    """metric residual network, or one MLP on (state, action, goal)"""
    steps: Optional[int] = None
    """environment steps in all; default: the 25 to 100 epochs of 1,000 episodes of Liu et al."""
    stop_at: Optional[float] = None
    """stop early when the success rate of the evaluation is at least this ..."""
    stop_after: int = 2
    """... in so many epochs in a row"""
    seed: int = 1
    """the same seed, workers and threads give the same run on the same kind of machine"""
    resume: bool = False
    """go on from the checkpoint in the run's folder; the settings of the training are to be given again"""
    start_from: Optional[str] = None
    """begin with the networks and the replay of this run of another task of the same robot and object, if it is new:
    the experience of HandBlockZ, with other goals, is worth millions of steps of HandBlockXYZ"""
    runs: str = "runs/experts"
    """the run is kept in <runs>/<task>"""
    workers: int = os.cpu_count() or 1
    """processes that collect episodes; 0: collect in this process"""
    threads: int = 0
    """threads for the updates; 0: one per core"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """arithmetic of the updates; auto: bf16 where the processor has instructions for it"""
    check_stepper: bool = False
    """only compare the fast stepper of the task with env.step, bit for bit over 1,000 random steps"""
    eval_episodes: int = 50
    """noiseless episodes per epoch, from the same seeds each time"""
    cycles_per_epoch: int = 50
    """cycles of collecting and updating between two evaluations"""
    episodes_per_cycle: int = 20
    """episodes collected per cycle"""
    updates_per_cycle: int = 40
    """gradient steps of critic and actor per cycle"""
    batch_size: int = 1024
    """transitions per gradient step"""
    lr: float = 1e-3
    """learning rate of Adam, for actor and critic; can be changed with --resume"""
    gamma: float = 0.98
    """discount factor"""
    polyak: float = 0.9
    """share of the old target networks kept at their update, once per cycle"""
    her_rate: float = 0.8
    """share of transitions whose goal becomes one achieved later in the same episode"""
    noise: float = 0.2
    """standard deviation of the exploration noise, in units of the largest action"""
    random_eps: float = 0.3
    """probability of a uniformly random action"""
    clip: float = 5.0
    """bound of normalised observations and goals, in deviations; with 5 FetchPick cannot see heights above 0.76 m, as
    its replay rarely holds them, and misses the goals there"""
    action_l2: float = 1.0
    """weight of the mean squared action in the loss of the actor"""
    replay_size: int = 1_000_000
    """transitions kept"""


class UserError(Exception):
    """Reported in one line, with exit status 2."""


# what --resume takes as it is now, and what it changes only if the flag is there; all else must be as before
FREE = "steps", "stop_at", "stop_after", "resume", "start_from", "runs", "workers", "threads", "check_stepper"
MAY_CHANGE = "precision", "eval_episodes", "cycles_per_epoch", "batch_size", "lr", "random_eps", "clip", "replay_size"
FOREIGN = RuntimeError, ValueError, LookupError, TypeError, AttributeError  # what contents of other files lead to


# ------------------------------------------------------------------------------------------ environments


def hand_stepper(env):
    """A function that does what `env.step` does, without the name look-ups that take 40 % of its time.

    It works on the environment's own model and data, so `env.reset` and `env.compute_reward` stay in use.
    Takes an action (20,) float32; returns the observation (61,) and the achieved goal (7,) in float64.
    """
    model, data, substeps = env.model, env.data, env.n_substeps
    joints = [model.joint(i) for i in range(model.njnt)]
    qpos = np.array([j.qposadr[0] for j in joints if j.name.startswith("robot")])
    qvel = np.array([j.dofadr[0] for j in joints if j.name.startswith("robot")])
    pose = model.joint("object:joint").qposadr[0] + np.arange(7)
    velocity = model.joint("object:joint").dofadr[0] + np.arange(6)
    low, high = model.actuator_ctrlrange.T.copy()
    center, half = (high + low) / 2.0, (high - low) / 2.0
    ctrl, positions, velocities = data.ctrl, data.qpos, data.qvel  # MuJoCo keeps its arrays in place

    def step(action):
        wanted = center + np.minimum(np.maximum(action, -1), 1) * half  # np.clip takes longer
        np.minimum(np.maximum(wanted, low), high, out=ctrl)
        mujoco.mj_step(model, data, nstep=substeps)
        observation = np.concatenate([positions[qpos], velocities[qvel], velocities[velocity], positions[pose]])
        return observation, observation[-7:]

    return step


def euler_angles(matrix):
    """rotations.mat2euler of one matrix (9,), with the same results bit for bit in a seventh of the time."""
    m00, m01, m02, _, _, m12, _, _, m22 = matrix.tolist()
    cy = math.sqrt(m22 * m22 + m12 * m12)
    if cy <= 1e-12:  # near a singularity, which that function treats apart
        return rotations.mat2euler(matrix.reshape(3, 3))
    return -np.arctan2((m12, -m02, m01), (m22, cy, m00))


def fetch_stepper(env):
    """As hand_stepper; takes an action (4,), returns an observation (10 or 25,) and an achieved goal (3,)."""
    model, data, substeps = env.model, env.data, env.n_substeps
    dt = substeps * model.opt.timestep
    joints = [model.joint(i) for i in range(model.njnt)]
    fingers = [j for j in joints if j.name.startswith("robot")][-2:]
    finger_qpos, finger_qvel = (np.array(x) for x in zip(*((j.qposadr[0], j.dofadr[0]) for j in fingers)))
    grip_site, object_site = model.site("robot0:grip").id, env.has_object and model.site("object0").id
    wrist = model.eq_obj2id[0]  # the one equality constraint welds the wrist to the mocap body
    actuated, is_position = model.jnt_qposadr[model.actuator_trnid[:, 0]], model.actuator_biastype != 0
    turn, reach = np.array([1.0, 0.0, 1.0, 0.0]), np.float32(0.05)
    jacp, jacr = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    # MuJoCo keeps its arrays in place
    qpos, qvel, ctrl = data.qpos, data.qvel, data.ctrl
    mocap_pos, mocap_quat, wrist_pos, wrist_quat = data.mocap_pos[0], data.mocap_quat[0], data.xpos[wrist], data.xquat[wrist]
    grip, position, matrix = data.site_xpos[grip_site], data.site_xpos[object_site], data.site_xmat[object_site]

    def step(action):
        action = np.minimum(np.maximum(action, -1), 1)
        gripper = 0.0 if env.block_gripper else float(action[3])
        ctrl[:] = np.where(is_position, qpos[actuated] + gripper, gripper)
        np.add(wrist_pos, action[:3] * reach, out=mocap_pos)
        np.add(wrist_quat, turn, out=mocap_quat)
        mujoco.mj_step(model, data, nstep=substeps)
        if env.block_gripper:
            qpos[finger_qpos] = 0.0
            mujoco.mj_forward(model, data)

        mujoco.mj_jacSite(model, data, jacp, None, grip_site)
        grip_velocity = jacp @ qvel * dt
        if env.has_object:
            mujoco.mj_jacSite(model, data, jacp, jacr, object_site)
            velocity, spin = jacp @ qvel * dt - grip_velocity, jacr @ qvel * dt
            parts = (grip, position, position - grip, qpos[finger_qpos], euler_angles(matrix), velocity, spin,
                     grip_velocity, qvel[finger_qvel] * dt)
        else:
            parts = grip, qpos[finger_qpos], grip_velocity, qvel[finger_qvel] * dt
        observation = np.concatenate(parts)
        return observation, observation[3:6] if env.has_object else observation[:3]

    return step


def make_env(task):
    """Returns (environment without wrappers, its fast stepper, episode length)."""
    spec = gym.spec(TASKS[task][0])
    env = gym.make(spec, disable_env_checker=True).unwrapped
    return env, (fetch_stepper if task.startswith("Fetch") else hand_stepper)(env), spec.max_episode_steps


def stepper_matches_env(task, steps=1000, seed=0):
    """Whether the fast stepper gives the observations and achieved goals of `env.step`, bit for bit.

    Both take the same random actions, a fifth of the entries out of range, and reset after every episode.
    """
    (env, _, horizon), (fast_env, fast_step, _) = make_env(task), make_env(task)
    rng = np.random.default_rng(seed)
    for t in range(steps):
        if t % horizon == 0:
            start, fast_start = env.reset(seed=seed + t)[0], fast_env.reset(seed=seed + t)[0]
            if any(not np.array_equal(start[key], fast_start[key]) for key in start):
                return False
        action = rng.uniform(-1.25, 1.25, env.action_space.shape).astype(np.float32)
        expected = env.step(action)[0]
        observation, achieved = fast_step(action)
        if not np.array_equal(observation, expected["observation"]):
            return False
        if not np.array_equal(achieved, expected["achieved_goal"]):
            return False
    return True


def compute_reward(env, achieved, goal):
    """The environment's reward, -1 or 0, of arrays (..., goal), which it takes in two dimensions only."""
    *shape, dim = achieved.shape
    return env.compute_reward(achieved.reshape(-1, dim), goal.reshape(-1, dim), {}).reshape(shape)


# ------------------------------------------------------------------------------------------- collecting


def make_policy(actor, normaliser):
    """A function from float32 observations (n, obs) and goals (n, goal) to actions (n, act) in [-1, 1]."""

    @torch.inference_mode()
    def policy(observation, goal):
        return actor(normaliser(torch.from_numpy(observation), torch.from_numpy(goal))).numpy()

    return policy


class Collector:
    """`count` environments of a task that advance together: one forward pass of the policy per time step."""

    def __init__(self, task, count):
        mujoco.set_mju_user_warning(lambda message: None)  # counted all the same; it would write MUJOCO_LOG.TXT
        made = [make_env(task) for _ in range(count)]
        self.envs, self.steppers, self.horizon = [m[0] for m in made], [m[1] for m in made], made[0][2]

    def run(self, policy, seeds, rng=None, noise=0.0, random_eps=0.0):
        """Runs an episode from each of at most `count` seeds, without exploration if there is no rng.

        Returns a dict of float32 arrays: observations (n, T+1, obs), achieved_goals (n, T+1, goal),
        desired_goals (n, goal), actions (n, T, act) and rewards (n, T), without the episodes in which MuJoCo
        warned of a bad state.
        """
        envs = self.envs[: len(seeds)]
        start = [env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds)]
        for env in envs:
            env.data.warning.number[:] = 0
        observation, achieved, goal = (
            np.array([s[key] for s in start]) for key in ("observation", "achieved_goal", "desired_goal")
        )
        observations, achieveds, actions = [observation], [achieved], []
        for _ in range(self.horizon):
            action = policy(observation.astype(np.float32), goal.astype(np.float32))
            if rng is not None:
                action = np.clip(action + noise * rng.standard_normal(action.shape), -1, 1)
                uniform = rng.uniform(-1, 1, action.shape)
                action = np.where(rng.random((len(action), 1)) < random_eps, uniform, action)
            action = action.astype(np.float32)
            observation, achieved = (np.array(x) for x in zip(*[f(a) for f, a in zip(self.steppers, action)]))
            observations.append(observation)
            achieveds.append(achieved)
            actions.append(action)
        observations, achieveds, actions = (np.stack(x, axis=1) for x in (observations, achieveds, actions))
        reached = achieveds[:, 1:]
        rewards = compute_reward(envs[0], reached, np.broadcast_to(goal[:, None], reached.shape))
        episodes = dict(observations=observations, achieved_goals=achieveds, desired_goals=goal)
        episodes |= dict(actions=actions, rewards=rewards)
        sound = [not env.data.warning.number.any() for env in envs]
        return {key: value[sound].astype(np.float32) for key, value in episodes.items()}


def collect_worker(pipe, task, count):
    """A process that answers requests (networks, arguments of Collector.run) until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes, one is for the trainer to end a cycle with
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    collector = Collector(task, count)
    try:
        while True:
            actor, normaliser, seeds, rng_seed, exploration = pickle.loads(pipe.recv_bytes())
            rng = rng_seed and np.random.default_rng(rng_seed)
            pipe.send(collector.run(make_policy(actor, normaliser), seeds, rng, **exploration))
    except (EOFError, ConnectionError):
        pass


class Collectors:
    """Spreads episodes over worker processes, or runs them in this one."""

    def __init__(self, task, count, workers):
        self.count, self.pipes = count, []
        if not workers:
            self.local = Collector(task, count)
        context = multiprocessing.get_context("spawn")
        for _ in range(min(workers, count)):
            pipe, theirs = context.Pipe()
            share = math.ceil(count / min(workers, count))
            with without_ctrl_c():
                context.Process(target=collect_worker, args=(theirs, task, share), daemon=True).start()
            theirs.close()
            self.pipes.append(pipe)
            atexit.register(pipe.close)  # which ends the worker, before multiprocessing waits for it

    def run(self, actor, normaliser, seeds, rng_seed=None, **exploration):
        """Runs an episode from each seed, `count` at a time; returns the dict of Collector.run.

        Exploration follows from rng_seed, a tuple of integers; None: no exploration. Nothing outlives a call.
        """
        rounds = []
        for i in range(0, len(seeds), self.count):
            shares = np.array_split(seeds[i : i + self.count], max(len(self.pipes), 1))
            rng_seeds = [rng_seed and (*rng_seed, i, k) for k in range(len(shares))]
            if not self.pipes:
                rng = rng_seeds[0] and np.random.default_rng(rng_seeds[0])
                rounds.append(self.local.run(make_policy(actor, normaliser), shares[0], rng, **exploration))
                continue
            try:
                used = [job for job in zip(self.pipes, shares, rng_seeds) if len(job[1])]
                for pipe, share, share_seed in used:
                    pipe.send_bytes(pickle.dumps((actor, normaliser, share, share_seed, exploration)))
                rounds += [pipe.recv() for pipe, _, _ in used]
            except (EOFError, ConnectionError):
                raise UserError("a worker process died (no memory?): go on with --resume, fewer --workers")
        return {key: np.concatenate([r[key] for r in rounds]) for key in rounds[0]}


# ------------------------------------------------------------------------------------------- networks


def mlp(*sizes):
    """Linear layers, each followed by a ReLU."""
    return nn.Sequential(*[layer for i, o in zip(sizes, sizes[1:]) for layer in (nn.Linear(i, o), nn.ReLU())])


def float32_linear(linear, x):
    # In bf16 values near -50 are 0.25 apart, so the last layers and the distances stay in float32.
    with torch.autocast("cpu", enabled=False):
        return linear(x.float())


class Actor(nn.Module):
    """Maps normalised observations and goals, (n, obs + goal), to actions (n, act) in [-1, 1]."""

    def __init__(self, in_dim, act_dim, hidden=256):
        super().__init__()
        self.body, self.head = mlp(in_dim, hidden, hidden, hidden), nn.Linear(hidden, act_dim)

    def forward(self, x):
        return torch.tanh(float32_linear(self.head, self.body(x)))


class MetricResidualCritic(nn.Module):
    """Q(s, a, g): minus the distance of symmetric embeddings and the largest excess of asymmetric ones."""

    def __init__(self, obs_dim, goal_dim, act_dim, hidden=176, embedding=16):
        super().__init__()
        self.obs_dim = obs_dim
        self.f, self.phi = mlp(obs_dim + act_dim, hidden, hidden), mlp(obs_dim + goal_dim, hidden, hidden)
        self.sym, self.sym_out = mlp(hidden, hidden), nn.Linear(hidden, embedding)
        self.asym, self.asym_out = mlp(hidden, hidden), nn.Linear(hidden, embedding)

    def forward(self, x, action):
        """Takes x (n, obs + goal), normalised, and action (n, act); returns (n,)."""
        f, phi = self.f(torch.cat([x[:, : self.obs_dim], action], 1)), self.phi(x)
        sym = float32_linear(self.sym_out, self.sym(f)) - float32_linear(self.sym_out, self.sym(phi))
        asym = float32_linear(self.asym_out, self.asym(f)) - float32_linear(self.asym_out, self.asym(phi))
        # The authors' code has no epsilon, and an infinite gradient where the embeddings meet.
        return -((sym.square().mean(1) + 1e-12).sqrt() + F.relu(asym).amax(1))


class MonolithicCritic(nn.Module):
    """Q(s, a, g) by one MLP; shapes as in MetricResidualCritic."""

    def __init__(self, obs_dim, goal_dim, act_dim, hidden=256):
        super().__init__()
        self.body, self.out = mlp(obs_dim + goal_dim + act_dim, hidden, hidden, hidden), nn.Linear(hidden, 1)

    def forward(self, x, action):
        return float32_linear(self.out, self.body(torch.cat([x, action], 1)))[:, 0]


class Normaliser(nn.Module):
    """Scales observations and goals by running statistics, clips them to +-clip deviations, concatenates them."""

    floor = 1e-2

    def __init__(self, obs_dim, goal_dim, clip):
        super().__init__()
        self.clip = clip
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        for name, dim in ("obs", obs_dim), ("goal", goal_dim):
            self.register_buffer(f"{name}_sum", torch.zeros(dim, dtype=torch.float64))
            self.register_buffer(f"{name}_squares", torch.zeros(dim, dtype=torch.float64))
            self.register_buffer(f"{name}_mean", torch.zeros(dim))
            self.register_buffer(f"{name}_std", torch.ones(dim))

    def update(self, observation, goal):
        """Counts in numpy arrays of observations (n, obs) and goals (n, goal)."""
        self.count += len(observation)
        for name, x in ("obs", observation), ("goal", goal):
            x = torch.from_numpy(x).double()
            total, squares = self.get_buffer(f"{name}_sum"), self.get_buffer(f"{name}_squares")
            total += x.sum(0)
            squares += x.square().sum(0)
            mean = total / self.count
            variance = squares / self.count - mean.square()
            self.get_buffer(f"{name}_mean").copy_(mean)
            self.get_buffer(f"{name}_std").copy_(variance.clamp(min=self.floor**2).sqrt())

    def forward(self, observation, goal):
        observation = ((observation - self.obs_mean) / self.obs_std).clamp(-self.clip, self.clip)
        goal = ((goal - self.goal_mean) / self.goal_std).clamp(-self.clip, self.clip)
        return torch.cat([observation, goal], -1)


# ------------------------------------------------------------------------------------------- replay


class Replay:
    """Whole episodes in float32 arrays; when full, new ones overwrite random ones."""

    def __init__(self, capacity, horizon, obs_dim, goal_dim, act_dim):
        shapes = dict(observations=(horizon + 1, obs_dim), achieved_goals=(horizon + 1, goal_dim))
        shapes |= dict(desired_goals=(goal_dim,), actions=(horizon, act_dim))
        self.capacity, self.size = capacity, 0
        self.arrays = {k: np.zeros((capacity, *shape), np.float32) for k, shape in shapes.items()}

    def add(self, episodes, rng):
        """Raises KeyError or ValueError if it is given the episodes of something else."""
        n = len(episodes["actions"])
        free = np.arange(self.size, min(self.size + n, self.capacity))
        slots = np.concatenate([free, rng.integers(self.capacity, size=n - len(free))])
        for key, array in self.arrays.items():
            if episodes[key].shape[1:] != array.shape[1:]:
                raise ValueError(f"{key} of shape {episodes[key].shape[1:]}, not {array.shape[1:]}")
            array[slots] = episodes[key]
        self.size = min(self.size + n, self.capacity)

    def filled(self):
        return {k: v[: self.size] for k, v in self.arrays.items()}


def sample(episodes, n, her_rate, env, rng):
    """Draws n transitions from episodes and relabels a share of them in hindsight.

    Returns float32 observations, next observations, goals, actions and rewards. A relabelled goal is what the
    episode achieved at a time uniform from the next state to the last ("future", Andrychowicz et al. 2017).
    """
    size, horizon, _ = episodes["actions"].shape
    i, t = rng.integers(size, size=n), rng.integers(horizon, size=n)
    goal = episodes["desired_goals"][i]
    hind = np.flatnonzero(rng.random(n) < her_rate)
    goal[hind] = episodes["achieved_goals"][i[hind], rng.integers(t[hind] + 1, horizon + 1)]
    reward = compute_reward(env, episodes["achieved_goals"][i, t + 1], goal)
    observations = episodes["observations"]
    return observations[i, t], observations[i, t + 1], goal, episodes["actions"][i, t], reward


# ------------------------------------------------------------------------------------------- files


def commit():
    """The commit of this repository, with -dirty if files differ from it."""
    try:
        return subprocess.run(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty"],
                              capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def write_atomically(writers):
    """For {path: write} calls each write(binary file) on a temporary file beside its path, then renames all of them."""
    temporary = {path: path.with_name(path.name + ".tmp") for path in writers}
    try:
        for path, write in writers.items():
            with open(temporary[path], "wb") as file:
                write(file)
        for path in writers:
            os.replace(temporary[path], path)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        for unfinished in temporary.values():
            unfinished.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or "disk full?"
        raise UserError(f"{path}: cannot be written ({reason}): free some space or choose another --runs")


def read(path, mend):
    """The contents of a .pt file or the arrays of an .npz file, of which nothing is executed."""
    try:
        if path.suffix == ".pt":
            return torch.load(path, weights_only=True)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except MemoryError:  # the file may be sound
        raise
    except Exception as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}): {mend}")


def load_expert(path):
    """Reads expert.pt; returns (policy as of make_policy, dict of the file's contents). Raises UserError."""
    expert = read(Path(path), "restore it, or train it again")
    try:
        weights, obs_dim, goal_dim = expert["actor"], len(expert["obs_mean"]), len(expert["goal_mean"])
        actor = Actor(obs_dim + goal_dim, len(weights["head.bias"]), expert["hidden"])
        actor.load_state_dict(weights)
        normaliser = Normaliser(obs_dim, goal_dim, expert["clip"])
        statistics = {key: expert[key] for key in ("obs_mean", "obs_std", "goal_mean", "goal_std")}
        normaliser.load_state_dict(statistics, strict=False)
    except FOREIGN as error:
        raise UserError(f"{path}: is not an expert ({type(error).__name__}): restore it, or train it again")
    return make_policy(actor, normaliser), expert


def draw_curve(folder, log):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for axis, key in zip(axes, ("success", "return")):
        axis.plot([row["steps"] / 1e6 for row in log], [row[key] for row in log])
        axis.set(xlabel="environment steps (million)", ylabel=key, title=folder.name, ylim=(0, None))
    write_atomically({folder / "curve.png": lambda file: figure.savefig(file, format="png", dpi=120)})
    plt.close(figure)


# ------------------------------------------------------------------------------------------- training


def train(args):
    folder = Path(args.runs) / args.task
    # os.path's, as it is False, too, for a name that is too long
    found = next((p for p in (folder / "checkpoint.pt", folder / "small.pt") if os.path.exists(p)), None)
    if args.resume and not found:
        raise UserError(f"--resume: neither checkpoint.pt nor small.pt in {folder}: start without --resume")
    if found and not args.resume:
        raise UserError(f"{found} exists: go on with --resume, or choose another --runs")
    bf16 = args.precision == "bf16"
    if args.precision == "auto":
        capabilities = torch.cpu.get_capabilities()
        bf16 = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))

    torch.set_num_threads(args.threads or os.cpu_count() or 1)
    torch.manual_seed(args.seed)
    env, _, horizon = make_env(args.task)
    spaces = env.observation_space
    obs_dim, goal_dim = spaces["observation"].shape[0], spaces["desired_goal"].shape[0]
    act_dim = env.action_space.shape[0]
    steps_per_cycle = args.episodes_per_cycle * horizon
    cycles = TASKS[args.task][1] * 1000 // args.episodes_per_cycle
    if args.steps is not None:
        cycles = math.ceil(args.steps / steps_per_cycle)

    Critic = MetricResidualCritic if args.critic == "mrn" else MonolithicCritic
    actor, critic = Actor(obs_dim + goal_dim, act_dim), Critic(obs_dim, goal_dim, act_dim)
    actor_target, critic_target = Actor(obs_dim + goal_dim, act_dim), Critic(obs_dim, goal_dim, act_dim)
    actor_target.load_state_dict(actor.state_dict())
    critic_target.load_state_dict(critic.state_dict())
    normaliser = Normaliser(obs_dim, goal_dim, args.clip)
    actor_optimiser = torch.optim.Adam(actor.parameters(), lr=args.lr, fused=True)
    critic_optimiser = torch.optim.Adam(critic.parameters(), lr=args.lr, fused=True)
    if args.replay_size // horizon < args.episodes_per_cycle:
        raise UserError(f"--replay-size: must be at least {steps_per_cycle}, not {args.replay_size}")
    replay = Replay(args.replay_size // horizon, horizon, obs_dim, goal_dim, act_dim)
    collectors = Collectors(args.task, args.episodes_per_cycle, args.workers)
    exploration = dict(noise=args.noise, random_eps=args.random_eps)
    progress = dict(cycle=0, seconds=0.0, best=[-1.0, -1.0], log=[])
    parts = dict(actor=actor, critic=critic, normaliser=normaliser)
    parts |= dict(actor_optimiser=actor_optimiser, critic_optimiser=critic_optimiser)
    targets, metrics = dict(actor_target=actor_target, critic_target=critic_target), []

    if args.start_from and not args.resume:
        other = Path(args.start_from)
        saved = read(other / "checkpoint.pt", "name the folder of a run with --start-from")
        try:
            for name, part in (parts | targets).items():
                if isinstance(part, nn.Module):
                    part.load_state_dict(saved[name])
            episodes = read(other / "replay.npz", "name the folder of a run with --start-from")
            for task in saved["args"]["task"], str(episodes.get("task", args.task)):
                if TASKS[task][2] != TASKS[args.task][2]:  # the shapes do not tell a puck from a block
                    raise ValueError
            replay.add(episodes, np.random.default_rng(0))
        except FOREIGN:
            raise UserError(f"--start-from {other}: is of another robot, object or critic, or damaged: choose another")
        for name in "count", "obs_sum", "obs_squares", "goal_sum", "goal_squares":
            normaliser.get_buffer(name).mul_(0.05)  # the goals are others now: the new ones count for more

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--runs: {folder} cannot be made ({error.strerror}): choose another folder")
    try:
        import fcntl
        fcntl.lockf(os.open(folder / ".lock", os.O_CREAT | os.O_WRONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # a lock lasts until its process ends, and its workers do not share it
        raise UserError(f"--runs: another process is training in {folder}: wait for it, or choose another folder")
    except (ImportError, OSError):  # Windows, or a file system without locks
        pass

    if args.resume:
        mend = "delete it to " + "go on from small.pt, or to " * (found.name != "small.pt") + "start again"
        saved, given = read(found, mend), {word.partition("=")[0].replace("_", "-") for word in sys.argv}
        try:
            for field in dataclasses.fields(args):
                flag, now = "--" + field.name.replace("_", "-"), getattr(args, field.name)
                was = saved["args"].get(field.name, field.default)  # earlier versions had the defaults of later flags
                change = field.name in MAY_CHANGE
                if was != now and field.name not in FREE and not (change and flag in given):
                    raise UserError(f"{flag} {now}: {found} was made with {was}: give {flag} {was} again, or "
                                    + (f"{flag} {now} to change it" if change else "choose another --runs"))
            for name, part in (parts | targets).items():
                part.load_state_dict(saved.get(name) or saved[name.removesuffix("_target")])
            for group in actor_optimiser.param_groups + critic_optimiser.param_groups:
                group["lr"] = args.lr  # may be lowered for the last part of a training
            args.start_from = saved["args"].get("start_from")  # where its networks come from, for its card
            progress, metrics = saved["progress"], list(saved.get("metrics", ()))
            if saved["args"]["eval_episodes"] != args.eval_episodes:
                progress["best"] = [-1.0, -1.0]  # fewer episodes find a better best by chance
        except FOREIGN as error:
            raise UserError(f"{found}: is not a checkpoint of such a run ({type(error).__name__}): {mend}")
        if (folder / "replay.npz").exists():
            episodes = read(folder / "replay.npz", "delete it to refill the replay")
        else:
            n = min(progress["cycle"] * args.episodes_per_cycle, replay.capacity // 5)
            print(f"no {folder}/replay.npz: collecting {n} episodes with the present policy", flush=True)
            rng_seed = (args.seed, progress["cycle"], 1)
            seeds = np.random.SeedSequence(rng_seed).generate_state(n)
            episodes = collectors.run(actor, normaliser, seeds, rng_seed, **exploration)
        try:
            if episodes.get("task", args.task) != args.task:
                raise ValueError(f"task {episodes['task']}")
            replay.add(episodes, np.random.default_rng(0))
        except FOREIGN as error:
            raise UserError(f"{folder}/replay.npz: is not of such a run ({error}): delete it to refill the replay")

    versions = {m.__name__: m.__version__ for m in (torch, np, gym, gymnasium_robotics, mujoco)}
    settings = dict(args=dataclasses.asdict(args), bf16=bf16, versions=versions, platform=platform.platform())
    settings |= dict(commit=commit(), file_sha256=hashlib.sha256(Path(__file__).read_bytes()).hexdigest())
    write_atomically({folder / "args.json": lambda file: file.write(json.dumps(settings, indent=1).encode())})

    def save():
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= dict(progress=progress, args=dataclasses.asdict(args))
        state |= dict(metrics=torch.stack(metrics)) if metrics else {}  # of an epoch that is not at its end
        full = state | {name: target.state_dict() for name, target in targets.items()}
        write_atomically({folder / "replay.npz": lambda file: np.savez(file, task=args.task, **replay.filled()),
                          folder / "small.pt": lambda file: torch.save(state, file),
                          folder / "checkpoint.pt": lambda file: torch.save(full, file)})

    def save_expert(name, result):
        expert = dict(task=args.task, env_id=TASKS[args.task][0], critic=args.critic, seed=args.seed) | result
        expert |= {k: normaliser.get_buffer(k) for k in ("obs_mean", "obs_std", "goal_mean", "goal_std")}
        expert |= dict(clip=args.clip, action_scale=1.0)
        expert |= dict(actor=actor.state_dict(), hidden=actor.head.in_features)
        write_atomically({folder / name: lambda file: torch.save(expert, file)})

    def update(observation, next_observation, action, reward):
        """One gradient step of critic and actor; the observations are normalised and hold the goal."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                target = reward + args.gamma * critic_target(next_observation, actor_target(next_observation))
                # Rewards are -1 or 0 and reaching the goal ends nothing, so returns lie in [-1/(1-gamma), 0].
                target = target.clamp(-1.0 / (1.0 - args.gamma), 0.0)
            critic_loss = F.mse_loss(critic(observation, action), target)
            chosen = actor(observation)
            q = critic(observation, chosen).mean()
            actor_loss = -q + args.action_l2 * chosen.square().mean()
        critic_optimiser.zero_grad()
        actor_optimiser.zero_grad()
        critic_loss.backward(inputs=list(critic.parameters()))
        actor_loss.backward(inputs=list(actor.parameters()))
        critic_optimiser.step()
        actor_optimiser.step()
        return torch.stack([critic_loss, actor_loss, q]).detach()

    stop_signals = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stop_signals.append(received))
    timings, clock = dict(collect=0.0, update=0.0, evaluate=0.0, save=0.0), time.perf_counter()

    def lap(name):
        nonlocal clock
        seconds, clock = time.perf_counter() - clock, time.perf_counter()
        timings[name] += seconds
        progress["seconds"] += seconds

    name = "bf16" if bf16 else "fp32"
    print(f"{args.task}: {cycles * steps_per_cycle:,} steps in {folder}, updates in {name}", flush=True)
    while progress["cycle"] < cycles and not stop_signals:
        # Everything random in a cycle follows from (seed, cycle): there are no generator states to save.
        progress["cycle"] += 1
        rng_seed = (args.seed, progress["cycle"], 0)
        rng = np.random.default_rng(rng_seed)
        seeds = np.random.SeedSequence(rng_seed).generate_state(args.episodes_per_cycle)
        episodes = collectors.run(actor, normaliser, seeds, rng_seed, **exploration)
        replay.add(episodes, rng)
        # The authors count in T transitions of the new episodes, relabelled; we, as many as there are.
        observation, _, goal, _, _ = sample(episodes, steps_per_cycle, args.her_rate, env, rng)
        normaliser.update(observation, goal)
        lap("collect")

        batch = sample(replay.filled(), args.updates_per_cycle * args.batch_size, args.her_rate, env, rng)
        observation, next_observation, goal, action, reward = (torch.from_numpy(x) for x in batch)
        batch = normaliser(observation, goal), normaliser(next_observation, goal), action, reward
        for minibatch in zip(*(x.split(args.batch_size) for x in batch)):
            metrics.append(update(*minibatch))
        with torch.no_grad():
            for target, network in (actor_target, actor), (critic_target, critic):
                for old, new in zip(target.parameters(), network.parameters()):
                    old.lerp_(new, 1.0 - args.polyak)
        lap("update")
        if progress["cycle"] % args.cycles_per_epoch and progress["cycle"] < cycles:
            continue

        rewards = collectors.run(actor, normaliser, 1_000_000 + np.arange(args.eval_episodes))["rewards"]
        success, score = float((rewards[:, -1] == 0).mean()), float((rewards == 0).sum(1).mean())
        lap("evaluate")
        result = dict(steps=progress["cycle"] * steps_per_cycle, success=success, episodes=len(rewards))
        result["return"] = score
        if [success, score] >= progress["best"]:
            progress["best"] = [success, score]
            save_expert("expert.pt", result)
        save_expert("expert_last.pt", result)
        row = result | dict(zip(("critic_loss", "actor_loss", "q"), torch.stack(metrics).mean(0).tolist()))
        row |= dict(lr=args.lr, seconds=progress["seconds"], **{f"{name}_seconds": t for name, t in timings.items()})
        progress["log"].append({key: round(value, 6) for key, value in row.items()})
        split = ", ".join(f"{name} {value:.0f}" for name, value in timings.items())
        print(
            f"{args.task} {row['steps']:>9,} steps  success {success:.2f}  return {score:5.1f}  "
            f"q {row['q']:6.2f}  critic loss {row['critic_loss']:.3f}  {row['seconds']:,.0f} s ({split})",
            flush=True,
        )
        timings.update(dict.fromkeys(timings, 0.0))
        metrics.clear()
        save()
        log = "".join(json.dumps(row) + "\n" for row in progress["log"])
        write_atomically({folder / "log.jsonl": lambda file: file.write(log.encode())})
        lap("save")
        last = [row["success"] for row in progress["log"]][-args.stop_after:]
        if args.stop_at is not None and len(last) == args.stop_after and min(last) >= args.stop_at:
            break
    if stop_signals:
        save()
        print(f"stopped after cycle {progress['cycle']}: the same command with --resume goes on", flush=True)
        sys.exit(128 + stop_signals[0])
    draw_curve(folder, progress["log"])


def main(args):
    if args.task not in TASKS:
        raise UserError(f"--task: unknown task {args.task!r}: choose from {' '.join(TASKS)}")
    for field in dataclasses.fields(args):
        value, least = getattr(args, field.name), 0 if field.name in ("workers", "threads", "seed") else 1
        if field.type in (int, Optional[int]) and value is not None and not least <= value < 2**31:
            raise UserError(f"--{field.name.replace('_', '-')}: must be from {least} to {2**31 - 1}, not {value}")
    for name in "stop_at", "her_rate", "random_eps", "polyak", "gamma", "lr", "noise", "action_l2", "clip":
        value, least = getattr(args, name), 0.1 if name == "clip" else 0
        most = {"gamma": 0.9999, "noise": 10, "action_l2": 1000, "clip": 1000}.get(name, 1)
        if value is not None and not least <= value <= most:
            raise UserError(f"--{name.replace('_', '-')}: must be from {least} to {most}, not {value}")
    if args.check_stepper:
        equal = stepper_matches_env(args.task)
        print(f"{args.task}: the fast stepper {'equals' if equal else 'DIFFERS FROM'} env.step")
        sys.exit(0 if equal else 1)
    train(args)


def parse():
    """tyro.cli, with the frame of lines around its error message made into one line. Raises UserError."""
    framed = io.StringIO()
    try:
        with contextlib.redirect_stderr(framed):
            return tyro.cli(Args, description=__doc__.splitlines()[0])
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("╭╮╰╯│─ ") for line in framed.getvalue().splitlines()][1:]
        raise UserError(" ".join(lines[:lines.index("")] if "" in lines else lines) + "; see --help") from None


if __name__ == "__main__":
    try:
        main(parse())
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        no_memory = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)  # torch's
        if isinstance(error, RuntimeError) and not no_memory:
            raise
        print(f"mrn.py: error: {error}" + "; less of --batch-size or --replay-size needs less" * no_memory,
              file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
