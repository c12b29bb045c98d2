"""Registers the paper's tasks with Gymnasium: gym.make("envs:paper/FetchPush"), "envs:paper/PointMaze".

OGBench's are not in the paper, but stand beside them: "envs:paper/ogbench-pointmaze-medium-stitch".
"""

import contextlib
import io
import os
from functools import partial

import gymnasium as gym

from envs.ogbench import TASKS as OGBENCH

ROBOTS = {
    "FetchPush": "FetchPush-v4",
    "FetchSlide": "FetchSlide-v4",
    "FetchPick": "FetchPickAndPlace-v4",
    "FetchReach": "FetchReach-v4",
    "HandBlockZ": "HandManipulateBlockRotateZ-v1",
    "HandBlockParallel": "HandManipulateBlockRotateParallel-v1",
    "HandBlockXYZ": "HandManipulateBlockRotateXYZ-v1",
    "HandEggRotate": "HandManipulateEggRotate-v1",
}
TASKS = (*ROBOTS, "PointMaze")  # in the order of the paper's tables


def make_robot(name, render_mode=None, **kwargs):
    """An environment of Gymnasium-Robotics; imported only when it is asked for."""
    if render_mode is None:
        os.environ.setdefault("MUJOCO_GL", "disable")  # a missing OpenGL would stop the import
    with contextlib.redirect_stderr(io.StringIO()):  # it prints a notice about other tasks
        import gymnasium_robotics  # noqa: F401
    return gym.make(f"gymnasium_robotics:{name}", render_mode=render_mode, **kwargs).unwrapped


for task, name in ROBOTS.items():
    steps = 50 if task.startswith("Fetch") else 100
    gym.register(f"paper/{task}", entry_point=partial(make_robot, name), max_episode_steps=steps)

gym.register(
    "paper/PointMaze",
    entry_point="envs.pointmaze:PointMazeEnv",
    vector_entry_point="envs.pointmaze:PointMazeVectorEnv",
    max_episode_steps=100,
)

for task, steps in OGBENCH.items():
    together = "pointmaze" in task and "teleport" not in task
    gym.register(
        f"paper/{task}",
        entry_point="envs.ogbench:OGBenchEnv",
        vector_entry_point="envs.ogbench:PointMazes" if together else None,
        max_episode_steps=steps,
        kwargs={"task": task},
    )
