"""Results: one line per run in results/runs.jsonl, and the tables in README.md, which are built from those lines only.

    python results/report.py add runs/PointMaze/dqapg-swap/1 ...    adds finished runs
    python results/report.py                                       rebuilds the tables
    python results/report.py check                                 exit status 1 if the tables are out of date
    python results/report.py revalidate                            runs one seed of each stale cell up to its first
                                                                   evaluation; same episodes, bit for bit: not stale

A row is stale, and marked so in the tables, if its algorithm file has changed since. Many changes touch no number;
`revalidate` shows it for a cell, and notes in its rows what was compared. On another kind of processor numbers differ.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS = REPOSITORY / "results" / "runs.jsonl"
README = REPOSITORY / "README.md"
# what may differ between runs that are summarised in one line of a table
NOT_A_SETTING = {"seed", "out", "resume", "overwrite", "track", "eval-every", "log-every", "checkpoint-every", "device",
                 "threads", "compile", "dataset"}


def fail(message):
    """One line to stderr, exit status 2."""
    print(f"report.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def read_rows():
    """All rows, as dicts."""
    rows = []
    for number, line in enumerate(ROWS.read_text().splitlines() if ROWS.exists() else [], 1):
        try:
            rows.append(json.loads(line))
            key(rows[-1])
        except (ValueError, KeyError, TypeError) as error:
            fail(f"{ROWS}, line {number}: not a result row ({error!r}); restore the file from git")
    return rows


def setting(row):
    """The settings that define a cell of a table, as a hashable value."""
    return row["method"], tuple(sorted((k, str(v)) for k, v in row["flags"].items() if k not in NOT_A_SETTING))


def key(row):
    """A run, for the file that it was made with: there is one row of each."""
    return setting(row), row["flags"]["seed"], row["file_sha256"], row["dataset_sha256"]


def add(folders):
    """Appends the finished runs in `folders` that are not there yet."""
    rows = read_rows()
    known = {key(row) for row in rows}
    for folder in map(Path, folders):
        try:
            row = json.loads((folder / "result.json").read_text())
            evaluations = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
        except (OSError, ValueError) as error:
            fail(f"{folder}: not a finished run ({error})")
        episodes = evaluations[-1]["episodes"]
        row["flags"] = {name: value for name, value in row["flags"].items() if name not in ("out", "dataset")}
        row |= {"commit": commit_of(row["method"], row["file_sha256"]),
                "curve": [[e["update"], e["return"], e["success"], e.get("unseen_success")] for e in evaluations],
                "first_returns": [episode["return"] for episode in evaluations[0]["episodes"]],
                "episodes": {name: [episode[name] for episode in episodes] for name in episodes[0] if name != "seed"}}
        if key(row) not in known:
            known.add(key(row))
            rows.append(row)
    save_rows(rows)


def commit_of(method, sha):
    """The latest commit in which the method's file has this SHA-256, None if it was never committed."""
    name = f"algos/{method}.py"
    log = subprocess.run(["git", "log", "--format=%H", "--", name], cwd=REPOSITORY, capture_output=True, text=True)
    for commit in log.stdout.split():
        content = subprocess.run(["git", "show", f"{commit}:{name}"], cwd=REPOSITORY, capture_output=True).stdout
        if hashlib.sha256(content).hexdigest() == sha:
            return commit
    return None


def file_hash(method):
    """SHA-256 of a method's file as it is now."""
    return hashlib.sha256((REPOSITORY / "algos" / f"{method}.py").read_bytes()).hexdigest()


def same_start(row):
    """Does the method's present file, run with a row's flags, give the same episodes at the first evaluation?"""
    with tempfile.TemporaryDirectory() as out:
        flags = row["flags"] | {"out": out, "updates": row["curve"][0][0], "threads": row["threads"], "resume": False,
                                "overwrite": False, "track": False}
        words = [word for k, v in flags.items() for word in (
            [f"--{k}"] if v is True else [f"--no-{k}"] if v is False else [f"--{k}", *map(str, v)]
            if isinstance(v, list) else [f"--{k}={v}"])]
        done = subprocess.run([sys.executable, REPOSITORY / "algos" / f"{row['method']}.py", *words],
                              capture_output=True, text=True)
        if done.returncode:
            print(done.stderr.splitlines()[-1])
            return False
        log = next(Path(out).glob("*/*/*/evaluations.jsonl")).read_text()
        episodes = json.loads(log.splitlines()[0])["episodes"]
        return [episode["return"] for episode in episodes] == row["first_returns"]


def revalidate():
    """Repeats the start of one run of each stale cell; if its first evaluation is the same, the cell is not stale."""
    rows = read_rows()
    cells = {}
    for row in rows:
        if row["file_sha256"] != file_hash(row["method"]):
            cells.setdefault((setting(row), row["file_sha256"]), []).append(row)
    now = {method: file_hash(method) for method in {row["method"] for row in rows}}  # before any run starts
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for group, same in zip(cells.values(), pool.map(lambda group: same_start(group[0]), cells.values())):
            first = group[0]
            print(f"{first['method']}, {describe(first)}: {'same' if same else 'differs'} at the first evaluation")
            for row in group if same and now[row["method"]] == file_hash(row["method"]) else []:
                row.setdefault("revalidated", []).append({"from": row["file_sha256"], "updates": row["curve"][0][0]})
                row["file_sha256"] = now[row["method"]]
    save_rows(rows)


def save_rows(rows):
    temporary = ROWS.with_name(f".{ROWS.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, ROWS)


def describe(row):
    """What distinguishes a cell beyond method and swap."""
    flags = row["flags"]
    parts = [flags["variant"]] if "variant" in flags else []
    parts += [f"alpha {flags['alpha']:g}"] if "alpha" in flags else []
    if flags["swap"]:
        parts += [f"{flags['swap-source']} goals", {"equal": "256 + 256", "double": "512 + 512"}[flags["swap-batch"]]]
    return ", ".join([*parts, flags["precision"]])


def table(rows, task):
    """A Markdown table of the runs on one task: means over seeds, and the spread over seeds."""
    cells = {}
    for row in rows:
        if row["flags"]["task"] == task:
            cells.setdefault((setting(row), row["file_sha256"]), []).append(row)
    maze = task == "PointMaze"
    lines = ["| method | swap | settings | updates | seeds | return | " + (
        "success, demonstrated pairs | success, other pairs |" if maze else "success |"),
        "|---|---|---|---|---|---|---|" + "---|" * maze]

    def spread(rows, name):
        values = [row["scores"][name] for row in rows]
        return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else f"{values[0]:.2f}"

    for (_, sha), group in sorted(cells.items(), key=lambda item: (item[1][0]["method"], item[1][0]["updates"],
                                                                   describe(item[1][0]))):
        first = group[0]
        stale = "" if file_hash(first["method"]) == sha else ", stale"
        columns = [first["method"], "yes" if first["flags"]["swap"] else "no", describe(first) + stale,
                   f"{first['updates']:,}", str(len(group)), spread(group, "return")]
        columns += [spread(group, k) for k in (("seen_success", "unseen_success") if maze else ("success",))]
        lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines)


def rebuilt(readme, rows):
    """The README's text with every block between `<!-- table TASK -->` and `<!-- end -->` rebuilt."""
    return re.sub(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)",
                  lambda m: f"{m[1]}{table(rows, m[2])}\n{m[3]}", readme, flags=re.DOTALL)


def main():
    command = sys.argv[1:2] or ["build"]
    if command == ["add"]:
        add(sys.argv[2:])
    elif command == ["revalidate"]:
        revalidate()
    elif command not in (["build"], ["check"]):
        fail(f"{command[0]}: unknown; add, check, revalidate or nothing")
    text = README.read_text()
    new = rebuilt(text, read_rows())
    if command == ["check"]:
        sys.exit(new != text)
    README.write_text(new)


if __name__ == "__main__":
    main()
