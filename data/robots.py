"""A faster `env.step` of the Fetch and Shadow Hand tasks, with the same results bit for bit.

`env.step` spends up to 45 % of its time in Python. The steppers here work on the environment's own model and
data, so that `env.reset` and `env.compute_reward` stay in use.
"""

import contextlib
import io
import math
import os

os.environ.setdefault("MUJOCO_GL", "disable")  # nothing is drawn, and a missing OpenGL would stop the import

import gymnasium as gym
import mujoco
import numpy as np
import tools  # noqa: F401  registers the tasks

with contextlib.redirect_stderr(io.StringIO()):  # it prints a notice about other tasks
    from gymnasium_robotics.utils import rotations


def hand_stepper(env):
    """step(action (20,) float32) -> observation (61,), achieved goal (7,), both float64."""
    model, data, substeps = env.model, env.data, env.n_substeps
    joints = [model.joint(i) for i in range(model.njnt)]
    qpos = np.array([j.qposadr[0] for j in joints if j.name.startswith("robot")])
    qvel = np.array([j.dofadr[0] for j in joints if j.name.startswith("robot")])
    pose = model.joint("object:joint").qposadr[0] + np.arange(7)
    velocity = model.joint("object:joint").dofadr[0] + np.arange(6)
    low, high = model.actuator_ctrlrange.T.copy()
    center, half = (high + low) / 2.0, (high - low) / 2.0
    ctrl, positions, velocities = data.ctrl, data.qpos, data.qvel  # MuJoCo keeps its arrays in place

    def step(action):
        wanted = center + np.minimum(np.maximum(action, -1), 1) * half  # np.clip takes longer
        np.minimum(np.maximum(wanted, low), high, out=ctrl)
        mujoco.mj_step(model, data, nstep=substeps)
        observation = np.concatenate(
            [positions[qpos], velocities[qvel], velocities[velocity], positions[pose]]
        )
        return observation, observation[-7:]

    return step


def euler_angles(matrix):
    """rotations.mat2euler of one matrix (9,), bit for bit, in a seventh of the time."""
    m00, m01, m02, _, _, m12, _, _, m22 = matrix.tolist()
    cy = math.sqrt(m22 * m22 + m12 * m12)
    if cy <= 1e-12:  # near a singularity, which that function treats apart
        return rotations.mat2euler(matrix.reshape(3, 3))
    return -np.arctan2((m12, -m02, m01), (m22, cy, m00))


def fetch_stepper(env):
    """step(action (4,) float32) -> observation (10 or 25,), achieved goal (3,), both float64."""
    model, data, substeps = env.model, env.data, env.n_substeps
    dt = substeps * model.opt.timestep
    joints = [model.joint(i) for i in range(model.njnt)]
    fingers = [j for j in joints if j.name.startswith("robot")][-2:]
    finger_qpos, finger_qvel = np.array([(j.qposadr[0], j.dofadr[0]) for j in fingers]).T
    grip_site, object_site = model.site("robot0:grip").id, env.has_object and model.site("object0").id
    wrist = model.eq_obj2id[0]  # the one equality constraint welds the wrist to the mocap body
    actuated, is_position = model.jnt_qposadr[model.actuator_trnid[:, 0]], model.actuator_biastype != 0
    turn, reach = np.array([1.0, 0.0, 1.0, 0.0]), np.float32(0.05)
    jacp, jacr = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    # MuJoCo keeps its arrays in place
    qpos, qvel, ctrl = data.qpos, data.qvel, data.ctrl
    mocap_pos, mocap_quat, wrist_pos, wrist_quat = (
        x[k] for x, k in ((data.mocap_pos, 0), (data.mocap_quat, 0), (data.xpos, wrist), (data.xquat, wrist))
    )
    grip, position = data.site_xpos[grip_site], data.site_xpos[object_site]
    matrix = data.site_xmat[object_site]

    def step(action):
        action = np.minimum(np.maximum(action, -1), 1)
        gripper = 0.0 if env.block_gripper else float(action[3])
        ctrl[:] = np.where(is_position, qpos[actuated] + gripper, gripper)
        np.add(wrist_pos, action[:3] * reach, out=mocap_pos)
        np.add(wrist_quat, turn, out=mocap_quat)
        mujoco.mj_step(model, data, nstep=substeps)
        if env.block_gripper:
            qpos[finger_qpos] = 0.0
            mujoco.mj_forward(model, data)

        mujoco.mj_jacSite(model, data, jacp, None, grip_site)
        grip_velocity, finger_velocity = jacp @ qvel * dt, qvel[finger_qvel] * dt
        if not env.has_object:
            observation = np.concatenate([grip, qpos[finger_qpos], grip_velocity, finger_velocity])
            return observation, observation[:3]
        mujoco.mj_jacSite(model, data, jacp, jacr, object_site)
        velocity, spin = jacp @ qvel * dt - grip_velocity, jacr @ qvel * dt
        parts = grip, position, position - grip, qpos[finger_qpos], euler_angles(matrix), velocity, spin
        observation = np.concatenate([*parts, grip_velocity, finger_velocity])
        return observation, observation[3:6]

    return step


def make(task):
    """The environment without wrappers, its fast stepper, and the length of an episode."""
    mujoco.set_mju_user_warning(lambda message: None)  # counted all the same; it would write MUJOCO_LOG.TXT
    env = gym.make(f"paper/{task}", disable_env_checker=True)
    stepper = fetch_stepper if task.startswith("Fetch") else hand_stepper
    return env.unwrapped, stepper(env.unwrapped), env.spec.max_episode_steps


def compute_reward(env, achieved, goal):
    """The environment's reward, -1 or 0, of arrays (..., goal); it takes two dimensions only."""
    *shape, dim = achieved.shape
    return env.compute_reward(achieved.reshape(-1, dim), goal.reshape(-1, dim), {}).reshape(shape)
