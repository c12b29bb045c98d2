"""results/: cells, statistics, verdicts, tables and figures, from made-up rows; the published ones are up to date."""

import copy
import functools
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, load_module
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "results"))
import claims  # noqa: E402
import compare  # noqa: E402
import figures  # noqa: E402
import pages  # noqa: E402
import report  # noqa: E402

MAZE = {"start": [0, 1, 2] * 3, "goal": [0] * 3 + [1] * 3 + [2] * 3}  # each pair once


def row(method="td3bc", task="PointMaze", swap=False, seed=1, value=10.0, sha="now", episodes=None, success=None,
        **changes):
    """A row whose nine episodes all return `value`, or as given."""
    returns, hits = episodes or [value] * 9, success or [True] * 9
    mean = float(np.mean(returns))
    scores = {"return": mean, "success": float(np.mean(hits))}
    maze = task == "PointMaze"
    if maze:
        seen = [s + g == 2 for s, g in zip(MAZE["start"], MAZE["goal"])]
        scores |= {f"{name}_success": float(np.mean([h for h, x in zip(hits, seen) if x == which]))
                   for name, which in (("seen", True), ("unseen", False))}
    updates = changes.get("updates", 7000)
    curve = [[n, mean * n / updates, scores["success"], scores.get("unseen_success")] for n in (updates // 2, updates)]
    flags = {"task": task, "swap": swap, "precision": "fp32", "seed": seed, "swap-source": "batch",
             "swap-batch": "equal", "batch-size": 512, "eval-episodes": 9, "updates": updates}
    flags |= {"variant": "gofar"} if method == "wgcsl" else {}
    return {"method": method, "updates": updates, "flags": flags | changes.pop("flags", {}), "file_sha256": sha,
            "dataset_sha256": "1", "data": "1", "scores": scores, "curve": curve, "seconds": 1.0,
            "updates_timed": updates,
            "episodes": {"return": returns, "success": hits} | (copy.deepcopy(MAZE) if maze else {})} | changes


def seeds(values, **more):
    """One row for each value, seeds from 1."""
    return [row(seed=seed, value=value, **more) for seed, value in enumerate(values, 1)]


def results(*rows, stale=()):
    return compare.Results(rows, report.setting, {name: "then" if name in stale else "now" for name in compare.NAMES})


def test_success_on_demonstrated_pairs_is_worked_out_from_the_curve():
    seen = [s + g == 2 for s, g in zip(MAZE["start"], MAZE["goal"])]
    runs = [row(seed=1, success=seen), row(seed=2, success=[not hit for hit in seen]), row(swap=True)]
    runs[0]["curve"] = [[3500, 1.0, 4 / 9, 1 / 6], [7000, 1.0, 3 / 9, 0.0]]  # 4 of 9: all 3 demonstrated pairs, 1 of 6
    runs[1]["curve"] = [[3500, 1.0, 5 / 9, 4 / 6], [7000, 1.0, 6 / 9, 1.0]]  # 1 of 3, then none
    line = pages.pairs(results(*runs)).splitlines()[2]
    assert line == "| TD3+BC | 2 × 7k | 0.50 | 0.67 | 0.50 | 1 × 7k | 1.00 | 1.00 | 1.00 |"
    assert pages.pairs(results(row(task="FetchPush"))) == "Not measured yet."


def test_runs_on_data_of_another_machine_are_listed():
    """Data made of the same (`data`) whose bits (`dataset_sha256`) are not those of most runs."""
    rows = [row("dqapg", seed=k, dataset_sha256="a", data="x") for k in (1, 2, 3)]
    rows += [row("bcq", seed=k, dataset_sha256="b", data="x", protocol="cpu") for k in (10, 2)]
    rows += [row("crr", seed=1, swap=True, dataset_sha256="c", data="x", protocol="cpu-lr-1")]
    rows += [row("awr", "FetchPush", dataset_sha256="d", data="y"), row("awr", "FetchPush", dataset_sha256="e", data="z")]
    older = [row(seed=k, dataset_sha256="old" if k < 3 else "other", data="then") for k in (1, 2, 3)]
    lines = pages.machines([*rows, *older], {"old": "noiseless expert"}).splitlines()[2:]
    assert lines == ["| PointMaze | 6 | BCQ (2, 10); CRR-aug, cpu-lr-1 (1) |",
                     "| PointMaze, noiseless expert | 3 | TD3+BC, by hand (3) |"]
    assert pages.machines(rows[:3], {}) == "There are none."


def test_weights_of_the_q_term_are_compared_where_nothing_else_differs():
    one = [row("dqapg", seed=k, value=v, flags={"alpha": 1.0}) for k, v in ((1, 10.0), (2, 20.0))]
    other = row("dqapg", seed=2, value=30.0, flags={"alpha": 2.5}, protocol="x")
    more = row("dqapg", value=99.0, flags={"alpha": 2.5, "lr": 0.1}), row("dqapg", value=99.0, flags={"alpha": 9.0}, sha="then")
    lines = pages.alphas({"": results(*one)}, [*one, other, *more], report.setting).splitlines()[2:]
    assert lines == ["| PointMaze | no | 1 | 2 × 7k | 15.0 | 15.0 | 34.7 |  |  |",
                     "| PointMaze | no | 2.5 | 1 × 7k | 30.0 | 30.0 | 34.7 | +10.0, 1 seed |  |"], "on seed 2"
    third = row("dqapg", seed=1, value=24.0, flags={"alpha": 2.5}, protocol="x")
    line = pages.alphas({"": results(*one)}, [*one, other, third], report.setting).splitlines()[3]
    assert line == "| PointMaze | no | 2.5 | 2 × 7k | 27.0 | 27.0 | 34.7 | +12.0, 2 seeds | -13.4 to 37.4 |"
    assert pages.alphas({"": results(*one)}, one, report.setting) == "Not measured yet."


def test_expectiles_are_compared_where_nothing_else_differs():
    def runs(method, swap, values, protocol="cpu", **flags):
        return [r | {"protocol": protocol} for r in seeds(values, method=method, swap=swap, flags=flags)]

    rows = [*runs("onestep", False, [10.0, 20.0]), *runs("onestep", True, [5.0, 17.0]),
            *runs("iql", False, [10.0, 20.0], expectile=0.75), *runs("iql", True, [12.0, 19.0, 30.0], expectile=0.75)]
    more = [*runs("iql", False, [10.0], "x", expectile=0.9), *runs("iql", True, [14.0], "x", expectile=0.9),
            *runs("iql", False, [99.0], "y", expectile=0.9, lr=0.1), *runs("iql", True, [99.0], "z", expectile=0.6),
            *(r | {"data": "2"} for s in (False, True) for r in runs("iql", s, [99.0], "z", expectile=0.8)),
            *(r | {"flags": r["flags"] | {"seed": 9}} for r in runs("iql", False, [99.0], "a", expectile=0.75)),
            row("onestep", "FetchPush"), row("iql", "FetchPush", True)]  # half a comparison
    made = pages.expectiles(results(*rows, *more), [*rows, *more], report.setting).splitlines()[2:]
    assert made == ["| PointMaze | 0.5 | Onestep-RL | 2 × 7k | 15.0 | 11.0 | -4.0 |",
                    "| PointMaze | 0.75 | IQL | 2 × 7k | 15.0 | 15.5 | +0.5 |",  # of the seeds that both have
                    "| PointMaze | 0.9 | IQL | 1 × 7k | 10.0 | 14.0 | +4.0 |"]
    assert pages.expectiles(results(*rows[:-3]), rows[:-3], report.setting) == "Not measured yet."
    made = pages.expectiles(results(*rows, stale=("iql", "onestep")), rows, report.setting).splitlines()[2:]
    assert len(made) == 2 and all(", stale | " in line for line in made)
    unlike = [*rows[:2], *(r | {"updates": 9000, "flags": r["flags"] | {"updates": 9000}} for r in rows[2:4]), *rows[4:]]
    assert len(pages.expectiles(results(*unlike), unlike, report.setting).splitlines()) == 3


def test_lengths_are_compared_where_nothing_else_differs():
    def runs(swap, values, updates, protocol="cpu", **flags):
        return [r | {"protocol": protocol} for r in seeds(values, swap=swap, updates=updates,
                                                          flags={"updates": updates, **flags})]

    usual = [*runs(False, [10.0, 20.0], 7000), *runs(True, [12.0, 24.0], 7000), row("iql", protocol="cpu")]
    longer = [*runs(False, [30.0], 50_000, "long"), *runs(True, [33.0, 35.0], 50_000, "long"),
              *runs(False, [99.0], 50_000, "other", lr=0.1), *runs(False, [5.0], 9000, "short")]
    made = pages.lengths({"": results(*usual, *longer)}, [*usual, *longer], report.setting).splitlines()[2:]
    assert made == ["| PointMaze | TD3+BC | 1 | 7k | 10.0 |  |  |", "| PointMaze | TD3+BC | 1 | 9k | 5.0 |  |  |",
                    "| PointMaze | TD3+BC | 1 | 7k | 10.0 | 12.0 | +2.0 |",  # of the seed that all four have
                    "| PointMaze | TD3+BC | 1 | 50k | 30.0 | 33.0 | +3.0 |"]
    made = pages.lengths({"": results(*usual), ", then": results(*usual, *longer[:1])}, [*usual, *longer], report.setting)
    assert "| PointMaze, then | TD3+BC | 1 | 50k | 30.0 |" in made
    assert pages.lengths({"": results(*usual)}, usual, report.setting) == "Not measured yet."


def test_batches_are_compared_where_nothing_else_differs():
    def runs(swap, values, protocol="cpu", **flags):
        return [r | {"protocol": protocol} for r in seeds(values, swap=swap, flags={"swap-filter": "none"} | flags)]

    usual = [*runs(False, [10.0, 20.0]), *runs(True, [5.0, 6.0])]
    more = [*runs(False, [4.0], "half", **{"batch-size": 256}), *runs(True, [7.0], "double", **{"swap-batch": "double"}),
            *runs(True, [8.0], "both", **{"swap-batch": "double", "swap-filter": "values"}),
            *runs(True, [99.0], "other", **{"swap-batch": "double", "swap-filter": "reachable", "lr": 0.1})]
    made = pages.batches({"": results(*usual, *more)}, [*usual, *more], report.setting).splitlines()[2:]
    assert made == ["| PointMaze | TD3+BC | 7k | 15.0, 2 seeds | 4.0, 1 seed | all | 5.5, 2 seeds | 7.0, 1 seed |",
                    "| PointMaze | TD3+BC | 7k |  |  | none |  | 8.0, 1 seed |"]
    both = {"": results(), ", then": results(*usual, *more)}
    assert pages.batches(both, [*usual, *more], report.setting).splitlines()[3] == made[1].replace("Maze", "Maze, then")
    filtered = [*usual, *runs(True, [9.0], "filter", **{"swap-filter": "values"})]  # of one batch only: not compared
    assert pages.batches({"": results(*filtered)}, filtered, report.setting) == "Not measured yet."


def test_runs_on_the_data_of_earlier_experts_stand_apart():
    def runs(values, protocol, **more):
        return [r | {"protocol": protocol} for r in seeds(values, task="FetchPush", sha=report.file_hash("td3bc"), **more)]

    noiseless, loose = (next(data for data, what in report.EARLIER.items() if what == f"{how} expert") for how in (
        "noiseless", "loose"))
    earlier = [r | {"dataset_sha256": noiseless, "data": noiseless} for r in (
        *runs([10.0, 20.0], "cpu"), *runs([1.0], "cpu", swap=True), *runs([15.0], "cpu-swap-filter-reachable", swap=True))]
    rows = [*runs([30.0], "cpu"), *runs([3.0], "cpu", swap=True), *earlier,
            *runs([33.0], "cpu-swap-filter-reachable", swap=True),
            *(r | {"dataset_sha256": loose, "data": loose} for r in runs([44.0, 45.0, 46.0], "cpu"))]
    made, _ = report.parts(rows)
    assert "| FetchPush | TD3+BC | no | 15.0, 2 × 7k | 30.0, 1 × 7k | 12.9 or 15.5 |" in made["noiseless"]
    assert "| TD3+BC | 30.0 → 3.0 |" in made["short"]
    assert made["noiseless"].count("\n") == 3 and made["runs"].count("noiseless expert") == 3
    assert made["runs"].count("loose expert") == 1
    filters = made["filters"].splitlines()[2:]
    assert [line.split(" | ")[0] + line.split(" | ")[6] for line in filters] == [
        "| FetchPush33.0, 1 seed", "| FetchPush, noiseless expert15.0, 1 seed"]
    assert [line.split(" | ")[7] for line in filters] == ["+3.0", "+5.0"], "on seed 1, which all three have"


# --- what is published
def test_published_tables_and_figures_are_up_to_date():
    command = [sys.executable, REPOSITORY / "results" / "report.py", "check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"python results/report.py rebuilds them; {done.stdout}{done.stderr}"


def test_every_published_row_is_one_run_and_holds_its_episodes():
    rows = report.read_rows()
    assert len({report.key(r) for r in rows}) == len(rows)
    for r in rows:
        returns = r["episodes"]["return"]
        assert len(returns) == r["flags"]["eval-episodes"]
        assert r["scores"]["return"] == pytest.approx(sum(returns) / len(returns))
        assert r["curve"][-1][0] == r["updates"] == r["flags"]["updates"]
        assert len(json.dumps(r)) < 30_000


def test_figures_in_git_are_small():
    assert all(path.stat().st_size < 100_000 for path in (REPOSITORY / "results" / "plots").iterdir())


# --- statistics, against values worked out by hand
def test_holm():
    # sorted .01 .02 .03 .04: times 4 3 2 1 = .04 .06 .06 .04, never falling: .04 .06 .06 .06
    assert compare.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert compare.holm([0.9, 0.8]) == [1.0, 1.0] and compare.holm([]) == []


def test_iqm_is_the_mean_of_the_middle_half():
    # of 0 1 2 3 4 5 6 100 without the two smallest and the two largest: (2 + 3 + 4 + 5) / 4
    assert compare.iqm(np.array([0.0, 100, 3, 5]), np.array([1.0, 2, 4, 6])) == 3.5
    value, low, high = compare.bootstrap([np.array([0.0, 100, 3, 5]), np.array([1.0, 2, 4, 6])], compare.iqm)
    assert value == 3.5 and 0 <= low < value < high <= 53
    assert (low, high) == compare.bootstrap([np.array([0.0, 100, 3, 5]), np.array([1.0, 2, 4, 6])], compare.iqm)[1:]
    # resampled task by task: a task without spread adds none, whatever lies between the tasks
    assert compare.bootstrap([np.zeros(4), np.full(4, 9.0)], compare.iqm) == (4.5, 4.5, 4.5)


def test_probability_of_improvement_and_profile():
    # task 1: of 2 x 2 pairs 3 larger; task 2: one larger, one equal, two smaller: (.75 + .375) / 2
    first, second = [np.array([2.0, 4]), np.array([1.0, 5])], [np.array([1.0, 3]), np.array([1.0, 6])]
    assert compare.improvement(first, second)[0] == pytest.approx((0.75 + (1 + 0.5) / 4) / 2)
    shares, low, high = compare.profile([np.array([0.2, 0.6]), np.array([0.6, 0.6])], np.array([0.0, 0.5, 0.6]))
    assert shares.tolist() == [1, 0.75, 0] and low[1] == 0.5 and high[1] == 1


def test_welch_by_hand_and_samples_without_spread():
    # means 2 and 6, variances 1 and 4, n = 3: t = -4 / sqrt(5/3), df = (5/3)^2 / ((1/3)^2 + (4/3)^2) * 2 = 50/17
    c = compare.compare([1, 2, 3], [4, 6, 8])
    assert c.difference == -4 and c.p == pytest.approx(2 * compare.stats.t.cdf(-4 / (5 / 3) ** 0.5, 50 / 17))
    reach = compare.stats.t.ppf(0.975, 50 / 17) * (5 / 3) ** 0.5
    assert (c.low, c.high) == pytest.approx((-4 - reach, -4 + reach))
    assert compare.compare([0, 0], [0, 0]).p == 1 and compare.compare([1], [1, 2]) is None
    # without spread: 2 of the 6 ways to label 4 seeds separate them so; of 252 for 10 seeds
    assert compare.compare([0, 0], [9, 9]) == (-9, -np.inf, np.inf, pytest.approx(1 / 3))
    assert compare.compare([0] * 5, [9] * 5) == (-9, -9, -9, pytest.approx(2 / 252))
    assert compare.paired(np.array([2.0, 2])) == (2, None, None) and compare.paired(np.full(6, 2.0)) == (2, 2, 2)
    # differences 1, 3, 5: t = 3 / (2 / sqrt(3)), whatever lies between the seeds
    c = compare.compare_paired([101, 53, 8], [100, 50, 3])
    assert c.difference == 3 and c.p == pytest.approx(2 * compare.stats.t.sf(3 / (2 / 3**0.5), 2))
    a, b = np.random.default_rng(0).normal(size=(2, 500)) * [[3], [5]] + [[1], [0]]
    printed = compare.compare_printed((a.mean(), a.std(ddof=1)), (b.mean(), b.std(ddof=1)))
    assert printed == pytest.approx(compare.compare(a, b))


# --- cells
MANIFEST = {"format": 1, "task": "FetchPush", "env_id": "FetchPush-v4", "horizon": 50,
            "arguments": {"seed": 0, "expert_noise": 0.2}, "expert": {"sha256": "e"},
            "versions": {"mujoco": "3.2.7", "gymnasium-robotics": "1.4.2", "numpy": "2"}, "platform": "here",
            "sha256": {name: "00" * 32 for name in ("observations", "achieved_goals", "desired_goals", "actions",
                                                    "success", "source", "seeds")}}


def changed(*path, value):
    """The manifest above with one entry changed, or left out for None."""
    manifest = copy.deepcopy(MANIFEST)
    entry = manifest
    for name in path[:-1]:
        entry = entry[name]
    entry.pop(path[-1], None)
    return manifest if value is None else entry.update({path[-1]: value}) or manifest


def test_what_makes_data_the_same():
    made = report.made_of(MANIFEST)
    for path, value in ((("sha256", "actions"), "11"), (("sha256", "observations"), "11"), (("arguments", "seed"), None),
                        (("sha256", "achieved_goals"), "11"), (("platform",), "there"), (("versions", "numpy"), "3"),
                        (("arguments", "expert_random_eps"), 0.0)):
        assert report.made_of(changed(*path, value=value)) == made, path
    others = [report.made_of(changed(*path, value=value)) for path, value in (
        (("sha256", "desired_goals"), "11"), (("sha256", "success"), "11"), (("sha256", "source"), "11"),
        (("sha256", "seeds"), "11"), (("arguments", "seed"), 1), (("arguments", "expert_noise"), 0.0),
        (("expert", "sha256"), "f"), (("versions", "mujoco"), "3.3.0"), (("versions", "gymnasium-robotics"), "1.5"),
        (("task",), "FetchPick"), (("env_id",), "FetchPush-v5"), (("horizon",), 51), (("format",), 2))]
    assert None not in others and len({made, *others}) == 14
    for path, value in ((("sha256", "lengths"), "11"), (("sha256", "seeds"), None), (("expert", "sha256"), None),
                        (("expert",), "A*"), (("expert",), None), (("arguments",), None), (("versions",), None)):
        assert report.made_of(changed(*path, value=value)) is None, path
    assert report.made_of({}) is None


def test_a_dataset_is_known_by_its_bits_but_where_the_collector_puts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "DATASETS", tmp_path)
    monkeypatch.setattr(report, "REPOSITORY", tmp_path)
    (tmp_path / "data" / "experts").mkdir(parents=True)
    own, other, bits = tmp_path / "FetchPush.npz", tmp_path / "other.npz", report.bits_of(MANIFEST["sha256"])
    for path in (own, other):
        np.savez(path, actions=np.zeros(3), manifest=json.dumps(MANIFEST))
    assert report.dataset_hashes(own) == (bits, report.made_of(MANIFEST))
    assert report.dataset_hashes(other) == (bits, bits)
    np.savez(other, actions=np.zeros(3))
    whole = hashlib.sha256(b"<f8(3,)" + bytes(24)).hexdigest()
    assert report.dataset_hashes(other) == (report.bits_of({"actions": whole}),) * 2
    np.savez(other, actions=np.zeros(3), manifest="{}")  # as the scripts read it
    assert report.dataset_hashes(other) == (report.bits_of({"actions": whole}),) * 2
    assert report.dataset_hashes(tmp_path / "none.npz") is None

    def data(rows=(), sha=bits, dataset=None):
        report.on_card.cache_clear()
        return report.data_of_run({"dataset_sha256": sha, "flags": {"task": "FetchPush", "dataset": dataset}}, rows)

    assert data() == report.made_of(MANIFEST) and data(sha="x") == "x"
    assert data([{"dataset_sha256": bits, "data": "y"}]) == "y", "the same bits are the same data"
    own.write_bytes(b"damaged")
    assert data() == bits == data([{"dataset_sha256": bits, "data": bits}])
    own.unlink()
    assert data() == bits
    card = tmp_path / "data" / "experts" / "FetchPush.json"
    card.write_text(json.dumps({"dataset": MANIFEST}))
    assert data() == report.made_of(MANIFEST) and data(sha="x") == "x" and data(dataset="gone.npz") == data()
    card.write_text(json.dumps({"task": "FetchPush"}))
    assert data() == bits
    report.on_card.cache_clear()


def test_seeds_on_data_of_two_machines_are_one_cell(folder, capsys):
    now = report.file_hash("td3bc")
    rows = [r | {"dataset_sha256": str(k), "protocol": "cpu"} for swap in (False, True)
            for k, r in enumerate(seeds([10.0, 20.0], task="FetchPush", swap=swap, sha=now))]
    rows += [r | {"protocol": "cpu-swap-filter-reachable"} for r in rows[2:]]
    for r in rows[4:]:
        r["flags"] = r["flags"] | {"swap-filter": "reachable"}
    assert results(*rows).cell("td3bc", "FetchPush", False).returns.tolist() == [10, 20]
    made, _ = report.parts(rows)
    assert "15.0, 2 seeds | 15.0, 2 seeds |  | 15.0, 2 seeds" in made["filters"]
    assert made["runs"].count("| 2 | 15.00 ± 7.07 |") == 3
    assert len(pages.varied(results(*rows).cell("td3bc", "FetchPush", True), rows, report.setting,
                            "swap-filter")["reachable"].seeds) == 2
    report.save_rows([rows[0], rows[0] | {"dataset_sha256": "9"}])
    with pytest.raises(SystemExit):
        report.read_rows()
    assert "of the same run as line 1" in capsys.readouterr().err
    report.save_rows([{name: value for name, value in rows[0].items() if name != "data"}])
    assert report.read_rows()[0]["data"] == rows[0]["dataset_sha256"], "of a clone from before"


def test_a_cell_holds_runs_that_differ_in_the_seed_only():
    some = results(*seeds([10, 20]), row(flags={"lr": 0.1}, value=90.0), row(data="2", value=70.0))
    assert some.cell("td3bc", "PointMaze", False).returns.tolist() == [10, 20]
    assert some.cell("td3bc", "PointMaze", True) is None and some.cell("td3bc", "FetchPush", False) is None


def test_a_cell_takes_the_last_evaluation_and_curves_the_updates_that_all_seeds_have():
    rows = [row(seed=1), row(seed=2, value=20.0)]
    rows[0]["curve"] = [[1000, 99.0, 1.0, 1.0], [3500, 50.0, 1.0, 0.5], [7000, 10.0, 1.0, 0.0]]
    rows[1]["curve"] = [[2000, 88.0, 1.0, 1.0], [3500, 60.0, 1.0, 0.0], [7000, 20.0, 1.0, 1.0]]
    cell = results(*rows).cell("td3bc", "PointMaze", False)
    assert cell.returns.tolist() == [10, 20]
    for column, wanted in ((1, [[50, 10], [60, 20]]), (3, [[0.5, 0], [0, 1]])):
        updates, values = cell.curve(column)
        assert updates.tolist() == [3500, 7000] and values.tolist() == wanted


def test_every_flag_but_those_that_change_no_result_makes_another_cell():
    flags = load_module(REPOSITORY / "algos" / "dqapg.py").DEFAULTS.flags() | {"swap": True}
    cell = report.setting({"method": "dqapg", "flags": flags})
    same = {name for name in flags if report.setting({"method": "dqapg", "flags": flags | {name: "another"}}) == cell}
    assert same == {"dataset", "strict", "seed", "out", "resume", "overwrite", "track", "eval-every", "log-every",
                    "checkpoint-every", "device", "threads", "compile", "cuda-graphs"}
    assert report.setting({"method": "td3bc", "flags": flags}) != cell


def test_one_protocol_is_shown_and_fresh_runs_come_first():
    some = results(*seeds([1, 2, 3]), row("crr"), row("cql"), row(value=9, protocol="cpu"), row("iql", value=8, protocol="cpu"),
                   *seeds([5, 6, 7], protocol="paper", updates=500_000))
    assert some.protocol == {"PointMaze": "cpu"} and some.cell("td3bc", "PointMaze", False).returns.tolist() == [9]
    some = results(row(value=9, protocol="cpu"), *(row(swap=s, protocol="cpu-lr-1") for s in (False, True)))
    assert some.protocol == {"PointMaze": "cpu"}, "a run with flags of its own is no more than a row"
    some = results(*seeds([1, 2, 3], sha="old"), row(value=4))
    assert some.cell("td3bc", "PointMaze", False).returns.tolist() == [4]
    some = results(row(value=4), stale=["td3bc"])
    assert some.cell("td3bc", "PointMaze", False).stale and some.cell("td3bc", "PointMaze", False, stale=False) is None


def test_the_effect_of_swapping_is_paired_over_seeds():
    # seeds 1 and 9 have no partner; differences 5 - 1 and 12 - 2
    some = results(*seeds([30, 1, 2]), row(seed=3, value=12, swap=True), row(seed=2, value=5, swap=True),
                   row(seed=9, value=50, swap=True))
    assert some.swap_effect("td3bc", "PointMaze").tolist() == [4, 10]
    mean, low, high = compare.paired(np.array([4, 10]))  # mean 7, error 3, t(.975, 1) = 12.706
    assert (mean, low, high) == pytest.approx((7, 7 - 3 * 12.706, 7 + 3 * 12.706), rel=1e-3)
    assert compare.paired(np.array([4.0])) == (4.0, None, None)
    line = next(line for line in pages.effects(some).splitlines() if "TD3+BC" in line)
    assert "| 2 × 7k | 11.00 | 22.33 | +7.00 | -31.1 to 45.1 |" in line and line.endswith("| +23.26 |")
    assert results(row(), row(swap=True, updates=9000)).swap_effect("td3bc", "PointMaze") is None


# --- the paper's tables
def test_tables_show_ours_above_the_papers_and_leave_empty_what_was_not_run():
    some = results(*(row(seed=s, episodes=[0] * 4 + [v] * 5, task="FetchPush") for s, v in ((1, 18), (2, 36))))
    lines = pages.papers(some, 2).splitlines()
    ours = [i for i, line in enumerate(lines) if line.startswith("| TD3+BC, ours |")]
    # 18 episodes: 8 of 0, 5 of 18, 5 of 36; mean 15, variance (5 * 324 + 5 * 1296) / 18 - 225 = 225
    assert lines[ours[0]] == "| TD3+BC, ours | 15.00 ± 15.00<br>2 × 7k |" + "  |" * 8
    assert lines[ours[0] + 1].startswith("| the paper | 12.94 ± 17.07 | 1.14 ± 4.78 |")
    assert lines[ours[0] - 2] == "| TD3+BC-aug, ours |" + "  |" * 9
    assert lines[ours[0] - 1].startswith("| the paper | 17.50 ± 15.47 • | 0.43 ± 1.48 |")  # better: +4.6; worse
    assert [pages.papers(some, n).count("\n") for n in (2, 3, 4)] == [1 + 2 * 7 * 2, 1 + 2 * 8, 1 + 2 * 12 + 1]
    assert "| TD3+BC, ours | 15.00" in pages.papers(some, 3) and "15.00" not in pages.papers(some, 4)  # swapped there


def test_the_two_versions_of_wgcsl_have_lines_of_their_own():
    """The paper's numbers are of the copy: its claim too, and the authors' version stands for itself."""
    def runs(variant, values):
        return seeds(values, method="wgcsl", flags={"variant": variant})

    some = results(*runs("gofar", [10.0, 20.0]), *runs("official", [40.0, 50.0, 60.0]), *seeds([30.0, 31.0]))
    assert some.cell("wgcsl", "PointMaze", False).returns.tolist() == [10, 20]
    assert some.cell("wgcsl-official", "PointMaze", False).returns.tolist() == [40, 50, 60]
    lines = pages.papers(some, 4).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("| WGCSL, ours |"))
    assert lines[at].endswith("| 15.00 ± 5.00<br>2 × 7k |") and lines[at + 1].startswith("| the paper | 10.14 ± 16.19 |")
    assert lines[at + 2].endswith("| **50.00 ± 8.16** •<br>3 × 7k |") and lines[at + 2].startswith("| WGCSL official, ours")
    assert lines[at + 3].startswith("| GCSL, ours |")
    assert "WGCSL" not in pages.papers(some, 2) + pages.papers(some, 3)
    short = pages.short(some).splitlines()
    assert "| WGCSL | 15.0 |" in short and "| WGCSL official | 50.0 |" in short
    stale = results(*runs("official", [40.0]), stale=["wgcsl"])
    assert stale.cell("wgcsl-official", "PointMaze", False).stale
    assert compare.line(row("am", flags={"variant": "official"})) == "am"


def test_marks_of_table_2():
    rows = [row(seed=seed, swap=swap, episodes=[10 * swap + seed + i for i in (10, 11, 12)] * 3)
            for seed in (1, 2, 3, 4) for swap in (False, True)]
    # with swapping 36 episodes, mean 20 + 2.5 + 1, variance 5/4 over seeds + 2/3 within
    assert "| **23.50 ± 1.38** •<br>4 × 7k |" in pages.papers(results(*rows), 2)
    assert "| 22.00 ± 0.82 •<br>1 × 7k |" in pages.papers(results(*rows[:2]), 2)  # one seed: no test over seeds
    assert "•<br>" not in pages.papers(results(*rows, stale=["td3bc"]), 2)
    # 15 against 12, deviations 5 and 4: over three seeds t is .8, over 27 episodes about 3
    loud = pages.papers(results(*seeds([10, 15, 20], swap=True), *seeds([8, 12, 16])), 2)
    assert "| 15.00 ± 4.08 •<br>3 × 7k |" in loud and "**" not in loud


def test_marks_of_tables_3_and_4():
    rows = [*seeds([40, 41, 42], method="dqapg"), *seeds([39, 41, 44]), *seeds([1, 2, 3], method="iql")]
    table = pages.papers(results(*rows), 3)
    assert "| **41.00 ± 0.82**" in table and "| **41.33 ± 2.05** •" in table and "| 2.00 ± 0.82<br>" in table
    single = pages.papers(results(*rows, row(method="cql", value=99.0)), 3)  # one seed: it is not tested, others are
    assert "| **41.33 ± 2.05**" in single and "| 99.00 ± 0.00 •<br>" in single
    papers = next(line for line in table.splitlines() if line.startswith("| the paper"))
    # the paper's DQAPG is best or level everywhere: by mean, or not significantly below
    assert papers.count("•") == 9 and "34.74 ± 30.16 •" in papers


def test_stale_rows_are_marked():
    table = pages.papers(results(*seeds([1, 2]), stale=["td3bc"]), 3)
    assert "| 1.50 ± 0.50<br>2 × 7k, stale |" in table
    assert "stale" in pages.effects(results(*seeds([1, 2]), *seeds([3, 4], swap=True), stale=["td3bc"]))
    assert "1.5 → 3.5 (stale)" in pages.short(results(*seeds([1, 2]), *seeds([3, 4], swap=True), stale=["td3bc"]))
    short = pages.short(results(*seeds([1, 2])))
    assert "| TD3+BC | 1.5 |" in short and "2 × 7k" in short


# --- claims
def c(difference, reach=1.0, p=0.5):
    return compare.Comparison(difference, difference - reach, difference + reach, p)


@pytest.mark.parametrize("rule, comparisons, verdict", [
    (claims.better, [c(9, p=0.01)], "holds"), (claims.better, [c(-9, p=0.01)], "does not hold"),
    (claims.better, [c(9, 20)], "undecided"), (claims.better, [c(0.5)], "does not hold"),  # at most 1.5 better
    (claims.better, [c(9, p=0.01), c(9, 20)], "undecided"), (claims.better, [c(9, p=0.01), c(0.5)], "does not hold"),
    (claims.no_better, [c(9, p=0.01), c(0)], "does not hold"), (claims.no_better, [c(0), c(-9, p=0.01)], "holds"),
    (claims.no_better, [c(0), c(0, 20)], "undecided"),
    (claims.no_worse, [c(-9, p=0.01), c(0)], "does not hold"), (claims.no_worse, [c(0), c(9, p=0.01)], "holds"),
    (claims.no_worse, [c(0), c(0, 20)], "undecided"),
    (claims.some_better, [c(0), c(9, p=0.01)], "holds"), (claims.some_better, [c(0), c(1)], "does not hold"),
    (claims.some_better, [c(0), c(4, 20)], "undecided"),
    (claims.half_better, [c(9, p=0.01), c(0)], "holds"), (claims.half_better, [c(0)], "does not hold"),
    (claims.half_better, [c(9, p=0.01), c(0, 20), c(0, 20)], "undecided"),
    (claims.half_better, [c(9, p=0.01), c(-9, p=0.01)], "does not hold"),
    (claims.half_better, [c(9, p=0.01), c(9, p=0.01), c(-9, p=0.01)], "does not hold")])
def test_rules_for_one_task(rule, comparisons, verdict):
    assert rule(comparisons, 5.0) == verdict


def test_better_is_undecided_while_the_interval_holds_a_relevant_gain():
    assert claims.better([c(0, 20)], 5.0) == "undecided" and claims.better([c(0, 4)], 5.0) == "does not hold"


@pytest.mark.parametrize("rule, verdicts, verdict", [
    (claims.every, "hhh", "holds"), (claims.every, "hhn", "does not hold"), (claims.every, "hhu", "undecided"),
    (claims.some, "nuh", "holds"), (claims.some, "nn", "does not hold"), (claims.some, "nu", "undecided"),
    (claims.most, "hhu", "holds"), (claims.most, "hn", "does not hold"), (claims.most, "hu", "undecided")])
def test_rules_for_all_tasks(rule, verdicts, verdict):
    names = {"h": claims.YES, "n": claims.NO, "u": claims.OPEN}
    assert rule([names[v] for v in verdicts]) == verdict


def verdicts(some):
    return {claim.text: (verdict, ours) for claim, ours, _, verdict, _ in claims.judged(some)}


def test_verdicts_come_from_rows_and_not_from_stale_ones_or_single_seeds():
    rows = [*seeds([10, 11, 12, 13]), *seeds([50, 51, 52, 53], swap=True),
            *seeds([30, 31, 32], task="FetchPush"), *seeds([20, 21, 22], task="FetchPush", swap=True)]
    verdict, ours = verdicts(results(*rows))["TD3+BC benefits from swapping"]
    assert verdict == "holds" and ours == {"PointMaze": ("holds", "+40.0*"), "FetchPush": ("does not hold", "-10.0*")}
    assert verdicts(results(*rows))["swapping has no significant negative effect"][0] == "does not hold"
    assert verdicts(results(*rows))["DQAPG benefits from swapping"] == (None, {})
    assert verdicts(results(*rows, stale=["td3bc"]))["TD3+BC benefits from swapping"] == (None, {})
    assert verdicts(results(row(), row(swap=True)))["TD3+BC benefits from swapping"] == (None, {})
    table = claims.table(results(*rows))
    line = next(line for line in table.splitlines() if "| TD3+BC benefits" in line)
    assert "| holds | **holds** on 1 task, not on 1, 2 of 9 tasks | FetchPush -10.0*; PointMaze +40.0* |" in line
    by_task = next(line for line in claims.by_task(results(*rows)).splitlines() if "| TD3+BC benefits" in line)
    assert by_task.count("not yet measured") == 7 and by_task.endswith("| holds |")
    assert claims.counted(results(*rows)) == (
        "Of 23 claims of the paper 1 holds, 2 do not hold, 0 are undecided, 20 are not yet measured in our runs.")


def test_what_was_not_measured_is_undecided():
    text = "the rest of the tasks are more or less intact"  # four tasks, seven methods
    rows = [row(m, task, swap, seed, 30 + seed / 100) for m in claims.SWAPPED
            for task in ("FetchReach", "FetchSlide", "HandBlockParallel", "HandBlockXYZ")
            for swap in (False, True) for seed in (1, 2, 3)]
    assert verdicts(results(*rows))[text][0] == "holds"
    reach = [r for r in rows if r["flags"]["task"] == "FetchReach"]
    verdict, found = verdicts(results(*reach))[text]
    assert verdict == "undecided" and found["FetchReach"][0] == "holds"
    some = [r for r in rows if r["method"] != "cql"]
    verdict, found = verdicts(results(*some))[text]
    assert verdict == "undecided" and {v for v, _ in found.values()} == {"undecided"}
    none = verdicts(results(*(r for r in rows if r["method"] == "cql" and r["flags"]["task"] == "FetchReach")))
    assert none["CQL benefits from swapping"] == ("undecided", {"FetchReach": ("does not hold", "+0.0")})
    better = [row("td3bc", "FetchReach", True, seed, 40 + seed / 100) for seed in (1, 2, 3)]
    one = [r for r in reach if r["method"] == "td3bc" and not r["flags"]["swap"]] + better
    assert verdicts(results(*one))[text][0] == "does not hold"  # whatever the others do


def test_of_many_comparisons_a_significant_one_is_shown():
    pairs = [("wide", c(9, 20)), ("sure", c(3, p=0.01)), ("low", c(-9, 20)), ("worse", c(-2, p=0.01))]
    assert claims.numbers(pairs, claims.no_better).startswith("+3.0* (sure")
    assert claims.numbers(pairs, claims.no_worse).startswith("-2.0* (worse")
    assert claims.numbers(pairs[:1] + pairs[2:3], claims.no_worse).startswith("-9.0 (low")
    assert claims.numbers(pairs, claims.unchanged).startswith("+3.0* (sure")
    assert claims.numbers([*pairs[:3], ("worst", c(-4, p=0.01))], claims.unchanged).startswith("-4.0* (worst")


def test_p_values_of_a_claim_are_corrected_together():
    # p = .03 alone; beside a second comparison it counts twice
    pair = [("", compare.Comparison(5, 1, 9, 0.03))]
    assert claims.corrected({"a": pair})["a"][0][1].p == 0.03
    assert [x[0][1].p for x in claims.corrected({"a": pair, "b": pair}).values()] == [0.06, 0.06]
    assert [x[0][1].p for x in claims.corrected({"a": pair, "b": pair}, 3).values()] == [0.09, 0.09], "one without runs"


def close(method, task, apart=5.0):
    """Three seeds of either, deviations of 2: t = apart / sqrt(8 / 3), for 5 p = .038, with Holm for two .075; for 15
    p = 8e-4, for nine .007."""
    return [r for swap, low in ((False, 10.0), (True, 10.0 + apart))
            for r in seeds([low, low + 2, low + 4], method=method, task=task, swap=swap)]


def test_verdicts_and_tables_correct_for_the_number_of_comparisons():
    one, two = close("td3bc", "PointMaze"), [*close("td3bc", "PointMaze"), *close("td3bc", "FetchPush")]
    text = "TD3+BC benefits from swapping"  # on any of nine tasks
    for rows in (one, two):
        found = {row["flags"]["task"]: ("undecided", "+5.0") for row in rows}
        assert verdicts(results(*rows))[text] == ("undecided", found), "eight or seven without runs count too"
    assert verdicts(results(*close("td3bc", "PointMaze", 15)))[text] == ("holds", {"PointMaze": ("holds", "+15.0*")})
    assert "**17.00 ± 1.63**" in pages.papers(results(*one), 2) and "**" not in pages.papers(results(*two), 2)
    lines = [line.split(" | ")[7:11] for line in pages.effects(results(*two)).splitlines()[2:]]
    episodes = compare.compare(np.repeat([15.0, 17, 19], 9), np.repeat([10.0, 12, 14], 9)).p
    reach = 2.776 * np.sqrt(8 / 3)
    assert lines == [[f"{5 - reach:.1f} to {5 + reach:.1f}", f"{episodes:.2g}", "0.038", "0.075"]] * 2
    text = "AWAC benefits the most, on five tasks"
    both = results(*close("awac", "PointMaze"), *close("td3bc", "PointMaze"))
    assert verdicts(both)[text][1]["all"] == ("undecided", "better on TD3+BC 0 to 9, AWAC 0 to 9")


def test_leads_on_the_hand_are_corrected_for_the_number_of_others():
    text = "almost all baselines fail on the three HandBlock tasks, DQAPG does not"
    others = [r for m, low in (("td3bc", 10.0), ("awac", 30.0))
              for r in seeds([low, low + 2, low + 4], method=m, task="HandBlockZ", swap=True)]
    for apart, below in ((5, 0), (25, 1), (60, 2)):  # of 33; p of a lead of 5 alone is .038
        lead = [r for r in close("dqapg", "HandBlockZ", apart) if r["flags"]["swap"]]
        found = verdicts(results(*lead, *others))[text][1]["HandBlockZ"][1]
        assert found.endswith(f", {below} significantly below DQAPG"), found


def test_runs_of_different_length_are_not_compared():
    rows = [*seeds([10, 11, 12], method="dqapg"), *seeds([50, 51, 52], method="dqapg", swap=True, updates=9000)]
    found = verdicts(results(*rows))
    assert found["DQAPG benefits from swapping"] == (None, {})
    assert found["goal swapping learns a more general policy"] == (None, {})


def test_a_margin_is_a_share_of_the_largest_return():
    # level, with an interval of +- 2.776 * 1.5 * sqrt(2 / 3) = 3.4: 5 % of 100 is more, of 50 less
    rows = [r for task in ("PointMaze", "FetchPush") for swap in (False, True)
            for r in seeds([30, 31.5, 33], method="iql", task=task, swap=swap)]
    found = verdicts(results(*rows))["IQL does not benefit from swapping"][1]
    assert found == {"PointMaze": ("holds", "+0.0"), "FetchPush": ("undecided", "+0.0")}


def test_two_rates_of_the_same_policies_are_paired_and_those_of_others_not():
    # apart by about 0.2 within each seed, while seeds differ by more
    rows = []
    for seed, (low, gap) in enumerate(((0.1, 0.2), (0.3, 0.21), (0.5, 0.19), (0.7, 0.2)), 1):
        rows += [row("dqapg", seed=seed, swap=swap) for swap in (False, True)]
        rows[-2]["scores"] |= {"seen_success": low + gap, "unseen_success": low}
        rows[-1]["scores"] |= {"unseen_success": low + gap}
    found = verdicts(results(*rows))
    assert found["without it the policy is overfitted"][0] == "holds"
    assert found["goal swapping learns a more general policy"][0] == "undecided"


def test_pairs_are_start_first():
    some = results(row("dqapg", success=[False, False, True] + [False] * 6))  # from s_c to g_1
    assert claims.pair_success(some.cell("dqapg", "PointMaze", False)).tolist() == [[[0, 0, 0], [0, 0, 0], [1, 0, 0]]]


def test_goals_reached_are_tested_two_sided_and_nine_times():
    def decided(*rows):
        return claims.goals_reached(True)(claims.Ours(results(*rows)))["PointMaze"][1].split("; ")[1]

    # every episode of n seeds succeeds, one of each pair: t = 0.5 / (0.5 / sqrt(n)); p times nine is .070 and .048
    assert decided(*(row("dqapg", seed=s, swap=True) for s in range(11))) == "0 of 9 decided"
    assert decided(*(row("dqapg", seed=s, swap=True) for s in range(12))) == "9 of 9 decided"
    # four of each pair, all or two of which succeed: mean .75, deviation .25 sqrt(12 / 11), t = sqrt(11): .062
    for n, wanted in ((12, "0 of 9 decided"), (14, "9 of 9 decided")):
        rows = [row("dqapg", seed=s, swap=True) for s in range(n)]
        for s, r in enumerate(rows):
            r["episodes"] = {"return": [10.0] * 36, "start": MAZE["start"] * 4, "goal": MAZE["goal"] * 4,
                             "success": [True] * 18 + [s % 2 == 0] * 18}
        assert decided(*rows) == wanted


def test_claims_about_pairs_of_the_maze():
    shown = [s + g == 2 for s, g in zip(MAZE["start"], MAZE["goal"])]
    some = results(*(row("dqapg", seed=s, success=shown) for s in range(20)),
                   *(row("dqapg", seed=s, swap=True) for s in range(20)))
    assert claims.pair_success(some.cell("dqapg", "PointMaze", False)).tolist() == [[[0, 0, 1], [0, 1, 0], [1, 0, 0]]] * 20
    found = verdicts(some)
    for text in ("goal swapping learns a more general policy", "without it the policy is overfitted",
                 "without it only one goal is reached", "with it the policy generalises beyond its data"):
        assert found[text][0] == "holds", text
    assert verdicts(results(row("dqapg"), row("dqapg", swap=True)))[
        "with it the policy generalises beyond its data"] == (None, {})  # one seed
    for n, verdict in ((20, "does not hold"), (2, "undecided")):  # two seeds of one episode a pair tell nothing
        found = verdicts(results(*(row("dqapg", seed=s, swap=swap, success=[True] * 8 + [False]) for s in range(n)
                                   for swap in (False, True))))
        assert found["without it only one goal is reached"][0] == verdict
        assert found["with it the policy generalises beyond its data"][0] == verdict


def test_claim_about_the_hand_and_awac():
    rows = [row(m, "HandBlockZ", s, seed, v + seed) for m, v in (("dqapg", 40), ("td3bc", 2), ("awac", 1))
            for s in (False, True) for seed in (1, 2)]
    text = "almost all baselines fail on the three HandBlock tasks, DQAPG does not"
    def others(value, methods):
        return [row(m, "HandBlockZ", claims.column("table4", m)[1], seed, value + seed) for m in methods for seed in (1, 2)]

    rest = [m for m in claims.PAPER["table4"] if m not in ("dqapg", "td3bc", "awac")]
    assert len(rest) == 9
    verdict, found = verdicts(results(*rows))[text]
    assert verdict == "undecided" and "DQAPG 41.5, 2 of 2 others below 10, TD3+BC 3.5" in found["HandBlockZ"][1]
    assert verdicts(results(*rows, *others(5, rest[:6])))[text][0] == "undecided"  # 8 of 11
    assert verdicts(results(*rows, *others(5, rest[:7])))[text][1]["HandBlockZ"][0] == "undecided"  # two may lead
    verdict, found = verdicts(results(*rows, *others(5, rest)))[text]
    assert found["HandBlockZ"][0] == "holds" and verdict == "undecided"  # two tasks are left
    rows = [copy.deepcopy(r) | {"flags": r["flags"] | {"task": task}} for r in (*rows, *others(5, rest))
            for task in claims.HAND]
    assert verdicts(results(*rows))[text][0] == "holds"
    assert verdicts(results(*(r for r in rows if r["method"] != rest[0])))[text][0] == "undecided"
    rows = [r for r in rows if r["flags"]["task"] == "HandBlockZ" and r["method"] not in rest]
    assert verdicts(results(*rows, *others(20, rest[:2])))[text][0] == "undecided"
    assert verdicts(results(*rows, *others(20, rest[:3])))[text][0] == "does not hold"
    assert verdicts(results(*rows, *others(90, rest[:1])))[text][0] == "does not hold"  # better than DQAPG
    assert verdicts(results(*rows, *others(41.5, rest[:1]), *others(5, rest[1:])))[text][0] == "undecided"  # by chance
    assert verdicts(results(*rows, *others(39, rest[:1]), *others(5, rest[1:])))[text][0] == "undecided"  # no clear lead
    gains = {"awac": 30, "td3bc": 0}
    rows = [row(m, "PointMaze", s, seed, 20 + seed + s * gain) for m, gain in gains.items() for s in (False, True)
            for seed in (1, 2, 3)]
    assert verdicts(results(*rows))["AWAC benefits the most, on five tasks"] == (
        "undecided", {"all": ("undecided", "better on TD3+BC 0 to 8, AWAC 1 to 9")})
    four = [row("awac", task, s, seed, 5 + seed + 30.0 * s) for task in compare.TASKS[:4] for s in (False, True)
            for seed in (1, 2, 3)]
    assert verdicts(results(*rows, *four))["AWAC benefits the most, on five tasks"][0] == "undecided"  # others may gain
    level = [row(m, task, s, seed, 5 + seed) for m in claims.SWAPPED if m != "awac" for task in compare.TASKS[:4]
             for s in (False, True) for seed in (1, 2, 3)]
    assert verdicts(results(*rows, *four, *level))["AWAC benefits the most, on five tasks"][0] == "holds"
    rows += [row("td3bc", task, s, seed, 10 + seed + 30.0 * s) for task in ("FetchPush", "FetchPick") for s in (False, True)
             for seed in (1, 2, 3)]
    assert verdicts(results(*rows))["AWAC benefits the most, on five tasks"][0] == "undecided"  # 8 tasks are left to AWAC
    level = [row("awac", task, s, seed, 5 + seed) for task in compare.TASKS[:5] for s in (False, True) for seed in (1, 2, 3)]
    assert verdicts(results(*rows, *level[:-6]))["AWAC benefits the most, on five tasks"][0] == "undecided"  # 1 and 4 left
    assert verdicts(results(*rows, *level))["AWAC benefits the most, on five tasks"][0] == "does not hold"
    wide = [row("awac", task, s, seed, 5.0 + 9 * seed) for task in compare.TASKS[:5] for s in (False, True)
            for seed in (1, 2, 3)]
    assert verdicts(results(*rows, *wide))["AWAC benefits the most, on five tasks"][0] == "undecided"  # not worse, open


def test_what_the_page_says_of_the_claims_that_hold():
    """"All claims that hold are of PointMaze", of 5 to 9 two methods are worse elsewhere, and no return is above 3.5."""
    current = {path.stem: report.file_hash(path.stem) for path in (REPOSITORY / "algos").glob("*.py")}
    ours = compare.Results([r for r in report.read_rows() if r["dataset_sha256"] not in report.EARLIER],
                           report.setting, current)
    hold = {number: found for number, (_, found, _, verdict, _) in enumerate(claims.judged(ours), 1)
            if verdict == "holds"}
    assert hold.keys() == {1, 2, 5, 6, 7, 8, 9}
    assert {task for found in hold.values() for task, (verdict, _) in found.items() if verdict == "holds"} == {"PointMaze"}
    worse = {number for number, found in hold.items() for _, shown in found.values() if re.match(r"-.*\*$", shown)}
    assert [list(claims.claims())[number - 1].text.split()[0] for number in sorted(worse)] == ["DQAPG", "Onestep-RL"]
    low = [cell.returns.mean() for (_, task, _), cell in ours.cells.items() if task in ("FetchSlide", "HandBlockParallel")]
    assert 2.5 < max(low) < 3.5


def test_the_papers_own_numbers_are_judged_by_the_same_rules():
    papers = {claim.text: (verdict, printed) for claim, _, printed, _, verdict in claims.judged(results())}
    assert papers["DQAPG benefits from swapping"][1]["HandBlockParallel"] == ("does not hold", "-5.1*")
    assert papers["IQL does not benefit from swapping"][0] == "does not hold"  # 14.45 to 20.72 on PointMaze
    assert papers["swapping has no significant negative effect"][0] == "does not hold"
    assert papers["DQAPG is best, or shares the best place, on all nine tasks"][0] == "holds"


def test_cells_of_a_task_are_of_one_dataset():
    """Four seeds with swapping on data of one's own are not compared with two without it on the usual data."""
    usual = [row(m, "FetchPush", swap, seed, 20.0 + 5 * swap) for m in ("td3bc", "dqapg") for swap in (False, True)
             for seed in (1, 2)]
    other = [row("td3bc", "FetchPush", True, seed, 5.0, data="2", dataset_sha256="2") for seed in (1, 2, 3, 4)]
    for rows in (usual + other, other + usual):
        shown = results(*rows)
        assert shown.cell("td3bc", "FetchPush", True).returns.tolist() == [25.0, 25.0]
        assert shown.swap_effect("td3bc", "FetchPush").tolist() == [5.0, 5.0]
    assert results(*other).cell("td3bc", "FetchPush", True).seeds == [1, 2, 3, 4]


# --- aggregates and figures
def test_normalised_scores_and_common_tasks():
    rows = [row(m, task, False, seed, 10.0 * seed) for m in ("dqapg", "td3bc") for task in ("PointMaze", "FetchReach")
            for seed in (1, 2)] + [row("iql", "PointMaze", False), row("dqapg", "FetchSlide")]
    tasks, samples = compare.common_tasks(results(*rows))
    assert tasks == ["FetchReach", "PointMaze"] and set(samples) == {("dqapg", False), ("td3bc", False)}
    expert = json.loads((REPOSITORY / "data/experts/FetchReach.json").read_text())["evaluation"]["return"]
    assert samples["dqapg", False][0].tolist() == [10 / expert, 20 / expert]
    assert compare.common_tasks(results(*rows, stale=list(compare.NAMES))) == ([], {})
    mine = [row("mine", task, False, seed) for task in ("PointMaze", "FetchReach") for seed in (1, 2)]
    current = dict.fromkeys([*compare.NAMES, "mine"], "now")
    own = compare.common_tasks(compare.Results([*rows, *mine], report.setting, current))
    assert own[0] == tasks and set(own[1]) == set(samples), "a method of one's own has rows, but no name"
    # a third seed of one cell must not make its task count for more
    third = row("dqapg", "PointMaze", False, 3, 30.0)
    samples = compare.common_tasks(results(*rows, third))[1]
    assert [len(sample) for group in samples.values() for sample in group] == [2] * 4


def many():
    """Rows for every figure."""
    rows = [row(m, task, swap, seed, seed + 5.0 * swap) for m in ("dqapg", "td3bc")
            for task in ("PointMaze", "FetchPush") for swap in (False, True) for seed in (1, 2)]
    for r in rows:
        if r["flags"]["task"] == "PointMaze" and r["flags"]["seed"] == 1:
            r["paths"] = [[220, 150, 100, 90, 20, 40]] * 9
    return rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """report.py on files of its own, with the rows of many()."""
    for name, file in (("ROWS", "runs.jsonl"), ("PLOTS", "plots")):
        monkeypatch.setattr(report, name, tmp_path / file)
    monkeypatch.setattr(report, "PAGES", [tmp_path / "README.md", tmp_path / "results.md"])
    names = ("counted", "claims", "claims_by_task", "table2", "table3", "table4", "effects", "figures", "runs", "short")
    (tmp_path / "README.md").write_text("a\n<!--table short-->\nold\n<!--end-->\nb\n")
    (tmp_path / "results.md").write_text("".join(f"<!--table {name}-->\n<!--end-->\n" for name in names))
    monkeypatch.setattr(report, "file_hash", lambda method: "now")
    report.save_rows(many())
    return tmp_path


def test_build_makes_everything_twice_the_same_and_check_sees_what_is_old(folder, capsys):
    report.build(check=False)
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    assert {path.name for path in files} == {"README.md", "results.md", "runs.jsonl"} | set(
        figures.plan(results(*many())))
    wanted = {"maze_paths.png", "maze_pairs.png", "iqm.png", "profiles.png", "improvement.png", "overfitting.png"}
    assert wanted <= {path.name for path in files}
    assert (folder / "README.md").read_text().startswith("a\n<!--table short-->\n| | FetchPush | PointMaze |\n")
    with pytest.raises(SystemExit) as stopped:
        report.build(check=True)
    assert stopped.value.code == 0 and not capsys.readouterr().out
    for name in ("plots/iqm.png", "plots/old.png"):
        if (folder / name).exists():
            (folder / name).unlink()
        else:
            (folder / name).write_bytes((folder / "plots/profiles.png").read_bytes())
        with pytest.raises(SystemExit) as stopped:
            report.build(check=True)
        assert stopped.value.code and name.split("/")[1] in capsys.readouterr().out
    report.build(check=False)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    for path in files:
        assert path.suffix != ".png" or b"matplotlib" not in files[path].lower() and path.stat().st_size < 100_000
        assert path.suffix != ".png" or set(Image.open(path).info) <= {"Source", "transparency"}
    report.save_rows([*many(), row("iql", seed=3, file_sha256="then")])
    with pytest.raises(SystemExit) as stopped:
        report.build(check=True)
    out = capsys.readouterr().out
    assert stopped.value.code and "README.md" in out and "results.md" in out and "swap_effect.png" in out


def test_a_change_of_the_drawing_makes_figures_old(folder, monkeypatch, capsys):
    report.build(check=False)
    (folder / "other.py").write_text("")
    monkeypatch.setattr(figures, "__file__", str(folder / "other.py"))
    with pytest.raises(SystemExit) as stopped:
        report.build(check=True)
    out = capsys.readouterr().out
    assert stopped.value.code and "iqm.png" in out and "results.md" not in out


def test_an_unknown_table_in_a_page_is_named(folder, capsys):
    (folder / "README.md").write_text("<!--table tabel2-->\n<!--end-->\n")
    with pytest.raises(SystemExit) as stopped:
        report.build(check=False)
    assert stopped.value.code == 2 and "tabel2" in capsys.readouterr().err


def test_no_rows_give_tables_without_ours_and_no_figures(folder):
    report.ROWS.unlink()
    report.build(check=False)
    page = (folder / "results.md").read_text()
    assert "0 hold, 0 do not hold, 0 are undecided, 23 are not yet" in page and not list(folder.glob("plots/*"))
    assert "| DQAPG, ours |" + "  |" * 9 in page


@pytest.mark.parametrize("damage, word", [
    (lambda r: r.pop("curve"), "curve"), (lambda r: r["scores"].update({"return": None}), "finite"),
    (lambda r: r["scores"].update({"return": float("nan")}), "finite"),
    (lambda r: r["episodes"].pop("return"), "return"),
    (lambda r: r["episodes"]["start"].pop(), "length"), (lambda r: r["flags"].pop("seed"), "seed"),
    (lambda r: r.update(method=["x"]), "no algos/"), (lambda r: r.update(flags=[]), "list"),
    (lambda r: r.update(curve=[]), "curve"), (lambda r: r["flags"].update(swap="no"), "flag"),
    (lambda r: r.pop("seconds"), "seconds"), (lambda r: r.pop("updates_timed"), "updates_timed"),
    (lambda r: r["flags"].pop("precision"), "precision"), (lambda r: r["flags"].pop("batch-size"), "batch-size"),
    (lambda r: r["flags"].update(lr="fast"), "format"), (lambda r: r["flags"].update(task=["x"]), "no text"),
    (lambda r: r.update(protocol=1), "no text"), (lambda r: r.update(file_sha256=None), "no text"),
    (lambda r: r.update(data=7), "no text"), (lambda r: r["flags"].update(task="Nowhere"), "no task Nowhere"),
    (lambda r: r["episodes"]["success"].__setitem__(0, "x"), "int"), (lambda r: r["flags"].update(seed=1.5), "kind"),
    (lambda r: r["episodes"]["start"].__setitem__(0, 7), "three"), (lambda r: r.update(paths=[[1, 2, 3]]), "path"),
    (lambda r: r.update(paths=["ab"]), "path")])
def test_a_damaged_row_is_one_clear_line(folder, capsys, damage, word):
    rows = many()
    damage(rows[3])
    report.save_rows(rows)
    before = report.ROWS.read_bytes()
    with pytest.raises(SystemExit) as stopped:
        report.build(check=False)
    out = capsys.readouterr()
    assert stopped.value.code == 2 and out.err.count("\n") == 1 and "line 4: " in out.err and "git" in out.err
    assert re.search(word, out.err)
    assert report.ROWS.read_bytes() == before and not out.out


def test_bytes_that_are_no_text_and_a_run_twice_are_damage_too(folder, capsys):
    whole = report.ROWS.read_bytes()
    for more, word in ((b"\xff\xfe garbage\n", "not a result row"), (whole.splitlines()[0] + b"\n", "as line 1")):
        report.ROWS.write_bytes(whole + more)
        with pytest.raises(SystemExit) as stopped:
            report.read_rows()
        err = capsys.readouterr().err
        assert stopped.value.code == 2 and err.count("\n") == 1 and f"line {len(many()) + 1}" in err and word in err


def test_half_a_line_and_an_unknown_method_are_damage_too(folder, capsys, monkeypatch):
    report.ROWS.write_text(report.ROWS.read_text()[:-40])
    with pytest.raises(SystemExit) as stopped:
        report.read_rows()
    assert stopped.value.code == 2 and f"line {len(many())}" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(report, "ROWS", folder / "runs.jsonl")
    report.save_rows([row("nothing")])
    with pytest.raises(SystemExit) as stopped:
        report.read_rows()
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and "nothing" in err and err.count("\n") == 1


# --- all runs, and adding them
@pytest.mark.parametrize("flags, words", [
    ({"lr": 1e-3}, "lr 0.001, fp32"), ({"batch-size": 256, "lr": 3e-4}, "lr 0.0003, batch 256, fp32"),
    ({"swap": True, "lr": 1e-3}, "lr 0.001, batch goals, 256 + 256, fp32"),
    ({"swap": True, "swap-batch": "double", "batch-size": 64, "lr": 1e-3}, "lr 0.001, batch goals, 64 + 64, fp32"),
    ({"swap": True, "batch-size": 256, "weight": 0.5, "samples": 4, "lr": 1e-3},
     "weight 0.5, samples 4, lr 0.001, batch goals, 128 + 128, fp32"),
    ({"target-every": 1, "weight-clip": 1.0, "lr": 1e-3}, "lr 0.001, target-every 1, weight-clip 1, fp32"),
    ({"target-every": 10, "weight-clip": 100.0, "lr": 1e-3}, "lr 0.001, fp32")])
def test_a_run_is_described_by_what_differs_from_others(flags, words):
    assert report.describe(row("cql", flags=flags)) == words
    if flags.get("lr") == 1e-3:
        assert report.describe(row("td3bc", flags=flags)) == words.replace("lr 0.001, ", "")


def test_defaults_that_go_without_saying_are_those_of_the_scripts():
    clips = {path.stem: re.search(r"weight_clip: float = ([\d.]+)", path.read_text())
             for path in (REPOSITORY / "algos").glob("*.py")}
    assert {name: float(found[1]) for name, found in clips.items() if found and float(found[1]) != 100} == report.CLIPS
    assert all("target_every: int = 10 " in (REPOSITORY / "algos" / f"{name}.py").read_text() for name in clips)


def test_the_table_of_all_runs_averages_over_seeds_and_over_nothing_else(monkeypatch):
    monkeypatch.setattr(report, "file_hash", lambda method: "other")
    rows = [row(), row(seed=2, value=20.0, flags={"out": "elsewhere"}), row(flags={"lr": 0.1}, value=90.0)]
    lines = report.table(rows, "PointMaze").splitlines()[2:]
    assert len(lines) == 2 and any("| 2 | 15.00 ± 7.07 | 15.00 ± 7.07 |" in x for x in lines)
    assert any("| 1 | 90.00 | 90.00 |" in x for x in lines) and all("stale" in line for line in lines)
    assert report.table(rows, "FetchPush").count("\n") == 1


def finished_run(folder, **changes):
    made = row(**changes)
    made["flags"] |= {"dataset": None}
    episodes = [{"seed": 5 + i, **{name: values[i] for name, values in made["episodes"].items()}} for i in range(9)]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({k: v for k, v in made.items() if k not in ("curve", "episodes")}))
    (folder / "evaluations.jsonl").write_text(json.dumps(
        {"update": 7000, **made["scores"], "episodes": episodes}) + "\n")
    return folder


def test_a_run_that_went_on_and_was_stopped_is_no_row(folder, capsys):
    report.ROWS.unlink()
    run = finished_run(folder / "1")
    with open(run / "evaluations.jsonl", "a") as file:  # of --resume --updates 9000; result.json is still of 7000
        file.write(json.dumps(json.loads((run / "evaluations.jsonl").read_text()) | {"update": 8000}) + "\n")
    with pytest.raises(SystemExit) as stopped:
        report.add([run])
    assert stopped.value.code == 2 and "--resume" in capsys.readouterr().err and not report.ROWS.exists()


def test_add_takes_a_run_once_and_refuses_what_is_none(folder, capsys):
    report.ROWS.unlink()
    with pytest.raises(SystemExit) as stopped:
        report.add([folder / "1"])
    assert stopped.value.code == 2 and str(folder / "1") in capsys.readouterr().err and not report.ROWS.exists()
    done = finished_run(folder / "1", flags={"out": "runs/cpu/0123456789ab"})
    report.add([done])
    report.add([done])
    added, = report.read_rows()
    assert added["episodes"] == {"return": [10.0] * 9, "success": [True] * 9, **MAZE} and added["protocol"] == "cpu"
    assert "out" not in added["flags"] and "paths" not in added and added["curve"] == [[7000, 10.0, 1.0, 1.0]]
    report.add([finished_run(folder / "2", seed=2, flags={"out": "runs"})])
    assert "protocol" not in report.read_rows()[1]


@pytest.mark.parametrize("changes, named", [
    ({"task": "toymodule:Toy-v0"}, "toymodule:Toy-v0"), ({"method": "nosuch"}, "algos/nosuch.py"),
    ({"scores": {"return": 1.0, "success": 1.0}}, "seen_success"), ({"value": math.nan}, "finite")])
def test_a_run_that_the_tables_cannot_show_is_no_row(folder, changes, named, capsys):
    """Else one such row stops every later command, until it is taken out by hand."""
    before = report.ROWS.read_bytes()
    changes = {"task": "PointMaze"} | changes
    run = finished_run(folder / "1", **changes)
    if "scores" in changes:
        done = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps(done | {"scores": changes["scores"]}))
    with pytest.raises(SystemExit) as stopped:
        report.add([run])
    line = capsys.readouterr().err
    assert stopped.value.code == 2 and line.count("\n") == 1 and named in line and str(run) in line
    assert report.ROWS.read_bytes() == before
    report.read_rows()


def test_a_row_holds_the_last_evaluation_and_the_returns_of_the_first(folder):
    report.ROWS.unlink()
    run = finished_run(folder / "1")
    last = json.loads((run / "evaluations.jsonl").read_text())
    early = copy.deepcopy(last) | {"update": 3500, "return": 1.0}
    for episode in early["episodes"]:
        episode |= {"return": 1.0, "success": False}
    (run / "evaluations.jsonl").write_text("".join(json.dumps(x) + "\n" for x in (early, last)))
    report.add([run])
    added, = report.read_rows()
    assert added["episodes"]["return"] == [10.0] * 9 and added["episodes"]["success"] == [True] * 9
    assert added["first_returns"] == [1.0] * 9
    assert [point[:2] for point in added["curve"]] == [[3500, 1.0], [7000, 10.0]]


def test_a_row_of_pointmaze_holds_the_paths_of_its_final_policy(dataset, tmp_path, monkeypatch):
    done = Run(tmp_path, REPOSITORY / "algos" / "td3bc.py", "--dataset", dataset, "--updates", 2, "--hidden", 8,
               "--eval-episodes", 27, "--batch-size", 8, "--swap", "--out", tmp_path / "out").wait()
    assert done.status == 0, done.err
    run = tmp_path / "out" / "PointMaze" / "td3bc-swap" / "1"
    monkeypatch.setattr(report, "ROWS", tmp_path / "runs.jsonl")
    report.add([run])
    added, = report.read_rows()
    paths = added.pop("paths")
    report.save_rows([added])
    report.add([run])  # a row without them gets them from the same run
    added, = report.read_rows()
    assert added["paths"] == paths and added["hardware"]["cores"] and added["versions"]["mujoco"]
    assert len(added["paths"]) == report.PATHS == 18 and len(json.dumps(added)) < 30_000
    sys.path.insert(0, str(REPOSITORY))
    from envs.pointmaze import STARTS
    for path, start in zip(added["paths"], added["episodes"]["start"]):
        x0, x1, y0, y1 = STARTS[start]
        assert x0 <= path[0] / 10 + 0.05 and path[0] / 10 - 0.05 <= x1 and y0 <= path[1] / 10 + 0.05 <= y1 + 0.1
    # a policy that is not the one of the row has no paths in it
    (run / "evaluations.jsonl").write_text((run / "evaluations.jsonl").read_text().replace('"return": ', '"return": 9'))
    assert report.final_paths(run, json.loads((run / "result.json").read_text())) is None


def test_revalidating_clears_what_repeats_fills_in_new_flags_and_keeps_rows_added_meanwhile(tmp_path, monkeypatch):
    old = [row(seed=1, sha="then"), row(seed=2, sha="then"), row(swap=True, sha="then"), row(method="iql")]
    report_rows = tmp_path / "runs.jsonl"
    monkeypatch.setattr(report, "ROWS", report_rows)
    monkeypatch.setattr(report, "file_hash", lambda method: "now")
    report.save_rows(old)

    def same_run(first):
        with report.locked():  # another process adds rows while the runs are repeated
            rows = report.read_rows()
            if len(rows) == len(old):
                report.save_rows([*rows, row(method="awac")])
        return None if first["flags"]["swap"] else first["flags"] | {"new-flag": 3, "seed": 7, "out": "x"}

    monkeypatch.setattr(report, "same_run", same_run)
    monkeypatch.setattr(report, "same_code", lambda first: False)
    monkeypatch.setattr(report, "same_inputs", lambda first: None)
    report.revalidate()
    rows = report.read_rows()
    assert [(r["method"], r["flags"]["seed"], r["file_sha256"]) for r in rows] == [
        ("td3bc", 1, "now"), ("td3bc", 2, "now"), ("td3bc", 1, "then"), ("iql", 1, "now"), ("awac", 1, "now")]
    assert [r["flags"].get("new-flag") for r in rows] == [3, 3, None, None, None]
    assert "out" not in rows[0]["flags"] and rows[0]["revalidated"] == [{"from": "then", "updates": 200}]
    assert [r["scores"] for r in rows[:4]] == [r["scores"] for r in old]
    monkeypatch.setattr(report, "same_code", lambda first: first["flags"]["swap"])
    report.revalidate()
    assert report.read_rows()[2]["revalidated"] == [{"from": "then", "updates": 0}]
    inputs = [row(seed=1, sha="old"), row(task="FetchPick", sha="old")]
    report.save_rows(inputs)
    monkeypatch.setattr(report, "same_code", lambda first: False)
    monkeypatch.setattr(report, "same_inputs", lambda first: first["flags"]["task"] == "PointMaze")
    monkeypatch.setattr(report, "same_run", lambda first: 1 / 0)
    report.revalidate()
    assert [(r["file_sha256"], r.get("revalidated")) for r in report.read_rows()] == [
        ("now", [{"from": "old", "updates": 0, "inputs": "same"}]), ("old", None)]
    twice = [row(seed=1, sha="first"), row(seed=1, sha="second")]  # it ran again, and neither change did anything
    report.save_rows(twice)
    monkeypatch.setattr(report, "same_code", lambda first: True)
    report.revalidate()
    assert [r["revalidated"][0]["from"] for r in report.read_rows()] == ["first"]


def test_a_changed_normalizer_is_compared_by_what_it_makes_of_the_data(dataset, tmp_path, monkeypatch):
    now = (REPOSITORY / "algos" / "iql.py").read_bytes()
    monkeypatch.setattr(report, "DATASETS", tmp_path)
    monkeypatch.setattr(report, "task_data", functools.cache(report.task_data.__wrapped__))
    monkeypatch.setattr(report, "normalised", functools.cache(report.normalised.__wrapped__))

    def same(old, new, of=None):
        assert now.count(old) == 1
        monkeypatch.setattr(report, "committed", lambda method, sha: ("abc", now.replace(old, new)))
        return report.same_inputs(row(method="iql") | {"data": of or report.dataset_hashes(dataset)[1]})

    assert same(b".clip(min=1e-2)", b".clip(min=1e-3)") is None  # there is no data to look at
    shutil.copy(dataset, tmp_path / "PointMaze.npz")
    assert same(b".clip(min=1e-2)", b".clip(min=1e-3)") is True  # nothing in the maze varies as little
    assert same(b".clip(min=1e-2)", b".clip(min=10)") is False
    assert same(b".clip(min=1e-2)", b".clip(min=1e-3)", of="other data") is None
    for more in (b"torch.rand(1)", b"buffer.rng.random()", b"buffer.actions[0] = 0", b"self.limit = 9"):  # seen later
        assert same(b"        valid = ", b"        " + more + b"\n        valid = ") is False
    assert same(b".clamp(-5, 5)\n        return", b".clamp(-9, 9)\n        return") is None  # another function of the class
    assert same(b"lr: float = 1e-3", b"lr: float = 1e-4") is None  # another class
    for path in tmp_path.glob("*"):
        path.write_bytes(b"damaged")
    assert same(b".clip(min=1e-2)", b".clip(min=1e-3)") is None


def test_two_files_are_compared_by_a_short_run_of_both(dataset, monkeypatch, capsys):
    path = REPOSITORY / "algos" / "iql.py"
    content = path.read_text()
    old = content.replace("threads: int = 0", "processors: int = 1\n    threads: int = 0").replace("minimise", "minimize")
    other = content.replace("self.rng.permutation(goal)", "self.rng.permutation(goal)[::-1]")
    assert old != content != other
    monkeypatch.setattr(report, "DATASETS", dataset.parent)
    monkeypatch.setattr(report, "SHORT", {"updates": 4, "log-every": 2, "eval-every": 2, "eval-episodes": 1})
    monkeypatch.setattr(report, "committed", lambda method, sha: ("commit", {"old": old, "other": other, "": ""}[sha].encode()))

    def same(sha, **flags):
        return report.same_run({"method": "iql", "file_sha256": sha, "threads": 1, "flags": {
            "task": "PointMaze", "hidden": [8, 8], "batch-size": 8, "seed": 3, "swap": True, "swap-source": "batch",
            "swap-batch": "equal", "precision": "fp32", **flags}})

    flags = same("old")
    assert "processors" not in flags and flags["seed"] == 3 and flags["stop-at-goal"] is True
    assert same("other") is None and not capsys.readouterr().err
    assert same("old", lr=7) is None and "--lr 7" in capsys.readouterr().err
    assert same("") is None and "never committed" in capsys.readouterr().err


def test_code_is_what_is_executed():
    old = b'"""Title."""\nx = 1  # one\n\ndef f():\n    """Doc."""\n    return "a"\n'
    assert report.code_of(old) == report.code_of(b'"""Other."""\n\nx = 1\ndef f():\n    return "a"  # text\n')
    assert report.code_of(old) != report.code_of(old.replace(b"x = 1", b"x = 2"))
    assert report.code_of(old) != report.code_of(old.replace(b'"a"', b'"b"'))
