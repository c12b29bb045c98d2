"""Losses and targets of DQAPG and TD3+BC on three hand-made transitions, against values worked out by hand."""

import copy
import dataclasses
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from speed import ALGOS, load, make
from tables import DELTA, DISTANCE, H, Table, TableActor, agent, batch, updated
from torch import nn


def test_dqapg_alg3():
    it, metrics = updated("dqapg", variant="alg3")
    # y_q = r + min V'(s'): -1 - 6, 0 because the goal is reached, -1 - 120 clipped
    assert metrics["critic_loss"] == pytest.approx((9 + 4 + 2500) / 3 + (25 + 1 + 3600) / 3)
    # y_v = r + min Q'(s', pi'(s')): -1 - 7, 0, -1 - 150 clipped
    assert metrics["value_loss"] == pytest.approx((9 + 4 + 48**2) / 3 + (25 + 9 + 59**2) / 3)
    weights = [math.exp(-10 + 11), 1.0, math.exp(-50 + 52)]
    cloning = sum(w * d for w, d in zip(weights, DISTANCE)) / 3
    scale = 1 / ((10 + 2 + 50) / 3)
    assert metrics["actor_loss"] == pytest.approx(cloning - scale * (-9.4 - 1.4 - 50) / 3)
    gradient = (torch.tensor(weights)[:, None] * DELTA - scale * 2.0) / 3
    torch.testing.assert_close(it.actor.shift.grad[:3], gradient)


def test_dqapg_fig9():
    it, metrics = updated("dqapg", variant="fig9", alpha=1.5)
    # y = r + min Q'(s', pi'(s')): -8, 0, -100, for Q and for V; y_next = min Q - r: -11, -2, -49
    assert metrics["critic_loss"] == pytest.approx((4 + 4 + 2500) / 3 + (16 + 1 + 3600) / 3)
    at_s = (9 + 4 + 48**2) + (25 + 9 + 59**2) + (0 + 0 + 9) + (4 + 1 + 64)
    at_next = (4 + 1 + 121) + (1 + 1 + 16)
    assert metrics["value_loss"] == pytest.approx((at_s + at_next) / 3)
    w1, w2 = [math.exp(x) for x in (1, 0, 2)], [math.exp(x) for x in (1, 2, 1)]
    cloning = sum((a + b + 1) * d for a, b, d in zip(w1, w2, DISTANCE)) / 3
    assert metrics["actor_loss"] == pytest.approx(cloning + 2 * 1.5)  # -lambda Q is alpha for negative values
    scale = [1.5 / ((9.4 + 1.4 + 50) / 3), 1.5 / ((12.3 + 1.3 + 40) / 3)]
    gradient = ((torch.tensor(w1) + torch.tensor(w2) + 1)[:, None] * DELTA - scale[0] * 2.0 + scale[1] * 1.0) / 3
    torch.testing.assert_close(it.actor.shift.grad[:3], gradient)


def test_dqapg_targets_of_the_other_variants():
    module, it = agent("dqapg", variant="eq34")
    s, _, r, s_next, g, *_ = batch(module)
    y_q, y_v = it.targets(s, r, s_next, g)
    assert y_q.tolist() == [-7, 0, -100] and y_v.tolist() == [-4, -2, -30]
    it.a.variant = "fig9-literal"
    it.actor_target = TableActor(torch.cat([torch.full((3, 2), 0.25), torch.zeros(3, 2)]))  # pi'(s) shifts Q by 2 * 0.5
    assert it.targets(s, r, s_next, g)[0].tolist() == [-7, 0, -100]
    it.critic_target = Table([[0.0] * 3 + [9.0] * 3, [0.0] * 3 + [9.0] * 3])
    assert it.targets(s, r, s_next, g)[0].tolist() == [1, 0, 1]
    it.a.variant = "fig9"
    assert it.targets(s, r, s_next, g)[0].tolist() == [0, 0, 0]


def test_dqapg_values_that_the_value_function_is_regressed_on_are_bounded_too():
    module, it = agent("dqapg", variant="fig9")
    it.critic.rows.data[:, :3] = torch.tensor([[0.0, -2, -150], [0.0, -1, -160]])
    metrics = it.update(batch(module), 2)
    # y = -8, 0, -100 as above; y_next = min Q - r: 0 + 1 clipped at 0, -2, -160 + 1 clipped at -100
    at_s = (9 + 4 + 48**2) + (25 + 9 + 59**2) + (11**2 + 0 + 48**2) + (13**2 + 1 + 59**2)
    at_next = (9**2 + 1 + 40**2) + (10**2 + 1 + 55**2)
    assert float(metrics["value_loss"]) == pytest.approx((at_s + at_next) / 3)
    it.a.variant = "eq34"  # V(s) is regressed on Q'(s, pi'(s))
    it.critic_target.rows.data[:, :3] = torch.tensor([[5.0, -1, -130], [6.0, -2, -120]])
    s, _, r, s_next, g, *_ = batch(module)
    assert it.targets(s, r, s_next, g)[1].tolist() == [0, -2, -100]


@pytest.mark.parametrize("method, algorithm", [
    ("dqapg", {"variant": "fig9"}), ("dqapg", {"variant": "alg3"}), ("td3bc", {"target_noise": 0.0})])
def test_the_action_at_the_next_state_is_that_of_the_target_actor(method, algorithm):
    module, it = agent(method, **algorithm)
    it.actor.shift.data[3:] = 0.25  # would move Q'(s', a') by 2 * 0.5; the target actor stays where it was
    it.actor_target.shift.data[:3] = 0.25  # and so would its action at s
    s, _, r, s_next, g, *_ = batch(module)
    y = it.targets(s, r, s_next, g)[1] if method == "dqapg" else it.target(r, s_next, g)
    assert y.tolist() == [-8, 0, -100]


def test_dqapg_fig9_literal_differs_in_its_targets_only():
    assert updated("dqapg", variant="fig9-literal")[1] == updated("dqapg", variant="fig9")[1]  # which these tables hide


@pytest.mark.parametrize("method, algorithm", [
    ("td3bc", {"target_noise": 0.0}), ("dqapg", {"variant": "fig9"}), ("dqapg", {"variant": "alg3"})])
def test_lambda_is_alpha_by_the_mean_of_absolute_values(method, algorithm):
    module, it = agent(method, alpha=1.5, **algorithm)
    it.critic.rows.data[:, 0] = torch.tensor([1.0, 1.5])  # 1.6 and 1.2 at pi(s), where the others are negative
    if method == "dqapg":
        it.value.rows.data[:, :3] = it.critic.rows.data[:, :3]  # all weights are 1
    cloning = sum(DISTANCE) / 3 * (3 if algorithm.get("variant") == "fig9" else 1)
    terms = {"td3bc": (1.6 - 1.4 - 50) / (1.6 + 1.4 + 50), "alg3": (1.6 - 1.4 - 50) / (1 + 2 + 50),
             "fig9": (1.6 - 1.4 - 50) / (1.6 + 1.4 + 50) + (1.2 - 1.3 - 40) / (1.2 + 1.3 + 40)}
    loss = float(it.update(batch(module), 2)["actor_loss"])
    assert loss == pytest.approx(cloning - 1.5 * terms[algorithm.get("variant", method)])


def test_dqapg_weight_clip():
    _, metrics = updated("dqapg", variant="alg3", weight_clip=2.0)
    assert metrics["weight"] == pytest.approx((2 + 1 + 2) / 3)


def test_td3bc():
    module, it = agent("td3bc", target_noise=0.0)
    s, _, r, s_next, g, *_ = batch(module)
    assert it.target(r, s_next, g).tolist() == [-8, 0, -100]
    metrics = it.update(batch(module), 2)
    assert float(metrics["critic_loss"]) == pytest.approx((4 + 4 + 2500) / 3 + (16 + 1 + 3600) / 3)
    assert float(metrics["actor_loss"]) == pytest.approx(sum(DISTANCE) / 3 + 2.5)
    gradient = (DELTA - 2.5 / ((9.4 + 1.4 + 50) / 3) * 2.0) / 3
    torch.testing.assert_close(it.actor.shift.grad[:3], gradient)


def test_td3bc_target_noise_is_clipped_and_lowers_no_more_than_it_can():
    module, it = agent("td3bc", target_noise=100.0, noise_clip=0.125)
    s, _, r, s_next, g, *_ = batch(module)
    # actions of A lie 0 or more inside [-1, 1]; each of two coordinates moves by at most 0.125, Q by 2 per unit
    targets = torch.stack([it.target(r, s_next, g)[0] for _ in range(50)])
    assert targets.min() >= -8.5 - 1e-5 and targets.max() <= -7.5 + 1e-5 and targets.std() > 0.1


def test_td3bc_target_noise_is_in_half_widths_of_the_action_space_and_does_not_leave_it():
    module, it = agent("td3bc", target_noise=1e6, noise_clip=0.5)
    it.actor.normalizer.scale = torch.full((2,), 0.5)  # the first action, 0.5 and -0.5, lies in a corner of the box
    _, _, r, s_next, g, *_ = batch(module)
    targets = {round(float(it.target(r, s_next, g)[0]), 3) for _ in range(100)}
    # noise of 0.5 half widths is 0.25: it takes the first coordinate down or not, the second up or not; Q by 2 per unit
    assert targets == {-8.5, -8.0, -7.5}


def test_td3bc_delays_the_actor():
    module, it = agent("td3bc")
    it.optimizers = module.adam({"actor": it.actor, "critic": it.critic}, 1e-2)
    before = it.actor.shift.clone()
    assert "actor_loss" not in it.update(batch(module), 1) and torch.equal(it.actor.shift, before)
    assert "actor_loss" in it.update(batch(module), 2) and not torch.equal(it.actor.shift, before)


@pytest.mark.parametrize("method", ["dqapg", "td3bc"])
def test_swap_filter_leaves_out_swapped_pairs_only(method):
    _, it = agent(method)
    values = torch.tensor([-90.0, -10, -80, -49.9, -50, -60])  # the last three are swapped; H / 2 is 50
    assert it.keep(values).tolist() == [1] * 6
    it.a.swap_filter = "values"
    assert it.keep(values).tolist() == [2, 2, 2, 0, 0, 0]
    it.a.swap_filter = "reachable"
    torch.testing.assert_close(it.keep(values), torch.tensor([1.5, 1.5, 1.5, 1.5, 0, 0]))


@pytest.mark.parametrize("swap_filter, kept", [("none", (0, 1, 2)), ("values", (0,)), ("reachable", (0, 1))])
def test_swap_filter_in_the_actor_loss(swap_filter, kept):
    """The second and the third transition are the swapped half; min V is -3 and -52 there, Q(s, pi) -1.4 and -50."""
    n, w1, w2 = len(kept), [math.exp(x) for x in (1, 0, 2)], [math.exp(x) for x in (1, 2, 1)]
    q1, q2, q = [-9.4, -1.4, -50], [-12.3, -1.3, -40], [-10, -2, -50]  # Q1 and Q2 at pi(s), Q1 of the data
    mean = lambda x: sum(x[k] for k in kept) / n  # noqa: E731
    mask = torch.tensor([[float(k in kept)] for k in range(3)]) / n

    module, it = agent("td3bc", target_noise=0.0, swap_filter=swap_filter)
    metrics = it.update(batch(module), 2)
    assert float(metrics["actor_loss"]) == pytest.approx(mean(DISTANCE) + 2.5)
    assert float(metrics["cloning"]) == pytest.approx(mean(DISTANCE))
    assert float(metrics["kept"]) == pytest.approx(n / 3)
    torch.testing.assert_close(it.actor.shift.grad[:3], mask * (DELTA + 2.5 / mean(q1) * 2))

    it, metrics = updated("dqapg", variant="fig9", swap_filter=swap_filter)
    assert metrics["actor_loss"] == pytest.approx(mean([(a + b + 1) * d for a, b, d in zip(w1, w2, DISTANCE)]) + 2)
    assert metrics["kept"] == pytest.approx(n / 3)
    weight = (torch.tensor(w1) + torch.tensor(w2) + 1)[:, None]
    torch.testing.assert_close(it.actor.shift.grad[:3], mask * (weight * DELTA + 2 / mean(q1) - 1 / mean(q2)))

    it, metrics = updated("dqapg", variant="alg3", swap_filter=swap_filter)
    assert metrics["actor_loss"] == pytest.approx(mean([a * d for a, d in zip(w1, DISTANCE)]) + mean(q1) / mean(q))
    torch.testing.assert_close(it.actor.shift.grad[:3], mask * (torch.tensor(w1)[:, None] * DELTA + 2 / mean(q)))


def test_td3bc_filter_looks_at_the_value_of_the_policys_action():
    module, it = agent("td3bc", target_noise=0.0, swap_filter="reachable")
    it.critic.rows.data[0, 1] = -50.3  # the second transition's; 0.6 more for the action of the policy, H / 2 is 50
    assert float(it.update(batch(module), 2)["kept"]) == pytest.approx(2 / 3)


def test_dqapg_filter_looks_at_the_smaller_value_of_the_state():
    module, it = agent("dqapg", swap_filter="reachable")
    it.value.rows.data[0, 1] = -50.3  # the second transition's; H / 2 is 50, and Q(s, a) is -2
    assert float(it.update(batch(module), 2)["kept"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("variant", ["alg3", "fig9", "eq34"])
def test_dqapg_advantage_is_of_the_values_before_the_step(variant):
    weights = []
    for lr in (0.0, 0.5):
        module, it = agent("dqapg", variant=variant)
        for name in ("critic", "value"):
            it.optimizers[name].param_groups[0]["lr"] = lr
        before = it.critic.rows.detach().clone()
        weights.append(float(it.update(batch(module), 2)["weight"]))
        assert torch.equal(it.critic.rows, before) == (lr == 0)
    assert weights[0] == weights[1]


@pytest.mark.parametrize("method, variant", [("dqapg", "alg3"), ("dqapg", "fig9"), ("dqapg", "eq34"), ("td3bc", None)])
def test_gradients_flow_where_they_must_and_nowhere_else(method, variant):
    module, it = agent(method, **({"variant": variant} if variant else {"target_noise": 0.0}))
    for _ in range(2):  # and do not add up
        it.update(batch(module), 2)
    networks = [name for name in ("actor", "critic", "value") if hasattr(it, name)]
    for name in networks:
        assert all(p.grad is None for p in getattr(it, name + "_target").parameters())
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in getattr(it, name).parameters())
    # the critic has the gradient of its regression only, none through the actor or the value
    y = {"alg3": [-7, 0, -100], "eq34": [-7, 0, -100]}.get(variant, [-8, 0, -100])
    expected = 2 * (it.critic.rows.detach()[:, :3] - torch.tensor(y)) / 3
    torch.testing.assert_close(it.critic.rows.grad, torch.cat([expected, torch.zeros(2, 3)], 1))
    if variant in ("alg3", "eq34"):  # fig9 also regresses V(s')
        assert (it.value.rows.grad[:, 3:] == 0).all()


@pytest.mark.parametrize("method", ["dqapg", "td3bc"])
def test_a_time_out_bootstraps_and_a_success_does_not(method):
    module = load(method)
    buffer, it = make(module, (1, 1, 1), swap=False)
    last = torch.full((2, 1), 7.0)  # a buffer has no terminal flag: only the reward can stop the bootstrap
    target = it.targets if method == "dqapg" else lambda s, r, s_next, g: (it.target(r, s_next, g),)
    for parameter in it.critic_target.parameters():
        nn.init.zeros_(parameter)
    for net in it.critic_target.nets:
        nn.init.constant_(net.head.bias, -30.0)
    assert target(last, torch.tensor([-1.0, 0.0]), last, last)[0].tolist() == [-31, 0]
    it.o.stop_at_goal = False
    assert target(last, torch.tensor([-1.0, 0.0]), last, last)[0].tolist() == [-31, -30]
    it.o.gamma = 0.5
    assert target(last, torch.tensor([-1.0, 0.0]), last, last)[0].tolist() == [-16, -15]
    it.o.stop_at_goal = True
    assert target(last, torch.tensor([-1.0, 0.0]), last, last)[0].tolist() == [-16, 0]
    assert copy.deepcopy(module.DEFAULTS).optimisation.stop_at_goal and (buffer.step == 99).any()


@pytest.mark.parametrize("method", ["dqapg", "td3bc"])
def test_targets_move_every_tenth_update_by_a_twentieth(method):
    module = load(method)
    buffer, it = make(module, (2, 2, 2), swap=True)
    before = [p.clone() for p in it.critic_target.parameters()]
    for n in range(1, 10):
        it.update(buffer.sample(8), n)
    assert all(torch.equal(a, b) for a, b in zip(before, it.critic_target.parameters()))
    it.update(buffer.sample(8), 10)
    for old, online, new in zip(before, it.critic.parameters(), it.critic_target.parameters()):
        torch.testing.assert_close(new, 0.95 * old + 0.05 * online)


@pytest.mark.parametrize("method", ["dqapg", "td3bc"])
def test_every_target_network_follows_its_own(method):
    buffer, it = make(load(method), (2, 2, 2), swap=True)
    pairs = [(old, getattr(it, name[:-7])) for name, old in it.named_children() if name.endswith("_target")]
    before = [[p.clone() for p in old.parameters()] for old, _ in pairs]
    for n in range(1, 11):
        it.update(buffer.sample(8), n)
    assert len(pairs) == len(it.optimizers)
    for was, (old, online) in zip(before, pairs):
        for a, b, new in zip(was, online.parameters(), old.parameters()):
            torch.testing.assert_close(new, 0.95 * a + 0.05 * b)


def test_td3bc_targets_lie_between_the_floor_and_zero():
    module = load("td3bc")
    buffer, old = make(module, (2, 2, 2), swap=False)
    _, _, r, s_next, g, *_ = buffer.sample(16)
    for gamma, floor in ((1.0, -70), (0.98, -50)):
        settings = copy.deepcopy(module.DEFAULTS)
        settings.optimisation.gamma = gamma
        it = module.TD3BC(settings, old.actor.normalizer, 70, torch.device("cpu"))
        for bias, bound in ((-1e4, floor), (1e4, 0)):
            for net in it.critic_target.nets:
                nn.init.constant_(net.head.bias, bias)
            assert it.target(r.fill_(-1), s_next, g).tolist() == pytest.approx([bound] * 16)


def test_values_below_gamma_1_have_their_own_floor():
    module = load("dqapg")
    settings = copy.deepcopy(module.DEFAULTS)
    settings.optimisation.gamma = 0.98
    buffer, _ = make(module, (2, 2, 2), swap=False)
    normalizer = module.Normalizer(buffer, gym.spaces.Box(-1, 1, (2,)))
    assert module.DQAPG(settings, normalizer, H, torch.device("cpu")).floor == pytest.approx(-50)
    settings.optimisation.gamma = 1.0
    assert module.DQAPG(settings, normalizer, H, torch.device("cpu")).floor == -H


def test_actor_and_critic_use_the_units_of_the_environment():
    module = load("dqapg")
    buffer, _ = make(module, (2, 2, 2), swap=False)
    normalizer = module.Normalizer(buffer, gym.spaces.Box(np.float32([-2, 0]), np.float32([2, 1])))
    actor, critic = module.Actor(normalizer, [8]), module.Twin(normalizer, [8], 2)
    with torch.no_grad():
        actor.net.head.bias.fill_(100.0)
        obs = torch.randn(4, 2)
        torch.testing.assert_close(actor(obs, obs), torch.tensor([[2.0, 1.0]]).expand(4, 2))
        x = critic.normalizer(obs, obs, torch.tensor([[2.0, 0.5]]).expand(4, 2))
        torch.testing.assert_close(x[:, -2:], torch.tensor([[1.0, 0.0]]).expand(4, 2))


ALL = sorted(path.stem for path in ALGOS.glob("*.py"))


@pytest.mark.parametrize("method", ALL)
def test_all_networks_have_the_hidden_layers_asked_for_and_adam_its_rate(method):
    module = load(method)
    o, a = module.DEFAULTS.optimisation, module.DEFAULTS.algorithm
    o.hidden, o.lr, a.vae_hidden, a.discriminator_lr = (7, 5), 0.02, (6,), 0.03
    _, it = make(module, (3, 2, 2), swap=False)
    for name, network in it.named_modules():
        if isinstance(network, module.MLP):
            widths = [layer.out_features for layer in network.body[::2]]
            assert widths == ([6] if name.startswith("vae") else [7, 5]), name
    for name, optimizer in it.optimizers.items():
        assert type(optimizer) is torch.optim.Adam
        assert optimizer.param_groups[0]["lr"] == (0.03 if name == "discriminator" else 0.02), name


@pytest.mark.parametrize("method, policy", [*((name, None) for name in ALL if name != "bcq"), ("dqapg", "gaussian")])
def test_the_policy_is_the_actor_at_observation_and_goal(method, policy):
    module = load(method)
    if policy:
        module.DEFAULTS.algorithm.policy = policy
    _, it = make(module, (2, 2, 2), swap=False)
    obs, goal = torch.randn(2, 9, 2)
    torch.testing.assert_close(it.act(obs, goal), (it.actor.mode if policy else it.actor)(obs, goal))


# another value of each setting, and settings without which it does nothing
OTHER = {
    "am": {"variant": "official", "candidates": 2},
    "awac": {"advantage": "td", "weight": "softmax", "temperature": 0.5, "weight_clip": 0.9},
    "awr": {"standardise": True, "temperature": 0.5, "weight_clip": 0.9},
    "bcq": {"vae_hidden": (9,), "phi": 0.5, "soft_minimum": 0.2, "target_candidates": 3, "act_candidates": 3,
            "latent_clip": 0.2, "kl_weight": 0.1},
    "cql": {"samples": 3, "weight": 2.0, "lagrange": True, "lagrange_gap": 5.0, "entropy": 2.0},
    "crr": {"weight": "exp", "action_samples": 1, "policy_std": 0.1, "temperature": 0.5, "weight_clip": 0.9},
    "dqapg": {"variant": "alg3", "alpha": 2.0, "weight_clip": 0.9, "swap_filter": "values", "policy": "gaussian"},
    "gcsl": {},
    "gofar": {"divergence": "kl", "reward": "binary", "discriminator_lr": 0.01, "penalty": 0.5, "weight_clip": 0.9},
    "iql": {"expectile": 0.6, "beta": 1.0, "weight_clip": 0.9},
    "onestep": {"beta": 1.0, "weight_clip": 0.9},
    "td3bc": {"alpha": 1.0, "target_noise": 0.5, "noise_clip": 0.1, "policy_delay": 1, "swap_filter": "values"},
    "wgcsl": {"variant": "gofar", "weight_clip": 0.9, "baw_best": 20.0, "baw_rise": 5.0, "baw_other": 0.5,
              "baw_queue": 64}}
NEEDS = {("cql", "lagrange_gap"): {"lagrange": True}, ("gofar", "weight_clip"): {"divergence": "kl"},
         ("crr", "temperature"): {"weight": "exp"}, ("crr", "weight_clip"): {"weight": "exp"},
         **{("wgcsl", name): {"baw_rise": 9.0} for name in ("baw_best", "baw_other", "baw_queue")}}


def outcome(method, **settings):
    """Every number of an agent after ten updates, and its actions."""
    module = load(method)
    o, a = module.DEFAULTS.optimisation, module.DEFAULTS.algorithm
    for key, value in ({"hidden": (8,), "target_every": 4, "vae_hidden": (8,)} | settings).items():
        setattr(o if hasattr(o, key) else a, key, value)
    torch.manual_seed(0)
    buffer, it = make(module, (2, 2, 2), swap=method not in ("am", "gcsl"))
    for n in range(1, 11):
        it.update(buffer.sample(64), n)
    action = it.act(torch.randn(9, 2), torch.randn(9, 2))
    return torch.cat([x.detach().flatten() for x in (*it.parameters(), action)]).tolist()


@pytest.mark.parametrize("method", ALL)
def test_every_setting_does_something(method):
    fields = [field.name for field in dataclasses.fields(load(method).Algorithm)]
    assert fields == list(OTHER.get(method, ())), "OTHER needs another value of each of its settings"
    plain, no_stop = outcome(method), not load(method).DEFAULTS.optimisation.stop_at_goal
    for name, value in (OTHER[method] | {"polyak": 0.5, "target_every": 3, "stop_at_goal": no_stop}).items():
        needs = NEEDS.get((method, name), {})
        same = outcome(method, **needs | {name: value}) == (outcome(method, **needs) if needs else plain)
        assert same == (method == "gcsl"), name


def test_networks_have_relu_layers_and_the_starting_weights_of_xavier():
    net = load("dqapg").MLP(50, 20, [100, 100])
    hidden = net.body(torch.randn(64, 50))
    assert hidden.min() == 0 and hidden.max() > 0 and 0.2 < (hidden == 0).float().mean() < 0.8
    for layer in (*net.body[::2], net.head):
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.95 * bound < layer.weight.abs().max() <= bound and (layer.bias == 0).all()


def test_networks_see_observation_then_goal_then_action():
    _, it = make(load("dqapg"), (2, 2, 2), swap=False)
    (obs, goal, action), n = torch.randn(3, 9, 2), it.actor.normalizer
    torch.testing.assert_close(it.actor(obs, goal), n.center + n.scale * it.actor.net(n(obs, goal)).tanh())
    for head, net in zip(it.critic(obs, goal, action), it.critic.nets):
        torch.testing.assert_close(head, net(n(obs, goal, action))[:, 0])
    for head, net in zip(it.value(obs, goal), it.value.nets):
        torch.testing.assert_close(head, net(n(obs, goal))[:, 0])


def test_the_two_heads_are_two_networks():
    buffer, it = make(load("dqapg"), (2, 2, 2), swap=False)
    s, a, _, _, g, *_ = buffer.sample(64)
    for first, second in (it.critic(s, g, a), it.value(s, g)):
        assert ((first - second).abs() > 1e-4).float().mean() > 0.9, "min over them would be no minimum"


def test_values_are_not_rounded_under_autocast():
    net, x = load("dqapg").MLP(4, 1, [8]), torch.randn(3, 4)
    nn.init.zeros_(net.head.weight)
    nn.init.constant_(net.head.bias, -60.1)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        assert net.body(x).dtype == torch.bfloat16 and net(x).flatten().tolist() == pytest.approx([-60.1] * 3)


def gaussian(policy="gaussian", **algorithm):
    """DQAPG with the flag and an actor that has mean (0.2, -0.1) and deviation (0.5, 0.25) in every state."""
    module = load("dqapg")
    buffer, _ = make(module, (1, 1, 2), swap=False)
    settings = copy.deepcopy(module.DEFAULTS)
    settings.algorithm.policy = policy
    for key, value in algorithm.items():
        setattr(settings.algorithm, key, value)
    normalizer = module.Normalizer(buffer, gym.spaces.Box(np.float32([-1, -1]), np.float32([3, 1])))  # 1 +- 2, 0 +- 1
    it = module.DQAPG(settings, normalizer, H, torch.device("cpu"))
    if policy == "gaussian":
        nn.init.zeros_(it.actor.net.head.weight)
        it.actor.net.head.bias.data = torch.tensor([0.2, -0.1, math.log(0.5), math.log(0.25)])
    return module, it


def test_dqapg_gaussian_clones_by_likelihood_times_variance():
    _, it = gaussian()
    s = torch.zeros(1, 1)
    a = torch.tensor([[1 + 2 * math.tanh(0.5), math.tanh(0.15)]])  # 0.5 and 0.15 before the tanh: off by 0.3 and 0.25
    _, cloning = it.actor(s, s, a)
    # 2 (h sigma)^2 ((x - mu)^2 / (2 sigma^2) + log sigma), h sigma = 1 and 0.25
    terms = [2 * (0.6**2 / 2 + math.log(0.5)), 2 / 16 * (1 / 2 + math.log(0.25))]
    assert cloning.tolist() == pytest.approx([sum(terms) / 2], abs=1e-5)
    cloning.sum().backward()
    # of the mean: 2 h^2 (mu - x), as of h^2 (mu - x)^2; of log sigma: 2 (h sigma)^2 (1 - (x - mu)^2 / sigma^2), 0 where
    # the deviation is that of the data; halves, because of the mean over two dimensions
    torch.testing.assert_close(it.actor.net.head.bias.grad, torch.tensor([-2.4, -0.5, 2 * (1 - 0.36), 0.0]) / 2)
    bounds = torch.tensor([[3.0, -1.0]])
    assert it.actor(s, s, bounds)[1].isfinite().all()


def test_dqapg_gaussian_samples_are_re_parameterised_and_the_evaluation_takes_the_mode():
    _, it = gaussian()
    s = torch.zeros(1, 1)
    mode = torch.tensor([[1 + 2 * math.tanh(0.2), math.tanh(-0.1)]])
    torch.testing.assert_close(it.act(s, s), mode)
    torch.manual_seed(3)
    sample = it.actor(s, s)
    torch.manual_seed(3)
    noise = torch.randn(1, 2)
    before = torch.tensor([[0.2, -0.1]]) + torch.tensor([0.5, 0.25]) * noise
    torch.testing.assert_close(sample, torch.tensor([1.0, 0.0]) + torch.tensor([2.0, 1.0]) * before.tanh())
    sample.sum().backward()
    slope = torch.tensor([2.0, 1.0]) * (1 - before.tanh().square())
    expected = torch.cat([slope, slope * torch.tensor([0.5, 0.25]) * noise], -1)[0]
    torch.testing.assert_close(it.actor.net.head.bias.grad, expected)
    torch.manual_seed(3)
    torch.testing.assert_close(it.actor(s, s, mode)[0], sample)  # the same sample with and without an action
    deterministic = gaussian("deterministic")[1]
    assert torch.equal(deterministic.act(s, s), deterministic.actor(s, s))


def test_dqapg_gaussian_deviations_are_bounded():
    _, it = gaussian()
    s = torch.zeros(1, 1)
    it.actor.net.head.bias.data = torch.tensor([0.2, -0.1, 60.0, -60.0])
    sample, cloning = it.actor(s, s, torch.tensor([[1.0, 0.5]]))
    assert sample.isfinite().all() and cloning.isfinite().all()
    s = torch.zeros(200, 1)
    torch.manual_seed(3)
    sample = it.actor(s, s)
    torch.manual_seed(3)
    before = torch.tensor([0.2, -0.1]) + torch.tensor([math.exp(2), math.exp(-5)]) * torch.randn(200, 2)
    torch.testing.assert_close(sample, torch.tensor([1.0, 0.0]) + torch.tensor([2.0, 1.0]) * before.tanh())


@pytest.mark.parametrize("variant", ["fig9", "alg3"])
def test_dqapg_gaussian_loss_weights_the_cloning_term_and_raises_q_of_the_sample(variant):
    module, it = agent("dqapg", variant=variant)
    it.gaussian, table = True, it.actor
    terms = torch.tensor([0.5, -0.25, 2.0])

    class Sampled(TableActor):
        def forward(self, obs, goal, action=None):
            sample = table(obs, goal)
            return sample if action is None else (sample, terms)

    it.actor = Sampled(table.shift)
    it.actor.shift = table.shift
    it.optimizers = module.adam({name: getattr(it, name) for name in it.optimizers}, 0.0)
    metrics = it.update(batch(module), 2)
    w1, w2 = (torch.tensor(x).exp() for x in ([1.0, 0, 2], [1.0, 2, 1]))
    assert float(metrics["cloning"]) == pytest.approx(float(terms.mean()))
    if variant == "fig9":
        assert float(metrics["actor_loss"]) == pytest.approx(float(((w1 + w2 + 1) * terms).mean()) + 2)
        slope = 2.0 / (9.4 + 1.4 + 50) - 1.0 / (12.3 + 1.3 + 40)  # of both heads in the action
    else:
        assert float(metrics["actor_loss"]) == pytest.approx(float((w1 * terms).mean()) + (9.4 + 1.4 + 50) / 62)
        slope = 2.0 / 62
    torch.testing.assert_close(it.actor.shift.grad[:3], torch.full((3, 2), -slope))  # through the sample into Q


def test_dqapg_gaussian_gradients_reach_the_actor_and_no_other_network():
    module, it = gaussian()
    it.optimizers = module.adam({name: getattr(it, name) for name in it.optimizers}, 0.0)
    one = batch(module)
    s, a, r, s_next, g, *_ = one
    torch.manual_seed(5)
    it.update(one, 2)
    assert it.actor.net.head.bias.grad.abs().min() > 0  # of the means and of the deviations
    for name in ("actor_target", "critic_target", "value_target"):
        assert all(p.grad is None for p in getattr(it, name).parameters())
    torch.manual_seed(5)  # the critic has the gradient of its regression on the same sampled targets, and no other
    y = it.targets(s, r, s_next, g)[0]
    loss = sum(nn.functional.mse_loss(q, y) for q in it.critic(s, g, a))
    for parameter, wanted in zip(it.critic.parameters(), torch.autograd.grad(loss, list(it.critic.parameters()))):
        torch.testing.assert_close(parameter.grad, wanted)
    assert not torch.equal(it.targets(s, r, s_next, g)[0], y)  # the targets draw samples, too
