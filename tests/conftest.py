"""What the tests share: a small goal environment on disk with its dataset, and runs of method files on it."""

import os
import re
import signal
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # the networks are too small for more threads

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("data", "results", "tests")]
torch.set_num_threads(1)

from tools import METHODS, agent_class, load_method  # noqa: E402

TOY = '''
import gymnasium as gym
import numpy as np


class Toy(gym.Env):
    """A point on a line. Reward 0 from half a step before the goal on, else -1; ends early beyond 3."""

    def __init__(self, scale=0.4):
        box = lambda n: gym.spaces.Box(-99, 99, (n,), np.float32)
        spaces = {"observation": box(2), "achieved_goal": box(1), "desired_goal": box(1)}
        self.observation_space = gym.spaces.Dict(spaces)
        self.action_space = gym.spaces.Box(np.float32([-0.9]), np.float32([2.9]))
        self.scale = scale

    def compute_reward(self, achieved, desired, info):
        return -(desired - achieved > 0.5).any(-1).astype(float)

    def state(self):
        x = np.float32([self.x])
        return {"observation": np.append(x, -x), "achieved_goal": x, "desired_goal": self.goal.copy()}

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.goal = 0.0, self.np_random.uniform(1, 4, 1).astype(np.float32)
        return self.state(), {"group": "near" if self.goal[0] < 2.5 else "far"}

    def step(self, action):
        assert self.action_space.contains(action)
        self.x += self.scale * float(action[0])
        state = self.state()
        return state, self.compute_reward(state["achieved_goal"], self.goal, {}), self.x > 3, False, {}


class ZeroOne(Toy):
    def compute_reward(self, achieved, desired, info):
        return super().compute_reward(achieved, desired, info) + 1


class Dense(Toy):
    def compute_reward(self, achieved, desired, info):
        return -abs(desired - achieved).max(-1)


class OneByOne(Toy):  # right for single rows only
    def compute_reward(self, achieved, desired, info):
        reward = super().compute_reward(achieved, desired, info)
        return reward if achieved.ndim == 1 else np.zeros(len(achieved))


class Never(Toy):
    def compute_reward(self, achieved, desired, info):
        return -np.ones(achieved.shape[:-1])


class Wrapper(gym.Wrapper):  # the reward is that of Toy again
    def compute_reward(self, achieved, desired, info):
        return Toy.compute_reward(self, achieved, desired, info)


gym.register("Wrapped", lambda: Wrapper(Never()), max_episode_steps=10)
gym.register("Endless", Toy)
for cls in (Toy, ZeroOne, Dense, OneByOne, Never):
    gym.register(cls.__name__, cls, max_episode_steps=10)
'''


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "slow: takes seconds in processes of its own; -m 'not slow' leaves it out"
    )


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A folder with the package toyenv, which registers toyenv:Toy, and its dataset toy.npz."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toyenv").mkdir()
    (folder / "toyenv" / "__init__.py").write_text(TOY)
    sys.path.append(str(folder))
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.9, 2.9, (20, 10, 1)).astype(np.float32)
    x = np.concatenate([np.zeros((20, 1, 1)), 0.4 * actions.cumsum(1)], 1)
    lengths = np.where(x.max((1, 2)) > 3, (x[..., 0] > 3).argmax(1), 10)
    data = {"observations": np.concatenate([x, -x], -1), "achieved_goals": x, "actions": actions}
    np.savez(folder / "toy.npz", **data, desired_goals=rng.uniform(1, 4, (20, 1)), lengths=lengths)
    return folder


def unhandled(number, frame):
    pytest.fail(f"the run has no handler of signal {number}")


@pytest.fixture
def run(toy, tmp_path, monkeypatch, capsys):
    """run(method, **settings) trains in this process, in an empty folder: exit status, lines on stderr."""
    monkeypatch.chdir(tmp_path)

    def call(method, **settings):
        module = load_method.__wrapped__(method)  # anew, as in a process of its own
        small = {"task": "toyenv:Toy", "dataset": str(toy / "toy.npz"), "hidden": (24,), "batch_size": 32}
        small |= {"precision": "fp32", "threads": 1, "eval_episodes": 3, "updates": 20}
        small |= {"vae_hidden": (24,)} if method == "bcq" else {}
        handlers = [(number, signal.signal(number, unhandled)) for number in (signal.SIGINT, signal.SIGTERM)]
        capsys.readouterr()
        try:
            status = module.train(agent_class(module), module.Args(**(small | settings)))
        except SystemExit as stop:
            status = stop.code
        finally:
            for number, handler in handlers:
                signal.signal(number, handler)
        lines = re.sub(r"[^\r\n]*%\|[^\]]*\]", "", capsys.readouterr().err).splitlines()  # without the bar
        return status or 0, [line for line in lines if line.strip()]

    return call


def swaps(name):
    """The values of --swap that a method takes."""
    return (False,) if METHODS[name].swap == "no" else (False, True)
