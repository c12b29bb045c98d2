"""`import envs` registers PointMaze-v0 with Gymnasium."""

import gymnasium as gym

gym.register("PointMaze-v0", entry_point="envs.pointmaze:PointMazeEnv",
             vector_entry_point="envs.pointmaze:PointMazeVectorEnv", max_episode_steps=100)
