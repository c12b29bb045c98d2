"""Plays a trained policy, and films it or shows it in a window. It needs the run's folder, not the data.

    python results/play.py runs/PointMaze/dqapg-swap/1 --video maze.mp4

Drawing changes the simulation of the Hand tasks a little: only without it are the scores an evaluation's.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from tools import agent_class, fail, load_method, replace  # noqa: E402


@dataclass
class Args:
    run: tyro.conf.Positional[Path]  # the folder of a run, or its checkpoint
    episodes: int = 10
    seed: int = 1_000_000  # of the first episode; the evaluations of a run begin with this one
    video: Path | None = None  # film the episodes, as .mp4
    show: bool = False  # open a window


def load_policy(path):
    """The agent of a checkpoint, on the CPU, and its settings."""
    path = path / "checkpoint.pt" if path.is_dir() else path
    if not path.exists():
        fail(f"{path}: there is no such file; name the folder of a run")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        method, made_with = state["settings"]["method"], state["settings"]["version"]
    except Exception as error:  # a damaged or foreign file raises one of many kinds
        fail(f"{path}: not a checkpoint of a method file ({type(error).__name__})")
    module = load_method(method)
    if made_with != module.VERSION:
        fail(f"{path}: made with version {made_with} of algos/{method}.py, here is {module.VERSION}")
    args = module.Args(**state["args"] | {"device": "cpu"})
    agent = agent_class(module)(args, state["stats"], state["horizon"])
    agent.load_state_dict(state["agent"])
    return agent, args


def main(args):
    if args.video or args.show:
        gl = "glfw" if args.show or sys.platform != "linux" else "egl"
        os.environ.setdefault("MUJOCO_GL", gl)  # before MuJoCo is imported
    agent, settings = load_policy(args.run)
    name = settings.task if ":" in settings.task else f"envs:paper/{settings.task}"
    mode = {"render_mode": "human" if args.show else "rgb_array"} if args.show or args.video else {}
    try:
        env = gym.make(name, **mode)
        if mode:
            env.reset(seed=args.seed)
            env.render()
    except Exception as error:  # a missing package, display or OpenGL raises one of many kinds
        fail(f"--task {settings.task}: {error}" + "; MUJOCO_GL names OpenGL: egl, osmesa, glfw" * bool(mode))
    compute_reward, box = env.get_wrapper_attr("compute_reward"), env.action_space
    returns, successes, frames = [], [], []
    for seed in range(args.seed, args.seed + args.episodes):
        obs, done, at_goal = env.reset(seed=seed)[0], False, []
        while not done:
            state = torch.as_tensor(obs["observation"], dtype=torch.float32)[None]
            goal = torch.as_tensor(obs["desired_goal"], dtype=torch.float32)[None]
            with torch.no_grad():
                action = agent.act(state, goal)[0].numpy().clip(box.low, box.high)
            obs, _, terminated, truncated, _ = env.step(action)
            at_goal.append(compute_reward(obs["achieved_goal"], obs["desired_goal"], {}) == 0)
            done = terminated or truncated
            if args.video:
                frames.append(env.render())
        returns.append(sum(at_goal))
        successes.append(at_goal[-1])
        print(f"seed {seed}: return {returns[-1]}, {'success' if successes[-1] else 'no success'}")
    print(f"return {np.mean(returns):.1f}, success {np.mean(successes):.2f} of {args.episodes} episodes")
    if args.video:
        import imageio

        content = imageio.mimwrite("<bytes>", frames, format="mp4", fps=env.metadata["render_fps"])
        replace(args.video, lambda part: part.write_bytes(content))


if __name__ == "__main__":
    main(tyro.cli(tyro.conf.FlagCreatePairsOff[Args], description=__doc__))
