"""Cells of the tables and comparisons between them.

A cell is a line of the tables on a task, without goal swapping (False), with it (True), or with goals of
trajectories that meet ("meet"). Its runs differ in nothing but the seed. A seed is one observation: Welch's
t-test, corrected by Holm for the number of comparisons. The paper counts the 50 episodes of each of its seeds
as if they were independent; its printed numbers are compared so.
"""

import math
import warnings
from collections import namedtuple

import numpy as np
from benchmark import TASKS, cell_of, lines, read_rows, settings_of
from scipy import stats

LEVEL = 0.05  # of every test; intervals hold 95 %
PAPERS_EPISODES = 500  # behind each number of the paper: 10 seeds of 50 episodes

# difference of two means, its 95 % interval and p-value
Comparison = namedtuple("Comparison", "difference low high p")


def horizon(task):
    """Steps of an episode, which is also the largest return."""
    return 50 if task.startswith("Fetch") else 100


def short(number):
    return f"{number / 1000:g}k" if number >= 1000 else str(number)


class Cell:
    """The runs of a cell: {seed: row}."""

    def __init__(self, rows):
        self.seeds, self.rows = zip(*sorted(rows.items()), strict=True)
        self.returns = self.of("return")  # (seeds,)
        self.episodes = np.concatenate([row["episodes"]["return"] for row in self.rows])
        self.updates = self.rows[0]["args"]["updates"]
        self.size = f"{len(self.seeds)} × {short(self.updates)}"

    def of(self, score):
        """A score of each seed at the last evaluation."""
        return np.array([row["scores"][score] for row in self.rows], float)

    def curve(self):
        """Updates (K,) and returns (seeds, K) at the evaluations that all seeds have."""
        common = set.intersection(*({point[0] for point in row["curve"]} for row in self.rows))
        values = [[point[1] for point in row["curve"] if point[0] in common] for row in self.rows]
        return np.array(sorted(common)), np.array(values, float)


class Results:
    """The cells of a protocol, and its lines that have one, in the order of METHODS."""

    def __init__(self, protocol="cpu", rows=None, tasks=TASKS):
        self.rows, self.cells, self.names = read_rows() if rows is None else rows, {}, {}
        self.protocol = protocol
        measured = {row["method"] for cell in self.rows.values() for row in cell.values()}
        for line, (method, its, _) in lines().items():
            for task in tasks if method in measured else ():
                for swap in (False, True, "meet"):
                    settings = settings_of(line, task, bool(swap), protocol)[1]
                    source = {"swap_source": "meet"} if swap == "meet" else {}
                    place = cell_of(method, settings | source)
                    if place in self.rows:
                        self.cells[line, task, swap] = Cell(self.rows[place])
                        self.names[line] = its.name

    def cell(self, line, task, swap):
        return self.cells.get((line, task, swap))

    def effect(self, line, task, swap=True):
        """Differences with - without swapping of the seeds that both cells have (seeds,), or None."""
        without, swapped = self.cell(line, task, False), self.cell(line, task, swap)
        common = sorted({*without.seeds} & {*swapped.seeds}) if without and swapped else []
        returns = [dict(zip(cell.seeds, cell.returns, strict=True)) for cell in (without, swapped) if common]
        return np.array([returns[1][seed] - returns[0][seed] for seed in common]) if common else None


def compare(a, b):
    """Mean of a minus mean of b by Welch's test; a, b: one number for each seed. None for a single one."""
    if min(len(a), len(b)) < 2:
        return None
    if np.ptp(a) == np.ptp(b) == 0:  # Welch's test divides by 0; how often shuffled labels separate so well
        return without_spread(float(a[0] - b[0]), 2 / math.comb(len(a) + len(b), len(a)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about samples that do not vary
        result = stats.ttest_ind(a, b, equal_var=False)
        interval = result.confidence_interval(1 - LEVEL)
    return Comparison(float(np.mean(a) - np.mean(b)), interval.low, interval.high, result.pvalue)


def without_spread(difference, chance):
    """Of samples that do not vary: exact if that is hardly chance, with an endless interval if it may be."""
    p = 1.0 if difference == 0 else chance
    known = difference == 0 or p < LEVEL
    return Comparison(difference, *((difference, difference) if known else (-np.inf, np.inf)), p)


def compare_paired(differences):
    """Mean of paired differences (seeds,) by Student's test; None for a single one."""
    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:  # how often all signs agree
        return without_spread(float(differences[0]), 2 / 2 ** len(differences))
    result = stats.ttest_1samp(differences, 0)
    interval = result.confidence_interval(1 - LEVEL)
    return Comparison(float(differences.mean()), interval.low, interval.high, result.pvalue)


def compare_printed(a, b, n=PAPERS_EPISODES):
    """The same of (mean, standard deviation) pairs of n episodes each, as the paper prints them."""
    difference, error = a[0] - b[0], math.hypot(a[1], b[1]) / math.sqrt(n)
    if error == 0:
        return Comparison(difference, difference, difference, float(difference == 0))
    p = stats.ttest_ind_from_stats(*a, n, *b, n, equal_var=False).pvalue
    reach = stats.t.ppf(1 - LEVEL / 2, error**4 * n**2 * (n - 1) / (a[1] ** 4 + b[1] ** 4)) * error
    return Comparison(difference, difference - reach, difference + reach, p)


def holm(comparisons, planned=0):
    """Comparisons with p-values by Holm: the k-th smallest of m times m - k + 1, never falling, at most 1.

    planned: so many there will be; those that were not made yet count too.
    """
    p = np.array([c.p for c in comparisons])
    m, order = max(planned, len(p)), np.argsort(p, kind="stable")
    p[order] = np.minimum(1, np.maximum.accumulate(p[order] * (m - np.arange(len(p)))))
    return [c._replace(p=float(x)) for c, x in zip(comparisons, p, strict=True)]


def up(c):
    """Is it significantly larger?"""
    return c.p < LEVEL and c.difference > 0


def down(c):
    return c.p < LEVEL and c.difference < 0
