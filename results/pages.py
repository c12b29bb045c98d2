"""The Markdown tables of README.md and docs/: the paper's Tables 2, 3 and 4, the effect of swapping, and what a setting
does where it was run with others."""

from collections import Counter

import numpy as np
from claims import PAPER, column, up
from compare import (NAMES, PROTOCOLS, TASKS, Cell, compare, compare_printed, effect, holm, line, name,
                     paired)
from compare import short as short_number

# how two cells, or two printed numbers, are compared, and how the p-values of several such tests are corrected
OVER_EPISODES = (lambda a, b: compare(a.episodes, b.episodes)), list
OVER_SEEDS = (lambda a, b: compare(a.returns, b.returns)), holm
PRINTED = compare_printed, list


def larger(pairs, how):
    """{key: is the first of the pair significantly larger?} of {key: (a, b)}, without those that cannot be tested."""
    test, correct = how
    tests = {key: c for key, (a, b) in pairs.items() if (c := test(a, b))}
    return {key: up(c._replace(p=p)) for (key, c), p in zip(tests.items(), correct([c.p for c in tests.values()]))}


def helped(values, how):
    """Places (method, True, task) where swapping is significantly better than none."""
    pairs = {place: (value, values[place[0], False, place[2]]) for place, value in values.items()
             if place[1] and (place[0], False, place[2]) in values}
    return {place for place, yes in larger(pairs, how).items() if yes}


def best(values, mean, how):
    """Places (method, swap, task) that are best on their task, or not significantly below the best."""
    found = set()
    for task in TASKS:
        here = [place for place in values if place[2] == task]
        if here:
            first = max(here, key=lambda place: mean(values[place]))
            behind = larger({place: (values[first], values[place]) for place in here if place != first}, how)
            if behind:
                found |= {first, *(place for place, yes in behind.items() if not yes)}
    return found


def papers(results, number):
    """Table 2, 3 or 4: ours above the paper's numbers, mean ± deviation over episodes, with marks as docs/results.md
    explains: of swapping against none in Table 2, of the best methods of each task in Tables 3 and 4. Table 4 has a line
    of ours that the paper lacks, WGCSL as its authors have it."""
    table = PAPER[f"table{number}"]
    lines = [(m, swap) for m in table for swap in ((True, False) if number == 2 else (column(f"table{number}", m)[1],))]
    printed = {(m, swap, task): table[m][task]["swap" if swap else "no_swap"] for m, swap in lines for task in TASKS}
    if number == 4:
        lines.insert(lines.index(("wgcsl", False)) + 1, ("wgcsl-official", False))
    cells = {(m, swap, task): cell for m, swap in lines for task in TASKS if (cell := results.cell(m, task, swap))}
    fresh = {place: cell for place, cell in cells.items() if not cell.stale}
    if number == 2:
        bold, dots, papers_dots = helped(fresh, OVER_SEEDS), helped(fresh, OVER_EPISODES), helped(printed, PRINTED)
    else:
        tested = {place: cell for place, cell in fresh.items() if len(cell.seeds) > 1}
        bold, dots = (best(those, lambda cell: cell.returns.mean(), how)
                      for those, how in ((tested, OVER_SEEDS), (fresh, OVER_EPISODES)))
        papers_dots = best(printed, lambda pair: pair[0], PRINTED)

    def ours(place):
        if not (cell := cells.get(place)):
            return ""  # not run
        text = f"{cell.returns.mean():.2f} ± {cell.episodes.std():.2f}"
        return (f"**{text}**" if place in bold else text) + " •" * (place in dots) + f"<br>{cell.size}" + \
            ", stale" * cell.stale

    text = [f"| | {' | '.join(TASKS)} |", "|---|" + "---|" * len(TASKS)]
    for method, swap in lines:
        places = [(method, swap, task) for task in TASKS]
        text.append(f"| {name(method, swap)}, ours | {' | '.join(map(ours, places))} |")
        if places[0] in printed:
            text.append("| the paper | " + " | ".join(
                "{:.2f} ± {:.2f}".format(*printed[place]) + " •" * (place in papers_dots) for place in places) + " |")
    return "\n".join(text)


def effects(results):
    """The effect of swapping on the return: paired over seeds, and tested both ways."""
    pairs = {(task, method): [results.cell(method, task, swap) for swap in (True, False)] for task in results.tasks()
             for method in results.methods(task) if results.swap_effect(method, task) is not None}
    tests = {place: c for place, (a, b) in pairs.items() if not a.stale and (c := compare(a.returns, b.returns))}
    corrected = dict(zip(tests, holm([c.p for c in tests.values()])))
    lines = ["| task | method | seeds × updates | without | with | difference, paired over seeds | 95 % interval | "
             "Welch's | p over episodes | p over seeds | the same, Holm | difference in the paper |",
             "|---" * 12 + "|"]
    for (task, method), (swapped, without) in pairs.items():
        differences, printed = results.swap_effect(method, task), PAPER["table2"].get(method, {}).get(task)
        mean, low, high = paired(differences)
        size = f"{len(differences)} × {short_number(swapped.updates)}" + ", stale" * swapped.stale
        shown = [task, NAMES[method], size,
                 f"{without.returns.mean():.2f}", f"{swapped.returns.mean():.2f}", f"{mean:+.2f}",
                 "" if low is None else f"{low:.1f} to {high:.1f}"]
        if (place := (task, method)) in tests:
            over_episodes, c = compare(swapped.episodes, without.episodes).p, tests[place]
            shown += ["" if np.isinf(c.low) else f"{c.low:.1f} to {c.high:.1f}",
                      *(f"{p:.2g}" for p in (over_episodes, c.p, corrected[place]))]
        else:
            shown += ["", "", "", ""]
        shown.append(f"{printed['swap'][0] - printed['no_swap'][0]:+.2f}" if printed else "")
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def noiseless(results, earlier):
    """The cells on the data of an expert that did not explore, beside those on the data of now."""
    def shown(cell):
        return f"{cell.returns.mean():.1f}, {cell.size}" + ", stale" * cell.stale if cell else ""

    lines = ["| task | method | swapping | expert without exploration | with exploration | the paper |", "|---" * 6 + "|"]
    for task in earlier.tasks():
        for method in earlier.methods(task):
            for swap in (False, True):
                if cell := earlier.cell(method, task, swap):
                    printed = dict.fromkeys(f"{pair[0]:.1f}" for n in (2, 3, 4) if (pair := PAPER[f"table{n}"].get(
                        method, {}).get(task, {}).get("swap" if swap else "no_swap")))
                    lines.append(f"| {task} | {NAMES[method]} | {'yes' if swap else 'no'} | {shown(cell)} | "
                                 f"{shown(results.cell(method, task, swap))} | "
                                 f"{' or '.join(printed)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def filters(both, rows, setting, current):
    """Which swapped goals the actor learns from (--swap-filter): mean returns over seeds, on PointMaze with the success
    on pairs that the data does not show, and the difference to the better of no swapping and no filter.

    both: {what follows the name of a task: Results}.
    """
    lines = ["| task | method | updates | no swapping | no filter | values only | reachable | "
             "reachable against the better of the first two, paired over seeds | 95 % interval |", "|---" * 9 + "|"]
    for more, results, task, method in ((more, its, task, m) for more, its in both.items() for task in its.tasks()
                                        for m in NAMES):
        found = [results.cell(method, task, swap) for swap in (False, True)]
        data = {cell.rows[0]["data"] for cell in found if cell}
        for which in ("values", "reachable"):
            groups = {}
            for row in rows:
                if row["data"] in data and (row.get("protocol"), row["method"], row["flags"]["task"]) == (
                        f"{results.protocol[task]}-swap-filter-{which}", method, task):
                    groups.setdefault((setting(row), row["file_sha256"], row["data"]), []).append(row)
            cells = [Cell(group, group[0]["file_sha256"] != current[method]) for group in groups.values()]
            found.append(max(cells, key=lambda cell: (not cell.stale, len(cell.seeds)), default=None))
        if not any(found[2:]):
            continue
        shown = [f"{cell.returns.mean():.1f}" + (f" ({cell.of('unseen_success').mean():.2f})" if task == "PointMaze"
                 else "") + f", {len(cell.seeds)} seed" + "s" * (len(cell.seeds) > 1) + ", stale" * cell.stale
                 if cell else "" for cell in found]
        differences, against = [effect(cell, found[3]) for cell in found[:2]], ["", ""]
        if all(its is not None for its in differences):
            mean, low, high = paired(min(differences, key=np.mean))
            against = [f"{mean:+.1f}", "" if low is None else f"{low:.1f} to {high:.1f}"]
        updates = next(cell for cell in found[2:] if cell).updates
        lines.append(f"| {task}{more} | {NAMES[method]} | {short_number(updates)} | {' | '.join(shown + against)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def varied(cell, rows, setting, *flags):
    """{value of a flag, or tuple of those of several: Cell} of the runs that differ from a cell in nothing else, its own
    among them."""
    def rest(row):
        return (setting(row | {"flags": {k: v for k, v in row["flags"].items() if k not in flags}}), row["file_sha256"],
                row["data"])

    def value(row):
        return row["flags"][flags[0]] if len(flags) == 1 else tuple(row["flags"][flag] for flag in flags)

    groups, own = {}, rest(cell.rows[0])
    for row in rows:
        if {*flags} <= row["flags"].keys() and rest(row) == own:
            groups.setdefault(value(row), {}).setdefault(row["flags"]["seed"], row)
    cells = {value: Cell(list(found.values()), cell.stale) for value, found in groups.items()}
    if {*flags} <= cell.rows[0]["flags"].keys():
        cells[value(cell.rows[0])] = cell  # without runs of other protocols
    return dict(sorted(cells.items()))


def batches(both, rows, setting):
    """Is it the swapped goals, or that they take the place of others? Half of the batch without swapping, and the whole
    with a swapped copy beside it, where one of them was run; by the swapped goals that the actor learns from.

    both: {what follows the name of a task: Results}.
    """
    def shown(cell):
        return (f"{cell.returns.mean():.1f}, {len(cell.seeds)} seed" + "s" * (len(cell.seeds) > 1) + ", stale" * cell.stale
                if cell else "")

    lines = ["| task | method | updates | 512 | 256 | swapped goals in the actor's loss | 256 + 256 | 512 + 512 |",
             "|---" * 8 + "|"]
    for more, results, task, method in ((more, its, task, m) for more, its in both.items() for task in its.tasks()
                                        for m in ("dqapg", "td3bc")):
        without, swapped = (results.cell(method, task, swap) for swap in (False, True))
        if not without or not swapped or without.rows[0]["flags"]["batch-size"] != 512:
            continue
        sizes = varied(without, rows, setting, "batch-size")
        found = varied(swapped, rows, setting, "swap-filter", "swap-batch")
        if 256 not in sizes and not any(batch == "double" for _, batch in found):
            continue
        for k, (which, words) in enumerate({"none": "all", "reachable": "reachable", "values": "none"}.items()):
            cells = [found.get((which, batch)) for batch in ("equal", "double")]
            if any(cells):
                own = [shown(without), shown(sizes.get(256))] if k == 0 else ["", ""]
                lines.append(f"| {task}{more} | {NAMES[method]} | {short_number(without.updates)} | {' | '.join(own)} | "
                             f"{words} | {' | '.join(map(shown, cells))} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def alphas(both, rows, setting):
    """DQAPG by the weight alpha of its Q term: mean return over seeds of runs that differ from the cell in the tables
    of docs/results.md in alpha alone, and the difference to it. both: {what follows the name of a task: Results}."""
    lines = ["| task | swapping | alpha | seeds × updates | return | at the best evaluation | the paper's return | "
             "against the tables' alpha, paired over seeds | 95 % interval |", "|---" * 9 + "|"]
    for more, results, task, swap in ((more, its, task, s) for more, its in both.items() for task in its.tasks()
                                      for s in (False, True)):
        if not (cell := results.cell("dqapg", task, swap)):
            continue
        groups = varied(cell, rows, setting, "alpha")
        printed = PAPER["table2"]["dqapg"][task]["swap" if swap else "no_swap"]
        for alpha, its in groups.items() if len(groups) > 1 else ():
            best = np.mean([max(point[1] for point in row["curve"]) for row in its.rows])
            against = ["", ""]
            if its is not cell and (differences := effect(cell, its)) is not None:
                mean, low, high = paired(differences)
                against = [f"{mean:+.1f}" + f", {len(differences)} seed" + "s" * (len(differences) > 1),
                           "" if low is None else f"{low:.1f} to {high:.1f}"]
            lines.append(f"| {task}{more} | {'yes' if swap else 'no'} | {alpha:g} | "
                         f"{its.size}{', stale' * its.stale} | {its.returns.mean():.1f} | {best:.1f} | {printed[0]:.1f} | "
                         f"{' | '.join(against)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def expectiles(results, rows, setting):
    """The effect of swapping by the expectile of V: one half is Onestep-RL, which differs from IQL in nothing else."""
    lines = ["| task | expectile | method | seeds × updates | without | with | difference, paired over seeds |",
             "|---" * 7 + "|"]
    for task in results.tasks():
        onestep, iql = ([results.cell(method, task, swap) for swap in (False, True)] for method in ("onestep", "iql"))
        if not all((*onestep, *iql)):
            continue
        without, swapped = (varied(cell, rows, setting, "expectile") for cell in iql)
        for value, method, pair in ((0.5, "onestep", onestep), *((v, "iql", [without[v], swapped[v]]) for v in without
                                                                 if v in swapped)):
            if (differences := effect(*pair)) is not None:
                without_it, with_it = (np.mean([row["scores"]["return"] for row in cell.rows if row["flags"]["seed"] in (
                    {*pair[0].seeds} & {*pair[1].seeds})]) for cell in pair)
                lines.append(f"| {task} | {value:g} | {NAMES[method]} | {len(differences)} × "
                             f"{short_number(pair[0].updates)}{', stale' * pair[0].stale} | "
                             f"{without_it:.1f} | {with_it:.1f} | {differences.mean():+.1f} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def lengths(both, rows, setting):
    """Runs that differ from the cells of docs/results.md in their number of updates alone, beside those of the same seeds.

    both: {what follows the name of a task: Results}.
    """
    lines = ["| task | method | seeds | updates | without swapping | with | difference |", "|---" * 7 + "|"]
    for more, results, task, method in ((more, its, task, m) for more, its in both.items() for task in its.tasks()
                                        for m in its.methods(task)):
        usual = [results.cell(method, task, swap) for swap in (False, True)]
        found = [varied(cell, rows, setting, "updates") if cell else {} for cell in usual]
        for n in sorted({*found[0], *found[1]} - {cell.updates for cell in usual if cell}):
            pairs_of = [(cell, cells[n]) if n in cells else () for cell, cells in zip(usual, found)]
            common = set.intersection(*({*cell.seeds} for pair in pairs_of for cell in pair))
            for k in (0, 1) if common else ():
                cells = [pair[k] if pair else None for pair in pairs_of]
                means = [np.mean([row["scores"]["return"] for row in cell.rows if row["flags"]["seed"] in common])
                         if cell else None for cell in cells]
                shown = ["" if mean is None else f"{mean:.1f}" for mean in means]
                shown.append(f"{means[1] - means[0]:+.1f}" if None not in means else "")
                some = next(filter(None, cells))
                lines.append(f"| {task}{more} | {NAMES[method]} | {len(common)}{', stale' * some.stale} | "
                             f"{short_number(some.updates)} | {' | '.join(shown)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def machines(rows, earlier):
    """Runs on data of another machine than most of their task's: made of the same, with other last bits.

    earlier: {SHA-256 of data from before: what follows the name of its task}.
    """
    lines, groups = ["| task | runs | of these from data with other last bits (seeds) |", "|---|---|---|"], {}
    for row in rows:
        groups.setdefault((TASKS.index(row["flags"]["task"]), row["data"]), []).append(row)
    for (task, _), group in sorted(groups.items(), key=lambda item: (
            item[0][0], any(row["dataset_sha256"] in earlier for row in item[1]), item[0][1])):
        usual, found = Counter(row["dataset_sha256"] for row in group).most_common(1)[0][0], {}
        for row in group:
            if row["dataset_sha256"] != usual:
                its = name(line(row), row["flags"]["swap"])
                protocol = row.get("protocol") or "by hand"
                its += f", {protocol}" * (protocol not in PROTOCOLS)
                found.setdefault(its, set()).add(row["flags"]["seed"])
        if found:
            more = f", {earlier[usual]}" if usual in earlier else ""
            lines.append(f"| {TASKS[task]}{more} | {len(group)} | " + "; ".join(
                f"{its} ({', '.join(map(str, sorted(seeds)))})" for its, seeds in sorted(found.items())) + " |")
    return "\n".join(lines) if len(lines) > 2 else "There are none."


def pairs(results):
    """PointMaze: success on the pairs of start and goal that the data shows and on the others, mean over seeds of the
    last evaluation and, for the first, of the best one of each run."""
    def last(cell, kind):
        return f"{cell.of(kind + '_success').mean():.2f}"

    def best(cell):
        found = []
        for row in cell.rows:
            share = np.mean(np.add(row["episodes"]["start"], row["episodes"]["goal"]) == 2)  # of demonstrated pairs
            found.append(max((point[2] - (1 - share) * point[3]) / share for point in row["curve"]))
        return f"{np.mean(found):.2f}"

    lines = ["| | seeds × updates | demonstrated | the same, best evaluation | other | with swapping: seeds × updates | "
             "demonstrated | the same, best evaluation | other |", "|---" * 9 + "|"]
    for method in results.methods("PointMaze") if "PointMaze" in results.tasks() else []:
        shown = [NAMES[method]]
        for swap in (False, True):
            cell = results.cell(method, "PointMaze", swap)
            shown += [cell.size + ", stale" * cell.stale, last(cell, "seen"), best(cell), last(cell, "unseen")] \
                if cell else [""] * 4
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def short(results):
    """For the README: mean return without → with swapping, of everything that was measured."""
    tasks, lines = results.tasks(), []
    for method in NAMES:
        texts = []
        for task in tasks:
            cells = [results.cell(method, task, swap) for swap in (False, True)]
            texts.append(" → ".join(f"{cell.returns.mean():.1f}" if cell else "" for cell in cells[:1 + bool(cells[1])])
                         + " (stale)" * any(cell and cell.stale for cell in cells))
        if any(texts):
            lines.append(f"| {NAMES[method]} | {' | '.join(texts)} |")
    sizes = {task: " or ".join(size for *_, size in sorted({(len(cell.seeds), cell.updates, cell.size) for (_, its, _),
                                                            cell in results.cells.items() if its == task}))
             for task in tasks}
    return "\n".join([f"| | {' | '.join(tasks)} |", "|---" * (1 + len(tasks)) + "|", *lines, "",
                      f"Seeds × updates: {'; '.join(f'{task} {size}' for task, size in sizes.items())}."]
                     if tasks else ["Nothing was run yet."])
