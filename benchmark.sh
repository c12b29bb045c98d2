#!/usr/bin/env bash
# The benchmark: starts every run that has no row in results/runs.jsonl, and adds its row when it ends.
# Stopped or killed at any moment, the same command goes on where it was.
#
#   ./benchmark.sh --dry-run                                               the exact command of every run
#   ./benchmark.sh --jobs 2                                                two runs at a time on this machine
#   ./benchmark.sh --methods dqapg,td3bc --tasks PointMaze --seeds 1-5     a part of it
#   ./benchmark.sh --methods dqapg -- --alpha 2.5                          flags after -- go to every run
#   SBATCH_PARTITION=gpu SBATCH_GPUS=1 ./benchmark.sh --protocol paper --slurm -- --device cuda --cuda-graphs
#
# ./benchmark.sh --help lists the flags. PYTHON names the interpreter, if it is not `python`.
cd "$(dirname "$0")" && exec "${PYTHON:-python}" results/benchmark.py "$@"
