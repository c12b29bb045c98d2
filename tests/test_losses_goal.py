"""Losses of WGCSL, AM and GoFAR on three hand-made transitions, against values worked out by hand.

DELTA = pi(s, g) - a sums to 0.3, 0.3 and 0 over the action, so that Q(s, pi) of the first head of tests/tables.py is
that of the data plus 2 * 0.3, 2 * 0.3 and 0, of the second minus 0.3, 0.3 and 0. The discount is 0.5 in all of them.
"""

import copy
import math

import numpy as np
import pytest
import torch
from speed import load, make
from tables import DELTA, DISTANCE, REWARD, A, Table, TableActor, agent, batch
from torch import nn


def half_discount(method, **algorithm):
    module, it = agent(method, **algorithm)
    it.o.gamma = 0.5
    return module, it


def numbers(metrics):
    return {name: float(value) for name, value in metrics.items()}


def refuses(capsys, method, swap=False, relabelling={}, **optimisation):
    """The one line that the method prints instead of accepting these settings."""
    module = load(method)
    settings, algorithm = copy.deepcopy(module.DEFAULTS), {}
    for key, value in optimisation.items():
        setattr(settings.algorithm if hasattr(settings.algorithm, key) else settings.optimisation, key, value)
    for key, value in relabelling.items():
        setattr(settings.relabelling, key, value)
    module.DEFAULTS = settings
    with pytest.raises(SystemExit) as stop:
        make(module, (1, 1, 2), swap=swap)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


# --- WGCSL
def official_wgcsl(**algorithm):
    """Rewards 0, 1, 0. Targets 0.5 * 5, 1 + 0.5 * 2, 0.5 * 300 clipped at 100. Q(s, pi) 1.6, 0.7, 0.5 and
    r + Q(s', pi) / 2 of the networks themselves 2, 1.5, 1: advantages 0.4, 0.8, 0.5; the second goal is not hindsight."""
    module, it = half_discount("wgcsl", **algorithm)
    it.critic = Table([[1.0, 2, 0.5, 4, 1, 3], [2.0, 1, 1, 6, 2, 2]], (2.0, -1.0))
    it.critic_target = Table([[0.0, 0, 0, 5, 3, 300], [0.0, 0, 0, 7, 2, 400]])
    it.optimizers = module.adam({"actor": it.actor, "critic": it.critic}, 0.0)
    return module, it


def test_wgcsl_official():
    module, it = official_wgcsl()
    metrics = numbers(it.update(batch(module), 1))
    assert metrics["critic_loss"] == pytest.approx((1.5**2 + 0 + 99.5**2) / 3 + (0.5**2 + 1 + 99**2) / 3)
    w = [0.5 * math.exp(0.4), 0, 0.125 * math.exp(0.5)]  # offsets 1, inf, 3; the mean is over two transitions
    assert metrics["actor_loss"] == pytest.approx(sum(x * d for x, d in zip(w, DISTANCE)) / 2)
    assert metrics["weight"] == pytest.approx(sum(w) / 2) and metrics["advantage"] == pytest.approx(0.45)
    torch.testing.assert_close(it.actor.shift.grad[:3], torch.tensor(w)[:, None] * DELTA / 2)
    assert (it.actor.shift.grad[3:] == 0).all()  # none through the advantage
    y = torch.tensor([2.5, 2, 100])
    expected = 2 * (it.critic.rows.detach()[:, :3] - y) / 3
    torch.testing.assert_close(it.critic.rows.grad, torch.cat([expected, torch.zeros(2, 3)], 1))
    assert it.critic_target.rows.grad is None and it.actor_target.shift.grad is None


def test_wgcsl_gofar():
    # y = r + Q'/2: -1 - 3.5, 0 - 1.5, -1 - 75 clipped at -50; Q(s, pi) -12.3, -1.4, -50: A 7.8, -0.1, 0
    module, it = half_discount("wgcsl", variant="gofar")
    it.floor = -50
    metrics = numbers(it.update(batch(module)._replace(offset=torch.tensor([1.0, 2, 3])), 1))
    assert metrics["critic_loss"] == pytest.approx((5.5**2 + 0.5**2 + 0) / 3 + (7.5**2 + 0.5**2 + 10**2) / 3)
    w = [0.5 * 10, 0.25 * math.exp(-0.1), 0.125]
    assert metrics["actor_loss"] == pytest.approx(sum(x * d for x, d in zip(w, DISTANCE)) / 3)
    it.floor = -40  # Q(s, pi) is clipped as well; 2 is not a hindsight goal
    assert float(it.update(batch(module), 10)["advantage"]) == pytest.approx((-4.5 + 12.3 + 0) / 2)
    assert it.queue.isinf().all() and it.threshold == -math.inf, "no best-advantage weight"


def test_wgcsl_weights_and_targets_are_bounded_and_the_next_action_is_the_target_actors():
    module, it = official_wgcsl(weight_clip=1.2)
    it.critic_target.slopes = (2.0, 2.0)
    it.actor.shift.data[3:] = 0.25  # would move Q'(s', a'); it moves Q(s', a') by 1 and -0.5
    it.critic_target.rows.data[:, 3] = -5
    metrics = numbers(it.update(batch(module), 1))
    # targets 0.5 * -5 clipped at 0, 1 + 0.5 * 2, 0.5 * 300 clipped at 100
    assert metrics["critic_loss"] == pytest.approx((1 + 0 + 99.5**2) / 3 + (4 + 1 + 99**2) / 3)
    # r + Q(s', pi) / 2: min(5, 5.5) / 2, min(4, 1.5) / 2; minus 1.6, 0.5: A 0.9, 0.25, of which both exp are cut
    assert metrics["advantage"] == pytest.approx((0.9 + 0.25) / 2)
    assert metrics["weight"] == pytest.approx((0.5 + 0.125) * 1.2 / 2)
    module, it = half_discount("wgcsl", variant="gofar")
    it.critic_target.rows.data[:, 3:] = 10.0  # y = -1 + 5, 0 + 5, -1 + 5, all clipped at 0
    metrics = numbers(it.update(batch(module), 1))
    assert metrics["critic_loss"] == pytest.approx((100 + 4 + 2500) / 3 + (144 + 1 + 1600) / 3)


def test_wgcsl_without_a_hindsight_goal_has_nothing_to_clone():
    module, it = official_wgcsl()
    assert float(it.update(batch(module)._replace(offset=torch.full((3,), math.inf)), 1)["actor_loss"]) == 0


def test_wgcsl_stops_at_a_goal_if_asked():
    module, it = official_wgcsl()
    s, _, r, s_next, g, *_ = batch(module)
    assert it.backup(it.actor_target, it.critic_target, r, s_next, g).tolist() == [2.5, 2, 150]
    it.o.stop_at_goal = True
    assert it.backup(it.actor_target, it.critic_target, r, s_next, g).tolist() == [2.5, 1, 150]


def test_wgcsl_best_advantage_weight():
    module, it = official_wgcsl(baw_rise=50.0)
    it.update(batch(module), 10)
    assert sorted(it.queue[it.queue.isfinite()].tolist()) == pytest.approx([0.4, 0.5]), "hindsight goals only"
    assert float(it.percentile) == 50 and float(it.threshold) == pytest.approx(0.45)
    metrics = numbers(it.update(batch(module), 11))
    w = [0.05 * 0.5 * math.exp(0.4), 0.125 * math.exp(0.5)]
    assert metrics["weight"] == pytest.approx(sum(w) / 2)
    assert float(it.percentile) == 80 and float(it.threshold) == pytest.approx(0.45), "set every tenth update"


def test_wgcsl_percentile_of_the_latest_advantages():
    module, it = official_wgcsl(baw_rise=7.0)
    it.queue, it.o.target_every, kept = torch.full((8,), torch.inf), 1, []
    for n in range(1, 15):
        it.critic.rows.data += 0.1 * torch.randn(2, 6)
        offset = torch.where(torch.rand(3) < 0.6, 2.0, torch.inf)
        s, _, r, s_next, g, *_ = batch(module)
        q_pi = torch.min(*it.critic(s, g, it.actor(s, g))).detach()
        a = it.backup(it.actor, it.critic, r, s_next, g) - q_pi
        it.update(batch(module)._replace(offset=offset), n)
        kept = (kept + [float(x) if k < torch.inf else None for x, k in zip(a, offset)])[-8:]
        values = [x for x in kept if x is not None]
        if values:
            assert float(it.threshold) == pytest.approx(np.percentile(values, min(7 * n, 80)), abs=1e-6)


def test_wgcsl_refuses_what_it_cannot_honour(capsys):
    assert "--gamma 1: " in refuses(capsys, "wgcsl", gamma=1.0)
    assert "--her-ratio 0: " in refuses(capsys, "wgcsl", relabelling={"her_ratio": 0.0})


# --- AM
class GoalTable(Table):
    """One head that adds the goal to the value; also on candidates (K, 3, action_dim)."""

    def forward(self, obs, goal, action=None):
        return (self.rows[0][obs[..., 0].long()] + self.slopes[0] * (action - A).sum(-1) + goal[..., 0],)


def am(monkeypatch, rows, target_rows, goals, **algorithm):
    """Goals 2 and 3 change places, and the random action is that of the data."""
    module, it = half_discount("am", **algorithm)
    it.critic, it.critic_target = GoalTable([rows], (2.0,)), GoalTable([target_rows], (2.0,))
    it.optimizers = module.adam({"actor": it.actor, "critic": it.critic}, 0.0)
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: torch.arange(n - 1, -1, -1))
    monkeypatch.setattr(it, "other_actions", lambda s, g: A)
    return it, batch(module)._replace(goal=torch.tensor(goals)[:, None])


def test_am_chains_goals_in_the_second_half(monkeypatch):
    _, it = agent("am")
    g = torch.arange(40.0).reshape(20, 2)
    chained_g, chained = it.chain(g)
    assert chained.tolist() == [False] * 10 + [True] * 10 and torch.equal(chained_g[:10], g[:10])
    assert not torch.equal(chained_g, g) and torch.equal(chained_g[10:].sort(0).values, g[10:]), "whole goals"


def test_am_gofar(monkeypatch):
    it, b = am(monkeypatch, [-10.0, -2, -50, 0, 0, 0], [0.0, 0, 0, -5, -3, -120], [-1.0, -2, -4])
    # new goals -1, -4, -2: Q(s, a) -11, -6, -52. Next values under the old ones: -6, -5, -124
    # y = r + Q'/2 = -1 - 3; chained Q + Q'/2: -6 - 2.5, -52 - 62 clipped at -100
    metrics = numbers(it.update(b, 1))
    assert metrics["critic_loss"] == pytest.approx((7**2 + 2.5**2 + 48**2) / 3 - 69 / 3)
    assert metrics["conservative"] == pytest.approx(-23) and metrics["q"] == pytest.approx(-23)
    expected = (2 * torch.tensor([-7.0, 2.5, 48]) + 1) / 3  # none through the label Q(s, a)
    torch.testing.assert_close(it.critic.rows.grad, torch.cat([expected, torch.zeros(3)])[None])
    assert metrics["actor_loss"] == pytest.approx((10.4 + 5.4 + 52) / 3)
    torch.testing.assert_close(it.actor.shift.grad, torch.cat([torch.full((3, 2), -2 / 3), torch.zeros(3, 2)]))
    assert it.critic_target.rows.grad is None and it.actor_target.shift.grad is None


def test_am_asks_the_networks_that_learn_under_the_chained_goals_only(monkeypatch):
    it, b = am(monkeypatch, [-10.0, -2, -50, 0, 0, 0], [0.0, 0, 0, -5, -3, -120], [-1.0, -2, -4])
    asked, actor, critic = [], it.actor.forward, it.critic.forward
    it.other_actions = lambda s, g: (asked.append(g), A)[1]
    it.actor.forward = lambda obs, goal: (asked.append(goal), actor(obs, goal))[1]
    it.critic.forward = lambda obs, goal, action: (asked.append(goal), critic(obs, goal, action))[1]
    it.update(b, 1)
    assert [goal[:, 0].tolist() for goal in asked] == [[-1, -4, -2]] * 5


class GoalActor(TableActor):
    """Adds a quarter of the goal to both coordinates, which moves the value of an action by the goal."""

    def forward(self, obs, goal):
        return super().forward(obs, goal) + goal / 4


def test_am_gofar_asks_for_the_next_action_under_the_old_goal_too(monkeypatch):
    it, b = am(monkeypatch, [-10.0, -2, -50, 0, 0, 0], [0.0, 0, 0, -5, -3, -120], [-1.0, -2, -4])
    it.actor_target = GoalActor(torch.zeros(6, 2))  # next values of test_am_gofar, and -1, -2, -4: -7, -7, -128
    assert numbers(it.update(b, 1))["critic_loss"] == pytest.approx((6.5**2 + 3.5**2 + 48**2) / 3 - 69 / 3)


def test_am_official(monkeypatch):
    it, b = am(monkeypatch, [0.5, 0.3, 0.1, 0, 0, 0], [0.0, 0, 0, 0.2, 0.6, 0.8], [0.1, 0.2, 0.4], variant="official")
    # new goals 0.1, 0.4, 0.2: Q(s, a) 0.6, 0.7, 0.3; Q'/2 under the new ones 0.15, 0.5, 0.5
    metrics = numbers(it.update(b._replace(offset=torch.tensor([3.0, 1, 2])), 1))
    # the second is the last step before its hindsight goal, so its own value is its label
    conservative = (0.6**2 + 0.7**2 + 0.3**2) / 3
    assert metrics["critic_loss"] == pytest.approx((0.45**2 + 0 + 0.2**2) / 3 + conservative)
    expected = 2 * (torch.tensor([0.45, 0, -0.2]) + torch.tensor([0.6, 0.7, 0.3])) / 3
    torch.testing.assert_close(it.critic.rows.grad, torch.cat([expected, torch.zeros(3)])[None])
    # 1 at the goal, but not if the goal was replaced
    metrics = numbers(it.update(b._replace(offset=torch.full((3,), math.inf), reward=torch.tensor([0.0, 0, -1])), 1))
    assert metrics["critic_loss"] == pytest.approx((0.4**2 + 0.2**2 + 0.2**2) / 3 + conservative)
    it.critic_target.rows.data += 3.0
    metrics = numbers(it.update(b, 1))  # values are at most 1
    assert metrics["critic_loss"] == pytest.approx((0.4**2 + 0.3**2 + 0.7**2) / 3 + conservative)


def test_am_targets_are_bounded_and_stop_at_a_goal_if_asked(monkeypatch):
    tables = [-10.0, -2, -50, 0, 0, 0], [0.0, 0, 0, -5, -3, -120], [-1.0, -2, -4]
    it, b = am(monkeypatch, *tables)
    it.actor.shift.data[3:] = 0.25  # the action at s' is the target actor's
    it.o.stop_at_goal = True  # as test_am_gofar, but without the next value where the old goal is reached
    assert numbers(it.update(b, 1))["critic_loss"] == pytest.approx((7**2 + 0 + 48**2) / 3 - 69 / 3)
    it, b = am(monkeypatch, *tables)
    it.critic_target.rows.data += 1000.0  # no value is above 0
    assert numbers(it.update(b, 1))["critic_loss"] == pytest.approx((11**2 + 6**2 + 52**2) / 3 - 69 / 3)
    it, b = am(monkeypatch, [0.5, 0.3, 0.1, 0, 0, 0], [0.0, 0, 0, -3, -3, -3], [0.1, 0.2, 0.4], variant="official")
    metrics = numbers(it.update(b._replace(offset=torch.full((3,), math.inf), reward=torch.full((3,), -1.0)), 1))
    assert metrics["critic_loss"] == pytest.approx(2 * (0.6**2 + 0.7**2 + 0.3**2) / 3), "nor below 0 if official"


class SumOfActions(nn.Module):
    def forward(self, obs, goal, action):
        return (action.sum(-1),)


def test_am_draws_other_actions_with_probability_exp_q(monkeypatch):
    _, it = agent("am", candidates=3)
    it.critic = SumOfActions()
    s = torch.zeros(20_000, 1)
    u = torch.tensor([0.1, 0.5, 0.9])[:, None, None].expand(3, 20_000, 2)  # actions -0.8, 0, 0.8 twice: Q -1.6, 0, 1.6
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: u)
    drawn = it.other_actions(s, s)[:, 0]
    for action, q in ((-0.8, -1.6), (0.0, 0.0), (0.8, 1.6)):
        share = ((drawn - action).abs() < 1e-6).float().mean()
        assert float(share) == pytest.approx(math.exp(q) / sum(map(math.exp, (-1.6, 0, 1.6))), abs=0.02)
    monkeypatch.undo()
    it.critic = SumOfActions()
    it.actor.normalizer.center, it.actor.normalizer.scale = torch.tensor([1.0, 0]), torch.tensor([1.0, 2])
    drawn = it.other_actions(s, s)
    assert (drawn.min(0).values >= torch.tensor([0.0, -2])).all() and (drawn.max(0).values <= 2).all()
    assert (drawn.max(0).values > 1.9).all(), "in the environment's units"


def test_am_refuses_what_it_cannot_honour(capsys):
    assert "--swap: " in refuses(capsys, "am", swap=True)
    assert "--gamma 1: " in refuses(capsys, "am", gamma=1.0, variant="official")


# --- GoFAR
@pytest.mark.parametrize("divergence", ["chi2", "kl"])
def test_gofar_value_and_actor(divergence):
    # y = r + V'(s')/2: -1 - 3, 0 - 2, -1 - 60; V(s) -11, -2, -52: e 7, 0, -9. V(s0) -11, -11, -2
    module, it = half_discount("gofar", reward="binary", divergence=divergence)
    initial = torch.tensor([[0.0], [0], [1]])
    metrics = numbers(it.update(batch(module)._replace(initial_obs=initial), 1))
    e = [7, 0, -9]
    dual = (8**2 + 1 + 8**2) / 3 if divergence == "chi2" else math.log(sum(map(math.exp, e)) / 3)
    assert metrics["value_loss"] == pytest.approx(0.5 * -8 + dual)
    w = [8, 1, 0] if divergence == "chi2" else [10, 1, math.exp(-9)]
    assert metrics["actor_loss"] == pytest.approx(sum(x * d for x, d in zip(w, DISTANCE)) / 3)
    torch.testing.assert_close(it.actor.shift.grad[:3], torch.tensor(w)[:, None] * DELTA / 3)
    slope = [-2 * (x + 1) / 3 for x in e] if divergence == "chi2" else [-math.exp(x) / sum(map(math.exp, e)) for x in e]
    expected = torch.tensor(slope) + 0.5 * torch.tensor([2, 1, 0]) / 3
    torch.testing.assert_close(it.value.rows.grad[0], torch.cat([expected, torch.zeros(3)]))
    assert it.value_target.rows.grad is None and it.discriminator.net.head.weight.grad is None


def test_gofar_stops_at_a_goal_if_asked():
    module, it = half_discount("gofar", reward="binary")
    it.o.stop_at_goal = True  # e 7, 2, -9
    assert float(it.update(batch(module), 1)["advantage"]) == 0


def linear_discriminator(module, it):
    """Logit 2 * first - second + 0.5 of a pair of one-dimensional goals, without normalisation."""
    d = it.discriminator
    d.normalizer.mean.zero_(), d.normalizer.std.fill_(1)
    d.net = nn.Linear(4, 1)
    with torch.no_grad():
        d.net.weight.copy_(torch.tensor([[2.0, -1, 7, 7]]))  # the last two see the zeros that fill the input
        d.net.bias.fill_(0.5)
    it.optimizers |= module.adam({"discriminator": d}, 0.0)
    return batch(module)._replace(goal=torch.tensor([[1.0], [2], [0]]), achieved=torch.tensor([[3.0], [2], [-1]]))


def test_gofar_discriminator_and_reward():
    module, it = half_discount("gofar")
    metrics = numbers(it.update(linear_discriminator(module, it), 1))
    arrived, visited = [1.5, 2.5, 0.5], [5.5, 2.5, -1.5]  # logits of (goal, goal) and (achieved, goal)
    entropy = sum(math.log1p(math.exp(-x)) for x in arrived) / 3 + sum(math.log1p(math.exp(x)) for x in visited) / 3
    assert metrics["penalty"] == pytest.approx((5**0.5 - 1) ** 2)  # the gradient's norm is that of 2, -1
    assert metrics["discriminator_loss"] == pytest.approx(entropy + 0.01 * (5**0.5 - 1) ** 2)
    assert metrics["reward"] == pytest.approx(sum(visited) / 3)
    # e = logit + V'(s')/2 - V(s): 5.5 - 3 + 11, 2.5 - 2 + 2, -1.5 - 60 + 52
    assert metrics["advantage"] == pytest.approx((13.5 + 2.5 - 9.5) / 3)
    # gradient: of the entropy by hand, of the penalty 2 (|w| - 1) w / |w|; none from V or the actor
    def sigmoid(x):
        return 1 / (1 + math.exp(-x))
    first = sum(-sigmoid(-x) * g for x, g in zip(arrived, (1, 2, 0))) + sum(
        sigmoid(x) * a for x, a in zip(visited, (3, 2, -1)))
    second = sum(-sigmoid(-x) * g for x, g in zip(arrived, (1, 2, 0))) + sum(
        sigmoid(x) * g for x, g in zip(visited, (1, 2, 0)))
    penalty = 0.01 * 2 * (5**0.5 - 1) / 5**0.5
    expected = torch.tensor([[first / 3 + 2 * penalty, second / 3 - penalty, 0, 0]])
    torch.testing.assert_close(it.discriminator.net.weight.grad, expected)


class HalfSquare(nn.Module):
    """Its gradient is its input."""

    def forward(self, x):
        return x.square().sum(-1, keepdim=True) / 2


def test_gofar_penalty_is_taken_between_the_pairs(monkeypatch):
    _, it = agent("gofar")
    it.discriminator.net = HalfSquare()
    share = {(2, 1): torch.tensor([[0.25], [1.0]])}  # one for each pair
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: share[shape])
    goal, achieved = torch.tensor([[4.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 4.0], [5.0, 5.0]])
    # 0.25 goal + 0.75 achieved = 1, 3; and 0, 3
    assert it.discriminator.penalty(goal, achieved).item() == pytest.approx(((10**0.5 - 1) ** 2 + 2**2) / 2)


def test_gofar_penalty_has_a_second_order_gradient_in_float32_under_autocast():
    module = load("gofar")
    buffer, it = make(module, (3, 2, 2), swap=False)
    b, d = buffer.sample(64), it.discriminator
    pairs = d.pair(b.obs, b.goal, b.goal), d.pair(b.obs, b.achieved, b.goal)
    assert pairs[1].shape == (64, 4)
    torch.testing.assert_close(pairs[1][:, 2:], it.actor.normalizer(b.obs, b.goal)[:, 3:])

    def penalty(autocast=False):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return d.penalty(*pairs)

    weight = d.net.body[2].weight
    gradient, = torch.autograd.grad(penalty(), weight)
    under_autocast, = torch.autograd.grad(penalty(autocast=True), weight)
    assert torch.equal(under_autocast, gradient), "float32 throughout"
    direction = gradient / gradient.norm()
    values = []
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            weight += step * direction
        values.append(penalty().item())
        with torch.no_grad():
            weight -= step * direction
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(gradient.norm()), rel=0.01)


def test_gofar_learns_to_tell_goals_from_other_states_under_autocast():
    module = load("gofar")
    buffer, it = make(module, (2, 2, 2), swap=False)
    buffer.achieved += 2
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        losses = [float(it.update(buffer.sample(64), n)["discriminator_loss"]) for n in range(1, 101)]
    assert losses[0] > 1 and np.mean(losses[-10:]) < 0.8 * losses[0]
    assert it.optimizers["discriminator"].param_groups[0]["lr"] == 5e-4
    b = buffer.sample(256)
    d = it.discriminator
    assert d(d.pair(b.obs, b.goal, b.goal)).mean() > 1 > -1 > d(d.pair(b.obs, b.achieved, b.goal)).mean()


def test_gofar_refuses_what_it_cannot_honour(capsys):
    assert "--gamma 1: " in refuses(capsys, "gofar", gamma=1.0)


# --- all
@pytest.mark.parametrize("method", ["wgcsl", "am", "gofar"])
def test_every_network_learns_and_its_target_follows(method):
    module = load(method)
    buffer, it = make(module, (2, 2, 2), swap=False)
    before = copy.deepcopy(it.state_dict())
    for n in range(1, 11):
        it.update(buffer.sample(64), n)
    for name, value in it.state_dict().items():
        if name.endswith(("weight", "bias")):
            online = name.split(".")[0]
            assert not torch.equal(value, before[name]), name
            if online.endswith("_target"):
                now = it.state_dict()[name.replace("_target", "", 1)]
                torch.testing.assert_close(value, 0.95 * before[name] + 0.05 * now)
    assert all(p.grad is None for name, p in it.named_parameters() if "_target" in name)


@pytest.mark.parametrize("method", ["wgcsl", "am"])
def test_values_have_the_floor_of_horizon_and_discount(method):
    module = load(method)
    _, old = make(module, (2, 2, 2), swap=False)
    for gamma, floor in ((1.0, -70), (0.98, -50)):
        settings = copy.deepcopy(module.DEFAULTS)
        settings.optimisation.gamma, settings.algorithm.variant = gamma, "gofar"
        assert type(old)(settings, old.actor.normalizer, 70, torch.device("cpu")).floor == pytest.approx(floor)


@pytest.mark.parametrize("method, her_ratio", [("wgcsl", 0.8), ("am", 0.5), ("gofar", 0.0)])
def test_defaults_are_the_authors(method, her_ratio):
    d = load(method).DEFAULTS
    assert d.relabelling.her_ratio == her_ratio and d.optimisation.gamma == 0.98 and not d.optimisation.stop_at_goal
    assert d.optimisation.lr == (5e-4 if method == "wgcsl" else 1e-3)
