"""Losses of GCSL, AWAC, CRR and AWR on three hand-made transitions, against values worked out by hand.

The tables (tests/tables.py) give, with min over the two heads and one column per transition:
Q(s, a) -12, -2, -50; Q(s, pi(s)) -12.3, -1.4, -50 (heads -9.4, -1.4, -50 and -12.3, -1.3, -40); so A 0.3, -0.6, 0.
Q'(s', pi(s')) -7, -3, -150, so y = -8, 0 (the goal is reached), -100 (clipped at -H).
V(s) -13, -3, -52; V(s') -10, -3, -60; V'(s') -6, -6, -120.
"""

import copy
import math

import gymnasium as gym
import pytest
import torch
from speed import load, make
from tables import DELTA, DISTANCE, H, agent, batch, updated
from torch import nn

ADVANTAGE = [0.3, -0.6, 0.0]
CRITIC_LOSS = (4 + 4 + 2500) / 3 + (16 + 1 + 3600) / 3  # heads -10, -2, -50 and -12, -1, -40 against y


def check_actor(it, metrics, weights):
    """The loss is the mean of w * distance, its gradient w * DELTA / 3: no term through Q(s, pi(s))."""
    assert metrics["actor_loss"] == pytest.approx(sum(w * d for w, d in zip(weights, DISTANCE)) / 3)
    assert metrics["weight"] == pytest.approx(sum(weights) / 3)
    assert metrics["cloning"] == pytest.approx(sum(DISTANCE) / 3)
    torch.testing.assert_close(it.actor.shift.grad[:3], torch.tensor(weights)[:, None] * DELTA / 3)
    assert (it.actor.shift.grad[3:] == 0).all(), "the action at s' belongs to the target"


# --- GCSL
def test_gcsl():
    it, metrics = updated("gcsl")
    assert metrics == {"actor_loss": pytest.approx(sum(DISTANCE) / 3)}
    torch.testing.assert_close(it.actor.shift.grad[:3], DELTA / 3)


def test_gcsl_has_no_critic_and_defaults_to_relabelled_goals():
    module = load("gcsl")
    buffer, it = make(module, (2, 2, 2), swap=False)
    assert [name for name, _ in it.named_children()] == list(it.optimizers) == ["actor"]
    assert it.optimizers["actor"].param_groups[0]["lr"] == 5e-4
    assert torch.isfinite(buffer.sample(64).offset).all(), "every goal is one achieved later"


def test_gcsl_refuses_swapped_goals(capsys):
    with pytest.raises(SystemExit) as stop:
        make(load("gcsl"), (2, 2, 2), swap=True)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "error: --swap: " in error


# --- AWAC
def test_awac():
    it, metrics = updated("awac")
    assert metrics["critic_loss"] == pytest.approx(CRITIC_LOSS)
    assert metrics["q"] == pytest.approx(-64 / 3) and metrics["q_pi"] == pytest.approx((-12.3 - 1.4 - 50) / 3)
    check_actor(it, metrics, [math.exp(a) for a in ADVANTAGE])


def test_awac_temperature_and_clip():
    it, metrics = updated("awac", temperature=0.05)
    check_actor(it, metrics, [100.0, math.exp(-12), 1.0])  # exp(6) = 403


def test_awac_td_advantage_is_the_sentence_of_the_paper():
    it, metrics = updated("awac", advantage="td")
    check_actor(it, metrics, [math.exp(-8 + 12), math.exp(0 + 2), math.exp(-100 + 50)])


def test_awac_softmax_weights_have_a_mean_of_one():
    it, metrics = updated("awac", weight="softmax")
    total = sum(math.exp(a) for a in ADVANTAGE)
    check_actor(it, metrics, [3 * math.exp(a) / total for a in ADVANTAGE])
    assert metrics["weight"] == pytest.approx(1)


def test_awac_softmax_has_the_temperature_too():
    it, metrics = updated("awac", weight="softmax", temperature=0.5)
    total = sum(math.exp(2 * a) for a in ADVANTAGE)
    check_actor(it, metrics, [3 * math.exp(2 * a) / total for a in ADVANTAGE])


# --- CRR
def crr(**algorithm):
    """CRR with a policy of no deviation, whose 4 actions are all pi(s), and an action space that holds all of them."""
    module, it = agent("crr", **{"policy_std": 0.0} | algorithm)
    it.actor.normalizer.scale = torch.full((2,), 2.0)
    return module, it


def updated_crr(**algorithm):
    module, it = crr(**algorithm)
    return it, {name: float(value) for name, value in it.update(batch(module), 2).items()}


def test_crr_filter_opens_for_better_actions_and_closes_for_the_others():
    it, metrics = updated_crr()
    assert metrics["critic_loss"] == pytest.approx(CRITIC_LOSS)
    assert metrics["q"] == pytest.approx(-64 / 3) and metrics["q_pi"] == pytest.approx((-12.3 - 1.4 - 50) / 3)
    check_actor(it, metrics, [1.0, 0.0, 0.0])  # of equal values (the third) it is closed, 1[A > 0]


@pytest.mark.parametrize("slope, opened", [(-1.0, [1.0, 1.0, 0.0]), (1.0, [0.0, 0.0, 0.0])])
def test_crr_filter_follows_the_critic(slope, opened):
    module, it = crr()
    it.critic.slopes = (slope, slope)  # both heads say by how much pi(s) is better: slope * 0.3, 0.3, 0
    metrics = {name: float(value) for name, value in it.update(batch(module), 2).items()}
    check_actor(it, metrics, opened)


def test_crr_baseline_is_the_mean_over_actions_of_the_policy(monkeypatch):
    module, it = crr(policy_std=0.1)
    noise = iter([-1.0, -1.0, 1.0, -1.0, -1.0])  # of the target and of 4 actions; 0.1 * 2 in each of two coordinates
    monkeypatch.setattr(torch, "randn_like", lambda pi: torch.full_like(pi, next(noise)))
    metrics = {name: float(value) for name, value in it.update(batch(module), 2).items()}
    # s': 2 * -0.4 moves Q' from -7 to -7.8, y to -8.8
    assert metrics["critic_loss"] == pytest.approx((1.2**2 + 4 + 2500) / 3 + (3.2**2 + 1 + 3600) / 3)
    # s: noise -1 moves the heads by -0.8 and 0.4: min -11.9, -2.2, -50.8; noise 1 by 0.8 and -0.4: -12.7, -1.7, -49.2
    baseline = [(3 * a + b) / 4 for a, b in ((-11.9, -12.7), (-2.2, -1.7), (-50.8, -49.2))]  # -12.1, -2.075, -50.4
    assert metrics["q_pi"] == pytest.approx(sum(baseline) / 3)
    check_actor(it, metrics, [1.0, 1.0, 1.0])
    assert not list(noise)


def test_crr_baseline_is_a_mean_over_as_many_actions_as_asked_for(monkeypatch):
    module, it = crr(policy_std=0.1, action_samples=2)
    noise = iter([0.0, -1.0, 1.0])
    monkeypatch.setattr(torch, "randn_like", lambda pi: torch.full_like(pi, next(noise)))
    metrics = {name: float(value) for name, value in it.update(batch(module), 2).items()}
    assert metrics["q_pi"] == pytest.approx((-12.3 - 1.95 - 50) / 3) and not list(noise)
    check_actor(it, metrics, [1.0, 0.0, 0.0])  # advantages 0.3, -0.05, 0


def test_crr_actions_of_the_policy_stay_in_the_action_space():
    _, it = crr(policy_std=10.0)
    drawn = it.draw(torch.full((500, 2), 0.5))
    assert drawn.abs().max() == 2 and (drawn.mean(0).abs() < 0.5).all()
    it.actor.normalizer.center = torch.tensor([1.0, -3])
    drawn = it.draw(torch.full((500, 2), 0.5))
    assert drawn.amin(0).tolist() == [-1, -5] and drawn.amax(0).tolist() == [3, -1]
    assert crr(policy_std=0.01)[1].draw(torch.zeros(5000, 2)).std() == pytest.approx(0.02, rel=0.1)


def test_crr_exponential_weight():
    it, metrics = updated_crr(weight="exp")
    check_actor(it, metrics, [math.exp(a) for a in ADVANTAGE])
    it, metrics = updated_crr(weight="exp", temperature=0.1)
    check_actor(it, metrics, [20.0, math.exp(-6), 1.0])  # exp(3) = 20.09


# --- AWR
def test_awr():
    it, metrics = updated("awr")
    # y = r + min V'(s'): -1 - 6, 0 because the goal is reached, -1 - 120 clipped
    assert metrics["value_loss"] == pytest.approx((16 + 4 + 48**2) / 3 + (36 + 9 + 59**2) / 3)
    assert metrics["v"] == pytest.approx((-13 - 3 - 52) / 3)
    # A = r + V(s') - V(s), both of the online network: -11 + 13, 0 + 3, -61 + 52; exp(3) = 20.09 is clipped
    check_actor(it, metrics, [math.exp(2), 20.0, math.exp(-9)])


def test_awr_temperature():
    it, metrics = updated("awr", temperature=2.0)
    check_actor(it, metrics, [math.exp(1), math.exp(1.5), math.exp(-4.5)])


def test_awr_standardised_advantages():
    it, metrics = updated("awr", standardise=True)
    mean = -4 / 3
    deviation = math.sqrt(((2 - mean) ** 2 + (3 - mean) ** 2 + (-9 - mean) ** 2) / 3)
    check_actor(it, metrics, [math.exp((x - mean) / (deviation + 1e-5)) for x in (2, 3, -9)])


# --- all with values
VALUES = {"awac": "critic", "crr": "critic", "awr": "value"}
each_method = pytest.mark.parametrize("method", VALUES)


def target(it, r, s_next, g):
    return it.target(it.value_target, r, s_next, g) if hasattr(it, "value_target") else it.target(r, s_next, g)


@pytest.mark.parametrize("method, y", [("awac", -7), ("crr", -8)])
def test_awac_asks_the_current_actor_and_crr_the_target_actor(method, y):
    module, it = crr() if method == "crr" else agent(method)
    with torch.no_grad():
        it.actor.shift[3:] = 0.25  # moves Q'(s', a') by 2 * 0.5, -7 to -6; the target actor stays where it was
    s, _, r, s_next, g, *_ = batch(module)
    assert it.target(r, s_next, g).tolist() == [y, 0, -100]


@each_method
def test_the_actor_sends_no_gradient_into_the_critic_nor_the_critic_into_the_actor(method, monkeypatch):
    module, it = crr(weight="exp") if method == "crr" else agent(method)  # a binary weight has no gradient
    networks, reached = [name for name in ("actor", "actor_target", "critic", "critic_target", "value", "value_target")
                         if hasattr(it, name)], []

    def record(loss, optimizer):  # every network that the loss has a gradient in, whatever the optimizer would step
        parameters = [(name, p) for name in networks for p in getattr(it, name).parameters()]
        gradients = torch.autograd.grad(loss, [p for _, p in parameters], allow_unused=True, retain_graph=True)
        reached.append({name for (name, _), x in zip(parameters, gradients) if x is not None})

    monkeypatch.setattr(module, "minimise", record)
    it.update(batch(module), 2)
    assert reached == [{VALUES[method]}, {"actor"}]


@each_method
def test_values_in_the_metrics_are_those_of_the_critic_after_its_step_and_of_awrs_value_before(method):
    module, it = crr() if method == "crr" else agent(method)
    it.optimizers[VALUES[method]].param_groups[0]["lr"] = 0.5  # Adam's first step is that long, towards y -8, 0, -100
    metrics = it.update(batch(module), 2)
    if method == "awr":
        assert float(metrics["v"]) == pytest.approx(-68 / 3)
    else:
        assert float(metrics["q"]) == pytest.approx((-11.5 - 1.5 - 50.5) / 3)


@each_method
def test_the_critic_has_the_gradient_of_its_regression(method):
    module, it = crr() if method == "crr" else agent(method)
    it.update(batch(module), 2)
    network = getattr(it, VALUES[method])
    y = torch.tensor([-7.0, 0, -100] if method == "awr" else [-8.0, 0, -100])
    expected = 2 * (network.rows.detach()[:, :3] - y) / 3
    torch.testing.assert_close(network.rows.grad, torch.cat([expected, torch.zeros(2, 3)], 1))


@each_method
def test_a_time_out_bootstraps_and_a_success_does_not(method):
    module = load(method)
    _, it = make(module, (1, 1, 1), swap=False)
    network = getattr(it, VALUES[method] + "_target")
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    for net in network.nets:
        nn.init.constant_(net.head.bias, -30.0)
    last, r = torch.full((2, 1), 7.0), torch.tensor([-1.0, 0.0])
    assert target(it, r, last, last).tolist() == [-31, 0]
    it.o.stop_at_goal = False
    assert target(it, r, last, last).tolist() == [-31, -30]
    it.o.gamma = 0.5
    assert target(it, r, last, last).tolist() == [-16, -15]
    it.o.stop_at_goal = True
    assert target(it, r, last, last).tolist() == [-16, 0]


@each_method
def test_targets_move_every_tenth_update_by_a_twentieth(method):
    module = load(method)
    buffer, it = make(module, (2, 2, 2), swap=True)
    pairs = [(getattr(it, name), getattr(it, name[:-7])) for name, _ in it.named_children() if name.endswith("_target")]
    assert len(pairs) == (2 if method == "crr" else 1)
    before = [[p.clone() for p in old.parameters()] for old, _ in pairs]
    for n in range(1, 10):
        it.update(buffer.sample(8), n)
    assert all(torch.equal(a, b) for was, (old, _) in zip(before, pairs) for a, b in zip(was, old.parameters()))
    it.update(buffer.sample(8), 10)
    for was, (old, online) in zip(before, pairs):
        for a, b, new in zip(was, online.parameters(), old.parameters()):
            torch.testing.assert_close(new, 0.95 * a + 0.05 * b)


@each_method
def test_values_below_gamma_1_have_their_own_floor(method):
    module = load(method)
    buffer, _ = make(module, (2, 2, 2), swap=False)
    agent_class = next(v for v in vars(module).values() if getattr(v, "__name__", "") == method.upper())
    for gamma, floor in ((1.0, -H), (0.98, -50)):
        settings = copy.deepcopy(module.DEFAULTS)
        settings.optimisation.gamma = gamma
        normalizer = module.Normalizer(buffer, gym.spaces.Box(-1, 1, (2,)))
        it = agent_class(settings, normalizer, H, torch.device("cpu"))
        assert it.floor == pytest.approx(floor)
        network = getattr(it, VALUES[method] + "_target")
        for net in network.nets:
            nn.init.constant_(net.head.bias, -1e4)
        s, a, r, s_next, g, *_ = buffer.sample(16)
        assert target(it, r.fill_(-1), s_next, g).min() == pytest.approx(floor)


@each_method
def test_no_target_is_above_zero(method):
    buffer, it = make(load(method), (2, 2, 2), swap=False)
    for net in getattr(it, VALUES[method] + "_target").nets:
        nn.init.constant_(net.head.bias, 1e4)
    _, _, r, s_next, g, *_ = buffer.sample(16)
    assert target(it, r.fill_(-1), s_next, g).tolist() == [0] * 16
