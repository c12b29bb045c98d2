"""On a GPU: updates as on the CPU, CUDA graphs, a second GPU, and runs that change the device."""

import json
from pathlib import Path

import pytest
import torch
from conftest import swaps
from speed import make
from tools import METHODS, load_method

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
each_method = pytest.mark.parametrize("method", METHODS)
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")


@pytest.fixture
def same_noise(monkeypatch):
    """Random numbers are drawn on the CPU and then moved: a GPU draws others from the same seed."""

    def moved(draw):
        def function(*args, device=None, **kwargs):
            tensors = [x for x in args if isinstance(x, torch.Tensor)]
            args = [x.cpu() if isinstance(x, torch.Tensor) else x for x in args]
            return draw(*args, **kwargs).to(tensors[0].device if tensors else device)

        return function

    for name in ("rand", "randn", "randperm", "rand_like", "randn_like"):
        monkeypatch.setattr(torch, name, moved(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "multinomial", moved(torch.Tensor.multinomial))


@each_method
def test_updates_agree_with_the_cpu(method, same_noise):
    def metrics(device):
        swap = swaps(method)[-1]
        buffer, agent = make(load_method(method), hidden=(64, 64), batch_size=64, swap=swap, device=device)
        found = []
        for n in range(1, 21):
            torch.manual_seed(n)
            found.append({name: float(x) for name, x in agent.update(buffer.sample(), n).items()})
        return found

    cpu, gpu = metrics("cpu"), metrics("cuda")
    assert gpu[0] == pytest.approx(cpu[0], rel=1e-3, abs=1e-4)  # before any step
    assert gpu[-1] == pytest.approx(
        cpu[-1], rel=0.05, abs=0.02
    )  # rounding grows: Adam's first steps are signs


def metrics_of(out):
    return [json.loads(line) for path in Path(out).rglob("metrics.jsonl") for line in path.open()]


@each_method
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_updates_are_the_plain_updates(method, precision, run):
    swap = swaps(method)[-1]
    for graphs in (False, True):
        settings = {"device": "cuda", "cuda_graphs": graphs, "precision": precision, "swap": swap}
        assert run(method, updates=60, log_every=4, out=str(graphs), **settings)[0] == 0
    plain, replayed = metrics_of("False"), metrics_of("True")
    assert len(plain) == len(replayed) == 15
    for a, b in zip(plain, replayed, strict=True):
        assert a == pytest.approx(b, rel=0.02, abs=0.01)


@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")], ids="-".join)
def test_a_run_goes_on_on_another_device(devices, run):
    for updates, device in zip((20, 40), devices, strict=True):
        graphs = device == "cuda"
        assert (
            run(
                "td3bc", updates=updates, device=device, cuda_graphs=graphs, log_every=10, resume=updates > 20
            )[0]
            == 0
        )
    assert [row["update"] for row in metrics_of("runs")] == [10, 20, 30, 40]


@needs_two
@pytest.mark.parametrize("graphs", [False, True])
def test_the_second_gpu(graphs, run):
    used = torch.cuda.memory_allocated(0)
    for updates in (20, 40):
        settings = {"device": "cuda:1", "cuda_graphs": graphs, "updates": updates, "resume": updates > 20}
        assert run("td3bc", **settings)[0] == 0
    assert torch.cuda.memory_allocated(0) == used
