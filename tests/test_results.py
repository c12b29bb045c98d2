"""The tables in README.md are those that results/report.py builds from results/runs.jsonl."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "results"))
import report  # noqa: E402


def row(**changes):
    flags = {"task": "PointMaze", "swap": False, "precision": "fp32", "seed": 1, "out": "runs"}
    scores = {"return": 10.0, "seen_success": 0.5, "unseen_success": 0.25}
    return {"method": "td3bc", "updates": 7, "flags": flags | changes.pop("flags", {}), "file_sha256": "0",
            "dataset_sha256": "1", "scores": scores | changes.pop("scores", {})} | changes


def test_readme_is_up_to_date():
    assert subprocess.run([sys.executable, REPOSITORY / "results" / "report.py", "check"]).returncode == 0, \
        "python results/report.py rebuilds the tables"


def test_every_row_is_one_run_and_holds_its_episodes():
    rows = report.read_rows()
    assert len({report.key(r) for r in rows}) == len(rows)
    for r in rows:
        returns = r["episodes"]["return"]
        assert len(returns) == r["flags"]["eval-episodes"]
        assert r["scores"]["return"] == pytest.approx(sum(returns) / len(returns))
        assert r["curve"][-1][0] == r["updates"] == r["flags"]["updates"]


def test_a_table_averages_over_seeds_and_over_nothing_else():
    rows = [row(), row(flags={"seed": 2, "out": "elsewhere"}, scores={"return": 20.0}),
            row(flags={"lr": 0.1}, scores={"return": 90.0})]
    lines = report.table(rows, "PointMaze").splitlines()[2:]
    assert len(lines) == 2 and any("| 2 | 15.00 ± 7.07 |" in x for x in lines) and any("| 1 | 90.00 |" in x for x in lines)
    assert all("stale" in line for line in lines)
    assert report.table(rows, "FetchPush").count("\n") == 1
    assert report.rebuilt("a\n<!-- table PointMaze -->\nold\n<!-- end -->\nb", []).splitlines()[-2:] == ["<!-- end -->", "b"]


def test_add_takes_a_run_once_and_refuses_what_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "ROWS", tmp_path / "runs.jsonl")
    folder = tmp_path / "1"
    folder.mkdir()
    with pytest.raises(SystemExit) as stopped:
        report.add([folder])
    assert stopped.value.code == 2 and str(folder) in capsys.readouterr().err and not report.ROWS.exists()
    (folder / "result.json").write_text(json.dumps(row()))
    evaluation = {"update": 7, "return": 1.0, "success": 0.0, "episodes": [{"seed": 5, "return": 1}]}
    (folder / "evaluations.jsonl").write_text(json.dumps(evaluation) + "\n")
    report.add([folder])
    report.add([folder])
    assert [r["episodes"] for r in report.read_rows()] == [{"return": [1]}]
    report.ROWS.write_text("{}\n")
    with pytest.raises(SystemExit) as stopped:
        report.read_rows()
    assert stopped.value.code == 2 and "line 1" in capsys.readouterr().err
