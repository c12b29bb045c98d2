"""Updates per second of every method, and how close it comes to this machine's matrix-multiplication limit.

    python tests/speed.py --threads 1

The limit is measured, not assumed: the matrix products of one update are recorded (shapes, strides and precision),
then done again with nothing around them, in turn with whole updates. `share` is the time of the bare products divided
by the time of the update, sampling of the batch included. Batch 512, the networks of Table 5, random data of the
size of a PointMaze or a Shadow Hand task. Stop everything else on the machine first.

    python tests/speed.py --device cuda --cuda-graphs

The bare products are started one by one there too, so that a recorded update can be faster than they are.
"""

import copy
import importlib.util
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch.utils._python_dispatch import TorchDispatchMode

ALGOS = Path(__file__).resolve().parents[1] / "algos"
SIZES = {"PointMaze": (2, 2, 2), "Hand": (61, 7, 20)}  # observation, goal, action


@dataclass
class Args:
    methods: tuple[str, ...] = ()  # names of files in algos/; all by default
    threads: int = 1  # CPU threads
    device: str = "cpu"
    compile: bool = False  # torch.compile the update; compiling itself is not timed
    cuda_graphs: bool = False  # on a GPU: replay the update as CUDA graphs
    precisions: tuple[str, ...] = ("fp32", "bf16")
    swap: bool = True
    updates: int = 60  # updates in each of the seven repetitions
    profile: bool = False  # only print where the time of so many updates goes, by PyTorch's profiler


class Products(TorchDispatchMode):
    """Records the matrix products that are computed while it is active."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default):
            self.calls.append((function, [(a.shape, a.stride(), a.dtype) for a in args]))
        return function(*args, **(kwargs or {}))


def load(method):
    """The script algos/<method>.py as a module."""
    spec = importlib.util.spec_from_file_location(method, ALGOS / f"{method}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[method] = module
    spec.loader.exec_module(module)
    return module


def agent_class(module):
    return next(v for v in vars(module).values() if isinstance(v, type) and hasattr(v, "update")
                and issubclass(v, torch.nn.Module))


def make(module, sizes, swap, device="cpu"):
    """A replay buffer of random data and an agent on it."""
    rng, (obs, goal, action) = np.random.default_rng(0), sizes
    data = {"observations": rng.normal(size=(500, 101, obs)), "achieved_goals": rng.normal(size=(500, 101, goal)),
            "desired_goals": rng.normal(size=(500, goal)), "actions": rng.uniform(-1, 1, size=(500, 100, action))}
    settings = copy.deepcopy(module.DEFAULTS)
    settings.relabelling.swap = swap
    buffer = module.ReplayBuffer(data, settings.relabelling, lambda a, g: np.linalg.norm(a - g, axis=-1) < 1, 0,
                                 device)
    normalizer = module.Normalizer(buffer, gym.spaces.Box(-1, 1, (action,)))
    return buffer, agent_class(module)(settings, normalizer, 100, torch.device(device))


def measure(method, sizes, precision, args):
    """Updates per second, the same of its bare matrix products, and their GFLOP/s."""
    refuses = 'fail("--swap' in (ALGOS / f"{method}.py").read_text()
    device = torch.device(args.device)
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else lambda: None
    module = load(method)
    buffer, agent = make(module, sizes, args.swap and not refuses, device)
    whole_update = (module.graphed(agent, device) if args.cuda_graphs else torch.compile(agent.update) if args.compile
                    else agent.update)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)

    def update(n, function=whole_update):
        with autocast:
            function(buffer.sample(512), n)

    for n in range(1, 31):
        update(n)
    if args.profile:
        with torch.profiler.profile() as profile:
            for n in range(31, 31 + args.updates):
                update(n)
        print(f"{method}, {precision}\n{profile.key_averages().table('self_cpu_time_total', row_limit=10)}")
        return None
    with Products() as products:
        for n in range(31, 41):  # ten, so that delayed parts are there in their proportion
            update(n, agent.update)
    flop = sum(2 * shapes[-2][0].numel() * shapes[-1][0][-1] for _, shapes in products.calls) / 10
    operands = [(function, [torch.randn(sum((n - 1) * s for n, s in zip(shape, stride)) + 1).to(device, dtype)
                            .as_strided(shape, stride) for shape, stride, dtype in shapes])
                for function, shapes in products.calls]
    whole, bare = [], []
    with torch.no_grad():
        for _ in range(7):
            wait()
            began = time.perf_counter()
            with torch.enable_grad():
                for n in range(41, 41 + args.updates):
                    update(n)
            wait()
            whole.append((time.perf_counter() - began) / args.updates)
            began = time.perf_counter()
            for _ in range(max(1, args.updates // 10)):
                for function, tensors in operands:
                    function(*tensors)
            wait()
            bare.append((time.perf_counter() - began) / max(1, args.updates // 10) / 10)
    whole, bare = statistics.median(whole), statistics.median(bare)
    return 1 / whole, 1 / bare, flop / bare / 1e9


def main():
    args = tyro.cli(Args, description=__doc__)
    try:
        torch.empty(0, device=args.device)
        if args.cuda_graphs and (args.compile or not args.device.startswith("cuda")):
            raise RuntimeError("--cuda-graphs needs --device cuda, and goes without --compile")
    except (RuntimeError, AssertionError) as error:
        sys.exit(f"speed.py: error: --device {args.device}: {str(error).splitlines()[0]}")
    torch.set_num_threads(args.threads)
    print(f"{args.threads} thread(s), {args.device}, torch {torch.__version__}, batch 512, 3 x 256, swap {args.swap}, "
          f"{'compiled' * args.compile or 'CUDA graphs' * args.cuda_graphs or 'eager'}")
    if not args.profile:
        print("method      size       precision  updates/s  products alone/s  share  GFLOP/s of the products")
    for method in args.methods or sorted(path.stem for path in ALGOS.glob("*.py")):
        for size, sizes in SIZES.items():
            for precision in args.precisions:
                if not (measured := measure(method, sizes, precision, args)):
                    continue
                rate, limit, gflops = measured
                print(f"{method:11} {size:10} {precision:9} {rate:10.1f} {limit:17.1f} {rate / limit:6.0%} "
                      f"{gflops:12.0f}", flush=True)


if __name__ == "__main__":
    main()
