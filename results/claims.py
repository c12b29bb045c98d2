"""The claims of the paper, and what our runs and its own tables say of each, by rules that are stated here.

Better and worse: significant at the 5 % level, by Holm for all comparisons of the claim, also those without
runs. No better and no worse: the 95 % interval, not corrected, stays below 5 % of the largest return. What
has no runs is undecided. Our runs: Welch's test over seeds. The paper's numbers: over its 500 episodes.
"""

import json
from collections import namedtuple

import numpy as np
from benchmark import HAND, METHODS, REPOSITORY, TASKS
from compare import LEVEL, Comparison, compare, compare_paired, compare_printed, down, holm, horizon, up
from scipy import stats

PAPER = json.loads((REPOSITORY / "results" / "paper.json").read_text())
YES, NO, OPEN, NEVER = "holds", "does not hold", "undecided", "not yet measured"
SWAPPED = tuple(PAPER["table2"])  # the methods that the paper swaps
UNKNOWN = Comparison(0.0, -np.inf, np.inf, 1.0)  # of a pair without runs: it may be anything
EVAL_SEED = 1_000_000  # as in the method files

# check(source): {task: (verdict, note)}; overall(verdicts): one verdict
Claim = namedtuple("Claim", "text where rule check overall")


class Source:
    """Our cells of two seeds or more, or, without results, the paper's printed (mean, deviation)."""

    def __init__(self, results=None):
        self.results = results

    def value(self, table, task, place):
        if self.results is None:
            return PAPER[table].get(place[0], {}).get(task, {}).get("swap" if place[1] else "no_swap")
        cell = self.results.cell(place[0], task, place[1])
        return cell if cell and len(cell.seeds) > 1 else None

    def mean(self, value):
        return value[0] if self.results is None else float(value.returns.mean())

    def compare(self, places):
        """{key: Comparison} of {key: (table, task, place, place)}; Holm also counts those without runs."""
        found = {}
        for key, (table, task, *pair) in places.items():
            a, b = (self.value(table, task, place) for place in pair)
            if a and b:
                found[key] = compare(a.returns, b.returns) if self.results else compare_printed(a, b)
        return dict(zip(found, holm(list(found.values()), len(places)), strict=True))


# --- rules for one task; p-values are corrected already, margin is 5 % of the largest return
def better(comparisons, margin):
    if all(map(up, comparisons)):
        return YES
    return NO if any(down(c) or not up(c) and c.high < margin for c in comparisons) else OPEN


def no_better(comparisons, margin):
    if any(map(up, comparisons)):
        return NO
    return YES if all(c.high < margin for c in comparisons) else OPEN


def no_worse(comparisons, margin):
    return no_better([Comparison(-c.difference, -c.high, -c.low, c.p) for c in comparisons], margin)


def unchanged(comparisons, margin):
    return every([no_better(comparisons, margin), no_worse(comparisons, margin)])


def some_better(comparisons, margin):
    return {YES: NO, NO: YES, OPEN: OPEN}[no_better(comparisons, margin)]


def half_better(comparisons, margin):
    ups, downs = sum(map(up, comparisons)), sum(map(down, comparisons))
    if 2 * ups >= len(comparisons) and not downs:
        return YES
    return NO if downs or all(c.high < margin for c in comparisons) else OPEN


# --- rules for all tasks of a claim together
def every(verdicts):
    return NO if NO in verdicts else YES if all(v == YES for v in verdicts) else OPEN


def some(verdicts):
    return YES if YES in verdicts else NO if all(v == NO for v in verdicts) else OPEN


def most(verdicts):
    half = len(verdicts) / 2
    return YES if verdicts.count(YES) > half else NO if verdicts.count(NO) >= half else OPEN


WORDS = {
    better: "better",
    no_better: "no better",
    no_worse: "no worse",
    unchanged: "no better and no worse",
    some_better: "one method or more is better",
    half_better: "half of the methods or more are better, none is worse",
    every: "on every task",
    some: "on one task at least",
    most: "on more than half of the tasks",
}


# --- claims about returns
def by_pairs(text, table, what, pairs, rule, overall, tasks):
    """A claim about the differences a - b of pairs [(a, b)], on the tasks of which the paper has them."""
    places = {(task, *pair): (table, task, *pair) for task in tasks for pair in pairs}
    places = {key: p for key, p in places.items() if all(Source().value(table, p[1], x) for x in p[2:])}

    def check(source):
        found, verdicts = source.compare(places), {}
        for task in tasks:
            here = [found.get(key, UNKNOWN) for key in places if key[0] == task]
            if any(c is not UNKNOWN for c in here):
                verdicts[task] = rule(here, 0.05 * horizon(task)), ""
        return verdicts

    where = {"table2": "Sec. 5", "table3": "Table 3", "table4": "Table 4"}[table]
    return Claim(text, where, f"{what}: {WORDS[rule]}, {WORDS[overall]}", check, overall)


def swapping(text, methods, rule, overall, tasks=TASKS):
    pairs = [((m, True), (m, False)) for m in methods]
    return by_pairs(text, "table2", "with against without swapping", pairs, rule, overall, tasks)


def ranking(text, table, method, rule, overall, others=None, tasks=TASKS):
    def column(m):
        return m, "swap" in PAPER[table][m]["PointMaze"]

    pairs = [(column(method), column(m)) for m in others or PAPER[table] if m != method]
    names = ", ".join(METHODS[m].name for m in others) if others else "each other method"
    return by_pairs(text, table, f"{METHODS[method].name} against {names}", pairs, rule, overall, tasks)


def awac_gains_most(source):
    """On how many tasks each method is surely better with swapping, and on how many it may be."""
    places = {(m, task): ("table2", task, (m, True), (m, False)) for m in SWAPPED for task in TASKS}
    surely, perhaps = dict.fromkeys(SWAPPED, 0), dict.fromkeys(SWAPPED, len(TASKS))
    for (method, task), c in source.compare(places).items():
        surely[method] += up(c)
        perhaps[method] -= better([c], 0.05 * horizon(task)) == NO
    others = [m for m in SWAPPED if m != "awac"]
    verdict = YES if surely["awac"] >= max(5, *(perhaps[m] for m in others)) else OPEN
    if perhaps["awac"] < max(5, *(surely[m] for m in others)):
        verdict = NO
    return {"all": (verdict, f"AWAC better on {surely['awac']} to {perhaps['awac']} tasks")}


def others_fail(source):
    """DQAPG returns a tenth of the horizon or more, and most of all; three quarters of the others less."""
    others, verdicts = [m for m in PAPER["table4"] if m != "dqapg"], {}
    column = {m: (m, "swap" in PAPER["table4"][m]["PointMaze"]) for m in PAPER["table4"]}
    tasks = [task for task in HAND if task.startswith("HandBlock")]
    places = {(task, m): ("table4", task, column["dqapg"], column[m]) for task in tasks for m in others}
    leads = source.compare(places)
    for task in tasks:
        values = {m: source.value("table4", task, place) for m, place in column.items()}
        means = {m: source.mean(value) for m, value in values.items() if value}
        ours, bar = means.pop("dqapg", None), 0.1 * horizon(task)
        if ours is None or not means:
            continue
        lead, failed = [c for key, c in leads.items() if key[0] == task], sum(x < bar for x in means.values())
        missing = len(others) - len(means)
        verdict = YES if failed >= 0.75 * len(others) and not missing and all(map(up, lead)) else OPEN
        if ours < bar or any(map(down, lead)) or failed + missing < 0.75 * len(others):
            verdict = NO
        verdicts[task] = verdict, f"DQAPG {ours:.1f}, {failed} of {len(means)} others below {bar:g}"
    return verdicts


# --- claims about success on PointMaze
def maze_cell(source, swap):
    return source.value("table2", "PointMaze", ("dqapg", swap)) if source.results else None


def success_rates(first, second):
    """A check that compares two success rates of DQAPG, (swap, group) each, over seeds."""

    def check(source):
        cells = [maze_cell(source, swap) for swap, _ in (first, second)]
        if not all(cells):
            return {}
        a, b = cells[0].of(f"{first[1]}_success"), cells[1].of(f"{second[1]}_success")
        c = compare_paired(a - b) if first[0] == second[0] else compare(a, b)  # of the same policies, or not
        return {"PointMaze": (better([c], 0.05), f"{a.mean():.2f} against {b.mean():.2f}, p {c.p:.2g}")}

    return check


def goals_reached(swap):
    """A check of the pairs that DQAPG joins in half of the episodes: all with swapping, else those shown.

    A pair is decided if its success over seeds differs from a half by Student's test, by Holm for nine pairs;
    its deviation is at least that of as many coin flips.
    """

    def check(source):
        if not (cell := maze_cell(source, swap)):
            return {}
        success = np.array([row["episodes"]["success"] for row in cell.rows])
        pairs = (EVAL_SEED + np.arange(success.shape[1]) - 1) % 9  # pair k: from start k % 3 to goal k // 3
        by_seed = np.stack([success[:, pairs == k].mean(1) for k in range(9)], 1)
        seen = np.array([k % 3 + k // 3 == 2 for k in range(9)])
        rates, spread = (
            by_seed.mean(0),
            np.maximum(by_seed.std(0, ddof=1), 0.5 / np.sqrt(success.shape[1] / 9)),
        )
        p = 2 * stats.t.sf(abs(rates - 0.5) / (spread / np.sqrt(len(by_seed))), len(by_seed) - 1)
        decided = np.array([c.p < LEVEL for c in holm([UNKNOWN._replace(p=x) for x in p])])
        right = (rates >= 0.5) == (seen | swap)
        verdict = NO if (decided & ~right).any() else YES if decided.all() else OPEN
        shown = [f"{rates[which].min():.2f} to {rates[which].max():.2f}" for which in (seen, ~seen)]
        note = f"{shown[0]} on the pairs of the data, {shown[1]} on others; {decided.sum()} of 9 decided"
        return {"PointMaze": (verdict, note)}

    return check


def maze(text, where, rule, check):
    return Claim(text, where, f"DQAPG on PointMaze, {rule}", check, every)


def claims():
    """The claims in the order of the paper."""
    general, seen = "success on pairs that the data never shows", "success on pairs of the data"
    yield maze(
        "goal swapping learns a more general policy",
        "Abstract, Fig. 6, 8",
        f"{general}, with against without swapping: better",
        success_rates((True, "unseen"), (False, "unseen")),
    )
    yield maze(
        "without it the policy is overfitted",
        "Fig. 1, 8",
        f"without swapping, {seen} against the others: better",
        success_rates((False, "seen"), (False, "unseen")),
    )
    reach = "in half of the episodes or more"
    rule = f"without swapping: from each start the goal of the data {reach}, no other"
    yield maze("without it only one goal is reached", "Fig. 6b", rule, goals_reached(False))
    rule = f"with swapping: every goal from every start {reach}"
    yield maze("with it the policy generalises beyond its data", "Fig. 6c", rule, goals_reached(True))
    for method in SWAPPED:
        if method != "iql":
            yield swapping(f"{METHODS[method].name} benefits from swapping", [method], better, some)
    yield swapping("IQL does not benefit from swapping", ["iql"], no_better, every)
    rule = "better with swapping on five tasks or more, and on as many as any other method"
    yield Claim("AWAC benefits the most, on five tasks", "Sec. 5", rule, awac_gains_most, every)
    yield swapping("swapping has no significant negative effect", SWAPPED, no_worse, every)
    text, tasks = "FetchPush and PointMaze benefit significantly", ("FetchPush", "PointMaze")
    yield swapping(text, SWAPPED, half_better, every, tasks)
    text, tasks = (
        "FetchPick, HandBlockZ and HandEggRotate improve",
        ("FetchPick", "HandBlockZ", "HandEggRotate"),
    )
    yield swapping(text, SWAPPED, some_better, every, tasks)
    tasks = ("FetchSlide", "FetchReach", "HandBlockParallel", "HandBlockXYZ")
    yield swapping("the rest of the tasks are more or less intact", SWAPPED, unchanged, every, tasks)
    text, tasks = (
        "no method benefits on FetchSlide and HandBlockParallel",
        ("FetchSlide", "HandBlockParallel"),
    )
    yield swapping(text, SWAPPED, no_better, every, tasks)
    text = "DQAPG is best, or shares the best place, on all nine tasks"
    yield ranking(text, "table3", "dqapg", no_worse, every)
    others = [m for m in PAPER["table3"] if m not in ("dqapg", "td3bc")]
    yield ranking("TD3+BC is a strong baseline", "table3", "td3bc", no_worse, most, others)
    text, tasks = (
        "DQAPG with swapping is best but on FetchSlide",
        [task for task in TASKS if task != "FetchSlide"],
    )
    yield ranking(text, "table4", "dqapg", no_worse, every, tasks=tasks)
    text = "on FetchSlide AM outperforms all others"
    yield ranking(text, "table4", "am", better, every, tasks=["FetchSlide"])
    text = "TD3+BC with swapping outperforms WGCSL and GoFAR"
    yield ranking(text, "table4", "td3bc", better, most, ["wgcsl", "gofar"])
    rule = "with swapping DQAPG returns a tenth of the horizon and significantly most, 3/4 of the others less"
    yield Claim(
        "almost all baselines fail on HandBlock tasks, DQAPG does not", "Table 4", rule, others_fail, every
    )


def judged(results):
    """For each claim: it, {task: (verdict, note)} of our runs and of the paper's tables, both overall."""
    for claim in claims():
        ours, printed = claim.check(Source(results)), claim.check(Source())
        missing = [OPEN] * (max(len(printed), 1) - len(ours))
        sides = (ours, missing), (printed, [])
        yield (
            claim,
            ours,
            printed,
            *(claim.overall([v for v, _ in x.values()] + m) if x else None for x, m in sides),
        )


def by_verdict(found):
    """holds on these tasks, not on those; with the notes."""
    notes = [f"{task} {note}".removeprefix("all ") for task, (_, note) in found.items() if note]
    tasks = [
        [task for task, (v, note) in found.items() if v == verdict and not note] for verdict in (YES, NO)
    ]
    said = [f"{verdict} on {', '.join(its)}" for verdict, its in zip((YES, NO), tasks, strict=True) if its]
    return "; ".join(said + notes)


def table(results):
    """All claims with their verdicts."""
    text = [
        "| | claim | where | rule | in the paper's own tables | here | task by task, the rest undecided |"
    ]
    text.append("|---" * 7 + "|")
    for number, (claim, ours, printed, verdict, papers) in enumerate(judged(results), 1):
        against = ", ".join(task for task, (v, _) in printed.items() if v == NO and task != "all")
        papers = (papers or "") + f": {against}" * (papers == NO and bool(against))
        cells = [str(number), claim.text, claim.where, claim.rule, papers, f"**{verdict or NEVER}**"]
        text.append(f"| {' | '.join([*cells, by_verdict(ours)])} |")
    return "\n".join(text)


def counted(results):
    """How many claims have which verdict, in one line."""
    verdicts = [verdict or NEVER for *_, verdict, _ in judged(results)]
    words = {YES: "hold", NO: "do not hold", OPEN: "are undecided", NEVER: "are not yet measured"}
    counts = ", ".join(f"{n} {word}" for v, word in words.items() if (n := verdicts.count(v)))
    return f"Of {len(verdicts)} claims of the paper {counts} in our runs."
