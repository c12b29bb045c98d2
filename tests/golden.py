"""Losses of the first eight updates of every method, with each flag that changes the maths.

    python tests/golden.py --write METHOD

writes those of a method to golden.json, where tests/test_methods.py compares them with what its file gives.
"""

import argparse
import functools
import json
import sys
import typing
from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from tools import METHODS, agent_class, load_method

FILE = Path(__file__).with_suffix(".json")
UPDATES = 8
# Adam divides by the size of a gradient: one next to 0, which another processor rounds to the other side,
# moves a weight by 2 lr. Losses are means over many weights and rows and hardly feel it, single weights do.
TOLERANCE = 2e-3  # of the largest of the eight losses
FIRST_TOLERANCE = 2e-4  # of the first one
BOX = gym.spaces.Box(np.float32([-2, 0]), np.float32([2, 1]))
HORIZON = 30
load_method = functools.cache(load_method)


def compute_reward(achieved, desired, info):
    return np.where(np.linalg.norm(achieved - desired, axis=-1) < 0.5, 0.0, -1.0)


def dataset():
    """24 random walks of at most 30 steps, of which some pass their goal."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(BOX.low, BOX.high, (24, HORIZON, 2))
    achieved = rng.uniform(-1, 1, (24, 1, 2)) + np.pad(actions.cumsum(1) / 5, ((0, 0), (1, 0), (0, 0)))
    data = {
        "observations": np.concatenate([achieved, rng.standard_normal((24, HORIZON + 1, 1))], -1),
        "achieved_goals": achieved,
        "desired_goals": achieved[:, 12] + rng.uniform(-1, 1, (24, 2)),
        "actions": actions,
    }
    return {k: x.astype(np.float32) for k, x in data.items()} | {"lengths": rng.integers(13, HORIZON + 1, 24)}


def make(method, horizon=HORIZON, **settings):
    """The method's agent with small networks, and a buffer."""
    module = load_method(method)
    sizes = {"hidden": (24, 16), "vae_hidden": (24, 16), "batch_size": 32, "target_every": 3}
    known = {field.name for field in fields(module.Args)}
    args = module.Args(**{k: v for k, v in sizes.items() if k in known} | settings)
    torch.manual_seed(args.seed)
    data = dataset()
    buffer = module.ReplayBuffer(data, compute_reward, args)
    return agent_class(module)(args, module.statistics(data, BOX), horizon), buffer


def own_settings(method):
    """The fields of Args that are not shared."""
    all_fields = fields(load_method(method).Args)
    return all_fields[[field.name for field in all_fields].index("batch_size") + 1 :]


def cases(method):
    """The settings of every run: the defaults, and each flag that changes the maths alone."""
    flags = [{}] if METHODS[method].swap == "no" else [{}, {"swap": True}]
    for field in own_settings(method):
        options = [0.9] if field.name == "gamma" else typing.get_args(field.type)
        options = [not field.default] if field.type is bool else options
        flags += [{field.name: x} for x in options if type(x) in (str, bool, float) and x != field.default]
    return {" ".join(f"--{k} {v}" for k, v in case.items()) or "defaults": case for case in flags}


def losses(method, settings):
    """Each loss of the eight updates, by name."""
    torch.set_num_threads(1)
    agent, buffer = make(method, **settings)
    rows = [agent.update(buffer.sample(), n) for n in range(1, UPDATES + 1)]
    names = dict.fromkeys(name for row in rows for name in row if name.endswith("_loss"))
    return {k: [float(f"{float(row[k]):.6g}") for row in rows if k in row] for k in names}


def compare(method):
    """Why golden.json does not hold for the method; "" if it does."""
    golden, version = json.loads(FILE.read_text()).get(method, {}), load_method(method).VERSION
    write = f"run python tests/golden.py --write {method}"
    if golden.get("version") != version:
        return f"VERSION of {method} is {version}, golden.json is of {golden.get('version')}: {write}"
    if golden["losses"].keys() != cases(method).keys():
        return f"golden.json does not have the flags of {method}: {write}"
    for case, settings in cases(method).items():
        new, old = losses(method, settings), golden["losses"][case]
        same = new.keys() == old.keys() and all(len(new[name]) == len(old[name]) for name in new)
        for name in new if same else ():
            x, y = np.array(new[name]), np.array(old[name])
            tolerance = np.full(len(x), TOLERANCE * abs(y).max())
            tolerance[0] = FIRST_TOLERANCE * abs(y).max()
            same = same and (abs(x - y) <= tolerance).all()
        if not same:
            reason = f"losses of {method} changed: if that is meant, raise VERSION in algos/{method}.py and"
            return f"{reason} {write}\n({case}: {new} instead of {old})"
    return ""


def write(method):
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    new = {case: losses(method, settings) for case, settings in cases(method).items()}
    golden[method] = {"version": load_method(method).VERSION, "losses": new}
    text = []
    for name, entry in sorted(golden.items()):  # one line a case
        lines = [f"{json.dumps(case)}: {json.dumps(x)}" for case, x in entry["losses"].items()]
        head = f'{json.dumps(name)}: {{"version": {entry["version"]}, "losses": {{\n'
        text.append(head + ",\n".join(lines) + "\n}}")
    FILE.write_text("{\n" + ",\n".join(text) + "\n}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", metavar="METHOD", choices=METHODS, required=True)
    write(parser.parse_args().write)
