"""PointMaze: Gymnasium's interface, motion and walls, and the batch of mazes against the single one."""

import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import envs  # noqa: F401  registers PointMaze-v0
from envs import pointmaze
from envs.pointmaze import DEMONSTRATED_PAIRS, GOALS, MARGIN, STARTS, WALLS, compute_reward, move, sweep

BATCH = 64
MAZE = """
########################
#........#.............#
#........#.............#
#...##...##...###..##..#
#..................#...#
#...####......#######..#
#......#...#.##.....#..#
####...#..##..#...######
#......#...#...........#
#......###.#...........#
####...#..##..#...######
#......#...#.##.....#..#
#...####...#..#######..#
#..................#...#
#...##...#....######...#
#........#.............#
#........#.............#
########################
""".split()  # a character for each cell


def in_wall(points):
    """The obvious check: (..., 2) -> bool (...), strictly inside any wall."""
    x, y = np.asarray(points)[..., 0, None], np.asarray(points)[..., 1, None]
    return ((WALLS[:, 0] < x) & (x < WALLS[:, 2]) & (WALLS[:, 1] < y) & (y < WALLS[:, 3])).any(-1)


def free_points(rng, count):
    points = rng.uniform(1, [23, 17], (20 * count, 2))
    return points[~in_wall(points)][:count]


def make_batch(n=BATCH):
    return gym.make_vec("PointMaze-v0", num_envs=n, vectorization_mode="vector_entry_point")


# --- interface
def test_env_checker_has_nothing_to_say():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # the one exception: the checker recommends actions in [-1, 1] to everybody, App. C.3 says [-2, 2]
        warnings.filterwarnings("ignore", message=".*recommend using a symmetric and normalized space")
        check_env(gym.make("PointMaze-v0", render_mode="rgb_array").unwrapped)


def test_time_limit_and_no_termination():
    env = gym.make("PointMaze-v0")
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(100)]
    assert ends == [(False, False)] * 99 + [(False, True)]


def test_reward_is_eq_2_for_any_leading_dimensions():
    rng = np.random.default_rng(0)
    achieved, desired = rng.uniform(0, 6, (2, 4, 5, 3, 2))
    expected = [[[0.0 if (a[0] - g[0]) ** 2 + (a[1] - g[1]) ** 2 < 4 else -1.0 for a, g in zip(*row)]
                 for row in zip(*block)] for block in zip(achieved, desired)]
    assert {0.0, -1.0} == set(np.ravel(expected))
    np.testing.assert_array_equal(compute_reward(achieved, desired), expected)
    assert compute_reward([3.0, 5.0], [3.0, 3.0]) == -1  # at distance 2 exactly it is not achieved
    assert compute_reward([3.0, 4.999], [3.0, 3.0]) == 0


def test_reward_and_success_in_an_episode():
    env = gym.make("PointMaze-v0").unwrapped
    env.reset(seed=0, options={"start": 1, "goal": 1})
    env.position = env.goal + [1.5, 0]
    for action, reward in (((0, 0), 0.0), ((1, 0), -1.0), ((-1, 0), 0.0)):
        obs, got, _, _, info = env.step(np.array(action, np.float32))
        assert got == reward == env.compute_reward(obs["achieved_goal"], obs["desired_goal"], info)
        assert info == {"is_success": reward == 0, "start": 1, "goal": 1}


@pytest.mark.parametrize("start", range(3))
@pytest.mark.parametrize("goal", range(3))
def test_options_fix_the_clusters(start, goal):
    env = gym.make("PointMaze-v0")
    for seed in range(20):
        obs, info = env.reset(seed=seed, options={"start": start, "goal": goal})
        assert (info["start"], info["goal"]) == (start, goal)
        for point, box in ((obs["observation"], STARTS[start]), (obs["desired_goal"], GOALS[goal])):
            assert (box[[0, 2]] <= point).all() and (point <= box[[1, 3]]).all()


def test_fixing_the_clusters_does_not_move_the_points_of_a_seed():
    env = gym.make("PointMaze-v0")
    for seed in range(5):
        obs, info = env.reset(seed=seed)
        same, _ = env.reset(seed=seed, options={"start": info["start"], "goal": info["goal"]})
        assert all((obs[key] == same[key]).all() for key in obs)


def test_all_nine_pairs_are_drawn_equally_often():
    infos = make_batch(3000).reset(seed=0)[1]
    counts = np.bincount(infos["start"] * 3 + infos["goal"], minlength=9)
    assert counts.min() > 260 and counts.max() < 400


def test_clusters_are_free_and_the_demonstrated_pairs_are_those_of_fig_6():
    for x0, x1, y0, y1 in [*STARTS, *GOALS]:
        assert not in_wall(np.stack(np.meshgrid(np.linspace(x0, x1, 50), np.linspace(y0, y1, 50)), -1)).any()
    assert set(DEMONSTRATED_PAIRS) == {(0, 2), (1, 1), (2, 0)}


@pytest.mark.parametrize("options", [{"begin": 0}, {"start": 3}, {"goal": -1}, {"goal": 1.0},
                                     {"start": [0, 1]}, {"start": True}, {"start": "s_a"}, {"goal": None}])
def test_bad_options(options):
    name = next(iter(options))
    for env in (gym.make("PointMaze-v0"), make_batch(3)):
        with pytest.raises(ValueError, match=name):
            env.reset(seed=0, options=options)


@pytest.mark.parametrize("seed", [0, None])
def test_options_that_are_refused_leave_a_batch_as_it_was(seed):
    batch, other = make_batch(3), make_batch(3)
    with pytest.raises(ValueError):
        batch.reset(seed=seed, options={"start": 3})
    with pytest.raises(gym.error.ResetNeeded):
        batch.step(np.zeros((3, 2)))
    for env in (batch, other):
        env.reset(seed=7)
    with pytest.raises(ValueError):
        batch.reset(seed=seed, options={"start": [0, 1, 3]})
    np.testing.assert_array_equal(batch.reset()[0]["observation"], other.reset()[0]["observation"])


@pytest.mark.parametrize("action", [[np.nan, 0], [0, np.inf], [0], [0, 0, 0], [[0, 0]], "ab", [[0], [0, 1]],
                                    None])
def test_bad_actions(action):
    env = gym.make("PointMaze-v0").unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"finite actions of shape \(2,\)"):
        env.step(action)
    assert len(env.path) == 1


def test_bad_batches():
    batch = make_batch(3)
    with pytest.raises(gym.error.ResetNeeded):
        batch.step(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="2 seeds for 3"):
        batch.reset(seed=[0, 1])
    batch.reset(seed=0)
    for actions in (np.zeros(2), np.zeros((2, 2)), np.full((3, 2), np.nan)):
        with pytest.raises(ValueError, match=r"finite actions of shape \(3, 2\)"):
            batch.step(actions)
    with pytest.raises(ValueError, match="num_envs"):
        make_batch(0)
    with pytest.raises(ValueError, match="render_mode"):
        pointmaze.PointMazeEnv(render_mode="human")


# --- motion
def test_walls_are_those_of_the_maze():
    cells = in_wall(np.stack(np.meshgrid(np.arange(24) + 0.5, np.arange(18) + 0.5), -1))
    assert ["".join(".#"[cell] for cell in row) for row in cells.astype(int)] == MAZE
    assert (WALLS == WALLS.round()).all(), "walls end at the edges of cells"


def met(a, b, grown):
    """Whether segments from a to b, each (B, 2), meet walls grown by so much, bool (B,): separating axes."""
    center, half = (WALLS[:, :2] + WALLS[:, 2:]) / 2, (WALLS[:, 2:] - WALLS[:, :2]) / 2 + grown
    offset, reach = (a + b)[:, None] / 2 - center, np.abs(b - a)[:, None] / 2
    normal = np.stack([a[:, 1] - b[:, 1], b[:, 0] - a[:, 0]], -1)
    normal = (normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-300))[:, None]
    return ((np.abs(offset) <= half + reach).all(-1)
            & (np.abs((offset * normal).sum(-1)) <= (half * np.abs(normal)).sum(-1))).any(-1)


def test_points_move_exactly_until_a_wall_stops_them_and_slide_exactly():
    """Against the exact intersection of segments and boxes, 24,000 steps of all sizes down to 1e-15."""
    rng, points = np.random.default_rng(3), free_points(np.random.default_rng(3), 800)
    stopped = slides = 0
    for step in range(30):
        d, kind = rng.uniform(-2, 2, points.shape), rng.integers(5, size=len(points))
        d[kind == 1] *= 10.0 ** rng.uniform(-9, 0, ((kind == 1).sum(), 1))
        d[kind == 2] *= 10.0 ** rng.uniform(-15, 0, ((kind == 2).sum(), 2))
        d[kind == 3] = rng.choice([-2, 0, 2], ((kind == 3).sum(), 2))
        (contact, axis), ends = sweep(points, d), move(points, d)
        assert not (met(points, contact, 0) | met(contact, ends, 0)).any()
        moved = axis < 0
        assert np.array_equal(ends[moved], (points + d)[moved])
        assert not met(points, points + d, 0)[moved].any()
        assert moved[~met(points, points + d, 2 * MARGIN + 1e-6)].all(), "stopped by nothing"
        ahead = contact + 1e-4 * d / np.maximum(np.linalg.norm(d, axis=1, keepdims=True), 1e-300)
        assert met(contact, ahead, MARGIN + 2e-6)[~moved].all(), "stopped too early"
        rest = np.where(~moved[:, None] & (axis[:, None] != np.arange(2)), d - (contact - points), 0)
        free = ~met(contact, contact + rest, MARGIN / 2)
        assert (np.abs(ends - contact - rest)[free] < 4 * MARGIN).all(), "stuck to a wall that it runs along"
        stopped, slides = stopped + (~moved).sum(), slides + (free & (np.abs(rest) > 0.1).any(1)).sum()
        points = ends
    assert stopped > 5_000 and slides > 1_000


def test_no_point_enters_or_crosses_a_wall():
    """115,200 steps of all kinds; both legs of every fourth step are checked at 200 points each."""
    rng = np.random.default_rng(0)
    points = free_points(rng, 640)
    share = np.linspace(0, 1, 200)[:, None, None]
    blocked = slid = 0
    for step in range(180):
        d, kind = rng.uniform(-2, 2, points.shape), rng.integers(5, size=len(points))
        d[kind == 1] *= 50  # far longer than any wall is thick
        d[kind == 2] = np.sign(d[kind == 2])  # diagonals
        d[kind == 3, step % 2] = 0  # along one axis
        d[kind == 4, 0] *= 1e-9  # grazing
        (contact, axis), ends = sweep(points, d), move(points, d)
        assert not in_wall(ends).any() and (ends > 1).all() and (ends < [23, 17]).all()
        if step % 4 == 0:
            assert not in_wall(points + share * (contact - points)).any()
            assert not in_wall(contact + share * (ends - contact)).any()
        blocked += (axis >= 0).sum()
        slid += (np.abs(ends - contact).max(1) > 0.1).sum()
        points = ends
    assert blocked > 20_000 and slid > 5_000  # the walls were tried


def test_motion_against_a_slow_reference():
    """In 1,000 parts: straight until a part ends in a wall, then along the free axis until the next."""
    rng = np.random.default_rng(1)
    points, d = free_points(rng, 120), rng.uniform(-2, 2, (120, 2))
    ends, wrong, blocked = move(points, d), 0, 0
    for begin, way, end in zip(points, d / 1000, ends):
        at = begin.copy()
        for k in range(1000):
            if not in_wall(at + way):
                at = at + way
                continue
            blocked += way.all()
            if not way.all():  # it slid already, or the motion is along one axis
                break
            free = [axis for axis in (0, 1) if not in_wall(at + way * (np.arange(2) == axis))]
            if len(free) != 1:
                break
            way = way * (np.arange(2) == free[0])
            at = at + way
        wrong += np.abs(at - end).max() > 8e-3
    assert blocked > 25 and wrong <= 1  # a corner may be cut between two parts


@pytest.mark.parametrize("point, d, end", [
    ((21, 2), (0, -2), (21, 1)),  # the outer walls
    ((22.5, 2), (2, 0), (23, 2)),
    ((5, 2), (0, 1.5), (5, 3)),  # the wall [4, 3, 6, 4] from above, left and right
    ((3, 3.5), (2, 0), (4, 3.5)),
    ((7, 3.5), (-2, 0), (6, 3.5)),
    ((3, 3.5), (2, 0.4), (4, 3.9)),  # slanted: the part along the wall goes on
    ((3, 3.5), (2, 0.9), (4, 4.4)),  # also beyond the wall's end, where the stopped part is not made up for
    ((3, 3.5), (2, 2), (5, 5)),  # past that wall, then along [4, 5, 8, 6]
    ((2, 2), (-2, -2), (1, 1)),  # into a corner: a second wall stops the slide
    ((3.5, 3), (2, 0), (4, 3)),  # runs exactly along an edge: too near
    ((3.5, 2.999), (2, 0), (5.5, 2.999)),  # just above it: free
    ((2, 2), (0.5, 0.25), (2.5, 2.25)),
])
def test_stops_and_slides_at_walls(point, d, end):
    np.testing.assert_allclose(move(np.array([point], float), np.array([d], float)), [end], atol=1e-5)


def test_a_point_at_a_wall_stays_leaves_and_moves_along_it():
    wall = move(np.array([[5.0, 2.0]]), np.array([[0.0, 2.0]]))
    assert 2.9999 < wall[0, 1] < 3
    for d, moved in (((0, 1), (0, 0)), ((0.1, 2), (0.1, 0)), ((0, -0.5), (0, -0.5)), ((0.5, 0), (0.5, 0)),
                     ((0.3, -0.3), (0.3, -0.3))):
        np.testing.assert_allclose(move(wall, np.array([d], float)) - wall, [moved], atol=1e-5)


def test_diagonal_gaps_between_touching_walls_are_closed():
    """Where two wall cells only share a corner, no step goes through it from one free cell to the other."""
    wall = in_wall(np.stack(np.meshgrid(np.arange(24) + 0.5, np.arange(18) + 0.5, indexing="ij"), -1))
    gaps = 0
    for x in range(1, 24):
        for y in range(1, 18):
            block = wall[x - 1:x + 1, y - 1:y + 1]
            if block[0, 0] != block[1, 1] or block[0, 1] != block[1, 0] or block[0, 0] == block[0, 1]:
                continue
            gaps += 1
            side = np.array([1, -1] if block[0, 0] else [1, 1]) * 0.3  # towards one of the two free cells
            for sign in (1, -1):
                for jitter in (0, 1e-9, -1e-9, 1e-5):
                    begin = np.array([x, y]) + sign * side + [jitter, 0]
                    end = move(begin[None], -2 * sign * side[None])[0]
                    assert ((end - [x, y]) * sign * side > 0).all(), (x, y)
    assert gaps == 1  # this maze has one such place


def test_actions_are_clipped_to_the_box():
    env = gym.make("PointMaze-v0").unwrapped
    env.reset(seed=0)
    env.position = np.array([16.0, 9.0])
    assert np.allclose(env.step([100.0, 0.5])[0]["observation"], [18.0, 9.5])


# --- the batch
def test_batch_equals_single_environments_step_by_step():
    batch, singles = make_batch(), [gym.make("PointMaze-v0") for _ in range(BATCH)]
    seeds = [7 * i + 1 for i in range(BATCH)]
    options = {"start": np.arange(BATCH) % 3, "goal": np.arange(BATCH) // 3 % 3}
    obs, infos = batch.reset(seed=seeds, options=options)
    rng = np.random.default_rng(0)
    single = [env.reset(seed=s, options={"start": int(options["start"][i]), "goal": int(options["goal"][i])})
              for i, (env, s) in enumerate(zip(singles, seeds))]
    succeeded = 0
    for step in range(103):  # beyond the time limit: the step after it resets and ignores the action
        for i, row in enumerate(single):
            assert all((obs[key][i] == value).all() for key, value in row[0].items())
            assert all(infos[key][i] == value and infos[f"_{key}"][i] for key, value in row[-1].items())
        actions = rng.uniform(-3, 3, (BATCH, 2)).astype(np.float32)
        actions[::2] += (obs["desired_goal"] - obs["observation"])[::2]  # half walk, so that some succeed
        obs, rewards, terminated, truncated, infos = batch.step(actions)
        assert not terminated.any() and rewards.dtype == np.float64
        if step == 100:
            single = [env.reset() for env in singles]
            assert (rewards == 0).all() and not truncated.any()
        else:
            single = [env.step(a) for env, a in zip(singles, actions)]
            np.testing.assert_array_equal(rewards, [row[1] for row in single])
            assert truncated.tolist() == [row[3] for row in single] == [step == 99] * BATCH
        succeeded += infos["is_success"].sum()
    assert succeeded > 0


def test_batch_equals_gymnasiums_own_vectorisation():
    own, sync = make_batch(5), gym.make_vec("PointMaze-v0", num_envs=5, vectorization_mode="sync")
    mode = gym.vector.AutoresetMode.NEXT_STEP
    assert own.metadata["autoreset_mode"] == sync.metadata["autoreset_mode"] == mode
    assert (own.observation_space, own.action_space) == (sync.observation_space, sync.action_space)
    sequence = [lambda e: e.reset(seed=3), lambda e: e.reset(), lambda e: e.reset(seed=[4, None, 5, None, 6])]
    for actions in np.random.default_rng(0).uniform(-2, 2, (205, 5, 2)).astype(np.float32):
        sequence.append(lambda e, actions=actions: e.step(actions))
    for call in sequence:
        (a, *rest_a), (b, *rest_b) = call(own), call(sync)
        assert all((a[key] == b[key]).all() for key in b)
        for x, y in zip(rest_a[:-1], rest_b[:-1]):
            np.testing.assert_array_equal(x, y)
        assert rest_a[-1].keys() == rest_b[-1].keys()
        assert all((rest_a[-1][key] == rest_b[-1][key]).all() for key in rest_b[-1])


def test_observations_and_infos_are_copies():
    batch = make_batch(2)
    obs, infos = batch.reset(seed=0)
    kept = {key: value.copy() for key, value in obs.items()}
    for array in (*obs.values(), *infos.values()):
        array[:] = 0
    again = batch.step(np.zeros((2, 2)))[0]
    assert all((again[key] == kept[key]).all() for key in kept)


# --- pictures
def test_picture_shows_walls_and_path():
    env = gym.make("PointMaze-v0", render_mode="rgb_array")
    env.reset(seed=0, options={"start": 1, "goal": 1})
    before = env.render()
    for sign in (-1, 1):  # there and back again, so that only the path differs
        for _ in range(2):
            env.step(np.array([1.5 * sign, 0], np.float32))
    after = env.render()
    assert before.dtype == np.uint8 and before.shape == after.shape == (*before.shape[:2], 3)
    changed = np.argwhere((before != after).any(-1))
    assert len(changed) > 20 and (changed[:, 1] > before.shape[1] / 2).all()  # starts are on the right
    assert 0.1 < (before.max(-1) < 120).mean() < 0.6  # walls


def test_draw_paths_writes_a_picture(tmp_path):
    rows = [{"path": np.array([STARTS[s][[0, 2]], GOALS[g][[0, 2]]]), "start": s, "goal": g,
             "seen": s + g == 2, "success": s == g} for s in range(3) for g in range(3)]
    pointmaze.draw_paths(rows, tmp_path / "paths.png")
    assert (tmp_path / "paths.png").read_bytes().startswith(b"\x89PNG")
