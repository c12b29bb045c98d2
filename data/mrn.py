"""Experts for the Fetch and Shadow Hand tasks: online DDPG + HER with a metric residual network critic.

    python data/mrn.py --task HandBlockZ

The paper's Shadow Hand data come from agents trained like those of Liu et al., "Metric Residual Networks for
Sample Efficient Goal-Conditioned Reinforcement Learning" (AAAI 2023, arXiv 2208.08133). This is their recipe:
collect 20 noisy episodes, make 40 updates on transitions relabelled in hindsight, move the targets; repeat.
The critic is minus a distance between an embedding of (state, action) and one of (state, goal),
    Q(s, a, g) = -( rms( sym(f(s,a)) - sym(phi(s,g)) ) + max_k relu( asym(f(s,a)) - asym(phi(s,g)) )_k ),
which obeys the triangle inequality, as the optimal cost of reaching a goal does.

A run lives in runs/experts/<task>/:
    checkpoint.pt                    all that --resume needs to go on as if never stopped, after every epoch
    expert.pt, expert_last.pt        actor and normaliser of the best and of the last epoch, for collect.py
    log.jsonl, args.json             one line an epoch; settings and versions
"""

import atexit
import dataclasses
import json
import math
import multiprocessing
import os
import pickle
import platform
import signal
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import robots
import torch
import torch.nn.functional as F
import tyro
from tools import ROBOTS, fail, replace
from torch import nn

OBJECTS = {"FetchReach": None, "FetchSlide": "puck", "HandEggRotate": "egg"}  # of all others: a block


@dataclass
class Args:
    task: Literal[tuple(ROBOTS)] = "HandBlockZ"
    steps: int | None = None
    """environment steps in all; default: the 25 to 100 epochs of 1,000 episodes of Liu et al."""
    stop_at: float | None = None  # stop early when the success rate of the evaluation is at least this ...
    stop_after: int = 2  # ... in so many epochs in a row
    seed: int = 1  # the same seed, workers and threads give the same run on the same kind of machine
    resume: bool = False  # go on from the checkpoint in the run's folder
    start_from: Path | None = None
    """begin with the networks and the replay of this run of another task of the same robot and object: the
    experience of HandBlockZ, with other goals, is worth millions of steps of HandBlockXYZ"""
    runs: Path = Path("runs/experts")  # the run is kept in <runs>/<task>
    workers: int = os.cpu_count() or 1  # processes that collect episodes; 0: collect in this process
    threads: int = os.cpu_count() or 1  # threads of the updates
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of the updates; auto: bf16 where it is fast
    eval_episodes: int = 50  # noiseless episodes per epoch, from the same seeds each time
    cycles_per_epoch: int = 50  # cycles of collecting and updating between two evaluations
    episodes_per_cycle: int = 20  # episodes collected per cycle
    updates_per_cycle: int = 40  # gradient steps of critic and actor per cycle
    batch_size: int = 1024  # transitions per gradient step
    lr: float = 1e-3  # learning rate of Adam, for actor and critic
    gamma: float = 0.98  # discount factor
    polyak: float = 0.9  # weight of the old target networks at their update, once per cycle
    her_rate: float = 0.8  # share of transitions whose goal becomes one achieved later in the same episode
    noise: float = 0.2  # standard deviation of the exploration noise, in units of the largest action
    random_eps: float = 0.3  # probability of a uniformly random action
    clip: float = 5.0
    """bound of normalised observations and goals, in deviations; with 5 FetchPick cannot see heights above
    0.76 m, as its replay rarely holds them, and misses the goals there"""
    action_l2: float = 1.0  # weight of the mean squared action in the loss of the actor
    replay_size: int = 1_000_000  # transitions kept


# --- collecting
class Collector:
    """`count` environments of a task that advance together: one forward pass of the policy per time step."""

    def __init__(self, task, count):
        made = [robots.make(task) for _ in range(count)]
        self.envs, self.steppers, self.horizon = [m[0] for m in made], [m[1] for m in made], made[0][2]

    @torch.inference_mode()
    def run(self, actor, normaliser, seeds, rng_seed=None, noise=0.0, random_eps=0.0):
        """Runs an episode from each of at most `count` seeds, without exploration if there is no rng_seed.

        Returns a dict of float32 arrays: observations (n, T+1, obs), achieved_goals (n, T+1, goal),
        desired_goals (n, goal), actions (n, T, act) and rewards (n, T), without the episodes in which MuJoCo
        warned of a bad state.
        """
        envs, rng = self.envs[: len(seeds)], rng_seed and np.random.default_rng(rng_seed)
        start = [env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds, strict=True)]
        for env in envs:
            env.data.warning.number[:] = 0
        keys = ("observation", "achieved_goal", "desired_goal")
        observation, achieved, goal = (np.array([s[key] for s in start]) for key in keys)
        goal_input = torch.from_numpy(goal.astype(np.float32))
        observations, achieveds, actions = [observation], [achieved], []
        for _ in range(self.horizon):
            x = normaliser(torch.from_numpy(observation.astype(np.float32)), goal_input)
            action = actor(x).numpy()
            if rng is not None:
                action = np.clip(action + noise * rng.standard_normal(action.shape), -1, 1)
                uniform = rng.uniform(-1, 1, action.shape)
                action = np.where(rng.random((len(action), 1)) < random_eps, uniform, action)
            action = action.astype(np.float32)
            states = [step(a) for step, a in zip(self.steppers, action, strict=False)]
            observation, achieved = (np.array(x) for x in zip(*states, strict=True))
            observations.append(observation)
            achieveds.append(achieved)
            actions.append(action)
        observations, achieveds, actions = (np.stack(x, 1) for x in (observations, achieveds, actions))
        reached = achieveds[:, 1:]
        rewards = robots.compute_reward(envs[0], reached, np.broadcast_to(goal[:, None], reached.shape))
        episodes = {"observations": observations, "achieved_goals": achieveds, "desired_goals": goal}
        episodes |= {"actions": actions, "rewards": rewards}
        sound = [not env.data.warning.number.any() for env in envs]
        return {key: value[sound].astype(np.float32) for key, value in episodes.items()}


def work(pipe, task, count):
    """A process that answers requests, arguments of Collector.run, until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # one is for the trainer, to end a cycle with
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    collector = Collector(task, count)
    try:
        while True:
            *request, exploration = pickle.loads(pipe.recv_bytes())
            pipe.send(collector.run(*request, **exploration))
    except (EOFError, ConnectionError):
        pass


class Collectors:
    """Spreads episodes over worker processes, or runs them in this one."""

    def __init__(self, task, count, workers):
        self.count, self.pipes = count, []
        if not workers:
            self.local = Collector(task, count)
        context, workers = multiprocessing.get_context("spawn"), min(workers, count)
        for _ in range(workers):
            pipe, theirs = context.Pipe()
            share = math.ceil(count / workers)
            context.Process(target=work, args=(theirs, task, share), daemon=True).start()
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
            jobs = [
                (actor, normaliser, share, rng_seed and (*rng_seed, i, k), exploration)
                for k, share in enumerate(shares)
                if len(share)
            ]
            if not self.pipes:
                rounds.append(self.local.run(*jobs[0][:-1], **exploration))
                continue
            used = self.pipes[: len(jobs)]  # array_split puts empty shares last
            for pipe, job in zip(used, jobs, strict=True):
                pipe.send_bytes(pickle.dumps(job))
            rounds += [pipe.recv() for pipe in used]
        return {key: np.concatenate([r[key] for r in rounds]) for key in rounds[0]}


# --- networks
def mlp(*sizes):
    """Linear layers, each followed by a ReLU."""
    return nn.Sequential(
        *[layer for i, o in zip(sizes[:-1], sizes[1:], strict=True) for layer in (nn.Linear(i, o), nn.ReLU())]
    )


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


class Normaliser(nn.Module):
    """Scales observations and goals by running statistics, clips and concatenates them."""

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


# --- replay
class Replay:
    """Whole episodes in float32 arrays; when full, new ones overwrite random ones."""

    def __init__(self, capacity, horizon, obs_dim, goal_dim, act_dim):
        shapes = {"observations": (horizon + 1, obs_dim), "achieved_goals": (horizon + 1, goal_dim)}
        shapes |= {"desired_goals": (goal_dim,), "actions": (horizon, act_dim)}
        self.capacity, self.size = capacity, 0
        self.arrays = {k: np.zeros((capacity, *shape), np.float32) for k, shape in shapes.items()}

    def add(self, episodes, rng):
        n = len(episodes["actions"])
        free = np.arange(self.size, min(self.size + n, self.capacity))
        slots = np.concatenate([free, rng.integers(self.capacity, size=n - len(free))])
        for key, array in self.arrays.items():
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
    reward = robots.compute_reward(env, episodes["achieved_goals"][i, t + 1], goal)
    observations = episodes["observations"]
    return observations[i, t], observations[i, t + 1], goal, episodes["actions"][i, t], reward


# --- training
MAY_CHANGE = {"precision", "eval_episodes", "cycles_per_epoch", "batch_size", "lr", "random_eps", "clip"}
MAY_CHANGE |= {"steps", "stop_at", "stop_after", "resume", "start_from", "runs", "workers", "threads"}


def load(path):
    """A checkpoint, of which nothing is executed."""
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:  # a missing, damaged or foreign file raises one of many kinds
        fail(f"{path}: is not the checkpoint of a run ({error!r})")


def train(args):
    folder = args.runs / args.task
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists() and not args.resume:
        fail(f"{folder} holds a run: go on with --resume, or choose another --runs")
    capabilities = torch.cpu.get_capabilities()
    fast = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    bf16 = fast if args.precision == "auto" else args.precision == "bf16"

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    env, _, horizon = robots.make(args.task)
    obs_dim, goal_dim = (env.observation_space[key].shape[0] for key in ("observation", "desired_goal"))
    act_dim = env.action_space.shape[0]
    steps_per_cycle = args.episodes_per_cycle * horizon
    epochs = (
        25 if args.task == "FetchReach" else 100 if args.task in ("HandBlockParallel", "HandBlockXYZ") else 50
    )
    cycles = epochs * 1000 // args.episodes_per_cycle
    if args.steps is not None:
        cycles = math.ceil(args.steps / steps_per_cycle)

    actor, critic = Actor(obs_dim + goal_dim, act_dim), MetricResidualCritic(obs_dim, goal_dim, act_dim)
    actor_target = Actor(obs_dim + goal_dim, act_dim)
    critic_target = MetricResidualCritic(obs_dim, goal_dim, act_dim)
    actor_target.load_state_dict(actor.state_dict())
    critic_target.load_state_dict(critic.state_dict())
    normaliser = Normaliser(obs_dim, goal_dim, args.clip)
    actor_optimiser = torch.optim.Adam(actor.parameters(), lr=args.lr, fused=True)
    critic_optimiser = torch.optim.Adam(critic.parameters(), lr=args.lr, fused=True)
    replay = Replay(args.replay_size // horizon, horizon, obs_dim, goal_dim, act_dim)
    networks = {"actor": actor, "critic": critic, "normaliser": normaliser}
    networks |= {"actor_target": actor_target, "critic_target": critic_target}
    parts = networks | {"actor_optimiser": actor_optimiser, "critic_optimiser": critic_optimiser}
    progress, metrics = {"cycle": 0, "seconds": 0.0, "best": [-1.0, -1.0], "log": []}, []

    def restore(saved, parts):
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        replay.add({key: x.numpy() for key, x in saved["replay"].items()}, np.random.default_rng(0))

    if args.resume:
        saved = load(checkpoint)
        for name in {field.name for field in dataclasses.fields(args)} - MAY_CHANGE:
            if saved["args"][name] != getattr(args, name):
                fail(f"--resume: {name} was {saved['args'][name]} in {checkpoint}")
        restore(saved, parts)
        for group in actor_optimiser.param_groups + critic_optimiser.param_groups:
            group["lr"] = args.lr  # may be lowered for the last part of a training
        progress, metrics = saved["progress"], list(saved["metrics"])
        if saved["args"]["eval_episodes"] != args.eval_episodes:
            progress["best"] = [-1.0, -1.0]  # fewer episodes find a better best by chance
    elif args.start_from:
        saved = load(args.start_from / "checkpoint.pt")
        other = saved["args"]["task"]
        if other[:4] != args.task[:4] or OBJECTS.get(other, "block") != OBJECTS.get(args.task, "block"):
            fail(f"--start-from {args.start_from}: {other} has another robot or object than {args.task}")
        restore(saved, networks)
        for name in "count", "obs_sum", "obs_squares", "goal_sum", "goal_squares":
            normaliser.get_buffer(name).mul_(0.05)  # the goals are others now: the new ones count for more

    collectors = Collectors(args.task, args.episodes_per_cycle, args.workers)
    exploration = {"noise": args.noise, "random_eps": args.random_eps}
    settings = {name: str(x) if isinstance(x, Path) else x for name, x in vars(args).items()}
    packages = ("torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco")
    about = {"args": settings, "bf16": bf16, "platform": platform.platform()}
    about |= {"versions": {name: version(name) for name in packages}}
    replace(folder / "args.json", lambda part: part.write_text(json.dumps(about, indent=1)))

    def save():
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"progress": progress, "args": settings, "metrics": metrics}
        state |= {"replay": {key: torch.from_numpy(x) for key, x in replay.filled().items()}}
        replace(checkpoint, lambda part: torch.save(state, part))

    def save_expert(name, result):
        expert = {"task": args.task, "seed": args.seed, "clip": args.clip, **result}
        expert |= {k: normaliser.get_buffer(k) for k in ("obs_mean", "obs_std", "goal_mean", "goal_std")}
        expert["actor"] = actor.state_dict()
        replace(folder / name, lambda part: torch.save(expert, part))

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

    stopped = []  # Ctrl-C and SIGTERM end the run after a cycle, with a checkpoint
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(number))
    clock = time.perf_counter()
    print(
        f"{args.task}: {cycles * steps_per_cycle:,} steps, updates in {'bf16' if bf16 else 'fp32'}",
        flush=True,
    )
    while progress["cycle"] < cycles and not stopped:
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

        batch = sample(replay.filled(), args.updates_per_cycle * args.batch_size, args.her_rate, env, rng)
        observation, next_observation, goal, action, reward = (torch.from_numpy(x) for x in batch)
        batch = normaliser(observation, goal), normaliser(next_observation, goal), action, reward
        for minibatch in zip(*(x.split(args.batch_size) for x in batch), strict=True):
            metrics.append(update(*minibatch))
        with torch.no_grad():
            for target, network in (actor_target, actor), (critic_target, critic):
                for old, new in zip(target.parameters(), network.parameters(), strict=True):
                    old.lerp_(new, 1.0 - args.polyak)
        if progress["cycle"] % args.cycles_per_epoch and progress["cycle"] < cycles:
            continue

        rewards = collectors.run(actor, normaliser, 1_000_000 + np.arange(args.eval_episodes))["rewards"]
        success, score = float((rewards[:, -1] == 0).mean()), float((rewards == 0).sum(1).mean())
        result = {"steps": progress["cycle"] * steps_per_cycle, "success": success, "return": score}
        result["episodes"] = len(rewards)
        if [success, score] >= progress["best"]:
            progress["best"] = [success, score]
            save_expert("expert.pt", result)
        save_expert("expert_last.pt", result)
        now = time.perf_counter()
        progress["seconds"], clock = progress["seconds"] + now - clock, now
        losses = zip(("critic_loss", "actor_loss", "q"), torch.stack(metrics).mean(0).tolist(), strict=True)
        row = result | dict(losses) | {"lr": args.lr, "seconds": progress["seconds"]}
        progress["log"].append({key: round(value, 6) for key, value in row.items()})
        print(
            f"{args.task} {row['steps']:>9,} steps  success {success:.2f}  return {score:5.1f}  "
            f"q {row['q']:6.2f}  critic loss {row['critic_loss']:.3f}  {row['seconds']:,.0f} s",
            flush=True,
        )
        metrics.clear()
        save()
        log = "".join(json.dumps(row) + "\n" for row in progress["log"])
        replace(folder / "log.jsonl", lambda part: part.write_text(log))
        last = [row["success"] for row in progress["log"]][-args.stop_after :]
        if args.stop_at is not None and len(last) == args.stop_after and min(last) >= args.stop_at:
            break
    if stopped:
        save()
        sys.exit(f"stopped after cycle {progress['cycle']}: the same command with --resume goes on")


if __name__ == "__main__":
    train(tyro.cli(tyro.conf.FlagCreatePairsOff[Args], description=__doc__))
