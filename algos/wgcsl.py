# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium==1.4.0", "gymnasium-robotics==1.4.2", "matplotlib", "mujoco==3.2.7", "numpy",
#                 "tensorboard", "torch==2.13.0", "tqdm", "tyro>=1.0"]
# ///
"""WGCSL: weighted goal-conditioned supervised learning, with or without goal swapping.

Yang et al. (2022), "Rethinking goal-conditioned supervised learning and its connection to offline RL", arXiv
2202.04478. The actor clones actions towards goals that their trajectory achieved later. Three weights tell good
examples from bad ones: the discount over the steps to the goal, exp(advantage), and a preference for the best
advantages of late. Twin critics learn on desired goals as well.

    python algos/wgcsl.py --task PointMaze --updates 15000

Nothing else of its repository is needed: with --task <id of a registered Gymnasium goal environment> and --dataset
file.npz it trains from an empty folder. The file holds N trajectories of T steps: observations (N, T+1, obs_dim),
achieved_goals (N, T+1, goal_dim), desired_goals (N, goal_dim), actions (N, T, action_dim) in the environment's units
and, where trajectories end early, lengths (N,). Rewards come from the environment's own compute_reward.
"""

# --- shared: imports ---
import copy
import hashlib
import io
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import nn
from tqdm import tqdm

METHOD, REPOSITORY = Path(__file__).stem, Path(__file__).resolve().parent.parent
FILE_SHA256 = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()  # now: the file may be edited during a run
TASKS = {"PointMaze": "PointMaze-v0", "FetchReach": "FetchReach-v4", "FetchPush": "FetchPush-v4",
         "FetchPick": "FetchPickAndPlace-v4", "FetchSlide": "FetchSlide-v4",
         "HandBlockZ": "HandManipulateBlockRotateZ-v1", "HandBlockParallel": "HandManipulateBlockRotateParallel-v1",
         "HandBlockXYZ": "HandManipulateBlockRotateXYZ-v1", "HandEggRotate": "HandManipulateEggRotate-v1"}
MAY_CHANGE = ("strict", "updates", "out", "resume", "overwrite", "track", "eval-every", "eval-episodes", "log-every",
              "checkpoint-every", "device", "threads", "compile", "cuda-graphs")  # on --resume
EVAL_SEED = 1_000_000  # episode i of every evaluation, of every method, starts from reset(seed=EVAL_SEED + i)
# --- end shared ---


# --- shared: settings ---
@dataclass
class Experiment:
    task: str = "PointMaze"  # one of the nine tasks of the paper, or the id of a registered Gymnasium goal environment
    dataset: Path | None = None  # a .npz file; by default data/datasets/<task>.npz, collected when it is missing
    strict: bool = False  # refuse a dataset made with another mujoco version, which is warned about otherwise
    seed: int = 1  # of networks, batches and noise; the evaluation episodes are the same for every seed
    out: Path = Path("runs")  # results go to OUT/<task>/<method>[-swap]/<seed>/
    resume: bool = False  # go on from the checkpoint in the results folder, bit for bit on the CPU
    overwrite: bool = False  # start anew although the results folder already holds a run
    track: bool = False  # also log to Weights & Biases (pip install wandb)
    eval_every: int = 10_000  # updates between evaluations; the last update is always evaluated
    eval_episodes: int = 50  # episodes of one evaluation
    log_every: int = 500  # updates between two rows of metrics
    checkpoint_every: int = 5_000  # updates between checkpoints
    device: str = "cpu"  # cpu, cuda, cuda:1, mps, ...
    threads: int = 0  # CPU threads for PyTorch; 0 leaves the choice to PyTorch
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"  # of the hidden layers; tf32 needs a GPU, bf16 is autocast
    compile: bool = False  # torch.compile the update
    cuda_graphs: bool = False  # on a GPU: record the update as CUDA graphs and replay them


@dataclass
class Relabelling:
    her_ratio: float = 0.5  # share of goals replaced by one achieved later on the same trajectory (Table 5)
    swap: bool = False  # goal swapping: also train on a copy of the batch with goals of other trajectories (Alg. 1)
    swap_source: Literal["batch", "commanded", "achieved"] = "batch"  # goals of the batch shuffled, desired ones, any
    swap_batch: Literal["equal", "double"] = "equal"  # the swapped copy is half of the batch, or a second batch


@dataclass
class Optimisation:
    updates: int = 500_000  # gradient updates (Sec. 5)
    batch_size: int = 512  # transitions per update (Table 5)
    lr: float = 1e-3  # learning rate of Adam, all networks (Table 5)
    hidden: tuple[int, ...] = (256, 256, 256)  # units of the hidden layers, all networks (Table 5)
    polyak: float = 0.95  # weight of the old target network in a target update (Table 5)
    target_every: int = 10  # updates between target updates (Table 5)
    gamma: float = 1.0  # discount; values stay in [-H, 0] with 1 (Sec. 2), in [-1/(1-gamma), 0] below 1
    stop_at_goal: bool = True  # no bootstrapping past a reached goal (Alg. 3's d); time-outs always bootstrap
# --- end shared ---


@dataclass
class Algorithm:
    variant: Literal["official", "gofar"] = "official"  # authors' code, or Ma et al.'s copy (with --her-ratio 1)
    weight_clip: float = 10.0  # upper bound of the advantage weight exp(A) (both codes)
    baw_best: float = 80.0  # official: the best-advantage percentile rises to this value (the authors')
    baw_rise: float = 0.01  # official: by this much at every update (the authors'; 0.15 in their easy tasks)
    baw_other: float = 0.05  # official: weight of an advantage below the percentile (the authors')
    baw_queue: int = 50_000  # official: latest transitions whose hindsight advantages make the percentile (authors')


# --- shared: reading and checking settings ---
@dataclass
class Settings:
    experiment: Experiment = field(default_factory=Experiment)
    relabelling: Relabelling = field(default_factory=Relabelling)
    optimisation: Optimisation = field(default_factory=Optimisation)
    algorithm: Algorithm = field(default_factory=Algorithm)

    def flags(self):
        """All settings as {flag: plain value}."""
        return {key.replace("_", "-"): str(value) if isinstance(value, Path) else value
                for group in asdict(self).values() for key, value in group.items()}


def fail(message):
    """One line to stderr, exit status 2."""
    print(f"{METHOD}.py: error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def check(flags):
    """Fails on a value that cannot work, naming its flag."""
    for name, value in flags.items():
        numbers = value if isinstance(value, tuple) else (value,)
        low = {"seed": 0, "threads": 0, "lr": 1e-12, "batch-size": 2}.get(name, 0 if isinstance(value, float) else 1)
        high = {"batch-size": 10**6, "baw-queue": 10**7, "threads": 1024}.get(
            name, 1 if name in ("lr", "her-ratio", "polyak", "gamma", "soft-minimum") else 2**31)
        if not numbers or any(type(x) in (int, float) and not low <= x <= high for x in numbers):
            fail(f"--{name} {' '.join(map(str, numbers))}: must lie between {low} and {high}")
    if flags["swap"] and flags["batch-size"] % 2:
        fail(f"--batch-size {flags['batch-size']}: must be even with --swap, half of the batch is the swapped copy")
    if flags["resume"] and flags["overwrite"]:
        fail("--overwrite: starts anew, and --resume goes on; leave one of them out")
    try:
        torch.zeros(1, device=flags["device"]).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        fail(f"--device {flags['device']}: not available here ({error}); use --device cpu")
    if flags["cuda-graphs"] and (flags["compile"] or not flags["device"].startswith("cuda")):
        fail("--cuda-graphs: " + ("leave out --compile" if flags["compile"] else "needs a GPU; add --device cuda"))
# --- end shared ---


# --- shared: dataset and replay buffer ---
# obs, next_obs (B, obs_dim), action (B, action_dim), reward (B,) in {-1, 0}, goal (B, goal_dim), achieved: that of obs,
# initial_obs: of the same trajectory, offset (B,): steps until the goal is achieved if it is a hindsight goal, else inf
Batch = namedtuple("Batch", "obs action reward next_obs goal achieved initial_obs offset")


def load_dataset(path, task, env, strict=False):
    """The arrays of a dataset file as a dict, checked against environment and manifest, and their SHA-256."""
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in sorted(file.files)}
        manifest, (n, steps) = dict(json.loads(str(data.pop("manifest", "{}")))), data["actions"].shape[:2]
        hashes = {name: hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()
                  for name, array in data.items()}
        if manifest and manifest["sha256"] != hashes:
            raise ValueError("its arrays differ from its manifest")
        made, mujoco = dict(manifest.get("versions", {})).get("mujoco"), sys.modules.get("mujoco")  # None: not used
    except Exception as error:  # a damaged or foreign file raises one of many kinds
        fail(f"--dataset {path}: not a readable dataset ({error}); delete it to have it collected, or name another")
    if manifest.get("task", task) != task:
        fail(f"--dataset {path}: was made for --task {manifest['task']}, not {task}")
    if made and mujoco and made != mujoco.__version__:
        message = f"--dataset {path}: was made with mujoco {made}, here is {mujoco.__version__}; physics differ"
        if strict:
            fail(f"{message}; install that version, or leave out --strict")
        print(f"{METHOD}.py: warning: {message}", file=sys.stderr)
    spaces, box, lengths = env.observation_space, env.action_space, data.setdefault("lengths", np.full(n, steps))
    wanted = {"observations": (n, steps + 1, *spaces["observation"].shape), "actions": (n, steps, *box.shape),
              "achieved_goals": (n, steps + 1, *spaces["achieved_goal"].shape), "lengths": (n,),
              "desired_goals": (n, *spaces["desired_goal"].shape)}
    for name, shape in wanted.items():
        array = data.get(name, np.empty(0, str))
        if array.shape != shape or not array.size or array.dtype.kind not in "fiu" or not (
                np.abs(array) <= np.finfo(np.float32).max).all():
            fail(f"--dataset {path}: {task} needs {name} of shape {shape}, all finite in float32; see --help")
    if lengths.dtype.kind not in "iu" or (lengths < 1).any() or (lengths > steps).any():
        fail(f"--dataset {path}: lengths must be whole numbers from 1 to {steps}; see --help")
    if (data["actions"] < box.low - 1e-5).any() or (data["actions"] > box.high + 1e-5).any():
        fail(f"--dataset {path}: actions lie outside the action space of {task}")
    return data, hashlib.sha256(bytes.fromhex("".join(hashes.values()))).hexdigest()


class ReplayBuffer:
    """Draws batches from a dataset with hindsight relabelling and goal swapping, without a loop over the batch.

    reached(achieved (B, goal_dim), goal (B, goal_dim)) -> bool (B,) is the environment's own rule.
    """

    def __init__(self, data, relabelling, reached, seed, device="cpu"):
        self.obs, self.actions, self.achieved, self.desired = (
            np.asarray(data[k], np.float32) for k in ("observations", "actions", "achieved_goals", "desired_goals"))
        self.lengths = data.get("lengths", np.full(len(self.actions), self.actions.shape[1]))  # steps, not states
        self.episode, self.step = np.nonzero(np.arange(self.actions.shape[1]) < self.lengths[:, None])
        self.relabelling, self.reached, self.device = relabelling, reached, torch.device(device)
        self.rng = np.random.default_rng(seed)

    def sample(self, size):
        """A Batch of `size` transitions; with swap_batch "double", `size` and their `size` swapped copies."""
        r = self.relabelling
        size = size // 2 if r.swap and r.swap_batch == "equal" else size
        drawn = self.rng.integers(len(self.episode), size=size)
        i, t, goal = self.episode[drawn], self.step[drawn], self.desired[self.episode[drawn]]
        future = t + 1 + (self.rng.random(size) * (self.lengths[i] - t)).astype(int)  # uniform over t+1, ..., T
        hindsight = self.rng.random(size) < r.her_ratio
        goal[hindsight] = self.achieved[i, future][hindsight]  # Alg. 3, line 4
        offset = np.where(hindsight, future - t, np.inf)
        if r.swap:  # Alg. 1
            i, t, goal = np.tile(i, 2), np.tile(t, 2), np.concatenate([goal, self.other_goals(goal)])
            offset = np.concatenate([offset, np.full(size, np.inf)])
        # Alg. 3 prints R(g, s_t), Alg. 1 R(phi(s'), g): the latter, like every environment with this interface
        reward = self.reached(self.achieved[i, t + 1], goal) - 1.0  # Eq. (2)
        arrays = (self.obs[i, t], self.actions[i, t], reward, self.obs[i, t + 1], goal, self.achieved[i, t],
                  self.obs[i, 0], offset)
        return Batch(*(torch.from_numpy(array.astype(np.float32, copy=False)).to(self.device) for array in arrays))

    def other_goals(self, goal):
        """Alg. 1, line 3: a random goal for each goal of a relabelled batch (B, goal_dim)."""
        if self.relabelling.swap_source == "commanded":
            return self.desired[self.rng.integers(len(self.desired), size=len(goal))]
        if self.relabelling.swap_source == "batch":
            return self.rng.permutation(goal)
        drawn = self.rng.integers(len(self.episode), size=len(goal))
        return self.achieved[self.episode[drawn], self.step[drawn] + 1]
# --- end shared ---


# --- shared: networks ---
class Normalizer(nn.Module):
    """Network inputs: goals and observations by the dataset's mean and deviation, actions scaled to [-1, 1]."""

    def __init__(self, buffer, action_space):
        super().__init__()
        valid = np.arange(buffer.obs.shape[1]) <= buffer.lengths[:, None]
        x = buffer.obs[valid], np.concatenate([buffer.achieved[valid], buffer.desired])
        mean = np.concatenate([a.mean(0, dtype=np.float64) for a in x])
        std = np.concatenate([a.std(0, dtype=np.float64) for a in x]).clip(min=1e-2)
        goals = slice(buffer.obs.shape[-1], None)  # clipped they look alike, as a fifth of FetchPick's desired ones did
        std[goals] = np.maximum(std[goals], np.abs(buffer.desired - mean[goals]).max(0) / 5)
        for name, value in (("mean", mean), ("std", std), ("center", (action_space.high + action_space.low) / 2),
                            ("scale", (action_space.high - action_space.low) / 2)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32))

    def forward(self, obs, goal, *action):
        """(B, obs_dim), (B, goal_dim)[, (B, action_dim)] -> (B, sum of them); clipped to 5 deviations."""
        x = ((torch.cat([obs, goal], -1) - self.mean) / self.std).clamp(-5, 5)
        return torch.cat([x, *((a - self.center) / self.scale for a in action)], -1)


class MLP(nn.Module):
    """Hidden ReLU layers of these widths; Xavier-uniform weights and zero biases as in the GoFAR code base."""

    def __init__(self, inputs, outputs, hidden):
        super().__init__()
        widths = zip((inputs, *hidden), hidden)
        self.body = nn.Sequential(*(m for width in widths for m in (nn.Linear(*width), nn.ReLU(inplace=True))))
        self.head = nn.Linear(hidden[-1], outputs)
        for layer in [*self.body[::2], self.head]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = self.body(x)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round a value of -60 to steps of 1/4
            return self.head(x.float())


class Actor(nn.Module):
    """Deterministic policy pi(s, g): action (B, action_dim) in the environment's units."""

    def __init__(self, normalizer, hidden):
        super().__init__()
        self.normalizer = copy.deepcopy(normalizer)
        self.net = MLP(len(normalizer.mean), len(normalizer.scale), hidden)

    def forward(self, obs, goal):
        return self.normalizer.center + self.normalizer.scale * torch.tanh(self.net(self.normalizer(obs, goal)))


class Twin(nn.Module):
    """Two heads of V(s, g), or with action_dim of Q(s, g, a): a tuple of two (B,) tensors."""

    def __init__(self, normalizer, hidden, action_dim=0):
        super().__init__()
        self.normalizer = copy.deepcopy(normalizer)
        self.nets = nn.ModuleList(MLP(len(normalizer.mean) + action_dim, 1, hidden) for _ in range(2))

    def forward(self, obs, goal, *action):
        x = self.normalizer(obs, goal, *action)
        return tuple(net(x).squeeze(-1) for net in self.nets)


def adam(networks, lr):
    return {name: torch.optim.Adam(network.parameters(), lr, fused=True) for name, network in networks.items()}


def minimise(loss, optimizer):
    """One Adam step; no gradient reaches, or is even computed for, a network of another optimizer."""
    optimizer.zero_grad()
    loss.backward(inputs=optimizer.param_groups[0]["params"])
    optimizer.step()


@torch.no_grad()
def interpolate(target, online, polyak):
    """target <- polyak * target + (1 - polyak) * online (Alg. 3, line 19)."""
    for old, new in zip(target.parameters(), online.parameters()):
        old.lerp_(new, 1 - polyak)
# --- end shared ---


# the authors' learning rate, discount, and 80 % hindsight goals for the critic; they bootstrap past a reached goal
DEFAULTS = Settings(optimisation=Optimisation(lr=5e-4, gamma=0.98, stop_at_goal=False),
                    relabelling=Relabelling(her_ratio=0.8))


class WGCSL(nn.Module):
    def __init__(self, settings, normalizer, horizon, device):
        super().__init__()
        self.o, self.a = settings.optimisation, settings.algorithm
        if self.o.gamma == 1 and self.a.variant == "official":
            # without a stop at the goal every value would grow to its bound, with one every reachable goal would be
            # worth 1. The discount is part of the method, so the authors' is kept, not the paper's 1
            fail("--gamma 1: makes all goals equally good with rewards 0 and 1; use --gamma 0.98 or --variant gofar")
        if settings.relabelling.her_ratio == 0:
            fail("--her-ratio 0: the actor learns from relabelled goals only; use a larger share")
        if self.a.baw_best > 100:
            fail(f"--baw-best {self.a.baw_best}: is a percentile, 100 at most")
        self.floor = -horizon if self.o.gamma == 1 else -1 / (1 - self.o.gamma)
        self.actor = Actor(normalizer, self.o.hidden)
        self.critic = Twin(normalizer, self.o.hidden, len(normalizer.scale))
        self.register_buffer("queue", torch.full((self.a.baw_queue,), torch.inf))  # of latest advantages; inf: empty
        self.register_buffer("percentile", torch.tensor(0.0))
        self.register_buffer("threshold", torch.tensor(-torch.inf))
        self.to(device)
        self.actor_target, self.critic_target = (copy.deepcopy(network) for network in (self.actor, self.critic))
        self.optimizers = adam({"actor": self.actor, "critic": self.critic}, self.o.lr)

    def act(self, obs, goal):
        return self.actor(obs, goal)

    @torch.no_grad()
    def backup(self, actor, critic, r, s_next, g):
        """r + gamma Q(s', g, pi(s')), (B,), with rewards of 0 and 1 if official, of -1 and 0 if not."""
        discount = self.o.gamma * (r < 0) if self.o.stop_at_goal else self.o.gamma
        # both codes have one critic, App. B puts WGCSL into TD3: the smaller of two heads
        return r + (self.a.variant == "official") + discount * torch.min(*critic(s_next, g, actor(s_next, g)))

    def update(self, batch, n):
        """Update number n, from 1, on a Batch; returns detached scalars by name."""
        s, a, r, s_next, g, *_, offset = batch
        official = self.a.variant == "official"
        low, high = (0, -self.floor) if official else (self.floor, 0)  # of a sum of rewards
        y_q = self.backup(self.actor_target, self.critic_target, r, s_next, g).clamp(low, high)

        q1, q2 = self.critic(s, g, a)
        critic_loss = F.mse_loss(q1, y_q) + F.mse_loss(q2, y_q)
        minimise(critic_loss, self.optimizers["critic"])

        pi = self.actor(s, g)
        with torch.no_grad():  # no gradient from the actor into the critic
            hindsight = offset.isfinite()  # other goals, desired or swapped, are for the critic only
            q_pi = torch.min(*self.critic(s, g, pi))
            # App. B subtracts Q(s, a), which leaves the TD error: it tends to 0, whatever the action
            advantage = (self.backup(self.actor, self.critic, r, s_next, g) - q_pi if official
                         else y_q - q_pi.clamp(low, high))
            # App. B has gamma^-offset and no exp, neither code does
            weight = self.o.gamma**offset * advantage.exp().clamp(max=self.a.weight_clip)
            if official:  # best-advantage weight
                latest = torch.where(hindsight, advantage, torch.inf)
                self.queue.copy_(torch.cat([self.queue, latest])[-len(self.queue):])
                self.percentile.add_(self.a.baw_rise).clamp_(max=self.a.baw_best)
                weight = weight * torch.where(advantage < self.threshold, self.a.baw_other, 1)
            share = hindsight / hindsight.sum().clamp(min=1)  # turns a sum into a mean over the hindsight goals

        distance = (pi - a).square().mean(-1)
        actor_loss = (share * weight * distance).sum()  # Eq. (15)
        minimise(actor_loss, self.optimizers["actor"])

        if n % self.o.target_every == 0:  # the authors have 0.9 every 20 updates, about the same
            for name in self.optimizers:
                interpolate(getattr(self, name + "_target"), getattr(self, name), self.o.polyak)
            if official:  # the authors do so at every update: 4 ms of sorting
                filled = torch.where(self.queue.isfinite(), self.queue, torch.nan)
                self.threshold.copy_(filled.nanquantile(self.percentile / 100))
        return {"critic_loss": critic_loss.detach(), "actor_loss": actor_loss.detach(), "q": q1.detach().mean(),
                "q_pi": q_pi.mean(), "advantage": (share * advantage).sum(), "weight": (share * weight).sum(),
                "cloning": (share * distance.detach()).sum()}


# --- shared: environment and evaluation ---
def make_env(task):
    """The environment and its rule reached(achieved (B, goal_dim), goal (B, goal_dim)) -> bool (B,)."""
    try:
        if task == "PointMaze":
            sys.path.insert(0, str(REPOSITORY))
            import envs  # noqa: F401  registers PointMaze-v0
        elif TASKS.get(task, task) not in gym.registry and ":" not in task:
            os.environ["MUJOCO_GL"] = "disable"  # nothing is drawn, and an OpenGL that is not there stops the import
            with redirect_stderr(io.StringIO()):  # it prints a notice about other tasks
                import gymnasium_robotics  # noqa: F401  registers the Fetch and Hand environments
        env = gym.make(TASKS.get(task, task))
        compute_reward, obs = env.unwrapped.compute_reward, env.reset(seed=0)[0]
        start, goal = obs["achieved_goal"], obs["desired_goal"]
    except (Exception, SystemExit) as error:  # of whatever kind a module or an environment raises
        fail(f"--task {task}: no goal environment of this name ({error}); known: {', '.join(TASKS)}")
    box = env.action_space
    if not isinstance(box, gym.spaces.Box) or box.low.ndim != 1 or not (
            np.isfinite([box.low, box.high]).all() and (box.low < box.high).all()):
        fail(f"--task {task}: needs actions in a bounded box, not {box}")
    try:  # at the start, halfway and at the goal
        rewards = np.asarray(compute_reward(np.stack([start, (start + goal) / 2, goal]), np.stack([goal] * 3), {}))
    except Exception as error:  # of whatever kind the environment raises
        fail(f"--task {task}: needs a compute_reward that takes whole batches ({error})")
    if rewards.shape != (3,) or not env.spec.max_episode_steps or np.ndim(obs["observation"]) * np.ndim(start) != 1:
        fail(f"--task {task}: needs flat observations and goals, max_episode_steps, a compute_reward for whole batches")
    if rewards.dtype.kind not in "biuf" or len(set(rewards.tolist())) > 2 or rewards.max() > rewards[-1]:
        fail(f"--task {task}: needs a sparse reward, one value at the goal and a lower one elsewhere; name another")
    return env, lambda achieved, goal: np.asarray(compute_reward(achieved, goal, {})) >= rewards[-1]


def evaluate(agent, envs, task, reached, episodes, horizon, device):
    """Runs the policy on the fixed list of episodes: one dict per episode, with the achieved goals as "path".

    On PointMaze episode i starts in cluster i % 3 with a goal in cluster i // 3 % 3, so that all nine pairs come up.
    A policy that draws random numbers draws the same ones at every evaluation, and training goes on as without it.
    """
    rows = []
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(EVAL_SEED)
        for first in range(0, episodes, envs.num_envs):
            index = np.arange(first, first + envs.num_envs)
            start, end = index % 3, index // 3 % 3
            obs, _ = envs.reset(seed=[EVAL_SEED + int(i) for i in index],
                                options={"start": start, "goal": end} if task == "PointMaze" else None)
            desired, path, hits = obs["desired_goal"].copy(), [obs["achieved_goal"].copy()], []
            alive, success = np.ones(len(index), bool), np.zeros(len(index), bool)
            for _ in range(horizon):
                state, goal = (torch.as_tensor(obs[k], dtype=torch.float32, device=device)
                               for k in ("observation", "desired_goal"))
                obs, _, terminated, truncated, _ = envs.step(agent.act(state, goal).cpu().numpy())
                path.append(np.where(alive[:, None], obs["achieved_goal"], path[-1]))
                hits.append(reached(obs["achieved_goal"], obs["desired_goal"]) & alive)
                success = np.where(alive, hits[-1], success)
                alive &= ~(terminated | truncated)
            hits, path = np.stack(hits, 1), np.stack(path, 1)
            for j, i in enumerate(index[:episodes - first]):
                rows.append({"seed": EVAL_SEED + int(i), "return": int(hits[j].sum()), "success": bool(success[j]),
                             "success_any": bool(hits[j].any()),
                             "final_distance": float(np.linalg.norm(path[j, -1] - desired[j])), "path": path[j]})
                if task == "PointMaze":  # the data goes from a to 3, b to 2 and c to 1
                    rows[-1] |= {"start": int(start[j]), "goal": int(end[j]), "seen": bool(start[j] + end[j] == 2)}
    return rows


def summary(rows):
    """Means over the episodes of one evaluation; on PointMaze over demonstrated and other pairs apart as well."""
    scores = {"return_std": float(np.std([row["return"] for row in rows]))}
    for prefix, seen in (("", (None, True, False)), ("seen_", (True,)), ("unseen_", (False,))):
        if group := [row for row in rows if row.get("seen") in seen]:
            for key in ("return", "success", "success_any", "final_distance"):
                scores[prefix + key] = float(np.mean([row[key] for row in group]))
    return scores
# --- end shared ---


# --- shared: files ---
def write(path, content):
    """Writes bytes under a temporary name, then renames: `path` is the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save(path, n, agent, buffer, flags, dataset_hash):
    state = {"method": METHOD, "update": n, "flags": flags, "dataset_sha256": dataset_hash, "agent": agent.state_dict(),
             "optimizers": {name: optimizer.state_dict() for name, optimizer in agent.optimizers.items()},
             "numpy_rng": buffer.rng.bit_generator.state, "torch_rng": torch.get_rng_state(),
             "cuda_rng": torch.cuda.get_rng_state(buffer.device) if buffer.device.type == "cuda" else None}
    content = io.BytesIO()
    torch.save(state, content)
    write(path, content.getvalue())


def load(path, agent, buffer, flags, dataset_hash):
    """Restores everything that the next update depends on; returns the number of updates done."""
    if not path.exists():
        fail(f"--resume: nothing to resume, {path} does not exist; check --out, --task, --seed and --swap")
    try:
        state = torch.load(path, map_location=buffer.device, weights_only=True)
        made_with = state["flags"] | {"dataset": state["dataset_sha256"], "method": state["method"]}
        for name, value in (flags | {"dataset": dataset_hash, "method": METHOD}).items():
            if name not in MAY_CHANGE and made_with.get(name) != value:
                fail(f"--{name} {value}: {path} was made with {made_with.get(name)}; use that, or --overwrite it")
        agent.load_state_dict(state["agent"])
        for name, optimizer in agent.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        buffer.rng.bit_generator.state = state["numpy_rng"]
        torch.set_rng_state(state["torch_rng"].cpu())
        if buffer.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), buffer.device)
        return int(state["update"])
    except Exception as error:  # a damaged or foreign file raises one of many kinds
        fail(f"--resume: {path} is not a checkpoint of this run ({type(error).__name__}); start anew with --overwrite")


def open_log(path, n):
    """Opens a JSONL log for appending, without the rows after update n that a killed run left behind."""
    lines = path.read_bytes().split(b"\n")[:-1] if n and path.exists() else []
    try:
        write(path, b"".join(line + b"\n" for line in lines if json.loads(line)["update"] <= n))
    except (ValueError, LookupError, TypeError, RecursionError):
        fail(f"--resume: {path} has a damaged line; take it out, or start anew with --overwrite")
    return open(path, "a", buffering=1)
# --- end shared ---


# --- shared: training ---
def find_dataset(task, path):
    """The dataset's path; one of this repository's own datasets is collected first if it is missing."""
    collector = REPOSITORY / "data" / "collect.py"
    if path is None and (task not in TASKS or not collector.exists()):
        fail(f"--dataset: give the .npz file with the data of {task}; the format is described in --help")
    if path and not os.path.exists(path):  # False, too, for a name that is too long
        fail(f"--dataset {path}: does not exist" + "; without the flag it is collected" * (task in TASKS))
    path = path or REPOSITORY / "data" / "datasets" / f"{task}.npz"
    if not path.exists():
        print(f"{path} is missing, collecting it first", flush=True)
        if subprocess.run([sys.executable, collector, "--task", task, "--out", path, "--with-parent"]).returncode:
            fail(f"--task {task}: its dataset could not be collected, see the line above")
    return path


def graphed(agent, device):
    """agent.update for a GPU, where starting an update's hundreds of small operations takes longer than doing them.

    Each form of an update, such as the one with a step of the target networks, runs once as it is, is recorded as a
    CUDA graph the next time, and is replayed on a copy of the batch from then on. So what an update does must not
    depend on n in other ways than those of `every`, nor on numbers that are looked at in Python.
    """
    every, graphs = (agent.o.target_every, getattr(agent.a, "policy_delay", 1)), {}
    stream = torch.cuda.Stream(device)  # the default stream cannot be recorded
    stream.wait_stream(torch.cuda.current_stream(device))
    torch.cuda.set_stream(stream)
    for optimizer in agent.optimizers.values():
        optimizer.param_groups[0]["capturable"] = True

    def update(batch, n):
        form = tuple(n % k == 0 for k in every)
        if form not in graphs:
            graphs[form] = None
            return agent.update(batch, n)
        if not graphs[form]:
            graph, held = torch.cuda.CUDAGraph(), Batch(*map(torch.clone, batch))
            with torch.cuda.graph(graph, stream=stream):
                graphs[form] = graph, held, agent.update(held, n)
        graph, held, metrics = graphs[form]
        torch._foreach_copy_(held, batch)
        graph.replay()
        return metrics
    return update


def train(agent_class, settings):
    e, o = settings.experiment, settings.optimisation
    own = {name: task for task, name in TASKS.items()}  # FetchReach-v4, with its module or without, is FetchReach
    e.task = own.get(re.sub("^(gymnasium_robotics|envs):", "", e.task), e.task)
    flags = settings.flags()
    check(flags)
    from torch.utils.tensorboard import SummaryWriter  # before anything is deleted or written
    if e.track:
        import wandb
    if e.threads:
        torch.set_num_threads(e.threads)
    torch.set_float32_matmul_precision("high" if e.precision == "tf32" else "highest")
    torch.manual_seed(e.seed)
    device = torch.device(e.device)
    folder = e.out / e.task.replace("/", "-") / (METHOD + "-swap" * settings.relabelling.swap) / str(e.seed)
    checkpoint = folder / "checkpoint.pt"
    if (checkpoint.exists() or (folder / "result.json").exists()) and not e.resume and not e.overwrite:
        fail(f"--out: {folder} already holds a run; --resume goes on with it, --overwrite starts anew")

    env, reached = make_env(e.task)
    envs = gym.vector.SyncVectorEnv([lambda: env])
    if env.spec.vector_entry_point:
        many = gym.make_vec(env.spec.id, num_envs=e.eval_episodes, vectorization_mode="vector_entry_point")
        if many.metadata.get("autoreset_mode") != gym.vector.AutoresetMode.SAME_STEP:  # which hides the last state
            envs = many
    data, dataset_hash = load_dataset(find_dataset(e.task, e.dataset), e.task, env, e.strict)
    buffer = ReplayBuffer(data, settings.relabelling, reached, e.seed, device)
    agent = agent_class(settings, Normalizer(buffer, env.action_space), env.spec.max_episode_steps, device)
    start = load(checkpoint, agent, buffer, flags, dataset_hash) if e.resume else 0
    if start >= o.updates:
        fail(f"--updates {o.updates}: {checkpoint} is already at update {start}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
        fcntl.lockf(os.open(folder / ".lock", os.O_CREAT | os.O_WRONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # a lock lasts until its process ends
        fail(f"--out: another process is training in {folder}; wait for it, or use another folder")
    except (ImportError, OSError):  # Windows, or a file system without locks
        pass
    for name in () if e.resume else ("checkpoint.pt", "result.json", "paths.png", "events.out.tfevents.*"):
        for old in folder.glob(name):
            old.unlink()
    metrics_log, eval_log = open_log(folder / "metrics.jsonl", start), open_log(folder / "evaluations.jsonl", start)
    write(folder / "settings.json", json.dumps(flags, indent=1).encode())
    if e.track:
        wandb.init(project="swapped-gcrl", name=str(folder), config=flags, sync_tensorboard=True)
    threading.excepthook = lambda thread: None  # on a full disk the next add_scalar raises what its thread has raised
    board = SummaryWriter(str(folder), purge_step=start + 1)

    stop, shown, began, eval_seconds = [], {}, time.monotonic(), 0.0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stop.append(number))
    update = graphed(agent, device) if e.cuda_graphs else torch.compile(agent.update) if e.compile else agent.update
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=e.precision == "bf16", cache_enabled=False)

    def log(file, kind, n, scores, **more):
        """Writes scores to a JSONL file and to TensorBoard."""
        file.write(json.dumps({"update": n, **scores, **more}) + "\n")
        for name, value in scores.items():
            board.add_scalar(f"{kind}/{name}", value, n)
        shown.update({name: f"{scores[name]:.3g}" for name in scores
                      if name in ("actor_loss", "return", "unseen_success", "success")})

    with tqdm(total=o.updates, initial=start, unit=" updates", dynamic_ncols=True, mininterval=1) as bar:
        for n in range(start + 1, o.updates + 1):
            with autocast:
                metrics = update(buffer.sample(o.batch_size), n)
            bar.update()
            last = n == o.updates
            if n % e.log_every == 0 or last:
                row = {name: float(value) for name, value in metrics.items()}
                if not np.isfinite(list(row.values())).all():
                    fail(f"--lr {o.lr}: a loss is not finite at update {n}; lower it")
                log(metrics_log, "train", n, row)
                bar.set_postfix(shown, refresh=False)
            if n % e.eval_every == 0 or last:
                eval_began = time.monotonic()
                rows = evaluate(agent, envs, e.task, reached, e.eval_episodes, env.spec.max_episode_steps, device)
                scores = summary(rows)
                episodes = [{name: value for name, value in row.items() if name != "path"} for row in rows]
                log(eval_log, "eval", n, scores, episodes=episodes)
                eval_seconds += time.monotonic() - eval_began
            if (n % e.checkpoint_every == 0 or stop) and not last:
                save(checkpoint, n, agent, buffer, flags, dataset_hash)
            if stop and not last:
                command = shlex.join(word for word in sys.argv if word not in ("--resume", "--overwrite"))
                print(f"stopped at update {n}, go on with: python {command} --resume", flush=True)
                raise SystemExit(128 + stop[0])
    seconds = time.monotonic() - began
    board.close()
    write(folder / "result.json", json.dumps({
        "method": METHOD, "flags": flags, "updates": n, "scores": scores, "seconds": seconds,
        "eval_seconds": eval_seconds, "updates_timed": n - start, "dataset_sha256": dataset_hash,
        "file_sha256": FILE_SHA256, "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{m.__name__: m.__version__ for m in (torch, np, gym)}},
        "machine": f"{platform.system()} {platform.machine()}"}, indent=1).encode())
    save(checkpoint, n, agent, buffer, flags, dataset_hash)  # last: a run that is killed before can be finished
    if e.task == "PointMaze":
        from envs.pointmaze import draw_paths
        picture = io.BytesIO()
        draw_paths(rows, picture)
        write(folder / "paths.png", picture.getvalue())
    print(f"{METHOD} on {e.task} after {n} updates, {e.eval_episodes} episodes: "
          + ", ".join(f"{name} {value:.3g}" for name, value in scores.items()))
    print(f"{(n - start) / (seconds - eval_seconds):.1f} updates/s, evaluation {eval_seconds / seconds:.1%} of the "
          f"time; results in {folder}")


def main(agent_class):
    try:
        with redirect_stderr(io.StringIO()) as framed:
            settings = tyro.cli(tyro.conf.OmitArgPrefixes[Settings], description=__doc__, default=DEFAULTS)
    except SystemExit as stop:
        if stop.code:
            fail(re.sub("[╭╮╰╯│─]", " ", framed.getvalue()))
        raise
    try:
        train(agent_class, settings)
    except KeyboardInterrupt:  # before the first update: from then on it ends with a checkpoint
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        fail(f"{'--track: ' * (error.name == 'wandb')}{error.name} is not installed; pip install {error.name}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("allocate|out of memory", str(error)):
            raise
        fail("--batch-size, --hidden or --eval-episodes: there is not enough memory; lower one of them")
    except OSError as error:
        fail(f"--out {settings.experiment.out}: {error.filename or ''} {error.strerror or error}; use another folder")
# --- end shared ---


if __name__ == "__main__":
    main(WGCSL)
