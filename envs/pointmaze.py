"""PointMaze: the 24 x 18 continuous maze of Yang et al. (2023), arXiv 2302.08865, App. C.3, as a Gymnasium environment.

A point moves by the action, a displacement in [-2, 2]^2. A wall stops the part of it that goes into the wall, so that
a point slides along. (Where it stopped altogether, a deterministic policy that touches a wall stays there for good:
of the failures of a trained DQAPG, 93 % were such points.)

The paper prints a picture of the maze but no coordinates. The walls here follow the maze that its first author
published later (24 x 16, in the OGBench fork github.com/uenian33/ogbench), with one open row added at the top and one
at the bottom to give 24 x 18. Lengths are in cells of the maze; y grows downwards, as in that file.
"""

import copy

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

SIZE = np.array([24.0, 18.0])
HORIZON = 100  # steps of an episode
MAX_STEP = 2.0  # App. C.3: "the action is in the range (2, 2)", read as [-2, 2]^2
THRESHOLD = 2.0  # App. C.3: achieved if the Euclidean distance is smaller than 2
MARGIN = 1e-6  # a stopped point stays this far from the wall that stopped it

WALLS = np.array([  # x0, y0, x1, y1
    [0, 0, 24, 1], [0, 1, 1, 18], [9, 1, 10, 4], [23, 1, 24, 18], [4, 3, 6, 4], [10, 3, 11, 4], [14, 3, 17, 4],
    [19, 3, 21, 4], [19, 4, 20, 6], [4, 5, 8, 6], [14, 5, 19, 6], [20, 5, 21, 8], [7, 6, 8, 13], [11, 6, 12, 13],
    [13, 6, 15, 7], [1, 7, 4, 8], [10, 7, 11, 8], [14, 7, 15, 8], [18, 7, 20, 8], [21, 7, 23, 8], [8, 9, 10, 10],
    [1, 10, 4, 11], [10, 10, 11, 11], [14, 10, 15, 13], [18, 10, 23, 11], [13, 11, 14, 12], [20, 11, 21, 13],
    [4, 12, 7, 13], [15, 12, 20, 13], [19, 13, 20, 15], [4, 14, 6, 15], [9, 14, 10, 18], [14, 14, 19, 15],
    [1, 17, 9, 18], [10, 17, 23, 18]], dtype=float)
STARTS = np.array([  # s_a, s_b, s_c: x0, x1, y0, y1
    [21.2, 22.7, 13.0, 16.4], [20.4, 21.9, 8.1, 9.8], [21.2, 22.7, 1.6, 5.8]])
GOALS = np.array([  # g_1, g_2, g_3
    [1.2, 2.6, 11.7, 16.3], [1.2, 2.6, 8.1, 9.8], [1.2, 2.6, 1.4, 6.2]])
DEMONSTRATED_PAIRS = ((0, 2), (1, 1), (2, 0))  # (start, goal) in the data: s_a to g_3, s_b to g_2, s_c to g_1


def compute_reward(achieved_goal, desired_goal, info=None):
    """Eq. (2) with the Euclidean distance: 0 where it is below 2, else -1.

    achieved_goal, desired_goal: (..., 2). Returns (...), float64.
    """
    distance = np.linalg.norm(np.asarray(achieved_goal) - np.asarray(desired_goal), axis=-1)
    return np.where(distance < THRESHOLD, 0.0, -1.0)  # Eq. (2)


def sweep(position, displacement):
    """Moves points along straight lines until they have gone all the way or touch a wall.

    position, displacement: (B, 2). Returns the new positions (B, 2) and the axis (B,) that is normal to the wall that
    stopped the point, -1 if none did. The whole segment is tested against every wall (slab method), so that no step is
    long enough to jump over one.
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
    time = np.where((time < gone) & (gone > 1e-12), time, np.inf)  # a point at rest against a wall may leave it
    wall = time.argmin(-1)
    rows = np.arange(len(position))
    time, axis = time[rows, wall], axis[rows, wall]
    stopped = time < 1
    # stop a hair before the contact, so that rounding cannot put the point into the wall
    fraction = np.where(stopped, time - MARGIN / np.maximum(np.abs(displacement).max(-1), 1e-12), 1.0)
    return position + fraction.clip(0.0, 1.0)[:, None] * displacement, np.where(stopped, axis, -1)


def move(position, displacement):
    """Moves points; a wall takes the part of the displacement that goes into it, the rest slides along the wall.

    position, displacement: (B, 2). Returns the new positions (B, 2). The rest of a displacement ends at a second wall.
    """
    new, axis = sweep(position, displacement)
    rest = np.where((axis[:, None] >= 0) & (axis[:, None] != np.arange(2)), displacement - (new - position), 0.0)
    return sweep(new, rest)[0]


def check_action(action, shape):
    """The action as float64, clipped to [-2, 2]; ValueError for another shape, NaN or infinity."""
    try:
        action = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError):  # not numbers, or ragged
        raise ValueError(f"PointMaze needs finite actions of shape {shape}, got {action!r}") from None
    if action.shape != shape or not np.isfinite(action).all():
        raise ValueError(f"PointMaze needs finite actions of shape {shape}, got shape {action.shape}: {action!r}")
    return action.clip(-MAX_STEP, MAX_STEP)


def draw_start_and_goal(rng, options):
    """Start cluster, goal cluster, start point (2,), goal point (2,); options may fix the clusters, 0, 1 or 2."""
    options = dict(options or {})
    clusters = []
    for name in ("start", "goal"):
        drawn = int(rng.integers(3))  # drawn even if fixed, so that the points depend on the seed alone
        value = np.asarray(options.pop(name, drawn))
        if value.dtype.kind not in "iu" or value.shape != () or not 0 <= value <= 2:
            raise ValueError(f"PointMaze: options[{name!r}] must be 0, 1 or 2, got {value.tolist()!r}")
        clusters.append(int(value))
    if options:
        raise ValueError(f"PointMaze: unknown reset options {sorted(options)}, known are 'start' and 'goal'")
    points = [rng.uniform(box[[0, 2]], box[[1, 3]]) for box in (STARTS[clusters[0]], GOALS[clusters[1]])]
    return *clusters, *points


OBSERVATION_SPACE = spaces.Dict({key: spaces.Box(np.zeros(2), SIZE, dtype=np.float64)
                                 for key in ("observation", "achieved_goal", "desired_goal")})
ACTION_SPACE = spaces.Box(-MAX_STEP, MAX_STEP, (2,), np.float32)


class PointMazeEnv(gym.Env):
    """One maze with Gymnasium's goal interface.

    Observation: dict of observation, achieved_goal (both the position) and desired_goal, each (2,) float64.
    Action: displacement (2,) in [-2, 2]. Reward: 0 within distance 2 of the goal, else -1. Never terminates; is_success
    is in info. reset(options={"start": 0..2, "goal": 0..2}) fixes the clusters, else all nine pairs are equally likely.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(self, render_mode=None):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"PointMaze: render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.render_mode = render_mode
        self.observation_space, self.action_space = OBSERVATION_SPACE, ACTION_SPACE

    def compute_reward(self, achieved_goal, desired_goal, info):
        return compute_reward(achieved_goal, desired_goal, info)

    def _observation(self):
        return {"observation": self.position.copy(), "achieved_goal": self.position.copy(),
                "desired_goal": self.goal.copy()}

    def _info(self):
        reached = bool(compute_reward(self.position, self.goal) == 0)
        return {"is_success": reached, "start": self.start_cluster, "goal": self.goal_cluster}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start_cluster, self.goal_cluster, self.position, self.goal = draw_start_and_goal(self.np_random, options)
        self.path = [self.position.copy()]
        return self._observation(), self._info()

    def step(self, action):
        self.position = move(self.position[None], check_action(action, (2,))[None])[0]
        self.path.append(self.position.copy())
        reward = float(compute_reward(self.position, self.goal))
        return self._observation(), reward, False, False, self._info()

    def render(self):
        """RGB picture (H, W, 3) uint8 of maze, goal region, start and path so far."""
        if self.render_mode != "rgb_array":
            return None
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Circle
        figure = Figure(figsize=(6, 4.5), dpi=80, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        ax = figure.add_subplot()
        draw_maze(ax)
        ax.plot(*np.array(self.path).T, color="C0", lw=1.5)
        ax.plot(*self.path[0], "o", color="C0")
        ax.plot(*self.position, "o", color="black")
        ax.add_patch(Circle(self.goal, THRESHOLD, alpha=0.3, color="C2"))
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class PointMazeVectorEnv(gym.vector.VectorEnv):
    """`num_envs` mazes that are stepped together, one array operation for all.

    Same spaces, rewards and episodes as PointMazeEnv: reset(seed=[s_0, ...], options={"start": i, "goal": j}) gives
    environment k the episode of PointMazeEnv.reset(seed=s_k); i and j are one index or an array of num_envs. All
    mazes time out together after 100 steps; the next step then starts new episodes (autoreset mode NEXT_STEP).
    """

    metadata = {"render_modes": [], "autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs=1, max_episode_steps=HORIZON, render_mode=None):
        if num_envs < 1:
            raise ValueError(f"PointMaze: num_envs must be at least 1, got {num_envs}")
        if render_mode is not None:
            raise ValueError("PointMaze: a batch of mazes has no pictures; render one PointMazeEnv, or use draw_paths")
        self.num_envs, self.max_episode_steps, self.render_mode = num_envs, max_episode_steps, render_mode
        self.single_observation_space, self.single_action_space = OBSERVATION_SPACE, ACTION_SPACE
        self.observation_space = batch_space(OBSERVATION_SPACE, num_envs)
        self.action_space = batch_space(ACTION_SPACE, num_envs)
        self.generators = None

    def compute_reward(self, achieved_goal, desired_goal, info):
        return compute_reward(achieved_goal, desired_goal, info)

    def _observation(self):
        return {"observation": self.position.copy(), "achieved_goal": self.position.copy(),
                "desired_goal": self.goal.copy()}

    def _info(self):
        info = {"is_success": compute_reward(self.position, self.goal) == 0, "start": self.start_cluster.copy(),
                "goal": self.goal_cluster.copy()}
        return info | {f"_{key}": np.ones(self.num_envs, bool) for key in info}

    def reset(self, *, seed=None, options=None):
        seeds = [None] * self.num_envs if seed is None else (
            [seed + k for k in range(self.num_envs)] if np.isscalar(seed) else list(seed))
        if len(seeds) != self.num_envs:
            raise ValueError(f"PointMaze: {len(seeds)} seeds for {self.num_envs} environments")
        for key, value in (options or {}).items():
            if np.shape(value) not in ((), (self.num_envs,)):
                raise ValueError(f"PointMaze: options[{key!r}] must be one index or {self.num_envs}, got {value!r}")
        each = {key: np.broadcast_to(value, self.num_envs).tolist() for key, value in (options or {}).items()}
        old = self.generators or [None] * self.num_envs  # without a seed a generator goes on, as in a single maze
        # a copy, so that options which are refused leave the generators as they were
        generators = [copy.deepcopy(rng) if s is None and rng else
                      gym.utils.seeding.np_random(None if s is None else int(s))[0] for s, rng in zip(seeds, old)]
        drawn = [draw_start_and_goal(rng, {key: value[k] for key, value in each.items()})
                 for k, rng in enumerate(generators)]
        self.generators = generators
        self.start_cluster, self.goal_cluster, self.position, self.goal = (np.array(column) for column in zip(*drawn))
        self.steps = 0
        return self._observation(), self._info()

    def step(self, actions):
        if self.generators is None:
            raise gym.error.ResetNeeded("PointMaze: call reset() before step()")
        actions = check_action(actions, (self.num_envs, 2))
        if self.steps >= self.max_episode_steps:
            observation, info = self.reset()
            never = np.zeros(self.num_envs, bool)
            return observation, np.zeros(self.num_envs), never, never.copy(), info
        self.position = move(self.position, actions)
        self.steps += 1
        reward = compute_reward(self.position, self.goal)
        truncated = np.full(self.num_envs, self.steps >= self.max_episode_steps)
        return self._observation(), reward, np.zeros(self.num_envs, bool), truncated, self._info()


def draw_maze(ax):
    """Draws walls and clusters on a matplotlib axes, y downwards."""
    from matplotlib.patches import Rectangle
    for x0, y0, x1, y1 in WALLS:
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, color="0.35", lw=0))
    for boxes, names, color in ((STARTS, ("s_a", "s_b", "s_c"), "C0"), (GOALS, ("g_1", "g_2", "g_3"), "C2")):
        for (x0, x1, y0, y1), name in zip(boxes, names):
            ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, color=color, alpha=0.25, lw=0))
            ax.text((x0 + x1) / 2, (y0 + y1) / 2, f"${name}$", ha="center", va="center")
    ax.set(xlim=(0, SIZE[0]), ylim=(SIZE[1], 0), aspect="equal", xticks=[], yticks=[])


def draw_paths(episodes, file):
    """Writes a PNG of the paths of an evaluation, one panel for each start cluster, as in Fig. 6 and 8 of the paper.

    episodes: dicts with path (T+1, 2), start, goal (cluster indices), seen and success. file: a path or file object.
    """
    from matplotlib.figure import Figure
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    for start, ax in enumerate(figure.subplots(1, 3)):
        draw_maze(ax)
        here = [episode for episode in episodes if episode["start"] == start]
        for episode in here:
            ax.plot(*episode["path"].T, lw=1, color=f"C{episode['goal'] + 1}", ls="-" if episode["seen"] else "--")
            ax.plot(*episode["path"][-1], "o" if episode["success"] else "x", color=f"C{episode['goal'] + 1}")
        ax.set_title(f"from $s_{'abc'[start]}$: {sum(e['success'] for e in here)} of {len(here)} end at their goal "
                     "(dashed: pair not in the data)", fontsize=10)
    figure.savefig(file, format="png", dpi=110)
