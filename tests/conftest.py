"""What several test files share: scripts as modules, scripts as processes, and a dataset collected once."""

import importlib.util
import multiprocessing
import os
import resource
import runpy
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks of the tests are too small for more threads

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# scripts run as processes that are forked from one where the slow imports are done, which saves 4 s for each
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["pytest", "tyro", "gymnasium", "torch._dynamo", "torch.utils.tensorboard",
                             "matplotlib.figure", "matplotlib.backends.backend_agg"])


def execute(argv, folder, out, err, largest_file):
    """In the new process: what `python SCRIPT ARGUMENTS` does in `folder`, with its output in two files."""
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY), number)
    os.chdir(folder)
    sys.argv, sys.path[0] = argv, str(Path(argv[0]).parent)
    sys.path[:] = [entry for entry in sys.path if entry not in (str(ROOT), str(ROOT / "tests"))]
    runpy.run_path(argv[0], run_name="__main__")


class Run:
    """`python SCRIPT ARGUMENTS` in a folder: a process, its exit status (-9 if killed) and its output.

    largest_file: bytes after which writing to a file fails, as on a full disk.
    """

    def __init__(self, folder, script, *arguments, largest_file=None):
        self.files = [folder / name for name in (".stdout", ".stderr")]
        for file in self.files:
            file.write_text("")
        args = [str(script), *map(str, arguments)], folder, *self.files, largest_file
        self.process = FORK.Process(target=execute, args=args, daemon=True)
        self.process.start()

    def wait(self, seconds=300):
        """Waits for its end; returns the run."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running after {seconds} s: {self.err}")
        self.status = self.process.exitcode
        return self

    def wait_for(self, condition, seconds=300):
        """Waits until condition() holds while it runs."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive() and time.monotonic() < end, self.err
            time.sleep(0.01)

    def signal(self, number):
        os.kill(self.process.pid, number)
        return self

    out, err = (property(lambda self, i=i: self.files[i].read_text()) for i in (0, 1))

    @property
    def error_lines(self):
        """The lines on stderr, without progress bars."""
        lines = [line.split("\r")[-1] for line in self.err.split("\n")]
        return [line for line in lines if line.strip() and "%|" not in line]


def load_module(path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def run_main(module, *flags):
    """main() of data/collect.py as a module, in this process; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["collect.py", *map(str, flags)])
        patch.setattr(module.signal, "signal", lambda *_: None)
        try:
            module.main()
        except SystemExit as stop:
            return stop.code
    return 0


@pytest.fixture(scope="session")
def collect():
    """data/collect.py as a module."""
    return load_module(ROOT / "data" / "collect.py")


@pytest.fixture(scope="session")
def dataset(collect, tmp_path_factory):
    """The PointMaze dataset as data/collect.py writes it without flags, but in a temporary folder."""
    path = tmp_path_factory.mktemp("dataset") / "PointMaze.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["collect.py", "--task", "PointMaze", "--out", str(path)])
        collect.main()
    return path
