"""OGBench's tasks (Park et al., ICLR 2025, arXiv 2410.20092) as goal environments; needs pip install ogbench.

A task is "ogbench-" and the name of a dataset: ogbench-pointmaze-medium-stitch. A goal holds only what counts
for success: the position of the robot or ball, or the objects. OGBench's agents get a whole observation.
"""

import contextlib
import os

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space

TASKS = {  # with the steps of an episode
    f"ogbench-{name}-{data}": steps
    for names, steps, datasets in (
        ("pointmaze-medium pointmaze-large pointmaze-giant pointmaze-teleport", 1000, "navigate stitch"),
        ("antmaze-medium antmaze-large antmaze-teleport", 1000, "navigate stitch explore"),
        ("antmaze-giant antsoccer-arena antsoccer-medium", 1000, "navigate stitch"),
        ("humanoidmaze-medium humanoidmaze-large", 2000, "navigate stitch"),
        ("humanoidmaze-giant", 4000, "navigate stitch"),
        ("cube-single", 200, "play noisy"),
        ("cube-double puzzle-3x3 puzzle-4x4", 500, "play noisy"),
        ("scene", 750, "play noisy"),
        ("cube-triple cube-quadruple puzzle-4x5 puzzle-4x6", 1000, "play noisy"),
    )
    for name in names.split()
    for data in datasets.split()
}


def goal_parts(task):
    """What has to agree with the goal: dimensions of the observation, OGBench's tolerance in their units."""
    kind, size = task.split("-")[1:3]
    if "maze" in kind:
        return [((0, 1), 1.0 if kind == "pointmaze" else 0.5)]
    if kind == "antsoccer":
        return [((15, 16), 0.5)]
    if kind == "puzzle":
        rows, columns = map(int, size.split("x"))
        return [((20 + 4 * k,), 0.5) for k in range(rows * columns)]  # is the button pressed?
    cubes = {"single": 1, "double": 2, "triple": 3, "quadruple": 4}.get(size, 1)
    parts = [((19 + 9 * k, 20 + 9 * k, 21 + 9 * k), 0.4) for k in range(cubes)]  # 4 cm
    if kind == "scene":  # two buttons, drawer, window
        parts += [((29,), 0.5), ((33,), 0.5), ((36,), 0.72), ((38,), 0.6)]
    return parts


def goal_dims(task):
    return [dim for dims, _ in goal_parts(task) for dim in dims]


class OGBenchEnv(gym.Env):
    """One environment of OGBench. Reward: 0 at the goal, else -1. Unlike there, the goal ends no episode.

    Seeds take OGBench's five pairs of start and goal in turn; info["group"] names the pair: task1 to task5.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, task, render_mode=None):
        if render_mode is None:
            os.environ.setdefault("MUJOCO_GL", "disable")  # a missing OpenGL would stop the import
        try:
            import ogbench  # noqa: F401
        except ImportError as error:
            raise ImportError(f"needs OGBench ({error}): pip install ogbench") from error
        name = task.removeprefix("ogbench-").rpartition("-")[0]
        self.env = gym.make(f"{name}-v0", disable_env_checker=True).unwrapped
        self.render_mode, self.action_space = render_mode, self.env.action_space
        self.parts, self.dims, self.teleports = goal_parts(task), goal_dims(task), "teleport" in task
        shapes = {"observation": self.env.observation_space.shape}
        shapes |= dict.fromkeys(("achieved_goal", "desired_goal"), (len(self.dims),))
        boxes = {key: gym.spaces.Box(-np.inf, np.inf, shape, np.float64) for key, shape in shapes.items()}
        self.observation_space = gym.spaces.Dict(boxes)
        self.random = np.random.RandomState().get_state()

    @contextlib.contextmanager
    def own_random(self):
        """OGBench draws from numpy's global generator: here each environment lends it a state of its own."""
        before = np.random.get_state()
        np.random.set_state(self.random)
        try:
            yield
        finally:
            self.random = np.random.get_state()
            np.random.set_state(before)

    def compute_reward(self, achieved_goal, desired_goal, info):
        """OGBench's rule of success, (..., goal_dim) -> (...)."""
        gap, first, reached = np.asarray(achieved_goal) - np.asarray(desired_goal), 0, True
        for dims, tolerance in self.parts:
            reached &= np.linalg.norm(gap[..., first : first + len(dims)], axis=-1) <= tolerance
            first += len(dims)
        return np.where(reached, 0.0, -1.0)

    def _state(self, observation):
        reached = self.compute_reward(observation[self.dims], self.goal, {}) == 0
        goals = {"achieved_goal": observation[self.dims], "desired_goal": self.goal.copy()}
        return {"observation": observation} | goals, {"is_success": bool(reached), "group": self.group}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.random = np.random.RandomState(seed).get_state()
            self.env.action_space.seed(seed)
            options = options or {"task_id": seed % 5 + 1}
        with self.own_random():
            observation, info = self.env.reset(seed=seed, options=options)
        self.goal, self.group = info["goal"][self.dims], f"task{self.env.cur_task_id}"
        return self._state(observation)

    def step(self, action):
        with self.own_random() if self.teleports else contextlib.nullcontext():  # slow; only teleports draw
            observation = self.env.step(action)[0]
        state, info = self._state(observation)
        return state, -float(not info["is_success"]), False, False, info

    def render(self):
        return self.env.render()


def move_points(maze, position, action):
    """Where OGBench's step takes points, (B, 2) -> (B, 2).

    MuJoCo moves those that touch a wall. The others go where their action leads, in MuJoCo too, bit for bit.
    """
    walls = 4.0 * np.argwhere(maze.maze_map == 1)[:, ::-1] - 4  # centres of blocks of 4 by 4
    new = position + 0.2 * action
    gap = np.maximum(np.abs(new[:, None] - walls) - 2, 0)
    for k in np.flatnonzero(np.linalg.norm(gap, axis=-1).min(1) < 0.701):  # a point's radius is 0.7
        maze.data.qpos[:], maze.data.qacc_warmstart[:] = position[k], 0
        new[k] = maze.step(action[k])[0]
    return new


class PointMazes(gym.vector.VectorEnv):
    """Point mazes that are stepped and time out together, with the starts and goals of OGBenchEnv."""

    metadata = {"render_modes": [], "autoreset_mode": gym.vector.AutoresetMode.DISABLED}

    def __init__(self, num_envs, max_episode_steps, **kwargs):
        self.env, self.num_envs, self.max_episode_steps = OGBenchEnv(**kwargs), num_envs, max_episode_steps
        self.single_observation_space = self.env.observation_space
        self.single_action_space = self.env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _state(self):
        goals = {"achieved_goal": self.position.copy(), "desired_goal": self.goal.copy()}
        return {"observation": self.position.copy()} | goals

    def reset(self, *, seed=None, options=None):
        seeds = [None] * self.num_envs if seed is None else seed
        if np.isscalar(seeds):
            seeds = range(seed, seed + self.num_envs)
        states, infos = zip(*[self.env.reset(seed=own, options=options) for own in seeds], strict=True)
        self.position = np.array([state["observation"] for state in states])
        self.goal, self.steps = np.array([state["desired_goal"] for state in states]), 0
        return self._state(), {"group": np.array([info["group"] for info in infos])}

    def step(self, actions):
        self.position, self.steps = move_points(self.env.env, self.position, actions), self.steps + 1
        truncated = np.full(self.num_envs, self.steps >= self.max_episode_steps)
        reward = self.env.compute_reward(self.position, self.goal, {})
        return self._state(), reward, np.zeros(self.num_envs, bool), truncated, {}
