"""results/: statistics, cells, claims, tables, figures; the benchmark, with a method that does not learn."""

import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from conftest import ROOT
from scipy import stats

sys.path.insert(0, str(ROOT / "results"))
import benchmark  # noqa: E402
import claims  # noqa: E402
import compare  # noqa: E402
import figures  # noqa: E402
import report  # noqa: E402
from claims import NO, OPEN, YES  # noqa: E402
from compare import Comparison as C  # noqa: E402


# --- made rows
def row(line="td3bc", task="PointMaze", swap=False, seed=1, value=10.0, **more):
    """A row as the benchmark writes it. Its policies reach the goal of the data, with swapping every goal."""
    method = benchmark.lines()[line][0]
    args = benchmark.settings_of(line, task, swap, "cpu")[1] | {"seed": seed, "precision": "bf16"} | more
    pairs = [(claims.EVAL_SEED + i - 1) % 9 for i in range(18)]
    success = [int(swap or k % 3 + k // 3 == 2) for k in pairs]
    scores = {"return": value, "seen_success": 0.9, "unseen_success": value / 100, "success_any": value / 100}
    version = benchmark.version_and_defaults(method)[0]
    made = {"method": method, "version": version, "args": args, "scores": scores}
    made["curve"] = [[10, value / 2, 0.0, 0.0], [20, value, 0.5, value / 100]]
    made["episodes"] = {"return": [int(value)] * 18, "success": success}
    return json.loads(json.dumps(made))


def seeds(values, line="td3bc", swap=False, **more):
    return [row(line, swap=swap, seed=i, value=x, **more) for i, x in enumerate(values, 1)]


@pytest.fixture
def results(tmp_path, monkeypatch):
    def make(*rows):
        path = tmp_path / "runs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setattr(benchmark, "ROWS", path)
        return compare.Results()

    return make


def test_welch_over_seeds():
    a, b = np.array([3.0, 5.0, 4.0]), np.array([1.0, 2.5])
    c, wanted = compare.compare(a, b), stats.ttest_ind(a, b, equal_var=False)
    assert (c.difference, c.p, c.low) == pytest.approx((2.25, wanted.pvalue, wanted.confidence_interval()[0]))
    assert compare.compare(a[:1], b) is None, "a single seed says nothing"


def test_samples_without_spread():
    """Two against two that do not vary are no proof: one shuffle of the labels in three separates them so."""
    same = np.array([1.0, 1.0])
    assert compare.compare(same, same)[1:] == (0, 0, 1)
    c = compare.compare(same + 3, same)
    assert c.difference == 3 and c.p == pytest.approx(1 / 3) and np.isinf(c.high)
    assert compare.compare(np.full(5, 4.0), np.full(5, 1.0)) == (3, 3, 3, pytest.approx(2 / 252))


def test_paired_over_seeds():
    c, wanted = compare.compare_paired(np.array([1.0, 2.0, 4.0])), stats.ttest_1samp([1.0, 2.0, 4.0], 0)
    assert (c.difference, c.p, c.low) == pytest.approx(
        (7 / 3, wanted.pvalue, wanted.confidence_interval()[0])
    )


def test_printed_numbers_are_compared_over_500_episodes():
    a, b = (58.15, 19.83), (34.74, 30.16)
    x = stats.norm.ppf((np.arange(500) + 0.5) / 500)
    wanted = stats.ttest_ind(*(mean + std * x / x.std(ddof=1) for mean, std in (a, b)), equal_var=False)
    c = compare.compare_printed(a, b)
    assert (c.difference, c.p, c.low) == pytest.approx(
        (23.41, wanted.pvalue, wanted.confidence_interval()[0])
    )


def test_holm_counts_comparisons_without_runs():
    made = [C(1, 0, 2, p) for p in (0.04, 0.01, 0.03)]
    assert [c.p for c in compare.holm(made)] == pytest.approx([0.06, 0.03, 0.06]), "never falling"
    assert [c.p for c in compare.holm(made, 10)] == pytest.approx([0.32, 0.1, 0.27])


# --- cells
def test_a_cell_pools_seeds_and_precisions_and_nothing_else(results):
    other = [row(seed=9, alpha=1.0), row(seed=9, updates=20), row(seed=9, dataset="mine.npz")]
    free = [row(seed=3, precision="fp32", device="cuda", out="elsewhere", value=40.0)]
    cell = results(*seeds([10.0, 20.0]), *free, *other).cell("td3bc", "PointMaze", False)
    assert cell.seeds == (1, 2, 3) and cell.returns.tolist() == [10, 20, 40]
    updates, values = cell.curve()
    assert updates.tolist() == [10, 20] and values.tolist() == [[5, 10], [10, 20], [20, 40]]


def test_rows_that_count_nowhere(results):
    """Stale ones, second ones of a run, ones with a setting that is gone. A new setting has its default."""
    old = row(swap=True)
    del old["args"]["swap_ratio"]
    rows = [row(), row(value=99.0), row(seed=2, gone=1), row(seed=2) | {"version": 2}, old]
    made = results(*rows, row(seed=2, swap_ratio=1.0), row(seed=2, swap=True, swap_ratio=1.0))
    without, swapped = (made.cell("td3bc", "PointMaze", swap) for swap in (False, True))
    assert without.seeds == (1, 2), "without swapping its ratio means nothing"
    assert without.returns.tolist() == [10, 10] and swapped.seeds == (1,)


def test_lines_of_one_file_and_pairs_of_seeds(results):
    rows = [row("wgcsl", value=1.0), row("wgcsl-official", value=2.0)]
    made = results(*rows, row(seed=1), row(seed=2, value=2.0), row(seed=2, swap=True, value=7.0))
    assert [made.cell(line, "PointMaze", False).returns[0] for line in ("wgcsl", "wgcsl-official")] == [1, 2]
    assert list(made.names.values()) == ["TD3+BC", "WGCSL", "WGCSL official"]
    assert made.effect("td3bc", "PointMaze").tolist() == [5] and made.effect("td3bc", "FetchPush") is None


def test_rows_are_valid():
    """Every row has the settings of its method's file, or it would silently count nowhere."""
    for number, text in enumerate(benchmark.ROWS.read_text().splitlines(), 1):
        its = json.loads(text)
        number_now, defaults = benchmark.version_and_defaults(its["method"])
        if its["version"] == number_now:
            unknown = its["args"].keys() - defaults.keys()
            assert not unknown, f"runs.jsonl, line {number}: {its['method']} has no {unknown} any more"
            assert len(its["episodes"]["return"]) == its["args"]["eval_episodes"]
            mean = np.mean(its["episodes"]["return"])
            assert mean == pytest.approx(its["scores"]["return"]) == pytest.approx(its["curve"][-1][1])


def test_a_damaged_row_is_named(results, capsys):
    results(row())
    benchmark.ROWS.write_text(json.dumps(row()) + '\n{"method": "td3')
    with pytest.raises(SystemExit) as stop:
        benchmark.read_rows()
    assert stop.value.code == 2 and "line 2" in capsys.readouterr().err


# --- claims
SURE, WORSE, LEVEL, MAYBE = C(9, 5, 13, 0.01), C(-9, -13, -5, 0.01), C(0.1, -1, 1, 0.8), C(5, -20, 30, 0.6)


def test_rules_for_a_task():
    for rule, *cases in (
        ("better", [SURE, SURE], [SURE, LEVEL], [SURE, MAYBE]),
        ("no better", [LEVEL, WORSE], [SURE, MAYBE], [LEVEL, MAYBE]),
        ("no worse", [LEVEL, SURE], [WORSE, MAYBE], [LEVEL, MAYBE]),
        ("no better and no worse", [LEVEL, LEVEL], [WORSE, LEVEL], [LEVEL, MAYBE]),
        ("one or more is better", [SURE, WORSE], [LEVEL, WORSE], [LEVEL, MAYBE]),
        ("half or more are better, none is worse", [SURE, MAYBE], [SURE, WORSE], [MAYBE, MAYBE]),
    ):
        assert [claims.judge(rule, comparisons, 2.5) for comparisons in cases] == [YES, NO, OPEN], rule


def test_rules_for_all_tasks():
    assert [claims.every(v) for v in ([YES, YES], [NO, OPEN], [YES, OPEN])] == [YES, NO, OPEN]
    assert [claims.some(v) for v in ([YES, NO], [NO, NO], [OPEN, NO])] == [YES, NO, OPEN]
    assert [claims.most(v) for v in ([YES, YES, NO], [YES, NO], [YES, OPEN, NO])] == [YES, NO, OPEN]


def test_claims_about_made_runs(results):
    """Nine seeds of DQAPG with swapping reach every goal, nine without those of the data only."""
    rows = [*seeds(np.arange(10.0, 19), "dqapg"), *seeds(np.arange(80.0, 89), "dqapg", True)]
    rows += [*seeds([10, 11, 12.0]), *seeds([80, 81, 82.0], swap=True, task="FetchPush"), row("crr")]
    rows += [*seeds([10, 10.1, 10.2], "iql"), *seeds([10, 10.1, 10.2], "iql", True), row("crr", swap=True)]
    made = results(*rows, *seeds([10, 12, 14.0], "awac"), *seeds([15, 17, 19.5], "awac", True))
    found = {claim.text: verdict for claim, _, _, verdict, _ in claims.judged(made)}
    papers = {claim.text: verdict for claim, *_, verdict in claims.judged(made)}
    for text in ("goal swapping learns a more general policy", "without it the policy is overfitted"):
        assert found[text] == YES
    for text in ("without it only one goal is reached", "with it the policy generalises beyond its data"):
        assert found[text] == YES
    assert found["DQAPG benefits from swapping"] == YES
    assert found["TD3+BC benefits from swapping"] is None, "no task has both"
    assert found["CRR benefits from swapping"] is None, "it has a single seed"
    assert found["AWAC benefits from swapping"] == OPEN, "p is 0.03, but nine tasks are planned"
    assert found["IQL does not benefit from swapping"] == OPEN, "it holds on PointMaze, the rest has no runs"
    harmless = "swapping has no significant negative effect"
    assert found[harmless] == OPEN, "most tasks have no runs"
    assert papers[harmless] == NO and papers["DQAPG benefits from swapping"] == YES
    for its in rows[9:18]:
        its["episodes"] = rows[0]["episodes"]
    assert claims.goals_reached(True)(results(*rows))["PointMaze"][0] == NO


# --- tables and figures
def test_pages_and_figures_are_up_to_date():
    _, tables, source = report.build()
    for page in report.PAGES:
        text = page.read_text()
        assert report.filled(text, tables) == text, f"{page.name}: python results/report.py rebuilds it"
    for name in figures.FIGURES:
        assert figures.source_of(report.PLOTS / name) == source, f"{name}: python results/report.py draws it"
    assert {path.name for path in report.PLOTS.iterdir()} == {*figures.FIGURES}


def test_tables_of_made_runs(results):
    rows = [*seeds([10.0, 10.5, 11.0]), *seeds([80.0, 80.5, 81.0], swap=True)]
    made = results(*rows, *seeds([1.0, 1.0, 1.1], "gcsl"), *seeds([3.0, 4.0], alpha=7.0))
    short, table2 = report.mean_returns(made), report.papers(made, 2)
    assert "| TD3+BC |  |  |  |  |  |  |  |  | 10.5 → 80.5 |" in short and "PointMaze 3 × 15k" in short
    assert " | **80.50 ± 0.47**<br>3 × 15k |" in table2 and " | 10.50 ± 0.47<br>3 × 15k |" in table2
    assert "**80.50" in report.papers(made, 4) and "| 1.03 ± 0.00<br>3 × 15k |" in report.papers(made, 4)
    assert "| PointMaze | TD3+BC | no | alpha 7.0 | 2 | 3.5 |" in report.others(made)
    assert "| TD3+BC | 3 | 0.90 | 0.10 | 3 | 0.90 | 0.81 |" in report.maze(made).replace("0.80", "0.81")
    assert "TD3+BC-aug 80.5, TD3+BC 10.5, GCSL 1.0 | 1 | 1 | 1 | 0 | TD3+BC +70.0" in report.by_task(made)


def test_the_table_of_meet(results):
    rows = [*seeds([10.0, 12.0]), *seeds([5.0, 9.0], swap=True)]
    made = results(*rows, *seeds([14.0, 14.0], swap=True, swap_source="meet"))
    its = "11.0 ± 1.0 (2) | 7.0 ± 2.0 (2) | 14.0 ± 0.0 (2) | +3.0 ± 1.0"
    assert f"| TD3+BC | PointMaze | {its} |" in report.meet(made)
    assert "TD3+BC-meet 14.0, TD3+BC 11.0, TD3+BC-aug 7.0" in report.by_task(made)
    assert "meet" not in report.others(made) and report.meet(results(*rows)).count("\n") == 1
    alone = report.meet(results(*rows, row(swap=True, swap_source="meet")))
    assert "| 10.0 (1) | -1.0 |" in alone


def test_ogbenchs_tasks_have_a_table_of_their_own(results):
    rows = seeds([10.0, 20.0], swap=True, task="ogbench-pointmaze-medium-stitch")
    made = results(*rows, row("gcsl", "ogbench-pointmaze-large-stitch", value=7.0), row(value=50.0))
    table = report.ogbench(made)
    assert "| TD3+BC-aug, ours |  |  | 15 ± 5<br>2 × 20k |  |" in table and "TD3+BC, ours" not in table
    assert "| GCSL, ours |  |  |  | 7 ± 0<br>1 × 20k |" in table
    assert "| HIQL | 79 ± 5 | 58 ± 5 | 74 ± 6 | 13 ± 6 |" in table
    assert {place[1] for place in made.cells} == {"PointMaze"}


def test_bars_only_from_three_seeds_on(results):
    for n in (2, 3):
        made = results(*seeds([10.0] * n), *seeds([12.0, 13.0, 17.0][:n], swap=True))
        lines = figures.swap_effect(made).axes[-1].lines
        assert [x for line in lines if line.get_marker() == "o" for x in line.get_xdata()] == [2, 3, 7][:n]
        assert sum(line.get_marker() == "|" for line in lines) == (n == 3)


def test_paths_stand_in_the_maze_of_their_start(results):
    rows = [row("dqapg"), row("dqapg", swap=True)]
    for its in rows:
        its["paths"] = [[10 * i, 5, 10 * i, 6] for i in range(18)]
    axes = figures.maze_paths(results(*rows)).axes
    assert [ax.get_title().split(": ")[1][0] for ax in axes] == ["2"] * 3 + ["6"] * 3
    for start, ax in enumerate(axes[:3]):
        ends = {line.get_xdata()[0] for line in ax.lines if line.get_marker() in "ox"}
        assert ends == {i for i in range(18) if (claims.EVAL_SEED + i - 1) % 3 == start}


# --- the benchmark; the method below does not learn, its score depends on every update
QUICK = """
import dataclasses, hashlib, json, signal, sys, time
from pathlib import Path

VERSION = 1
@dataclasses.dataclass
class Args:
    task: str = "PointMaze"
    dataset: str = ""
    seed: int = 1
    out: str = "runs"
    resume: bool = False
    device: str = "cpu"
    threads: int = 0
    swap: bool = False
    eval_every: int = 10
    eval_episodes: int = 50
    updates: int = 500_000
    pause: float = 0.0
def replace(path, text):
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").replace(path)
if __name__ == "__main__":
    words, args = sys.argv[1:], Args()
    while words:
        name = words.pop(0)[2:].replace("-", "_")
        kind = type(getattr(args, name))
        setattr(args, name, True if kind is bool else kind(words.pop(0)))
    with open("started.txt", "a") as file:
        print(args.seed, args.swap, args.resume, file=file)
    for broken in Path(".").glob(f"broken-{args.seed}-*"):
        broken.unlink()
        sys.exit("out of luck")
    folder = Path(args.out, args.task, "quick" + "-swap" * args.swap, str(args.seed))
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"method": "quick", "version": VERSION, "data_sha256": "", **vars(args)}
    replace(folder / "settings.json", json.dumps(settings))
    start, state, stopped = 0, f"{args.seed} {args.swap}", []
    if args.resume:
        start, state = json.loads((folder / "checkpoint.pt").read_text())
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    for n in range(start + 1, args.updates + 1):
        state = hashlib.sha256(f"{state} {n}".encode()).hexdigest()
        time.sleep(args.pause)
        last = n == args.updates
        if last:
            scores = {"return": float(int(state[:4], 16)), "success": 0.0}
            episode = {"seed": 1, "return": 3, "success": True}
            with open(folder / "evaluations.jsonl", "a") as file:
                file.write(json.dumps({"update": n, **scores, "episodes": [episode]}) + "\\n")
        if n % 5 == 0 or stopped or last:
            replace(folder / "checkpoint.pt", json.dumps([n, state]))
        if stopped and not last:
            sys.exit("stopped")
"""
QUICK_WORDS = ("--methods", "quick", "--tasks", "PointMaze", "--swap", "both")


class Clone:
    """A copy of the repository with the method above dropped into algos/, without an entry in METHODS."""

    def __init__(self, folder):
        self.folder = folder
        leave = shutil.ignore_patterns("runs.jsonl", "plots", "__pycache__")
        for part in ("results", "envs"):
            shutil.copytree(ROOT / part, folder / part, ignore=leave)
        for part in ("algos", "data/datasets"):
            (folder / part).mkdir(parents=True)
        for part in ("benchmark.sh", "data/tools.py"):
            shutil.copy(ROOT / part, folder / part)
        for part in ("started.txt", "results/runs.jsonl", "data/datasets/PointMaze.npz"):
            (folder / part).touch()
        (folder / "algos/quick.py").write_text(QUICK)

    def start(self, *words, **environment):
        command = [self.folder / "benchmark.sh", *map(str, words)]
        environment = os.environ | {"PYTHON": sys.executable} | environment
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        # a shell's background jobs, pytest's too, start with SIGINT ignored
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=heed, **pipes)

    def call(self, *words, **environment):
        process = self.start(*words, **environment)
        return process.communicate(timeout=120)[0], process.returncode

    def scores(self):
        rows = [json.loads(text) for text in (self.folder / "results/runs.jsonl").read_text().splitlines()]
        found = {(r["args"]["seed"], r["args"]["swap"], r["version"]): r["scores"]["return"] for r in rows}
        assert len(found) == len(rows), "a run has two rows"
        return found

    def started(self):
        return (self.folder / "started.txt").read_text().splitlines()


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path / "clone")


def unbroken(seeds, updates):
    """The scores of runs that were never stopped."""
    found = {}
    for seed, swap in itertools.product(seeds, (False, True)):
        state = f"{seed} {swap}"
        for n in range(1, updates + 1):
            state = hashlib.sha256(f"{state} {n}".encode()).hexdigest()
        found[seed, swap, 1] = int(state[:4], 16)
    return found


def dry_run(capsys, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--dry-run", *words])
    monkeypatch.chdir(ROOT)
    assert benchmark.main() == 0
    return capsys.readouterr().out.splitlines()


def test_the_papers_cells_are_listed(capsys, monkeypatch):
    printed = dry_run(capsys, monkeypatch, "--protocol", "paper")
    runs = [(*re.search(r"--task (\w+).* --out \S+/(\S+)-v", x).groups(), " --swap " in x) for x in printed]
    assert {line for _, line, _ in runs} == {*benchmark.lines()}
    paper = [run for run in runs if run[1] in {*claims.PAPER["table2"], *claims.PAPER["table4"]}]
    assert len({*paper}) == 171 and len(paper) == 1710 and len(printed) == len({*printed})
    assert not any("--resume" in line or "#" in line for line in printed)


def test_flags_of_a_protocol_and_flags_after_the_dashes(capsys, monkeypatch):
    words = "--methods", "cql,td3bc", "--tasks", "FetchPush", "--swap", "no", "--seeds", "4-5,9"
    printed = dry_run(capsys, monkeypatch, *words)
    assert [line.split("--seed ")[1][0] for line in printed] == ["4", "4", "5", "5", "9", "9"]
    for line in printed:
        assert ("--batch-size 256" in line) == ("cql.py" in line) and "--updates 20000" in line
    printed = dry_run(capsys, monkeypatch, *words, "--", "--lr", "0.1", "--log-every", "7")
    assert all("--out runs/cpu-lr-0.1/" in line and "--log-every 7" in line for line in printed)


def test_ogbenchs_tasks_run_if_they_are_named(capsys, monkeypatch):
    words = "--methods", "gcsl,dqapg", "--tasks", "PointMaze,ogbench-pointmaze-medium-stitch", "--seeds", "1"
    printed = [line for line in dry_run(capsys, monkeypatch, *words) if "ogbench" in line]
    assert len(printed) == 3 and all("--updates 20000" in line for line in printed)
    assert all(("--gamma 0.99" in line) == ("dqapg.py" in line) for line in printed)
    assert not any("ogbench" in line for line in dry_run(capsys, monkeypatch, "--methods", "gcsl"))


def test_wrong_words_end_before_anything_runs(capsys, monkeypatch):
    for words in ("--methods sac", "--tasks Maze", "--seeds 1:3", "-- --seed 3", "-- --alpah 3"):
        with pytest.raises(SystemExit) as stop:
            dry_run(capsys, monkeypatch, *words.split())
        assert stop.value.code == 2 and words.split()[1] in capsys.readouterr().err


def test_runs_get_rows_once_and_again_with_another_version(clone):
    words = *QUICK_WORDS, "--seeds", "2-3", "--", "--updates", "20"
    out, status = clone.call(*words)
    assert status == 0 and len(clone.scores()) == len(clone.started()) == 4, out
    out, status = clone.call("--dry-run", *words)
    assert status == 0 and out.count("# has a row") == 4
    (clone.folder / "algos/quick.py").write_text(QUICK.replace("VERSION = 1", "VERSION = 2"))
    out, status = clone.call(*words)
    assert status == 0 and len(clone.scores()) == len(clone.started()) == 8, out


def test_a_failed_run_is_tried_once_more(clone):
    for name in ("2-a", "3-a", "3-b"):
        (clone.folder / f"broken-{name}").touch()
    words = "--methods", "quick", "--tasks", "PointMaze", "--seeds", "2-4", "--", "--updates", "9"
    out, status = clone.call(*words)
    assert status == 1 and {seed for seed, _, _ in clone.scores()} == {2, 4} and "FAILED" in out
    assert out.count("out of luck") == 3 and [x[0] for x in clone.started()].count("3") == 2


@pytest.mark.slow
def test_a_run_that_outlives_the_benchmark_is_not_started_twice(clone):
    """And one that was killed before its first checkpoint begins anew."""
    text = "--methods quick --tasks PointMaze --seeds 2 --jobs 2 -- --updates 40 --pause 0.05"
    words = text.split()
    process = clone.start(*words)
    while not clone.started():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    out, _ = clone.call(*words)
    assert "still runs in another process" in out and len(clone.started()) == 1
    (folder,) = clone.folder.glob("runs/*/*/*/*/2")
    while not (folder / "evaluations.jsonl").exists():
        time.sleep(0.02)
    left = folder.with_name("3")
    left.mkdir()
    (left / "evaluations.jsonl").write_text("{}\n")
    time.sleep(0.5)
    words[5] = "2-3"
    assert clone.call(*words)[1] == 0 and len(clone.scores()) == 2
    assert "{}" not in (left / "evaluations.jsonl").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_or_killed_it_goes_on(clone, number):
    words = *QUICK_WORDS, "--seeds", "2", "--jobs", "2", "--", "--updates", "40"
    process = clone.start(*words, "--pause", "0.03")
    while len([*clone.folder.glob("runs/*/*/*/*/*/checkpoint.pt")]) < 2 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, number) if number == signal.SIGKILL else os.kill(process.pid, number)
    assert process.wait(30) == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    stopped = [path for path in clone.folder.glob("runs/*/*/*/*/2.log") if "stopped" in path.read_text()]
    assert not clone.scores() and len(stopped) == (0 if number == signal.SIGKILL else 2)
    out, status = clone.call(*words, "--pause", "0.03")
    assert status == 0 and out.count("goes on") == 2, out
    assert clone.scores() == unbroken([2], 40)


@pytest.mark.slow
def test_random_kills(clone):
    words = *QUICK_WORDS, "--seeds", "2-5", "--jobs", "2", "--", "--updates", "40", "--pause", "0.02"
    for _ in itertools.count():
        process = clone.start(*words)
        try:
            process.wait(random.uniform(2, 4))
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert clone.scores() == unbroken([2, 3, 4, 5], 40)


@pytest.mark.slow
def test_a_slurm_array(clone, tmp_path):
    """sbatch only notes its words; then the script of the array runs task by task, one of them twice."""
    fake = tmp_path / "bin/sbatch"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/words.txt\necho Submitted batch job 7\n')
    fake.chmod(0o755)
    words = *QUICK_WORDS, "--seeds", "2-3", "--slurm", "--", "--updates", "20"
    out, status = clone.call(*words, PATH=f"{fake.parent}:{os.environ['PATH']}")
    given = (tmp_path / "words.txt").read_text().splitlines()
    assert status == 0 and {"--array=1-4", "--requeue", "--signal=B:TERM@120"} <= {*given}, out
    for task in (1, 2, 3, 4, 4):
        environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(task), "OMP_NUM_THREADS": "1"}
        subprocess.run(["bash", given[-1]], cwd=clone.folder, env=environment, check=True)
    assert [x.split()[2] for x in clone.started()] == ["False"] * 4 + ["True"], "the last went on"
    out, status = clone.call(*words, PATH="/usr/bin:/bin")
    assert status == 0 and len(clone.scores()) == 4, out
