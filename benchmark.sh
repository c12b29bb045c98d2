#!/usr/bin/env bash
# The benchmark of the paper, and of WGCSL as its authors have it: starts every run that has no row in
# results/runs.jsonl yet, and adds its row when it ends.
# Stopped or killed at any moment, the same command goes on where it was.
#
#   ./benchmark.sh --dry-run                      the exact command of every run, nothing is started
#   ./benchmark.sh --jobs 2                       on this machine, two processes of one thread each
#   ./benchmark.sh --protocol paper --slurm --partition gpu --time 12:00:00 --gpus 1      on a Slurm cluster
#   ./benchmark.sh --methods dqapg,td3bc --tasks PointMaze --swap both --seeds 1-5        a part of it
#   ./benchmark.sh --methods dqapg -- --variant alg3        flags after -- go to every run
#
# ./benchmark.sh --help lists the flags; which runs there are and why stands at the top of results/benchmark.py.
# PYTHON names the interpreter, if it is not `python`.
set -euo pipefail
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1  # one process per core, one thread each
python=${PYTHON:-python}
trap 'exit 130' INT  # sent to this shell alone while the next line runs, it would be lost
if ! "$python" -c "import numpy, tyro" 2>/dev/null; then
    echo "benchmark.sh: error: '$python' is no Python with the libraries; activate the environment, set PYTHON," \
         "or pip install -r requirements.txt" >&2
    exit 2
fi
exec "$python" results/benchmark.py "$@"
