# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium==1.4.0", "gymnasium-robotics==1.4.2", "matplotlib", "mujoco==3.2.7", "numpy",
#                 "tensorboard", "torch==2.13.0", "tqdm", "tyro>=1.0"]
# ///
"""Onestep-RL: one step of policy improvement on the policy that made the data, with or without swapping.

Brandfonbrener et al. (2021), "Offline RL without off-policy evaluation", arXiv 2106.08909, with goals as in
Yang et al. (2023), arXiv 2302.08865, App. B. Q and V evaluate the policy of the data, never the learned one;
the actor clones the actions of the data that are better than their average (Eq. 15).

    python algos/onestep.py --task PointMaze --swap --updates 15000

Sections marked "shared" are the same in all files of algos/. A copy of this file works alone, on a Gymnasium
environment with goals and a file of trajectories: --task gymnasium_robotics:FetchReach-v4 --dataset file.npz
"""

# --- shared: imports ---
import copy
import hashlib
import json
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from scipy.spatial import KDTree
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parent.parent
EVAL_SEED = 1_000_000  # episode i of every evaluation starts from reset(seed=EVAL_SEED + i)
# --- end shared ---

VERSION = 1  # raise it when a change alters what is learned: results of other versions do not count


@dataclass
class Args:
    # --- shared: settings of every method ---
    task: str = "PointMaze"  # a task of the paper, or package:id of a registered Gymnasium goal environment
    dataset: str = ""  # a .npz file, see load(); by default the task's own, collected if it is missing
    seed: int = 1  # of networks, batches and noise; the episodes of an evaluation are the same for all seeds
    out: str = "runs"  # results go to OUT/<task>/<method>[-swap]/<seed>/
    resume: bool = False  # continue the run in its folder; on the CPU exactly as if it had never stopped
    track: bool = False  # also log to Weights & Biases (pip install wandb)
    log_every: int = 500  # updates between logged metrics, which are of one batch
    eval_every: int = 10_000  # updates between evaluations; the last update is always followed by one
    eval_episodes: int = 50  # episodes of an evaluation
    checkpoint_every: int = 5_000  # updates between checkpoints
    device: str = "cpu"  # cpu, cuda or cuda:1
    threads: int = 0  # CPU threads of PyTorch; 0 leaves the choice to PyTorch
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"  # of products; auto: bf16 where it is fast
    cuda_graphs: bool = False  # on a GPU: record the update once and replay it, several times as fast
    swap: bool = False  # goal swapping: part of each batch gets goals of other trajectories
    swap_ratio: float = 0.5  # that part of the batch, at most half
    swap_source: Literal["batch", "meet"] = "batch"  # goals of the batch (Alg. 1), or after a meeting
    updates: int = 500_000  # gradient updates (Sec. 5)
    batch_size: int = 512  # transitions per update, swapped ones included (Table 5)
    # --- end shared ---
    her_ratio: float = 0.5  # share of unswapped goals replaced by ones achieved later (HER; Table 5)
    lr: float = 1e-3  # learning rate of Adam (Table 5)
    hidden: tuple[int, ...] = (256, 256, 256)  # units of the hidden layers (Table 5)
    polyak: float = 0.95  # weight of the old target network in a target update (Table 5)
    target_every: int = 10  # updates between target updates (Table 5)
    gamma: float = 1.0  # discount; targets are clipped to [-H, 0] at 1 (Sec. 4.2), else to [-1/(1-gamma), 0]
    stop_at_goal: bool = True  # no bootstrapping past a reached goal (Alg. 3's d); time-outs always bootstrap
    beta: float = 3.0  # multiplies the advantage: 1 / lambda of Eq. 15 (the authors choose it per task)
    weight_clip: float = 100.0  # upper bound of exp(beta A) (the authors' value)


# --- shared: data and networks ---
def require(condition, message):
    if not condition:
        print(f"{Path(__file__).name}: error: {message}", file=sys.stderr)
        sys.exit(2)


def load(args):
    """The environment, the arrays of the dataset by name, and the file's SHA-256.

    The .npz file holds N trajectories of at most T steps: observations (N, T+1, obs_dim), achieved_goals
    (N, T+1, goal_dim), desired_goals (N, goal_dim), actions (N, T, action_dim) in the environment's units,
    and lengths (N,) if some are shorter than T. Rewards come from the environment's compute_reward.
    """
    paper_task = ":" not in args.task  # envs/ registers it
    path = Path(args.dataset or REPOSITORY / f"data/datasets/{args.task}.npz")
    if paper_task and not args.dataset and not path.exists():
        command = [sys.executable, REPOSITORY / "data/collect.py", "--task", args.task, "--out", path]
        found = subprocess.run(command).returncode == 0
        require(found, f"--task {args.task}: collecting its data failed; --dataset names a file of your own")
    require(paper_task or args.dataset, f"--task {args.task}: needs --dataset, see load() for the file")
    try:
        data = dict(np.load(path, allow_pickle=False))
        manifest = json.loads(str(data.pop("manifest", "{}")))
        n, steps = data["actions"].shape[:2]
    except Exception as error:  # a missing, damaged or foreign file raises one of many kinds
        require(False, f"--dataset {path}: not a .npz file as load() describes it ({error!r})")
    made_for = manifest.get("task", args.task)
    require(made_for == args.task, f"--dataset {path}: was made for --task {made_for}")
    sys.path.append(str(REPOSITORY))
    try:
        name = f"envs:paper/{args.task}" if paper_task else args.task
        env = gym.make(name, **manifest.get("env_kwargs", {}))
    except (gym.error.Error, ImportError, TypeError, ValueError) as error:
        require(False, f"--task {args.task}: {error}")
    spaces, box = env.observation_space, env.action_space
    good = isinstance(spaces, gym.spaces.Dict) and env.spec.max_episode_steps and box.is_bounded()
    require(good, f"--task {args.task}: needs Dict observations, bounded actions and max_episode_steps")

    shapes = {name: (n, steps + 1, *spaces[name[:-1]].shape) for name in ("observations", "achieved_goals")}
    shapes |= {"desired_goals": (n, *spaces["desired_goal"].shape), "actions": (n, steps, *box.shape)}
    for name, shape in shapes.items():
        array = data[name] = np.asarray(data.get(name, ()), np.float32)
        good = array.shape == shape and np.isfinite(array).all()
        require(good, f"--dataset {path}: {name} must be finite, of shape {shape}; it has {array.shape}")
    good = ((data["actions"] >= box.low - 1e-5) & (data["actions"] <= box.high + 1e-5)).all()
    require(good, f"--dataset {path}: actions lie outside the environment's action space")
    lengths = data.setdefault("lengths", np.full(n, steps))
    good = lengths.shape == (n,) and lengths.dtype.kind in "iu" and ((lengths > 0) & (lengths <= steps)).all()
    require(good, f"--dataset {path}: lengths must be {n} whole numbers from 1 to {steps}")

    some = np.arange(64) % n
    ends, goals = data["achieved_goals"][some, lengths[some]], data["desired_goals"][some]
    pairs = np.concatenate([ends, goals]), np.concatenate([goals, goals])  # the second half is at its goal
    compute_reward = env.get_wrapper_attr("compute_reward")
    batch = np.asarray(compute_reward(*pairs, {}))
    single = np.ravel([compute_reward(*pair, {}) for pair in zip(*pairs, strict=True)])
    good = np.array_equal(batch, single) and np.isin(batch, (-1, 0)).all() and not batch[len(ends) :].any()
    rule = "must give 0 at the goal, else -1, for n pairs as for one"
    require(good, f"--task {args.task}: compute_reward {rule}; it gave {np.unique(batch)[:3]}")
    return env, data, hashlib.sha256(path.read_bytes()).hexdigest()


# obs, next_obs, initial_obs (B, obs_dim); action (B, action_dim); goal, achieved (B, goal_dim); others (B,).
# reward: -1 or 0; achieved: in obs; initial_obs: of the trajectory; steps_to_goal: steps to a hindsight goal,
# inf for other goals; swapped: 1 where the goal was swapped, else 0.
Batch = namedtuple("Batch", "obs action reward next_obs goal achieved initial_obs steps_to_goal swapped")


class ReplayBuffer:
    """Batches from the arrays of load(), with hindsight goals (HER) and goal swapping."""

    def __init__(self, data, compute_reward, args):
        self.data, self.compute_reward, self.args = data, compute_reward, args
        steps = np.arange(data["actions"].shape[1])
        self.episode, self.step = np.nonzero(steps < data["lengths"][:, None])  # of every transition
        self.rng = np.random.default_rng(args.seed)
        if args.swap_source == "meet":
            self.find_meetings()

    def find_meetings(self):
        """Pairs (u, v) of states (flat indices) of two trajectories, under two steps apart; u ascending."""
        x, lengths = self.data["observations"], self.data["lengths"][:, None]
        self.states, dim = x.shape[1:]
        valid = np.arange(self.states) <= lengths
        step = np.diff(x, axis=1)[valid[:, 1:]]
        # Scaled so that the root mean square step has length 1
        self.x = (x / np.sqrt(dim * np.square(step).mean(0)).clip(1e-4)).reshape(-1, dim)
        valid = np.flatnonzero(valid)
        some = np.sort(np.random.default_rng(0).permutation(valid)[:25_000])  # enough
        gap, near = KDTree(self.x[valid]).query(self.x[some], 64, distance_upper_bound=2)
        found = np.isfinite(gap)
        u, v = np.repeat(some, found.sum(1)), valid[near[found]]
        other = u // self.states != v // self.states
        require(other.any(), "--swap-source meet: no trajectories of the dataset meet")
        self.u, self.v, self.gap = u[other], v[other], gap[found][other]

    def meet(self, i, t):
        """Which transitions (i, t) get a goal of another trajectory that i meets after t, and those goals.

        A meeting (u, v) counts if its gap is less than a third of the distance from t to v. The goal is
        achieved at v or later, so the action at t lies on a path to it that the data shows. Without a meeting
        a transition keeps its goal. After temporal goal augmentation (Ghugare et al. 2024, arXiv 2401.11237).
        """
        first, last = np.searchsorted(self.u, (i * self.states + t + 1, (i + 1) * self.states))
        drawn = first + (self.rng.random((8, len(i))) * (last - first)).astype(int)  # eight tries
        drawn = np.minimum(drawn, last - 1)
        way = np.linalg.norm(self.x[i * self.states + t] - self.x[self.v[drawn]], axis=2)
        fits = (first < last) & (self.gap[drawn] < way / 3)
        met = fits.any(0)
        j, step = np.divmod(self.v[drawn[fits.argmax(0), np.arange(len(i))][met]], self.states)
        return met, self.data["achieved_goals"][j, self.rng.integers(step, self.data["lengths"][j] + 1)]

    def sample(self):
        args, obs, achieved = self.args, self.data["observations"], self.data["achieved_goals"]
        swapped = round(args.batch_size * args.swap_ratio) if args.swap else 0
        size = args.batch_size - swapped * (args.swap_source == "batch")  # Alg. 1 takes transitions twice
        drawn = self.rng.integers(len(self.episode), size=size)
        i, t = self.episode[drawn], self.step[drawn]  # trajectory and step
        goal = self.data["desired_goals"][i]
        future = t + 1 + (self.rng.random(size) * (self.data["lengths"][i] - t)).astype(int)  # t+1, ..., T
        hindsight = self.rng.random(size) < args.her_ratio
        goal[hindsight] = achieved[i, future][hindsight]  # Alg. 3, line 4, but from t+1
        steps_to_goal = np.resize(np.where(hindsight, future - t, np.inf), args.batch_size)
        other = np.arange(args.batch_size) >= args.batch_size - swapped
        if args.swap_source == "meet":
            other[other], goals = self.meet(i[other], t[other])
            goal[other] = goals
        elif args.swap:  # Alg. 1: the same transitions again, with goals of the batch in another order
            i, t = np.append(i, i[:swapped]), np.append(t, t[:swapped])
            goal = np.concatenate([goal, self.rng.permutation(goal)[:swapped]])
        # Eq. (2) of s', as in Alg. 1; Alg. 3 prints R(g, s)
        reward = self.compute_reward(achieved[i, t + 1], goal, {})
        batch = obs[i, t], self.data["actions"][i, t], reward, obs[i, t + 1], goal
        batch += achieved[i, t], obs[i, 0], np.where(other, np.inf, steps_to_goal), other
        return Batch(*(torch.as_tensor(x, dtype=torch.float32, device=args.device) for x in batch))


def statistics(data, box):
    """Normalisation of the networks' inputs "obs", "goal", "action": shift, scale and limit, (3, dim) each.

    Observations and goals become z-scores that are clipped at 5, actions -1 to 1.
    """
    valid = np.arange(data["observations"].shape[1]) <= data["lengths"][:, None]  # T+1 states
    desired = data["desired_goals"]
    goals = np.concatenate([data["achieved_goals"][valid], desired])
    stats = {"action": [(box.high + box.low) / 2, (box.high - box.low) / 2, np.full_like(box.low, np.inf)]}
    for name, x in (("obs", data["observations"][valid]), ("goal", goals)):
        mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64).clip(min=1e-2)
        if name == "goal":  # so wide that no desired goal is clipped
            std = np.maximum(std, np.abs(desired - mean).max(0) / 5)
        stats[name] = [mean, std, np.full_like(mean, 5)]
    return {name: torch.tensor(np.stack(rows), dtype=torch.float32) for name, rows in stats.items()}


class Network(nn.Module):
    """ReLU network on inputs that statistics() names; Xavier weights and zero biases as in GoFAR's code."""

    def __init__(self, stats, inputs, outputs, hidden):
        super().__init__()
        self.register_buffer("normalisation", torch.hstack([stats[name] for name in inputs]))
        widths = (self.normalisation.shape[1], *hidden, outputs)
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, *inputs):
        """(B, dim) of each input -> (B, outputs)."""
        shift, scale, limit = self.normalisation
        x = ((torch.cat(inputs, -1) - shift) / scale).clamp(-limit, limit)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 rounds values near -60 to steps of 1/4
            return self.layers[-1](x.float())


class Ensemble(nn.ModuleList):
    """Independent networks for one function, as in TD3's double Q: a list of (B,) values, one of each."""

    def __init__(self, stats, inputs, hidden, size=2):
        super().__init__(Network(stats, inputs, 1, hidden) for _ in range(size))

    def forward(self, *inputs):
        return [network(*inputs).squeeze(-1) for network in self]


def minimise(loss, optimizer):
    """One step of an optimizer; other networks that the loss runs through get no gradients."""
    optimizer.zero_grad()
    loss.backward(inputs=optimizer.param_groups[0]["params"])
    optimizer.step()


@torch.no_grad()
def polyak_update(target, online, polyak):
    """target <- polyak * target + (1 - polyak) * online."""
    torch._foreach_lerp_([*target.parameters()], [*online.parameters()], 1 - polyak)


# --- end shared ---


class Actor(Network):
    """Deterministic policy pi(s, g): action (B, action_dim) in the environment's units."""

    def __init__(self, stats, hidden):
        super().__init__(stats, ("obs", "goal"), stats["action"].shape[1], hidden)
        self.register_buffer("action_range", stats["action"][:2])  # centre and half width

    def forward(self, obs, goal):
        center, half_width = self.action_range
        return center + half_width * torch.tanh(super().forward(obs, goal))


class Onestep(nn.Module):
    def __init__(self, args, stats, horizon):
        super().__init__()
        self.args = args
        self.min_value = -horizon if args.gamma == 1 else -1 / (1 - args.gamma)
        self.periods = (args.target_every,)  # update() depends on n only through n % period
        self.actor = Actor(stats, args.hidden)
        self.critic = Ensemble(stats, ("obs", "goal", "action"), args.hidden)
        self.value = Ensemble(stats, ("obs", "goal"), args.hidden, size=1)
        self.target_critic = copy.deepcopy(self.critic)
        nets = {"actor": self.actor, "critic": self.critic, "value": self.value}
        self.optimizers = {k: torch.optim.Adam(v.parameters(), args.lr, fused=True) for k, v in nets.items()}

    def act(self, obs, goal):
        return self.actor(obs, goal)

    @torch.no_grad()
    def target(self, r, s_next, g):
        """Regression target of Q(s, g, a), (B,): no action but those of the data enters V(s', g)."""
        args = self.args
        not_done = r < 0 if args.stop_at_goal else 1
        # the authors take Q(s', a') with the next action a' of the data, which is a sample of V(s'), and clip
        # no values: the bounds are those of the paper (Sec. 4.2)
        return (r + args.gamma * not_done * self.value(s_next, g)[0]).clamp(self.min_value, 0)

    def update(self, batch, n):
        """Update number n, from 1, on a Batch. Returns metrics to log."""
        args = self.args
        s, a, r, s_next, g = batch[:5]
        with torch.no_grad():
            q = torch.min(*self.target_critic(s, g, a)).clamp(self.min_value, 0)

        # The authors train a clone of the data's policy, then Q, then the actor, and V is the clone's mean Q.
        # Here all are trained at once, as IQL with an expectile of 0.5 (App. B)
        (v,) = self.value(s, g)
        value_loss = F.mse_loss(v, q)  # Kostrikov et al., Eq. (5) with an expectile of 0.5, doubled
        minimise(value_loss, self.optimizers["value"])

        y = self.target(r, s_next, g)
        q1, q2 = self.critic(s, g, a)
        critic_loss = F.mse_loss(q1, y) + F.mse_loss(q2, y)  # Kostrikov et al., Eq. (6)
        minimise(critic_loss, self.optimizers["critic"])

        weight = (args.beta * (q - v.detach())).exp().clamp(max=args.weight_clip)
        bc = (self.actor(s, g) - a).square().mean(-1)
        actor_loss = (weight * bc).mean()  # Eq. (15)
        minimise(actor_loss, self.optimizers["actor"])

        if n % args.target_every == 0:
            polyak_update(self.target_critic, self.critic, args.polyak)
        metrics = {"critic_loss": critic_loss, "value_loss": value_loss, "actor_loss": actor_loss}
        metrics |= {"q": q, "v": v, "weight": weight, "bc": bc}
        return {name: x.detach().mean() for name, x in metrics.items()}


# --- shared: evaluation and training ---
@torch.no_grad()
def evaluate(agent, envs, compute_reward, args):
    """Runs a fixed list of episodes, the same for all methods. Returns a row for each, and the mean scores.

    return: steps at the goal (Eq. 20, 21). success: at the goal after the last step; success_any: after any.
    final_distance: Euclidean. If info has a "group", a string, there are also the means of each group.
    """
    box, rows, scores = envs.single_action_space, [], {}
    for first in range(EVAL_SEED, EVAL_SEED + args.eval_episodes, envs.num_envs):
        seeds = list(range(first, first + envs.num_envs))
        (obs, info), at_goal, done = envs.reset(seed=seeds), [], False
        groups = info.get("group", [""] * len(seeds))
        while not done:
            state = torch.as_tensor(obs["observation"], dtype=torch.float32, device=args.device)
            goal = torch.as_tensor(obs["desired_goal"], dtype=torch.float32, device=args.device)
            action = agent.act(state, goal).cpu().numpy().clip(box.low, box.high)
            obs, _, terminated, truncated, _ = envs.step(action)
            at_goal.append(compute_reward(obs["achieved_goal"], obs["desired_goal"], {}) == 0)
            done = (terminated | truncated).all()
        distance = np.linalg.norm(obs["achieved_goal"] - obs["desired_goal"], axis=-1)
        for seed, group, hits, final in zip(seeds, groups, np.transpose(at_goal), distance, strict=True):
            row = {"seed": seed, "group": str(group), "return": int(hits.sum()), "success": bool(hits[-1])}
            rows.append(row | {"success_any": bool(hits.any()), "final_distance": float(final)})
    for group in dict.fromkeys(["", *(row["group"] for row in rows)]):  # "" is all of them
        for name in ("return", "success", "success_any", "final_distance"):
            values = [row[name] for row in rows if group in ("", row["group"])]
            scores[f"{group}_{name}".lstrip("_")] = float(np.mean(values))
    return rows, scores


def graphed(agent, device):
    """agent.update as CUDA graphs: a GPU does hundreds of small operations faster than the CPU starts them.

    Each kind of update, by which of agent.periods divide n, is done once, then recorded, then replayed.
    """
    torch.cuda.synchronize(device)
    torch.cuda.set_stream(torch.cuda.Stream(device))  # the default stream cannot be recorded
    for optimizer in agent.optimizers.values():
        optimizer.param_groups[0]["capturable"] = True
    graphs = {}

    def update(batch, n):
        kind = tuple(n % period == 0 for period in agent.periods)
        if kind not in graphs:
            graphs[kind] = None
            return agent.update(batch, n)
        if graphs[kind] is None:
            graph, inputs = torch.cuda.CUDAGraph(), Batch(*map(torch.clone, batch))
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                graphs[kind] = graph, inputs, agent.update(inputs, n)
        graph, inputs, metrics = graphs[kind]
        torch._foreach_copy_(inputs, batch)
        graph.replay()
        return metrics

    return update


def check_settings(args):
    """Refuses settings that cannot work, and chooses the precision."""
    for name, value in vars(args).items():
        if name.endswith("_ratio") or name in ("gamma", "polyak"):
            require(0 <= value <= 1, f"--{name} {value}: must lie in 0 to 1")
        elif type(value) is int and name not in ("seed", "threads"):
            require(value > 0, f"--{name} {value}: must be positive")
    good = args.batch_size % 2 == 0 and args.swap_ratio <= 0.5
    require(good or not args.swap, "--swap: --batch-size must be even, --swap-ratio at most 0.5")
    require(args.swap or args.swap_source == "batch", "--swap-source meet: needs --swap")
    gpu = args.device.startswith("cuda")
    require(gpu or not args.cuda_graphs, "--cuda-graphs: needs --device cuda")
    try:
        torch.zeros(1, device=args.device)
    except (RuntimeError, AssertionError) as error:
        require(False, f"--device {args.device}: not available here ({error})")
    cpu_fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else cpu_fast
    if args.precision == "auto":
        args.precision = "bf16" if fast else "fp32"
    elif args.precision == "bf16" and not fast:
        print("--precision bf16: far slower than fp32 on this processor", file=sys.stderr)


def replace(path, write):
    """write(file) fills another file, which is then renamed: a kill leaves the old content or the new."""
    part = path.with_name(path.name + ".part")
    write(part)
    part.replace(path)


def train(agent_class, args):
    # --- data and agent
    check_settings(args)
    env, data, data_sha256 = load(args)
    at_once = ":" not in args.task and env.spec.vector_entry_point  # all episodes of an evaluation
    envs = gym.make_vec(env.spec, args.eval_episodes) if at_once else gym.vector.SyncVectorEnv([lambda: env])
    torch.set_num_threads(args.threads or torch.get_num_threads())
    torch.set_float32_matmul_precision("high" if args.precision == "tf32" else "highest")
    torch.manual_seed(args.seed)
    compute_reward = env.get_wrapper_attr("compute_reward")
    buffer = ReplayBuffer(data, compute_reward, args)
    stats, horizon = statistics(data, env.action_space), env.spec.max_episode_steps
    agent = agent_class(args, stats, horizon).to(args.device)

    # --- resume
    method = Path(__file__).stem
    folder = Path(args.out, args.task, method + ("-swap" if args.swap else ""), str(args.seed))
    checkpoint, logs = folder / "checkpoint.pt", (folder / "metrics.jsonl", folder / "evaluations.jsonl")
    settings = {"method": method, "version": VERSION, "data_sha256": data_sha256, **vars(args)}
    start, parts = 0, {"agent": agent, **agent.optimizers}
    gpus = [args.device] if args.device.startswith("cuda") else []
    may_change = {"dataset", "updates", "out", "resume", "track", "log_every", "eval_every", "eval_episodes"}
    may_change |= {"checkpoint_every", "device", "threads", "cuda_graphs"}
    if args.resume:
        require(checkpoint.exists(), f"--resume: there is no {checkpoint}")
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        start, old = state["update"], state["settings"]
        for name in sorted(settings.keys() - may_change):
            require(old.get(name) == settings[name], f"--resume: {name} was {old.get(name)} in {checkpoint}")
        require(start < args.updates, f"--updates {args.updates}: {checkpoint} is already at {start}")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        buffer.rng.bit_generator.state = state["numpy_rng"]
        torch.set_rng_state(state["torch_rng"])
        for gpu, rng in zip(gpus, state["cuda_rng"], strict=False):
            torch.cuda.set_rng_state(rng, gpu)
    used = checkpoint.exists() or logs[1].exists() and logs[1].stat().st_size
    require(args.resume or not used, f"{folder} holds a run: --resume it, delete it, or choose another --out")

    # --- logs
    if args.track:
        import wandb

        wandb.init(name=str(folder), config=settings, sync_tensorboard=True)
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / "settings.json", lambda file: file.write_text(json.dumps(settings, indent=1)))
    for path in logs:  # what a killed run has logged after its checkpoint comes again
        rows = path.read_text().split("\n")[:-1] if start and path.exists() else []
        rows = [row + "\n" for row in rows if json.loads(row)["update"] <= start]
        replace(path, lambda file: file.write_text("".join(rows)))
    board = SummaryWriter(folder, purge_step=start + 1)

    def log(path, n, scores, **more):
        with path.open("a") as file:
            file.write(json.dumps({"update": n, **scores, **more}) + "\n")
        for name, value in scores.items():
            board.add_scalar(f"{path.stem}/{name}", value, n)

    # --- updates
    stopped = []  # Ctrl-C and SIGTERM end the run after an update, with a checkpoint; a second one kills
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(signal.signal(number, signal.SIG_DFL)))
    update = graphed(agent, args.device) if args.cuda_graphs else agent.update
    bf16 = args.precision == "bf16"
    autocast = torch.autocast("cuda" if gpus else "cpu", torch.bfloat16, bf16, cache_enabled=False)
    pace = dict.fromkeys(("mininterval", "maxinterval"), 1 if sys.stderr.isatty() else 30)  # seconds
    updates = range(start + 1, args.updates + 1)
    bar = tqdm(updates, f"{folder}, {args.precision}", args.updates, initial=start, unit=" updates", **pace)
    for n in bar:  # it writes between updates only: a lost terminal cannot cost the checkpoint
        with autocast:
            batch = buffer.sample()
            metrics = update(batch, n)
        last = n == args.updates
        if n % args.log_every == 0 or last:
            metrics = {name: float(value) for name, value in metrics.items()}
            metrics["swapped"] = float(batch.swapped.mean())
            require(np.isfinite([*metrics.values()]).all(), f"a loss is not finite at update {n}; lower --lr")
            log(logs[0], n, metrics)
        if n % args.eval_every == 0 or last:
            with torch.random.fork_rng(gpus):  # training goes on as if there had been no evaluation
                torch.manual_seed(EVAL_SEED)
                episodes, scores = evaluate(agent, envs, compute_reward, args)
            log(logs[1], n, scores, episodes=episodes)
            bar.set_postfix({k: round(v, 2) for k, v in scores.items() if "any" not in k}, refresh=False)
        if n % args.checkpoint_every == 0 or last or stopped:
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"update": n, "settings": settings, "args": vars(args), "stats": stats}
            state |= {"numpy_rng": buffer.rng.bit_generator.state, "torch_rng": torch.get_rng_state()}
            state |= {"horizon": horizon, "cuda_rng": [torch.cuda.get_rng_state(gpu) for gpu in gpus]}
            replace(checkpoint, lambda file: torch.save(state, file))
        if stopped and not last:
            sys.exit(f"stopped at update {n}; the same command with --resume goes on")
    board.close()
    if hasattr(envs, "draw_paths"):
        envs.draw_paths(folder / "paths.png")
    print(f"{method} on {args.task}: " + ", ".join(f"{k} {v:.3g}" for k, v in scores.items()))


# --- end shared ---


if __name__ == "__main__":
    train(Onestep, tyro.cli(tyro.conf.FlagCreatePairsOff[Args], description=__doc__))
