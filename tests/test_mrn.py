"""The trainer of experts: what it writes, resuming, starting from another task's run, bad input. Seconds-long runs."""

import contextlib
import copy
import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, Run

sys.path.insert(0, str(ROOT / "data"))
with contextlib.redirect_stderr(io.StringIO()):
    import mrn

MRN = ROOT / "data" / "mrn.py"
TINY = ["--workers", 0, "--threads", 1, "--precision", "fp32", "--cycles-per-epoch", 1, "--eval-episodes", 2,
        "--episodes-per-cycle", 2, "--updates-per-cycle", 3, "--batch-size", 32, "--replay-size", 5000]


def train(folder, task, steps, *flags):
    run = Run(folder, MRN, "--task", task, "--runs", "runs", "--steps", steps, *TINY, *flags).wait()
    assert run.status == 0, run.err
    return folder / "runs" / task


def states(folder):
    """Every array of a run's checkpoint and replay."""
    found = {}

    def walk(prefix, value):
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{prefix}/{key}", item)
        elif isinstance(value, torch.Tensor):
            found[prefix] = value

    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    walk("", {key: checkpoint[key] for key in checkpoint if key not in ("args", "progress")})
    with np.load(folder / "replay.npz") as replay:
        found |= {name: torch.from_numpy(replay[name]) for name in replay.files if name != "task"}
    return found


def test_resuming_equals_a_run_without_a_break(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = train(tmp_path / "a", "FetchReach", 300)
    train(tmp_path / "b", "FetchReach", 100)
    parts = train(tmp_path / "b", "FetchReach", 300, "--resume")
    a, b = states(whole), states(parts)
    assert a.keys() == b.keys() and len(a) > 20
    assert all(torch.equal(a[name], b[name]) for name in a)
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, parts)]
    assert [row["steps"] for row in logs[1]] == [100, 200, 300]
    for x, y in zip(*logs):
        assert all(x[key] == y[key] for key in ("success", "return", "critic_loss", "actor_loss", "q"))
    expert = torch.load(parts / "expert.pt", weights_only=True)
    assert expert["task"] == "FetchReach" and (parts / "expert.pt").stat().st_size < 1e6


def test_a_resumed_run_keeps_its_cycles(tmp_path):
    """Steps are counted in cycles of so many episodes."""
    run = train(tmp_path, "FetchReach", 100)
    before = contents(run)
    more = Run(tmp_path, MRN, "--task", "FetchReach", "--runs", "runs", "--steps", 400, *TINY,
               "--episodes-per-cycle", 4, "--resume").wait()
    assert more.status == 2 and "--episodes-per-cycle 4" in more.err and contents(run) == before


def test_starting_from_another_task_takes_its_networks_and_replay(tmp_path):
    other = train(tmp_path, "HandBlockZ", 200)
    run = train(tmp_path, "HandBlockXYZ", 200, "--start-from", other, "--lr", 1e-12)
    a, b = states(other), states(run)
    assert a["observations"].shape[0] == 2 and b["observations"].shape[0] == 4
    assert torch.equal(b["observations"][:2], a["observations"])
    weights = [name for name in a if name.startswith("/actor/")]
    assert weights and all(torch.allclose(a[name], b[name], atol=1e-7) for name in weights)


def test_files_of_something_else(tmp_path):
    run = train(tmp_path, "FetchReach", 100)
    for name in ("whole", "saved"):
        shutil.copytree(run, tmp_path / name)
    for target, source, flags, named in (
            ("checkpoint.pt", "expert.pt", ["--resume"], "runs/FetchReach/checkpoint.pt: is not a checkpoint"),
            ("checkpoint.pt", "expert.pt", ["--start-from", "whole", "--runs", "new"], "--start-from whole"),
            ("replay.npz", None, ["--resume"], "runs/FetchReach/replay.npz: is not of such a run")):
        folder = tmp_path / "whole" if "--start-from" in flags else run
        if source:
            shutil.copy(folder / source, folder / target)
        else:
            np.savez(folder / target, actions=np.zeros((2, 50, 4)), observations=np.zeros((2, 51, 25)))
        before = contents(tmp_path)
        flags = ["--runs", "runs", *flags] if "--runs" not in flags else flags
        done = Run(tmp_path, MRN, "--task", "FetchReach", "--steps", 200, *TINY, *flags).wait()
        line, = done.error_lines
        assert done.status == 2 and named in line and contents(tmp_path) == before, done.err
        shutil.copytree(tmp_path / "saved", folder, dirs_exist_ok=True)


def contents(folder):
    return {path: path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*")
            if path.name not in (".stdout", ".stderr")}


def test_another_object(tmp_path):
    """FetchPush and FetchPick move the same block; FetchSlide's puck has arrays of the same shapes."""
    push = train(tmp_path, "FetchPush", 100)
    pick = train(tmp_path, "FetchPick", 100, "--start-from", push)
    before = contents(tmp_path)
    words = "--runs", "runs", *TINY, "--steps", 200
    slide = Run(tmp_path, MRN, "--task", "FetchSlide", *words, "--start-from", push).wait()
    assert slide.status == 2 and f"--start-from {push}: is of another" in slide.err and contents(tmp_path) == before
    shutil.copy(push / "replay.npz", pick)
    before = contents(tmp_path)
    done = Run(tmp_path, MRN, "--task", "FetchPick", *words, "--resume").wait()
    assert done.status == 2 and "replay.npz: is not of such a run (task FetchPush)" in done.err
    assert contents(tmp_path) == before
    with np.load(push / "replay.npz") as replay:  # as an earlier version wrote it
        np.savez(pick / "replay.npz", **{name: replay[name] for name in replay.files if name != "task"})
    train(tmp_path, "FetchPick", 200, "--resume")


def test_a_second_trainer_is_refused(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    words = "--task", "FetchReach", "--runs", tmp_path / "runs", *TINY, "--cycles-per-epoch", 10**6, "--steps"
    first, args = Run(tmp_path / "a", MRN, *words, 10**9), tmp_path / "runs" / "FetchReach" / "args.json"
    first.wait_for(args.exists)
    before = contents(tmp_path / "runs")
    second = Run(tmp_path / "b", MRN, *words, 100).wait()
    line, = second.error_lines
    assert second.status == 2 and line.startswith("mrn.py: error: --runs: another process is training in"), second.err
    assert contents(tmp_path / "runs") == before
    first.signal(signal.SIGKILL).wait()
    assert Run(tmp_path / "b", MRN, *words, 100).wait().status == 0, "a lock ends with its process"


def test_torch_is_out_of_memory(tmp_path):
    (tmp_path / "script.py").write_text(
        f"import runpy, sys, torch\nsys.path[0] = {str(MRN.parent)!r}\n"
        f"torch.set_num_threads = lambda n: torch.empty(10**15)\nrunpy.run_path({str(MRN)!r}, run_name='__main__')\n")
    run = Run(tmp_path, tmp_path / "script.py", "--task", "FetchReach").wait()
    line, = run.error_lines
    assert run.status == 2 and line.startswith("mrn.py: error:") and "less of --batch-size" in line, run.err


@pytest.mark.parametrize("flags, named", [
    (["--start-from", "nowhere"], "nowhere"), (["--start-from", "runs/FetchReach"], "--start-from"),
    (["--task", "Nothing"], "--task"), (["--gamma", 2], "--gamma"), (["--batch-size", 0], "--batch-size"),
    (["--resume"], "--resume"), (["--runs", "file"], "file"), (["--runs", "x" * 300], "--runs"),
    (["--clip", 0], "--clip"), (["--noise", "nan"], "--noise"), (["--noise", -1], "--noise"),
    (["--action-l2", -1], "--action-l2"), (["--seed", 2**40], "--seed")])
def test_bad_input(flags, named, tmp_path):
    if "runs/FetchReach" in flags:
        train(tmp_path, "FetchReach", 100)
    (tmp_path / "file").touch()
    before = contents(tmp_path)
    run = Run(tmp_path, MRN, "--task", "HandBlockZ", "--steps", 200, *TINY, "--runs", "new", *flags).wait()
    assert run.status == 2, run.err
    line = run.err.strip().splitlines()[-1]
    assert line.startswith("mrn.py: error:") and named in line
    assert contents(tmp_path) == before, "wrote something"


# --- its parts, and a training with made-up episodes

@pytest.mark.parametrize("kind", ["mrn", "monolithic"])
def test_critics(kind):
    torch.manual_seed(0)
    x, action = torch.randn(9, 8), torch.randn(9, 2)
    if kind == "monolithic":
        assert mrn.MonolithicCritic(5, 3, 2, hidden=8)(x, action).shape == (9,)
        return
    critic = mrn.MetricResidualCritic(5, 3, 2, hidden=8, embedding=4)
    f, phi = critic.f(torch.cat([x[:, :5], action], 1)), critic.phi(x)
    sym, asym = ((out(net(f)) - out(net(phi))).tolist() for net, out in (
        (critic.sym, critic.sym_out), (critic.asym, critic.asym_out)))
    wanted = [-np.sqrt(np.mean(np.square(s))) - max(0, *a) for s, a in zip(sym, asym)]
    assert critic(x, action).tolist() == pytest.approx(wanted, rel=1e-4)


def test_normaliser():
    rng, normaliser = np.random.default_rng(0), mrn.Normaliser(2, 1, clip=1.5)
    parts = [rng.normal((3, -1), (2, 1e-3), (n, 2)).astype(np.float32) for n in (50, 150)]
    for part in parts:
        normaliser.update(part, 10 * part[:, :1])
    x = np.concatenate(parts)
    scaled = ((x - x.mean(0)) / np.maximum(x.std(0), 0.01)).clip(-1.5, 1.5)
    got = normaliser(torch.from_numpy(x), torch.from_numpy(10 * x[:, :1])).numpy()
    np.testing.assert_allclose(got, np.column_stack([scaled, scaled[:, 0]]), atol=1e-3)


def test_hindsight():
    """Achieved goals that name their episode and time show which became goals."""
    code = np.stack(np.meshgrid(np.arange(3), np.arange(5), indexing="ij"), -1).astype(np.float32)  # (3, 5, 2)
    episodes = dict(observations=code, achieved_goals=code, desired_goals=-np.ones((3, 2), np.float32),
                    actions=10 * code[:, :-1])

    class Env:
        @staticmethod
        def compute_reward(achieved, goal, info):
            return -(achieved != goal).any(-1).astype(np.float32)

    observation, after, goal, action, reward = mrn.sample(episodes, 20_000, 0.8, Env, np.random.default_rng(0))
    (i, t), hind = observation.T, goal[:, 0] >= 0
    assert (after == observation + [0, 1]).all() and (action == 10 * observation).all()
    assert hind.mean() == pytest.approx(0.8, abs=0.02) and (goal[hind, 0] == i[hind]).all()
    assert (reward == -(after != goal).any(-1).astype(int)).all() and (episodes["desired_goals"] == -1).all()
    for k in range(4):
        share = np.bincount(goal[hind & (t == k), 1].astype(int), minlength=5) / (hind & (t == k)).sum()
        assert (t == k).mean() == pytest.approx(0.25, abs=0.02)
        assert share == pytest.approx([0] * (k + 1) + [1 / (4 - k)] * (4 - k), abs=0.04)


def test_a_full_replay_overwrites_random_episodes():
    def add(*numbers):
        goals = np.array(numbers, np.float32)[:, None]
        states, actions = (np.tile(goals[..., None], (1, n, 1)) for n in (3, 2))
        replay.add(dict(observations=states, achieved_goals=states, desired_goals=goals, actions=actions), rng)
        columns = [array.reshape(len(array), -1)[:, 0].tolist() for array in replay.filled().values()]
        assert columns[0] == columns[1] == columns[2] == columns[3]
        return columns[0]

    replay, rng = mrn.Replay(4, 2, 1, 1, 1), np.random.default_rng(0)
    assert add(0, 1, 2) == [0, 1, 2]
    held = add(3)
    assert held == [0, 1, 2, 3]
    for number in range(4, 104):
        before, held = held, add(number)
        assert sum(a != b for a, b in zip(before, held)) == 1 and number in held
    assert min(held) > 70, "no slot is spared"


def test_a_collector_lets_mujoco_write_no_log(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    env = mrn.Collector("FetchReach", 1).envs[0]
    env.data.qvel[:] = 1e12
    mrn.mujoco.mj_step(env.model, env.data)
    assert env.data.warning.number.any() and not list(tmp_path.iterdir())


def test_a_collector_explores_and_gives_the_rewards_of_the_states_reached():
    collector, still = mrn.Collector("FetchReach", 2), lambda observation, goal: np.zeros((2, 4), np.float32)

    def direct(observation, goal):
        return np.column_stack([10 * (goal - observation[:, :3]), [0, 0]])

    def warned(observation, goal):
        collector.envs[0].data.warning.number[3] += 1
        return direct(observation, goal)

    plain = collector.run(direct, [1, 2])
    rule = np.linalg.norm(plain["achieved_goals"][:, 1:] - plain["desired_goals"][:, None], axis=-1) > 0.05
    assert (plain["rewards"] == -rule.astype(int)).all() and 0 < rule.mean() < 1 and len(plain["actions"]) == 2
    kept = collector.run(warned, [1, 2])
    assert all(np.array_equal(kept[name], plain[name][1:]) for name in plain), "without what MuJoCo warned of"

    def explored(policy, *exploration):
        return collector.run(policy, [1, 2], np.random.default_rng(0), *exploration)["actions"]

    assert not explored(still, 0.0, 0.0).any()
    noisy = explored(still, 0.2, 0.0)
    assert noisy.std() == pytest.approx(0.2, abs=0.03) and np.abs(explored(still, 2.0, 0.0)).max() == 1
    random = explored(still, 0.0, 0.2) != 0
    assert random.any(-1).mean() == pytest.approx(0.2, abs=0.1) and (random.any(-1) == random.all(-1)).all()
    assert explored(still, 0.0, 1.0).std() == pytest.approx(1 / np.sqrt(3), abs=0.05)


def test_workers_explore_in_ways_of_their_own():
    class Pipe:
        def send_bytes(self, content):
            self.asked = pickle.loads(content)
            asked.append(self.asked)

        def recv(self):
            return {"seeds": np.array(self.asked[2])}

    asked, collectors = [], mrn.Collectors.__new__(mrn.Collectors)
    collectors.count, collectors.pipes = 4, [Pipe(), Pipe()]
    assert collectors.run(None, None, np.arange(7), (1, 2, 0), noise=0.1)["seeds"].tolist() == list(range(7))
    assert len({seed for _, _, _, seed, _ in asked}) == 4 and all(noise == {"noise": 0.1} for *_, noise in asked)
    collectors.run(None, None, np.arange(4))
    assert [job[3:] for job in asked[4:]] == [(None, {})] * 2


class Made:
    """In the place of mrn.Collectors: made-up episodes of FetchReach, and the evaluations of a list."""

    def __init__(self):
        self.evaluations, self.calls, self.handlers, self.stop_in = [], [], {}, None

    def run(self, actor, normaliser, seeds, rng_seed=None, **exploration):
        self.calls.append((np.array(seeds).tolist(), rng_seed, exploration))
        if rng_seed is None:
            return {"rewards": np.array(self.evaluations.pop(0) if self.evaluations else [[-1]], np.float32)}
        if rng_seed[1] == self.stop_in:
            self.handlers[signal.SIGTERM](signal.SIGTERM, None)
        return self.episodes(len(seeds), rng_seed)

    @staticmethod
    def episodes(n, rng_seed):
        rng = np.random.default_rng(rng_seed)
        shapes = dict(observations=(n, 51, 10), achieved_goals=(n, 51, 3), desired_goals=(n, 3), actions=(n, 50, 4))
        return {name: rng.normal(0.1, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def made(monkeypatch):
    made = Made()
    monkeypatch.setattr(mrn, "Collectors", lambda *_: made)
    monkeypatch.setattr(mrn, "draw_curve", lambda *_: None)
    monkeypatch.setattr(mrn.signal, "signal", made.handlers.__setitem__)
    monkeypatch.setattr(mrn.torch, "set_num_threads", lambda _: None)
    return made


def tiny(runs, **more):
    flags = dict(task="FetchReach", runs=str(runs), workers=0, precision="fp32", cycles_per_epoch=1, eval_episodes=2,
                 episodes_per_cycle=2, updates_per_cycle=3, batch_size=32, replay_size=5000)
    return mrn.Args(**flags | more)


@pytest.mark.parametrize("kind", ["mrn", "monolithic"])
def test_cycles_by_hand(made, tmp_path, kind):
    """Three cycles of DDPG + HER, written out, give the networks of a training."""
    mrn.train(tiny(tmp_path, critic=kind, steps=300, gamma=0.3, lr=0.05, polyak=0.6, action_l2=0.4, her_rate=0.5,
                   clip=2.0))
    torch.manual_seed(1)
    actor = mrn.Actor(13, 4)
    critic = (mrn.MonolithicCritic if kind == "monolithic" else mrn.MetricResidualCritic)(10, 3, 4)
    old_actor, old_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    optimiser = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=0.05, fused=True)
    normaliser, replay, env = mrn.Normaliser(10, 3, 2.0), mrn.Replay(100, 50, 10, 3, 4), mrn.make_env("FetchReach")[0]
    below = above = 0
    for cycle in (1, 2, 3):
        rng, losses = np.random.default_rng((1, cycle, 0)), []
        episodes = made.episodes(2, (1, cycle, 0))
        replay.add(episodes, rng)
        observation, _, goal, _, _ = mrn.sample(episodes, 100, 0.5, env, rng)
        normaliser.update(observation, goal)
        batch = [torch.from_numpy(x).split(32) for x in mrn.sample(replay.filled(), 3 * 32, 0.5, env, rng)]
        for observation, after, goal, action, reward in zip(*batch):
            x, after = normaliser(observation, goal), normaliser(after, goal)
            with torch.no_grad():
                target = reward + 0.3 * old_critic(after, old_actor(after))
            below, above = below + int((target < -1 / 0.7).sum()), above + int((target > 0).sum())
            loss = ((critic(x, action) - target.clip(-1 / 0.7, 0)) ** 2).mean()
            actor_loss = 0.4 * (actor(x) ** 2).mean() - critic(x, actor(x)).mean()
            for network, its_loss in ((critic, loss), (actor, actor_loss)):
                gradients = torch.autograd.grad(its_loss, network.parameters())
                for parameter, gradient in zip(network.parameters(), gradients):
                    parameter.grad = gradient
            optimiser.step()
            losses.append(loss.item())
        for old, new in ((old_actor, actor), (old_critic, critic)):
            for mean, weight in zip(old.parameters(), new.parameters()):
                mean.data = 0.6 * mean.data + 0.4 * weight.data
    assert below > 0 if kind == "mrn" else above > 0, "the bounds of the targets matter"
    saved = torch.load(tmp_path / "FetchReach" / "checkpoint.pt", weights_only=True)
    for name, network in dict(actor=actor, critic=critic, actor_target=old_actor, critic_target=old_critic).items():
        for key, weight in network.state_dict().items():
            # Adam divides by a gradient's size: where that is next to 0, rounding shows (2e-4 on one CPU of two)
            torch.testing.assert_close(saved[name][key], weight, rtol=1e-2, atol=1e-3)
    assert saved["progress"]["log"][-1]["critic_loss"] == pytest.approx(np.mean(losses), rel=1e-3)


def test_evaluations_choose_the_expert_and_the_end(made, tmp_path):
    """Success counts in the last state, and so many epochs in a row end a training."""
    half, none, best = [[-1, -1, 0], [-1, 0, -1]], [[0, 0, -1], [-1, -1, -1]], [[-1, 0, 0], [0, -1, -1]]
    made.evaluations = [half, none, best, half, half]
    mrn.train(tiny(tmp_path, steps=1000, stop_at=0.5, stop_after=3, noise=0.25, random_eps=0.1))
    log = [json.loads(line) for line in (tmp_path / "FetchReach" / "log.jsonl").read_text().splitlines()]
    assert [(row["steps"], row["success"], row["return"]) for row in log] == [
        (100, 0.5, 1), (200, 0, 1), (300, 0.5, 1.5), (400, 0.5, 1), (500, 0.5, 1)]
    for name, steps in (("expert", 300), ("expert_last", 500)):
        assert torch.load(tmp_path / "FetchReach" / f"{name}.pt", weights_only=True)["steps"] == steps
    assert [call for call in made.calls if call[1] is None] == [([1_000_000, 1_000_001], None, {})] * 5
    collecting = [call for call in made.calls if call[1]]
    assert all(how == dict(noise=0.25, random_eps=0.1) for _, _, how in collecting)
    assert len({seed for seeds, _, _ in collecting for seed in seeds}) == 10
    assert len({rng_seed for _, rng_seed, _ in collecting}) == 5


def test_steps_are_rounded_up_to_cycles_and_the_last_one_is_evaluated(made, tmp_path):
    mrn.train(tiny(tmp_path, steps=201, cycles_per_epoch=2))
    saved = torch.load(tmp_path / "FetchReach" / "checkpoint.pt", weights_only=True)
    assert [row["steps"] for row in saved["progress"]["log"]] == [200, 300]
    assert saved["normaliser"]["count"] == 300 and saved["actor_optimiser"]["state"][0]["step"] == 9


def test_a_stopped_run_goes_on_as_if_never_stopped(made, tmp_path):
    flags = dict(steps=500, cycles_per_epoch=4)
    mrn.train(tiny(tmp_path / "whole", **flags))
    made.stop_in = 3
    with pytest.raises(SystemExit) as end:
        mrn.train(tiny(tmp_path / "parts", **flags))
    assert end.value.code == 128 + signal.SIGTERM
    made.stop_in = None
    mrn.train(tiny(tmp_path / "parts", **flags, resume=True))
    whole, parts = tmp_path / "whole" / "FetchReach", tmp_path / "parts" / "FetchReach"
    a, b = states(whole), states(parts)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, parts)]
    names = "steps", "critic_loss", "actor_loss", "q"
    assert [[row[name] for name in names] for row in logs[0]] == [[row[name] for name in names] for row in logs[1]]


def test_a_resumed_run_keeps_its_settings(made, tmp_path, monkeypatch):
    """Each flag that is not given again, or is another one, is named; some can be changed, by giving them."""
    folder = tmp_path / "FetchReach"

    def train(*flags):
        words = "--task", "FetchReach", "--runs", tmp_path, *TINY, *flags
        monkeypatch.setattr(sys, "argv", ["mrn.py", *map(str, words)])
        mrn.train(mrn.parse())
        return json.loads((folder / "args.json").read_text())["args"]

    made_with = "--gamma", 0.9, "--action-l2", 0.1, "--clip", 10, "--lr", 0.01
    train("--steps", 100, *made_with)
    before = contents(tmp_path)
    for flags, named in (
            ((), "--lr 0.001: {} was made with 0.01: give --lr 0.01 again, or --lr 0.001 to change it"),
            (("--lr", 0.01), "--gamma 0.98: {} was made with 0.9: give --gamma 0.9 again, or choose another --runs"),
            (("--lr", 0.01, "--gamma", 0.9), "--clip 5.0: "), ((*made_with, "--action_l2", 0.2), "--action-l2 0.2: "),
            ((*made_with, "--seed", 2), "--seed 2: "), ((*made_with, "--noise", 0.3), "--noise 0.3: ")):
        with pytest.raises(mrn.UserError) as error:
            train("--steps", 200, *flags, "--resume")
        assert str(error.value).startswith(named.format(folder / "checkpoint.pt")) and contents(tmp_path) == before
    args = train("--steps", 200, "--stop-at", 1, *made_with, "--resume")
    assert (args["clip"], args["gamma"], args["lr"], args["stop_at"]) == (10, 0.9, 0.01, 1)
    args = train("--steps", 300, *made_with[:4], "--clip=5", "--lr", 1e-3, "--random_eps", 0.1, "--resume")
    assert (args["clip"], args["lr"], args["random_eps"]) == (5, 0.001, 0.1)
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    del checkpoint["args"]["clip"]  # as a version without the flag
    torch.save(checkpoint, folder / "checkpoint.pt")
    assert train("--steps", 400, *made_with[:4], "--random-eps", 0.1, "--resume")["steps"] == 400


@pytest.mark.parametrize("stop_at, success, more", [(0, [0, 0], 3), (None, [1, 1], 1), (None, [1, 0], 3)])
def test_a_resumed_run_counts_successes_by_its_own_rule(made, tmp_path, stop_at, success, more):
    made.evaluations = [[[value - 1]] for value in success + [1] * 4]
    mrn.train(tiny(tmp_path, steps=200, stop_at=stop_at, stop_after=5))
    mrn.train(tiny(tmp_path, steps=1000, stop_at=0.5, stop_after=3, resume=True))
    assert len((tmp_path / "FetchReach" / "log.jsonl").read_text().splitlines()) == 2 + more


def test_damaged_files_name_their_mend(made, tmp_path, monkeypatch):
    mrn.train(tiny(tmp_path, steps=100))
    folder = tmp_path / "FetchReach"
    with pytest.raises(mrn.UserError, match="checkpoint.pt: is not an expert"):
        mrn.load_expert(folder / "checkpoint.pt")
    for name, mend in ("checkpoint.pt", "delete it to go on from small.pt"), ("small.pt", "delete it to start again"):
        (folder / name).write_bytes((folder / name).read_bytes()[:1000])
        with pytest.raises(mrn.UserError, match=f"{name}: cannot be read.*: {mend}"):
            mrn.train(tiny(tmp_path, steps=200, resume=True))
        (folder / name).unlink()
    monkeypatch.setattr(mrn.np, "load", lambda *_, **__: np.zeros(10**15))
    with pytest.raises(MemoryError):  # such a file may be sound, and must not be called damaged
        mrn.read(folder / "replay.npz", "delete it")


def test_a_signal_to_all_processes_ends_a_cycle_with_a_checkpoint(tmp_path):
    """As a service manager or a scheduler sends it: to the workers too."""
    flags = {"task": "FetchReach", "runs": tmp_path, "workers": 2, "steps": 10**6, "cycles-per-epoch": 1, "batch-size": 32,
             "eval-episodes": 2, "episodes-per-cycle": 2, "updates-per-cycle": 3, "replay-size": 5000}
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([sys.executable, ROOT / "data" / "mrn.py", *words], text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    log = tmp_path / "FetchReach" / "log.jsonl"
    try:
        end = time.monotonic() + 120
        while not log.exists() or not log.read_text():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGTERM and "--resume goes on" in out and "died" not in err, err
    assert (tmp_path / "FetchReach" / "checkpoint.pt").exists()


def test_resuming_from_the_small_checkpoint(made, tmp_path, monkeypatch):
    """Without targets and replay: the networks are the targets, and the replay is collected anew."""
    folder = tmp_path / "FetchReach"
    made.evaluations = [[[0]], [[-1]], [[-1]], [[-1]]]
    mrn.train(tiny(tmp_path, steps=200, polyak=1.0))
    small = torch.load(folder / "small.pt", weights_only=True)
    (folder / "checkpoint.pt").unlink(), (folder / "replay.npz").unlink()
    made.calls.clear()
    monkeypatch.setattr(sys, "argv", ["--lr", "--eval-episodes"])
    mrn.train(tiny(tmp_path, steps=300, resume=True, lr=0.01, polyak=1.0))
    assert [(len(seeds), rng_seed) for seeds, rng_seed, _ in made.calls[:2]] == [(4, (1, 2, 1)), (2, (1, 3, 0))]
    saved, found = torch.load(folder / "checkpoint.pt", weights_only=True), states(folder)
    assert len(found["actions"]) == 6 and saved["actor_optimiser"]["param_groups"][0]["lr"] == 0.01
    for name in ("actor", "critic"):
        assert all(torch.equal(saved[f"{name}_target"][key], weight) for key, weight in small[name].items())
    assert torch.load(folder / "expert.pt", weights_only=True)["steps"] == 100
    mrn.train(tiny(tmp_path, steps=400, resume=True, lr=0.01, polyak=1.0, eval_episodes=3))
    assert torch.load(folder / "expert.pt", weights_only=True)["steps"] == 400, "best of evaluations of another size"


def test_statistics_of_another_task_count_for_less(made, tmp_path):
    mrn.train(tiny(tmp_path / "other", steps=200))
    flags = dict(start_from=str(tmp_path / "other" / "FetchReach"))
    mrn.train(tiny(tmp_path / "new", steps=100, **flags))
    mrn.train(tiny(tmp_path / "new", steps=200, resume=True))
    saved = torch.load(tmp_path / "new" / "FetchReach" / "checkpoint.pt", weights_only=True)
    assert saved["normaliser"]["count"] == pytest.approx(0.05 * 200 + 200)
    assert saved["args"]["start_from"] == flags["start_from"], "its card tells where it comes from"
