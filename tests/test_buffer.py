"""Sampling, hindsight relabelling, goal swapping and rewards of the replay buffer, against a slow obvious version."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from speed import load

N, T = 7, 12


def reached(achieved, goal):
    """Near in both the number of the episode and the step."""
    return np.abs(achieved - goal).max(-1) < 1.5


def dataset(lengths=None):
    """Observation and achieved goal of episode i at step t are (100 i, t); its desired goal is (100 i, 1000)."""
    where = np.stack(np.meshgrid(np.arange(N) * 100.0, np.arange(T + 1), indexing="ij"), -1)
    desired = np.stack([np.arange(N) * 100.0, np.full(N, 1000.0)], -1)
    actions = where[:, :T] / 1000
    data = {"observations": where, "achieved_goals": where, "desired_goals": desired, "actions": actions}
    return data if lengths is None else data | {"lengths": np.asarray(lengths)}


def buffer(data=None, seed=0, **relabelling):
    module = load("dqapg")
    r = module.Relabelling(**relabelling)
    return module.ReplayBuffer(data or dataset(), r, reached, seed)


def sample(size, **kwargs):
    return [x.numpy() for x in buffer(**kwargs).sample(size)[:5]]


def test_what_only_some_methods_need():
    batch = buffer(her_ratio=0.5, swap=True, swap_batch="double").sample(4000)
    assert torch.equal(batch.achieved, batch.obs)
    assert torch.equal(batch.initial_obs, batch.obs * torch.tensor([1.0, 0.0]))
    hindsight = (batch.goal[:, 1] != 1000) & (torch.arange(8000) < 4000)
    assert torch.equal(batch.offset[hindsight], (batch.goal - batch.obs)[hindsight, 1])
    assert torch.isinf(batch.offset[~hindsight]).all() and 0.45 < hindsight[:4000].float().mean() < 0.55
    assert all(x.dtype == torch.float32 and len(x) == 8000 for x in batch)


def test_goals_and_rewards_are_of_achieved_goals_and_not_of_observations():
    module, data = load("dqapg"), dataset()
    data["observations"] = -data["observations"]
    r = module.Relabelling(her_ratio=1.0, swap=True, swap_source="achieved")
    batch = module.ReplayBuffer(data, r, lambda achieved, goal: achieved.sum(-1) > goal.sum(-1), 0).sample(4000)
    assert (batch.goal >= 0).all() and torch.equal(batch.achieved, -batch.obs)
    assert torch.equal(batch.reward, (-batch.next_obs.sum(-1) > batch.goal.sum(-1)).float() - 1)
    assert {*batch.reward[2000:].tolist()} == {0, -1}, "a rule that is not symmetric: beyond the goal"


def test_transitions_are_those_of_the_dataset():
    obs, action, reward, next_obs, goal = sample(4000, her_ratio=0.0)
    assert (next_obs - obs == [0, 1]).all() and np.allclose(action, obs / 1000)
    assert (goal == np.stack([obs[:, 0], np.full(4000, 1000)], -1)).all() and (reward == -1).all()
    assert len(np.unique(obs, axis=0)) == N * T, "every transition can be drawn, the last one before the time-out too"


def test_hindsight_goals_come_from_the_same_trajectory_and_later():
    obs, _, reward, next_obs, goal = sample(20000, her_ratio=1.0)
    assert (goal[:, 0] == obs[:, 0]).all()
    offset = goal[:, 1] - obs[:, 1]
    assert offset.min() == 1 and goal[:, 1].max() == T
    assert (reward == reached(next_obs, goal) - 1.0).all() and -1 in reward and 0 in reward
    from_start = offset[obs[:, 1] == 0]  # uniform over 1, ..., T
    counts = np.bincount(from_start.astype(int), minlength=T + 1)[1:]
    assert (np.abs(counts - len(from_start) / T) < 5 * np.sqrt(len(from_start) / T)).all()


def test_her_ratio():
    goal = sample(20000, her_ratio=0.3)[-1]
    assert abs((goal[:, 1] != 1000).mean() - 0.3) < 0.02


def test_lengths_end_trajectories():
    lengths = [3, 12, 1, 5, 5, 5, 5]
    obs, _, _, next_obs, goal = sample(5000, data=dataset(lengths), her_ratio=1.0)
    episode = (obs[:, 0] / 100).astype(int)
    assert (next_obs[:, 1] <= np.take(lengths, episode)).all() and (goal[:, 1] <= np.take(lengths, episode)).all()
    assert len(np.unique(obs, axis=0)) == sum(lengths)


@pytest.mark.parametrize("source", ["commanded", "batch", "achieved"])
@pytest.mark.parametrize("swap_batch, size", [("equal", 3000), ("double", 6000)])
def test_swapping(source, swap_batch, size):
    obs, action, reward, next_obs, goal = sample(3000, swap=True, swap_source=source, swap_batch=swap_batch)
    assert len(obs) == size
    half = size // 2
    for x in (obs, action, next_obs):
        assert (x[:half] == x[half:]).all(), "the copy has the same transitions"
    assert (reward == reached(next_obs, goal) - 1.0).all(), "rewards belong to the goals they stand beside"
    assert (reward[:half] != reward[half:]).any()
    assert (0 in reward[half:]) == (source != "commanded"), "no state of these data achieves a commanded goal"
    other = goal[half:, 0] != obs[half:, 0]
    assert abs(other.mean() - (N - 1) / N) < 0.05, "goals of other trajectories"
    if source == "commanded":
        assert (goal[half:, 1] == 1000).all()
    elif source == "achieved":
        assert 1 <= goal[half:, 1].min() and goal[half:, 1].max() <= T
    else:
        assert sorted(goal[:half].tolist()) == sorted(goal[half:].tolist()), "the batch's own goals, whole, shuffled"
    assert (goal[:half, 0] == obs[:half, 0]).all(), "the original half keeps its goals"


def test_achieved_goals_to_swap_in_are_all_there_are_and_no_padding():
    lengths = [3, 12, 1, 5, 5, 5, 5]
    goal = sample(8000, data=dataset(lengths), swap=True, swap_source="achieved")[-1][4000:]
    assert {*map(tuple, goal.tolist())} == {(100 * i, t) for i, n in enumerate(lengths) for t in range(1, n + 1)}


def test_batches_depend_on_the_seed_alone():
    first, again, other = (buffer(seed=seed, swap=True).sample(64) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.obs, other.obs) and not torch.equal(first.goal, other.goal)


def test_swapped_rewards_are_recomputed():
    data = dataset()
    data["desired_goals"] = data["achieved_goals"][:, 6]  # each episode reaches its goal around step 6
    obs, _, reward, next_obs, goal = sample(4000, data=data, swap=True, her_ratio=0.0)
    assert 0 in reward[:2000]
    stale = reward[:2000]
    assert (reward[2000:] != stale).any() and (reward == reached(next_obs, goal) - 1.0).all()


def test_against_a_slow_obvious_version():
    """The same random numbers through Python loops."""
    it, rng = buffer(swap=True, swap_source="commanded"), np.random.default_rng(0)
    data = dataset()
    drawn, uniform, hindsight = rng.integers(N * T, size=50), rng.random(50), rng.random(50) < 0.5
    other = rng.integers(N, size=50)
    rows = []
    for k in range(100):
        i, t = divmod(int(drawn[k % 50]), T)
        goal = data["desired_goals"][i]
        if hindsight[k % 50]:
            goal = data["achieved_goals"][i][t + 1 + int(uniform[k % 50] * (T - t))]
        if k >= 50:
            goal = data["desired_goals"][other[k - 50]]
        after = data["observations"][i][t + 1]
        reward = 0.0 if max(abs(after[0] - goal[0]), abs(after[1] - goal[1])) < 1.5 else -1.0
        rows.append((data["observations"][i][t], data["actions"][i][t], reward, after, goal))
    for fast, slow in zip(it.sample(100)[:5], zip(*rows)):
        assert torch.equal(fast, torch.from_numpy(np.array(slow)).float())


def test_normalizer_holds_the_statistics_of_the_dataset_and_is_saved_with_the_networks():
    module = load("dqapg")
    data = dataset([3, 12, 1, 5, 5, 5, 5])
    it = module.ReplayBuffer(data, module.Relabelling(), reached, 0)
    normalizer = module.Normalizer(it, gym.spaces.Box(-2, 2, (2,)))
    rows = [data["observations"][i, t] for i in range(N) for t in range(data["lengths"][i] + 1)]
    goals = np.concatenate([rows, data["desired_goals"]])
    assert np.allclose(normalizer.mean, np.concatenate([np.mean(rows, 0), goals.mean(0)]), rtol=1e-5)
    assert np.allclose(normalizer.std, np.concatenate([np.std(rows, 0), goals.std(0)]), rtol=1e-5)
    assert {"normalizer.mean", "normalizer.std"} <= set(module.Actor(normalizer, [4]).state_dict())
    far = torch.full((1, 2), 1e6)
    assert normalizer(far, -far).tolist() == [[5, 5, -5, -5]]


@pytest.mark.parametrize("sign", [1, -1])
def test_no_desired_goal_is_clipped(sign):
    """FetchPick's states are on the table and a fifth of its goals beyond 5 deviations above it, which looked alike."""
    module, data = load("dqapg"), dataset()
    data["achieved_goals"] = np.random.default_rng(0).normal(1, 0.02, data["achieved_goals"].shape)
    data["desired_goals"] = np.ones((N, 2))
    data["desired_goals"][:2] = [1, 2 * sign], [1, 2.2 * sign]
    data["achieved_goals"][..., 1] *= sign
    data["desired_goals"][2:, 1] *= sign
    it = module.ReplayBuffer(data, module.Relabelling(), reached, 0)
    normalizer = module.Normalizer(it, gym.spaces.Box(-1, 1, (2,)))
    goals = np.concatenate([data["achieved_goals"].reshape(-1, 2), data["desired_goals"]])
    assert abs(2 * sign - goals[:, 1].mean()) > 5 * goals[:, 1].std()  # so that both would be clipped
    assert normalizer.std[2].item() == pytest.approx(goals[:, 0].std())
    one, two = normalizer(torch.zeros(2, 2), torch.tensor(data["desired_goals"][:2], dtype=torch.float32))[:, 3].tolist()
    assert two == pytest.approx(5 * sign) and one == pytest.approx(4.15 * sign, abs=0.02)


def test_an_input_that_never_varies_is_divided_by_no_zero():
    module, data = load("dqapg"), dataset()
    data["observations"] = np.full((N, T + 1, 2), 3.0)
    it = module.ReplayBuffer(data, module.Relabelling(), reached, 0)
    normalizer = module.Normalizer(it, gym.spaces.Box(-1, 1, (2,)))
    assert normalizer.std[:2].tolist() == pytest.approx([0.01, 0.01])
    assert normalizer(torch.full((1, 2), 3.0), torch.zeros(1, 2))[0, :2].tolist() == [0, 0]
