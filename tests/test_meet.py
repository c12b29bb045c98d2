"""--swap-source meet: goals come only from trajectories that meet, and only from the meeting on."""

from dataclasses import replace

import numpy as np
import pytest
from tools import load_method

dqapg = load_method("dqapg")
ARGS = dqapg.Args(swap=True, swap_source="meet", swap_ratio=0.5, batch_size=4000)


def reward(achieved, goal, info):
    return (np.linalg.norm(achieved - goal, axis=-1) < 0.5) - 1.0


def buffer(lines, lengths=None, **changes):
    """Trajectories of a speed of 1, with their number in the goals."""
    obs = np.float32(lines)
    names = np.broadcast_to(np.arange(len(obs))[:, None, None], (*obs.shape[:2], 1))
    achieved = np.concatenate([obs, 10 * names], -1, dtype=np.float32)
    data = {"observations": obs, "achieved_goals": achieved, "desired_goals": achieved[:, -1] + [0, 0, 0.1]}
    data |= {"actions": np.zeros((len(obs), 40, 1)), "lengths": np.array(lengths or [40] * len(obs))}
    return dqapg.ReplayBuffer(data, reward, replace(ARGS, **changes))


LINE = np.arange(-20, 21.0)
# trajectories 0 and 1 cross at step 20, 2 is far away
CROSS = [np.stack(xy, -1) for xy in ((LINE, 0 * LINE), (0 * LINE, LINE), (LINE, 0 * LINE + 200))]


@pytest.mark.parametrize("lengths", [None, [40, 30, 40]])
def test_goals_come_from_the_other_trajectory_after_the_meeting(lengths):
    batch = dqapg.Batch(*(x.numpy() for x in buffer(CROSS, lengths).sample()))
    met, i = batch.swapped == 1, np.array([1, 0, 2])[np.sign(batch.initial_obs[:, 1]).astype(int) + 1]
    j = np.round(batch.goal[:, 2] / 10)
    assert not met[:2000].any() and met[2000:].mean() > 0.05
    assert (j[~met] == i[~met]).all() and (j[met] == 1 - i[met]).all()
    along = batch.goal[met, :2].sum(1)  # the meeting is at 0
    assert along.min() >= -2 and along.max() == 20 and along[j[met] == 1].max() == (10 if lengths else 20)
    assert batch.obs[met].sum(1).max() < 2  # transitions after the meeting keep their goals
    assert (batch.steps_to_goal[met] == np.inf).all()
    reached = reward(np.column_stack([batch.next_obs, 10 * i]), batch.goal, {})
    assert np.array_equal(batch.reward, reached)


def test_same_seed_same_batches():
    first, second, other = buffer(CROSS).sample(), buffer(CROSS).sample(), buffer(CROSS, seed=2).sample()
    assert all(map(np.array_equal, first, second)) and not np.array_equal(first.goal, other.goal)


@pytest.mark.parametrize("lines", [CROSS[:1], CROSS[1:], CROSS[::2]])
def test_trajectories_that_do_not_meet_are_refused(lines, capsys):
    with pytest.raises(SystemExit, match="2"):
        buffer(lines, [5] + [40] * (len(lines) - 1))
    assert capsys.readouterr().err.count("\n") == 1
