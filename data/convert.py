"""Converts offline goal-conditioned data into the .npz format of collect.py, and that format into Minari's.

    python data/convert.py --source expert/buffer.pkl --random-source random/buffer.pkl --task FetchPush \\
        --expert-episodes 500 --random-episodes 2000 --out FetchPush.npz
    python data/convert.py --source FetchPush.npz --out minari:swapped/FetchPush/mixed-v0
    python data/convert.py --source play.npz --goal-dims 0:2 --task PointMaze --out PointMaze.npz

Sources:
    *.pkl        buffer.pkl of WGCSL (github.com/YangRui2015/AWGCSL) and GoFAR (github.com/JasonMa2016/GoFAR):
                 a dict of o, ag (N, T+1, dim) and g, u (N, T, dim). Nothing a pickle asks to call is called.
    minari:<id>  A local Minari dataset of observation, achieved_goal and desired_goal, the last constant in
                 an episode. Terminations are not kept.
    *.npz        OGBench's flat rows of observations, actions, terminals; qpos and qvel are left out. No
                 goals there: --goal-dims of the observation become the achieved goal, and a trajectory's last
                 achieved goal its desired goal, so every trajectory ends in success.
    *.npz        Ours, if it agrees with the hashes in its manifest and holds no other arrays. From it, and from
                 the Minari dataset made of it, everything comes back bit for bit, the manifest included.

Where a source does not say, success follows from the rule of --task's environment, before goals are rounded
to float32, and seeds are -1. Actions are clipped to the action space. If episodes differ in length there is
lengths (N,) int64; beyond its end an episode repeats its last observation, with zero actions and no success.
The manifest tells the "origin" of the data.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import signal
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from unittest import mock

import gymnasium as gym
import numpy as np
from collect import (ARRAYS, REPOSITORY, check_manifest, describe, foreign, other_mujoco, parse, sha256, with_manifest,
                     write)
from tqdm import tqdm

HAND = "HandManipulateBlockRotate"
TASKS = {"PointMaze": "PointMaze-v0", "FetchReach": "FetchReach-v4", "FetchPush": "FetchPush-v4",
         "FetchPick": "FetchPickAndPlace-v4", "FetchSlide": "FetchSlide-v4", "HandBlockZ": HAND + "Z-v1",
         "HandBlockParallel": HAND + "Parallel-v1", "HandBlockXYZ": HAND + "XYZ-v1",
         "HandEggRotate": "HandManipulateEggRotate-v1"}
PINNED = ("gymnasium", "gymnasium-robotics", "mujoco")


@dataclass
class Args:
    source: str  # what to read, see above: a .pkl or .npz file, or minari:<dataset id>
    out: str  # what to write: a .npz file, or minari:<dataset id> such as minari:swapped/FetchPush/mixed-v0
    task: str | None = None  # a task of the paper or a goal environment's id; by default what the source says
    split: Literal["expert", "random"] = "expert"  # who acted in --source, where it does not say so itself
    random_source: str | None = None  # a second source, of random episodes, put after those of --source
    expert_episodes: int | None = None  # take the first so many expert episodes; by default all
    random_episodes: int | None = None  # take the first so many random episodes; by default all
    goal_dims: str | None = None  # OGBench: which dimensions of the observation are the achieved goal, as 0:2
    force: bool = False  # replace the file --out; a Minari dataset is never replaced
    strict: bool = False  # fail, not warn, if the data were made with another mujoco version


def fail(message):
    """One line to stderr, exit status 2."""
    print(f"convert.py: error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


class Call:
    """What an unpickled file holds in place of the result of a call: its arguments, the state set later."""

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state


class ArrayUnpickler(pickle.Unpickler):
    """Calls nothing. numpy.ndarray(1, "O", some_bytes) alone makes an object of any address in memory."""

    names = {"numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "_codecs.encode",
             "numpy.core.multiarray.scalar", "numpy.core.numeric._frombuffer"}

    def find_class(self, module, name):
        wanted = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if wanted not in self.names:
            raise pickle.UnpicklingError(f"it wants to call {wanted!r}, but only arrays may be in it")
        return Call


def to_array(call):
    """The array of plain numbers that a pickle of numpy 1 or 2 describes."""
    if hasattr(call, "state"):
        _, shape, dtype, fortran, content = call.state
    elif len(call.args) == 4:  # protocol 5
        content, dtype, shape, fortran = *call.args[:3], call.args[3] == "F"
    else:
        raise ValueError("it holds something else in the place of an array")
    if isinstance(content, Call):  # protocols 0 to 2 hold bytes as text
        content = content.args[0].encode("latin1")
    code, order = dtype.args[0], dtype.state[1]
    if not re.fullmatch("b1|[iu][1248]|f[248]", code):
        raise ValueError(f"it holds an array of {code!r}, which are not plain numbers")
    numbers = np.frombuffer(content, np.dtype(code).newbyteorder(order))
    return numbers.reshape(shape, order="F" if fortran else "C")


def constant(goals):
    """(..., T, dim) -> (..., dim); ValueError if goals change within an episode."""
    if (goals != goals[..., :1, :]).any():
        raise ValueError("the desired goal changes within an episode")
    return goals[..., 0, :]


# The readers return arrays, among them lengths (N,) and perhaps success, source and seeds, and their origin.

def read_pickle(path):
    with open(path, "rb") as file:
        data = ArrayUnpickler(file).load()
    if not isinstance(data, dict) or not {"o", "ag", "g", "u"} <= data.keys():
        raise ValueError("it must hold a dict with o, ag, g and u")
    o, ag, g, u = (to_array(data[name]) for name in ("o", "ag", "g", "u"))
    steps = o.shape[1] - 1  # of as many actions as observations the last has no outcome: left out
    fit = [len(x) == len(o) and x.shape[1] - steps in (0, 1) for x in (g, u)]
    if ag.shape[:2] != o.shape[:2] or not all(fit):
        raise ValueError(f"o {o.shape}, ag {ag.shape}, g {g.shape} and u {u.shape} do not fit together")
    return {"observations": o, "achieved_goals": ag, "desired_goals": constant(g[:, :steps]),
            "actions": u[:, :steps], "lengths": np.full(len(o), steps)}, {"format": "WGCSL/GoFAR pickle"}


def read_ogbench(data, goal_dims):
    observations, ends = data["observations"], np.flatnonzero(data["terminals"])
    dims = re.fullmatch(r"(\d+):(\d+)", goal_dims or "")
    if not dims or not int(dims[1]) < int(dims[2]) <= observations.shape[-1]:
        fail(f"--goal-dims {goal_dims}: OGBench data hold no goals; say which dimensions of the observation "
             f"({observations.shape[-1]}) are the achieved goal, such as 0:2")
    lengths = np.diff(ends, prepend=-1) - 1  # the last action of a trajectory has no outcome
    if not len(ends) or ends[-1] != len(observations) - 1 or lengths.min() < 1:
        raise ValueError("it needs two or more rows per trajectory, and a terminal in the last row")
    if len(data["actions"]) != len(observations):
        raise ValueError(f"it has {len(data['actions'])} actions and {len(observations)} observations")
    rows = (ends - lengths)[:, None] + np.minimum(np.arange(lengths.max() + 1), lengths[:, None])
    achieved, actions = observations[rows, int(dims[1]):int(dims[2])], data["actions"][rows[:, :-1]]
    actions[np.arange(lengths.max()) >= lengths[:, None]] = 0  # beyond the end, where rows repeat the last one
    return {"observations": observations[rows], "achieved_goals": achieved, "desired_goals": achieved[:, -1],
            "actions": actions, "lengths": lengths}, {
            "format": "OGBench", "goals": f"none in the data: achieved goals are dimensions {goal_dims} of "
            "observations, the desired goal of a trajectory is its last achieved goal"}


def read_npz(path, goal_dims):
    with np.load(path, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files if name not in ("qpos", "qvel")}
    if "terminals" in data:
        return read_ogbench(data, goal_dims)
    if "manifest" not in data:
        raise ValueError("it has neither terminals, like OGBench's, nor a manifest, like ours")
    manifest = json.loads(str(data.pop("manifest")))
    check_hashes(data, manifest)
    if others := data.keys() - ARRAYS - {"lengths"}:
        raise ValueError(f"it holds {', '.join(sorted(others))} besides the arrays of our format, which would be lost")
    return {"lengths": np.full(len(data["actions"]), data["actions"].shape[1])} | data, {"manifest": manifest}


def import_minari():
    try:
        import h5py  # noqa: F401  which Minari itself only misses while it writes
        import minari
    except ImportError:
        fail('--source, --random-source or --out: Minari is missing: pip install "minari[hdf5]"')
    return minari


def read_minari(dataset_id, flag):
    try:
        dataset = import_minari().load_dataset(dataset_id)
    except FileNotFoundError:
        fail(f"{flag} minari:{dataset_id}: no such dataset on this machine; `minari list local` shows what "
             f"there is, `minari download {dataset_id}` gets a public one")
    about, manifest = dataset.storage.metadata, json.loads(dataset.storage.metadata.get("manifest", "null"))
    episodes = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
    columns = {"observations": [], "achieved_goals": [], "desired_goals": [], "actions": [], "success": []}
    for episode in tqdm(dataset, total=len(episodes), unit=" episodes", disable=None):
        columns["observations"].append(episode.observations["observation"])
        columns["achieved_goals"].append(episode.observations["achieved_goal"])
        columns["desired_goals"].append(constant(episode.observations["desired_goal"]))
        columns["actions"].append(episode.actions)
        if manifest:
            columns["success"].append(episode.infos["is_success"][1:])
    seeds = [seed if (seed := episode.get("seed", -1)) < 2**63 else -1 for episode in episodes]
    arrays = {"lengths": np.array([len(x) for x in columns["actions"]]), "seeds": np.array(seeds, np.int64)}
    for name, parts in columns.items():
        if parts:
            longest = max(len(part) for part in parts)
            arrays[name] = np.zeros((len(parts), longest, *parts[0].shape[1:]), parts[0].dtype)
            for row, part in zip(arrays[name], parts):
                row[:len(part)] = part
    if manifest:
        arrays["source"] = np.array([episode["source"] == "expert" for episode in episodes], np.uint8)
        check_hashes(pad(arrays), manifest)
        return arrays, {"manifest": manifest}
    origin = {"format": "Minari", "env_id": dataset.env_spec and dataset.env_spec.id}
    for name in {"author", "algorithm_name", "code_permalink", "requirements"} & about.keys():
        origin[name] = sorted(about[name]) if isinstance(about[name], set) else about[name]
    return arrays, origin


def pad(arrays):
    """Fills in what lies beyond the ends of episodes; leaves lengths out if none ends early."""
    lengths, step = arrays["lengths"][:, None], np.arange(arrays["actions"].shape[1] + 1)
    if (lengths == step[-1]).all():
        return {name: array for name, array in arrays.items() if name != "lengths"}
    inside, seen = step[:-1] < lengths, np.minimum(step, lengths)[..., None]
    return arrays | {"observations": np.take_along_axis(arrays["observations"], seen, axis=1),
                     "achieved_goals": np.take_along_axis(arrays["achieved_goals"], seen, axis=1),
                     "actions": np.where(inside[..., None], arrays["actions"], np.float32(0)),
                     "success": arrays["success"] & inside}


def check_hashes(arrays, manifest):
    check_manifest(manifest)
    for name in sorted(arrays.keys() | manifest["sha256"].keys()):
        if name not in arrays or manifest["sha256"].get(name) != sha256(arrays[name]):
            raise ValueError(f"{name} differs from the manifest, damaged or edited")


def read(source, split, goal_dims, flag):
    """A source's arrays, with source and seeds, and its origin. Fails on whatever cannot be read, naming the flag."""
    try:
        if source.startswith("minari:"):
            arrays, origin = read_minari(source.removeprefix("minari:"), flag)
        elif source.endswith(".pkl"):
            arrays, origin = read_pickle(source)
        elif source.endswith(".npz"):
            arrays, origin = read_npz(source, goal_dims)
        else:
            fail(f"{flag} {source}: must be a .pkl file, a .npz file or minari:<dataset id>")
        n = len(arrays["actions"])
        arrays = {"source": np.full(n, split == "expert", np.uint8), "seeds": np.full(n, -1)} | arrays
        for name in ("observations", "achieved_goals", "desired_goals"):
            if name not in arrays:
                raise ValueError(f"it lacks {name}")
        shapes = {"success": arrays["actions"].shape[:2], "lengths": (n,), "seeds": (n,), "source": (n,)}
        for name, array in arrays.items():
            if array.shape != (shape := shapes.get(name, (n, *array.shape[1:]))):
                raise ValueError(f"its {name} must have shape {shape}, not {array.shape}")
            if array.dtype.kind not in ("iu" if name in ("lengths", "seeds", "source") else "biuf"):
                raise ValueError(f"its {name} are no {'whole ' * (name in ('lengths', 'seeds', 'source'))}numbers")
        if (arrays["lengths"] < 1).any() or (arrays["lengths"] > arrays["actions"].shape[1]).any():
            raise ValueError(f"its lengths must lie between 1 and {arrays['actions'].shape[1]}")
        if "manifest" not in origin:
            origin["note"] = "not collected by us"
            if not source.startswith("minari:"):
                origin["sha256"] = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    except Exception as error:  # a damaged or foreign file raises one of many kinds
        fail(f"{flag} {source}: not a readable dataset ({type(error).__name__}: {error}); get it anew, or see --help "
             "for what can be read")
    return arrays, {"source": source} | origin


def choose(parts, args):
    """The parts with only the first episodes of either kind, as many as the flags ask for."""
    kinds = np.concatenate([part["source"] for part in parts])
    keep = np.zeros(len(kinds), bool)
    for kind, count in (("expert", args.expert_episodes), ("random", args.random_episodes)):
        there = np.flatnonzero(kinds == (kind == "expert"))
        if count is not None and not 0 <= count <= len(there):
            fail(f"--{kind}-episodes {count}: there are {len(there)} {kind} episodes")
        keep[there[:count]] = True
    if not keep.any():
        fail(f"--source {args.source}: no episodes are left")
    keep = np.split(keep, [len(parts[0]["source"])])
    return [{name: array[mask] for name, array in part.items()} for part, mask in zip(parts, keep)]


def task_of(name):
    """A task by its name or its environment's id, with a module before it or not, as algos/ know it; others as given."""
    known = {env_id: task for task, env_id in TASKS.items()}
    return name and known.get(re.sub("^(gymnasium_robotics|envs):", "", name), name)


def make_env(task):
    """The environment, its rule reached(achieved (B, dim), goal (B, dim)) -> bool (B,), rewards (there, elsewhere)."""
    try:
        if task == "PointMaze":
            sys.path.insert(0, str(REPOSITORY))
            import envs  # noqa: F401  registers PointMaze-v0
        elif TASKS.get(task, task) not in gym.registry and ":" not in task:
            # it prints a notice on other environments, and nothing is drawn here, so that no OpenGL is needed
            with contextlib.redirect_stderr(io.StringIO()), mock.patch.dict(os.environ, MUJOCO_GL="disable"):
                import gymnasium_robotics  # noqa: F401  registers the Fetch and Hand environments
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is a newer version of it
            env = gym.make(TASKS.get(task, task))
        compute_reward, obs = env.unwrapped.compute_reward, env.reset(seed=0)[0]
        start, goal, _ = obs["achieved_goal"], obs["desired_goal"], env.action_space.low
    except Exception as error:  # of whatever kind a module or an environment raises
        fail(f"--task {task}: no goal environment of this name ({error}); known: {', '.join(TASKS)}")
    try:  # as in algos/: a reward of two values, for whole batches
        on_the_way = np.stack([start, (start + goal) / 2, goal])
        *_, best = rewards = [float(r) for r in compute_reward(on_the_way, np.stack([goal] * 3), {})]
    except Exception as error:  # of whatever kind the environment raises
        fail(f"--task {task}: needs a compute_reward that takes whole batches ({error})")
    if len(rewards) != 3 or len(set(rewards)) > 2 or max(rewards) > best:
        fail(f"--task {task}: needs a sparse reward for whole batches, one value at the goal and a lower one elsewhere")
    lower = min({*rewards} - {best}, default=best - 1)  # none seen if the environment starts at its goal
    return env, lambda achieved, goal: np.asarray(compute_reward(achieved, goal, {})) >= best, (best, lower)


def finish(parts, env, reached, args):
    """The parts as arrays of the format, and how many actions were clipped. Fails on data that do not fit env."""
    spaces, box = env.observation_space, env.action_space
    for part, source in zip(parts, (f"--source {args.source}", f"--random-source {args.random_source}")):
        n, steps = part["actions"].shape[:2]
        for name, shape in {"observations": (n, steps + 1, *spaces["observation"].shape),
                            "achieved_goals": (n, steps + 1, *spaces["achieved_goal"].shape),
                            "desired_goals": (n, *spaces["desired_goal"].shape),
                            "actions": (n, steps, *box.shape)}.items():
            if part[name].shape != shape:
                fail(f"{source}: {name} {part[name].shape} must have shape {shape} for {env.spec.id}; is --task right?")
            with np.errstate(over="ignore"):
                if not np.isfinite(part[name].astype(np.float32)).all():
                    fail(f"{source}: {name} must be finite in float32; get it anew or leave such episodes out")
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    n, steps = arrays["actions"].shape[:2]
    if "success" not in arrays:
        achieved = arrays["achieved_goals"][:, 1:].astype(np.float64).reshape(n * steps, -1)
        goals = np.repeat(arrays["desired_goals"].astype(np.float64), steps, axis=0)
        arrays = arrays | {"success": reached(achieved, goals).reshape(n, steps)}
    actions = arrays["actions"].clip(box.low, box.high)
    clipped = int((np.abs(actions - arrays["actions"]) > 1e-5).any(-1).sum())
    arrays = arrays | {"actions": actions}
    types = {"observations": "f4", "achieved_goals": "f4", "desired_goals": "f4", "actions": "f4",
             "success": "?", "source": "u1", "seeds": "i8", "lengths": "i8"}
    return pad({name: np.ascontiguousarray(arrays[name], dtype) for name, dtype in types.items()}), clipped


def made_with(origin):
    """{package: version} of our manifest, or of the requirements that a Minari dataset names."""
    named = dict(re.findall(r"^([\w-]+)==(.+)$", "\n".join(origin.get("requirements", [])), re.MULTILINE))
    return named | origin.get("manifest", {}).get("versions", {})


def make_manifest(arrays, args, env, origins, clipped):
    """The manifest that came with the data if they are unchanged, else a new one that tells their origin."""
    known = origins[0].get("manifest", {})
    if known.get("sha256") == {name: sha256(array) for name, array in arrays.items()}:
        return known | {"task": args.task}
    manifest = describe(arrays, args, env.spec.id)
    if "lengths" in arrays:  # success in the last state of an episode, not at the end of its row
        last = np.take_along_axis(arrays["success"], arrays["lengths"][:, None] - 1, axis=1)[:, 0]
        for name, code in (("expert", 1), ("random", 0)):
            if manifest[name]["episodes"]:
                manifest[name]["success"] = float(last[arrays["source"] == code].mean())
    versions = {name: " and ".join(sorted({made_with(origin).get(name, "unknown") for origin in origins}))
                for name in PINNED}
    return manifest | {"versions": versions, "converted_with": manifest["versions"], "origin": origins,
                       "clipped_actions": clipped,
                       "success_rule": "as recorded" if known else f"recomputed with {env.spec.id}"}


def write_npz(path, arrays, manifest):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays, manifest=np.array(json.dumps(manifest)))
    write(with_manifest(path, content.getvalue(), manifest))


def write_minari(dataset_id, arrays, manifest, env, reached, rewards):
    """Creates the dataset in a hidden folder beside the others, then moves it to its place.

    Rewards are the environment's sparse ones and infos hold is_success (T+1,). The metadata of an episode say
    who acted ("source"); those of the dataset hold our manifest.
    """
    minari = import_minari()
    from minari.namespace import create_namespace, list_local_namespaces
    from minari.storage import get_dataset_path
    at_start = reached(arrays["achieved_goals"][:, 0], arrays["desired_goals"])
    lengths = arrays.get("lengths", np.full(len(at_start), arrays["actions"].shape[1]))

    def episode(i):
        n, success = lengths[i], arrays["success"][i, :lengths[i]]
        return minari.data_collector.EpisodeBuffer(
            seed=int(arrays["seeds"][i]) if arrays["seeds"][i] >= 0 else None,
            observations={"observation": arrays["observations"][i, :n + 1],
                          "achieved_goal": arrays["achieved_goals"][i, :n + 1],
                          "desired_goal": np.repeat(arrays["desired_goals"][i:i + 1], n + 1, axis=0)},
            actions=arrays["actions"][i, :n], rewards=np.where(success, *rewards), terminations=np.zeros(n, bool),
            truncations=np.arange(n) == n - 1, infos={"is_success": np.append(at_start[i], success)})

    root = get_dataset_path()
    with tempfile.TemporaryDirectory(dir=root, prefix=".convert-") as folder:
        with open(Path(folder, "space"), "wb") as file:  # is there room? HDF5 crashes if not
            for _ in range(sum(array.nbytes for array in arrays.values()) // 2**19 + len(lengths) // 32 + 1):
                file.write(bytes(2**20))
        os.remove(file.name)
        with mock.patch.dict(os.environ, MINARI_DATASETS_PATH=folder), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no author, address or evaluation environment given
            dataset = minari.create_dataset_from_buffers(
                dataset_id, tqdm(map(episode, range(len(lengths))), total=len(lengths), disable=None),
                env=env, data_format="hdf5", algorithm_name="see source in the metadata of each episode",
                description="Offline goal-conditioned data of {task}, float32: {expert[episodes]} expert and "
                            "{random[episodes]} random episodes.".format(**manifest),
                requirements=[f"{name}=={version}" for name, version in manifest["versions"].items()
                              if name in PINNED and re.fullmatch(r"\d[\w.]*", version)])
            who = ("random", "expert")
            dataset.storage.update_episode_metadata({"source": who[k]} for k in arrays["source"])
            dataset.storage.update_metadata({"manifest": json.dumps(manifest)})
        namespace = dataset.spec.namespace
        if namespace and namespace not in list_local_namespaces():
            create_namespace(namespace)
        os.rename(Path(folder, dataset_id), root / dataset_id)


def check_out(out, force):
    """Fails if --out cannot be written, before anything is read."""
    if out.startswith("minari:"):
        import_minari()
        from minari.dataset.minari_dataset import parse_dataset_id
        from minari.storage import get_dataset_path
        try:
            parse_dataset_id(out.removeprefix("minari:"))
        except (ValueError, TypeError):  # TypeError: without a version
            fail(f"--out {out}: a Minari id looks like swapped/FetchPush/mixed-v0, with a version at the end")
        try:
            there = get_dataset_path(out.removeprefix("minari:")).exists()
        except OSError as error:
            fail(f"--out {out}: Minari's folder cannot be made ({error}); name another with MINARI_DATASETS_PATH")
        if there:
            fail(f"--out {out}: is there already; name another version or delete it with `minari delete`")
    elif not out.endswith(".npz"):
        fail(f"--out {out}: must end in .npz or be minari:<dataset id>")
    elif not force and not os.path.exists(out) and (other := foreign(Path(out))):
        fail(f"--out {out}: its manifest would replace {other}, which is none; name another, or --force it")
    elif os.path.isdir(out):
        fail(f"--out {out}: is a folder; name a file")
    elif os.path.exists(out) and not force:  # unlike Path.exists without an error for a folder it may not enter
        fail(f"--out {out}: is there already; --force replaces it")


def convert(args):
    check_out(args.out, args.force)
    sources = [(args.source, args.split, "--source")]
    sources += [(args.random_source, "random", "--random-source")] * bool(args.random_source)
    parts, origins = zip(*[read(source, split, args.goal_dims, flag) for source, split, flag in sources])
    shapes = [{name: array.shape[1:] for name, array in part.items()} for part in parts]
    if shapes[0] != shapes[-1]:
        fail(f"--random-source {args.random_source}: its arrays differ from --source's in name or size")
    if args.goal_dims and not any(origin.get("format") == "OGBench" for origin in origins):
        fail(f"--goal-dims {args.goal_dims}: is for OGBench data, which {args.source} is not; leave it out")
    manifests = [origin.get("manifest", {}) for origin in origins]
    names = [task_of(manifest.get("task") or origin.get("env_id")) for origin, manifest in zip(origins, manifests)]
    if len({name for name in names if name}) > 1:
        fail(f"--random-source {args.random_source}: is of {names[1]}, --source of {names[0]}; name two of one task")
    for (source, _, _), origin, name in zip(sources, origins, names):
        versions = made_with(origin)
        if "mujoco" in versions and (message := other_mujoco(source, name, versions)):
            if args.strict:
                fail(f"--strict: {message}; install that version or get data made with this one")
            print(f"convert.py: warning: {message}", file=sys.stderr)
    parts = choose(parts, args)

    told = task_of(manifests[0].get("task"))
    task = task_of(args.task) or names[0]
    if not task:
        fail(f"--task: {args.source} does not say it; name {', '.join(TASKS)} or the id of an environment")
    if told not in (None, task):
        fail(f"--task {task}: {args.source} is of {told}")
    env, reached, rewards = make_env(task)
    arrays, clipped = finish(parts, env, reached, args)
    manifest = make_manifest(arrays, replace(args, task=task), env, origins, clipped)
    if args.out.startswith("minari:"):
        write_minari(args.out.removeprefix("minari:"), arrays, manifest, env, reached, rewards)
    else:
        write_npz(Path(args.out), arrays, manifest)
    for kind in ("expert", "random"):
        if manifest[kind]["episodes"]:
            print(f"{args.out}: {manifest[kind]['episodes']} {kind} episodes, mean return "
                  f"{manifest[kind]['return']:.1f}, success {manifest[kind]['success']:.2f}")


def main(argv=None):
    args = parse(Args, __doc__, fail, argv)
    # SIGTERM ends like Ctrl-C, through the clean-up of temporary files
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        convert(args)
    except KeyboardInterrupt:
        print(f"convert.py: interrupted, {args.out} is as it was", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:  # reading a source has a line of its own
        fail(f"--out {args.out}: {error.strerror or error}; free space there or name another place")


if __name__ == "__main__":
    main()
