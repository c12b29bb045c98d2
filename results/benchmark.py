"""The runs of the benchmark: lists them, skips those with a row in results/runs.jsonl, starts the rest.

./benchmark.sh calls this file; see there for examples. A run belongs to a cell: method, task, with or without swapping,
seed. It has its row if there is one of the same settings, the same algorithm file and, where the dataset is there, the
same data. Runs go to runs/<protocol>/<12 digits of the algorithm file's SHA-256>[-<variant>]/, so that no run goes on
with changed code; that folder may be deleted, which loses unfinished runs only.

Several machines can share one repository folder, and Slurm's array tasks do: each run is locked by its process
(flock, which ends with the process, however that ends), and rows are added under a lock. A second benchmark on the
same machine and folder is refused, because two would only halve each other's speed.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import report
import tyro

REPOSITORY = Path(__file__).resolve().parents[1]
RUNS = Path("runs")  # relative to the repository, like every path in a command
TASKS = ("PointMaze", "FetchReach", "FetchPush", "HandBlockZ", "FetchPick", "FetchSlide", "HandBlockParallel",
         "HandBlockXYZ", "HandEggRotate")

# Number of seeds and flags of each protocol; for some tasks others. A protocol names one precision for all machines,
# or the cells of one table would not be comparable. cpu: bf16, because it is more than twice as fast on CPUs that
# have it and ended level with fp32 on PointMaze; without such a CPU it works too, slowly. 20,000 updates: without
# swapping an earlier DQAPG returned 22.2, 22.8 and 18.8 on HandBlockZ after 10,000, 20,000 and 30,000 (one seed), and
# the whole table takes two cores about two days as it is. FetchReach 5,000: eight methods were within a tenth of the
# expert by 3,000, and GCSL and WGCSL stood as high at 2,500 as at 15,000 (one seed each). 100 episodes on the Hand
# tasks, where returns spread widely. CQL passes 31 actions a transition through its critic, which takes an hour for
# 20,000 updates: its authors' batch of 256 and 4 samples of each kind for 10 make it nearly five times as fast. Its
# weight of 5 can raise values by 2.5 a step where a step costs 1, and with its step size of 3e-4 its temperature is
# slow to fall: on FetchPush it returned 4.0 after 5,000 updates, like a policy that never moves the block, with
# Table 5's 1e-3 5.4, with a weight of 0.5 as well, which is about 5 for rewards of -10, 10.7 (one seed; docs/cql.md).
# What is said of FetchReach and FetchPush here was seen on data of an expert that did not explore (docs/studies.md).
# paper: fp32, the scripts' default.
PROTOCOLS = {
    "paper": {"": (10, {"updates": 500_000, "eval-episodes": 50, "precision": "fp32"})},  # Sec. 5
    "cpu": {"": (3, {"updates": 20_000, "eval-episodes": 50, "eval-every": 5_000, "precision": "bf16"}),
            "PointMaze": (5, {"updates": 15_000, "eval-episodes": 180, "eval-every": 2_500, "precision": "bf16"}),
            "FetchReach": (3, {"updates": 5_000, "eval-episodes": 50, "eval-every": 1_000, "precision": "bf16"}),
            **dict.fromkeys((task for task in TASKS if task.startswith("Hand")),
                            (3, {"updates": 20_000, "eval-episodes": 100, "eval-every": 5_000, "precision": "bf16"}))}}
# Of one method, on all tasks of a protocol. WGCSL is run twice: as the code that the paper's column comes from has it
# (Ma et al.'s copy), and, as a stronger baseline, as its authors do.
PAPERS_WGCSL = {"variant": "gofar", "her-ratio": 1}
METHOD_FLAGS = {"paper": {"wgcsl": PAPERS_WGCSL},
                "cpu": {"wgcsl": PAPERS_WGCSL, "cql": {"batch-size": 256, "samples": 4, "lr": 0.001, "weight": 0.5}}}
FILES = {"wgcsl-official": "wgcsl"}  # in algos/, of those methods that have no file of their name

# Every method runs with and without swapping, except these. refused: the script does not take --swap. left out: it runs
# with swapping only if --swap yes or --swap both asks for it.
SWAPPING = {
    "gcsl": ("refused", "it clones actions, which lead to goals of their own trajectory only"),
    "am": ("refused", "it chains goals of its own in half of every batch"),
    "wgcsl": ("left out", "the paper does not swap it, for its own competing objective (Sec. 5)"),
    "gofar": ("left out", "the paper does not swap it, for its own competing objective (Sec. 5)"),
    "bcq": ("left out", "the paper has no result of it with swapping (Table 4)")}

# What runs first: (tasks, methods or None for all, seeds of each cell); then everything else. Within a step every cell
# gets its first seed before any gets its second.
ORDER = [(("PointMaze",), None, 10), (("FetchReach", "FetchPush"), None, 10),
         (("HandBlockZ",), ("dqapg", "td3bc", "awac", "cql", "gofar"), 2), (("FetchPick", "FetchSlide"), None, 10),
         (("HandBlockParallel", "HandBlockXYZ", "HandEggRotate"), ("dqapg", "td3bc"), 10)]

CELL_FLAGS = ("--task", "--swap", "--seed", "--out", "--resume", "--overwrite", "--threads")  # set for each run
ARRAY = 1000  # runs in one job array: Slurm's default MaxArraySize is 1001
GRACE = 300  # seconds before its time limit at which a Slurm job stops and queues again
POLL, WAIT, HEARTBEAT = 0.1, 2, 600  # seconds: looks at processes; tries a locked run again; says where it is


def fail(message):
    """One line to stderr, exit status 2."""
    print(f"benchmark.sh: error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(2)


def say(message):
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def lock(path):
    """The file, locked until it is closed or its processes end; None if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except BlockingIOError:
        file.close()
    except OSError as error:
        fail(f"{path}: this file system has no file locks ({error}); mount it with flock, or use another folder")


# --- the list of runs
@dataclass(eq=False)
class Cell:
    line: str  # as --methods names it
    method: str  # its file in algos/
    task: str
    swap: bool
    seed: int
    out: Path
    flags: dict  # all settings
    arguments: list  # words of its command besides task, swap, seed and out
    sha: str  # SHA-256 of the algorithm file
    attempt: int = 1
    not_before: float = 0.0
    anew: bool = False  # what is in its folder cannot be gone on with
    log_start: int = 0  # where the log of its latest attempt starts
    checkpoint_before: int | None = None  # time of its checkpoint before that

    def __post_init__(self):
        self.name = self.method + "-swap" * self.swap
        self.label = f"{self.line}{'-swap' * self.swap} {self.task} seed {self.seed}"
        self.folder = self.out / self.task / self.name / str(self.seed)
        self.log = self.folder.with_name(f"{self.seed}.log")
        self.setting = report.setting({"method": self.method, "flags": self.flags})

    def command(self):
        """Its words as they must be now: new, or going on from a checkpoint."""
        result, checkpoint = ((self.folder / name).exists() for name in ("result.json", "checkpoint.pt"))
        how = ["--overwrite" if result or self.anew else "--resume"] if result or checkpoint else []
        return [f"algos/{self.method}.py", "--task", self.task, *["--swap"] * self.swap, "--seed", str(self.seed),
                *self.arguments, "--threads", "1", "--out", str(self.out), *how]

    def matches(self, row):
        """Is it a row, or the result, of this run? Without the dataset, one of any data but those of before."""
        data = self.data()
        return (report.setting(row) == self.setting and row["flags"]["seed"] == self.seed
                and row["file_sha256"] == self.sha and (
                    row["dataset_sha256"] == data[0] or row.get("data") == data[1] if data else
                    row["dataset_sha256"] not in report.EARLIER))

    def data(self):
        """report.dataset_hashes of its dataset; None if that is not there."""
        path = Path(self.flags["dataset"] or f"data/datasets/{self.task}.npz")
        try:
            return report.dataset_hashes(path)
        except Exception as error:  # a damaged file raises one of many kinds
            fail(f"{path}: not a readable dataset ({error}); delete it, the next run collects it again")

    def finished(self):
        """Does its folder hold the complete results of this very run?"""
        try:
            row = json.loads((self.folder / "result.json").read_text())
            last = json.loads((self.folder / "evaluations.jsonl").read_text().splitlines()[-1])
            return self.matches(row) and last["update"] == row["updates"]
        except (OSError, ValueError, LookupError, TypeError):
            return False

    def file_changed(self):
        try:
            return report.file_hash(self.method) != self.sha
        except OSError:
            return True

    def checkpoint_time(self):
        path = self.folder / "checkpoint.pt"
        return path.stat().st_mtime_ns if path.exists() else None

    def updates_done(self):
        """As far as its log of metrics says."""
        try:
            with open(self.folder / "metrics.jsonl", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                return json.loads(file.read().split(b"\n")[-2])["update"]
        except (OSError, ValueError, LookupError):
            return 0


MODULES = {}


def settings_of(method, words):
    """All settings of a method's script that is called with these words."""
    try:
        if method not in MODULES:
            spec = importlib.util.spec_from_file_location(method, REPOSITORY / "algos" / f"{method}.py")
            module = sys.modules[method] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            MODULES[method] = module
        with redirect_stderr(io.StringIO()) as framed:
            flags = tyro.cli(tyro.conf.OmitArgPrefixes[MODULES[method].Settings], args=words,
                             default=MODULES[method].DEFAULTS).flags()
        return json.loads(json.dumps(flags))  # as in a row
    except SystemExit:
        message = re.sub("[╭╮╰╯│─]", " ", framed.getvalue()).split("For full helptext")[0]
        fail(f"flags after --, for algos/{method}.py: {message}")
    except Exception as error:  # whatever is wrong with a file
        fail(f"algos/{method}.py cannot be loaded ({type(error).__name__}: {error}); leave it out with --methods")


def protocol_words(extra):
    """The flags after -- that make their runs a protocol of its own: those that a table does not pool over."""
    words, kept = [], True
    for word in extra:
        if word.startswith("--"):
            name = word[2:].split("=")[0].replace("_", "-").removeprefix("no-")
            kept = name == "dataset" or name not in report.NOT_A_SETTING
        words += [word] * kept
    return words


def own_protocol(method, settings, plain, task):
    """Do flags after -- change a setting or the data of a run? With --alpha 1, the default, it belongs to its cell."""
    path, default = settings["dataset"], report.DATASETS / f"{task}.npz"
    return (report.setting({"method": method, "flags": settings}) != report.setting({"method": method, "flags": plain})
            or bool(path) and Path(path).resolve() != default.resolve())


def list_cells(methods, tasks, swap, seeds, protocol, extra, gpus=0):
    """The cells in the order in which they run."""
    cells, device = [], ["--device", "cuda", *["--cuda-graphs"] * ("--compile" not in extra)] * (gpus > 0)
    suffix = "".join(f"-{re.sub(r'[^A-Za-z0-9_.]+', '-', word).strip('-')}" for word in protocol_words(extra))
    if len(suffix) > 150:  # names of folders end at 255
        suffix = f"{suffix[:130]}-{hashlib.sha256(suffix.encode()).hexdigest()[:12]}"
    for line in methods:
        method = FILES.get(line, line)
        sha = report.file_hash(method)
        kind, _ = SWAPPING.get(method, ("", ""))
        swaps = [s for s in (False, True) if swap in (None, "both", "yes" if s else "no")
                 and not (s and (kind == "refused" or kind == "left out" and swap is None))]
        parsed = {}
        for task in tasks:
            number, flags = PROTOCOLS[protocol].get(task) or PROTOCOLS[protocol][""]
            own = METHOD_FLAGS[protocol].get(line, {})
            flags, version = flags | own, f"-{own['variant']}" if "variant" in own else ""
            plain = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
            arguments = plain + device + extra
            for words in map(tuple, (plain, arguments)):
                if words not in parsed:
                    parsed[words] = settings_of(method, words)
                    path = parsed[words]["dataset"]
                    if path and not Path(path).exists():
                        fail(f"--dataset {path}: does not exist; give a path from {REPOSITORY}, or from /")
            apart = own_protocol(method, parsed[tuple(arguments)], parsed[tuple(plain)], task)
            for rank, seed in enumerate(seeds or range(1, number + 1)):
                step = next((i for i, (its_tasks, its_methods, its_seeds) in enumerate(ORDER) if task in its_tasks
                             and (its_methods is None or method in its_methods) and rank < its_seeds), len(ORDER))
                for s in swaps:
                    cells.append(((step, rank, TASKS.index(task)), Cell(
                        line, method, task, s, seed,
                        RUNS / f"{protocol}{suffix * apart}" / (sha[:12] + version),
                        parsed[tuple(arguments)] | {"task": task, "swap": s, "seed": seed}, arguments, sha)))
    cells = [cell for _, cell in sorted(cells, key=lambda pair: pair[0])]
    once = {(cell.setting, cell.seed): cell for cell in reversed(cells)}  # flags after -- can make two versions one
    return [cell for cell in cells if once[cell.setting, cell.seed] is cell]


# --- rows
class Rows:
    """results/runs.jsonl as it is now: which cells have a row, and how long runs take."""

    def __init__(self):
        self.rows, self.runs = report.read_rows(), {}
        for row in self.rows:
            self.runs.setdefault((report.setting(row), row["flags"]["seed"], row["file_sha256"]), []).append(row)

    def have(self, cell):
        return any(map(cell.matches, self.runs.get((cell.setting, cell.seed, cell.sha), ())))

    def seconds_left(self, cell):
        """What is left of a run, from the latest three like it."""
        for like in (lambda row: (row["method"], row["flags"]["task"]) == (cell.method, cell.task),
                     lambda row: row["method"] == cell.method, lambda row: True):
            rates = [row["seconds"] / row["updates_timed"] for row in self.rows
                     if like(row) and row["updates_timed"]][-3:]
            if rates:
                return sum(rates) / len(rates) * (cell.flags["updates"] - cell.updates_done())
        return float("nan")


def add_row(cell):
    """Adds the row of a finished run; one process at a time, also over machines."""
    while (held := lock(RUNS / ".rows.lock")) is None:
        time.sleep(0.05)
    with held:
        report.add([cell.folder])


# --- on this machine
class Runner:
    """Runs cells, `jobs` at a time, until each has its row or has failed twice.

    array_task: this is one task of a Slurm array: it does not wait for others, and queues again before its time is up.
    """

    def __init__(self, cells, jobs, array_task=False):
        self.rows, self.cells, self.jobs, self.array_task, self.began = Rows(), cells, jobs, array_task, time.time()
        self.waiting = deque(cell for cell in cells if not self.rows.have(cell))
        self.running = {}  # process -> cell, its lock
        self.failed, self.no_data, self.signals = [], set(), []  # (cell, reason), tasks, what asked to stop
        say(f"{len(cells)} runs, {len(cells) - len(self.waiting)} of them have a row")

    def run(self):
        """Exit status: 0 all have a row, 1 some do not, 128 + number of the signal that stopped it."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda number, frame: self.signals.append(number))
        spoken, stopping = time.monotonic(), False
        try:
            while self.running or self.waiting and not self.signals:
                if self.signals and not stopping:
                    stopping = True
                    say("stopping; the runs save checkpoints")
                    self.terminate()
                while not self.signals and len(self.running) < self.jobs and (cell := self.next()):
                    self.start(cell)
                for process in [process for process in self.running if process.poll() is not None]:
                    self.end(process, *self.running.pop(process))
                if time.monotonic() - spoken > HEARTBEAT:
                    spoken = time.monotonic()
                    say(self.progress())
                time.sleep(POLL)
        finally:  # also when results/runs.jsonl turns out to be damaged; finished runs are kept in their folders
            self.terminate()
            for process in self.running:
                process.wait()
        for cell, reason in self.failed:
            say(f"FAILED {cell.label}: {reason}")
        if self.signals:
            return self.requeue() if self.array_task and signal.SIGUSR1 in self.signals else 128 + self.signals[0]
        say(f"{len(self.cells) - len(self.failed)} of {len(self.cells)} runs have a row"
            + "; the same command tries the others again" * bool(self.failed))
        return int(bool(self.failed))

    def terminate(self):
        for process in self.running:
            process.terminate()

    def next(self):
        """The first cell that may be tried now."""
        for cell in self.waiting:
            if cell.not_before <= time.time():
                self.waiting.remove(cell)
                return cell

    def start(self, cell):
        if cell.file_changed():
            return self.give_up(cell, f"algos/{cell.method}.py has changed meanwhile; call the benchmark again")
        if cell.task in self.no_data and cell.data() is None:
            return self.give_up(cell, "no dataset, see the first failed run of this task")
        held = lock(cell.folder.with_name(f".{cell.seed}.lock"))
        if held is None:  # it runs on another machine, or was left behind by a killed benchmark
            if self.array_task and time.time() > self.began + 60:
                return self.give_up(cell, "is running elsewhere")
            if not cell.not_before:
                say(f"{cell.label} is running elsewhere, waiting for its end")
            cell.not_before = time.time() + WAIT
            return self.waiting.append(cell)
        self.rows = Rows()  # others may have added some
        if self.rows.have(cell) or cell.finished():
            with held:
                return None if self.rows.have(cell) else self.add(cell)
        command = cell.command()
        cell.checkpoint_before = cell.checkpoint_time()
        with open(cell.log, "a") as log:
            print(f"+ {shlex.join(['python', *command])}", file=log, flush=True)
            cell.log_start = log.tell()
            # the process inherits the lock: should this one be killed alone, nobody else starts the same run
            process = subprocess.Popen([sys.executable, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env=os.environ | {"TQDM_DISABLE": "1"}, pass_fds=[held.fileno()])
        self.running[process] = cell, held
        say(f"{cell.label} {'goes on' if '--resume' in command else 'starts'}")

    def end(self, process, cell, held):
        """Adds the row of a run that has ended, or sees to its failure."""
        with held:
            if cell.finished():
                return self.add(cell)
        if self.signals:
            return say(f"{cell.label} stopped")
        with open(cell.log, errors="replace") as log:
            log.seek(cell.log_start)
            line = next((line.strip() for line in reversed(log.readlines()) if line.strip()), "")
        reason = f"exit status {process.returncode}, {line or 'no message'} (log: {cell.log})"
        if cell.file_changed():
            return self.give_up(cell, f"algos/{cell.method}.py changed while it ran; call the benchmark again")
        if cell.data() is None:  # collecting takes minutes, and would fail once more
            self.no_data.add(cell.task)
            return self.give_up(cell, reason)
        if cell.attempt == 2:
            return self.give_up(cell, reason)
        cell.attempt, cell.anew = 2, "--overwrite" in line or "is already at update" in line  # it refuses to go on
        self.waiting.append(cell)
        say(f"failed, to be tried once more: {cell.label}: {reason}")

    def give_up(self, cell, reason):
        self.failed.append((cell, reason))
        say(f"failed: {cell.label}: {reason}")

    def add(self, cell):
        add_row(cell)
        self.rows = Rows()
        score = json.loads((cell.folder / "result.json").read_text())["scores"]["return"]
        say(f"{cell.label} done, return {score:.2f}; {self.progress()}")

    def progress(self):
        running = [cell for cell, _ in self.running.values()]
        seconds = [self.rows.seconds_left(cell) for cell in [*self.waiting, *running]]
        text = f"{len(self.cells) - len(seconds) - len(self.failed)} of {len(self.cells)} done"
        text += f", {len(self.failed)} failed" * bool(self.failed)
        if running:
            text += ", running: " + ", ".join(f"{cell.label} ({cell.updates_done() / cell.flags['updates']:.0%})"
                                              for cell in running)
        hours = max(max(seconds, default=0), sum(seconds) / self.jobs) / 3600
        if seconds and np.isfinite(hours):
            text += f", about {hours:.1f} h left" if hours >= 1 else f", about {60 * hours:.0f} min left"
        return text

    def requeue(self):
        """Puts this task of a Slurm array back into the queue, if its run came any further."""
        cell, job = self.cells[0], "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format_map(os.environ)
        if cell.checkpoint_time() == cell.checkpoint_before:
            say(f"FAILED {cell.label}: came to its time limit before a checkpoint; give it more --time")
            return 1
        say(f"{cell.label} is near its time limit, it queues again as job {job}")
        return subprocess.run(["scontrol", "requeue", job]).returncode


# --- on a cluster
def submit(cells, arguments, options):
    """Hands the cells without a row to Slurm, as arrays of jobs with one run each."""
    if not shutil.which("sbatch"):
        fail("--slurm: there is no sbatch on this machine; use --jobs, or a machine of the cluster")
    try:
        more = shlex.split(options.sbatch)
    except ValueError as error:
        fail(f"--sbatch {options.sbatch}: {error}; give words as a shell reads them")
    rows = Rows()
    for cell in cells:
        if not rows.have(cell) and cell.finished():
            add_row(cell)
    rows = Rows()
    cells = [cell for cell in cells if not rows.have(cell)]
    folder = REPOSITORY / RUNS / "slurm" / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{os.getpid()}"
    for number in range(0, len(cells), ARRAY):
        part, listed, script = cells[number:number + ARRAY], folder / f"{number}.txt", folder / f"{number}.sh"
        folder.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(shlex.join(
            ["--methods", cell.line, "--tasks", cell.task, "--swap", "yes" if cell.swap else "no", "--seeds",
             str(cell.seed), *arguments]) + "\n" for cell in part))
        script.write_text(f"""#!/bin/bash
# run number $SLURM_ARRAY_TASK_ID of the list; Slurm starts it again after preemption or failure of its machine
export PYTHON={shlex.quote(sys.executable)}
eval exec ./benchmark.sh --array-task "$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(str(listed))})"
""")
        flags = {"job-name": "swapped-gcrl", "array": f"1-{len(part)}" + f"%{options.jobs}" * bool(options.jobs),
                 "chdir": REPOSITORY, "output": f"{folder}/{number}-%a.log", "open-mode": "append",
                 "signal": f"B:USR1@{GRACE}", "ntasks": 1, "cpus-per-task": 1}
        flags |= {name: getattr(options, name) for name in ("partition", "time", "gpus") if getattr(options, name)}
        words = ["sbatch", "--parsable", "--requeue", *(f"--{name}={value}" for name, value in flags.items()),
                 *more, str(script)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            for path in (script, listed):
                path.unlink()
            fail(f"--slurm: {done.stderr}" + f"; {number} runs were submitted before: wait until they have ended, or "
                 "cancel them, before this command is given again" * bool(number))
        say(f"job {done.stdout.strip().split(';')[0]}: {len(part)} runs, output in {folder.relative_to(REPOSITORY)}")
    if not cells:
        say("every run has a row")


# --- the command line
def words_of(name, text, known):
    """A list from the command line."""
    words = text.split(",")
    for word in words:
        if word not in known:
            fail(f"--{name} {text}: {word!r} is none of {', '.join(known)}")
    return sorted(set(words), key=known.index)


def numbers_of(text):
    """1,2,7-9 as a list."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        fail(f"--seeds {text}: give numbers and ranges, for instance 1,2,7-9")
    ranges = [list(map(int, part.split("-"))) for part in text.split(",")]
    if any(r[-1] < r[0] for r in ranges):
        fail(f"--seeds {text}: a range goes from the smaller number to the larger one")
    if any(r[-1] - r[0] >= 10_000 for r in ranges):
        fail(f"--seeds {text}: a range holds 10,000 seeds at most")
    if max(map(max, ranges)) > 2**31:
        fail(f"--seeds {text}: the largest seed is {2**31}")
    return sorted({number for r in ranges for number in range(r[0], r[-1] + 1)})


def main():
    words = sys.argv[1:]
    words, extra = (words[:words.index("--")], words[words.index("--") + 1:]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(
        "benchmark.sh", allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter,
        description="Starts every run that has no row in results/runs.jsonl. Flags after -- go to every run.")
    parser.error = fail
    add = parser.add_argument
    add("--methods", metavar="A,B", help="files of algos/ (wgcsl: the version of the paper's numbers), or\n"
        "wgcsl-official (its authors', not in the paper); default: all")
    add("--tasks", metavar="A,B", help=f"default: {', '.join(TASKS)}")
    add("--swap", choices=("both", "yes", "no"), help="default: both, but these only without:\n" + "\n".join(
        f"{method} ({kind}): {reason}" for method, (kind, reason) in SWAPPING.items()))
    add("--seeds", metavar="1,2,7-9", help="default: as many as the protocol has")
    add("--protocol", choices=tuple(PROTOCOLS), default="cpu", help="default: cpu\n" + "\n".join(
        f"{name}{', ' * bool(task)}{task}: {seeds} seeds, " + ", ".join(f"{k} {v}" for k, v in flags.items())
        for name, tasks in PROTOCOLS.items() for task, (seeds, flags) in tasks.items()) + "".join(
        f"\n{name}, {method}: " + ", ".join(f"{k} {v}" for k, v in flags.items())
        for name, methods in METHOD_FLAGS.items() for method, flags in methods.items()))
    add("--jobs", type=int, metavar="N", help="runs at a time; default: one per core, with --slurm no limit")
    add("--dry-run", action="store_true", help="print the command of every run; # marks those that have a row")
    add("--slurm", action="store_true", help="submit the runs with sbatch, as a job array")
    add("--partition", help="of --slurm")
    add("--time", help="limit for each job of --slurm; a run that takes longer goes on in the next one")
    add("--gpus", type=int, default=0, metavar="N",
        help="for each job of --slurm; they run with --device cuda --cuda-graphs")
    add("--sbatch", default="", metavar="WORDS", help="more flags for sbatch, for instance '--account=x --mem=4G'")
    add("--array-task", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)

    os.chdir(REPOSITORY)
    files = {path.stem for path in Path("algos").glob("*.py")}
    known = sorted(files | {line for line, file in FILES.items() if file in files})
    methods = words_of("methods", options.methods, known) if options.methods is not None else known
    tasks = words_of("tasks", options.tasks, TASKS) if options.tasks is not None else TASKS
    seeds = numbers_of(options.seeds) if options.seeds is not None else None
    if options.jobs is not None and options.jobs < 1 or options.gpus < 0:
        fail(f"--jobs {options.jobs}, --gpus {options.gpus}: must not be smaller than 1 and 0")
    for name in ("partition", "time", "gpus", "sbatch"):
        if getattr(options, name) and not (options.slurm or options.array_task):
            fail(f"--{name}: needs --slurm; without it give flags of the scripts, for instance -- --device cuda")
    if options.gpus and any(word.split("=")[0] in ("--device", "--cuda-graphs") for word in extra):
        fail("flags after --: --device and --cuda-graphs come with --gpus; leave them out")
    for word in extra:
        if word.split("=")[0].replace("--no-", "--") in CELL_FLAGS:
            fail(f"{word} after --: the benchmark sets it for each run; --tasks, --swap, --seeds and --jobs go before --")
    report.read_rows()  # a damaged row is reported before the slow imports
    cells = list_cells(methods, tasks, options.swap, seeds, options.protocol, extra, options.gpus)
    if not cells:
        fail(f"--swap {options.swap}: {'; '.join(f'{m} refuses it: {SWAPPING[m][1]}' for m in methods)}")
    if any(cell.task == "PointMaze" and cell.flags["eval-episodes"] < 3 for cell in cells):
        fail("--eval-episodes after --: PointMaze needs 3 or more, so that demonstrated and other pairs come up")

    if options.dry_run:
        rows = Rows()
        for cell in cells:
            why = "# has a row: " if rows.have(cell) else "# finished, its row comes next: " * cell.finished()
            print(f"{why}OMP_NUM_THREADS=1 {shlex.join(['python', *cell.command()])}")
        return 0
    if options.slurm:
        arguments = ["--protocol", options.protocol, *["--gpus", str(options.gpus)] * (options.gpus > 0)]
        return submit(cells, [*arguments, "--", *extra], options)
    if not options.array_task and (held := lock(RUNS / f".benchmark-{socket.gethostname()}.lock")) is None:
        fail("another benchmark runs in this folder on this machine; let it end, or stop it and call this one again")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    return Runner(cells, options.jobs or cores, options.array_task).run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # `--dry-run | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
