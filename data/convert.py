"""Converts offline goal-conditioned data between the format of collect.py and those of others.

    python data/convert.py --source expert/buffer.pkl --random-source random/buffer.pkl --task FetchPush \\
        --expert-episodes 500 --random-episodes 2000 --out FetchPush.npz
    python data/convert.py --source minari:D4RL/pointmaze/umaze-v2 --split-goals --out umaze.npz
    python data/convert.py --source FetchPush.npz --out minari:swapped/FetchPush/mixed-v0

Reads and writes:
    FILE.npz          ours, see collect.py
    FILE.pkl          buffer.pkl of WGCSL (github.com/YangRui2015/AWGCSL) and GoFAR: a dict of o, ag
                      (N, T+1, dim) and g, u (N, T, dim). Nothing that a pickle asks to call is called.
    minari:ID         a local Minari dataset of observation, achieved_goal and desired_goal
    ogbench:FILE.npz  OGBench's flat rows of observations, actions, terminals. They hold no goals: --goal-dims
                      of the observation become the achieved goal, a trajectory's last one its desired goal.
                      OGBench's own tasks (--task ogbench-antmaze-medium-stitch) need no --goal-dims.

Success follows from the environment's compute_reward where a source does not say it. Actions are clipped to
the action space. If episodes differ in length there is lengths (N,) int64; beyond its end an episode repeats
its last observation, with zero actions and no success. Terminations are not kept.
"""

import io
import json
import os
import pickle
import re
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import tyro
from collect import make_manifest, read, save
from tools import OGBENCH, ROBOTS, TASKS, bar_pace, fail, replace
from tqdm import tqdm

from envs.ogbench import goal_dims

STATES = ("observations", "achieved_goals", "desired_goals")


@dataclass
class Args:
    source: str  # what to read, see above
    out: str  # what to write, see above
    task: str = ""  # a task of ours or package:id of a goal environment; by default what the source says
    split: Literal["expert", "random"] = "expert"  # who acted in --source, where it does not say so
    random_source: str = ""  # a second source, of random episodes, put after those of --source
    expert_episodes: int | None = None  # take only the first so many expert episodes
    random_episodes: int | None = None  # take only the first so many random episodes
    goal_dims: tuple[int, int] | None = (
        None  # OGBench: first dimension of the goal in observations, and the end
    )
    split_goals: bool = False  # cut episodes where their desired goal changes
    force: bool = False  # replace the file --out


# --- readers: a list of episodes, and what the source says of itself: task, env_kwargs, versions, manifest
# An episode is a dict of observations, achieved_goals, desired_goals (T+1, dim) and actions (T, dim); perhaps
# also success (T,), source and seeds.
class Call:
    """What an unpickled file holds in place of the result of a call: its arguments, the state set later."""

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state


class ArrayUnpickler(pickle.Unpickler):
    """Calls nothing: even numpy.ndarray(1, "O", some_bytes) makes an object of any address in memory."""

    names = {"numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "_codecs.encode"}
    names |= {"numpy.core.multiarray.scalar", "numpy.core.numeric._frombuffer"}

    def find_class(self, module, name):
        wanted = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if wanted not in self.names:
            raise pickle.UnpicklingError(f"it wants to call {wanted!r}, but only arrays may be in it")
        return Call


def to_array(call):
    """The array of plain numbers that a pickle of numpy 1 or 2 describes."""
    if hasattr(call, "state"):
        _, shape, dtype, fortran, content = call.state
    else:  # protocol 5
        content, dtype, shape, order = call.args
        fortran = order == "F"
    if isinstance(content, Call):  # protocols 0 to 2 hold bytes as text
        content = content.args[0].encode("latin1")
    code, order = dtype.args[0], dtype.state[1]
    if not re.fullmatch("b1|[iu][1248]|f[248]", code):
        raise ValueError(f"it holds an array of {code!r}, which are not plain numbers")
    numbers = np.frombuffer(content, np.dtype(code).newbyteorder(order))
    return numbers.reshape(shape, order="F" if fortran else "C")


def read_pickle(path, args):
    data = ArrayUnpickler(io.BytesIO(Path(path).read_bytes())).load()
    o, ag, g, u = (to_array(data[name]) for name in ("o", "ag", "g", "u"))
    steps = o.shape[1] - 1  # of as many actions as observations the last has no outcome
    goals = np.concatenate([g[:, :steps], g[:, steps - 1 : steps]], 1)
    columns = dict(zip(STATES, (o, ag, goals), strict=True)) | {"actions": u[:, :steps]}
    return [dict(zip(columns, x, strict=True)) for x in zip(*columns.values(), strict=True)], {}


def read_ogbench(path, args):
    with np.load(path, allow_pickle=False) as file:
        observations, actions, terminals = (file[name] for name in ("observations", "actions", "terminals"))
    if not args.goal_dims and args.task not in OGBENCH:
        fail("--goal-dims: OGBench data hold no goals; say which dimensions of the observation are, as 0 2")
    dims = slice(*args.goal_dims) if args.goal_dims else goal_dims(args.task)
    episodes, ends = [], np.flatnonzero(terminals) + 1
    for first, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        o = observations[first:end]
        achieved = o[:, dims]
        goals = np.repeat(achieved[-1:], len(o), 0)
        episode = dict(zip(STATES, (o, achieved, goals), strict=True))
        episodes.append(episode | {"actions": actions[first : end - 1]})  # the last action has no outcome
    return episodes, {}


def read_ours(path, args):
    arrays, manifest = read(Path(path))
    n, steps = arrays["actions"].shape[:2]
    lengths, episodes = arrays.pop("lengths", np.full(n, steps)), []
    for k, length in enumerate(lengths):
        episode = {name: array[k] for name, array in arrays.items()}
        episode |= {name: episode[name][:length] for name in ("actions", "success") if name in episode}
        episode |= {name: episode[name][: length + 1] for name in STATES[:2]}
        episodes.append(
            episode | {"desired_goals": np.repeat(arrays["desired_goals"][k : k + 1], length + 1, 0)}
        )
    return episodes, manifest


def read_minari(dataset_id, args):
    import minari

    dataset = minari.load_dataset(dataset_id)
    about = dataset.storage.metadata
    manifest, episodes = json.loads(about.get("manifest", "{}")), []
    records = dataset.storage.get_episode_metadata(dataset.episode_indices)
    for episode, record in tqdm(zip(dataset, records, strict=True), total=len(dataset), **bar_pace()):
        row = {name: episode.observations[name[:-1]] for name in STATES} | {"actions": episode.actions}
        if 0 <= record.get("seed", -1) < 2**63:  # Minari draws seeds of 64 bits
            row["seeds"] = record["seed"]
        if manifest:  # written by write_minari
            row |= {"source": record["source"] == "expert", "success": episode.infos["is_success"][1:]}
        episodes.append(row)
    spec = dataset.env_spec
    if manifest or not spec:
        return episodes, manifest
    if spec.additional_wrappers:
        wrappers = [wrapper.name for wrapper in spec.additional_wrappers]
        told = {"why_no_task": f"it was recorded with the wrappers {wrappers}"}
    else:
        task = f"{str(spec.entry_point).split(':')[0].split('.')[0]}:{spec.id}"
        task = {f"gymnasium_robotics:{name}": task for task, name in ROBOTS.items()}.get(task, task)
        told = {"task": task, "env_kwargs": spec.kwargs | {"max_episode_steps": spec.max_episode_steps}}
    required = "\n".join(about.get("requirements", []))
    told["versions"] = dict(re.findall(r"^([\w-]+)==(.+)$", required, re.MULTILINE))
    return episodes, told


READERS = {"minari": read_minari, "ogbench": read_ogbench, ".pkl": read_pickle, ".npz": read_ours}


def load(source, args, split):
    """The episodes of a source, each with one desired goal, and what it says of itself."""
    kind, _, name = source.rpartition(":")
    try:
        episodes, told = READERS[kind or Path(name).suffix](name, args)
    except Exception as error:  # a damaged or foreign file raises one of many kinds
        fail(f"--source {source}: cannot be read ({type(error).__name__}: {error}); see --help for what can")
    pieces, before = [], sum(len(episode["actions"]) for episode in episodes)
    for k, episode in enumerate(episodes):
        goals, last = episode["desired_goals"], len(episode["observations"]) - 1
        if len(episode["actions"]) - last not in (0, 1):
            fail(f"--source {source}: episode {k}: {len(goals)} states and {len(episode['actions'])} actions")
        changes = np.flatnonzero((goals[1 : last + 1] != goals[:last]).any(-1)) + 1
        if len(changes) and not args.split_goals:
            where = f"--source {source}: the desired goal changes within episode {k}, at state {changes[0]}"
            why = "in Minari's PointMaze sets the first state has the goal of the episode before (Minari#265)"
            fail(f"{where}; {why}. --split-goals cuts episodes there and drops a state alone with its goal")
        for start, end in zip([0, *changes], [*changes, last], strict=True):
            if end - start < 1 or end - start == 1 and len(changes):
                continue
            piece = {"source": split == "expert", "seeds": -1} | episode
            piece |= {name: episode[name][start : end + 1] for name in STATES[:2]}
            piece |= {"desired_goals": goals[start], "actions": episode["actions"][start:end]}
            if "success" in episode and end - start < last:
                del piece["success"]
            pieces.append(piece | ({"seeds": -1} if start else {}))
    dropped = before - sum(len(piece["actions"]) for piece in pieces)
    if dropped:
        print(f"{source}: {dropped} of {before} transitions dropped: no next state, or alone with their goal")
    return pieces, told | {"source": source, "dropped_transitions": dropped}


# --- one dataset of them
def make_env(task, kwargs):
    try:
        return gym.make(f"paper/{task}" if task in (*TASKS, *OGBENCH) else task, **kwargs)
    except (gym.error.Error, ImportError) as error:
        fail(f"--task {task}: {error}")


def stack(episodes, env):
    """The arrays of our format, and how many actions lie outside the action space."""
    spaces, box, reward = env.observation_space, env.action_space, env.get_wrapper_attr("compute_reward")
    lengths, rows = np.array([len(episode["actions"]) for episode in episodes]), []
    for episode, length in zip(episodes, lengths, strict=True):
        achieved, goal = episode["achieved_goals"][1:].astype(float), episode["desired_goals"].astype(float)
        goals, beyond = np.repeat(goal[None], length, 0), lengths.max() - length
        if "success" not in episode:  # before goals are rounded
            episode["success"] = reward(achieved, goals, {}) >= reward(goals[:1], goals[:1], {})
        row = {name: np.pad(episode[name], [(0, beyond), (0, 0)], "edge") for name in STATES[:2]}
        row |= {"desired_goals": goal, "actions": np.pad(episode["actions"], [(0, beyond), (0, 0)])}
        row |= {"success": np.pad(episode["success"], (0, beyond))}
        rows.append(row | {name: episode[name] for name in ("source", "seeds")})
    types = {"observations": "f4", "achieved_goals": "f4", "desired_goals": "f4", "actions": "f4"}
    types |= {"success": "?", "source": "u1", "seeds": "i8"}
    arrays = {name: np.array([row[name] for row in rows], dtype) for name, dtype in types.items()}
    for name, space in {**{name: spaces[name[:-1]] for name in STATES}, "actions": box}.items():
        if arrays[name].shape[-1:] != space.shape:
            fail(
                f"--task: {env.spec.id} has {name} of shape {space.shape}, the data {arrays[name].shape[-1:]}"
            )
    outside = arrays["actions"]
    arrays["actions"] = outside.clip(box.low, box.high)
    clipped = int((np.abs(arrays["actions"] - outside) > 1e-5).any(-1).sum())
    return arrays | ({} if (lengths == lengths.max()).all() else {"lengths": lengths}), clipped


# --- writers
def write_pickle(path, arrays):
    if "lengths" in arrays:
        fail(f"--out {path}: this format has no episodes of different lengths")
    goals = np.repeat(arrays["desired_goals"][:, None], arrays["actions"].shape[1], 1)
    data = {"o": arrays["observations"], "ag": arrays["achieved_goals"], "g": goals, "u": arrays["actions"]}
    replace(path, lambda part: part.write_bytes(pickle.dumps(data)))


def write_ogbench(path, arrays):
    n, steps = arrays["actions"].shape[:2]
    lengths = arrays.get("lengths", np.full(n, steps))[:, None]
    inside, actions = np.arange(steps + 1) <= lengths, np.pad(arrays["actions"], [(0, 0), (0, 1), (0, 0)])
    rows = {"observations": arrays["observations"][inside], "actions": actions[inside]}
    rows |= {"terminals": (np.arange(steps + 1) == lengths)[inside]}
    content = io.BytesIO()
    np.savez_compressed(content, **rows)
    replace(path, lambda part: part.write_bytes(content.getvalue()))


def write_minari(dataset_id, arrays, manifest, env):
    """Rewards are the environment's; the metadata hold who acted in an episode, and the manifest."""
    import minari
    from minari.namespace import create_namespace, list_local_namespaces
    from minari.storage import get_dataset_path

    reward, n = env.get_wrapper_attr("compute_reward"), len(arrays["actions"])
    lengths = arrays.get("lengths", np.full(n, arrays["actions"].shape[1]))

    def episode(k):
        length = lengths[k]
        o, achieved = (arrays[name][k, : length + 1] for name in STATES[:2])
        goals = np.repeat(arrays["desired_goals"][k : k + 1], length + 1, 0)
        return minari.data_collector.EpisodeBuffer(
            seed=int(arrays["seeds"][k]) if arrays["seeds"][k] >= 0 else None,
            observations={"observation": o, "achieved_goal": achieved, "desired_goal": goals},
            actions=arrays["actions"][k, :length],
            rewards=reward(achieved[1:], goals[1:], {}),
            terminations=np.zeros(length, bool),
            truncations=np.arange(length) == length - 1,
            infos={"is_success": np.append(False, arrays["success"][k, :length])},
        )

    if manifest["task"] in ROBOTS:  # a name that needs no envs/
        env = gym.make(f"gymnasium_robotics:{ROBOTS[manifest['task']]}")
    root = get_dataset_path()
    with tempfile.TemporaryDirectory(dir=root, prefix=".convert-") as folder:  # whole, or not there
        os.environ["MINARI_DATASETS_PATH"] = folder
        warnings.simplefilter("ignore", UserWarning)  # no author, address or evaluation environment given
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            tqdm(map(episode, range(n)), total=n, **bar_pace()),
            env=env,
            data_format="hdf5",
            requirements=[f"{name}=={x}" for name, x in manifest["versions"].items() if name != "python"],
        )
        who = [{"source": ("random", "expert")[code]} for code in arrays["source"]]
        dataset.storage.update_episode_metadata(who)
        dataset.storage.update_metadata({"manifest": json.dumps(manifest)})
        os.environ["MINARI_DATASETS_PATH"] = str(root)
        namespace = dataset.spec.namespace
        if namespace and namespace not in list_local_namespaces():
            create_namespace(namespace)
        Path(folder, dataset_id).rename(root / dataset_id)


def main():
    args = tyro.cli(tyro.conf.FlagCreatePairsOff[Args], description=__doc__)
    kind, _, name = args.out.rpartition(":")
    if kind not in ("", "minari", "ogbench") or kind != "minari" and not name.endswith((".npz", ".pkl")):
        fail(f"--out {args.out}: must be FILE.npz, FILE.pkl, minari:ID or ogbench:FILE.npz")
    path = Path(name)
    if kind == "minari":
        from minari.storage import get_dataset_path

        if not re.fullmatch(r"([\w-]{2,}/)*[\w-]+-v\d+", name):
            fail(f"--out {args.out}: Minari wants an ID such as minari:swapped/FetchPush/mixed-v0")
        path = get_dataset_path(name)
    if path.exists() and (kind == "minari" or not args.force):
        fail(f"--out {args.out}: is there already" + "; --force replaces it" * (kind != "minari"))

    parts = [load(args.source, args, args.split)]
    if args.random_source:
        parts.append(load(args.random_source, args, "random"))
    tasks = {told.get("task") for _, told in parts} - {None}
    if not args.task and len(tasks) != 1:
        why = parts[0][1].get("why_no_task", f"the sources say {sorted(tasks) or 'nothing'}")
        fail(f"--task: needed ({why}); name one of {', '.join(TASKS)}, or package:id of an environment")
    task = args.task or tasks.pop()
    kwargs = {} if args.task else parts[0][1].get("env_kwargs", {})
    env = make_env(task, kwargs)
    usual = gym.spec(env.spec.id)
    usual = usual.kwargs | {"max_episode_steps": usual.max_episode_steps}
    kwargs = {name: x for name, x in kwargs.items() if usual.get(name) != x}
    if kwargs:
        print(f"{task}: made with {kwargs}, kept as env_kwargs; give --task to do without")

    episodes, counts = [], {True: args.expert_episodes, False: args.random_episodes}
    for expert, count in counts.items():
        there = [x for part, _ in parts for x in part if bool(x["source"]) == expert]
        if count is not None and count > len(there):
            fail(f"--{'expert' if expert else 'random'}-episodes {count}: there are {len(there)}")
        episodes += there[:count]
    if not episodes:
        fail("--expert-episodes, --random-episodes: no episode is left")
    arrays, clipped = stack(episodes, env)
    manifest = make_manifest(arrays, task, {name: x for name, x in vars(args).items() if name != "force"})
    if parts[0][1].get("sha256") == manifest["sha256"]:
        manifest = {
            name: x for name, x in parts[0][1].items() if name not in ("source", "dropped_transitions")
        }
    else:
        versions = parts[0][1].get("versions", {})
        manifest |= {"env_kwargs": kwargs, "versions": versions, "converted_with": manifest["versions"]}
        manifest |= {"clipped_actions": clipped, "origin": [told for _, told in parts]}
    mujoco = manifest["versions"].get("mujoco", version("mujoco"))
    if mujoco != version("mujoco") and task != "PointMaze":
        print(f"{args.source}: made with mujoco {mujoco}, in which the same actions lead elsewhere than here")
    try:
        if kind == "minari":
            write_minari(name, arrays, manifest, env)
        elif kind == "ogbench":
            write_ogbench(path, arrays)
        elif path.suffix == ".pkl":
            write_pickle(path, arrays)
        else:
            save(path, arrays, manifest)
    except OSError as error:
        fail(f"--out {args.out}: {error}")


if __name__ == "__main__":
    main()
