"""The runs of the benchmark: lists them, skips those that have a row in results/runs.jsonl, runs the rest.

A run is one line of the tables on one task, with or without goal swapping, with one seed. It has a row if
there is one with its settings and with the VERSION of the method's file. Runs go to
runs/<protocol>/<line>-v<VERSION>/. That folder may be deleted, which loses unfinished runs only.
Flags after -- go to every run.
"""

import fcntl
import functools
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import tyro

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "data"))
from tools import METHODS, OGBENCH, TASKS, Method, fail, load_method, replace  # noqa: E402

ROWS = REPOSITORY / "results" / "runs.jsonl"
HAND = [task for task in TASKS if task.startswith("Hand")]

# Seeds and flags of each protocol, by task; "": all other tasks. "cpu" takes two cores about two days.
# FetchReach is learned after 3,000 updates. Returns on the Hand tasks spread widely, so 100 episodes.
# PointMaze has 20 of each of its nine pairs of start and goal. OGBench's tasks run if --tasks names them.
PROTOCOLS = {
    "paper": {"": (10, {"updates": 500_000, "precision": "fp32"})},  # Sec. 5
    "cpu": {
        "": (3, {"updates": 20_000, "eval_every": 5_000}),
        "PointMaze": (5, {"updates": 15_000, "eval_every": 2_500, "eval_episodes": 180}),
        "FetchReach": (3, {"updates": 5_000, "eval_every": 1_000}),
        **dict.fromkeys(HAND, (3, {"updates": 20_000, "eval_every": 5_000, "eval_episodes": 100})),
        **dict.fromkeys(OGBENCH, (3, {"updates": 20_000, "eval_every": 5_000, "gamma": 0.99})),
    },
}
# Lines of the tables that are not a file of algos/ with its defaults: file, name in tables, flags. The
# paper's numbers of WGCSL fit the copy in GoFAR's code of before October 2022; those of AM are of that code
# too. Their authors' own methods stand beside them.
GOFAR = {"her_ratio": 1.0, "gamma": 0.98}
LINES = {
    "awac": ("awac", "AWAC", {}),
    "awac-rlkit": ("awac", "AWAC rlkit", {"weight": "softmax", "temperature": 0.5}),
    "wgcsl": ("wgcsl", "WGCSL", GOFAR | {"variant": "gofar-2022"}),
    "wgcsl-repaired": ("wgcsl", "WGCSL repaired", GOFAR | {"variant": "gofar"}),
    "wgcsl-official": ("wgcsl", "WGCSL official", {}),
    "am": ("am", "AM", {}),
    "am-official": ("am", "AM official", {"variant": "official", "her_ratio": 1.0}),
}
# CQL's authors' batch of 256 and 4 samples of each kind make it nearly five times as fast; see docs/cql.md.
PROTOCOL_FLAGS = {("cpu", "cql"): {"batch_size": 256, "samples": 4, "lr": 0.001, "weight": 0.5}}

# Settings in which the runs of one cell may differ. Where fp32 and bf16 were both run, they end level.
FREE = {"seed", "out", "resume", "track", "log_every", "eval_every", "checkpoint_every", "device", "threads"}
FREE |= {"cuda_graphs", "precision"}
SET_HERE = ("task", "swap", "seed", "out", "resume", "threads")  # by the benchmark, for each run
ARRAY = 1000  # runs in one job array: Slurm's default MaxArraySize is 1001

Run = namedtuple("Run", "line task swap seed cell folder words")


@functools.cache
def lines():
    """All lines of the tables: {line: (file in algos/, Method, flags)}. METHODS need not have every file."""
    found = {}
    files = {path.stem for path in (REPOSITORY / "algos").glob("*.py")}
    for method in [*METHODS, *sorted(files - METHODS.keys())]:
        its = METHODS.get(method, Method(method, "", "optional"))
        own = {line: entry for line, entry in LINES.items() if entry[0] == method}
        for line, (_, name, flags) in (own or {method: (method, its.name, {})}).items():
            found[line] = method, its._replace(name=name), flags
    return found


@functools.cache
def version_and_defaults(method):
    module = load_method(method)
    return module.VERSION, vars(module.Args())


def cell_of(method, args):
    """What all runs of a cell have in common, as text. Settings that `args` lacks have their defaults."""
    args = version_and_defaults(method)[1] | args
    unused = {k for k in args if k.startswith("swap_") and not args["swap"]}
    return json.dumps([method, {k: v for k, v in args.items() if k not in FREE | unused}], sort_keys=True)


def read_rows():
    """Rows that count by cell and seed: {cell: {seed: row}}; stale ones, of another VERSION, do not."""
    found = {}
    for number, text in enumerate(ROWS.read_text().splitlines() if ROWS.exists() else [], 1):
        try:
            row = json.loads(text)
            method, args, number_then = row["method"], row["args"], row["version"]
        except (ValueError, LookupError, TypeError):
            fail(f"{ROWS}, line {number}: not a row; remove that line, its run adds it again")
        known = (REPOSITORY / "algos" / f"{method}.py").exists()
        if known and number_then == version_and_defaults(method)[0]:
            found.setdefault(cell_of(method, args), {}).setdefault(args["seed"], row)
    return found


def settings_of(line, task, swap, protocol, extra=()):
    """Number of seeds and all settings of the runs of a cell; extra: more flags, as words."""
    method, _, flags = lines()[line]
    seeds, more = PROTOCOLS[protocol].get(task) or PROTOCOLS[protocol][""]
    more = {k: v for k, v in more.items() if k in version_and_defaults(method)[1]}  # not all have a gamma
    flags = {"task": task, "swap": swap} | more | flags | PROTOCOL_FLAGS.get((protocol, line), {})
    if not extra:
        return seeds, version_and_defaults(method)[1] | flags
    config, usual = (tyro.conf.FlagCreatePairsOff,), load_method(method).Args(**flags)
    prog = f"flags after --, {method}.py"  # in tyro's own message, if they are wrong
    return seeds, vars(tyro.cli(type(usual), prog=prog, default=usual, args=list(extra), config=config))


def list_runs(options, extra):
    """All runs that are asked for. Every cell gets its first seed before any gets its second."""
    found = []
    for line in options.methods:
        method, its, _ = lines()[line]
        number, defaults = version_and_defaults(method)
        swaps = {"paper": (False, True), "optional": (False,), "no": (False,)}[its.swap]
        if options.swap and its.swap != "no":
            swaps = {"yes": (True,), "no": (False,), "both": (False, True)}[options.swap]
        elif options.swap == "yes":
            swaps = ()
        for task, swap in ((task, swap) for task in options.tasks for swap in swaps):
            plain = settings_of(line, task, swap, options.protocol)[1]
            seeds, args = settings_of(line, task, swap, options.protocol, extra)
            changed = {k: v for k, v in args.items() if v != plain[k] and k not in FREE}
            suffix = re.sub(r"[^\w.]+", "-", "".join(f"-{k}-{v}" for k, v in changed.items())).rstrip("-")
            out = Path("runs", options.protocol + suffix, f"{line}-v{number}")
            words = ["algos/" + method + ".py", "--task", task] + ["--swap"] * swap
            given = {k: v for k, v in plain.items() if v != defaults[k] and k not in ("task", "swap")}
            words += [word for k, v in given.items() for word in ("--" + k.replace("_", "-"), str(v))]
            for rank, seed in enumerate(options.seeds or range(1, seeds + 1)):
                folder = out / task / (method + "-swap" * swap) / str(seed)
                own = ["--seed", str(seed), "--threads", "1", "--out", str(out)]
                run = Run(line, task, swap, seed, cell_of(method, args), folder, (*words, *extra, *own))
                found.append(((rank, options.tasks.index(task)), run))
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


# --- rows
def row_of(run):
    """The row of a run, from the files in its folder; None if it has not reached its end."""
    try:
        settings = json.loads((run.folder / "settings.json").read_text())
        whole = (run.folder / "evaluations.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return None
    evaluations = {row["update"]: row for row in map(json.loads, whole)}
    first = {name: settings.pop(name) for name in ("method", "version", "data_sha256")}
    if settings["updates"] not in evaluations or cell_of(first["method"], settings) != run.cell:
        return None
    last = evaluations[settings["updates"]]
    curve = [[n, e["return"], e["success"], e.get("unseen_success")] for n, e in sorted(evaluations.items())]
    row = {"method": first["method"], "version": first["version"], "args": settings}
    row["data_sha256"] = first["data_sha256"]
    row |= {"scores": {k: v for k, v in last.items() if k not in ("update", "episodes")}, "curve": curve}
    row["episodes"] = {name: [int(e[name]) for e in last["episodes"]] for name in ("return", "success")}
    names = ("torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco")
    names += ("ogbench",) * (run.task in OGBENCH)
    row["versions"] = {"python": platform.python_version()} | {name: version(name) for name in names}
    if (run.line, run.task, run.seed) == ("dqapg", "PointMaze", 1) and run.folder.parts[1] in PROTOCOLS:
        row["paths"] = paths_of(run.folder)
    return row


def paths_of(folder):
    """For maze_paths.png: x0, y0, x1, y1, ... of 18 episodes, in tenths, every second step until it rests."""
    import gymnasium as gym
    import numpy as np
    import torch

    state = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
    module, settings = load_method("dqapg"), state["settings"] | {"device": "cpu"}
    args = module.Args(**{k: settings[k] for k in version_and_defaults("dqapg")[1]})
    agent = module.DQAPG(args, state["stats"], state["horizon"])
    agent.load_state_dict(state["agent"])
    envs = gym.make_vec("envs:paper/PointMaze", args.eval_episodes, vectorization_mode="vector_entry_point")
    module.evaluate(agent, envs, envs.unwrapped.compute_reward, args)
    paths = []
    for path in np.rint(10 * np.stack(envs.unwrapped.path, 1)[:18, ::2]).astype(int):
        moving = np.nonzero((path != path[-1]).any(1))[0]
        paths.append(path[: moving[-1] + 2 if len(moving) else 1].ravel().tolist())
    return paths


def machine(device):
    """Processor, cores and, if the run was on one, GPU of this machine."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", info.read_text() if info.exists() else "", re.MULTILINE)
    parts = [found[1] if found else platform.processor(), f"{os.cpu_count()} cores"]
    if device.startswith("cuda"):
        import torch

        parts.append(torch.cuda.get_device_name(device))
    return ", ".join(parts)


def add(run, row, seconds=None, here=False):
    """Adds a row. seconds: wall time, if this process saw the whole run; here: it ran on this machine."""
    row |= {"seconds": seconds, "machine": machine(row["args"]["device"]) if here else None}
    text = ROWS.read_text() if ROWS.exists() else ""
    replace(ROWS, lambda file: file.write_text(text + json.dumps(row) + "\n"))
    say(f"{label(run)}: return {row['scores']['return']:.2f}")


def say(message):
    print(time.strftime("%H:%M:%S"), message, flush=True)


def label(run):
    return f"{run.line}{'-swap' * run.swap} {run.task} seed {run.seed}"


# --- on this machine
def work(runs, jobs):
    """Runs them, `jobs` at a time. Exit status: 0, or 1 if a run has failed twice."""
    waiting, running, tries, failed = list(runs), {}, {}, []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                resume = ["--resume"] * (run.folder / "checkpoint.pt").exists()
                run.folder.parent.mkdir(parents=True, exist_ok=True)
                log = run.folder.with_suffix(".log")
                with log.open("a") as file:
                    try:  # the run inherits the lock and keeps it, whatever becomes of this process
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        say(f"{label(run)} still runs in another process: left to it")
                        continue
                    if not resume:  # killed before its first checkpoint
                        shutil.rmtree(run.folder, ignore_errors=True)
                    command = [sys.executable, *run.words, *resume]
                    pipes = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
                    process = subprocess.Popen(command, env=environment, **pipes)
                running[process] = run, log, None if resume else time.time()
                say(f"{label(run)} {'goes on' if resume else 'starts'}")
            time.sleep(0.1)
            for process in [process for process in running if process.poll() is not None]:
                run, log, began = running.pop(process)
                if row := row_of(run):
                    add(run, row, began and round(time.time() - began, 1), here=True)
                    say(f"{len(waiting)} runs wait, {len(running)} run, {len(failed)} failed")
                    continue
                text = log.read_text(errors="replace").strip()
                reason = f"exit status {process.returncode}, {text.splitlines()[-1] if text else ''} ({log})"
                tries[run.folder] = tries.get(run.folder, 0) + 1
                again = process.returncode != 2 and tries[run.folder] < 2  # 2: a setting is wrong
                (waiting if again else failed).append(run)
                say(f"{label(run)} failed{', to be tried once more' * again}: {reason}")
    except KeyboardInterrupt:
        return 130
    finally:  # stopped, they save checkpoints
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    for run in failed:
        say(f"FAILED {label(run)}, see {run.folder.with_suffix('.log')}")
    return int(bool(failed))


# --- on a cluster
def submit(runs, jobs):
    """Hands the runs to Slurm, as job arrays. A run that Slurm starts again goes on from its checkpoint."""
    folder = Path("runs", "slurm", time.strftime("%Y-%m-%d-%H%M%S")).resolve()
    folder.mkdir(parents=True)
    for first in range(0, len(runs), ARRAY):
        part, commands, script = runs[first : first + ARRAY], folder / f"{first}.txt", folder / f"{first}.sh"
        rows = [f"{run.folder}\t{shlex.join([sys.executable, *run.words])}\n" for run in part]
        commands.write_text("".join(rows))
        script.write_text(f"""#!/bin/bash
export OMP_NUM_THREADS=1 TQDM_DISABLE=1
IFS=$'\\t' read -r folder command < <(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(str(commands))})
mkdir -p "$folder"; exec 9>"${{folder%/*}}/${{folder##*/}}.lock"; flock -n 9 || exit 0  # it runs already
if [ -e "$folder/checkpoint.pt" ]; then command+=" --resume"; else rm -rf "$folder"; fi
eval exec "$command"
""")
        words = "sbatch --job-name=swapped-gcrl --open-mode=append --requeue --signal=B:TERM@120 --ntasks=1"
        words = [*words.split(), "--cpus-per-task=1", f"--array=1-{len(part)}" + f"%{jobs}" * bool(jobs)]
        words += [f"--chdir={REPOSITORY}", f"--output={folder}/{first}-%a.log", str(script)]
        if subprocess.run(words).returncode:
            fail(f"--slurm: sbatch refused the runs from number {first} on, see above")
    say(f"{len(runs)} runs submitted; when they have ended, the same command adds their rows")


# --- the command line
@dataclass
class Options:
    methods: str = ""  # for instance dqapg,wgcsl-official; by default all
    tasks: str = ""  # for instance PointMaze,FetchPush; by default all but OGBench's
    swap: Literal["both", "yes", "no"] | None = None  # by default as METHODS in data/tools.py says
    seeds: str = ""  # for instance 1,2,7-9; by default as many as the protocol has
    protocol: Literal["paper", "cpu"] = "cpu"  # number of seeds and flags: PROTOCOLS in results/benchmark.py
    jobs: int = 0  # runs at a time; by default one per core, with --slurm no limit
    dry_run: bool = False  # print the command of every run; # marks those that have a row
    slurm: bool = False  # submit the runs as job arrays; flags of sbatch as SBATCH_PARTITION, SBATCH_GPUS


def chosen(name, text, known):
    words = text.split(",") if text else list(known)
    for word in words:
        if word not in known:
            fail(f"--{name} {word}: is none of {', '.join(known)}")
    return [word for word in known if word in words]


def main():
    words = [*sys.argv[1:], "--"]
    extra, words = words[words.index("--") + 1 : -1], words[: words.index("--")]
    config = (tyro.conf.FlagCreatePairsOff,)
    options = tyro.cli(Options, args=words, prog="benchmark.sh", description=__doc__, config=config)
    os.chdir(REPOSITORY)
    options.methods = chosen("methods", options.methods, lines())
    tasks = sorted(TASKS, key="PointMaze".__ne__)  # it is the fastest
    options.tasks = chosen("tasks", options.tasks, [*tasks, *OGBENCH] if options.tasks else tasks)
    if not re.fullmatch(r"(\d+(-\d+)?(,\d+(-\d+)?)*)?", options.seeds):
        fail(f"--seeds {options.seeds}: give numbers and ranges, for instance 1,2,7-9")
    ranges = [list(map(int, part.split("-"))) for part in options.seeds.split(",") if part]
    if any(r[0] > r[-1] for r in ranges):
        fail(f"--seeds {options.seeds}: a range goes upwards")
    options.seeds = sorted({seed for r in ranges for seed in range(r[0], r[-1] + 1)})
    if options.jobs < 0:
        fail(f"--jobs {options.jobs}: must be positive")
    for word in extra:
        name = word.removeprefix("--").split("=")[0].replace("-", "_")
        if word.startswith("--") and name in SET_HERE:
            fail(f"{word} after --: the benchmark sets it for each run")
    runs, rows = list_runs(options, extra), read_rows()
    todo = [run for run in runs if run.seed not in rows.get(run.cell, ())]
    if options.dry_run:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for `| head`
        waiting = set(todo)
        for run in runs:
            done = "" if run in waiting else "# has a row: "
            print(f"{done}OMP_NUM_THREADS=1 {shlex.join(['python', *run.words])}")
        return 0
    say(f"{len(runs)} runs, {len(runs) - len(todo)} of them have a row")
    ended = {run: row for run in todo if (row := row_of(run))}  # on a cluster, or before a kill
    for run, row in ended.items():
        add(run, row)
    todo = [run for run in todo if run not in ended]
    if "--dataset" not in " ".join(extra):
        for task in dict.fromkeys(run.task for run in todo):  # or all that need it would collect it at once
            path = f"data/datasets/{task}.npz"
            command = [sys.executable, "data/collect.py", "--task", task, "--out", path]
            if not Path(path).exists() and subprocess.run(command).returncode:
                fail(f"{path}: could not be collected, see above")
    if options.slurm:
        return submit(todo, options.jobs) if todo else 0
    return work(todo, options.jobs or os.cpu_count())


if __name__ == "__main__":
    sys.exit(main())
