"""Rebuilds the tables and figures of README.md and docs/ from the rows of results/runs.jsonl.

    python results/report.py                     of the protocol "cpu"
    python results/report.py --protocol paper

A table NAME stands between <!--table NAME--> and <!--end-->. Rows of another VERSION than their method's file
has now are in none.
"""

import hashlib
import json
import re
from typing import Literal

import claims
import figures
import numpy as np
import tyro
from benchmark import FREE, REPOSITORY, ROWS, TASKS, fail, lines, settings_of
from claims import PAPER
from compare import Results, compare, compare_printed, down, holm, short, up

PAGES = ("README.md", "docs/results.md", "docs/findings.md", "docs/ogbench.md")
PAGES = [REPOSITORY / name for name in PAGES]
PUBLISHED = json.loads((REPOSITORY / "results" / "ogbench.json").read_text())
PLOTS = REPOSITORY / "results" / "plots"
SUFFIX = {False: "", True: "-aug", "meet": "-meet"}


def markdown(header, rows):
    """A table; cells that are None stay empty."""
    body = [["" if cell is None else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *body])


def mean_returns(results):
    """For the README: mean return without → with swapping."""
    rows, seeds = [], {}
    for line, name in results.names.items():
        row = [name]
        for task in TASKS:
            cells = [cell for swap in (False, True) if (cell := results.cell(line, task, swap))]
            row.append(" → ".join(f"{cell.returns.mean():.1f}" for cell in cells))
            seeds.setdefault(task, []).extend((len(cell.seeds), short(cell.updates)) for cell in cells)
        rows.append(row)
    sizes = []
    for task, its in seeds.items():
        ends = sorted({n for n, _ in its})
        sizes += [f"{task} {' to '.join(map(str, ends[:: len(ends) - 1 or 1]))} × {its[0][1]}"] if its else []
    return markdown(["", *TASKS], rows) + f"\n\nSeeds × updates: {', '.join(sizes)}."


def larger(pairs, test):
    """{key: is the first significantly larger?} of {key: (a, b)}, without those that cannot be tested."""
    found = {key: c for key, (a, b) in pairs.items() if (c := test(a, b))}
    corrected = holm(list(found.values())) if test is compare else found.values()
    return {key: up(c) for key, c in zip(found, corrected, strict=True)}


def helped(values, test):
    """Places (line, task, True) where swapping is significantly better."""
    pairs = {p: (values[p], values[*p[:2], False]) for p in values if p[2] and (*p[:2], False) in values}
    return {place for place, yes in larger(pairs, test).items() if yes}


def best(values, test):
    """Places that are best on their task, or not significantly below the best."""
    found = set()
    for task in TASKS:
        here = {place: value for place, value in values.items() if place[1] == task}
        if here:
            first = max(here, key=lambda p: here[p].mean() if test is compare else here[p][0])
            behind = larger({p: (here[first], value) for p, value in here.items() if p != first}, test)
            found |= {first, *(place for place, yes in behind.items() if not yes)}
    return found


def papers(results, number):
    """Table 2, 3 or 4, ours above the paper's: mean ± deviation over episodes. Bold: see docs/results.md."""
    table, mark, printed = PAPER[f"table{number}"], helped if number == 2 else best, {}
    for line, tasks in table.items():
        for swap, key in ((True, "swap"), (False, "no_swap")):
            printed |= {(line, task, swap): pair[key] for task, pair in tasks.items() if key in pair}
    shown = list(dict.fromkeys((line, swap) for line, _, swap in printed))
    if number == 4:
        for line in ("am-official", "wgcsl-official", "wgcsl-repaired"):
            if line in results.names:
                shown.insert(shown.index((line.split("-")[0], False)) + 1, (line, False))
    cells = {place: cell for place, cell in results.cells.items() if (place[0], place[2]) in shown}
    tested = {place: cell.returns for place, cell in cells.items() if len(cell.seeds) > 1}
    bold, papers_bold, rows = mark(tested, compare), mark(printed, compare_printed), []

    def text(mean, deviation, is_bold):
        return "**" * is_bold + f"{mean:.2f} ± {deviation:.2f}" + "**" * is_bold

    for line, swap in shown:
        name, row, papers_row = lines()[line][1].name + "-aug" * swap, [], []
        for place in ((line, task, swap) for task in TASKS):
            if cell := cells.get(place):
                size = f"<br>{len(cell.seeds)} × {short(cell.updates)}"
                row.append(text(cell.returns.mean(), cell.episodes.std(), place in bold) + size)
            else:
                row.append("")
            if place in printed:
                papers_row.append(text(*printed[place], place in papers_bold))
        rows += [[f"{name}, ours", *row]] + [["the paper", *papers_row]] * bool(papers_row)
    return markdown(["", *TASKS], rows)


def maze(results):
    """Success on PointMaze, on the pairs of start and goal that the data shows and on the others."""
    header, rows = ["", "seeds", "pairs of the data", "other pairs", "with swapping: seeds"], []
    for line, name in results.names.items():
        row = [name]
        for cell in (results.cell(line, "PointMaze", swap) for swap in (False, True)):
            rates = (
                [f"{cell.of(f'{group}_success').mean():.2f}" for group in ("seen", "unseen")] if cell else []
            )
            row += [len(cell.seeds), *rates] if cell else [None] * 3
        rows.append(row)
    return markdown([*header, *header[2:4]], rows)


def by_task(results):
    """What swapping does on each task, over the methods that have both cells."""
    places = [
        (line, task) for task in TASKS for line in results.names if results.effect(line, task) is not None
    ]
    cells = {p: [results.cell(*p, swap) for swap in (True, False)] for p in places}
    tests = {p: c for p, (a, b) in cells.items() if (c := compare(a.returns, b.returns))}
    tests = dict(zip(tests, holm(list(tests.values())), strict=True))
    rows = []
    for task in TASKS:
        means = {p: cell.returns.mean() for p, cell in results.cells.items() if p[1] == task}
        changes = {p: a.returns.mean() - b.returns.mean() for p, (a, b) in cells.items() if p[1] == task}
        if changes:
            found, order = [c for p, c in tests.items() if p[1] == task], sorted(means, key=means.get)[:-4:-1]
            top = [f"{results.names[p[0]]}{SUFFIX[p[2]]} {means[p]:.1f}" for p in order]
            ends = [max(changes, key=changes.get), min(changes, key=changes.get)]
            row = [task, ", ".join(top), len(changes), sum(d > 0 for d in changes.values())]
            row += [sum(map(up, found)), sum(map(down, found))]
            rows.append(row + [f"{results.names[p[0]]} {changes[p]:+.1f}" for p in ends])
    header = ["", "highest returns", "methods with both", "return more with swapping", "significantly more"]
    return markdown([*header, "significantly less", "highest change", "lowest change"], rows)


def meet(results):
    """Mean return ± standard error without swapping, with it, and with goals of trajectories that meet."""

    def text(mean, errors, sign=""):
        known = None not in errors
        return f"{mean:{sign}.1f}" + (f" ± {np.linalg.norm(errors):.1f}" if known else "")

    rows = []
    for line, task in (place[:2] for place in results.cells if place[2] == "meet"):
        cells = [results.cell(line, task, swap) for swap in SUFFIX]
        if None in cells:
            continue
        means, sizes = [c.returns.mean() for c in cells], [len(c.seeds) for c in cells]
        errors = [
            c.returns.std(ddof=1) / n**0.5 if n > 1 else None for c, n in zip(cells, sizes, strict=True)
        ]
        row = [f"{text(mean, [e])} ({n})" for mean, e, n in zip(means, errors, sizes, strict=True)]
        best = int(means[1] > means[0])
        row.append(text(means[2] - means[best], [errors[2], errors[best]], "+"))
        rows.append([results.names[line], task, *row])
    return markdown(["", "", "no swapping", "swapping", "meet", "meet - the better of the two"], rows)


def others(results):
    """Mean returns of all runs with other settings than those of the tables."""
    shown, rows = {id(row) for cell in results.cells.values() for row in cell.rows}, []
    for cell in results.rows.values():
        first = next(iter(cell.values()))
        args, found = first["args"], []
        if any(id(row) in shown for row in cell.values()):
            continue
        for line, (method, its, _) in lines().items():
            if method == first["method"] and args["task"] in TASKS:
                usual = json.loads(
                    json.dumps(settings_of(line, args["task"], args["swap"], results.protocol)[1])
                )
                changed = {k: v for k, v in args.items() if k not in FREE and v != usual[k]}
                found.append((len(changed), its.name, ", ".join(f"{k} {v}" for k, v in changed.items())))
        if found:
            _, name, text = min(found)
            mean = np.mean([row["scores"]["return"] for row in cell.values()])
            rows.append([args["task"], name, "yes" if args["swap"] else "no", text, len(cell), f"{mean:.1f}"])
    rows.sort(key=lambda row: (TASKS.index(row[0]), *map(str, row[1:])))
    return markdown(["task", "method", "swapping", "settings", "seeds", "return"], rows)


def ogbench(results):
    """Success at any time in %, mean ± deviation over seeds, above the published figures."""
    tasks, rows = {f"ogbench-{name}": figures for name, figures in PUBLISHED["tasks"].items()}, []
    ours = Results(results.protocol, results.rows, tasks)
    for line, swap in ((line, swap) for line in ours.names for swap in SUFFIX):
        row, cells = [], [ours.cell(line, task, swap) for task in tasks]
        for cell in cells:
            values = 100 * cell.of("success_any") if cell else np.zeros(0)
            row.append(f"{values.mean():.0f} ± {values.std():.0f}<br>{cell.size}" if cell else None)
        rows += [[f"{ours.names[line]}{SUFFIX[swap]}, ours", *row]] if any(cells) else []
    for method in PUBLISHED["methods"]:
        rows.append([method, *("{} ± {}".format(*figures[method]) for figures in tasks.values())])
    return markdown(["", *PUBLISHED["tasks"]], rows)


def build(protocol="cpu"):
    """The tables by name, and the SHA-256 of what the figures are drawn from."""
    results = Results(protocol)
    tables = {
        "short": mean_returns(results),
        "maze": maze(results),
        "by_task": by_task(results),
        "meet": meet(results),
        "others": others(results),
    }
    tables |= {"claims": claims.table(results), "counted": claims.counted(results)}
    tables |= {f"table{n}": papers(results, n) for n in (2, 3, 4)}
    source = hashlib.sha256(ROWS.read_bytes() if ROWS.exists() else b"")
    source.update((REPOSITORY / "results" / "figures.py").read_bytes() + json.dumps(tables).encode())
    tables["ogbench"] = ogbench(results)  # in no figure
    return results, tables, source.hexdigest()


def filled(text, tables):
    """A page's text with every table rebuilt."""

    def fill(match):
        if match[2] not in tables:
            fail(f"<!--table {match[2]}-->: no table of this name; known: {', '.join(tables)}")
        return f"{match[1]}{tables[match[2]]}\n{match[3]}"

    return re.sub(r"(<!--table (\w+)-->\n).*?(<!--end-->)", fill, text, flags=re.DOTALL)


def main(protocol: Literal["cpu", "paper"] = "cpu"):
    results, tables, source = build(protocol)
    for page in PAGES:
        text = page.read_text()
        if (new := filled(text, tables)) != text:
            page.write_text(new)
    PLOTS.mkdir(exist_ok=True)
    for name, draw in figures.FIGURES.items():
        if figures.source_of(PLOTS / name) != source and (figure := draw(results)):
            figures.write(figure, PLOTS / name, source)
    total = len(ROWS.read_text().splitlines()) if ROWS.exists() else 0
    counted, shown = (
        sum(map(len, x)) for x in (results.rows.values(), (c.rows for c in results.cells.values()))
    )
    print(
        f"{total} rows: {shown} in Tables 2 to 4 or beside them, {counted - shown} of other settings, ",
        end="",
    )
    print(f"{total - counted} stale or a second one of the same run")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
