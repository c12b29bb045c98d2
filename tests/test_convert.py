"""Round trips of data/convert.py through WGCSL/GoFAR pickles, Minari and OGBench, and what it refuses."""

import hashlib
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import Run
from speed import load

DATA = Path(__file__).resolve().parents[1] / "data"
sys.path.insert(0, str(DATA))
import convert  # noqa: E402


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def walks(n=5, steps=6, seed=0):
    """Made-up PointMaze episodes in WGCSL's layout; goals lie near the end, some reached, some not."""
    rng = np.random.default_rng(seed)
    o = rng.uniform(3, 15, (n, steps + 1, 2))
    g = np.repeat(o[:, -1:] + rng.uniform(-3, 3, (n, 1, 2)), steps, axis=1)
    return {"o": o, "ag": o.copy(), "g": g, "u": rng.uniform(-2, 2, (n, steps, 2))}


def dump(name, data, protocol=4):
    Path(name).write_bytes(pickle.dumps(data, protocol))
    return name


def run(*flags):
    convert.main([str(flag) for flag in flags])


def made(*flags, task="PointMaze"):
    run(*flags, "--task", task, "--out", "made.npz", "--force")
    return read("made.npz")


def read(path):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    manifest = json.loads(str(arrays.pop("manifest")))
    assert json.loads(Path(path).with_suffix(".json").read_text()) == manifest
    for name, x in arrays.items():
        digest = hashlib.sha256(f"{x.dtype.str}{x.shape}".encode() + x.tobytes()).hexdigest()
        assert manifest["sha256"][name] == digest, "the hash that collect.py and the methods compute"
    return arrays, manifest


def files():
    """All there are, but for Minari's root, which it makes as soon as anything is looked for."""
    return sorted(path for path in Path().rglob("*") if path != Path("minari"))


def refused(capsys, *flags):
    """The one line of an error; nothing may be left behind."""
    before = files()
    with pytest.raises(SystemExit) as end:
        run(*flags)
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.startswith("convert.py: error: --") and line.count("\n") == 1, line
    assert files() == before
    return line


def minari():
    return pytest.importorskip("minari", reason='needs pip install "minari[hdf5]"')


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


# WGCSL and GoFAR pickles

@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("observed, acted", [(7, 6), (6, 5), (6, 6)])  # WGCSL; GoFAR; one action too many
def test_pickle(protocol, observed, acted):
    data = walks()
    data["u"] = np.asfortranarray(data["u"].astype(">f4"))
    cut = {k: x[:, :observed] if k in ("o", "ag") else x[:, :acted] for k, x in data.items()}
    dump("b.pkl", cut | {"note": [np.float64(1)]}, protocol)
    arrays, manifest = made("--source", "b.pkl", "--split", "random")
    steps = observed - 1
    assert np.array_equal(arrays["observations"], data["o"][:, :observed].astype(np.float32))
    assert np.array_equal(arrays["actions"], data["u"][:, :steps].astype(np.float32))
    assert np.array_equal(arrays["desired_goals"], data["g"][:, 0].astype(np.float32))
    distance = [[np.hypot(*(data["o"][i, t + 1] - data["g"][i, 0])) for t in range(steps)] for i in range(5)]
    assert np.array_equal(arrays["success"], np.array(distance) < 2) and 0 < arrays["success"].mean() < 1
    assert (arrays["source"] == 0).all() and (arrays["seeds"] == -1).all()
    assert manifest["origin"][0]["note"] == "not collected by us"
    assert manifest["origin"][0]["sha256"] == hashlib.sha256(Path("b.pkl").read_bytes()).hexdigest()
    assert manifest["versions"]["mujoco"] == "unknown" and manifest["random"]["episodes"] == 5


def test_success_is_computed_before_rounding():
    data = walks(2, 2)
    data["ag"][:], data["g"][0], data["g"][1] = (5, 5), (7 - 1e-9, 5), (3, 5)
    data["ag"][1, :, 0] -= 1e-9
    arrays, _ = made("--source", dump("b.pkl", data))
    assert arrays["success"].all() and arrays["achieved_goals"][1, 1].tolist() == [5, 5]
    assert arrays["desired_goals"].tolist() == [[7, 5], [3, 5]], "both at distance 2, which is too far"


def test_success_of_a_hand_task_is_the_environments():
    env, rng = gym.make("gymnasium_robotics:HandManipulateBlockRotateZ-v1"), np.random.default_rng(0)
    turn = rng.uniform(-0.2, 0.2, (3, 9))
    ag = np.zeros((3, 9, 7))
    ag[..., 3], ag[..., 6] = np.cos(turn / 2), np.sin(turn / 2)
    ag[0, 4] *= -1  # the same rotation, but the environment takes it for a whole turn
    g = np.tile([0.0, 0, 0, 1, 0, 0, 0], (3, 8, 1))
    dump("b.pkl", {"o": np.zeros((3, 9, 61)), "ag": ag, "g": g, "u": np.zeros((3, 8, 20))})
    arrays, _ = made("--source", "b.pkl", task="HandBlockZ")
    reward = env.unwrapped.compute_reward
    rule = [[reward(ag[i, t + 1], g[i, 0], {}) == 0 for t in range(8)] for i in range(3)]
    assert np.array_equal(arrays["success"], rule) and 0 < arrays["success"].mean() < 1 and not rule[0][3]


def test_the_source_with_bad_numbers_is_named(capsys):
    data = walks()
    data["u"][2, 1, 0] = np.nan
    names = dump("good.pkl", walks()), dump("bad.pkl", data)
    for first, second, flag in ((*names, "--random-source"), (*names[::-1], "--source")):
        flags = "--source", first, "--random-source", second, "--task", "PointMaze", "--out", "x.npz"
        line = refused(capsys, *flags)
        assert f"{flag} bad.pkl: actions must be finite" in line and "--task" not in line
    made(*flags[:4], "--expert-episodes", 2)  # without it


def test_mixture_takes_the_first_episodes(capsys):
    expert, random = walks(6, seed=1), walks(9, seed=2)
    flags = ["--source", dump("e.pkl", expert), "--random-source", dump("r.pkl", random)]
    arrays, manifest = made(*flags, "--expert-episodes", 2, "--random-episodes", 5)
    first = np.concatenate([expert["u"][:2], random["u"][:5]])
    assert np.array_equal(arrays["actions"], first.astype(np.float32))
    assert arrays["source"].tolist() == [1] * 2 + [0] * 5 and len(manifest["origin"]) == 2
    assert manifest["expert"]["return"] == arrays["success"][:2].sum(1).mean()
    assert len(made(*flags)[0]["actions"]) == 15
    line = refused(capsys, *flags, "--expert-episodes", 7, "--task", "PointMaze", "--out", "x.npz")
    assert "--expert-episodes 7: there are 6" in line


def test_actions_are_clipped_as_the_environment_does():
    data = walks()
    data["u"][1, 2, 0] = 2.5
    arrays, manifest = made("--source", dump("b.pkl", data))
    assert arrays["actions"][1, 2, 0] == 2 and manifest["clipped_actions"] == 1


class Harm:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("harm, word", [
    (Harm(os.system, "touch harmed"), "system"),
    (Harm(eval, "open('harmed', 'w')"), "eval"),
    (Harm(np.lib.format.open_memmap, "harmed", "w+", "f4", None, (1,)), "open_memmap"),
    (Harm(io.open, "harmed", "w"), "open"),
])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_cannot_run_code(harm, word, protocol, capsys):
    for data in ({**walks(), "x": harm}, {**walks(), "o": harm}, harm):
        dump("bad.pkl", data, protocol)
        line = refused(capsys, "--source", "bad.pkl", "--task", "PointMaze", "--out", "x.npz")
        assert word in line and not Path("harmed").exists()


def test_pickle_cannot_make_objects_of_memory():
    """numpy.ndarray, numpy.dtype and bytes are enough to crash numpy's own unpickling, or worse."""
    dump("bad.pkl", walks() | {"o": Harm(np.ndarray, (1,), np.dtype("O"), b"A" * 8)})
    flags = ["--source", "bad.pkl", "--task", "PointMaze", "--out", "x.npz"]
    result = subprocess.run([sys.executable, DATA / "convert.py", *flags], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("convert.py: error: --source bad.pkl")
    assert result.stderr.count("\n") == 1 and not Path("x.npz").exists()


def test_one_line_although_gymnasium_robotics_prints_a_notice():
    flags = ["--source", dump("b.pkl", walks()), "--task", "FetchReach", "--out", "x.npz"]
    result = subprocess.run([sys.executable, DATA / "convert.py", *flags], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "(5, 7, 10)" in result.stderr


def changed(**parts):
    return lambda: dump("bad.pkl", walks() | {k: change(walks()[k]) for k, change in parts.items()})


@pytest.mark.parametrize("make, word", [
    (changed(g=lambda g: g + np.arange(6)[:, None]), "goal changes"),
    (changed(u=lambda u: u[:, :3]), "fit together"),
    (changed(ag=lambda ag: ag[:3]), "fit together"),
    (changed(o=lambda o: o * np.nan), "finite"), (changed(u=lambda u: u * 1e39), "finite in float32"),
    (changed(o=lambda o: np.repeat(o, 2, -1)), "is --task right?"),
    (changed(o=lambda o: o.astype(object)), "plain numbers"),
    (changed(o=lambda o: o.astype(complex)), "plain numbers"),
    (lambda: dump("bad.pkl", [1, 2]), "o, ag, g and u"),
    (lambda: Path("bad.pkl").write_bytes(pickle.dumps(walks())[:300]), "truncated"),
    (lambda: Path("bad.pkl").write_bytes(b""), "bad.pkl"),
    (lambda: None, "No such file"),
])
def test_bad_pickles(make, word, capsys):
    make()
    assert word in refused(capsys, "--source", "bad.pkl", "--task", "PointMaze", "--out", "x.npz")


# Our own format

def test_damaged_datasets(capsys):
    arrays, manifest = made("--source", dump("b.pkl", walks()))
    text = np.array(json.dumps(manifest))
    np.savez("edited.npz", **arrays | {"actions": arrays["actions"] + np.float32(1e-6)}, manifest=text)
    assert "actions differs" in refused(capsys, "--source", "edited.npz", "--out", "x.npz")
    np.savez("less.npz", **{name: arrays[name] for name in arrays if name != "seeds"}, manifest=text)
    assert "seeds differs" in refused(capsys, "--source", "less.npz", "--out", "x.npz")
    np.savez("newer.npz", **arrays, manifest=np.array(json.dumps(manifest | {"format": 99})))
    assert "format 99" in refused(capsys, "--source", "newer.npz", "--out", "x.npz")
    for name in ("format", "task", "env_id", "arguments", "versions", "expert", "random", "platform", "sha256"):
        without = {key: value for key, value in manifest.items() if key != name}
        np.savez("without.npz", **arrays, manifest=np.array(json.dumps(without)))
        assert f"no {name}" in refused(capsys, "--source", "without.npz", "--out", "x.npz")
    np.savez("empty.npz", **arrays, manifest=np.array(json.dumps(manifest | {"expert": {}})))
    assert "lacks episodes" in refused(capsys, "--source", "empty.npz", "--out", "x.npz")

    def edited(drop=None, **changes):
        new = {name: array for name, array in (arrays | changes).items() if name != drop}
        hashes = {name: convert.sha256(array) for name, array in new.items()}
        np.savez("edited.npz", **new, manifest=np.array(json.dumps(manifest | {"sha256": hashes})))
        return refused(capsys, "--source", "edited.npz", "--out", "x.npz")

    for name in ("observations", "achieved_goals", "desired_goals"):
        assert f"lacks {name}" in edited(drop=name)
    for length in (0, -5, 200):
        assert "lengths must lie between 1 and 6" in edited(lengths=np.full(5, length))
    assert "lengths are no whole numbers" in edited(lengths=np.full(5, 6.0))
    for name, shape in (("success", (5, 3)), ("success", (5,)), ("seeds", (5, 2)), ("source", (5, 2)),
                        ("lengths", (5, 2)), ("achieved_goals", (4, 7, 2))):
        assert f"its {name} must have shape (5," in edited(**{name: np.ones(shape, np.uint8)})
    assert "it holds note besides" in edited(note=np.ones(5))
    for kind in ("U", "M8[s]", complex):
        assert "actions are no numbers" in edited(actions=arrays["actions"].astype(int).astype(kind))
    np.savez("foreign.npz", **arrays)
    assert "manifest" in refused(capsys, "--source", "foreign.npz", "--out", "x.npz")
    Path("cut.npz").write_bytes(Path("made.npz").read_bytes()[:-200])
    refused(capsys, "--source", "cut.npz", "--out", "x.npz")


def test_a_part_of_a_dataset():
    whole, before = made("--source", dump("b.pkl", walks()))
    os.rename("made.npz", "whole.npz")
    part, manifest = made("--source", "whole.npz", "--expert-episodes", 2)
    assert same(part, {name: array[:2] for name, array in whole.items()})
    assert manifest["origin"][0]["manifest"] == before and manifest["success_rule"] == "as recorded"
    assert made("--source", "whole.npz")[1] == before, "an unchanged dataset keeps its manifest"
    convert.write_npz(Path("newer.npz"), whole, before | {"versions": {"mujoco": "3.9.0"}})
    convert.write_npz(Path("older.npz"), whole, before | {"versions": {"mujoco": "3.2.7"}})
    mixed, manifest = made("--source", "newer.npz", "--random-source", "older.npz")
    assert len(mixed["actions"]) == 10 and manifest["versions"]["mujoco"] == "3.2.7 and 3.9.0"
    assert made("--source", "newer.npz", "--expert-episodes", 3)[1]["versions"]["mujoco"] == "3.9.0"


def test_two_tasks_are_not_mixed(capsys):
    arrays, manifest = made("--source", dump("b.pkl", walks()))
    convert.write_npz(Path("other.npz"), arrays, manifest | {"task": "OtherMaze"})
    for first, second in (("made.npz", "other.npz"), ("other.npz", "made.npz")):
        line = refused(capsys, "--source", first, "--random-source", second, "--out", "x.npz")
        assert "--random-source" in line and "OtherMaze" in line and "PointMaze" in line


def test_another_mujoco_version(capsys):
    arrays, manifest = made("--source", dump("b.pkl", walks()))
    convert.write_npz(Path("old.npz"), arrays, manifest | {"task": "FetchReach", "versions": {"mujoco": "3.8.0"}})
    line = refused(capsys, "--source", "old.npz", "--out", "x.npz", "--strict")
    assert "--strict" in line and "3.8.0" in line and version("mujoco") in line
    with pytest.raises(SystemExit):  # its arrays are PointMaze's
        run("--source", "old.npz", "--out", "x.npz")
    assert "warning: old.npz: was made with mujoco 3.8.0" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["PointMaze-v0", "envs:PointMaze-v0"])
def test_an_environments_id_is_its_task(named, tmp_path, capsys):
    """As in algos/, which train on the file under either name."""
    assert made("--source", dump("b.pkl", walks()), task=named)[1]["task"] == "PointMaze"
    _, manifest = made("--source", "made.npz", task=named)  # of a file that says PointMaze
    assert manifest["task"] == "PointMaze"
    with np.load("made.npz") as file:  # a file that earlier versions wrote
        np.savez("old.npz", **dict(file) | {"manifest": np.array(json.dumps(manifest | {"task": "PointMaze-v0"}))})
    run("--source", "old.npz", "--out", "new.npz")
    assert read("new.npz")[1]["task"] == "PointMaze"
    trained = Run(tmp_path, DATA.parent / "algos" / "gcsl.py", "--task", named, "--dataset", "new.npz", "--updates", 2,
                  "--batch-size", 4, "--hidden", 8, "--eval-episodes", 3).wait()
    assert trained.status == 0, trained.err


def test_no_opengl_is_needed():
    flags = ["--source", dump("b.pkl", walks()), "--task", "FetchReach-v4", "--out", "x.npz"]
    result = subprocess.run([sys.executable, DATA / "convert.py", *flags], capture_output=True, text=True,
                            env=os.environ | {"MUJOCO_GL": "nonsense"})
    assert "MUJOCO_GL" not in result.stderr and "(5, 7, 10)" in result.stderr, "the walks are PointMaze's"


def test_a_file_that_is_no_manifest_stays(capsys):
    source = "--source", dump("b.pkl", walks()), "--task", "PointMaze", "--out", "x.npz"
    for content in ('{"my": "settings"}', '"sha256"', '{"sha256": "of an expert, in its card"}'):
        Path("x.json").write_text(content)
        assert "--out x.npz" in refused(capsys, *source) and Path("x.json").read_text() == content
    run(*source, "--force")
    read("x.npz")
    Path("x.npz").unlink()
    run(*source)  # beside a manifest that has lost its dataset
    read("x.npz")


def test_flags(capsys):
    made("--source", dump("b.pkl", walks()))
    source = "--source", "b.pkl"
    assert "--force" in refused(capsys, *source, "--task", "PointMaze", "--out", "made.npz")
    assert "must end in .npz" in refused(capsys, *source, "--task", "PointMaze", "--out", "made.txt")
    assert "--task" in refused(capsys, *source, "--out", "x.npz")
    Path("folder.json").mkdir()
    for out in ("folder.npz", "x" * 300 + ".npz"):
        for force in ([], ["--force"]):
            assert f"--out {out}: " in refused(capsys, *source, "--task", "PointMaze", "--out", out, *force)
    line = refused(capsys, *source, "--task", "PointMaze", "--out", "x.npz", "--goal-dims", "0:2")
    assert "--goal-dims 0:2" in line and "b.pkl" in line
    for task in ("Nope", "a:b:c", ":", "FetchReach-v1", "CartPole-v1", "this:CartPole-v1"):
        assert f"--task {task}: no goal" in refused(capsys, *source, "--task", task, "--out", "x.npz")
    source = "--source", "made.npz"
    assert "is of PointMaze" in refused(capsys, *source, "--task", "FetchPush", "--out", "x.npz")
    assert "must be a .pkl" in refused(capsys, "--source", "b.h5", "--out", "x.npz")


@pytest.mark.parametrize("out", ["x.npz", "minari:own/full-v0"])
def test_full_disk(out):
    if out.startswith("minari"):
        minari()
    made("--source", dump("b.pkl", walks(200, 30)))
    before = files()
    result = subprocess.run([sys.executable, DATA / "convert.py", "--source", "made.npz", "--out", out],
                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
                            capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(f"convert.py: error: --out {out}: File too large; free space")
    assert result.stderr.count("\n") == 1 and files() == before


def test_no_episodes_of_one_kind(capsys):
    flags = ["--source", dump("e.pkl", walks(3, seed=1)), "--random-source", dump("r.pkl", walks(4, seed=2))]
    for kind, left in (("--expert-episodes", [0] * 4), ("--random-episodes", [1] * 3)):
        assert made(*flags, kind, 0)[0]["source"].tolist() == left
    os.remove("made.npz"), os.remove("made.json")
    flags += ["--expert-episodes", 0, "--random-episodes", 0]
    line = refused(capsys, *flags, "--task", "PointMaze", "--out", "x.npz")
    assert "no episodes are left" in line


def test_arrays_that_the_manifest_does_not_know(capsys):
    arrays, manifest = made("--source", dump("b.pkl", walks()))
    np.savez("more.npz", **arrays, lengths=np.full(5, 3), manifest=np.array(json.dumps(manifest)))
    assert "lengths differs from the manifest" in refused(capsys, "--source", "more.npz", "--out", "x.npz")


def test_two_sources_of_other_arrays(capsys):
    made("--source", dump("b.pkl", walks()))
    for other in (dump("long.pkl", walks(steps=8)), "made.npz"):  # which has success
        line = refused(capsys, "--source", "b.pkl", "--random-source", other, "--task", "PointMaze", "--out", "x.npz")
        assert f"--random-source {other}: its arrays differ" in line


@pytest.mark.parametrize("other", ["bad.pkl", "bad.npz", "bad.txt", "edited.npz"])
def test_a_second_source_that_cannot_be_read_is_named_by_its_flag(other, capsys):
    arrays, manifest = made("--source", dump("b.pkl", walks()))
    np.savez("edited.npz", **arrays | {"actions": arrays["actions"] + 1}, manifest=np.array(json.dumps(manifest)))
    for name in ("bad.pkl", "bad.npz", "bad.txt"):
        Path(name).write_text("no data")
    line = refused(capsys, "--source", "b.pkl", "--random-source", other, "--task", "PointMaze", "--out", "x.npz")
    assert f"error: --random-source {other}: " in line


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_folder_in_the_place_of_the_file(force, capsys):
    Path("x.npz").mkdir()
    line = refused(capsys, "--source", dump("b.pkl", walks()), "--task", "PointMaze", "--out", "x.npz", *force)
    assert "is a folder; name a file" in line


def test_dense_rewards_have_no_success(capsys):
    line = refused(capsys, "--source", dump("b.pkl", walks()), "--task", "FetchReachDense-v4", "--out", "x.npz")
    assert "needs a sparse reward" in line


def test_success_at_the_ends_of_either_kind():
    ogbench()
    arrays, manifest = made("--source", "play.npz", "--goal-dims", "0:2")
    arrays |= {"source": np.array([1, 0, 1], np.uint8), "success": np.zeros((3, 4), bool)}
    arrays["success"][0, 3] = True
    manifest["sha256"] = {name: convert.sha256(array) for name, array in arrays.items()}
    convert.write_npz(Path("own.npz"), arrays, manifest)
    _, manifest = made("--source", "own.npz", "--expert-episodes", 1)
    assert (manifest["expert"]["success"], manifest["random"]["success"]) == (1, 0)


def test_goals_and_actions_beyond_the_last_state(capsys):
    """One more of each has no outcome, and may hold anything; two do not fit."""
    data = walks()
    goal, action = (np.concatenate([data[name], np.full((5, 1, 2), 99)], axis=1) for name in ("g", "u"))
    arrays, _ = made("--source", dump("b.pkl", data | {"g": goal, "u": action}))
    assert (arrays["desired_goals"] == data["g"][:, 0].astype(np.float32)).all() and arrays["actions"].max() <= 2
    for name in ("g", "u"):
        two = np.concatenate([data[name], data[name][:, :2]], axis=1)
        line = refused(capsys, "--source", dump("b.pkl", data | {name: two}), "--task", "PointMaze", "--out", "x.npz")
        assert "fit together" in line


# OGBench

def ogbench(path="play.npz", lengths=(4, 2, 4), **changes):
    rows, rng = sum(lengths) + len(lengths), np.random.default_rng(0)
    data = {"observations": rng.uniform(3, 15, (rows, 2)).astype(np.float32), "qpos": np.zeros((rows, 3)),
            "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32), "qvel": np.zeros((rows, 3)),
            "terminals": np.isin(np.arange(rows), np.cumsum(np.array(lengths) + 1) - 1)} | changes
    np.savez(path, **data)
    return data


def test_ogbench():
    data = ogbench()
    arrays, manifest = made("--source", "play.npz", "--goal-dims", "0:2")
    first = 0
    for i, length in enumerate((4, 2, 4)):
        rows = data["observations"][first:first + length + 1]
        padded = np.concatenate([rows, np.repeat(rows[-1:], 4 - length, axis=0)])
        assert np.array_equal(arrays["observations"][i], padded)
        assert np.array_equal(arrays["achieved_goals"][i], padded)
        assert np.array_equal(arrays["desired_goals"][i], rows[-1])
        assert np.array_equal(arrays["actions"][i, :length], data["actions"][first:first + length])
        assert not arrays["actions"][i, length:].any()
        near = np.linalg.norm(rows[1:] - rows[-1], axis=-1) < 2
        assert arrays["success"][i].tolist() == near.tolist() + [False] * (4 - length)
        first += length + 1
    assert arrays["lengths"].tolist() == [4, 2, 4] and arrays["lengths"].dtype == np.int64
    assert manifest["expert"]["success"] == 1, "in the last state, not at the end of the row"
    assert "last achieved goal" in manifest["origin"][0]["goals"] and "0:2" in manifest["origin"][0]["goals"]

    method, env = load("dqapg"), gym.make("PointMaze-v0")
    loaded, _ = method.load_dataset("made.npz", "PointMaze", env)
    assert loaded["lengths"].tolist() == [4, 2, 4], "the methods read it"
    assert manifest["clipped_actions"] == 0
    data["actions"][[4, 7, 12]] = [[9, 9], [np.nan, 0], [9, 9]]  # of no outcome
    ogbench(actions=data["actions"])
    assert made("--source", "play.npz", "--goal-dims", "0:2")[1]["clipped_actions"] == 0
    ogbench(lengths=(4, 4))
    assert "lengths" not in made("--source", "play.npz", "--goal-dims", "0:2")[0]


def test_bad_ogbench(capsys):
    data = ogbench()
    for dims in ([], ["--goal-dims", "1:4"], ["--goal-dims", "1:1"], ["--goal-dims", "x"]):
        line = refused(capsys, "--source", "play.npz", "--task", "PointMaze", "--out", "x.npz", *dims)
        assert "--goal-dims" in line and "hold no goals" in line
    for terminals in (~data["terminals"], np.ones(13, bool), np.zeros(13, bool)):
        ogbench(terminals=terminals)
        flags = "--source", "play.npz", "--goal-dims", "0:2", "--task", "PointMaze", "--out", "x.npz"
        assert "terminal" in refused(capsys, *flags)
    ogbench(actions=np.zeros((14, 2), np.float32))
    assert "14 actions and 13 observations" in refused(capsys, *flags)


# Minari

def own_dataset(lengths):
    """A dataset of ours with both splits and real seeds, as collect.py writes it."""
    ogbench(lengths=lengths)
    arrays, manifest = made("--source", "play.npz", "--goal-dims", "0:2")
    arrays |= {"seeds": np.array([11, -1, 2**31 - 1]), "source": np.array([1, 0, 1], np.uint8)}
    manifest["sha256"] = {name: convert.sha256(array) for name, array in arrays.items()}
    manifest["versions"] = {"python": "3.11", "gymnasium-robotics": "1.4.2", "mujoco": "3.2.7"}
    convert.write_npz(Path("own.npz"), arrays, manifest)
    return arrays, manifest


@pytest.mark.parametrize("lengths", [(4, 4, 4), (4, 2, 3)])
def test_minari_round_trip(lengths):
    dataset_id = "swapped/PointMaze/mixed-v0"
    arrays, manifest = own_dataset(lengths)
    minari()
    run("--source", "own.npz", "--out", f"minari:{dataset_id}")
    run("--source", f"minari:{dataset_id}", "--out", "back.npz")
    back, manifest_back = read("back.npz")
    assert same(arrays, back) and manifest == manifest_back
    assert [path.name for path in Path("minari").iterdir()] == ["swapped"], "no temporary folder is left"

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # the next three lines warn of defects
        assert list(minari().list_local_datasets(compatible_minari_version=True)) == [dataset_id]
        dataset = minari().load_dataset(dataset_id)
        env = dataset.recover_environment()
    assert env.spec == gym.make("PointMaze-v0").spec
    assert dataset.storage.metadata["requirements"] == ["gymnasium-robotics==1.4.2", "mujoco==3.2.7"]
    assert dataset.spec.total_episodes == 3 and dataset.spec.total_steps == sum(lengths)
    metadata = list(dataset.storage.get_episode_metadata(range(3)))
    assert [m.get("seed") for m in metadata] == [11, None, 2**31 - 1]
    for i, episode in enumerate(dataset.iterate_episodes()):
        n = lengths[i]
        assert len(episode) == len(episode.actions) == len(episode.observations["observation"]) - 1 == n
        for t in range(n + 1):
            state = {name: x[t] for name, x in episode.observations.items()}
            assert dataset.observation_space.contains(state)
            reward = env.unwrapped.compute_reward(state["achieved_goal"], state["desired_goal"], {})
            assert episode.infos["is_success"][t] == (reward == 0)
            assert t == 0 or episode.rewards[t - 1] == reward
        assert all(dataset.action_space.contains(action) for action in episode.actions)
        assert not episode.terminations.any() and episode.truncations.tolist() == [False] * (n - 1) + [True]


def test_minari_has_the_environments_two_rewards(monkeypatch):
    ogbench()
    maze = type(gym.make("envs:PointMaze-v0").unwrapped)
    monkeypatch.setattr(maze, "compute_reward", lambda *args, rule=maze.compute_reward: 10 * rule(*args))
    minari()
    run("--source", "play.npz", "--goal-dims", "0:2", "--task", "PointMaze", "--out", "minari:own/ten-v0")
    rewards = [episode.rewards.tolist() for episode in minari().load_dataset("own/ten-v0")]
    assert set(sum(rewards, [])) == {0, -10} and all(row[-1] == 0 for row in rewards)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_dataset_of_others():
    create, data, lengths = minari().create_dataset_from_buffers, walks(3), (6, 1, 4)
    env, _, _ = convert.make_env("PointMaze")
    from minari.data_collector import EpisodeBuffer
    create("other/walks-v3", [EpisodeBuffer(
        observations={"observation": data["o"][i, :n + 1], "achieved_goal": data["ag"][i, :n + 1],
                      "desired_goal": np.repeat(data["g"][i, :1], n + 1, axis=0)}, seed=(5, None, 2**63)[i],
        actions=data["u"][i, :n], rewards=np.zeros(n), terminations=np.zeros(n, bool),
        truncations=np.zeros(n, bool)) for i, n in enumerate(lengths)],
        env=env, data_format="hdf5", author="somebody", requirements=["mujoco==3.1", "numpy>=2"])
    run("--source", "minari:other/walks-v3", "--out", "made.npz", "--split", "random")
    arrays, manifest = read("made.npz")
    assert arrays["lengths"].tolist() == list(lengths) and arrays["seeds"].tolist() == [5, -1, -1]
    for i, n in enumerate(lengths):
        assert np.array_equal(arrays["observations"][i, :n + 1], data["o"][i, :n + 1].astype(np.float32))
        assert (arrays["observations"][i, n:] == data["o"][i, n].astype(np.float32)).all()
        assert np.array_equal(arrays["actions"][i, :n], data["u"][i, :n].astype(np.float32))
        assert not arrays["actions"][i, n:].any() and not arrays["success"][i, n:].any()
        near = np.linalg.norm(data["ag"][i, 1:n + 1] - data["g"][i, 0], axis=-1) < 2
        assert np.array_equal(arrays["success"][i, :n], near)
    assert manifest["task"] == "PointMaze" and manifest["versions"]["mujoco"] == "3.1"
    origin = manifest["origin"][0]
    assert origin["author"] == ["somebody"] and origin["note"] == "not collected by us"


def test_minari_failing_half_way(capsys, monkeypatch):
    def fails(dataset_id, *args, **kwargs):
        Path(os.environ["MINARI_DATASETS_PATH"], dataset_id).mkdir(parents=True)
        raise OSError("it broke")

    own_dataset((4, 4, 4))
    monkeypatch.setattr(minari(), "create_dataset_from_buffers", fails)
    assert "it broke" in refused(capsys, "--source", "own.npz", "--out", "minari:own/maze-v0")
    assert os.environ["MINARI_DATASETS_PATH"] == str(Path("minari").resolve())


def test_bad_minari(capsys):
    minari()
    own_dataset((4, 4, 4))
    assert "minari download no/such-v0" in refused(capsys, "--source", "minari:no/such-v0", "--out", "x.npz")
    for name in ("noversion", "../../up-v0", "own/maze"):
        assert "with a version" in refused(capsys, "--source", "own.npz", "--out", f"minari:{name}")
    run("--source", "own.npz", "--out", "minari:own/maze-v0")
    assert "is there already" in refused(capsys, "--source", "own.npz", "--out", "minari:own/maze-v0")
    import h5py
    with h5py.File("minari/own/maze-v0/data/main_data.hdf5", "a") as file:
        file["episode_1/actions"][2, 0] += 1e-3
    assert "actions differs" in refused(capsys, "--source", "minari:own/maze-v0", "--out", "x.npz")
    Path("minari/own/maze-v0/data/main_data.hdf5").write_bytes(b"no HDF5")
    assert "not a readable dataset" in refused(capsys, "--source", "minari:own/maze-v0", "--out", "x.npz")


def test_without_minari(capsys, monkeypatch):
    own_dataset((4, 4, 4))
    monkeypatch.setitem(sys.modules, "minari", None)
    for source, out in (("minari:own/maze-v0", "x.npz"), ("own.npz", "minari:own/maze-v0")):
        line = refused(capsys, "--source", source, "--out", out)
        assert line == 'convert.py: error: --source, --random-source or --out: Minari is missing: pip install "minari[hdf5]"\n'
