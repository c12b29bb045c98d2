"""What the tools of data/, results/ and tests/ share: the tasks, the methods, errors, files."""

import functools
import importlib.util
import os
import sys
from collections import namedtuple
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
from envs import OGBENCH, ROBOTS, TASKS  # noqa: E402, F401

# A method has one line here: its name in tables, its nearest sibling in algos/, and whether goals are
# swapped: "paper" (with and without, as in the paper), "optional" (without, unless --swap asks) or "no".
# Its page is docs/<key>.md.
Method = namedtuple("Method", "name sibling swap")
METHODS = {
    "gcsl": Method("GCSL", "td3bc", "no"),
    "td3bc": Method("TD3+BC", "awac", "paper"),
    "awac": Method("AWAC", "td3bc", "paper"),
    "crr": Method("CRR", "awac", "paper"),
    "onestep": Method("Onestep-RL", "awac", "paper"),
    "iql": Method("IQL", "onestep", "paper"),
    "awr": Method("AWR", "iql", "paper"),
    "cql": Method("CQL", "awac", "paper"),
    "bcq": Method("BCQ", "td3bc", "optional"),
    "am": Method("AM", "td3bc", "no"),
    "wgcsl": Method("WGCSL", "gcsl", "optional"),
    "gofar": Method("GoFAR", "wgcsl", "optional"),
    "dqapg": Method("DQAPG", "td3bc", "paper"),
    "dqapg_gaussian": Method("DQAPG Gaussian", "dqapg", "optional"),
}


def fail(message):
    """One line on stderr, exit status 2."""
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    sys.exit(2)


def replace(path, write):
    """write(file) fills another file, which is then renamed: a kill leaves the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # another process may write the same file
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@functools.cache
def load_method(name):
    """The module algos/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "algos" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agent_class(module):
    """The class of such a module that has update()."""
    classes = [x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__]
    return next(x for x in classes if hasattr(x, "update"))


def bar_pace():
    """Arguments of tqdm: every second on a terminal, every half minute in a log."""
    seconds = 1 if sys.stderr.isatty() else 30
    return {"mininterval": seconds, "maxinterval": seconds}
