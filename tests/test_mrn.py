"""The trainer of experts: what it writes, resuming, starting from another task's run, bad input. Seconds-long runs."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, Run

MRN = ROOT / "data" / "mrn.py"
TINY = ["--workers", 0, "--threads", 1, "--precision", "fp32", "--cycles-per-epoch", 1, "--eval-episodes", 2,
        "--episodes-per-cycle", 2, "--updates-per-cycle", 3, "--batch-size", 32, "--replay-size", 5000]


def train(folder, task, steps, *flags):
    run = Run(folder, MRN, "--task", task, "--runs", "runs", "--steps", steps, *TINY, *flags).wait()
    assert run.status == 0, run.err
    return folder / "runs" / task


def states(folder):
    """Every array of a run's checkpoint and replay."""
    found = {}

    def walk(prefix, value):
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{prefix}/{key}", item)
        elif isinstance(value, torch.Tensor):
            found[prefix] = value

    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    walk("", {key: checkpoint[key] for key in checkpoint if key not in ("args", "progress")})
    with np.load(folder / "replay.npz") as replay:
        found |= {name: torch.from_numpy(replay[name]) for name in replay.files}
    return found


def test_resuming_equals_a_run_without_a_break(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = train(tmp_path / "a", "FetchReach", 300)
    train(tmp_path / "b", "FetchReach", 100)
    parts = train(tmp_path / "b", "FetchReach", 300, "--resume")
    a, b = states(whole), states(parts)
    assert a.keys() == b.keys() and len(a) > 20
    assert all(torch.equal(a[name], b[name]) for name in a)
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, parts)]
    assert [row["steps"] for row in logs[1]] == [100, 200, 300]
    for x, y in zip(*logs):
        assert all(x[key] == y[key] for key in ("success", "return", "critic_loss", "actor_loss", "q"))
    expert = torch.load(parts / "expert.pt", weights_only=True)
    assert expert["task"] == "FetchReach" and (parts / "expert.pt").stat().st_size < 1e6


def test_a_resumed_run_keeps_its_cycles(tmp_path):
    """Steps are counted in cycles of so many episodes."""
    run = train(tmp_path, "FetchReach", 100)
    before = contents(run)
    more = Run(tmp_path, MRN, "--task", "FetchReach", "--runs", "runs", "--steps", 400, *TINY,
               "--episodes-per-cycle", 4, "--resume").wait()
    assert more.status == 2 and "--episodes-per-cycle 4" in more.err and contents(run) == before


def test_starting_from_another_task_takes_its_networks_and_replay(tmp_path):
    other = train(tmp_path, "HandBlockZ", 200)
    run = train(tmp_path, "HandBlockXYZ", 200, "--start-from", other, "--lr", 1e-12)
    a, b = states(other), states(run)
    assert a["observations"].shape[0] == 2 and b["observations"].shape[0] == 4
    assert torch.equal(b["observations"][:2], a["observations"])
    weights = [name for name in a if name.startswith("/actor/")]
    assert weights and all(torch.allclose(a[name], b[name], atol=1e-7) for name in weights)


def test_files_of_something_else(tmp_path):
    run = train(tmp_path, "FetchReach", 100)
    for name in ("whole", "saved"):
        shutil.copytree(run, tmp_path / name)
    for target, source, flags, named in (
            ("checkpoint.pt", "expert.pt", ["--resume"], "runs/FetchReach/checkpoint.pt: is not a checkpoint"),
            ("checkpoint.pt", "expert.pt", ["--start-from", "whole", "--runs", "new"], "--start-from whole"),
            ("replay.npz", None, ["--resume"], "runs/FetchReach/replay.npz: is not of such a run")):
        folder = tmp_path / "whole" if "--start-from" in flags else run
        if source:
            shutil.copy(folder / source, folder / target)
        else:
            np.savez(folder / target, actions=np.zeros((2, 50, 4)), observations=np.zeros((2, 51, 25)))
        before = contents(tmp_path)
        flags = ["--runs", "runs", *flags] if "--runs" not in flags else flags
        done = Run(tmp_path, MRN, "--task", "FetchReach", "--steps", 200, *TINY, *flags).wait()
        line, = done.error_lines
        assert done.status == 2 and named in line and contents(tmp_path) == before, done.err
        shutil.copytree(tmp_path / "saved", folder, dirs_exist_ok=True)


def contents(folder):
    return sorted(path for path in folder.rglob("*") if path.name not in (".stdout", ".stderr"))


@pytest.mark.parametrize("flags, named", [
    (["--start-from", "nowhere"], "nowhere"), (["--start-from", "runs/FetchReach"], "--start-from"),
    (["--task", "Nothing"], "--task"), (["--gamma", 2], "--gamma"), (["--batch-size", 0], "--batch-size"),
    (["--resume"], "--resume"), (["--runs", "file"], "file"), (["--clip", 0], "--clip"), (["--noise", "nan"], "--noise"),
    (["--noise", -1], "--noise"), (["--action-l2", -1], "--action-l2"), (["--seed", 2**40], "--seed")])
def test_bad_input(flags, named, tmp_path):
    if "runs/FetchReach" in flags:
        train(tmp_path, "FetchReach", 100)
    (tmp_path / "file").touch()
    before = contents(tmp_path)
    run = Run(tmp_path, MRN, "--task", "HandBlockZ", "--steps", 200, *TINY, "--runs", "new", *flags).wait()
    assert run.status == 2, run.err
    line = run.err.strip().splitlines()[-1]
    assert line.startswith("mrn.py: error:") and named in line
    assert contents(tmp_path) == before, "wrote something"
