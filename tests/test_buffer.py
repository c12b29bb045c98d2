"""The replay buffer, each row of a batch against a slow obvious version, and the normalisation of inputs."""

import collections

import gymnasium as gym
import numpy as np
import pytest
import torch
from tools import load_method

N, T = 7, 12
LENGTHS = np.array([3, 12, 1, 5, 8, 5, 12])
module = load_method("dqapg")


def data():
    """Trajectory i: observations (i, t), achieved goals (10 i, -t), actions (i, t) / 100, goal (10 i, 50)."""
    where = np.stack(np.meshgrid(np.arange(N), np.arange(T + 1), indexing="ij"), -1).astype(np.float32)
    desired = np.stack([np.arange(N) * 10, np.full(N, 50)], -1).astype(np.float32)
    arrays = {"observations": where, "achieved_goals": where * [10, -1], "actions": where[:, :T] / 100}
    return arrays | {"desired_goals": desired, "lengths": LENGTHS}


def compute_reward(achieved, goal, info):
    """Not symmetric: at the goal, or one step beyond it."""
    away = goal - achieved
    return -1.0 + ((away[..., 0] == 0) & (away[..., 1] >= 0) & (away[..., 1] <= 1))


def batch(**settings):
    """The arrays of a batch, on which what holds for every batch is asserted."""
    args = module.Args(**({"batch_size": 4000} | settings))
    it, d = module.ReplayBuffer(data(), compute_reward, args).sample(), data()
    assert {x.dtype for x in it} == {torch.float32} and {len(x) for x in it} == {args.batch_size}
    it = module.Batch(*(x.numpy() for x in it))
    size = args.batch_size - round(args.batch_size * args.swap_ratio) * args.swap
    assert (it.swapped == (np.arange(args.batch_size) >= size)).all()
    for row in range(args.batch_size):
        i, t = it.obs[row].astype(int)
        assert t < LENGTHS[i]
        assert (it.next_obs[row] == (i, t + 1)).all() and (it.initial_obs[row] == (i, 0)).all()
        assert (it.action[row] == d["actions"][i, t]).all()
        assert (it.achieved[row] == d["achieved_goals"][i, t]).all()
        assert it.reward[row] == compute_reward(d["achieved_goals"][i, t + 1], it.goal[row], {})
        if it.swapped[row]:
            assert (it.obs[row] == it.obs[row - size]).all() and it.steps_to_goal[row] == np.inf
        elif it.steps_to_goal[row] < np.inf:  # a hindsight goal: of the same trajectory, and later
            assert t < t + it.steps_to_goal[row] <= LENGTHS[i]
            assert (it.goal[row] == d["achieved_goals"][i, t + int(it.steps_to_goal[row])]).all()
        else:
            assert (it.goal[row] == d["desired_goals"][i]).all()
    return it


def test_every_transition_is_drawn_equally_often():
    it = batch(her_ratio=0.0, batch_size=46 * 200)
    _, counts = np.unique(it.obs, axis=0, return_counts=True)
    assert len(counts) == LENGTHS.sum() == 46 and counts.min() > 140 and counts.max() < 260


def test_hindsight_goals_are_drawn_equally_often_from_all_later_steps():
    it = batch(her_ratio=1.0, batch_size=20_000)
    assert np.isfinite(it.steps_to_goal).all() and {-1, 0} == {*it.reward}
    steps = it.steps_to_goal[(it.obs == (1, 0)).all(1)].astype(int)
    counts = np.bincount(steps, minlength=T + 1)[1:]
    assert len(counts) == T and (np.abs(counts - len(steps) / T) < 5 * np.sqrt(len(steps) / T)).all()


@pytest.mark.parametrize("her_ratio", [0.0, 0.3])
def test_the_share_of_hindsight_goals(her_ratio):
    assert np.isfinite(batch(her_ratio=her_ratio).steps_to_goal).mean() == pytest.approx(her_ratio, abs=0.03)


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_swapped_goals_are_those_of_the_batch_in_another_order(ratio):
    it = batch(swap=True, swap_ratio=ratio)
    own, swapped = it.goal[it.swapped == 0], it.goal[it.swapped == 1]
    assert len(swapped) == 4000 * ratio
    left = collections.Counter(map(tuple, own))
    left.subtract(map(tuple, swapped))
    assert min(left.values()) >= 0, "each goal of the batch at most once"
    others = swapped[:, 0] != 10 * it.obs[it.swapped == 1][:, 0]
    assert 0.6 < others.mean() < 0.9, "most are of other trajectories"
    assert {-1, 0} == {*it.reward[it.swapped == 1]}
    assert len(np.unique(swapped[:, 1])) > 5, "hindsight goals are among them"


def test_batches_depend_on_the_seed_alone():
    a, b, c = (batch(seed=seed, swap=True, batch_size=64) for seed in (1, 1, 2))
    assert all(map(np.array_equal, a, b)) and not np.array_equal(a.obs, c.obs)
    buffer = module.ReplayBuffer(data(), compute_reward, module.Args(batch_size=64))
    assert not torch.equal(buffer.sample().obs, buffer.sample().obs)


def test_normalisation_is_that_of_the_valid_states_and_of_all_goals():
    d, box = data(), gym.spaces.Box(np.float32([-1, 0]), np.float32([3, 1]))
    padding = np.arange(T + 1) > LENGTHS[:, None]
    d["observations"][padding] = d["achieved_goals"][padding] = 1e6
    d["desired_goals"][:, 1] = -3
    stats = module.statistics(d, box)
    rows = np.array([(i, t) for i in range(N) for t in range(LENGTHS[i] + 1)])
    goals = np.concatenate([rows * [10, -1], d["desired_goals"]])
    for name, expected in (("obs", rows), ("goal", goals)):
        assert np.allclose(stats[name], [expected.mean(0), expected.std(0), [5, 5]], rtol=1e-5)
    assert stats["action"].tolist() == [[1, 0.5], [2, 0.5], [np.inf, np.inf]]
    network = module.Network(stats, ("obs", "action"), 2, (3,))
    network.layers = torch.nn.ModuleList([torch.nn.Identity()])  # shows the inputs
    state, action = torch.tensor(rows[:1]).float() + 1e6, torch.tensor([[3.0, 0.0]])
    assert network(state, action).tolist() == [[5, 5, 1, -1]]
    assert "normalisation" in network.state_dict()


@pytest.mark.parametrize("sign", [1, -1])
def test_no_desired_goal_is_clipped(sign):
    """FetchPick's states are on the table, and a fifth of its goals beyond 5 deviations above it."""
    d = data()
    d["desired_goals"][0] = [0, 500 * sign]
    shift, scale, limit = module.statistics(d, gym.spaces.Box(-1, 1, (2,)))["goal"]
    goals = np.concatenate([d["achieved_goals"][0], d["desired_goals"]])
    assert abs(500 - abs(goals[:, 1].mean())) > 5 * d["achieved_goals"][..., 1].std(), "would be clipped"
    z = (torch.tensor(d["desired_goals"]) - shift) / scale
    assert z.abs().max() <= limit[0] + 1e-5 and z[0, 1].item() == pytest.approx(5 * sign)


def test_an_input_that_never_varies_is_not_divided_by_zero():
    d = data()
    d["observations"][:] = 3
    shift, scale, _ = module.statistics(d, gym.spaces.Box(-1, 1, (2,)))["obs"]
    assert shift.tolist() == [3, 3] and scale.tolist() == pytest.approx([0.01, 0.01])
