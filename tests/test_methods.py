"""The mathematics of every method: losses, gradients and steps against the equations in numpy.

A method below is a generator. It yields the name of a network and its loss, in the order of the update. The
gradient flows where the loss depends on its argument w; what is computed before is constant. The test
compares the loss and its numerical gradient with the method's, does the step and goes on, so that the order
of the steps counts.
"""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import golden
from golden import METHODS, load_method, make

CENTER, HALF = np.array([0.0, 0.5]), np.array([2.0, 0.5])  # of golden.BOX
HORIZON, HIDDEN, LR = 8, (5, 4), 0.01
each_method = pytest.mark.parametrize("method", METHODS)
VALUES = [method for method in METHODS if method != "gcsl"]


# --- numpy's view of networks, policies and targets
def layers(w, name, x, activation):
    for i in range(len(HIDDEN)):
        x = activation(x @ w[f"{name}.layers.{i}.weight"].T + w[f"{name}.layers.{i}.bias"])
    return x @ w[f"{name}.layers.{i + 1}.weight"].T + w[f"{name}.layers.{i + 1}.bias"]


def net(w, name, *inputs):
    shift, scale, limit = w[f"{name}.normalisation"]
    x = np.clip((np.concatenate(inputs, -1) - shift) / scale, -limit, limit)
    return layers(w, name, x, lambda x: np.maximum(x, 0))


def values(w, name, *inputs):
    """All networks of an ensemble: (2, B), or (1, B)."""
    both = [f"{name}.{i}" for i in range(2) if f"{name}.{i}.normalisation" in w]
    return np.stack([net(w, one, *inputs)[..., 0] for one in both])


def policy(w, name, s, g):
    """The action of a deterministic actor; the mode of a Gaussian one."""
    return CENTER + HALF * np.tanh(net(w, name, s, g)[..., :2])


def gaussian(w, name, s, g, low, high, minus=0):
    """Mean and standard deviation before the tanh."""
    mean, log_std = np.split(net(w, name, s, g), 2, -1)
    return mean, np.exp(np.clip(log_std - minus, low, high))


def box(a):
    return np.clip(a, CENTER - HALF, CENTER + HALF)


def least(p):
    """The lower bound of a value."""
    return -HORIZON if p.gamma == 1 else -1 / (1 - p.gamma)


def bootstrap(p, b, next_value):
    """r + gamma V(s'), within the bounds of a sum of rewards."""
    not_done = 1 - (b.reward == 0) if p.stop_at_goal else 1
    return np.clip(b.reward + p.gamma * not_done * next_value, least(p), 0)


def errors(x, y):
    """The mean squared errors of all networks, added."""
    return ((x - y) ** 2).mean(-1).sum()


def clone(w, b):
    """The squared error of the policy's action, (B,)."""
    return ((policy(w, "actor", b.obs, b.goal) - b.action) ** 2).mean(-1)


def q_data(w, b):
    return values(w, "critic", b.obs, b.goal, b.action)


def q_policy(w, b):
    return values(w, "critic", b.obs, b.goal, policy(w, "actor", b.obs, b.goal))


# --- the equations. w: weights by name; p: settings and n; b: the batch; normal, uniform: torch's noise
def gcsl(w, p, b, normal, uniform):
    yield "actor", lambda w: clone(w, b).mean()


def td3bc(w, p, b, normal, uniform):
    noise = np.clip(p.target_noise * normal(*b.action.shape), -p.noise_clip, p.noise_clip)
    next_action = box(policy(w, "target_actor", b.next_obs, b.goal) + HALF * noise)
    y = bootstrap(p, b, values(w, "target_critic", b.next_obs, b.goal, next_action).min(0))
    yield "critic", lambda w: errors(q_data(w, b), y)
    if p.n % p.policy_delay:
        return

    scale = p.alpha / abs(q_policy(w, b)[0]).mean()
    yield "actor", lambda w: clone(w, b).mean() - scale * q_policy(w, b)[0].mean()


def dqapg(w, p, b, normal, uniform):
    fig9 = p.variant == "fig9"
    next_q = values(w, "target_critic", b.next_obs, b.goal, policy(w, "target_actor", b.next_obs, b.goal))
    next_v = values(w, "target_value", b.next_obs, b.goal)
    q_here = values(w, "target_critic", b.obs, b.goal, policy(w, "target_actor", b.obs, b.goal))
    from_q, from_v = bootstrap(p, b, next_q.min(0)), bootstrap(p, b, next_v.min(0))
    y_q = from_q if fig9 else from_v
    y_v = np.clip(q_here.min(0), least(p), 0) if p.variant == "eq34" else from_q
    q, v = q_data(w, b), values(w, "value", b.obs, b.goal)
    weights = np.minimum(np.exp(q - v), p.weight_clip)
    yield "critic", lambda w: errors(q_data(w, b), y_q)

    def value_loss(w):
        at_s, at_next = values(w, "value", b.obs, b.goal), values(w, "value", b.next_obs, b.goal)
        back = np.clip(q.min(0) - b.reward, least(p), 0)
        return errors(at_s, y_v) + fig9 * (errors(at_s, back) + errors(at_next, back))

    yield "value", value_loss

    scale = p.alpha / abs(q_policy(w, b) if fig9 else q).mean(1)
    weight = weights.sum(0) + 1 if fig9 else weights[0]

    def actor_loss(w):
        raised = scale * q_policy(w, b).mean(1)
        return (weight * clone(w, b)).mean() - (raised.sum() if fig9 else raised[0])

    yield "actor", actor_loss


def dqapg_gaussian(w, p, b, normal, uniform):
    def sample(w, name, s, noise):
        mean, std = gaussian(w, name, s, b.goal, -5, 2)
        return CENTER + HALF * np.tanh(mean + std * noise)

    next_action = sample(w, "target_actor", b.next_obs, normal(*b.action.shape))
    y = bootstrap(p, b, values(w, "target_critic", b.next_obs, b.goal, next_action).min(0))
    q, v = q_data(w, b), values(w, "value", b.obs, b.goal)
    weight = np.minimum(np.exp(q - v), p.weight_clip).sum(0) + 1
    back = np.clip(q.min(0) - b.reward, least(p), 0)
    yield "critic", lambda w: errors(q_data(w, b), y)

    def value_loss(w):
        at_s, at_next = values(w, "value", b.obs, b.goal), values(w, "value", b.next_obs, b.goal)
        return errors(at_s, y) + errors(at_s, back) + errors(at_next, back)

    yield "value", value_loss
    noise = normal(*b.action.shape)
    x = np.arctanh(np.clip((b.action - CENTER) / HALF, -0.99, 0.99))
    variance = (HALF * gaussian(w, "actor", b.obs, b.goal, -5, 2)[1]) ** 2

    def q_pi(w):
        return values(w, "critic", b.obs, b.goal, sample(w, "actor", b.obs, noise))

    scale = p.alpha / abs(q_pi(w)).mean(1)

    def actor_loss(w):
        mean, std = gaussian(w, "actor", b.obs, b.goal, -5, 2)
        bc = (2 * variance * (((x - mean) / std) ** 2 / 2 + np.log(std))).mean(-1)
        return (weight * bc).mean() - (scale * q_pi(w).mean(1)).sum()

    yield "actor", actor_loss


def awac(w, p, b, normal, uniform):
    next_action = policy(w, "actor", b.next_obs, b.goal)
    y = bootstrap(p, b, values(w, "target_critic", b.next_obs, b.goal, next_action).min(0))
    yield "critic", lambda w: errors(q_data(w, b), y)
    q = q_data(w, b).min(0)
    q_pi = q_policy(w, b).min(0)
    advantage = y - q if p.advantage == "td" else q - q_pi
    weight = np.minimum(np.exp(advantage / p.temperature), p.weight_clip)
    if p.weight == "softmax":
        weight = np.exp(np.minimum(advantage, p.advantage_clip) / p.temperature)
        weight = weight / weight.mean()
    yield "actor", lambda w: (weight * clone(w, b)).mean()


def crr(w, p, b, normal, uniform):
    def draw(name, s):
        return box(policy(w, name, s, b.goal) + HALF * p.policy_std * normal(*b.action.shape))

    next_q = values(w, "target_critic", b.next_obs, b.goal, draw("target_actor", b.next_obs)).min(0)
    y = bootstrap(p, b, next_q)
    yield "critic", lambda w: errors(q_data(w, b), y)
    q = q_data(w, b).min(0)
    drawn = [draw("actor", b.obs) for _ in range(p.action_samples)]
    advantage = q - np.mean([values(w, "critic", b.obs, b.goal, a).min(0) for a in drawn], 0)
    exp = np.minimum(np.exp(advantage / p.temperature), p.weight_clip)
    weight = exp if p.weight == "exp" else 1.0 * (advantage > 0)
    yield "actor", lambda w: (weight * clone(w, b)).mean()


def onestep(w, p, b, normal, uniform, expectile=None):
    q = np.clip(values(w, "target_critic", b.obs, b.goal, b.action).min(0), least(p), 0)
    advantage = q - values(w, "value", b.obs, b.goal)[0]
    factor = 1 if expectile is None else np.where(advantage > 0, expectile, 1 - expectile)
    weight = np.minimum(np.exp(p.beta * advantage), p.weight_clip)
    yield "value", lambda w: (factor * (q - values(w, "value", b.obs, b.goal)[0]) ** 2).mean()
    y = bootstrap(p, b, values(w, "value", b.next_obs, b.goal)[0])
    yield "critic", lambda w: errors(q_data(w, b), y)
    yield "actor", lambda w: (weight * clone(w, b)).mean()


def iql(w, p, b, normal, uniform):
    return onestep(w, p, b, normal, uniform, p.expectile)


def awr(w, p, b, normal, uniform):
    y = bootstrap(p, b, values(w, "target_value", b.next_obs, b.goal).min(0))
    v, next_v = (values(w, "value", s, b.goal).min(0) for s in (b.obs, b.next_obs))
    advantage = bootstrap(p, b, next_v) - v
    if p.standardise:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-5)
    weight = np.minimum(np.exp(advantage / p.temperature), p.weight_clip)
    yield "value", lambda w: errors(values(w, "value", b.obs, b.goal), y)
    yield "actor", lambda w: (weight * clone(w, b)).mean()


def cql(w, p, b, normal, uniform):
    def sample(w, s, noise):
        mean, std = gaussian(w, "actor", s, b.goal, -20, 2, minus=1)
        x = mean + std * noise
        density = np.exp(-(noise**2) / 2) / (std * np.sqrt(2 * np.pi)) * np.cosh(x) ** 2
        return CENTER + HALF * np.tanh(x), np.log(density).sum(-1)

    shape = p.samples, *b.action.shape
    ours, next_ours = (sample(w, s, normal(*shape)) for s in (b.obs, b.next_obs))
    others = [CENTER + HALF * (2 * uniform(*shape) - 1), ours[0], next_ours[0]]
    densities = [np.full(shape[:2], 0.25), np.exp(ours[1]), np.exp(next_ours[1])]
    y = bootstrap(p, b, values(w, "target_critic", b.next_obs, b.goal, next_ours[0][0]).min(0))

    def terms(w):
        q, pairs = q_data(w, b), zip(np.concatenate(others), np.concatenate(densities), strict=True)
        total = sum(np.exp(values(w, "critic", b.obs, b.goal, action)) / density for action, density in pairs)
        gap = p.weight * (np.log(total) - q).mean(1).sum()
        return errors(q, y), gap - 2 * p.weight * p.lagrange_gap if p.lagrange else gap

    if p.lagrange:
        excess = terms(w)[1]
        multiplier = np.exp(w["log_multiplier.0"])
        yield "log_multiplier", lambda w: -np.exp(w["log_multiplier.0"]) * excess / 2
        yield "critic", lambda w: terms(w)[0] + multiplier * terms(w)[1]
    else:
        yield "critic", lambda w: sum(terms(w))
    alpha, noise = np.exp(w["log_alpha.0"]), normal(1, *b.action.shape)[0]

    def actor_loss(w):
        action, log_density = sample(w, b.obs, noise)
        return (alpha * log_density - values(w, "critic", b.obs, b.goal, action).min(0)).mean()

    surplus = p.entropy * 2 - sample(w, b.obs, noise)[1].mean()
    yield "actor", actor_loss
    yield "log_alpha", lambda w: w["log_alpha.0"] * surplus


def bcq(w, p, b, normal, uniform):
    def decode(w, s, z):
        g = np.broadcast_to(b.goal, (*z.shape[:-1], 2))
        return CENTER + HALF * np.tanh(net(w, "vae.decoder", np.broadcast_to(s, (*z.shape[:-1], 3)), g, z))

    def propose(s, *shape):
        return decode(w, s, np.clip(normal(*shape, len(s), 4), -p.latent_clip, p.latent_clip))

    def perturbed(w, name, s, g, a):
        return box(a + p.phi * HALF * np.tanh(net(w, name, s, g, a)))

    noise = normal(len(b.obs), 4)

    def vae_loss(w):
        mean, log_std = np.split(net(w, "vae.encoder", b.obs, b.goal, b.action), 2, -1)
        std = np.exp(np.clip(log_std, -4, 15))
        kl = ((mean**2 + std**2 - 1) / 2 - np.log(std)).mean()
        return ((decode(w, b.obs, mean + std * noise) - b.action) ** 2).mean() + p.kl_weight * kl

    yield "vae", vae_loss
    best = []
    for a in propose(b.next_obs, p.target_candidates):
        q = values(
            w, "target_critic", b.next_obs, b.goal, perturbed(w, "target_actor", b.next_obs, b.goal, a)
        )
        best.append(p.soft_minimum * q.min(0) + (1 - p.soft_minimum) * q.max(0))
    y = bootstrap(p, b, np.max(best, 0))
    yield "critic", lambda w: errors(q_data(w, b), y)
    a = propose(b.obs)

    def actor_loss(w):
        return -values(w, "critic", b.obs, b.goal, perturbed(w, "actor", b.obs, b.goal, a))[0].mean()

    yield "actor", actor_loss


def am(w, p, b, normal, uniform):
    half = len(b.goal) // 2
    goal = np.concatenate([b.goal[:half], b.goal[half:][::-1]])  # as the patched torch.randperm shuffles
    chained = np.arange(len(goal)) >= half
    q = values(w, "critic", b.obs, goal, b.action)[0]

    def random_actions(name, s):
        actions = CENTER + HALF * (2 * uniform(p.candidates, *b.action.shape) - 1)
        return actions, np.array([values(w, name, s, goal, a)[0] for a in actions])

    if p.variant == "official":
        y = p.gamma * np.clip(random_actions("target_critic", b.next_obs)[1].max(0), 0, 1)
        label = np.where(b.steps_to_goal == 1, np.clip(q, 0, 1), y)
        y = np.where(chained, label, np.where(b.reward == 0, 1, y))
    else:
        next_action = policy(w, "target_actor", b.next_obs, b.goal)
        next_q = values(w, "target_critic", b.next_obs, b.goal, next_action)[0]
        not_done = b.reward < 0 if p.stop_at_goal else 1
        y = np.clip(np.where(chained, q, b.reward) + p.gamma * not_done * next_q, least(p), 0)
    actions, its_q = random_actions("critic", b.obs)
    other = actions[its_q.argmax(0), np.arange(len(goal))]  # the patched draw

    def critic_loss(w):
        low_q = values(w, "critic", b.obs, goal, other)[0]
        q = values(w, "critic", b.obs, goal, b.action)
        return errors(q, y) + (low_q**2 if p.variant == "official" else low_q).mean()

    yield "critic", critic_loss
    if p.variant == "gofar":
        yield "actor", lambda w: -values(w, "critic", b.obs, goal, policy(w, "actor", b.obs, goal))[0].mean()


def wgcsl(w, p, b, normal, uniform):
    official = p.variant == "official"
    p.gamma = p.gamma or 1 - 1 / HORIZON
    low, high = (0, -least(p)) if official else (least(p), 0)

    def backup(target):
        action = policy(w, target + "actor", b.next_obs, b.goal)
        next_q = values(w, target + "critic", b.next_obs, b.goal, action).min(0)
        reward = (b.reward == 0) if official else b.reward
        return reward + p.gamma * (b.reward < 0 if p.stop_at_goal else 1) * next_q

    y = np.clip(backup("target_"), low, high)
    td_error = y - q_data(w, b).min(0)
    yield "critic", lambda w: errors(q_data(w, b), y)
    q_pi = q_policy(w, b).min(0)
    advantage = backup("") - q_pi if official else y - np.clip(q_pi, low, high)
    advantage = td_error if p.variant == "gofar-2022" else advantage
    weight = p.gamma**b.steps_to_goal * np.minimum(np.exp(advantage), p.weight_clip)
    weight = weight * np.where(official & (advantage < w["threshold"]), p.baw_other, 1)
    mine = np.isfinite(b.steps_to_goal)
    yield "actor", lambda w: (weight * clone(w, b))[mine].mean()


def gofar(w, p, b, normal, uniform):
    shift, scale, limit = w["discriminator.normalisation"][:, :2]
    goal, achieved = (np.clip((x - shift) / scale, -limit, limit) for x in (b.goal, b.achieved))
    arrived, visited = np.concatenate([goal, goal], -1), np.concatenate([achieved, goal], -1)
    reward = b.reward

    def logit(w, x):
        return layers(w, "discriminator", x, np.tanh)[:, 0]

    if p.reward == "discriminator":
        share = uniform(len(goal), 1)
        between = share * arrived + (1 - share) * visited

        def discriminator_loss(w):
            steps = 1e-4 * np.eye(4)
            slope = np.stack([logit(w, between + d) - logit(w, between - d) for d in steps], -1) / 2e-4
            penalty = ((np.linalg.norm(slope, axis=-1) - 1) ** 2).mean()
            right = 1 / (1 + np.exp(-logit(w, arrived))), 1 / (1 + np.exp(logit(w, visited)))
            return -np.log(right).mean(1).sum() + p.penalty * penalty

        yield "discriminator", discriminator_loss
        reward = logit(w, visited)
    not_done = b.reward < 0 if p.stop_at_goal else 1
    y = reward + p.gamma * not_done * values(w, "target_value", b.next_obs, b.goal)[0]
    e = y - values(w, "value", b.obs, b.goal)[0]
    weight = np.maximum(e + 1, 0) if p.divergence == "chi2" else np.minimum(np.exp(e), p.weight_clip)

    def value_loss(w):
        e = y - values(w, "value", b.obs, b.goal)[0]
        dual = ((e + 1) ** 2).mean() if p.divergence == "chi2" else np.log(np.exp(e).mean())
        return (1 - p.gamma) * values(w, "value", b.initial_obs, b.goal).mean() + dual

    yield "value", value_loss
    yield "actor", lambda w: (weight * clone(w, b)).mean()


# --- the harness
CASES = {  # besides all_cases(); level: about the mean of Q and V, spread: their deviation
    "td3bc": [{"target_noise": 3.0, "alpha": 1.0, "noise_clip": 1.5}, {"n": 5}]
    + [{"level": 1.0, "n": 6, "target_every": 3}],
    "dqapg": [{"variant": "alg3"}, {"variant": "eq34", "alpha": 2.0}, {"alpha": 2.0, "weight_clip": 1.5}]
    + [{"variant": "eq34", "level": 2.0}, {"variant": "alg3", "level": 1.0}, {"level": 1.0, "n": 5}],
    "dqapg_gaussian": [{"alpha": 2.0, "weight_clip": 1.5, "level": 1.0}, {"wide": True}],
    "awac": [{"advantage": "td"}, {"weight": "softmax", "temperature": 0.5}]
    + [{"weight": "softmax", "temperature": 2.0, "advantage_clip": 9.0}]
    + [{"temperature": 0.5, "weight_clip": 1.5}],
    "crr": [{"weight": "exp", "temperature": 2.0, "action_samples": 2}, {"policy_std": 0.2}]
    + [{"weight": "exp", "weight_clip": 1.5}],
    "onestep": [{"beta": 0.5}, {"beta": 0.5, "weight_clip": 1.5}],
    "iql": [{"expectile": 0.9, "beta": 0.5}, {"beta": 0.5, "weight_clip": 1.5}],
    "awr": [{"standardise": True, "temperature": 2.0}, {"temperature": 2.0, "weight_clip": 1.5}],
    "cql": [{"lagrange": True, "lagrange_gap": 2.0}, {"weight": 1.0, "entropy": 2.0, "samples": 3}],
    "bcq": [{"phi": 0.5, "soft_minimum": 0.2, "kl_weight": 0.1, "latent_clip": 0.3}, {"wide": True}],
    "am": [{"variant": "official", "level": 0.5, "spread": x} for x in (1.0, 0.1)] + [{"gamma": 1.0}],
    "wgcsl": [{"variant": "gofar"}, {"variant": "gofar", "gamma": 1.0}, {"variant": "gofar-2022"}]
    + [{"weight_clip": 1.2, "baw_other": 0.5}],
    "gofar": [{"divergence": "kl"}, {"reward": "binary"}, {"penalty": 1.0}]
    + [{"divergence": "kl", "weight_clip": 1.5}],
}


def three(module):
    """Twice three transitions, of which the third reaches its goal. The second is no hindsight goal."""
    rng = np.random.default_rng(4)
    obs, next_obs, initial = 2 * rng.standard_normal((3, 6, 3))
    goal, achieved = 2 * rng.standard_normal((2, 6, 2))
    obs[1, 2] = 9.0  # far outside of what the networks see unclipped
    reward = np.array([-1.0, -1, 0, -1, -1, 0])
    action = CENTER + HALF * rng.uniform(-1, 1, (6, 2))
    action[0, 0] = 2.0
    steps = np.array([1, np.inf, 3, 1, np.inf, 2])
    arrays = obs, action, reward, next_obs, goal, achieved, initial, steps, np.array([0, 0, 0, 1, 1, 1])
    return module.Batch(*(torch.tensor(x, dtype=torch.float32) for x in arrays))


def agent_of(method, n=10, level=-3.0, spread=1.0, wide=False, **settings):
    """An agent with random weights, also in target networks, and gradient descent for Adam."""
    module = load_method(method)
    sizes = {"vae_hidden": HIDDEN} if method == "bcq" else {}
    sizes |= {} if method == "gcsl" else {"target_every": 10}
    agent, _ = make(method, horizon=HORIZON, **{"hidden": HIDDEN} | sizes | settings)
    rng = np.random.default_rng(1)
    for name, x in sorted(agent.named_parameters()):
        last = f"layers.{len(HIDDEN)}" in name and ("critic" in name or "value" in name)
        new = rng.standard_normal(x.shape) * (0.6 + last * spread if x.ndim > 1 else 0.3)
        x.data = torch.tensor(new + last * (x.ndim == 1) * level, dtype=torch.float32)
        if wide and name in ("actor.layers.2.weight", "vae.encoder.layers.2.weight"):
            x.data[x.shape[0] // 2 :] *= 2 if method == "bcq" else 20
    if method == "wgcsl":
        agent.threshold.fill_(0.2)
    for name, optimizer in agent.optimizers.items():
        parameters = optimizer.param_groups[0]["params"]
        agent.optimizers[name] = torch.optim.SGD(parameters, LR)
    return module, agent


def numbers(agent):
    return {name: x.detach().double().numpy().copy() for name, x in agent.state_dict().items()}


def noise(monkeypatch):
    """Patches torch's random numbers; returns normal and uniform, which give the same ones again."""
    ours, again = np.random.default_rng(2), np.random.default_rng(2)
    for name, draw in (("randn", ours.standard_normal), ("rand", ours.random)):
        draws = lambda *shape, device=None, draw=draw: torch.tensor(draw(shape)).float()  # noqa: E731
        monkeypatch.setattr(torch, name, draws)
        monkeypatch.setattr(torch, f"{name}_like", lambda x, draws=draws: draws(*x.shape))
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: torch.arange(n - 1, -1, -1))
    monkeypatch.setattr(torch.Tensor, "multinomial", lambda x, n: x.argmax(1, keepdim=True))
    return lambda *shape: again.standard_normal(shape), lambda *shape: again.random(shape)


def slope(loss, w, name):
    """The numerical gradient of a loss in the weights of one network."""
    gradient = {}
    buffers = ("normalisation", "action_range")
    for key in [key for key in w if key.split(".")[0] == name and not key.endswith(buffers)]:
        gradient[key] = np.zeros_like(w[key])
        for i in np.ndindex(w[key].shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = w[key].copy()
                moved[i] += step
                ends.append(loss(w | {key: moved}))
            gradient[key][i] = (ends[0] - ends[1]) / 2e-5
    return gradient


def close(actual, wanted):
    np.testing.assert_allclose(actual, wanted, rtol=2e-4, atol=2e-4 * max(1e-2, np.abs(wanted).max()))


def all_cases():
    for method in METHODS:
        stop = getattr(load_method(method).Args, "stop_at_goal", None)
        common = [{"gamma": 0.8, "level": -9.0}, {"level": 2.0}, {"stop_at_goal": not stop}]
        for case in [{}, *(common if method in VALUES else []), *CASES.get(method, ())]:
            if method == "wgcsl" and "variant" not in case:  # rewards of 0 and 1
                case = case | {"level": -case.get("level", -3.0)}
            yield pytest.param(method, case, id=f"{method} {case}")


@pytest.mark.parametrize("method, case", list(all_cases()))
def test_losses_gradients_and_steps_are_those_of_the_equations(method, case, monkeypatch):
    module, agent = agent_of(method, **case)
    w, taken, minimise = numbers(agent), [], module.minimise
    before, n = dict(w), case.get("n", 10)

    def record(loss, optimizer):
        minimise(loss, optimizer)
        taken.append((loss.item(), [p.grad.numpy().copy() for p in optimizer.param_groups[0]["params"]]))

    monkeypatch.setattr(module, "minimise", record)
    draws, batch = noise(monkeypatch), three(module)
    agent.update(batch, n)
    p = SimpleNamespace(**vars(getattr(agent, "args", SimpleNamespace())), n=n)
    b, parameters = module.Batch(*(x.double().numpy() for x in batch)), dict(agent.named_parameters())
    steps = globals()[method](w, p, b, *draws)
    for (name, loss), (actual, gradients) in zip(steps, taken, strict=True):
        close(actual, loss(w))
        wanted = slope(loss, w, name)
        own = [key for key in parameters if key.split(".")[0] == name]
        assert set(own) == set(wanted) and len(gradients) == len(own)
        for key, gradient in zip(own, gradients, strict=True):
            close(gradient, wanted[key])
            w[key] = w[key] - LR * wanted[key]
    for key in parameters:
        if key.startswith("target_"):
            kept = p.polyak if n % p.target_every == 0 else 1
            w[key] = kept * before[key] + (1 - kept) * w[key.removeprefix("target_")]
        close(parameters[key].detach().numpy(), w[key])
    if method != "bcq" and case.get("variant") != "official":  # these two search for an action
        close(agent.act(batch.obs, batch.goal).detach().numpy(), policy(w, "actor", b.obs, b.goal))


@each_method
def test_losses_are_those_of_golden_json(method):
    assert not (reason := golden.compare(method)), reason


# --- settings
TABLE_5 = {"batch_size": 512, "swap_ratio": 0.5, "her_ratio": 0.5, "lr": 1e-3, "hidden": (256, 256, 256)}
TABLE_5 |= {"polyak": 0.95, "target_every": 10, "gamma": 1.0, "stop_at_goal": True, "updates": 500_000}
MA = {"gamma": 0.98, "stop_at_goal": False}
DEFAULTS = {
    "gcsl": {"her_ratio": 1.0, "lr": 5e-4},
    "td3bc": {"alpha": 2.5, "target_noise": 0.2, "noise_clip": 0.5, "policy_delay": 2},
    "awac": {"advantage": "q", "weight": "exp", "temperature": 1.0, "weight_clip": 100.0}
    | {"advantage_clip": 0.5},
    "crr": {"weight": "binary", "action_samples": 4, "policy_std": 0.5}
    | {"temperature": 1.0, "weight_clip": 20.0},
    "onestep": {"beta": 3.0, "weight_clip": 100.0},
    "iql": {"expectile": 0.75, "beta": 3.0, "weight_clip": 100.0},
    "awr": {"standardise": False, "temperature": 1.0, "weight_clip": 20.0},
    "cql": {"lr": 3e-4, "samples": 10, "weight": 5.0, "lagrange": False, "lagrange_gap": 1.0, "entropy": 1.0},
    "bcq": {"hidden": (400, 300), "vae_hidden": (750, 750), "phi": 0.05, "soft_minimum": 0.75}
    | {"target_candidates": 10, "act_candidates": 100, "latent_clip": 0.5, "kl_weight": 0.5},
    "am": MA | {"variant": "gofar", "candidates": 10, "act_candidates": 100},
    "wgcsl": {"gamma": 0.0, "stop_at_goal": False, "her_ratio": 0.8, "lr": 5e-4, "variant": "official"}
    | {"weight_clip": 10.0, "baw_best": 80.0, "baw_rise": 0.01, "baw_other": 0.05, "baw_queue": 50_000},
    "gofar": MA
    | {"her_ratio": 0.0, "divergence": "chi2", "reward": "discriminator", "discriminator_lr": 5e-4}
    | {"penalty": 0.01, "weight_clip": 10.0},
    "dqapg": {"variant": "fig9", "alpha": 1.0, "weight_clip": 100.0},
    "dqapg_gaussian": {"alpha": 1.0, "weight_clip": 100.0},
}


@each_method
def test_defaults_are_those_of_table_5_and_of_the_authors(method):
    args = vars(load_method(method).Args())
    wanted = {name: x for name, x in TABLE_5.items() if name in args} | DEFAULTS[method]
    assert {name: args[name] for name in wanted} == wanted
    assert {field.name for field in golden.own_settings(method)} <= wanted.keys()


OTHER = {"weight_clip": 0.9, "her_ratio": 0.3, "lagrange_gap": 5.0, "polyak": 0.5, "gamma": 0.9}
OTHER |= {"hidden": (9,), "vae_hidden": (9,), "act_candidates": 3, "expectile": 0.6}
OTHER |= {"advantage_clip": 0.01, "baw_queue": 64, "baw_best": 20.0, "baw_rise": 5.0}
NEEDS = {("cql", "lagrange_gap"): {"lagrange": True}, ("gofar", "weight_clip"): {"divergence": "kl"}}
NEEDS[("am", "act_candidates")] = {"variant": "official"}
NEEDS |= {("crr", name): {"weight": "exp"} for name in ("temperature", "weight_clip")}
NEEDS |= {("awac", "advantage_clip"): {"weight": "softmax"}}
NEEDS |= {("wgcsl", name): {"baw_rise": 9.0} for name in ("baw_best", "baw_other", "baw_queue")}


def outcome(method, **settings):
    """Every weight after ten updates, and actions."""
    agent, buffer = make(method, **settings)
    for n in range(1, 11):
        agent.update(buffer.sample(), n)
    batch = buffer.sample()
    return torch.cat([x.detach().flatten() for x in (*agent.parameters(), agent.act(batch.obs, batch.goal))])


@each_method
def test_every_setting_changes_what_is_learned(method):
    plain = outcome(method)
    for field in golden.own_settings(method):
        name, old = field.name, vars(make(method)[1].args)[field.name]
        choices = [x for x in golden.typing.get_args(field.type) if x != old and type(x) is str]
        new = not old if type(old) is bool else choices[0] if choices else OTHER.get(name) or old * 2
        needs = NEEDS.get((method, name), {})
        other, same = outcome(method, **needs | {name: new}), outcome(method, **needs) if needs else plain
        assert len(other) != len(same) or not torch.equal(other, same), name


@each_method
def test_networks_have_the_sizes_and_adam_the_rate_asked_for(method):
    module = load_method(method)
    settings = {"hidden": (7, 5), "lr": 0.02, "vae_hidden": (6,), "discriminator_lr": 0.03}
    known = {name: x for name, x in settings.items() if hasattr(module.Args(), name)}
    agent, _ = make(method, **known)
    for name, network in agent.named_modules():
        if isinstance(network, module.Network):
            widths = [layer.out_features for layer in network.layers[:-1]]
            assert widths == ([6] if name.startswith("vae") else [7, 5]), name
    for name, optimizer in agent.optimizers.items():
        assert type(optimizer) is torch.optim.Adam
        assert optimizer.param_groups[0]["lr"] == (0.03 if name == "discriminator" else 0.02), name
    trained = {id(p) for o in agent.optimizers.values() for p in o.param_groups[0]["params"]}
    assert all((id(p) in trained) != name.startswith("target_") for name, p in agent.named_parameters())
    for name, target in agent.named_parameters():
        if name.startswith("target_"):
            assert torch.equal(target, dict(agent.named_parameters())[name.removeprefix("target_")])


@pytest.mark.parametrize(
    "method, settings, flag",
    [
        ("gcsl", {"swap": True}, "--swap"),
        ("am", {"swap": True}, "--swap"),
        ("am", {"gamma": 1.0, "variant": "official"}, "--gamma 1"),
        ("wgcsl", {"gamma": 1.0}, "--gamma 1"),
        ("wgcsl", {"her_ratio": 0.0}, "--her-ratio 0"),
        ("gofar", {"gamma": 1.0}, "--gamma 1"),
        ("iql", {"expectile": 0.0}, "--expectile"),
        ("iql", {"expectile": 1.0}, "--expectile"),
    ],
)
def test_settings_that_cannot_work_are_refused(method, settings, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        make(method, **settings)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and f"error: {flag}" in error


# --- what all methods share
@pytest.mark.parametrize("method", VALUES)
def test_a_time_out_bootstraps_and_a_reached_goal_does_not(method):
    """Nothing tells a time-out from other steps: s' counts, unless it is at the goal."""
    for stop in (True, False):
        settings = {"reward": "binary"} if method == "gofar" else {}
        losses = {}
        for reward, elsewhere in itertools.product((-1.0, 0.0), (False, True)):
            settings |= {"stop_at_goal": stop} | ({"variant": "gofar"} if method in ("am", "wgcsl") else {})
            module, agent = agent_of(method, spread=0.3, **settings)
            batch = three(module)
            batch = batch._replace(reward=torch.full((6,), reward), next_obs=batch.next_obs + elsewhere)
            torch.manual_seed(0)
            metrics = agent.update(batch, 10)
            name = next(x for x in ("td_loss", "critic_loss", "value_loss") if x in metrics)
            losses[reward, elsewhere] = metrics[name].item()
        assert losses[-1, True] != losses[-1, False], "a step that does not reach its goal"
        assert (losses[0, True] == losses[0, False]) == stop, "one that does"


@each_method
def test_an_update_depends_on_its_number_only_through_the_periods(method):
    """Otherwise a CUDA graph would replay the wrong update."""
    kinds = {}
    for n in range(1, 13):
        agent, buffer = make(method, **({"target_every": 4} if method in VALUES else {}))
        metrics = agent.update(buffer.sample(), n)
        state = torch.cat([x.detach().flatten() for x in agent.parameters()])
        kind = kinds.setdefault(tuple(n % period == 0 for period in agent.periods), (metrics.keys(), state))
        assert metrics.keys() == kind[0] and torch.equal(state, kind[1]), n
    assert len(kinds) == {"gcsl": 1, "td3bc": 3}.get(method, 2)


def test_networks_start_with_weights_of_xavier_and_apart():
    module = load_method("dqapg")
    agent, buffer = make("dqapg", hidden=(100, 100))
    for layer in agent.actor.layers:
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound and (layer.bias == 0).all()
    b = buffer.sample()
    for first, second in (agent.critic(b.obs, b.goal, b.action), agent.value(b.obs, b.goal)):
        assert first.shape == (32,) and ((first - second).abs() > 1e-4).float().mean() > 0.9
    one = module.Network({"x": torch.tensor([[0.0], [1], [9]])}, ("x",), 1, (8,))
    nn.init.zeros_(one.layers[-1].weight), nn.init.constant_(one.layers[-1].bias, -60.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert one(torch.ones(3, 1)).flatten().tolist() == pytest.approx([-60.1] * 3), "not rounded to -60"
        assert one.layers[0](torch.ones(3, 1)).dtype == torch.bfloat16


# --- the trap of each method
def test_iql_value_is_an_upper_expectile():
    """The paper prints 1 - tau for Q > V: with it, V would tend to the worst action of the data."""
    _, agent = agent_of("iql", expectile=0.9, polyak=1.0)
    agent.optimizers["value"] = torch.optim.Adam(agent.value.parameters(), 0.02)
    batch = three(load_method("iql"))
    same = batch._replace(obs=batch.obs[:1].expand(6, 3), goal=batch.goal[:1].expand(6, 2))
    for n in range(1, 250):
        v = agent.update(same, n)["v"]
    with torch.no_grad():
        q = torch.min(*agent.target_critic(same.obs, same.goal, same.action)).clamp(-HORIZON, 0)
    above, below = (q - v).clamp(min=0).mean().item(), (v - q).clamp(min=0).mean().item()
    assert 0.9 * above == pytest.approx(0.1 * below, rel=0.05) and v > q.mean()


def test_cql_densities_are_those_of_torch():
    """Of the action scaled to [-1, 1], in a box of other units."""
    _, agent = agent_of("cql")
    batch = three(load_method("cql"))
    action, log_density = agent.actor.sample(batch.obs, batch.goal, 500)
    mean, std = gaussian(numbers(agent), "actor", batch.obs.numpy(), batch.goal.numpy(), -20, 2, minus=1)
    normal = torch.distributions.Normal(torch.tensor(mean), torch.tensor(std))
    squashed = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
    scaled = (action.detach().double() - torch.tensor(CENTER)) / torch.tensor(HALF)
    inner = (scaled.abs() < 0.999).all(-1)
    assert action.shape == (500, 6, 2) and inner.float().mean() > 0.3
    wanted = squashed.log_prob(scaled).sum(-1)[inner]
    torch.testing.assert_close(log_density.detach().double()[inner], wanted, atol=0.01, rtol=0.01)
    nn.init.constant_(agent.actor.layers[-1].bias, 60.0)
    assert agent.actor.sample(batch.obs, batch.goal, 9)[1].isfinite().all(), "at the edge of the box, too"


def test_bcq_proposes_from_a_clipped_latent_variable_and_acts_by_the_first_critic():
    module, agent = agent_of("bcq", act_candidates=7, phi=0.5)
    seen, decode, batch = [], agent.vae.decode, three(module)
    agent.vae.decode = lambda s, g, z: (seen.append(z), decode(s, g, z))[1]
    agent.vae.propose(torch.zeros(99, 3), torch.zeros(99, 2))
    assert seen[0].shape == (99, 4) and seen[0].min() == -0.5 and seen[0].max() == 0.5
    torch.manual_seed(3)
    chosen = agent.act(batch.obs, batch.goal)
    torch.manual_seed(3)
    s, g = batch.obs.expand(7, 6, 3), batch.goal.expand(7, 6, 2)
    proposed = agent.vae.propose(s, g)
    moved = agent.actor(s, g, proposed)
    q = torch.stack([agent.critic[0](batch.obs, batch.goal, a)[:, 0] for a in moved])
    torch.testing.assert_close(chosen, moved[q.argmax(0), torch.arange(6)])
    assert q.argmax(0).unique().numel() > 1
    for sign, bias in ((-1, -100.0), (1, 100.0)):
        nn.init.constant_(agent.actor.layers[-1].bias, bias)
        moved = agent.actor(s, g, proposed).detach().double().numpy()
        np.testing.assert_allclose(moved, box(proposed.detach().numpy() + sign * 0.5 * HALF), atol=1e-6)
    nn.init.constant_(agent.vae.encoder.layers[-1].bias, 60.0)
    assert (agent.vae(batch.obs, batch.goal, batch.action)[2] == 15).all()


def test_wgcsl_percentile_is_that_of_the_latest_hindsight_advantages():
    module, agent = agent_of("wgcsl", target_every=1, baw_rise=7.0, baw_queue=16)
    rng, kept, batch = np.random.default_rng(0), [], three(module)
    for optimizer in agent.optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    for n in range(1, 15):
        next_obs = batch.next_obs + torch.tensor(rng.standard_normal((6, 3))).float()
        steps = torch.tensor(np.where(rng.random(6) < 0.6, 2.0, np.inf)).float()
        b = batch._replace(next_obs=next_obs, steps_to_goal=steps)
        with torch.no_grad():
            q_pi = torch.min(*agent.critic(b.obs, b.goal, agent.actor(b.obs, b.goal)))
            advantage = agent.backup(agent.actor, agent.critic, b.reward, b.next_obs, b.goal) - q_pi
        kept = [*kept, *advantage.where(steps.isfinite(), torch.nan).tolist()][-16:]
        agent.update(b, n)
        wanted = np.nanpercentile(kept, min(7 * n, 80))
        assert agent.threshold.item() == pytest.approx(wanted, abs=1e-5)
    agent.args.target_every = 10  # and stays as it is until the targets move
    agent.update(batch, 11)
    assert agent.threshold.item() == pytest.approx(wanted, abs=1e-5)


def test_am_draws_other_actions_with_probability_exp_q(monkeypatch):
    _, agent = agent_of("am", candidates=3)
    rows = torch.zeros(20_000, 3), torch.zeros(20_000, 2)
    u = torch.tensor([0.1, 0.5, 0.9])[:, None, None].expand(3, 20_000, 2)
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: u)
    drawn = agent.other_actions(*rows)
    actions = torch.tensor(CENTER + HALF * (2 * u[:, 0].numpy() - 1)).float()
    wanted = agent.critic(rows[0][:3], rows[1][:3], actions)[0].softmax(0)
    shares = torch.stack([(drawn == action).all(-1).float().mean() for action in actions])
    torch.testing.assert_close(shares, wanted, atol=0.02, rtol=0)
    assert wanted.max() < 0.9


def test_am_chains_whole_goals_of_the_second_half():
    _, agent = agent_of("am")
    goal = torch.arange(40.0).reshape(20, 2)
    mixed, chained = agent.chain(goal)
    assert chained.tolist() == [False] * 10 + [True] * 10 and torch.equal(mixed[:10], goal[:10])
    assert not torch.equal(mixed, goal) and torch.equal(mixed[10:].sort(0).values, goal[10:])


def test_am_official_discounts_below_the_value_of_a_goal():
    """Also where the critic over-estimates. The fourth pair is chained, its trajectory's last step."""
    _, agent = agent_of("am", variant="official")
    agent.target_critic.forward = lambda s, g, a: [torch.full(a.shape[:-1], 1.01)]
    r, chained = torch.tensor([0.0, -1, 0, -1]), torch.tensor([False, False, True, True])
    steps = torch.tensor([1.0, 2, 2, 1])
    y = agent.target(torch.full((4,), 0.3), r, torch.zeros(4, 3), *[torch.zeros(4, 2)] * 2, chained, steps)
    assert y.tolist() == pytest.approx([1, 0.98, 0.98, 0.3])


def test_am_official_acts_by_the_best_of_random_actions():
    module, agent = agent_of("am", variant="official", act_candidates=7)
    batch = three(module)
    torch.manual_seed(3)
    chosen = agent.act(batch.obs, batch.goal)
    torch.manual_seed(3)
    actions = torch.tensor(CENTER) + torch.tensor(HALF) * (2 * torch.rand(7, 6, 2) - 1)
    q = torch.stack([agent.critic(batch.obs, batch.goal, a.float())[0] for a in actions])
    torch.testing.assert_close(chosen, actions[q.argmax(0), torch.arange(6)].float())
    assert q.argmax(0).unique().numel() > 1


def test_am_official_values_halve_at_every_step_of_random_actions():
    """A chain of two steps: other actions are drawn like the data's, and both terms weigh the same."""
    module, agent = agent_of("am", variant="official", hidden=(24, 16), target_every=1, spread=0.1, level=0.0)
    agent.optimizers["critic"] = torch.optim.Adam(agent.critic.parameters(), 0.01)
    agent.chain = lambda g: (g, torch.zeros(len(g), dtype=torch.bool))
    at_goal, rng = torch.arange(64) % 2, np.random.default_rng(0)
    obs = at_goal[:, None].expand(64, 3).float()
    for n in range(1, 301):
        action = torch.tensor(CENTER + HALF * rng.uniform(-1, 1, (64, 2))).float()
        batch = (obs, action, at_goal - 1.0, torch.ones(64, 3), torch.zeros(64, 2))
        agent.update(module.Batch(*batch, *[torch.full((64,), torch.inf)] * 4), n)
    q = agent.critic(obs, torch.zeros(64, 2), action)[0]
    assert q[at_goal == 1].mean().item() == pytest.approx(0.5, abs=0.05)
    assert q[at_goal == 0].mean().item() == pytest.approx(0.25, abs=0.04)


def test_gofar_discriminator_learns_in_float32_under_autocast():
    weights = []
    for enabled in (False, True):
        agent, buffer = make("gofar", penalty=1.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            agent.update(buffer.sample(), 1)
        weights.append(nn.utils.parameters_to_vector(agent.discriminator.parameters()))
    assert torch.equal(*weights)


def test_gofar_goals_are_normalised_by_desired_goals_alone():
    data = golden.dataset()
    goals = np.repeat(data["desired_goals"], data["lengths"] + 2, 0)  # in batches a long episode counts more
    stats = load_method("gofar").statistics(data, golden.BOX)
    np.testing.assert_allclose(stats["goal"], [goals.mean(0), goals.std(0), [5, 5]], rtol=1e-4)


def test_crr_clones_better_actions_only_by_the_likelihood_of_a_gaussian():
    """With a critic that likes actions whose entries have a large sum, or a small one."""
    for sign in (1.0, -1.0):
        module, agent = agent_of("crr", policy_std=0.0)
        for one in agent.critic:
            one.forward = lambda s, g, a, old=one.forward: sign * a.sum(-1, keepdim=True) + 0 * old(s, g, a)
        batch = three(module)
        mu, weights = agent.actor(batch.obs, batch.goal), [*agent.actor.parameters()]
        better = sign * (batch.action - mu).sum(-1) > 0
        log_density = torch.distributions.Normal(mu, 0.7).log_prob(batch.action).sum(-1)
        wanted = torch.autograd.grad(-(0.7**2 * better * log_density).mean(), weights)
        assert agent.update(batch, 1)["weight"].item() == pytest.approx(better.float().mean().item())
        torch.testing.assert_close([x.grad for x in weights], [*wanted])
        assert 0 < better.sum() < 6
