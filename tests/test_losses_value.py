"""Losses and targets of IQL, Onestep-RL, CQL and BCQ on three hand-made transitions, against hand-computed values."""

import copy
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from speed import load, make
from tables import DELTA, DISTANCE, REWARD, A, Table, TableActor, agent, batch
from torch import nn


# --- IQL and Onestep-RL. In all tests below min Q'(s, a) is -4, -2, -30, V(s) is -6, -2, -29 and V(s') -9, -3, -120
def regression_agent(method, **algorithm):
    module, it = agent(method, **algorithm)
    it.value.rows = nn.Parameter(torch.tensor([[-6.0, -2, -29, -9, -3, -120], [0.0, 0, 0, 0, 0, 0]]))
    it.optimizers = module.adam({"actor": it.actor, "critic": it.critic, "value": it.value}, lr=0.0)
    return module, it


# weights exp(beta A): A is 2, 0, -1
@pytest.mark.parametrize("method, algorithm, value_loss, weights", [
    ("iql", {"expectile": 0.75, "beta": 1.0}, (0.75 * 4 + 0 + 0.25 * 1) / 3, [math.exp(2), 1, math.exp(-1)]),
    ("iql", {"expectile": 0.9, "beta": 3.0}, (0.9 * 4 + 0 + 0.1 * 1) / 3, [100, 1, math.exp(-3)]),
    ("iql", {"expectile": 0.5, "beta": 0.5, "weight_clip": 2.0}, (4 + 0 + 1) / 6, [2, 1, math.exp(-0.5)]),
    ("onestep", {"beta": 1.0}, (4 + 0 + 1) / 3, [math.exp(2), 1, math.exp(-1)]),
    ("onestep", {"beta": 3.0}, (4 + 0 + 1) / 3, [100, 1, math.exp(-3)])])
def test_iql_and_onestep(method, algorithm, value_loss, weights):
    module, it = regression_agent(method, **algorithm)
    metrics = {name: float(value) for name, value in it.update(batch(module), 1).items()}
    assert metrics["value_loss"] == pytest.approx(value_loss)
    # y = r + V(s'): -1 - 9, 0 because the goal is reached, -1 - 120 clipped; Q(s, a) is -10, -2, -50 and -12, -1, -40
    assert metrics["critic_loss"] == pytest.approx((0 + 4 + 2500) / 3 + (4 + 1 + 3600) / 3)
    assert metrics["actor_loss"] == pytest.approx(sum(w * d for w, d in zip(weights, DISTANCE)) / 3)
    assert (metrics["q"], metrics["v"]) == pytest.approx((-12, -37 / 3))
    assert metrics["weight"] == pytest.approx(sum(weights) / 3)
    assert metrics["cloning"] == pytest.approx(sum(DISTANCE) / 3)
    torch.testing.assert_close(it.actor.shift.grad[:3], torch.tensor(weights)[:, None] * DELTA / 3)


@pytest.mark.parametrize("method", ["iql", "onestep"])
def test_values_of_the_data_that_v_and_the_actor_learn_from_are_bounded(method):
    module, it = regression_agent(method)
    it.critic_target.rows.data[:, :3] = torch.tensor([[3.0, -1, -150], [2.0, -2, -160]])
    metrics = it.update(batch(module), 1)
    assert float(metrics["q"]) == pytest.approx((0 - 2 - 100) / 3)


def test_iql_expectile_is_not_inverted():
    """The paper prints 1 - tau for Q > V: with it V would tend to the worst action of the data, not to the best."""
    for expectile in (0.5, 0.75, 0.9):
        module, it = regression_agent("iql", expectile=expectile)
        it.optimizers["value"], it.o.target_every = torch.optim.SGD(it.value.parameters(), 0.5), 1000
        # three actions of state 0, where min Q' is -4 + 2 (a - A): -1, -9 and -9
        actions = A + torch.tensor([[0.75], [-1.25], [-1.25]])
        same = batch(module)._replace(obs=torch.zeros(3, 1), action=actions)
        for n in range(1, 200):
            metrics = it.update(same, n)
        # tau (-1 - v) = 2 (1 - tau) (v + 9): -6.3, -4.2, -2.5
        assert float(metrics["v"]) == pytest.approx((-expectile - 18 * (1 - expectile)) / (2 - expectile), abs=1e-3)


@pytest.mark.parametrize("method", ["iql", "onestep"])
def test_iql_and_onestep_gradients(method):
    module, it = regression_agent(method)
    it.update(batch(module), 1)
    assert all(p.grad is None for p in it.critic_target.parameters())
    # the critic and the value have the gradients of their regressions only, none through the advantage or the target
    expected = 2 * (it.critic.rows.detach()[:, :3] - torch.tensor([-10, 0, -100])) / 3
    torch.testing.assert_close(it.critic.rows.grad, torch.cat([expected, torch.zeros(2, 3)], 1))
    factor = torch.tensor([0.75, 0.25, 0.25] if method == "iql" else [1.0, 1, 1])
    expected = 2 * factor * torch.tensor([-2.0, 0, 1]) / 3
    torch.testing.assert_close(it.value.rows.grad, torch.stack([torch.cat([expected, torch.zeros(3)]), torch.zeros(6)]))
    assert it.actor.shift.grad[:3].abs().sum() > 0 and (it.actor.shift.grad[3:] == 0).all()


@pytest.mark.parametrize("method", ["iql", "onestep"])
def test_the_critic_learns_from_v_after_its_step_and_the_actor_from_v_before(method):
    module, it = regression_agent(method, beta=1.0)
    it.optimizers["value"] = torch.optim.SGD(it.value.parameters(), 0.0)
    step = it.optimizers["value"].step

    def moved():
        step()
        it.value.rows.data[0] += 1.0

    it.optimizers["value"].step = moved
    metrics = it.update(batch(module), 1)  # y is -9, 0, -100 instead of -10, 0, -100
    assert float(metrics["critic_loss"]) == pytest.approx((1 + 4 + 2500) / 3 + (9 + 1 + 3600) / 3)
    assert float(metrics["weight"]) == pytest.approx((math.exp(2) + 1 + math.exp(-1)) / 3)


def test_iql_value_has_one_head_and_no_target():
    for method in ("iql", "onestep"):
        buffer, it = make(load(method), (2, 2, 2), swap=True)
        obs = torch.zeros(4, 2)
        assert len(it.value(obs, obs)) == 1 and len(it.critic(obs, obs, obs)) == 2
        assert not hasattr(it, "value_target") and not hasattr(it, "actor_target")


def test_iql_expectile_must_lie_between_0_and_1(capsys):
    module = load("iql")
    for expectile in (0.0, 1.0, 1.5):
        module.DEFAULTS.algorithm.expectile = expectile
        with pytest.raises(SystemExit):
            make(module, (2, 2, 2), swap=False)
        assert "--expectile" in capsys.readouterr().err


# --- CQL
class Grid(nn.Module):
    """Two heads Q_i(s, g, a) = rows[i, k] + slopes[i] * sum(a), also for a leading dimension of samples."""

    def __init__(self, rows, slopes):
        super().__init__()
        self.rows, self.slopes = nn.Parameter(torch.tensor(rows)), nn.Parameter(torch.tensor(slopes))

    def forward(self, obs, goal, action):
        return tuple(row[obs[..., 0].long()] + slope * action.sum(-1) for row, slope in zip(self.rows, self.slopes))


class FixedActor(nn.Module):
    """Samples k of every state are (value + shift) / 2 ** k in both coordinates, with log-density -k - 0.5."""

    def __init__(self, module):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.0))
        self.normalizer = module.Normalizer.__new__(module.Normalizer)
        nn.Module.__init__(self.normalizer)
        self.normalizer.center, self.normalizer.scale = torch.zeros(2), torch.ones(2)

    def sample(self, obs, goal, samples):
        value = 0.5 if obs[0, 0] < 3 else -0.25
        k = torch.arange(samples, dtype=torch.float32)[:, None, None]
        log_density = -k[..., 0] - 0.5 + self.shift
        return ((value + self.shift) / 2 ** k).expand(samples, len(obs), 2), log_density.expand(-1, len(obs))


def cql_agent(monkeypatch, **algorithm):
    """Two samples of each kind; the uniform ones are (0, 0)."""
    module, it = agent("cql", samples=2, **algorithm)
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 0.5))
    it.actor = FixedActor(module)
    it.critic = Grid([[-10.0, -2, -50, 0, 0, 0], [-12.0, -1, -40, 0, 0, 0]], [2.0, -1.0])
    it.critic_target = Grid([[-4.0, -1, -30, -5, -3, -120], [-3.0, -2, -20, -7, -2, -150]], [2.0, 2.0])
    it.optimizers = module.adam({"actor": it.actor, "critic": it.critic, "temperature": it.temperature,
                                 "multiplier": it.multiplier}, lr=0.0)
    return module, it


def cql_gap(slope):
    """log sum_i exp(Q(s, a_i) - log density of a_i) - Q(s, a), mean over the three states; V(s) cancels."""
    uniform = 2 * math.exp(0 + 2 * math.log(2))  # two at (0, 0), density 1/4
    ours = sum(math.exp(slope * 2 * 0.5 / 2 ** k + k + 0.5) for k in (0, 1))
    next_ours = sum(math.exp(slope * 2 * -0.25 / 2 ** k + k + 0.5) for k in (0, 1))
    return math.log(uniform + ours + next_ours) - slope * float(A.sum(-1).mean())


def test_cql(monkeypatch):
    module, it = cql_agent(monkeypatch)
    metrics = {name: float(value) for name, value in it.update(batch(module), 1).items()}
    # Q(s, a) with sums of actions 0, 0.25, 0.75: -10, -1.5, -48.5 and -12, -1.25, -40.75
    # y = r + min Q'(s', pi'), pi' = (-0.25, -0.25) lowers Q' by 1: -1 - 8, 0 because the goal is reached, -100
    td = (1 + 1.5**2 + 51.5**2) / 3 + (9 + 1.25**2 + 59.25**2) / 3
    assert metrics["td_loss"] == pytest.approx(td)
    assert metrics["gap"] == pytest.approx(cql_gap(2.0))
    assert metrics["critic_loss"] == pytest.approx(td + 5 * (cql_gap(2.0) + cql_gap(-1.0)))
    # pi = (0.5, 0.5): Q is -8, 0, -48 and -13, -2, -41, the smaller -13, -2, -48; alpha = 1, log pi = -0.5
    assert metrics["actor_loss"] == pytest.approx(63 / 3 - 0.5) and metrics["q_pi"] == pytest.approx(-63 / 3)
    assert metrics["alpha"] == 1 and metrics["entropy"] == 0.5 and "multiplier" not in metrics
    # d/dshift of alpha log pi - min Q: 1 - 2 * slope of the smaller head, which is -1, -1, 2
    torch.testing.assert_close(it.actor.shift.grad, torch.tensor((3 + 3 - 3) / 3.0))
    # the temperature's loss is log alpha times entropy minus its target of -2
    assert it.temperature[0].grad == pytest.approx(2.5) and it.multiplier[0].grad is None


def test_cql_log_sum_exp_sends_a_gradient_into_the_critic_and_the_target_none(monkeypatch):
    gradients = {}
    for weight in (0.0, 5.0):
        module, it = cql_agent(monkeypatch, weight=weight)
        it.update(batch(module), 1)
        assert all(p.grad is None for p in it.critic_target.parameters())
        gradients[weight] = it.critic.slopes.grad.clone(), it.critic.rows.grad.clone()
    # without it only the regression is left, with y = -9, 0, -100
    q = torch.tensor([[-10.0, -1.5, -48.5], [-12, -1.25, -40.75]])
    error = 2 * (q - torch.tensor([-9, 0, -100])) / 3
    torch.testing.assert_close(gradients[0.0][1], torch.cat([error, torch.zeros(2, 3)], 1))
    torch.testing.assert_close(gradients[0.0][0], (error * A.sum(-1)).sum(1))
    # Q of each state is pushed down as much at the samples as up at the data, so only the slopes feel it
    torch.testing.assert_close(gradients[5.0][1], gradients[0.0][1], atol=1e-5, rtol=1e-5)
    for i, slope in enumerate((2.0, -1.0)):
        expected = 5 * (cql_gap(slope + 1e-4) - cql_gap(slope - 1e-4)) / 2e-4
        assert float(gradients[5.0][0][i] - gradients[0.0][0][i]) == pytest.approx(expected, rel=1e-3)


def test_cql_lagrange(monkeypatch):
    module, it = cql_agent(monkeypatch, lagrange=True, lagrange_gap=0.5)
    metrics = {name: float(value) for name, value in it.update(batch(module), 1).items()}
    excess = 5 * (cql_gap(2.0) + cql_gap(-1.0) - 2 * 0.5)
    assert metrics["multiplier"] == pytest.approx(math.e)
    assert metrics["critic_loss"] == pytest.approx(metrics["td_loss"] + math.e * excess)
    # its loss is -multiplier * excess / 2, its parameter the multiplier's logarithm: it grows while excess > 0
    assert it.multiplier[0].grad == pytest.approx(-math.e * excess / 2, rel=1e-4) and excess > 0
    it.a.lagrange_gap = 50.0  # a gap below it: the term changes its sign, and the multiplier falls
    excess = 5 * (cql_gap(2.0) + cql_gap(-1.0) - 2 * 50)
    metrics = {name: float(value) for name, value in it.update(batch(module), 1).items()}
    assert metrics["critic_loss"] == pytest.approx(metrics["td_loss"] + math.e * excess) and excess < 0
    assert it.multiplier[0].grad == pytest.approx(-math.e * excess / 2, rel=1e-4)
    it.multiplier[0].data.fill_(20.0)
    assert float(it.update(batch(module), 1)["multiplier"]) == 1e6


def test_cql_temperature_grows_by_its_logarithm(monkeypatch):
    module, it = cql_agent(monkeypatch, entropy=3.0)
    it.temperature[0].data.fill_(0.7)
    metrics = it.update(batch(module), 1)
    assert float(metrics["alpha"]) == pytest.approx(math.exp(0.7))
    assert float(metrics["actor_loss"]) == pytest.approx(63 / 3 - 0.5 * math.exp(0.7), rel=1e-5)
    assert it.temperature[0].grad == pytest.approx(0.5 + 3 * 2)  # the entropy minus its target of -6
    assert load("cql").DEFAULTS.optimisation.lr == 3e-4


def test_cql_deviations_are_bounded():
    _, it = make(load("cql"), (2, 2, 2), swap=False)
    nn.init.zeros_(it.actor.net.head.weight)
    it.actor.net.head.bias.data = torch.tensor([0.0, 0, 60, -60])
    obs = torch.zeros(200, 2)
    torch.manual_seed(3)
    action, _ = it.actor.sample(obs, obs, 1)
    torch.manual_seed(3)
    x = torch.tensor([math.exp(2), math.exp(-20)]) * torch.randn(1, 200, 2)
    torch.testing.assert_close(action, x.tanh(), rtol=1e-4, atol=1e-12)


def test_cql_uniform_actions_fill_the_box_of_the_environment(monkeypatch):
    module, it = cql_agent(monkeypatch)
    it.actor.normalizer.center, it.actor.normalizer.scale = torch.tensor([1.0, 0]), torch.tensor([2.0, 1])
    asked, critic = [], it.critic.forward
    it.critic.forward = lambda obs, goal, action: (asked.append(action), critic(obs, goal, action))[1]
    for share, wanted in ((0.0, [-1.0, -1]), (0.75, [2.0, 0.5]), (1.0, [3.0, 1])):
        monkeypatch.setattr(torch, "rand_like", lambda x, share=share: torch.full_like(x, share))
        it.update(batch(module), 1)
        uniform = asked[0].view(7, 3, 2)[1:3]  # after the data's, before those of pi(s) and pi(s')
        torch.testing.assert_close(uniform, torch.tensor(wanted).expand(2, 3, 2))
        asked.clear()


def test_cql_actions_of_either_state_have_densities_of_their_own(monkeypatch):
    module, it = cql_agent(monkeypatch)
    sample = it.actor.sample

    def rarer(obs, goal, samples):  # at s' all densities are smaller by a factor of exp(2)
        action, log_density = sample(obs, goal, samples)
        return action, log_density - 2 * (obs[0, 0] >= 3)

    it.actor.sample = rarer
    metrics = it.update(batch(module), 1)
    ours, next_ours = (sum(math.exp(4 * x / 2 ** k + k + 0.5) for k in (0, 1)) for x in (0.5, -0.25))
    gap = math.log(8 + ours + math.exp(2) * next_ours) - 2 * float(A.sum(-1).mean())  # 8 as in cql_gap
    assert float(metrics["gap"]) == pytest.approx(gap)


def test_cql_target_takes_one_action_of_the_policy(monkeypatch):
    module, it = cql_agent(monkeypatch)
    s, _, r, s_next, g, *_ = batch(module)
    assert it.target(r, s_next, g, torch.zeros(3, 2)).tolist() == [-8, 0, -100]
    it.o.stop_at_goal = False
    assert it.target(r, s_next, g, torch.full((3, 2), 0.5)).tolist() == [-6, -1, -100]
    it.o.gamma = 0.5
    assert it.target(r, s_next, g, torch.zeros(3, 2)).tolist() == [-4.5, -1.5, -76]


def test_cql_densities_equal_those_of_torch():
    """In a box of other units: the density is that of the action scaled to [-1, 1]."""
    module = load("cql")
    buffer, _ = make(module, (2, 2, 2), swap=False)
    normalizer = module.Normalizer(buffer, gym.spaces.Box(np.float32([-2, 0]), np.float32([2, 1])))
    actor, obs = module.GaussianActor(normalizer, [8]), torch.randn(4, 2)
    action, log_density = actor.sample(obs, obs, 5000)
    assert action.shape == (5000, 4, 2) and log_density.shape == (5000, 4)
    mean, log_std = actor.net(normalizer(obs, obs)).chunk(2, -1)
    normal = torch.distributions.Normal(mean, (log_std - 1).exp())
    squashed = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
    scaled = ((action - normalizer.center) / normalizer.scale).double()
    inner = (scaled.abs() < 0.999).all(-1)
    expected = squashed.log_prob(scaled).sum(-1)[inner].float()
    torch.testing.assert_close(log_density[inner], expected, atol=0.01, rtol=0.01)
    assert inner.float().mean() > 0.5
    torch.testing.assert_close(actor(obs, obs), normalizer.center + normalizer.scale * mean.tanh())
    x = torch.atanh(scaled.clamp(-1 + 1e-9, 1 - 1e-9)).median(0).values.float()
    torch.testing.assert_close(x, mean, atol=0.1, rtol=0.1)


def test_cql_samples_are_new_at_every_update():
    module = load("cql")
    buffer, it = make(module, (2, 2, 2), swap=True)
    obs = torch.randn(3, 2)
    assert not torch.equal(it.actor.sample(obs, obs, 2)[0], it.actor.sample(obs, obs, 2)[0])
    assert torch.equal(it.act(obs, obs), it.act(obs, obs)), "act() is the mode"


# --- BCQ
class FixedVAE(nn.Module):
    """Decodes A + bias and proposes A + bias + 0.1 * k for proposal k; the posterior is N(mean, 1)."""

    def __init__(self):
        super().__init__()
        self.bias, self.mean = nn.Parameter(torch.tensor(0.2)), nn.Parameter(torch.tensor(0.5))

    def forward(self, obs, goal, action):
        return A + self.bias, self.mean.expand(3, 4), (0 * self.mean).expand(3, 4)

    def propose(self, obs, goal):
        k = torch.arange(len(obs) if obs.ndim == 3 else 1, dtype=torch.float32)
        return (A + self.bias + 0.1 * k[:, None, None])[slice(None) if obs.ndim == 3 else 0]


class Shift(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, obs, goal, action):
        return action + self.shift


def bcq_agent(**algorithm):
    module, it = agent("bcq", **algorithm)
    it.vae, it.actor, it.actor_target = FixedVAE(), Shift(0.3), Shift(0.0)
    it.critic = Table([[-10.0, -2, -50, 0, 0, 0], [-12.0, -1, -40, 0, 0, 0]], (2.0, -1.0))
    it.critic_target.slopes = (2.0, -1.0)
    for table in (it.critic, it.critic_target):  # also for a leading dimension of proposals
        table.forward = lambda obs, goal, action, t=table: tuple(
            row[obs[..., 0].long()] + slope * (action - A).sum(-1) for row, slope in zip(t.rows, t.slopes))
    it.optimizers = module.adam({"actor": it.actor, "critic": it.critic, "vae": it.vae}, lr=0.0)
    return module, it


def test_bcq():
    module, it = bcq_agent(target_candidates=3)
    metrics = {name: float(value) for name, value in it.update(batch(module), 1).items()}
    # proposals are A + 0.2, 0.3, 0.4: Q' at s' is -5, -3, -120 plus 0.8, 1.2, 1.6 and -7, -2, -150 minus 0.4, 0.6, 0.8
    # .75 min + .25 max: of the first -6.6, -6.75, -6.9, the best proposal is the first: y = -7.6; then 0; then -100
    assert it.target(REWARD, batch(module).next_obs, torch.zeros(3, 1)).tolist() == pytest.approx([-7.6, 0, -100])
    assert metrics["critic_loss"] == pytest.approx((2.4**2 + 4 + 2500) / 3 + (4.4**2 + 1 + 3600) / 3)
    # the actor's gradient: -dQ1/da * da/dshift, Q1 falls by 2 per unit in each of two coordinates
    assert metrics["q_pi"] == pytest.approx((-10 - 2 - 50) / 3 + 2 * 2 * 0.5)
    assert metrics["actor_loss"] == pytest.approx(-metrics["q_pi"]) and it.actor.shift.grad == pytest.approx(-4)
    # reconstruction 0.2 squared, KL of N(0.5, 1) from N(0, 1) is 0.5 squared / 2 per dimension
    assert metrics["cloning"] == pytest.approx(0.04) and metrics["kl"] == pytest.approx(0.125)
    assert metrics["vae_loss"] == pytest.approx(0.04 + 0.5 * 0.125)


def test_bcq_kl_counts_the_deviation():
    module, it = bcq_agent()
    vae = it.vae
    vae.forward = lambda obs, goal, action: (A + vae.bias, vae.mean.expand(3, 4), 0 * vae.mean.expand(3, 4) + 0.3)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(0.5, math.exp(0.3)), normal(0.0, 1.0))
    assert float(it.update(batch(module), 1)["kl"]) == pytest.approx(float(expected))


def test_bcq_vae_draws_with_its_deviation_and_decodes_into_the_box():
    module = load("bcq")
    buffer, _ = make(module, (2, 2, 2), swap=False)
    normalizer = module.Normalizer(buffer, gym.spaces.Box(np.float32([-2, 0]), np.float32([2, 1])))
    vae, obs, seen = module.VAE(normalizer, [8], 0.5), torch.randn(50, 2), []
    for bias, corner in ((-100.0, [-2.0, 0]), (100.0, [2.0, 1])):
        nn.init.constant_(vae.decoder.head.bias, bias)
        torch.testing.assert_close(vae.propose(obs, obs), torch.tensor(corner).expand(50, 2))
    vae.decode = lambda obs, goal, z: seen.append(z)
    torch.manual_seed(0)
    _, mean, log_std = vae(obs, obs, torch.rand(50, 2))
    torch.manual_seed(0)
    torch.rand(50, 2)
    torch.testing.assert_close(seen[0], mean + log_std.exp() * torch.randn(50, 4))
    nn.init.constant_(vae.encoder.head.bias, 60.0)
    assert (vae(obs, obs, torch.rand(50, 2))[2] == 15).all()
    nn.init.constant_(vae.encoder.head.bias, -60.0)
    assert (vae(obs, obs, torch.rand(50, 2))[2] == -4).all()


def test_bcq_gradients():
    module, it = bcq_agent()
    it.update(batch(module), 1)
    assert all(p.grad is None for p in [*it.critic_target.parameters(), *it.actor_target.parameters()])
    assert it.vae.bias.grad == pytest.approx(2 * 0.2) and it.vae.mean.grad == pytest.approx(0.25), "of its loss only"
    expected = 2 * (it.critic.rows.detach()[:, :3] - torch.tensor([-7.6, 0, -100])) / 3
    torch.testing.assert_close(it.critic.rows.grad, torch.cat([expected, torch.zeros(2, 3)], 1))


def test_bcq_soft_minimum_and_best_candidate():
    module, it = bcq_agent(target_candidates=1, soft_minimum=1.0)
    s_next, g = batch(module).next_obs, torch.zeros(3, 1)
    assert it.target(REWARD, s_next, g).tolist() == pytest.approx([-1 - 7.4, 0, -100])  # the smaller head
    it.a.soft_minimum = 0.0
    assert it.target(REWARD, s_next, g).tolist() == pytest.approx([-1 - 4.2, 0, -100])  # the larger head
    it.a.target_candidates = 10  # the larger head grows with every proposal, the last is A + 1.1
    assert it.target(REWARD, s_next, g).tolist() == pytest.approx([-1 - 5 + 4.4 - 0, 0, -100])
    it.a.act_candidates = 5
    it.critic_target.slopes = (-2.0, -1.0)  # is not asked for the policy's action
    obs = batch(module).obs
    torch.testing.assert_close(it.act(obs, g), A + 0.2 + 0.4 + 0.3)  # the first head grows too


def test_bcq_perturbation_stays_within_its_range_and_the_box():
    module = load("bcq")
    buffer, it = make(module, (2, 2, 2), swap=False)
    normalizer = module.Normalizer(buffer, gym.spaces.Box(np.float32([-2, 0]), np.float32([2, 1])))
    network, obs = module.Perturbation(normalizer, [8], 0.05), torch.randn(1000, 2)
    action = torch.rand(1000, 2) * torch.tensor([4.0, 1]) - torch.tensor([2.0, 0])
    with torch.no_grad():
        for bias in (-100.0, 100.0):
            network.net.head.bias.fill_(bias)
            moved = network(obs, obs, action)
            shift = math.copysign(0.05, bias) * torch.tensor([2.0, 0.5])
            torch.testing.assert_close(moved, (action + shift).clamp(torch.tensor([-2.0, 0]), torch.tensor([2.0, 1])))
        # and so do the candidates of which the policy chooses
        it.actor.net.head.bias.fill_(100.0)
        torch.manual_seed(0)
        proposals = it.vae.propose(obs[:4].expand(100, 4, 2), obs[:4].expand(100, 4, 2))
        torch.manual_seed(0)
        chosen = it.act(obs[:4], obs[:4])
    distance = (chosen - proposals).abs().amax(-1).amin(0)
    assert (distance <= 0.05 + 1e-6).all() and (distance > 0.01).any() and (chosen.abs() <= 1).all()


def test_bcq_proposals_come_from_a_clipped_latent_variable():
    module = load("bcq")
    _, it = make(module, (2, 2, 2), swap=False)
    seen = []
    decode = it.vae.decode
    it.vae.decode = lambda obs, goal, z: (seen.append(z), decode(obs, goal, z))[1]
    obs = torch.randn(500, 2)
    it.vae.propose(obs, obs)
    assert seen[0].shape == (500, 4) and seen[0].min() == -0.5 and seen[0].max() == 0.5
    it.vae(obs, obs, torch.zeros(500, 2))  # not clipped when it learns
    assert seen[1].abs().max() > 1


def test_bcq_vae_learns_to_reconstruct():
    module = load("bcq")
    buffer, it = make(module, (2, 2, 1), swap=False)
    losses = [float(it.update(buffer.sample(64), n)["cloning"]) for n in range(1, 80)]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def test_bcq_vae_hidden_is_checked(capsys):
    module = load("bcq")
    for hidden in ((), (0,)):
        module.DEFAULTS.algorithm.vae_hidden = hidden
        with pytest.raises(SystemExit):
            make(module, (2, 2, 2), swap=False)
        assert "--vae-hidden" in capsys.readouterr().err


# --- all four
@pytest.mark.parametrize("method", ["iql", "onestep", "cql", "bcq"])
def test_targets_move_every_tenth_update_by_a_twentieth(method):
    buffer, it = make(load(method), (2, 2, 2), swap=True)
    pairs = [(getattr(it, name), getattr(it, name + "_target")) for name in ("actor", "critic")
             if hasattr(it, name + "_target")]
    before = [[p.clone() for p in target.parameters()] for _, target in pairs]
    for n in range(1, 10):
        it.update(buffer.sample(8), n)
    for (_, target), old in zip(pairs, before):
        assert all(map(torch.equal, old, target.parameters()))
    it.update(buffer.sample(8), 10)
    for (online, target), old in zip(pairs, before):
        for new, was, now in zip(target.parameters(), old, online.parameters()):
            torch.testing.assert_close(new, 0.95 * was + 0.05 * now)


@pytest.mark.parametrize("method", ["iql", "onestep", "cql", "bcq"])
def test_a_time_out_bootstraps_and_a_success_does_not(method):
    module = load(method)
    buffer, it = make(module, (1, 1, 1), swap=False)
    network = it.value if method in ("iql", "onestep") else it.critic_target
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    for net in network.nets:
        nn.init.constant_(net.head.bias, -30.0)
    last, more = torch.full((2, 1), 7.0), (torch.zeros(2, 1),) if method == "cql" else ()
    target = lambda: it.target(torch.tensor([-1.0, 0.0]), last, last, *more).tolist()
    assert target() == [-31, 0]
    it.o.stop_at_goal = False
    assert target() == [-31, -30]
    it.o.gamma = 0.5
    assert target() == [-16, -15]
    it.o.stop_at_goal = True
    assert target() == [-16, 0]
    assert module.DEFAULTS.optimisation.stop_at_goal


@pytest.mark.parametrize("method", ["iql", "onestep", "cql", "bcq"])
def test_targets_lie_between_the_floor_and_zero(method):
    module = load(method)
    buffer, old = make(module, (2, 2, 2), swap=False)
    _, a, r, s_next, g, *_ = buffer.sample(16)
    for gamma, floor in ((1.0, -70), (0.98, -50)):
        settings = copy.deepcopy(module.DEFAULTS)
        settings.optimisation.gamma = gamma
        it = type(old)(settings, old.actor.normalizer, 70, torch.device("cpu"))
        network = it.value if method in ("iql", "onestep") else it.critic_target
        for bias, bound in ((-1e4, floor), (1e4, 0)):
            for net in network.nets:
                nn.init.constant_(net.head.bias, bias)
            y = it.target(r.fill_(-1), s_next, g, *((a,) if method == "cql" else ()))
            assert y.tolist() == pytest.approx([bound] * 16)
