"""PointMaze: the 24 x 18 continuous maze of Yang et al. (2023), arXiv 2302.08865, App. C.3.

A point moves by the action, a displacement in [-2, 2]^2, and slides along walls. The paper prints a picture
of the maze but no coordinates. The walls follow the maze that its first author published later (24 x 16, in
the OGBench fork github.com/uenian33/ogbench), with one open row more at the top and at the bottom.
Lengths are in cells of the maze; y grows downwards, as in that file.
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

SIZE = np.array([24.0, 18.0])
MAX_STEP = 2.0  # App. C.3: "the action is in the range (2, 2)", read as [-2, 2]^2
THRESHOLD = 2.0  # App. C.3: achieved if the Euclidean distance is smaller than 2
MARGIN = 1e-6  # a stopped point stays this far from the wall that stopped it

# fmt: off
WALLS = np.array([  # x0, y0, x1, y1
    [0, 0, 24, 1], [0, 1, 1, 18], [9, 1, 10, 4], [23, 1, 24, 18], [4, 3, 6, 4], [10, 3, 11, 4],
    [14, 3, 17, 4], [19, 3, 21, 4], [19, 4, 20, 6], [4, 5, 8, 6], [14, 5, 19, 6], [20, 5, 21, 8],
    [7, 6, 8, 13], [11, 6, 12, 13], [13, 6, 15, 7], [1, 7, 4, 8], [10, 7, 11, 8], [14, 7, 15, 8],
    [18, 7, 20, 8], [21, 7, 23, 8], [8, 9, 10, 10], [1, 10, 4, 11], [10, 10, 11, 11], [14, 10, 15, 13],
    [18, 10, 23, 11], [13, 11, 14, 12], [20, 11, 21, 13], [4, 12, 7, 13], [15, 12, 20, 13], [19, 13, 20, 15],
    [4, 14, 6, 15], [9, 14, 10, 18], [14, 14, 19, 15], [1, 17, 9, 18], [10, 17, 23, 18]], dtype=float)
# x0, x1, y0, y1 of the clusters s_a, s_b, s_c and g_1, g_2, g_3
STARTS = np.array([[21.2, 22.7, 13.0, 16.4], [20.4, 21.9, 8.1, 9.8], [21.2, 22.7, 1.6, 5.8]])
GOALS = np.array([[1.2, 2.6, 11.7, 16.3], [1.2, 2.6, 8.1, 9.8], [1.2, 2.6, 1.4, 6.2]])
# fmt: on
DEMONSTRATED_PAIRS = ((0, 2), (1, 1), (2, 0))  # (start, goal) in the data: s_a to g_3, s_b to g_2, s_c to g_1


def compute_reward(achieved_goal, desired_goal, info=None):
    """Eq. (2) with the Euclidean distance: 0 where it is below 2, else -1. (..., 2) -> (...)."""
    distance = np.linalg.norm(np.asarray(achieved_goal) - np.asarray(desired_goal), axis=-1)
    return np.where(distance < THRESHOLD, 0.0, -1.0)  # Eq. (2)


def sweep(position, displacement):
    """Moves points (B, 2) in straight lines until they have gone all the way or touch a wall.

    Returns the new positions (B, 2) and the axis (B,) that is normal to the wall that stopped the point, -1
    if none did. The whole segment is tested (slab method), so that no step can jump over a wall.
    """
    low, high = WALLS[None, :, :2] - MARGIN, WALLS[None, :, 2:] + MARGIN
    at, by = position[:, None, :], displacement[:, None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (low - at) / by, (high - at) / by
    enter, leave = np.minimum(first, second), np.maximum(first, second)
    # an axis without motion: between the wall's sides it is always, beside them never
    beside = (by == 0) & ((at <= low) | (at >= high))
    enter = np.where(by == 0, np.where(beside, np.inf, -np.inf), enter)
    leave = np.where(by == 0, np.inf, leave)
    time, axis, gone = enter.max(-1), enter.argmax(-1), leave.min(-1)
    time = np.where(
        (time < gone) & (gone > 1e-12), time, np.inf
    )  # a point at rest against a wall may leave it
    wall = time.argmin(-1)
    rows = np.arange(len(position))
    time, axis = time[rows, wall], axis[rows, wall]
    stopped = time < 1
    # stop a hair before the contact, so that rounding cannot put the point into the wall
    fraction = np.where(stopped, time - MARGIN / np.maximum(np.abs(displacement).max(-1), 1e-12), 1.0)
    return position + fraction.clip(0.0, 1.0)[:, None] * displacement, np.where(stopped, axis, -1)


def move(position, displacement):
    """Moves points (B, 2); what of the displacement goes into a wall is lost, the rest slides along it.

    The slide ends at a second wall. (If a wall stopped points altogether, a deterministic policy that touches
    one would stay there for good: 93 % of the failures of a trained DQAPG were such points.)
    """
    new, axis = sweep(position, displacement)
    slides = (axis[:, None] >= 0) & (axis[:, None] != np.arange(2))
    return sweep(new, np.where(slides, displacement - (new - position), 0.0))[0]


def check_action(action, shape):
    """The action as float64, clipped to [-2, 2]. Another shape or NaN would go unnoticed elsewhere."""
    action = np.asarray(action, dtype=np.float64)
    if action.shape != shape or not np.isfinite(action).all():
        raise ValueError(f"PointMaze needs finite actions of shape {shape}, got {action.shape}: {action}")
    return action.clip(-MAX_STEP, MAX_STEP)


def draw_start_and_goal(rng, seed, options):
    """Start cluster, goal cluster, start point (2,), goal point (2,).

    Seeds take the nine pairs of clusters in turn, so that an evaluation on consecutive seeds shows all.
    Without a seed the clusters are random; options may fix "start" and "goal", 0, 1 or 2.
    """
    pair = {"start": rng.integers(3), "goal": rng.integers(3)}  # drawn even if fixed: a seed keeps its points
    if seed is not None:
        pair = {"start": (seed - 1) % 3, "goal": (seed - 1) // 3 % 3}
    pair |= options or {}
    if pair.keys() - {"start", "goal"} or set(pair.values()) - {0, 1, 2}:
        raise ValueError(f'PointMaze: the options are "start" and "goal", each 0, 1 or 2; got {options}')
    boxes = STARTS[pair["start"]], GOALS[pair["goal"]]
    return pair["start"], pair["goal"], *(rng.uniform(box[[0, 2]], box[[1, 3]]) for box in boxes)


def observe(position, goal):
    return {"observation": position.copy(), "achieved_goal": position.copy(), "desired_goal": goal.copy()}


def group(start, goal):
    """ "seen" if the data shows the way from this start cluster to this goal cluster, else "unseen"."""
    return "seen" if (start, goal) in DEMONSTRATED_PAIRS else "unseen"


KEYS = ("observation", "achieved_goal", "desired_goal")
OBSERVATION_SPACE = spaces.Dict({key: spaces.Box(np.zeros(2), SIZE, dtype=np.float64) for key in KEYS})
ACTION_SPACE = spaces.Box(-MAX_STEP, MAX_STEP, (2,), np.float32)


class PointMazeEnv(gym.Env):
    """One maze with Gymnasium's goal interface.

    Observation and achieved goal are the position. Reward: 0 within distance 2 of the goal, else -1.
    An episode never terminates. info holds is_success and the group, "seen" or "unseen".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space, self.action_space = OBSERVATION_SPACE, ACTION_SPACE

    def compute_reward(self, achieved_goal, desired_goal, info):
        return compute_reward(achieved_goal, desired_goal, info)

    def _info(self):
        return {"is_success": bool(compute_reward(self.position, self.goal) == 0), "group": group(*self.pair)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        *self.pair, self.position, self.goal = draw_start_and_goal(self.np_random, seed, options)
        self.path = [self.position]
        return observe(self.position, self.goal), self._info()

    def step(self, action):
        self.position = move(self.position[None], check_action(action, (2,))[None])[0]
        self.path.append(self.position)
        reward = float(compute_reward(self.position, self.goal))
        return observe(self.position, self.goal), reward, False, False, self._info()

    def render(self):
        """RGB picture (H, W, 3) uint8 of maze, goal region, start and path so far."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Circle

        canvas = FigureCanvasAgg(Figure(figsize=(6.4, 4.8), dpi=80, layout="constrained"))
        ax = canvas.figure.add_subplot()
        draw_maze(ax)
        ax.plot(*np.array(self.path).T, color="C0", lw=1.5)
        ax.plot(*self.path[0], "o", color="C0")
        ax.plot(*self.position, "o", color="black")
        ax.add_patch(Circle(self.goal, THRESHOLD, alpha=0.3, color="C2"))
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class PointMazeVectorEnv(gym.vector.VectorEnv):
    """`num_envs` mazes that are stepped together, one array operation for all.

    Spaces, rewards and episodes are those of PointMazeEnv. All mazes time out together; the next step starts
    new episodes (autoreset mode NEXT_STEP). The options of reset() hold one index for all, or one for each.
    """

    metadata = {"render_modes": [], "autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs=1, max_episode_steps=100):
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.single_observation_space, self.single_action_space = OBSERVATION_SPACE, ACTION_SPACE
        self.observation_space = batch_space(OBSERVATION_SPACE, num_envs)
        self.action_space = batch_space(ACTION_SPACE, num_envs)
        self.generators = [None] * num_envs

    def compute_reward(self, achieved_goal, desired_goal, info):
        return compute_reward(achieved_goal, desired_goal, info)

    def _info(self):
        reached = compute_reward(self.position, self.goal) == 0
        info = {"is_success": reached, "group": np.array([group(*pair) for pair in self.pairs])}
        return info | {f"_{key}": np.ones(self.num_envs, bool) for key in info}

    def reset(self, *, seed=None, options=None):
        seeds = [None] * self.num_envs if seed is None else seed
        if np.isscalar(seeds):
            seeds = range(seed, seed + self.num_envs)
        each = {key: np.broadcast_to(value, self.num_envs) for key, value in (options or {}).items()}
        drawn = []
        for k, own_seed in zip(range(self.num_envs), seeds, strict=True):
            if own_seed is not None or self.generators[k] is None:  # without a seed a generator goes on
                self.generators[k] = gym.utils.seeding.np_random(own_seed)[0]
            own_options = {key: value[k] for key, value in each.items()}
            drawn.append(draw_start_and_goal(self.generators[k], own_seed, own_options))
        self.pairs = [row[:2] for row in drawn]
        self.position, self.goal = (np.array([row[k] for row in drawn]) for k in (2, 3))
        self.steps, self.path = 0, [self.position]
        return observe(self.position, self.goal), self._info()

    def step(self, actions):
        truncated = np.full(self.num_envs, self.steps + 1 >= self.max_episode_steps)
        if self.steps >= self.max_episode_steps:
            (obs, info), reward, truncated = self.reset(), np.zeros(self.num_envs), ~truncated
        else:
            self.position = move(self.position, check_action(actions, (self.num_envs, 2)))
            self.path.append(self.position)
            self.steps += 1
            obs, reward, info = (
                observe(self.position, self.goal),
                compute_reward(self.position, self.goal),
                self._info(),
            )
        return obs, reward, np.zeros(self.num_envs, bool), truncated, info

    def draw_paths(self, file):
        """Draws the present episodes, a panel for each start cluster as in Fig. 6 and 8; prints success."""
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        success, paths = compute_reward(self.position, self.goal) == 0, np.stack(self.path, 1)
        figure = Figure(figsize=(15, 4.9), layout="constrained")
        for start, ax in enumerate(figure.subplots(1, 3)):
            draw_maze(ax)
            here = [k for k, pair in enumerate(self.pairs) if pair[0] == start]
            for k in here:
                color, line = f"C{self.pairs[k][1] + 1}", "-" if group(*self.pairs[k]) == "seen" else "--"
                ax.plot(*paths[k].T, lw=1, color=color, ls=line)
                ax.plot(*paths[k, -1], "o" if success[k] else "x", color=color)
            ax.set_title(f"from $s_{'abc'[start]}$: {success[here].sum()} of {len(here)} end at their goal")
        handles = [Line2D([], [], color=f"C{goal + 1}", label=f"to $g_{goal + 1}$") for goal in range(3)]
        for style, label in (
            ({}, "the data shows this pair"),
            ({"ls": "--"}, "the data never shows this pair"),
            ({"ls": "", "marker": "o"}, "ends at its goal"),
            ({"ls": "", "marker": "x"}, "ends elsewhere"),
        ):
            handles.append(Line2D([], [], color="0.3", label=label, **style))
        figure.legend(handles=handles, loc="outside lower center", ncols=7)
        figure.savefig(file, format="png", dpi=110)
        groups = np.array([group(*pair) for pair in self.pairs])
        for name, kind in (("seen", "that the data shows"), ("unseen", "that the data never shows")):
            ends = success[groups == name]
            print(f"pairs of start and goal {kind}: {ends.sum()} of {len(ends)} episodes end at their goal")
        print(f"their paths: {file}")


def draw_maze(ax):
    """Draws walls and clusters on a matplotlib axes, y downwards."""
    from matplotlib.patches import Rectangle

    for x0, y0, x1, y1 in WALLS:
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, color="0.35", lw=0))
    for boxes, names, color in ((STARTS, ("s_a", "s_b", "s_c"), "C0"), (GOALS, ("g_1", "g_2", "g_3"), "C2")):
        for (x0, x1, y0, y1), name in zip(boxes, names, strict=True):
            ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, color=color, alpha=0.25, lw=0))
            ax.text((x0 + x1) / 2, (y0 + y1) / 2, f"${name}$", ha="center", va="center")
    ax.set(xlim=(0, SIZE[0]), ylim=(SIZE[1], 0), aspect="equal", xticks=[], yticks=[])
