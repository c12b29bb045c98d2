"""Results: one line per run in results/runs.jsonl, and the tables and figures that are built from those lines only.

    python results/report.py add runs/cpu/.../PointMaze/dqapg-swap/1 ...    adds finished runs
    python results/report.py                 rebuilds README.md, docs/{results,studies,runs}.md and results/plots/
    python results/report.py check           exit status 1 if one of them is out of date
    python results/report.py revalidate      clears stale cells if only comments changed, if only Normalizer changed and
                                             holds the same numbers on the task's data, or if the old and the new file,
                                             with the cell's flags, are the same bit for bit after 200 updates

A row is stale, and marked so in the tables, if its algorithm file has changed since; it counts in no verdict. Many
changes touch no number; `revalidate` shows it for a cell, and notes in its rows what was compared: nothing but the code
(0 updates), what Normalizer holds for the cell's own data (`inputs`), or a short run on the task's present data, with
all networks, optimizers and random states, every metric, and an evaluation. Statistics: compare.py; claims: claims.py;
tables: pages.py; figures: figures.py.
"""

import ast
import copy
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS = REPOSITORY / "results" / "runs.jsonl"
DATASETS = REPOSITORY / "data" / "datasets"
PAGES = REPOSITORY / "README.md", *(REPOSITORY / "docs" / f"{name}.md" for name in ("results", "studies", "runs"))
PLOTS = REPOSITORY / "results" / "plots"
PATHS = 18  # PointMaze episodes, two of each pair, whose paths a row of seed 1 holds
SHORT = {"updates": 200, "log-every": 50, "eval-every": 100, "eval-episodes": 2}  # with what revalidate() compares files
MACHINE_FREE = ("desired_goals", "success", "source", "seeds")  # arrays of a dataset, the same bits on every machine
DATASET_HASHES = {}  # of files that were read
# what may differ between runs that are summarised in one line of a table
NOT_A_SETTING = {"seed", "out", "resume", "overwrite", "track", "eval-every", "log-every", "checkpoint-every", "device",
                 "threads", "compile", "cuda-graphs", "dataset", "strict"}

# Data until 2026-11-25 (Fetch) and 2026-11-26 (Hand): their expert did not explore (`data/collect.py --task <task>
# --expert-noise 0 --expert-random-eps 0`), or held FetchPick's block too loosely. Runs on them are listed, those of the
# noiseless expert also compared with those on the data of now, but count nowhere else.
EARLIER = {"a09a2daaaf569ca19227ba77206ee766daae20cf30d7d401bce9311894383b50": "noiseless expert",  # FetchReach
           "5c9309dd3155a952c327ee1072bd932990352ac5f2153ebe963e3f3accefa8fa": "noiseless expert",  # FetchPush
           "9d8bddef87d290594ded922c3a965870186d310bb5b9cf86ff1658005a2efdc1": "noiseless expert",  # FetchPick
           "e1f664175a91059bf173d40dcce3c8e997d3a901dbffc840760b33be01f820c5": "noiseless expert",  # FetchSlide
           "04e3e16591049293dd647e4a6309bf29fc6ec91c05bcc1e2f5f4004132fff2aa": "noiseless expert",  # HandBlockZ
           "04f03fe161432c2f044301fbb28e6f55b6d7caf6ba4e49020453ae56f5aaae1e": "noiseless expert",  # HandBlockZ
           "ce28757757c698c8f553f5d2216c12d9cfebbe5917e04eb1ee8d0c8de4d89588": "noiseless expert",  # HandBlockParallel
           "fd5954ef1da2963cd01e292593da9edb2894803421c8cf4e98b25f8920c48bf4": "noiseless expert",  # HandBlockXYZ
           "399e943ca58fc909c39b87437e1508bc16753e1a498a83e2a29ed7ee135630bb": "noiseless expert",  # HandEggRotate
           "0804b0a23c985ad4823dfe06ea106178827ffcb5458fc362dfe1aa4621ffd763": "loose expert"}  # FetchPick


def fail(message):
    """One line to stderr, exit status 2."""
    print(f"report.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def read_rows():
    """All rows, as dicts."""
    rows, lines = [], {}
    for number, line in enumerate(ROWS.read_bytes().splitlines() if ROWS.exists() else [], 1):
        try:
            rows.append(json.loads(line))
            if "data" not in rows[-1]:  # of a clone from before
                rows[-1]["data"] = data_of_run(rows[-1], rows[:-1])
            check_row(rows[-1])
            first = lines.setdefault(key(rows[-1]), number)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            fail(f"{ROWS}, line {number}: not a result row ({error!r}); remove that line, or take it from git")
        if first != number:
            fail(f"{ROWS}, line {number}: is of the same run as line {first}; remove one of them")
    return rows


def check_row(row):
    """Raises one of the errors above if a part that the tables and figures need is missing or no number."""
    key(row)
    if not (REPOSITORY / "algos" / f"{row['method']}.py").exists():
        raise ValueError(f"there is no algos/{row['method']}.py")
    flags, scores, episodes = row["flags"], row["scores"], row["episodes"]
    describe(row)
    texts = [flags["task"], row.get("protocol", ""), row["file_sha256"], row["dataset_sha256"], row["data"]]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("its task, protocol or a hash is no text")
    maze = flags["task"] == "PointMaze"
    names = ("return", "success", *(("seen_success", "unseen_success") if maze else ()))
    values = [row["updates"], flags["seed"], row["seconds"], row["updates_timed"], *(scores[name] for name in names),
              *episodes["return"], *map(int, episodes["success"])]
    values += [value for point in row["curve"] for value in point[:3 + maze]]
    if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError("a score is no finite number")
    if type(flags["swap"]) is not bool or not all(type(value) is int for value in (row["updates"], flags["seed"])) \
            or not row["curve"] or not episodes["return"]:
        raise ValueError("it has no episodes, no curve, or a flag of the wrong kind")
    if maze and not {*episodes["start"], *episodes["goal"]} <= {0, 1, 2}:
        raise ValueError("a start or goal is none of the maze's three")
    if not all(len(path) % 2 == 0 and all(type(value) is int for value in path) for path in row.get("paths") or ()):
        raise ValueError("a path is no list of positions")
    if len({len(episodes[name]) for name in ("return", "success", *(("start", "goal") if maze else ()))}) > 1:
        raise ValueError("its lists of episodes differ in length")


def setting(row):
    """The settings that define a cell of a table, as a hashable value."""
    unused = NOT_A_SETTING if row["flags"]["swap"] else NOT_A_SETTING | {"swap-source", "swap-batch"}
    return row["method"], tuple(sorted((k, str(v)) for k, v in row["flags"].items() if k not in unused))


def key(row):
    """A run, for the file that it was made with: there is one row of each."""
    return setting(row), row["flags"]["seed"], row["file_sha256"], row["data"]


def dataset_hashes(path):
    """Two SHA-256 of a dataset: of its bits, the rows' `dataset_sha256`, and of what it was made of, their `data`.

    The second is made_of() its manifest if the file stands where the collector puts it; any other is known by its bits.
    None if there is no file; ValueError and the like if it is damaged.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    if (version := (path, stat.st_mtime_ns, stat.st_size)) not in DATASET_HASHES:
        with np.load(path, allow_pickle=False) as file:
            manifest = dict(json.loads(str(file["manifest"]))) if "manifest" in file.files else {}
            hashes = manifest.get("sha256") or {
                name: hashlib.sha256(f"{file[name].dtype.str}{file[name].shape}".encode()
                                     + file[name].tobytes()).hexdigest() for name in file.files if name != "manifest"}
        own = path.resolve() == (DATASETS / f"{manifest.get('task')}.npz").resolve()
        DATASET_HASHES[version] = bits_of(hashes), own and made_of(manifest) or bits_of(hashes)
    return DATASET_HASHES[version]


def bits_of(hashes):
    """SHA-256 of a dataset from those of its arrays, {name: SHA-256}, as the scripts compute it."""
    return hashlib.sha256(bytes.fromhex("".join(hashes[name] for name in sorted(hashes)))).hexdigest()


def made_of(manifest):
    """SHA-256 of what a robot task's data was made of; None for a manifest that does not say it.

    That is: environment, versions, the collector's arguments (but those of 0, which older manifests lack), the expert's
    weights, and the arrays that agree between machines. Hand data that two machines collect with one command differ in
    the last bits of the other arrays, and are the same data here.
    """
    try:
        parts = [*(manifest[name] for name in ("format", "task", "env_id", "horizon")),
                 *(manifest["versions"][name] for name in ("mujoco", "gymnasium-robotics")),
                 {name: value for name, value in manifest["arguments"].items() if value},
                 manifest["expert"]["sha256"], *(manifest["sha256"][name] for name in MACHINE_FREE)]
        if {*manifest["sha256"]} != {*MACHINE_FREE, "observations", "achieved_goals", "actions"}:
            return None
    except (LookupError, TypeError, AttributeError):
        return None
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def on_card(task, bits):
    """What the dataset with these bits was made of, if it is that on the task's card in data/experts/; else None."""
    path = REPOSITORY / "data" / "experts" / f"{task}.json"
    manifest = json.loads(path.read_text()).get("dataset", {}) if path.exists() else {}
    return made_of(manifest) if manifest and bits_of(manifest["sha256"]) == bits else None


def add(folders):
    """Appends the finished runs in `folders` that are not there yet."""
    from compare import TASKS  # imports scipy
    rows = read_rows()
    known = {key(row): row for row in rows}
    for folder in map(Path, folders):
        try:
            row = json.loads((folder / "result.json").read_text())
            evaluations = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
        except (OSError, ValueError) as error:
            fail(f"{folder}: not a finished run ({error})")
        if not evaluations or evaluations[-1]["update"] != row["updates"]:
            fail(f"{folder}: result.json is of update {row['updates']}, the evaluations end elsewhere, as after a longer "
                 "run that was stopped; finish it with --resume")
        episodes = evaluations[-1]["episodes"]
        paths = final_paths(folder, row)
        # the benchmark's runs go to runs/<protocol>/<hash>[-<variant>]/
        protocol = re.fullmatch(r"runs/([\w.-]+)/[0-9a-f]{12}(-\w+)?", row["flags"].get("out", ""))
        row["data"] = data_of_run(row, rows)
        row["flags"] = {name: value for name, value in row["flags"].items() if name not in ("out", "dataset")}
        row |= {"commit": commit_of(row["method"], row["file_sha256"]),
                "curve": [[e["update"], e["return"], e["success"], e.get("unseen_success")] for e in evaluations],
                "first_returns": [episode["return"] for episode in evaluations[0]["episodes"]],
                "episodes": {name: [episode[name] for episode in episodes] for name in episodes[0] if name != "seed"}}
        row |= {"protocol": protocol[1]} if protocol else {}
        row |= {"paths": paths} if paths else {}
        row |= {"hardware": hardware(row["flags"].get("device", "cpu"))}
        row["versions"] = row.get("versions", {}) | {name: installed(name) for name in ("mujoco", "gymnasium-robotics")}
        try:
            check_row(row)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            fail(f"{folder}: the tables and figures cannot show this run ({error!r}); no row was added")
        if row["flags"]["task"] not in TASKS:
            fail(f"{folder}: is of {row['flags']['task']}, the tables show {', '.join(TASKS)}; no row was added")
        if key(row) not in known:
            known[key(row)] = row
            rows.append(row)
        elif paths and all(np.allclose(values, known[key(row)]["episodes"].get(name, np.nan), rtol=0, atol=1e-4)
                           for name, values in row["episodes"].items()):  # the same run again, for its paths in tenths
            known[key(row)].setdefault("paths", paths)
    save_rows(rows)


def data_of_run(row, rows):
    """What the dataset of a run was made of: by the rows with the same bits, its file, or its card; else its bits."""
    bits, task = row["dataset_sha256"], row["flags"]["task"]
    known = next((other["data"] for other in rows if other["dataset_sha256"] == bits != other["data"]), None)
    try:
        file = dataset_hashes(REPOSITORY / (row["flags"].get("dataset") or DATASETS / f"{task}.npz"))
    except Exception:  # damaged in one of many ways
        file = None
    return known or (file[1] if file and file[0] == bits != file[1] else on_card(task, bits) or bits)


def installed(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def hardware(device):
    """Processor, cores and, if the run was on one, GPU of this machine: runs are added where they were made."""
    found = {"cores": os.cpu_count(), "processor": platform.processor()}
    if Path("/proc/cpuinfo").exists():
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        found["processor"] = names[0] if names else found["processor"]
    if device.startswith("cuda"):
        import torch
        found["gpu"] = torch.cuda.get_device_name(device) if torch.cuda.is_available() else "not here"
    return found


def final_paths(folder, row):
    """Where the first episodes of the last evaluation go, replayed from the checkpoint: for each its positions in
    tenths, [x0, y0, x1, y1, ...], at every second step until it rests.

    None for other tasks than PointMaze, other seeds than 1, and if the replay does not give the run's returns.
    """
    flags = row["flags"]
    if flags["task"] != "PointMaze" or flags["seed"] != 1 or not (folder / "checkpoint.pt").exists():
        return None
    try:  # a picture: whatever is wrong with it must not lose the row
        import gymnasium as gym
        import torch
        if row["file_sha256"] != file_hash(row["method"]):
            return None
        spec = importlib.util.spec_from_file_location(row["method"], REPOSITORY / "algos" / f"{row['method']}.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        settings = module.DEFAULTS
        for group in vars(settings).values():
            for name, value in vars(group).items():
                new = flags[name.replace("_", "-")]
                setattr(group, name, tuple(new) if isinstance(value, tuple) else new)
        env, reached = module.make_env("PointMaze")
        data, _ = module.load_dataset(module.find_dataset("PointMaze", flags["dataset"] and Path(flags["dataset"])),
                                      "PointMaze", env)
        buffer = module.ReplayBuffer(data, settings.relabelling, reached, 1)
        agent_class, = (c for c in vars(module).values() if isinstance(c, type) and hasattr(c, "update")
                        and c.__module__ == spec.name and issubclass(c, torch.nn.Module))
        agent = agent_class(settings, module.Normalizer(buffer, env.action_space), env.spec.max_episode_steps,
                            torch.device("cpu"))
        agent.load_state_dict(torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)["agent"])
        count = flags["eval-episodes"]
        envs = gym.make_vec(env.spec.id, num_envs=count, vectorization_mode="vector_entry_point")
        episodes = module.evaluate(agent, envs, "PointMaze", reached, count, env.spec.max_episode_steps,
                                   torch.device("cpu"))
    except (Exception, SystemExit) as error:
        print(f"{folder}: no paths, its policy cannot be replayed ({type(error).__name__}: {error})", file=sys.stderr)
        return None
    last = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])["episodes"]
    if [episode["return"] for episode in episodes] != [episode["return"] for episode in last]:
        print(f"{folder}: no paths, the replay on this machine differs from the run", file=sys.stderr)
        return None
    paths = []
    for episode in episodes[:PATHS]:
        points = np.rint(10 * episode["path"][::2]).astype(int)
        moving = np.nonzero((points != points[-1]).any(1))[0]
        paths.append(points[:moving[-1] + 2 if len(moving) else 1].ravel().tolist())
    return paths


@contextmanager
def locked():
    """Rows are changed by one process at a time, on several machines too: benchmark.py takes the same lock."""
    (REPOSITORY / "runs").mkdir(exist_ok=True)
    with open(REPOSITORY / "runs" / ".rows.lock", "a") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def commit_of(method, sha):
    """The latest commit in which the method's file has this SHA-256; None if never committed, or without git."""
    return committed(method, sha)[0]


def committed(method, sha):
    """That commit and the file's content in it; None, b"" if there is none."""
    name = f"algos/{method}.py"
    if not shutil.which("git"):
        return None, b""
    log = subprocess.run(["git", "log", "--format=%H", "--", name], cwd=REPOSITORY, capture_output=True, text=True)
    for commit in log.stdout.split():
        content = subprocess.run(["git", "show", f"{commit}:{name}"], cwd=REPOSITORY, capture_output=True).stdout
        if hashlib.sha256(content).hexdigest() == sha:
            return commit, content
    return None, b""


def parse(content):
    """The syntax tree of what Python executes of a file's content: no comments, no docstrings."""
    tree = ast.parse(content)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            del node.body[0]
    return tree


def code_of(content):
    return ast.dump(parse(content))


def file_hash(method):
    """SHA-256 of a method's file as it is now."""
    return hashlib.sha256((REPOSITORY / "algos" / f"{method}.py").read_bytes()).hexdigest()


def same_code(row):
    """Does the method's present file differ from the row's in comments and docstrings only?"""
    content = committed(row["method"], row["file_sha256"])[1]
    now = (REPOSITORY / "algos" / f"{row['method']}.py").read_bytes()
    return bool(content) and code_of(content) == code_of(now)


def same_inputs(row):
    """Where the files differ in Normalizer.__init__ only: does it hold the same numbers for the row's data as before?

    If so, all networks see the same inputs, and a run of any length is the same. None, which says nothing: the files
    differ elsewhere too, the row's was never committed, or none of data/datasets/<task>*.npz is the row's data.
    """
    content = committed(row["method"], row["file_sha256"])[1]
    trees = [parse(text) for text in (content, (REPOSITORY / "algos" / f"{row['method']}.py").read_bytes())]
    sources = []
    for tree in trees:
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == "Normalizer":
                sources.append(ast.unparse(node))
                node.body = [part for part in node.body if getattr(part, "name", "") != "__init__"]
    if len(sources) < 2 or ast.dump(trees[0]) != ast.dump(trees[1]):
        return None
    try:
        for path in sorted(DATASETS.glob(f"{row['flags']['task']}*.npz")):
            bits, made_of = dataset_hashes(path)
            if row["dataset_sha256"] == bits or row["data"] == made_of:
                old, now = (normalised(source, row["flags"]["task"], path) for source in sources)
                return old == now
    except (Exception, SystemExit) as error:  # a damaged file raises one of many kinds, the script's own check the last
        print(f"{row['method']}, {describe(row)}: {error}", file=sys.stderr)
    return None


@functools.cache
def method_module():
    """algos/dqapg.py, for its shared blocks, which are those of all methods."""
    spec = importlib.util.spec_from_file_location("dqapg", REPOSITORY / "algos" / "dqapg.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def task_data(task, path):
    """The replay buffer of a dataset and the action space of its task."""
    module = method_module()
    env, reached = module.make_env(task)
    data, _ = module.load_dataset(path, task, env)
    return module.ReplayBuffer(data, module.Relabelling(), reached, 0), env.action_space


@functools.cache
def normalised(source, task, path):
    """All that a Normalizer of this source holds for a dataset, and what making it leaves of buffer and randomness."""
    import torch
    names = dict(vars(method_module()))
    exec(source, names)
    torch.manual_seed(0)
    buffer, action_space = task_data(task, path)
    buffer = copy.deepcopy(buffer)
    held = vars(names["Normalizer"](buffer, action_space))
    arrays = {name: hashlib.sha256(value.tobytes()).digest() for name, value in vars(buffer).items()
              if isinstance(value, np.ndarray)}
    return plain([held, torch.get_rng_state(), buffer.rng.bit_generator.state, arrays])


def run_again(folder, row, content):
    """Makes a short run on the CPU with a row's flags and a method's file of this content, in an empty folder.

    Returns all settings of the run, and what it came to: metrics, evaluation, checkpoint. ValueError if it fails.
    """
    (folder / "algos").mkdir(parents=True)
    (folder / "algos" / f"{row['method']}.py").write_bytes(content)
    (folder / "envs").symlink_to(REPOSITORY / "envs")
    flags = row["flags"] | SHORT | {"threads": row["threads"], "resume": False, "overwrite": False, "track": False,
                                    "dataset": DATASETS / f"{row['flags']['task']}.npz", "device": "cpu"}
    flags |= {"cuda-graphs": False} if "cuda-graphs" in flags else {}  # a GPU, if the run was on one, may not be here
    words = [word for k, v in flags.items() for word in (
        [f"--{k}"] if v is True else [f"--no-{k}"] if v is False else [f"--{k}", *map(str, v)]
        if isinstance(v, (list, tuple)) else [f"--{k}={v}"])]
    done = subprocess.run([sys.executable, f"algos/{row['method']}.py", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    import torch
    run = next((folder / "runs").glob("*/*/*"))
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state = {name: value for name, value in state.items() if name != "flags"}
    return json.loads((run / "settings.json").read_text()), [
        *((run / name).read_text() for name in ("metrics.jsonl", "evaluations.jsonl")), plain(state)]


def plain(value):
    """The same with the bytes of each tensor in its place, so that == compares bit for bit."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return (str(value.dtype), value.numpy().tobytes()) if hasattr(value, "numpy") else value


def same_run(row):
    """Do the row's file, taken from git, and the method's present file make the same short run with the row's flags?

    If so: the settings of the new run, those that the row does not know with their defaults. If not: None.
    """
    old = committed(row["method"], row["file_sha256"])[1]
    new = (REPOSITORY / "algos" / f"{row['method']}.py").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        try:
            if not old:
                raise ValueError("the file of the run was never committed")
            (_, before), (flags, after) = (run_again(Path(folder) / name, row, content)
                                           for name, content in (("old", old), ("new", new)))
        except ValueError as error:
            print(f"{row['method']}, {describe(row)}: {error}", file=sys.stderr)
            return None
    return flags if before == after else None


def revalidate():
    """Clears stale cells whose new file differs in comments only, or gives the same inputs, or the same short run."""
    cells, changed = {}, {}
    for row in read_rows():
        if row["file_sha256"] != file_hash(row["method"]):
            cells.setdefault((setting(row), row["file_sha256"], row["data"]), []).append(row)
    now = {group[0]["method"]: file_hash(group[0]["method"]) for group in cells.values()}  # before any run starts
    settled = {}  # without a run
    for at, group in cells.items():
        if same_code(group[0]):
            settled[at] = group[0]["flags"], {"updates": 0}, "as only comments changed"
        elif (same := same_inputs(group[0])) is not None:
            settled[at] = (group[0]["flags"] if same else None, {"updates": 0, "inputs": "same"},
                           "in what its networks see")

    def look(at):
        return settled.get(at) or (same_run(cells[at][0]), {"updates": SHORT["updates"]},
                                   f"after {SHORT['updates']} updates")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for group, (flags, compared, what) in zip(cells.values(), pool.map(look, cells)):
            first = group[0]
            print(f"{first['method']}, {first['flags']['task']}, {describe(first)}: {'same' if flags else 'differs'}, "
                  f"{what}", flush=True)
            for row in group if flags and now[first["method"]] == file_hash(first["method"]) else []:
                known, before = {"out": "", "dataset": ""} | row["flags"], key(row)
                row["flags"] |= {name: value for name, value in flags.items() if name not in known}
                row.setdefault("revalidated", []).append({"from": row["file_sha256"], **compared})
                row["file_sha256"] = now[row["method"]]
                changed[before] = row
    with locked():  # rows that were added meanwhile stay
        rows = read_rows()
        there, kept = {key(row) for row in rows}, []
        for row in rows:
            new = changed.get(key(row), row)
            if new is row or key(new) not in there:  # it may have run again since, or twice before
                there.add(key(new))
                kept.append(new)
        save_rows(kept)


def save_rows(rows):
    temporary = ROWS.with_name(f".{ROWS.name}.part")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, ROWS)


CLIPS = {"awr": 20, "crr": 20, "gofar": 10, "wgcsl": 10}  # default --weight-clip of those with another than 100


def describe(row):
    """What distinguishes a cell beyond method and swap."""
    flags = row["flags"]
    parts = [EARLIER[row["dataset_sha256"]]] if row.get("dataset_sha256") in EARLIER else []
    parts += [flags["variant"]] if "variant" in flags else []
    parts += [f"alpha {flags['alpha']:g}"] if "alpha" in flags else []
    parts += [f"{name} {flags[name]}" for name in ("weight", "advantage", "divergence", "expectile", "samples")
              if name in flags]
    parts += ["gaussian"] if flags.get("policy") == "gaussian" else []
    usual = {"gamma": 1, "her-ratio": 0.5, "lr": 1e-3, "target-every": 10, "weight-clip": CLIPS.get(row["method"], 100)}
    parts += [f"{name} {flags[name]:g}" for name, value in usual.items()
              if flags.get(name, value) != value or name == "lr" and row["method"] == "cql"]  # its default is another
    batch = flags["batch-size"]
    if flags["swap"]:
        parts += [f"{flags['swap-source']} goals",
                  f"{batch // 2} + {batch // 2}" if flags["swap-batch"] == "equal" else f"{batch} + {batch}"]
        parts += [f"filter {flags['swap-filter']}"] if flags.get("swap-filter", "none") != "none" else []
    elif batch != 512:
        parts.append(f"batch {batch}")
    return ", ".join([*parts, flags["precision"]])


def table(rows, task):
    """A Markdown table of all runs on one task: means over seeds, and the spread over seeds."""
    cells = {}
    for row in rows:
        if row["flags"]["task"] == task:
            cells.setdefault((row.get("protocol", ""), setting(row), row["file_sha256"], row["data"]),
                             []).append(row)
    maze = task == "PointMaze"
    lines = ["| method | swap | settings | protocol | updates | seeds | return | at the best evaluation | " + (
        "success, demonstrated pairs | success, other pairs |" if maze else "success |"),
        "|---|---|---|---|---|---|---|---|---|" + "---|" * maze]

    def spread(values):
        return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else f"{values[0]:.2f}"

    for (protocol, _, sha, _), group in sorted(cells.items(), key=lambda item: (
            item[1][0]["method"], item[1][0]["updates"], describe(item[1][0]), item[0])):
        first = group[0]
        stale = "" if file_hash(first["method"]) == sha else ", stale"
        columns = [first["method"], "yes" if first["flags"]["swap"] else "no", describe(first) + stale, protocol,
                   f"{first['updates']:,}", str(len(group)), spread([row["scores"]["return"] for row in group]),
                   spread([max(point[1] for point in row["curve"]) for row in group])]
        columns += [spread([row["scores"][name] for row in group])
                    for name in (("seen_success", "unseen_success") if maze else ("success",))]
        lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines)


def pictures(planned):
    """The figures with their captions."""
    return "\n\n".join(f"![{file}](../results/plots/{file})\n\n{caption}" for file, (caption, _) in planned.items())


def parts(rows):
    """The generated parts by name, and the figures: {file: (caption, function that draws it)}."""
    import claims  # here and not above: they need scipy, which takes a second
    import compare
    import figures
    import pages
    current = {method: file_hash(method) for method in {row["method"] for row in rows}}
    results, earlier = (compare.Results([row for row in rows if EARLIER.get(row["dataset_sha256"]) == data],
                                        setting, current) for data in (None, "noiseless expert"))
    both = {"": results, ", noiseless expert": earlier}
    planned = figures.plan(results)
    tasks = [task for task in compare.TASKS if any(row["flags"]["task"] == task for row in rows)]
    return {"claims": claims.table(results), "claims_by_task": claims.by_task(results),
            "counted": claims.counted(results), "short": pages.short(results), "effects": pages.effects(results),
            "pairs": pages.pairs(results), "alphas": pages.alphas(both, rows, setting),
            "expectiles": pages.expectiles(results, rows, setting), "lengths": pages.lengths(both, rows, setting),
            "filters": pages.filters(both, rows, setting, current), "batches": pages.batches(both, rows, setting),
            "noiseless": pages.noiseless(results, earlier), "machines": pages.machines(rows, EARLIER),
            "figures": pictures(planned),
            "runs": "\n\n".join(f"## {task}\n\n{table(rows, task)}" for task in tasks),
            **{f"table{n}": pages.papers(results, n) for n in (2, 3, 4)}}, planned


def rebuilt(text, made):
    """A page's text with every part between `<!--table NAME-->` and `<!--end-->` rebuilt."""
    def fill(match):
        if match[2] not in made:
            fail(f"<!--table {match[2]}-->: no table of this name; known: {', '.join(made)}")
        return f"{match[1]}{made[match[2]]}\n{match[3]}"
    return re.sub(r"(<!--table (\w+)-->\n).*?(<!--end-->)", fill, text, flags=re.DOTALL)


def build(check):
    """Rebuilds pages and figures; with `check` only says whether they are up to date.

    A figure notes a hash of what it was drawn from, because its bytes depend on the version of matplotlib.
    """
    import figures
    from compare import TASKS
    from PIL import Image
    rows = read_rows()
    for number, row in enumerate(rows, 1):
        if row["flags"]["task"] not in TASKS:
            fail(f"{ROWS}, line {number}: there is no task {row['flags']['task']}; remove that line, or take it from git")
    made, planned = parts(rows)
    source = hashlib.sha256(ROWS.read_bytes() if ROWS.exists() else b"")
    source.update(json.dumps(made, sort_keys=True).encode() + Path(figures.__file__).read_bytes())
    old = {}
    for page in PAGES:
        text = page.read_text()
        if (new := rebuilt(text, made)) != text:
            old[page] = new
    drawn = {}
    for file in PLOTS.glob("*.png"):
        with Image.open(file) as image:
            drawn[file.name] = image.info.get("Source")
    stale = sorted({*planned} ^ {*drawn} | {name for name in drawn if drawn[name] != source.hexdigest()})
    if check:
        for name in [*map(str, old), *stale]:
            print(f"{name}: out of date, python results/report.py rebuilds it")
        sys.exit(bool(old or stale))
    for page, text in old.items():
        page.write_text(text)
    PLOTS.mkdir(exist_ok=True)
    for name in {*drawn} - {*planned}:
        (PLOTS / name).unlink()
    for name in sorted({*stale} & {*planned}):
        figures.write(planned[name][1](), PLOTS / name, source.hexdigest())


def main():
    command = sys.argv[1:2] or ["build"]
    if command == ["add"]:
        with locked():
            add(sys.argv[2:])
    elif command == ["revalidate"]:
        revalidate()
    elif command not in (["build"], ["check"]):
        fail(f"{command[0]}: unknown; add, check, revalidate or nothing")
    build(command == ["check"])


if __name__ == "__main__":
    main()
