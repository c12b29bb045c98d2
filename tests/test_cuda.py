"""Training on a GPU: the same updates as on the CPU, whole runs, resuming, graphs. Skipped where there is none."""

import json

import pytest
import torch
from conftest import ROOT, Run
from speed import load, make

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU here", allow_module_level=True)
SCRIPTS = sorted((ROOT / "algos").glob("*.py"))
SWAP = {path: [] if 'fail("--swap' in path.read_text() else ["--swap"] for path in SCRIPTS}  # some cannot swap
SMALL = ["--task", "PointMaze", "--eval-episodes", 9, "--log-every", 10, "--threads", 1, "--device", "cuda"]
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@pytest.fixture
def same_noise(monkeypatch):
    """Random numbers are drawn on the CPU and then moved: GPUs draw others from the same seed."""
    def moved(draw):
        def function(*args, device=None, **kwargs):
            like = next((x for x in args if isinstance(x, torch.Tensor)), None)
            args = [x.cpu() if isinstance(x, torch.Tensor) else x for x in args]
            return draw(*args, **kwargs).to(device if like is None else like.device)
        return function
    for name in ("rand", "randn", "randperm", "rand_like", "randn_like"):
        monkeypatch.setattr(torch, name, moved(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "multinomial", moved(torch.Tensor.multinomial))


@each_script
def test_updates_agree_with_the_cpu(script, same_noise):
    def metrics(device):
        torch.manual_seed(0)
        buffer, agent = make(load(script.stem), (5, 3, 2), bool(SWAP[script]), device)
        assert {p.device.type for p in agent.parameters()} == {device}
        rows = []
        for n in range(1, 21):
            torch.manual_seed(n)
            rows.append({name: float(value) for name, value in agent.update(buffer.sample(64), n).items()})
        return rows
    cpu, gpu = metrics("cpu"), metrics("cuda")
    assert gpu[0] == pytest.approx(cpu[0], rel=1e-3, abs=1e-4)  # before any step
    assert gpu[-1] == pytest.approx(cpu[-1], rel=0.05, abs=0.02)  # rounding grows, and Adam's first steps are signs


def rows_of(folder):
    return [json.loads(line) for line in next((folder / "PointMaze").glob("*/1/metrics.jsonl")).open()]


@each_script
def test_a_run(script, dataset, tmp_path):
    flags = [*SMALL, "--dataset", dataset, *SWAP[script], "--updates", 40, "--precision", "bf16"]
    run = Run(tmp_path, script, *flags).wait()
    assert run.status == 0 and not run.error_lines, run.err
    folder = next((tmp_path / "runs" / "PointMaze").glob("*/1"))
    assert json.loads((folder / "result.json").read_text())["flags"]["device"] == "cuda"
    assert (folder / "checkpoint.pt").exists()


@pytest.mark.parametrize("flags", [[], ["--cuda-graphs"]], ids=["eager", "graphs"])
@pytest.mark.parametrize("method", ["td3bc", "cql"])  # both draw noise on the GPU
def test_resuming(method, flags, dataset, tmp_path):
    common = [tmp_path, ROOT / "algos" / f"{method}.py", *SMALL, "--dataset", dataset, "--hidden", 32, *flags]
    for more in (["--out", "whole", "--updates", 60], ["--out", "cut", "--updates", 30],
                  ["--out", "cut", "--updates", 60, "--resume"]):
        run = Run(*common, *more).wait()
        assert run.status == 0, run.err
    whole, cut = rows_of(tmp_path / "whole"), rows_of(tmp_path / "cut")
    assert [row["update"] for row in cut] == [10, 20, 30, 40, 50, 60]
    for a, b in zip(whole, cut):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_run_goes_on_on_the_other_device(device, dataset, tmp_path):
    other = {"cpu": "cuda", "cuda": "cpu"}[device]
    graphs = {"cpu": [], "cuda": ["--cuda-graphs"]}
    for more in (["--updates", 20, "--device", device, *graphs[device]],
                 ["--updates", 60, "--device", other, *graphs[other], "--resume"]):
        run = Run(tmp_path, ROOT / "algos" / "dqapg.py", *SMALL, "--dataset", dataset, *more).wait()
        assert run.status == 0 and not run.error_lines, run.err
    assert [row["update"] for row in rows_of(tmp_path / "runs")] == [10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("script, flags", [(script, ["--cuda-graphs"]) for script in SCRIPTS] + [
    (ROOT / "algos" / f"{method}.py", flags) for method, flags in (
        ("dqapg", ["--compile"]), ("dqapg", ["--cuda-graphs", "--precision", "bf16"]),
        ("td3bc", ["--cuda-graphs", "--precision", "bf16"]))], ids=lambda x: getattr(x, "stem", None) or "".join(x))
def test_faster_updates_are_the_same_updates(script, flags, dataset, tmp_path):
    for out, more in (("plain", flags[1:]), ("fast", flags)):
        run = Run(tmp_path, script, *SMALL, "--dataset", dataset, "--updates", 60, *SWAP[script], "--out", out,
                  *more).wait()
        assert run.status == 0, run.err
    for a, b in zip(rows_of(tmp_path / "plain"), rows_of(tmp_path / "fast")):
        assert a == pytest.approx(b, rel=0.02, abs=0.01)
