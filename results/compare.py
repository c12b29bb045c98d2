"""What the tables, claims and figures of results/ are computed with: cells of runs, and comparisons between them.

A cell is a method on a task, with or without goal swapping. Its runs differ in nothing but the seed. Two ways to
compare cells stand side by side: the paper's, which pools the episodes of all seeds as if each were independent, and
the right one, in which a seed is one observation (Welch's t-test, corrected by Holm for the number of comparisons).
"""

import json
import math
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
from scipy import stats

REPOSITORY = Path(__file__).resolve().parents[1]
TASKS = ("FetchPush", "FetchSlide", "FetchPick", "FetchReach", "HandBlockZ", "HandBlockParallel", "HandBlockXYZ",
         "HandEggRotate", "PointMaze")  # the order of the paper's tables
NAMES = {"dqapg": "DQAPG", "td3bc": "TD3+BC", "awac": "AWAC", "iql": "IQL", "onestep": "Onestep-RL", "crr": "CRR",
         "cql": "CQL", "am": "AM", "wgcsl": "WGCSL", "wgcsl-official": "WGCSL official", "gcsl": "GCSL",
         "gofar": "GoFAR", "bcq": "BCQ", "awr": "AWR"}
PROTOCOLS = "paper", "cpu"  # of benchmark.py, without flags of their own
LEVEL = 0.05  # of every test; intervals hold 95 %
PAPERS_EPISODES = 500  # behind each number of the paper: 10 seeds of 50 episodes
RESAMPLES = 2000  # of every bootstrap

# difference of two means with its 95 % interval and p-value, all None if there are too few observations
Comparison = namedtuple("Comparison", "difference low high p")


def horizon(task):
    """Steps of an episode, which is also the largest return."""
    return 50 if task.startswith("Fetch") else 100


def line(row):
    """The line of the tables that a row belongs to: its method. WGCSL has two: the version that the paper's column is
    of, Ma et al.'s copy, and its authors' own."""
    official = row["method"] == "wgcsl" and row["flags"].get("variant", "official") == "official"
    return row["method"] + "-official" * official


def name(method, swap):
    return NAMES.get(method, method) + "-aug" * swap


class Cell:
    """The runs of a method on a task that differ in nothing but the seed."""

    def __init__(self, rows, stale):
        self.rows, self.stale = sorted(rows, key=lambda row: row["flags"]["seed"]), stale
        self.seeds = [row["flags"]["seed"] for row in self.rows]
        self.updates = rows[0]["updates"]
        self.returns = self.of("return")  # (seeds,)
        self.episodes = np.concatenate([row["episodes"]["return"] for row in self.rows]).astype(float)
        self.size = f"{len(self.seeds)} × {short(self.updates)}"

    def of(self, score):
        """A score of each seed at the last evaluation."""
        return np.array([row["scores"][score] for row in self.rows], float)

    def curve(self, column):
        """Updates (K,) and values (seeds, K) of a column of the curve: 1 return, 2 success, 3 unseen success."""
        common = set.intersection(*({point[0] for point in row["curve"]} for row in self.rows))
        values = [[point[column] for point in row["curve"] if point[0] in common] for row in self.rows]
        return np.array(sorted(common)), np.array(values, float)


def short(number):
    return f"{number / 1000:g}k" if number >= 1000 else str(number)


class Results:
    """The cells. Of each task one protocol is shown, on one dataset: one of PROTOCOLS, else one with flags of its own,
    else runs that belong to none; among those the one with most cells, then most updates, then most runs, then by name.
    Of a cell the runs that are not stale come first, then the setting with most seeds, then most updates."""

    def __init__(self, rows, setting, current):
        """setting(row): a hashable value, what must be equal within a cell; current: {method: hash of its file}."""
        groups = {}
        for row in rows:
            place = row["flags"]["task"], (row.get("protocol") or "", row["data"]), line(row), row["flags"]["swap"]
            same = setting(row), row["file_sha256"], row["updates"]
            groups.setdefault(place, {}).setdefault(same, []).append(row)
        self.cells, self.protocol = {}, {}
        for task in TASKS:
            by_protocol = {}
            for (its_task, protocol, method, swap), variants in groups.items():
                if its_task == task:
                    by_protocol.setdefault(protocol, {})[method, swap] = max(
                        (Cell(group, group[0]["file_sha256"] != current.get(group[0]["method"]))
                         for group in variants.values()),
                        key=lambda cell: (not cell.stale, len(cell.seeds), cell.updates, str(setting(cell.rows[0]))))
            if by_protocol:
                (self.protocol[task], _), chosen = max(by_protocol.items(), key=lambda item: (
                    item[0][0] in PROTOCOLS, item[0][0] != "", len(item[1]),
                    max(cell.updates for cell in item[1].values()),
                    sum(len(cell.seeds) for cell in item[1].values()), item[0]))
                self.cells |= {(method, task, swap): cell for (method, swap), cell in chosen.items()}

    def cell(self, method, task, swap, stale=True):
        found = self.cells.get((method, task, swap))
        return found if found and (stale or not found.stale) else None

    def tasks(self):
        return [task for task in TASKS if task in self.protocol]

    def methods(self, task):
        return [method for method in NAMES if any((method, task, swap) in self.cells for swap in (False, True))]

    def swap_effect(self, method, task):
        """Differences with - without swapping of the seeds that both have (seeds,); None if they cannot be compared."""
        return effect(*(self.cell(method, task, swap) for swap in (False, True)))


def effect(without, swapped):
    """Differences of two Cells, with - without swapping, as Results.swap_effect."""
    if not without or not swapped or without.updates != swapped.updates or without.stale != swapped.stale:
        return None
    common = sorted(set(without.seeds) & set(swapped.seeds))
    return np.array([swapped.returns[swapped.seeds.index(seed)] - without.returns[without.seeds.index(seed)]
                     for seed in common]) if common else None


def quiet(function, *arguments, **more):
    """Calls a test of scipy without its warnings about samples that do not vary; those cases are handled here."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*arguments, **more)


def compare(a, b):
    """Mean of a minus mean of b, Welch's test and interval; a, b: one number for each seed (or episode)."""
    if a is None or b is None or min(len(a), len(b)) < 2:
        return None
    difference = float(np.mean(a) - np.mean(b))
    if np.ptp(a) == np.ptp(b) == 0:  # where Welch's test divides by 0, the chance that shuffled labels separate so well
        return without_spread(difference, 2 / math.comb(len(a) + len(b), len(a)))
    result = quiet(stats.ttest_ind, a, b, equal_var=False)
    interval = quiet(result.confidence_interval, 1 - LEVEL)
    return Comparison(difference, float(interval.low), float(interval.high), float(result.pvalue))


def without_spread(difference, chance):
    """The comparison of samples that do not vary: exact if that is no chance, with an endless interval if it may be."""
    p = 1.0 if difference == 0 else min(1.0, chance)
    known = difference == 0 or p < LEVEL
    return Comparison(difference, *((difference, difference) if known else (-np.inf, np.inf)), p)


def compare_paired(a, b):
    """Mean of a - b with Student's test and interval; a, b: two scores of the same seeds (seeds,)."""
    differences = np.asarray(a, float) - np.asarray(b, float)
    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:  # the chance that all signs agree
        return without_spread(float(differences[0]), 2 / 2**len(differences))
    result = stats.ttest_1samp(differences, 0)
    interval = result.confidence_interval(1 - LEVEL)
    return Comparison(float(differences.mean()), float(interval.low), float(interval.high), float(result.pvalue))


def compare_printed(a, b, n=PAPERS_EPISODES):
    """The same from (mean, standard deviation) pairs of n episodes each, as the paper prints them."""
    difference, error = a[0] - b[0], math.hypot(a[1], b[1]) / math.sqrt(n)
    if error == 0:
        return Comparison(difference, difference, difference, float(difference == 0))
    p = stats.ttest_ind_from_stats(a[0], a[1], n, b[0], b[1], n, equal_var=False).pvalue
    reach = stats.t.ppf(1 - LEVEL / 2, error**4 * n**2 * (n - 1) / (a[1]**4 + b[1]**4)) * error
    return Comparison(difference, difference - reach, difference + reach, float(p))


def paired(differences):
    """Mean of paired differences (seeds,) with its 95 % interval by Student's t, which needs two seeds."""
    c = compare_paired(differences, np.zeros(len(differences)))
    if c is None or np.isinf(c.low):
        return float(np.mean(differences)), None, None
    return c[:3]


def holm(values):
    """Holm's correction of a list of p-values: the k-th smallest of m times m - k + 1, never falling, at most 1."""
    order, corrected, largest = np.argsort(values, kind="stable"), np.empty(len(values)), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected.tolist()


def expert_return(task):
    """Mean return of the expert that made a task's data, from its card; None without one."""
    path = REPOSITORY / "data" / "experts" / f"{task}.json"
    if not path.exists():
        return None
    card = json.loads(path.read_text())
    return (card.get("evaluation") or card["dataset"]["expert"])["return"]


# --- aggregates over tasks; samples: one array (seeds,) of normalised scores for each task
def bootstrap(samples, statistic):
    """Value and 95 % interval of statistic(*samples, axis=-1), resampling the seeds of each task apart."""
    value = statistic(*samples, axis=-1)
    if min(np.shape(sample)[-1] for sample in samples) < 2:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    interval = quiet(stats.bootstrap, samples, statistic, n_resamples=RESAMPLES, vectorized=True, method="percentile",
                     axis=-1, rng=np.random.default_rng(0)).confidence_interval
    return value, interval.low, interval.high


def iqm(*samples, axis=-1):
    """Interquartile mean: the mean of the middle half of all runs."""
    return stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)


def improvement(first, second):
    """Probability that a run of the first beats one of the second on the same task, mean over tasks, with interval."""
    def statistic(*samples, axis=-1):
        pairs = zip(samples[:len(first)], samples[len(first):])
        return np.mean([quiet(stats.mannwhitneyu, a, b, axis=axis, method="asymptotic").statistic
                        / (a.shape[axis] * b.shape[axis]) for a, b in pairs], axis=0)
    return bootstrap([*first, *second], statistic)


def profile(samples, thresholds):
    """Share of runs above each threshold (K,), mean over tasks, with its interval."""
    above = [(np.asarray(sample) > thresholds[:, None]).astype(float) for sample in samples]
    return bootstrap(above, lambda *arrays, axis=-1: np.mean([array.mean(axis) for array in arrays], axis=0))


def common_tasks(results):
    """For the aggregates: tasks that have an expert's card and at least half of all cells (method, swap) that have two
    seeds and have not gone stale, and the cells that have all of these tasks. Of each cell the same number of seeds,
    the first ones, so that no task and no method counts for more than another."""
    usable = {place: cell for place, cell in results.cells.items()
              if not cell.stale and len(cell.seeds) > 1 and place[0] in NAMES}
    entries = sorted({(method, swap) for method, _, swap in usable},
                     key=lambda entry: (list(NAMES).index(entry[0]), entry[1]))
    tasks = [task for task in results.tasks() if expert_return(task) and entries and sum(
        (method, task, swap) in usable for method, swap in entries) >= len(entries) / 2]
    samples = {}
    for method, swap in entries:
        cells = [usable.get((method, task, swap)) for task in tasks]
        if tasks and all(cells):
            samples[method, swap] = [cell.returns / expert_return(task) for cell, task in zip(cells, tasks)]
    seeds = min((len(sample) for group in samples.values() for sample in group), default=0)
    return tasks, {entry: [sample[:seeds] for sample in group] for entry, group in samples.items()}
