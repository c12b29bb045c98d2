"""The figures of docs/results.md, drawn from the rows of results/runs.jsonl only."""

import io
import sys

import numpy as np
from claims import PAPER, pair_success
from compare import (NAMES, REPOSITORY, TASKS, bootstrap, common_tasks, compare_printed, horizon, improvement, iqm,
                     name, paired, profile, short)

COLORS = {False: "#3b75af", True: "#d9661f"}  # without and with swapping
LEGEND = {False: "without swapping", True: "with swapping"}
GRAY = "0.55"  # the paper's own numbers


def new_figure(width, height, rows=1, columns=1, **more):
    """A figure without pyplot, and its axes as a flat list."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **more).flat)


def write(figure, path, source):
    """Saves a small PNG that notes what it was drawn from; no date, no version, so the same bytes each time."""
    from PIL import Image, PngImagePlugin
    content, note = io.BytesIO(), PngImagePlugin.PngInfo()
    figure.savefig(content, format="png", dpi=90)
    note.add_text("Source", source)
    Image.open(content).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True, pnginfo=note)


def grid(count, columns=4):
    return -(-count // columns), min(columns, count)


def legend_above(figure, handles, labels):
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def handle(color, **more):
    """A line for a legend."""
    from matplotlib.lines import Line2D
    return Line2D([], [], color=color, **more)


def draw_curves(ax, results, method, task, column):
    """Mean over seeds, and the range from the lowest to the highest seed, of a column of the curves."""
    for swap in (False, True):
        if cell := results.cell(method, task, swap):
            updates, values = cell.curve(column)
            ax.plot(updates, values.mean(0), color=COLORS[swap], marker="o", ms=2.5, lw=1.5)
            ax.fill_between(updates, values.min(0), values.max(0), color=COLORS[swap], alpha=0.2, lw=0)
    cells = [cell for swap in (False, True) if (cell := results.cell(method, task, swap))]
    ax.set_title(NAMES[method] + " (stale)" * any(cell.stale for cell in cells), fontsize=10)
    ax.xaxis.set_major_formatter(lambda x, _: short(int(x)))
    ax.xaxis.set_major_locator(locator(4))
    ax.grid(alpha=0.3)


def locator(count):
    from matplotlib.ticker import MaxNLocator
    return MaxNLocator(count)


def finish_curves(figure, axes, count, label):
    for ax in axes[count:]:
        ax.set_axis_off()
    figure.supxlabel("updates", fontsize=10)
    figure.supylabel(label, fontsize=10)
    legend_above(figure, [handle(COLORS[swap], marker="o", ms=3) for swap in LEGEND], LEGEND.values())


def curves(results, task):
    methods = results.methods(task)
    rows, columns = grid(len(methods), 5)
    figure, axes = new_figure(max(2.3 * columns + 0.6, 3.8), 1.9 * rows + 0.8, rows, columns, sharey=True)
    for ax, method in zip(axes, methods):
        draw_curves(ax, results, method, task, 1)
        for swap in (False, True):
            for table in ("table2", "table4"):
                if value := PAPER[table].get(method, {}).get(task, {}).get("swap" if swap else "no_swap"):
                    ax.axhline(value[0], color=COLORS[swap], ls=":", lw=1)
                    break
    finish_curves(figure, axes, len(methods), f"return on {task}")
    return figure


def overfitting(results):
    methods = [method for method in results.methods("PointMaze") if results.cell(method, "PointMaze", False)]
    rows, columns = grid(len(methods), 5)
    figure, axes = new_figure(max(2.3 * columns + 0.6, 3.8), 1.9 * rows + 0.8, rows, columns, sharey=True)
    for ax, method in zip(axes, methods):
        draw_curves(ax, results, method, "PointMaze", 3)
        ax.set_ylim(-0.03, 1.03)
    finish_curves(figure, axes, len(methods), "success, other pairs")
    return figure


def maze_pairs(results):
    """Success by start and goal: a 3 x 3 map for each cell."""
    cells = [(method, swap, cell) for method in results.methods("PointMaze") for swap in (False, True)
             if (cell := results.cell(method, "PointMaze", swap))]
    rows, columns = grid(len(cells), 8)
    figure, axes = new_figure(1.35 * columns + 0.3, 1.65 * rows, rows, columns)
    for ax in axes[len(cells):]:
        ax.set_axis_off()
    for ax, (method, swap, cell) in zip(axes, cells):
        rates = pair_success(cell).mean(0)
        ax.imshow(rates, vmin=0, vmax=1, cmap="YlGn")
        for i, j in np.ndindex(3, 3):
            if not np.isnan(rates[i, j]):
                ax.text(j, i, f"{rates[i, j]:.1f}", ha="center", va="center", fontsize=9,
                        color="white" if rates[i, j] > 0.7 else "black", fontweight="bold" if i + j == 2 else None)
        ax.set(xticks=range(3), yticks=range(3), xticklabels=["$g_1$", "$g_2$", "$g_3$"],
               yticklabels=["$s_a$", "$s_b$", "$s_c$"])
        ax.tick_params(length=0, labelsize=9)
        ax.set_title(name(method, swap) + " (stale)" * cell.stale, fontsize=9, color=COLORS[swap])
    return figure


def paths_of(results, swap):
    """Rows of a DQAPG cell that hold paths: [(start, goal, success, positions (n, 2))] of the first such row."""
    cell = results.cell("dqapg", "PointMaze", swap)
    for row in cell.rows if cell else ():
        if row.get("paths"):
            episodes = row["episodes"]
            return [(start, goal, success, np.reshape(path, (-1, 2)) / 10) for start, goal, success, path in zip(
                episodes["start"], episodes["goal"], episodes["success"], row["paths"])]
    return []


def maze_paths(results):
    """As Fig. 6 and 8: a row of mazes without swapping and one with, a maze for each start."""
    sys.path.insert(0, str(REPOSITORY))
    from envs.pointmaze import draw_maze
    figure, axes = new_figure(11, 6.2, 2, 3)
    for index, ax in enumerate(axes):
        swap, start = divmod(index, 3)
        draw_maze(ax)
        episodes = [episode for episode in paths_of(results, bool(swap)) if episode[0] == start]
        for _, goal, success, path in episodes:
            ax.plot(*path.T, lw=1.4, color=f"C{goal + 1}", ls="-" if start + goal == 2 else "--")
            ax.plot(*path[-1], "o" if success else "x", color=f"C{goal + 1}", ms=5 if success else 8, mew=2)
        ax.set_title(f"from $s_{'abc'[start]}$: {sum(e[2] for e in episodes)} of {len(episodes)} end at their goal",
                     fontsize=10)
        if not start:
            ax.set_ylabel(LEGEND[bool(swap)])
    handles = [handle("0.2", **kind) for kind in (
        {"ls": "-"}, {"ls": "--"}, {"ls": "", "marker": "o"}, {"ls": "", "marker": "x"})]
    legend_above(figure, handles, ["pair of the data", "other pair", "ends at its goal", "does not"])
    return figure


def swap_effect(results):
    """Paired differences of the return with and without swapping, beside the paper's."""
    methods = list(PAPER["table2"]) + [m for m in NAMES if m not in PAPER["table2"] and any(
        results.swap_effect(m, task) is not None for task in TASKS)]
    figure, axes = new_figure(11, 1.5 + 0.62 * len(methods), 3, 3, sharey=True)
    for ax, task in zip(axes, sorted(TASKS, key=lambda task: task not in results.protocol)):
        ax.axvline(0, color="0.3", lw=0.8)
        extent = 0.05 * horizon(task)
        for y, method in enumerate(methods):
            if printed := PAPER["table2"].get(method, {}).get(task):
                c = compare_printed(printed["swap"], printed["no_swap"])
                ax.plot([c.low, c.high], [y + 0.18] * 2, color=GRAY, lw=1)
                ax.plot(c.difference, y + 0.18, "D", mfc="white", mec=GRAY, ms=4)
                extent = max(extent, abs(c.low), abs(c.high))
            differences = results.swap_effect(method, task)
            if differences is not None:
                stale = results.cell(method, task, True).stale
                mean, low, high = paired(differences)
                if low is not None:
                    ax.plot([low, high], [y - 0.18] * 2, color=COLORS[True], lw=1.6, alpha=0.4 if stale else 1)
                ax.plot(differences, [y - 0.18] * len(differences), "|", color=COLORS[True], ms=5, alpha=0.5)
                ax.plot(mean, y - 0.18, "o", color=COLORS[True], ms=5, mfc="white" if stale else None)
                extent = max(extent, *abs(differences), *([abs(low), abs(high)] if low is not None else []))
        extent = min(extent, 0.7 * horizon(task))  # the interval of two seeds can be longer than the axis
        ax.set(title=task + (", ours not run" if task not in results.protocol else ""), yticks=range(len(methods)),
               yticklabels=[NAMES[m] for m in methods], ylim=(len(methods) - 0.5, -0.5),
               xlim=(-1.08 * extent, 1.08 * extent))
        ax.title.set_fontsize(10)
        ax.tick_params(labelsize=8)
        ax.grid(axis="x", alpha=0.3)
    handles = [handle(COLORS[True], marker="o"), handle(GRAY, marker="D", mfc="white")]
    figure.supxlabel("return with swapping - return without", fontsize=10)
    legend_above(figure, handles, ["ours, paired over seeds, 95 % interval (ticks: seeds)",
                                   "the paper, 95 % interval over 500 episodes"])
    return figure


def aggregate_iqm(samples):
    figure, (ax,) = new_figure(7, 1 + 0.33 * len({m for m, _ in samples}))
    methods = list(dict.fromkeys(method for method, _ in samples))
    for (method, swap), values in samples.items():
        y = methods.index(method) + (0.16 if swap else -0.16)
        value, low, high = bootstrap(values, iqm)
        ax.plot([low, high], [y, y], color=COLORS[swap], lw=4, alpha=0.4, solid_capstyle="butt")
        ax.plot(value, y, "o", color=COLORS[swap], ms=4)
    ax.set(yticks=range(len(methods)), yticklabels=[NAMES[m] for m in methods], ylim=(len(methods) - 0.5, -0.5),
           xlabel="interquartile mean of return / expert's return")
    ax.set_xlim(left=0)
    ax.grid(axis="x", alpha=0.3)
    legend_above(figure, [handle(COLORS[swap], marker="o") for swap in LEGEND], LEGEND.values())
    return figure


def comparisons(samples):
    """[(label, samples, samples)] that are compared: with against without swapping, and DQAPG against the others."""
    found = [(f"{NAMES[m]}, with over without swapping", samples[m, True], samples[m, False])
             for m in NAMES if (m, True) in samples and (m, False) in samples]
    for swap in (False, True):
        found += [(f"{name('dqapg', swap)} over {name(m, s)}", samples["dqapg", swap], values)
                  for (m, s), values in samples.items() if ("dqapg", swap) in samples and m != "dqapg"
                  and (s == swap or swap and (m, True) not in samples)]
    return found


def aggregate_improvement(samples):
    pairs = comparisons(samples)
    figure, (ax,) = new_figure(7, 1 + 0.24 * len(pairs))
    for y, (label, first, second) in enumerate(pairs):
        value, low, high = improvement(first, second)
        color = "#7a5aa6" if "swapping" in label else COLORS[label.startswith("DQAPG-aug")]
        ax.plot([low, high], [y, y], color=color, lw=5, alpha=0.4, solid_capstyle="butt")
        ax.plot(value, y, "o", color=color, ms=4)
    ax.axvline(0.5, color="0.3", lw=0.8)
    ax.set(yticks=range(len(pairs)), yticklabels=[label for label, *_ in pairs], ylim=(len(pairs) - 0.5, -0.5),
           xlim=(-0.03, 1.03), xlabel="probability of improvement")
    ax.tick_params(axis="y", labelsize=8)
    ax.grid(axis="x", alpha=0.3)
    return figure


def aggregate_profiles(samples):
    """A panel for each method, with the line of DQAPG with swapping in all of them."""
    top = max(value.max() for values in samples.values() for value in values)
    thresholds = np.linspace(0, 1.02 * max(1.0, top), 60)
    lines = {entry: profile(values, thresholds) for entry, values in samples.items()}
    methods = list(dict.fromkeys(method for method, _ in samples))
    rows, columns = grid(len(methods), 5)
    figure, axes = new_figure(max(2.3 * columns + 0.6, 3.8), 1.9 * rows + 0.8, rows, columns, sharey=True)
    for ax in axes[len(methods):]:
        ax.set_axis_off()
    for ax, method in zip(axes, methods):
        if ("dqapg", True) in lines:
            ax.plot(thresholds, lines["dqapg", True][0], color="0.2", lw=1, ls=":")
        for swap in (False, True):
            if (method, swap) in lines:
                value, low, high = lines[method, swap]
                ax.plot(thresholds, value, color=COLORS[swap], lw=1.5)
                ax.fill_between(thresholds, low, high, color=COLORS[swap], alpha=0.2, lw=0)
        ax.set(xlim=(0, thresholds[-1]), ylim=(-0.03, 1.03))
        ax.set_title(NAMES[method], fontsize=10)
        ax.grid(alpha=0.3)
    figure.supxlabel("τ: return / expert's return", fontsize=10)
    figure.supylabel("share of runs above τ", fontsize=10)
    legend_above(figure, [handle(COLORS[False]), handle(COLORS[True]), handle("0.2", ls=":")],
                 [*LEGEND.values(), "DQAPG with swapping"])
    return figure


def plan(results):
    """{file: (caption, function that draws it)} of the figures for which there are rows."""
    found, (tasks, samples) = {}, common_tasks(results)
    if results.tasks():
        found["swap_effect.png"] = (
            "The effect of goal swapping on the return: right of 0 it helps. A circle without a bar: one seed, or an "
            "interval smaller than the circle; a bar that ends at the frame is longer. Hollow circles, if any: stale "
            "rows."), lambda: swap_effect(results)
    if any(swap is False and task == "PointMaze" for _, task, swap in results.cells):
        found["overfitting.png"] = (
            "What Fig. 1 of the paper illustrates: success on PointMaze from starts to goals that the data never joins."
            " Lines: mean over seeds; bands: lowest to highest seed."), lambda: overfitting(results)
    if paths_of(results, False) and paths_of(results, True):
        found["maze_paths.png"] = (
            "As Fig. 6 and 8 of the paper: where the policies of DQAPG go (seed 1, the first two episodes of each "
            "pair). Colour: the goal asked for, orange $g_1$, green $g_2$, red $g_3$."), lambda: maze_paths(results)
    if results.methods("PointMaze"):
        found["maze_pairs.png"] = (
            "Success on PointMaze by start (rows) and goal (columns), mean over seeds; bold: pairs of the data. "
            "What Fig. 6 and 8 of the paper show, for all methods."), lambda: maze_pairs(results)
    if samples:
        seeds = len(next(iter(samples.values()))[0])
        which = f"Tasks: {', '.join(tasks)}; methods that have two seeds or more on all of them; the first {seeds} " \
                "seeds of each. Bands and bars: 95 % intervals, bootstrap stratified by task, which are " \
                "too narrow where seeds are few."
        found["iqm.png"] = f"Interquartile means. {which}", lambda: aggregate_iqm(samples)
        found["profiles.png"] = f"Performance profiles. {which}", lambda: aggregate_profiles(samples)
        if comparisons(samples):
            found["improvement.png"] = (
                f"Probability that a run of the first beats one of the second on the same task. {which}"), \
                lambda: aggregate_improvement(samples)
    for task in results.tasks():
        found[f"curves_{task}.png"] = (
            f"Learning curves on {task}. Lines: mean over seeds; bands: lowest to highest seed; dotted: the paper's at "
            "500k updates (Table 2, else Table 4), where it has one."), lambda task=task: curves(results, task)
    return found
