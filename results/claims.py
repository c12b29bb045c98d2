"""The claims of the paper, and what our runs and the paper's own tables say of each, by rules that are stated here.

Differences are tested at the 5 % level, with Holm's correction for all comparisons that a claim makes, also those that
have no runs yet. Ours: Welch's test over seeds. The paper's own numbers: the paper's way, 500 episodes as if each were
independent. "No better than" and "no worse than" hold if the 95 % interval of the difference, which is not corrected,
leaves out 5 % of the largest return or more. A task or comparison of the claim that has no runs counts as undecided.
"""

import json
from collections import namedtuple

import numpy as np
from compare import LEVEL, NAMES, REPOSITORY, TASKS, Comparison, compare, compare_paired, compare_printed, holm, horizon
from scipy import stats

PAPER = json.loads((REPOSITORY / "results" / "paper.json").read_text())
YES, NO, OPEN, NEVER = "holds", "does not hold", "undecided", "not yet measured"
SWAPPED = tuple(PAPER["table2"])  # the methods that the paper swaps
HAND = ("HandBlockZ", "HandBlockParallel", "HandBlockXYZ")
UNKNOWN = Comparison(0.0, -np.inf, np.inf, 1.0)  # of a pair without runs: it may be anything
SHOWN = np.eye(3, dtype=bool)[::-1]  # PointMaze's pairs in the data, [start, goal]: s_a to g_3, s_b to g_2, s_c to g_1

# check(source): {task: (verdict, numbers)}; overall(verdicts): one verdict
Claim = namedtuple("Claim", "text where rule check overall", defaults=[None])


def column(table, method):
    """(method, swap) as it stands in Table 3 or 4."""
    return method, "swap" in PAPER[table][method]["PointMaze"]


class Printed:
    """The paper's own numbers."""

    def compare(self, table, task, a, b):
        found = [self.cell(task, x, table) for x in (a, b)]
        return compare_printed(*found) if all(found) else None

    def mean(self, table, task, a):
        found = self.cell(task, a, table)
        return found and found[0]

    def cell(self, task, a, table=None):
        """(mean, deviation); None if it is not in the table, and for what is in none: success rates."""
        return PAPER[table].get(a[0], {}).get(task, {}).get("swap" if a[1] else "no_swap") if table else None


class Ours:
    """Our runs: cells of two seeds or more that have not gone stale."""

    def __init__(self, results):
        self.results = results

    def cell(self, task, a):
        found = self.results.cell(a[0], task, a[1], stale=False)
        return found if found and len(found.seeds) > 1 else None

    def compare(self, table, task, a, b):
        first, second = self.cell(task, a), self.cell(task, b)
        same = first and second and first.updates == second.updates
        return compare(first.returns, second.returns) if same else None

    def mean(self, table, task, a):
        return self.cell(task, a) and float(self.cell(task, a).returns.mean())


# --- rules for one task; comparisons: their p-values are corrected already
def up(c):
    return c.p < LEVEL and c.difference > 0


def down(c):
    return c.p < LEVEL and c.difference < 0


def better(comparisons, margin):
    """Significantly better in all; not so if worse, or no better, in one."""
    if all(map(up, comparisons)):
        return YES
    return NO if any(down(c) or not up(c) and c.high < margin for c in comparisons) else OPEN


def no_better(comparisons, margin):
    """Significantly better in none, and no better in all."""
    if any(map(up, comparisons)):
        return NO
    return YES if all(c.high < margin for c in comparisons) else OPEN


def no_worse(comparisons, margin):
    """Significantly worse in none, and no worse in all."""
    return no_better([c._replace(difference=-c.difference, low=-c.high, high=-c.low) for c in comparisons], margin)


def unchanged(comparisons, margin):
    """No better and no worse in all; not so if significantly better or worse in one."""
    return every([no_better(comparisons, margin), no_worse(comparisons, margin)])


def some_better(comparisons, margin):
    """Significantly better in one; not so if no better in all."""
    return {YES: NO, NO: YES, OPEN: OPEN}[no_better(comparisons, margin)]


def half_better(comparisons, margin):
    """Significantly better in half or more, worse in none; not so if worse in one, or no better in all."""
    ups, downs = sum(map(up, comparisons)), sum(map(down, comparisons))
    if 2 * ups >= len(comparisons) and not downs:
        return YES
    return NO if downs or all(c.high < margin for c in comparisons) else OPEN


# --- rules for all tasks of a claim together; the verdict of one that was not measured is undecided
def every(verdicts):
    """On every task; not so if on one it does not hold."""
    return NO if NO in verdicts else YES if all(v == YES for v in verdicts) else OPEN


def some(verdicts):
    """On one task at least; not so if it does not hold on any."""
    return YES if YES in verdicts else NO if all(v == NO for v in verdicts) else OPEN


def most(verdicts):
    """On more than half of the tasks."""
    half = len(verdicts) / 2
    return YES if verdicts.count(YES) > half else NO if verdicts.count(NO) >= half else OPEN


def corrected(found, planned=0):
    """{task: [(label, Comparison)]} with p-values by Holm over all of them, and over as many as are planned."""
    p = [c.p for pairs in found.values() for _, c in pairs]
    p = iter(holm(p + [1.0] * (planned - len(p))))
    return {task: [(label, c._replace(p=next(p))) for label, c in pairs] for task, pairs in found.items()}


def numbers(pairs, judge):
    """What decides: the only difference, or the one that speaks most for or against, and how many there are."""
    star = lambda c: f"{c.difference:+.1f}" + "*" * (c.p < LEVEL)  # noqa: E731
    if len(pairs) == 1:
        return star(pairs[0][1]) + (f" ({pairs[0][0]})" if pairs[0][0] else "")
    by = {no_better: 1, some_better: 1}.get(judge, -1)  # the direction that decides; of unchanged both do
    strength = lambda c: abs(c.difference) if judge is unchanged else by * c.difference  # noqa: E731
    label, extreme = max(pairs, key=lambda pair: (pair[1].p < LEVEL and strength(pair[1]) > 0, strength(pair[1])))
    return f"{star(extreme)} ({label}; {sum(up(c) for _, c in pairs)} of {len(pairs)} better, " \
           f"{sum(down(c) for _, c in pairs)} worse)"


def by_pairs(table, pairs, judge, tasks=TASKS):
    """A check that judges the differences a - b of pairs: [(label, a, b)] on each task where the paper has them."""
    def compared(source):
        return {task: found for task in TASKS if task in tasks
                and (found := [(label, c) for label, a, b in pairs if (c := source.compare(table, task, a, b))])}

    def check(source):
        papers = compared(Printed())
        return {task: (judge([c for _, c in found] + [UNKNOWN] * (len(papers.get(task, ())) - len(found)),
                             0.05 * horizon(task)), numbers(found, judge))
                for task, found in corrected(compared(source), sum(map(len, papers.values()))).items()}
    return check


def swaps(*methods):
    return [(NAMES[m] if len(methods) > 1 else "", (m, True), (m, False)) for m in methods]


def against(table, method, *others):
    others = others or [m for m in PAPER[table] if m != method]
    return [(f"over {NAMES[m]}", column(table, method), column(table, m)) for m in others]


def awac_gains_most(source):
    """Decided only when the tasks that are undecided, or have no runs yet, cannot turn it."""
    found = {(m, task): [("", c)] for m in SWAPPED for task in TASKS
             if (c := source.compare("table2", task, (m, True), (m, False)))}
    surely = dict.fromkeys(SWAPPED, 0)  # better on so many tasks
    perhaps = dict.fromkeys(SWAPPED, len(TASKS))  # and at most on so many
    for (method, task), [(_, c)] in corrected(found, len(SWAPPED) * len(TASKS)).items():
        surely[method] += up(c)
        perhaps[method] -= better([c], 0.05 * horizon(task)) == NO
    measured = [m for m in SWAPPED if any((m, task) in found for task in TASKS)]
    if "awac" not in measured or len(measured) < 2:
        return {}
    others = [m for m in SWAPPED if m != "awac"]
    verdict = NO if perhaps["awac"] < max(5, *(surely[m] for m in others)) else \
        YES if surely["awac"] >= max(5, *(perhaps[m] for m in others)) else OPEN
    return {"all": (verdict, "better on " + ", ".join(
        f"{NAMES[m]} {surely[m]}" + f" to {perhaps[m]}" * (perhaps[m] > surely[m]) for m in measured))}


def others_fail(source):
    """On each task DQAPG returns a tenth of the horizon or more, and most of all; three quarters of the others less.

    Means count for both bounds. Undecided while methods without runs could turn it, or while DQAPG neither leads nor
    falls behind significantly.
    """
    found, others, dqapg = {}, len(PAPER["table4"]) - 1, column("table4", "dqapg")
    leads = corrected({task: [(m, c) for m in PAPER["table4"] if m != "dqapg"
                              and (c := source.compare("table4", task, dqapg, column("table4", m)))] for task in HAND},
                      others * len(HAND))
    for task in HAND:
        means = {m: value for m in PAPER["table4"]
                 if (value := source.mean("table4", task, column("table4", m))) is not None}
        ours, bar = means.pop("dqapg", None), 0.1 * horizon(task)
        if ours is not None and means:
            failed, best = sum(value < bar for value in means.values()), max(means, key=means.get)
            lead = dict(leads[task])
            if ours < bar or any(map(down, lead.values())) or failed + others - len(means) < 0.75 * others:
                verdict = NO
            else:
                verdict = YES if failed >= 0.75 * others and len(lead) == others and all(map(up, lead.values())) else OPEN
            found[task] = (verdict, f"DQAPG {ours:.1f}, {failed} of {len(means)} others below {bar:g}, "
                                    f"{NAMES[best]} {means[best]:.1f}"
                                    + f", {sum(map(up, lead.values()))} significantly below DQAPG" * bool(lead))
    return found


def of_seeds(first, second):
    """A check that compares two success rates of PointMaze, (swap, score) each, over the seeds of DQAPG."""
    def check(source):
        cells = [source.cell("PointMaze", ("dqapg", swap)) for swap, _ in (first, second)]
        if not all(cells) or cells[0].updates != cells[1].updates:
            return {}
        rates = [cell.of(score) for cell, (_, score) in zip(cells, (first, second))]
        c = compare_paired(*rates) if first[0] == second[0] else compare(*rates)  # two rates of the same policies
        return {"PointMaze": (better([c], 0.05), f"{rates[0].mean():.2f} against {rates[1].mean():.2f}, p {c.p:.2g}")}
    return check


def pair_success(cell):
    """Success at the last evaluation by start and goal cluster (seeds, 3, 3); NaN where there is none."""
    rates = np.full((len(cell.rows), 3, 3), np.nan)
    for rate, row in zip(rates, cell.rows):
        start, goal, success = (np.array(row["episodes"][key]) for key in ("start", "goal", "success"))
        for i, j in np.ndindex(3, 3):
            if (here := (start == i) & (goal == j)).any():
                rate[i, j] = success[here].mean()
    return rates


def goals_reached(swap):
    """A check of which goals DQAPG reaches in half of the episodes or more: all with swapping, else the shown ones.

    A pair is decided if its success over seeds differs from a half by Student's test, corrected by Holm for the nine
    pairs; its deviation counts as that of as many coin flips, if it is smaller.
    """
    wanted = np.ones((3, 3), bool) if swap else SHOWN

    def check(source):
        cell = source.cell("PointMaze", ("dqapg", swap))
        if not cell:
            return {}
        by_seed = pair_success(cell)
        n, flips = len(by_seed), len(cell.rows[0]["episodes"]["success"]) / 9
        rates, spread = by_seed.mean(0), np.maximum(by_seed.std(0, ddof=1), 0.5 / np.sqrt(flips))
        p = 2 * stats.t.sf(abs(rates - 0.5) / (spread / np.sqrt(n)), n - 1)
        decided = np.reshape(holm(p.ravel().tolist()), (3, 3)) < LEVEL
        right = (rates >= 0.5) == wanted
        verdict = NO if (decided & ~right).any() else YES if decided.all() else OPEN
        shown = " to ".join(f"{x(rates[SHOWN]):.2f}" for x in (np.min, np.max)) + " on the pairs of the data, " + \
            " to ".join(f"{x(rates[~SHOWN]):.2f}" for x in (np.min, np.max)) + " on the others"
        return {"PointMaze": (verdict, f"{shown}; {decided.sum()} of 9 decided")}
    return check


def claims():
    """The claims in the order of the paper."""
    yield Claim("goal swapping learns a more general policy", "Abstract, Fig. 6, 8",
                "DQAPG's success on pairs that the data never shows, with against without swapping: better",
                of_seeds((True, "unseen_success"), (False, "unseen_success")), every)
    yield Claim("without it the policy is overfitted", "Fig. 1, 8",
                "DQAPG without swapping, success on the pairs of the data against the others: better",
                of_seeds((False, "seen_success"), (False, "unseen_success")), every)
    yield Claim("without it only one goal is reached", "Fig. 6b",
                "DQAPG without swapping reaches, in half of the episodes, the goal that the data shows from each start, "
                "and no other; each of the nine pairs is tested against a half",
                goals_reached(False), every)
    yield Claim("with it the policy generalises beyond its data", "Fig. 6c",
                "DQAPG with swapping reaches, in half of the episodes, every goal from every start; each of the nine "
                "pairs is tested against a half",
                goals_reached(True), every)
    for method in SWAPPED:
        if method != "iql":
            yield Claim(f"{NAMES[method]} benefits from swapping", "Sec. 5: all methods except IQL",
                        "with against without: better, on one task at least",
                        by_pairs("table2", swaps(method), better), some)
    yield Claim("IQL does not benefit from swapping", "Sec. 5",
                "with against without: no better, on every task",
                by_pairs("table2", swaps("iql"), no_better), every)
    yield Claim("AWAC benefits the most, on five tasks", "Sec. 5",
                "better with swapping on five tasks or more, and on as many as any other method",
                awac_gains_most, every)
    yield Claim("swapping has no significant negative effect", "Sec. 5",
                "each method with against without: no worse, on every task",
                by_pairs("table2", swaps(*SWAPPED), no_worse), every)
    yield Claim("FetchPush and PointMaze benefit significantly", "Sec. 5",
                "with swapping half of the methods or more are better, none is worse",
                by_pairs("table2", swaps(*SWAPPED), half_better, ("FetchPush", "PointMaze")), every)
    yield Claim("FetchPick, HandBlockZ and HandEggRotate improve too, if less", "Sec. 5",
                "with swapping one method or more is better (how much is not judged)",
                by_pairs("table2", swaps(*SWAPPED), some_better, ("FetchPick", "HandBlockZ", "HandEggRotate")), every)
    yield Claim("the rest of the tasks are more or less intact", "Sec. 5",
                "each method with against without: no better and no worse",
                by_pairs("table2", swaps(*SWAPPED), unchanged,
                         ("FetchReach", "FetchSlide", "HandBlockParallel", "HandBlockXYZ")), every)
    yield Claim("no method benefits on FetchSlide and HandBlockParallel", "Sec. 5",
                "with swapping every method is no better",
                by_pairs("table2", swaps(*SWAPPED), no_better, ("FetchSlide", "HandBlockParallel")), every)
    yield Claim("DQAPG is best, or shares the best place, on all nine tasks", "Sec. 5, Table 3",
                "without swapping, against each other method: no worse, on every task",
                by_pairs("table3", against("table3", "dqapg"), no_worse), every)
    others = [method for method in PAPER["table3"] if method not in ("dqapg", "td3bc")]
    yield Claim("TD3+BC is a strong baseline", "Sec. 5, Table 3",
                "without swapping, against each method but DQAPG: no worse, on more than half of the tasks",
                by_pairs("table3", against("table3", "td3bc", *others), no_worse), most)
    yield Claim("DQAPG with swapping is best on every task but FetchSlide", "Abstract, Sec. 5, Table 4",
                "against each other method, swapped where the paper swaps it: no worse, on every task but FetchSlide",
                by_pairs("table4", against("table4", "dqapg"), no_worse, set(TASKS) - {"FetchSlide"}), every)
    yield Claim("on FetchSlide AM outperforms all others", "Sec. 5, Table 4",
                "against each other method: better",
                by_pairs("table4", against("table4", "am"), better, ("FetchSlide",)), every)
    yield Claim("TD3+BC outperforms WGCSL and GoFAR", "Sec. 5, Table 4",
                "with swapping, against both: better, on more than half of the tasks",
                by_pairs("table4", against("table4", "td3bc", "wgcsl", "gofar"), better), most)
    yield Claim("almost all baselines fail on the three HandBlock tasks, DQAPG does not", "Abstract, Sec. 5, Table 4",
                "DQAPG with swapping returns a tenth of the horizon or more, and significantly most of all; three "
                "quarters of the others, measured or not, return less than a tenth (means)",
                others_fail, every)


def judged(results):
    """For each claim: it, its verdicts {task: (verdict, numbers)} by our runs and by the paper's own, overall ones.

    Its tasks are those that the paper has numbers for, or PointMaze alone. None: not measured on any.
    """
    for claim in claims():
        ours, printed = claim.check(Ours(results)), claim.check(Printed())
        missing = [OPEN] * ((len(printed) or 1) - len(ours))
        yield claim, ours, printed, *(claim.overall([v for v, _ in found.values()] + more) if found else None
                                      for found, more in ((ours, missing), (printed, [])))


def starred(name_of, text):
    return f"{name_of} {text}" if name_of != "all" else text


def table(results):
    """All claims with their verdicts, and the numbers behind them."""
    lines = ["| | claim | where | rule | in the paper's own tables | here | numbers here |", "|---" * 7 + "|"]
    for number, (claim, ours, printed, verdict, papers) in enumerate(judged(results), 1):
        against_it = [starred(task, shown) for task, (v, shown) in printed.items() if v == NO]
        papers = "" if papers is None else papers + (f": {'; '.join(against_it)}" if papers == NO else "")
        of = len(printed) or 1  # tasks that the claim is about
        here, by = f"**{verdict or NEVER}**", [v for v, _ in ours.values()]
        if claim.overall is some and verdict == YES:
            here += f" on {(n := by.count(YES))} task{'s' * (n > 1)}" + f", not on {by.count(NO)}" * (NO in by)
        here += f", {len(ours)} of {of} tasks" * bool(1 < of != len(ours) > 0)
        lines.append(f"| {number} | {claim.text} | {claim.where} | {claim.rule} | {papers} | {here} | "
                     f"{'; '.join(starred(task, shown) for task, (_, shown) in ours.items())} |")
    return "\n".join(lines)


def by_task(results):
    """The verdicts task by task."""
    lines = [f"| | claim | {' | '.join(TASKS)} |", "|---|---|" + "---|" * len(TASKS)]
    for number, (claim, ours, printed, *_) in enumerate(judged(results), 1):
        tasks = set(printed) or {"PointMaze"}  # the others are not part of the claim
        if tasks != {"all"}:
            lines.append(f"| {number} | {claim.text} | " + " | ".join(
                ours[task][0] if task in ours else NEVER if task in tasks else "" for task in TASKS) + " |")
    return "\n".join(lines)


def counted(results):
    """How many claims have which verdict, in one line."""
    verdicts = [verdict or NEVER for *_, verdict, _ in judged(results)]
    words = {YES: ("holds", "hold"), NO: ("does not hold", "do not hold"), OPEN: ("is undecided", "are undecided"),
             NEVER: ("is not yet measured", "are not yet measured")}
    return f"Of {len(verdicts)} claims of the paper " + ", ".join(
        f"{(n := verdicts.count(v))} {words[v][n != 1]}" for v in words) + " in our runs."
