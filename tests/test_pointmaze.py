"""PointMaze: motion and walls against slow references, the batch of mazes against the single one."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.pointmaze import DEMONSTRATED_PAIRS, GOALS, MARGIN, STARTS, WALLS, compute_reward, move, sweep

BATCH = 64
MAZE = """########################
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
########################"""  # a character for each cell


def make():
    return gym.make("envs:paper/PointMaze")


def make_batch(n=BATCH, mode="vector_entry_point"):
    return gym.make_vec("envs:paper/PointMaze", num_envs=n, vectorization_mode=mode)


def in_wall(points):
    """The obvious check: (..., 2) -> bool (...), strictly inside any wall."""
    x, y = np.asarray(points)[..., 0, None], np.asarray(points)[..., 1, None]
    return ((WALLS[:, 0] < x) & (x < WALLS[:, 2]) & (WALLS[:, 1] < y) & (y < WALLS[:, 3])).any(-1)


def free_points(rng, count):
    points = rng.uniform(1, [23, 17], (20 * count, 2))
    return points[~in_wall(points)][:count]


def test_walls_are_those_of_the_maze():
    cells = in_wall(np.stack(np.meshgrid(np.arange(24) + 0.5, np.arange(18) + 0.5), -1))
    assert ["".join(".#"[cell] for cell in row) for row in cells.astype(int)] == MAZE.split("\n")
    for x0, x1, y0, y1 in [*STARTS, *GOALS]:
        assert not in_wall(np.stack(np.meshgrid(np.linspace(x0, x1, 50), np.linspace(y0, y1, 50)), -1)).any()


def met(a, b, grown):
    """Whether segments from a to b, each (B, 2), meet walls grown by so much, bool (B,): separating axes."""
    center, half = (WALLS[:, :2] + WALLS[:, 2:]) / 2, (WALLS[:, 2:] - WALLS[:, :2]) / 2 + grown
    offset, reach = (a + b)[:, None] / 2 - center, np.abs(b - a)[:, None] / 2
    normal = np.stack([a[:, 1] - b[:, 1], b[:, 0] - a[:, 0]], -1)
    normal = (normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-300))[:, None]
    beside = np.abs((offset * normal).sum(-1)) > (half * np.abs(normal)).sum(-1)
    return ((np.abs(offset) <= half + reach).all(-1) & ~beside).any(-1)


def test_points_move_until_a_wall_stops_them_and_slide():
    """Against the exact intersection of segments and boxes, 24,000 steps of all sizes down to 1e-15."""
    rng, points = np.random.default_rng(3), free_points(np.random.default_rng(3), 800)
    stopped = slides = 0
    for _ in range(30):
        d, kind = rng.uniform(-2, 2, points.shape), rng.integers(5, size=len(points))
        d[kind == 1] *= 10.0 ** rng.uniform(-9, 0, ((kind == 1).sum(), 1))
        d[kind == 2] *= 10.0 ** rng.uniform(-15, 0, ((kind == 2).sum(), 2))
        d[kind == 3] = rng.choice([-2, 0, 2], ((kind == 3).sum(), 2))
        (contact, axis), ends = sweep(points, d), move(points, d)
        assert not (met(points, contact, 0) | met(contact, ends, 0)).any()
        assert not in_wall(ends).any() and (ends > 1).all() and (ends < [23, 17]).all()
        moved = axis < 0
        assert np.array_equal(ends[moved], (points + d)[moved])
        assert moved[~met(points, points + d, 2 * MARGIN + 1e-6)].all(), "stopped by nothing"
        ahead = contact + 1e-4 * d / np.maximum(np.linalg.norm(d, axis=1, keepdims=True), 1e-300)
        assert met(contact, ahead, MARGIN + 2e-6)[~moved].all(), "stopped too early"
        rest = np.where(~moved[:, None] & (axis[:, None] != np.arange(2)), d - (contact - points), 0)
        free = ~met(contact, contact + rest, MARGIN / 2)
        assert (np.abs(ends - contact - rest)[free] < 4 * MARGIN).all(), "stuck to a wall it runs along"
        stopped, slides = stopped + (~moved).sum(), slides + (free & (np.abs(rest) > 0.1).any(1)).sum()
        points = ends
    assert stopped > 5_000 and slides > 1_000


@pytest.mark.parametrize(
    "point, d, end",
    [
        ((22.5, 2), (2, 0), (23, 2)),  # the outer wall
        ((5, 2), (0, 1.5), (5, 3)),  # the wall [4, 3, 6, 4] from above
        ((3, 3.5), (2, 0.9), (4, 4.4)),  # slanted: slides beyond the wall's end
        ((3, 3.5), (2, 2), (5, 5)),  # past that wall, then along [4, 5, 8, 6]
        ((2, 2), (-2, -2), (1, 1)),  # into a corner: a second wall stops the slide
        ((3.5, 3), (2, 0), (4, 3)),  # runs exactly along an edge: too near
        ((3.5, 2.999), (2, 0), (5.5, 2.999)),  # just above it: free
        ((2, 2), (50, 0), (9, 2)),  # no step jumps over a wall
        ((5, 3 - 1e-6), (0.3, -0.3), (5.3, 2.7)),  # a point at a wall may leave it
    ],
)
def test_stops_and_slides(point, d, end):
    np.testing.assert_allclose(move(np.array([point], float), np.array([d], float)), [end], atol=1e-5)


def test_the_environment():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # the checker recommends actions in [-1, 1] to everybody, App. C.3 says [-2, 2]
        warnings.filterwarnings("ignore", message=".*recommend using a symmetric and normalized space")
        check_env(gym.make("envs:paper/PointMaze", render_mode="rgb_array").unwrapped)
    assert compute_reward([3.0, 5.0], [3.0, 3.0]) == -1  # at distance 2 exactly it is not achieved
    assert compute_reward([[[3.0, 4.999]]], [[[3.0, 3.0]]]).tolist() == [[0]]
    env = make()
    env.reset(seed=0)
    assert [env.step(np.zeros(2, np.float32))[2:4] for _ in range(100)][-2:] == [
        (False, False),
        (False, True),
    ]
    env.unwrapped.position = np.array([16.0, 9.0])
    assert np.allclose(env.unwrapped.step([100.0, 0.5])[0]["observation"], [18.0, 9.5])  # clipped to the box
    for action in ([np.nan, 0], [0], [[0, 0]]):
        with pytest.raises(ValueError, match="finite actions of shape"):
            env.unwrapped.step(action)
    for options in ({"begin": 0}, {"start": 3}, {"goal": -1}, {"goal": 0.5}):
        with pytest.raises(ValueError, match="options"):
            env.reset(options=options)


def test_seeds_take_the_pairs_in_turn():
    env, pairs = make(), []
    for seed in range(1, 10):
        obs, info = env.reset(seed=seed)
        inside = [
            [((box[[0, 2]] <= obs[key]) & (obs[key] <= box[[1, 3]])).all() for box in boxes].index(True)
            for key, boxes in (("observation", STARTS), ("desired_goal", GOALS))
        ]
        pairs.append(tuple(inside))
        assert info["group"] == ("seen" if pairs[-1] in DEMONSTRATED_PAIRS else "unseen")
        fixed = env.reset(seed=seed, options=dict(zip(("start", "goal"), inside, strict=True)))[0]
        assert all((obs[key] == fixed[key]).all() for key in obs), "options do not move the points of a seed"
    assert pairs == [(start, goal) for goal in range(3) for start in range(3)]
    groups = make_batch(3000).reset(seed=[None] * 3000)[1]["group"]
    assert (groups == "seen").mean() == pytest.approx(1 / 3, abs=0.03)  # without a seed the pairs are random


def test_the_batch_equals_single_environments():
    """Also with options, beyond the time limit, and in Gymnasium's own vectorisation."""
    own, sync = make_batch(5), make_batch(5, "sync")
    assert (own.observation_space, own.action_space) == (sync.observation_space, sync.action_space)
    assert own.metadata["autoreset_mode"] == sync.metadata["autoreset_mode"]
    calls = [lambda e: e.reset(seed=3), lambda e: e.reset(), lambda e: e.reset(seed=[4, None, 5, None, 6])]
    for actions in np.random.default_rng(0).uniform(-3, 3, (205, 5, 2)).astype(np.float32):
        calls.append(lambda e, actions=actions: e.step(actions))
    for call in calls:
        (a, *rest_a), (b, *rest_b) = call(own), call(sync)
        assert all((a[key] == b[key]).all() for key in b)
        for x, y in zip(rest_a[:-1], rest_b[:-1], strict=True):
            np.testing.assert_array_equal(x, y)
        assert rest_a[-1].keys() == rest_b[-1].keys()
        assert all((rest_a[-1][key] == rest_b[-1][key]).all() for key in rest_b[-1])
    options = {"start": [0, 1, 2, 0, 1], "goal": 2}
    obs = own.reset(seed=8, options=options)[0]
    for k, start in enumerate(options["start"]):
        single = make().reset(seed=8 + k, options={"start": start, "goal": 2})[0]
        assert all((obs[key][k] == single[key]).all() for key in single)


def test_pictures(tmp_path, capsys):
    batch = make_batch(9)
    batch.reset(seed=1)
    batch.step(np.ones((9, 2)))
    batch.position[2] = batch.goal[2]  # seed 3: a pair of the data
    batch.draw_paths(tmp_path / "paths.png")
    shown, never, _ = capsys.readouterr().out.splitlines()
    assert "the data shows: 1 of 3 " in shown and "never shows: 0 of 6 " in never
    assert (tmp_path / "paths.png").read_bytes().startswith(b"\x89PNG")
