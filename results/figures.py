"""The figures of README.md and docs/results.md, drawn from the rows of results/runs.jsonl only."""

import io
import sys

import numpy as np
from benchmark import REPOSITORY, TASKS
from claims import EVAL_SEED, PAPER
from compare import compare_paired, horizon, short
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, PngImagePlugin

sys.path.insert(0, str(REPOSITORY))
from envs.pointmaze import draw_maze  # noqa: E402

COLORS = {False: "#3b75af", True: "#d9661f"}  # without and with swapping
EFFECTS = {
    True: ("--swap", "#d9661f", 0),
    "meet": ("--swap-source meet", "#2a8f5c", 0.3),
}  # label, color, shift
LEGEND = {False: "without swapping", True: "with swapping"}


def write(figure, path, source):
    """A small PNG that notes what it was drawn from: its bytes depend on the version of matplotlib."""
    content, note = io.BytesIO(), PngImagePlugin.PngInfo()
    figure.savefig(content, format="png", dpi=100)
    note.add_text("Source", source)
    image = Image.open(content).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(path, optimize=True, pnginfo=note)


def source_of(path):
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.info.get("Source")


def legend(figure, entries):
    handles = [
        Line2D([], [], **{"color": "0.3", "ls": ""} | style, label=label) for label, style in entries.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(entries), frameon=False)


def swap_effect(results):
    """Differences of the return with and without swapping, seed by seed, beside the paper's."""
    methods = [
        line for line in results.names if any(results.effect(line, task) is not None for task in TASKS)
    ]
    figure = Figure(figsize=(10, 2 + 0.52 * len(methods)), layout="constrained")
    axes = figure.subplots(3, 3, sharex=True, sharey=True)
    for ax, task in zip(axes.flat, TASKS, strict=True):
        ax.axvline(0, color="0.3", lw=0.8)
        scale = 100 / horizon(task)
        for y, line in enumerate(methods):
            if printed := PAPER["table2"].get(line, {}).get(task):
                difference = printed["swap"][0] - printed["no_swap"][0]
                ax.plot(scale * difference, y, "D", color="0.5", mfc="none", ms=5, zorder=1)
            for swap, (_, color, shift) in EFFECTS.items():
                at, differences = y + shift, results.effect(line, task, swap)
                if differences is not None:
                    ax.plot(scale * differences, [at] * len(differences), "o", color=color, ms=4, alpha=0.6)
                if differences is not None and len(differences) > 2:
                    c = compare_paired(scale * differences)
                    ax.plot([c.low, c.high], [at, at], color=color, lw=1.5, alpha=0.7)
                    ax.plot(c.difference, at, "|", color=color, ms=8, mew=2)
        ax.set_title(task, fontsize=10)
        ax.set(yticks=range(len(methods)), yticklabels=[results.names[line] for line in methods])
        ax.set(ylim=(len(methods) - 0.5, -0.5), xlim=(-62, 62))
        ax.tick_params(labelsize=8)
        ax.grid(axis="x", alpha=0.3)
    figure.supxlabel(
        "return with swapping − return without, in % of the largest return; right of 0 swapping helps",
        fontsize=10,
    )
    entries = {"a seed": {"marker": "o", "ms": 4}}
    entries["mean, 95 % interval"] = {"marker": "|", "ms": 10, "ls": "-"}
    entries |= {label: {"color": color, "marker": "s"} for label, color, _ in EFFECTS.values()}
    legend(figure, entries | {"the paper's means": {"color": "0.5", "marker": "D", "mfc": "none"}})
    return figure


def curves(results):
    """Returns of all methods on all tasks: mean over seeds, and the range from the lowest to the highest."""
    figure = Figure(figsize=(12, 1 + 0.75 * len(results.names)), layout="constrained")
    axes = figure.subplots(len(results.names), len(TASKS), sharex="col", sharey="col", squeeze=False)
    for row, (line, name) in zip(axes, results.names.items(), strict=True):
        row[0].set_ylabel(name.replace(" ", "\n"), fontsize=9)
        for ax, task in zip(row, TASKS, strict=True):
            for swap, color in COLORS.items():
                if cell := results.cell(line, task, swap):
                    updates, values = cell.curve()
                    ax.plot(updates, values.mean(0), color=color, lw=1.4)
                    ax.fill_between(updates, values.min(0), values.max(0), color=color, alpha=0.25, lw=0)
            ax.grid(alpha=0.3)
            ax.tick_params(labelsize=7)
            ax.xaxis.set_major_formatter(lambda x, _: short(int(x)))
    for ax, task in zip(axes[0], TASKS, strict=True):
        ax.set_title(task, fontsize=9)
    figure.supxlabel("updates", fontsize=10)
    legend(figure, {LEGEND[swap]: {"color": color, "ls": "-"} for swap, color in COLORS.items()})
    return figure


def maze_paths(results):
    """As Fig. 6 and 8: where DQAPG's policies go, a maze for each start, without and with swapping."""
    figure = Figure(figsize=(10.5, 6), layout="constrained")
    for swap, row in zip((False, True), figure.subplots(2, 3), strict=True):
        cell = results.cell("dqapg", "PointMaze", swap)
        found = [(r["paths"], r["episodes"]["success"]) for r in (cell.rows if cell else ()) if "paths" in r]
        if not found:
            return None
        for start, ax in enumerate(row):
            draw_maze(ax)
            hits = 0
            for i, (path, success) in enumerate(zip(*found[0], strict=False)):
                pair = (EVAL_SEED + i - 1) % 9
                goal, path = pair // 3, np.reshape(path, (-1, 2)) / 10
                if pair % 3 == start:
                    style = {"color": f"C{goal + 1}", "ls": "-" if start + goal == 2 else "--"}
                    ax.plot(*path.T, lw=1.4, **style)
                    ax.plot(*path[-1], "o" if success else "x", color=style["color"], ms=6, mew=2)
                    hits += success
            ax.set_title(f"from $s_{'abc'[start]}$: {hits} of 6 end at their goal", fontsize=10)
        row[0].set_ylabel(LEGEND[swap])
    entries = {"pair of the data": {"ls": "-"}, "other pair": {"ls": "--"}}
    legend(figure, entries | {"ends at its goal": {"marker": "o"}, "does not": {"marker": "x"}})
    return figure


FIGURES = {"swap_effect.png": swap_effect, "curves.png": curves, "maze_paths.png": maze_paths}
