"""Networks that are tables, and three hand-made transitions, for tests that compare losses with values worked out by hand.

States 0, 1, 2 are s and 3, 4, 5 are s' of the three transitions; the second transition reaches its goal.
"""

import math
from types import SimpleNamespace

import torch
from speed import load, make
from torch import nn

H = 100
A = torch.tensor([[0.5, -0.5], [0.0, 0.25], [-0.25, 1.0]])  # actions of the data
DELTA = torch.tensor([[0.1, 0.2], [0.3, 0.0], [-0.1, 0.1]])  # pi(s, g) - a
DISTANCE = [0.025, 0.045, 0.01]  # mean square of DELTA over the action's dimensions
REWARD = torch.tensor([-1.0, 0.0, -1.0])  # the second transition reaches its goal


class Table(nn.Module):
    """Two heads; state k (the observation's only entry) has the values rows[:, k], plus slope * sum(action - A)."""

    def __init__(self, rows, slopes=None):
        super().__init__()
        self.rows, self.slopes = nn.Parameter(torch.tensor(rows)), slopes

    def forward(self, obs, goal, action=None):
        k = obs[:, 0].long()
        shift = 0 if action is None else (action - A).sum(-1)
        return tuple(row[k] + (slope * shift if self.slopes else 0)
                     for row, slope in zip(self.rows, self.slopes or (0, 0)))


class TableActor(nn.Module):
    """Action A + shift[k]: states 0, 1, 2 are s and 3, 4, 5 are s' of the three transitions."""

    def __init__(self, shift):
        super().__init__()
        self.shift = nn.Parameter(shift.clone())
        self.normalizer = SimpleNamespace(center=torch.zeros(2), scale=torch.ones(2))

    def forward(self, obs, goal):
        return A + self.shift[obs[:, 0].long()]


def batch(module):
    obs = torch.tensor([[0.0], [1.0], [2.0]])
    return module.Batch(obs, A, REWARD, obs + 3, torch.zeros(3, 1), torch.zeros(3, 1), obs, torch.tensor([1.0, math.inf, 3.0]))


def agent(method, **algorithm):
    """The method with tables for networks and a learning rate of 0, so that no step changes a value."""
    module = load(method)
    _, agent = make(module, (1, 1, 2), swap=False)
    for key, value in algorithm.items():
        setattr(agent.a, key, value)
    agent.floor = -H
    on_pi = torch.cat([DELTA, torch.zeros(3, 2)])
    agent.actor, agent.actor_target = TableActor(on_pi), TableActor(torch.zeros(6, 2))
    agent.critic = Table([[-10.0, -2, -50, 0, 0, 0], [-12.0, -1, -40, 0, 0, 0]], (2.0, -1.0))
    agent.critic_target = Table([[-4.0, -1, -30, -5, -3, -120], [-3.0, -2, -20, -7, -2, -150]], (2.0, 2.0))
    networks = {"actor": agent.actor, "critic": agent.critic}
    if hasattr(agent, "value"):
        agent.value = Table([[-11.0, -2, -52, -9, -3, -60], [-13.0, -3, -41, -10, -1, -45]])
        agent.value_target = Table([[0.0, 0, 0, -6, -4, -120], [0.0, 0, 0, -5, -6, -99]])
        networks["value"] = agent.value
    agent.optimizers = module.adam(networks, lr=0.0)
    return module, agent


def updated(method, n=2, **algorithm):
    module, it = agent(method, **algorithm)
    return it, {name: float(value) for name, value in it.update(batch(module), n).items()}
