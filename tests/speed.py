"""Updates per second of every method, beside what the machine's matrix products alone would allow.

    python tests/speed.py --threads 1
    python tests/speed.py --device cuda --cuda-graphs

The matrix products of ten updates are recorded (shapes, strides and precision) and done again with nothing
around them, in turn with whole updates. share: their time divided by that of the updates, sampling included.
Batch 512, each method's own networks, random data of the size of a PointMaze or a Shadow Hand task.
"""

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from tools import METHODS, agent_class, load_method

SIZES = {"PointMaze": (2, 2, 2), "Hand": (61, 7, 20)}  # of observation, goal and action


@dataclass
class Args:
    methods: tuple[str, ...] = ()  # names of files in algos/; all by default
    threads: int = 1  # CPU threads
    device: str = "cpu"
    cuda_graphs: bool = False  # on a GPU: replay the update
    updates: int = 60  # in each of seven rounds


class ProductRecorder(TorchDispatchMode):
    def __enter__(self):
        self.calls = []
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name() in ("aten::mm", "aten::addmm", "aten::bmm"):
            self.calls.append((function, [torch.empty_like(x).normal_() for x in args]))
        return function(*args, **(kwargs or {}))


def make(module, sizes=(3, 2, 2), **settings):
    """A replay buffer of random data, and an agent on it."""
    (obs, goal, action), rng, args = sizes, np.random.default_rng(0), module.Args(**settings)
    shapes = {"observations": (200, 51, obs), "achieved_goals": (200, 51, goal)}
    shapes |= {"desired_goals": (200, goal), "actions": (200, 50, action)}
    data = {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    data["lengths"] = np.full(200, 50)
    buffer = module.ReplayBuffer(data, lambda a, g, _: -(abs(a - g).max(-1) > 0.5).astype(float), args)
    torch.manual_seed(args.seed)
    stats = module.statistics(data, gym.spaces.Box(-1, 1, (action,)))
    return buffer, agent_class(module)(args, stats, 50).to(args.device)


def measure(name, sizes, precision, args):
    """Updates per second, and how often the matrix products of one could be done in a second."""
    module, device = load_method(name), torch.device(args.device).type
    buffer, agent = make(module, sizes, device=args.device, swap=METHODS[name].swap == "paper")
    update = module.graphed(agent, args.device) if args.cuda_graphs else agent.update
    bf16 = precision == "bf16"

    def updates(count, update=update):
        for n in range(1, count + 1):
            with torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False):
                update(buffer.sample(), n)

    def products():
        for product, operands in recorder.calls:
            product(*operands)

    updates(30)
    with ProductRecorder() as recorder:
        updates(10, agent.update)
    seconds = {updates: [], products: []}
    for _ in range(7):
        for work, argument in ((updates, (args.updates,)), (products, ())):
            began = time.perf_counter()
            work(*argument)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[work].append(time.perf_counter() - began)
    return args.updates / statistics.median(seconds[updates]), 10 / statistics.median(seconds[products])


def main(args):
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.device}, {args.threads} thread(s), graphs: {args.cuda_graphs}")
    print("method         size       precision  updates/s  products alone/s  share")
    for name in args.methods or METHODS:
        for size, sizes in SIZES.items():
            for precision in ("fp32", "bf16"):
                rate, limit = measure(name, sizes, precision, args)
                print(f"{name:14} {size:10} {precision:9} {rate:10.1f} {limit:17.1f} {rate / limit:6.0%}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
