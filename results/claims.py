"""The claims of the paper, and what our runs and its own tables say of each, by rules that are stated here.

Better and worse: significant at the 5 % level, by Holm for all comparisons of the claim, also those without
runs. No better and no worse: the 95 % interval, not corrected, stays below 5 % of the largest return. What
has no runs is undecided. Our runs: Welch's test over seeds. The paper's numbers: over its 500 episodes.
"""

import json
from collections import namedtuple

import numpy as np
from benchmark import METHODS, REPOSITORY, TASKS
from compare import Comparison, compare, compare_paired, compare_printed, down, holm, horizon, up

PAPER = json.loads((REPOSITORY / "results" / "paper.json").read_text())
YES, NO, OPEN, NEVER = "holds", "does not hold", "undecided", "not yet measured"
SWAPPED = tuple(PAPER["table2"])  # the methods that the paper swaps
UNKNOWN = Comparison(0.0, -np.inf, np.inf, 1.0)  # of a pair without runs: it may be anything
EVAL_SEED = 1_000_000  # as in the method files

# check(results): {task: (verdict, note)}; check(None): of the paper's tables; overall(verdicts): one verdict
Claim = namedtuple("Claim", "text where rule check overall")


def value(results, table, task, line, swap):
    """Returns (seeds,) of our cells of two seeds or more; without results the paper's mean and deviation."""
    if results is None:
        return PAPER[table].get(line, {}).get(task, {}).get("swap" if swap else "no_swap")
    cell = results.cell(line, task, swap)
    return cell.returns if cell and len(cell.seeds) > 1 else None


def compared(results, table, places):
    """{key: Comparison} of {key: (task, a, b)}; Holm also counts those without runs."""
    test, found = compare_printed if results is None else compare, {}
    for key, (task, *pair) in places.items():
        a, b = (value(results, table, task, *place) for place in pair)
        if a is not None and b is not None:
            found[key] = test(a, b)
    return dict(zip(found, holm(list(found.values()), len(places)), strict=True))


# --- verdict of one comparison; margin: 5 % of the largest return
def better(c, margin):
    return YES if up(c) else NO if c.high < margin else OPEN


def no_better(c, margin):
    return {YES: NO, NO: YES, OPEN: OPEN}[better(c, margin)]


def no_worse(c, margin):
    return no_better(Comparison(-c.difference, -c.high, -c.low, c.p), margin)


def not_down(c, margin):
    return NO if down(c) else YES


def sure(c):
    return YES if up(c) else NO if down(c) else OPEN


# --- verdict of several
def every(verdicts):
    return NO if NO in verdicts else OPEN if OPEN in verdicts else YES


def some(verdicts):
    return YES if YES in verdicts else OPEN if OPEN in verdicts else NO


def most(verdicts):
    half = len(verdicts) / 2
    return YES if verdicts.count(YES) > half else NO if verdicts.count(NO) >= half else OPEN


def half(verdicts):
    half = len(verdicts) / 2
    return YES if verdicts.count(YES) >= half else NO if verdicts.count(NO) > half else OPEN


# in words: on a task, [(verdict of a comparison, verdict of all)] that must hold; on all tasks
RULES = {
    "better": [(better, every)],
    "no better": [(no_better, every)],
    "no worse": [(no_worse, every)],
    "no better and no worse": [(no_better, every), (no_worse, every)],
    "one or more is better": [(better, some)],
    "half or more are better, none is worse": [(better, half), (not_down, every)],
}
OVERALL = {"on every task": every, "on one task at least": some, "on most tasks": most}


def judge(rule, comparisons, margin):
    return every([all_of([one(c, margin) for c in comparisons]) for one, all_of in RULES[rule]])


# --- claims about returns
def by_pairs(text, table, what, pairs, rule, overall, tasks):
    """A claim about the differences a - b of pairs [(a, b)], on the tasks of which the paper has them."""
    places = {(task, *pair): (task, *pair) for task in tasks for pair in pairs}
    places = {key: p for key, p in places.items() if all(value(None, table, p[0], *x) for x in p[1:])}

    def check(results):
        found, verdicts = compared(results, table, places), {}
        for task in dict.fromkeys(key[0] for key in found):
            here = [found.get(key, UNKNOWN) for key in places if key[0] == task]
            verdicts[task] = judge(rule, here, 0.05 * horizon(task)), ""
        return verdicts

    where = "Sec. 5" if table == "table2" else table.replace("table", "Table ")
    return Claim(text, where, f"{what}: {rule}, {overall}", check, OVERALL[overall])


def swapping(text, methods, rule, overall="on every task", tasks=TASKS):
    pairs = [((m, True), (m, False)) for m in methods]
    return by_pairs(text, "table2", "with against without swapping", pairs, rule, overall, tasks)


def columns(table):
    """{method: (method, whether it is swapped)} of Table 3 or 4."""
    return {m: (m, "swap" in its["PointMaze"]) for m, its in PAPER[table].items()}


def ranking(text, table, method, rule, overall="on every task", others=None, tasks=TASKS):
    column = columns(table)
    pairs = [(column[method], column[m]) for m in others or column if m != method]
    names = ", ".join(METHODS[m].name for m in others) if others else "each other method"
    return by_pairs(text, table, f"{METHODS[method].name} against {names}", pairs, rule, overall, tasks)


def awac_gains_most(results):
    """On how many tasks each method is surely better with swapping, and on how many it may be."""
    places = {(m, task): (task, (m, True), (m, False)) for m in SWAPPED for task in TASKS}
    found = [(m, better(c, 0.05 * horizon(t))) for (m, t), c in compared(results, "table2", places).items()]
    surely = {m: found.count((m, YES)) for m in SWAPPED}
    perhaps = {m: len(TASKS) - found.count((m, NO)) for m in SWAPPED}
    low, high = (max(5, *(n[m] for m in SWAPPED if m != "awac")) for n in (surely, perhaps))
    verdict = YES if surely["awac"] >= high else NO if perhaps["awac"] < low else OPEN
    return {"all": (verdict, f"AWAC better on {surely['awac']} to {perhaps['awac']} tasks")}


# --- claims about the success of DQAPG on PointMaze
def maze_cell(results, swap):
    cell = results and results.cell("dqapg", "PointMaze", swap)
    return cell if cell and len(cell.seeds) > 1 else None


def success_rates(first, second):
    """A check that the first success rate, (swap, group), is better than the second, over seeds."""

    def check(results):
        cells = [maze_cell(results, swap) for swap, _ in (first, second)]
        if not all(cells):
            return {}
        a, b = (cell.of(f"{group}_success") for cell, (_, group) in zip(cells, (first, second), strict=True))
        c = compare_paired(a - b) if first[0] == second[0] else compare(a, b)  # of the same policies, or not
        return {"PointMaze": (better(c, 0.05), f"{a.mean():.2f} against {b.mean():.2f}, p {c.p:.2g}")}

    return check


def goals_reached(swap):
    """A check of the pairs of start and goal: all are joined in half of the episodes or more, or only those
    of the data. A pair is decided if its success over seeds differs from a half, by Holm for nine pairs."""

    def check(results):
        if not (cell := maze_cell(results, swap)):
            return {}
        success = np.array([row["episodes"]["success"] for row in cell.rows])
        pair = (EVAL_SEED + np.arange(success.shape[1]) - 1) % 9  # pair k: from start k % 3 to goal k // 3
        rates = np.stack([success[:, pair == k].mean(1) for k in range(9)])  # (9, seeds)
        seen = np.array([k % 3 + k // 3 == 2 for k in range(9)])
        sign = np.where(seen | swap, 1, -1)[:, None]
        verdicts = [sure(c) for c in holm([compare_paired(x) for x in sign * (rates - 0.5)])]
        a, b = (f"{x.min():.2f} to {x.max():.2f}" for x in (rates[seen].mean(1), rates[~seen].mean(1)))
        note = f"{a} on the pairs of the data, {b} on others; {9 - verdicts.count(OPEN)} of 9 decided"
        return {"PointMaze": (every(verdicts), note)}

    return check


# --- all claims, in the order of the paper
def claims():
    maze, reach = "DQAPG on PointMaze", "in half of the episodes or more"
    rule = f"{maze}, success on pairs that the data never shows, with against without swapping: better"
    check = success_rates((True, "unseen"), (False, "unseen"))
    yield Claim("goal swapping learns a more general policy", "Abstract, Fig. 6, 8", rule, check, every)
    rule = f"{maze}, without swapping, success on pairs of the data against the others: better"
    check = success_rates((False, "seen"), (False, "unseen"))
    yield Claim("without it the policy is overfitted", "Fig. 1, 8", rule, check, every)
    rule = f"{maze}, without swapping: from each start the goal of the data {reach}, no other"
    yield Claim("without it only one goal is reached", "Fig. 6b", rule, goals_reached(False), every)
    rule = f"{maze}, with swapping: every goal from every start {reach}"
    yield Claim("with it the policy generalises beyond its data", "Fig. 6c", rule, goals_reached(True), every)

    for m in SWAPPED:
        if m != "iql":
            yield swapping(f"{METHODS[m].name} benefits from swapping", [m], "better", "on one task at least")
    yield swapping("IQL does not benefit from swapping", ["iql"], "no better")
    rule = "better with swapping on five tasks or more, and on as many as any other method"
    yield Claim("AWAC benefits the most, on five tasks", "Sec. 5", rule, awac_gains_most, every)
    yield swapping("swapping has no significant negative effect", SWAPPED, "no worse")
    text, rule = "FetchPush and PointMaze benefit significantly", "half or more are better, none is worse"
    yield swapping(text, SWAPPED, rule, tasks=["FetchPush", "PointMaze"])
    text, tasks = (
        "FetchPick, HandBlockZ and HandEggRotate improve",
        ["FetchPick", "HandBlockZ", "HandEggRotate"],
    )
    yield swapping(text, SWAPPED, "one or more is better", tasks=tasks)
    text, tasks = "the rest of the tasks are more or less intact", ["FetchReach", "HandBlockXYZ"]
    yield swapping(text, SWAPPED, "no better and no worse", tasks=["FetchSlide", "HandBlockParallel", *tasks])
    text = "no method benefits on FetchSlide and HandBlockParallel"
    yield swapping(text, SWAPPED, "no better", tasks=["FetchSlide", "HandBlockParallel"])

    text = "DQAPG is best, or shares the best place, on all nine tasks"
    yield ranking(text, "table3", "dqapg", "no worse")
    others = [m for m in PAPER["table3"] if m not in ("dqapg", "td3bc")]
    yield ranking("TD3+BC is a strong baseline", "table3", "td3bc", "no worse", "on most tasks", others)
    text, tasks = "DQAPG with swapping is best but on FetchSlide", [t for t in TASKS if t != "FetchSlide"]
    yield ranking(text, "table4", "dqapg", "no worse", tasks=tasks)
    text = "on FetchSlide AM outperforms all others"
    yield ranking(text, "table4", "am", "better", tasks=["FetchSlide"])
    text = "TD3+BC with swapping outperforms WGCSL and GoFAR"
    yield ranking(text, "table4", "td3bc", "better", "on most tasks", ["wgcsl", "gofar"])
    text = "almost all baselines fail on HandBlock tasks, DQAPG does not"
    yield ranking(text, "table4", "dqapg", "better", tasks=[t for t in TASKS if t.startswith("HandBlock")])


def judged(results):
    """For each claim: it, {task: (verdict, note)} of our runs and of the paper's tables, both overall."""
    for claim in claims():
        ours, papers = claim.check(results), claim.check(None)
        missing = dict.fromkeys(papers, (OPEN, "")) if ours else {}
        both = [
            claim.overall([v for v, _ in its.values()]) if its else None for its in (missing | ours, papers)
        ]
        yield claim, ours, papers, *both


def by_verdict(found):
    """holds on these tasks, not on those; with the notes."""
    said = [f"{task} {note}".removeprefix("all ") for task, (_, note) in found.items() if note]
    for verdict in (NO, YES):
        if tasks := [task for task, its in found.items() if its == (verdict, "")]:
            said.insert(0, f"{verdict} on {', '.join(tasks)}")
    return "; ".join(said)


def table(results):
    """All claims with their verdicts."""
    header = "claim", "where", "rule", "in the paper's own tables", "here", "task by task, the rest undecided"
    text = [f"| | {' | '.join(header)} |", "|---" * 7 + "|"]
    for number, (claim, ours, papers, verdict, printed) in enumerate(judged(results), 1):
        against = ", ".join(task for task, (v, _) in papers.items() if v == NO and task != "all")
        printed = f"{NO}: {against}" if printed == NO and against else printed or ""
        cells = [str(number), claim.text, claim.where, claim.rule, printed, f"**{verdict or NEVER}**"]
        text.append(f"| {' | '.join([*cells, by_verdict(ours)])} |")
    return "\n".join(text)


def counted(results):
    """How many claims have which verdict, in one line."""
    verdicts = [verdict or NEVER for *_, verdict, _ in judged(results)]
    words = {YES: "hold", NO: "do not hold", OPEN: "are undecided", NEVER: "not measured"}
    counts = ", ".join(f"{n} {word}" for v, word in words.items() if (n := verdicts.count(v)))
    return f"Of {len(verdicts)} claims of the paper {counts} in our runs."
