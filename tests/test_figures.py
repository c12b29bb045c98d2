"""What the figures of docs/results.md show: lines, points, colours and titles, read back from their axes."""

import sys

import numpy as np
import pytest
from conftest import ROOT
from matplotlib.colors import to_hex

sys.path.insert(0, str(ROOT / "results"))
import compare  # noqa: E402
import figures  # noqa: E402
from test_results import MAZE, many, results, row, seeds  # noqa: E402

PAPER = figures.PAPER


def color(artist):
    return to_hex(artist.get_color())


def points(ax, marker):
    """[(x, y, colour)] of the single points with a marker."""
    return [(float(x), float(y), color(line)) for line in ax.lines if line.get_marker() == marker
            for x, y in zip(*line.get_data())]


def legend(figure):
    found, = figure.legends
    return [(text.get_text(), color(line)) for text, line in zip(found.texts, found.legend_handles)]


def bars(ax):
    """[(low, high, y, colour)] of the horizontal lines."""
    return [(*sorted(map(float, line.get_xdata())), float(line.get_ydata()[0]), color(line)) for line in ax.lines
            if len(line.get_xdata()) == 2 and np.ptp(line.get_ydata()) == 0 and line.get_marker() in ("None", "")]


def test_learning_curves_are_means_in_their_colours_with_the_papers_returns_dotted():
    some = results(*seeds([10.0, 30.0], task="FetchPush"), row("td3bc", "FetchPush", True, value=8.0),
                   row("gofar", "FetchPush", value=2.0), row("dqapg", "FetchPush", sha="then"),
                   row("dqapg", "FetchPush", True))
    figure = figures.curves(some, "FetchPush")
    titles = [ax.get_title() for ax in figure.axes if ax.axison]
    assert titles == ["DQAPG (stale)", "TD3+BC", "GoFAR"]
    ax = figure.axes[1]
    lines = {color(line): line.get_data() for line in ax.lines if line.get_linestyle() == "-"}
    assert lines[figures.COLORS[False]][0].tolist() == [3500, 7000]
    assert lines[figures.COLORS[False]][1].tolist() == [10, 20], "half of 20, then 20"
    assert lines[figures.COLORS[True]][1].tolist() == [4, 8]
    bands = {to_hex(band.get_facecolor()[0]): band.get_paths()[0].vertices[:, 1] for band in ax.collections}
    assert (bands[figures.COLORS[False]].min(), bands[figures.COLORS[False]].max()) == (5, 30), "lowest to highest seed"
    dotted = {color(line): line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"}
    assert dotted == {figures.COLORS[swap]: PAPER["table2"]["td3bc"]["FetchPush"][name][0]
                      for swap, name in ((False, "no_swap"), (True, "swap"))}
    dotted = [line.get_ydata()[0] for line in figure.axes[2].lines if line.get_linestyle() == ":"]
    assert dotted == [PAPER["table4"]["gofar"]["FetchPush"]["no_swap"][0]], "of Table 4 where Table 2 has none"
    assert legend(figure) == [("without swapping", figures.COLORS[False]), ("with swapping", figures.COLORS[True])]


def test_overfitting_shows_success_on_the_other_pairs():
    shown = [s + g == 2 for s, g in zip(MAZE["start"], MAZE["goal"])]
    some = results(row(success=shown), row("crr", success=[not hit for hit in shown], swap=True), row("crr"))
    figure = figures.overfitting(some)
    assert [ax.get_title() for ax in figure.axes if ax.axison] == ["TD3+BC", "CRR"]
    assert figure.axes[0].lines[0].get_ydata()[-1] == 0, "all of its successes are on demonstrated pairs"
    assert {color(line): line.get_ydata()[-1] for line in figure.axes[1].lines} == {
        figures.COLORS[False]: 1, figures.COLORS[True]: 1}


def test_maze_pairs_map_start_and_goal():
    hits = [(s, g) == (2, 1) for s, g in zip(MAZE["start"], MAZE["goal"])]
    figure = figures.maze_pairs(results(row(success=hits), row(swap=True)))
    first, second = figure.axes[:2]
    wanted = np.zeros((3, 3))
    wanted[2, 1] = 1
    assert first.images[0].get_array().tolist() == wanted.tolist(), "rows are starts, columns goals"
    assert second.images[0].get_array().tolist() == np.ones((3, 3)).tolist()
    texts = {tuple(map(int, text.get_position())): (text.get_text(), text.get_fontweight()) for text in first.texts}
    assert texts[1, 2] == ("1.0", "normal") and texts[0, 2] == ("0.0", "bold"), "(x, y): bold from c to 1"
    assert {place for place, (_, weight) in texts.items() if weight == "bold"} == {(2, 0), (1, 1), (0, 2)}
    assert [(ax.get_title(), to_hex(ax.title.get_color())) for ax in (first, second)] == [
        ("TD3+BC", figures.COLORS[False]), ("TD3+BC-aug", figures.COLORS[True])]
    assert [label.get_text() for label in first.get_yticklabels()] == ["$s_a$", "$s_b$", "$s_c$"]


def test_maze_paths_stand_in_the_maze_of_their_start():
    rows = [row("dqapg", swap=swap, success=[s == 0 or swap for s in MAZE["start"]]) for swap in (False, True)]
    for r in rows:
        r["paths"] = [[20 + s, 10, 30 + s, 10 + g] for s, g in zip(MAZE["start"], MAZE["goal"])]
    figure = figures.maze_paths(results(*rows))
    assert [ax.get_title() for ax in figure.axes] == [
        f"from $s_{'abc'[start]}$: {3 if swap or not start else 0} of 3 end at their goal"
        for swap in (False, True) for start in range(3)]
    assert [ax.get_ylabel() for ax in figure.axes] == ["without swapping", "", "", "with swapping", "", ""]
    lines = {color(line): (line.get_linestyle(), line.get_data()) for line in figure.axes[1].lines
             if line.get_marker() in ("None", "") and len(line.get_xdata()) == 2 and line.get_linewidth() == 1.4}
    assert {name: (style, x.tolist(), y.tolist()) for name, (style, (x, y)) in lines.items()} == {
        to_hex(f"C{goal + 1}"): ("-" if goal == 1 else "--", [2.1, 3.1], [1.0, 1 + goal / 10]) for goal in range(3)}
    kinds = {text.get_text(): (line.get_linestyle(), line.get_marker()) for text, line in zip(
        figure.legends[0].texts, figure.legends[0].legend_handles)}
    assert kinds == {"pair of the data": ("-", "None"), "other pair": ("--", "None"),
                     "ends at its goal": ("None", "o"), "does not": ("None", "x")}
    assert len(points(figure.axes[1], "x")) == 3 and not points(figure.axes[1], "o"), "its three failures"
    assert len(points(figure.axes[4], "o")) == 3 and not points(figure.axes[4], "x")


def test_the_effect_of_swapping_stands_beside_the_papers():
    some = results(*seeds([10.0, 20.0]), *seeds([14.0, 30.0], swap=True))  # differences 4 and 10
    figure = figures.swap_effect(some)
    ax = figure.axes[0]
    assert ax.get_title() == "PointMaze" and figure.axes[1].get_title() == "FetchPush, ours not run"
    at = [label.get_text() for label in ax.get_yticklabels()].index("TD3+BC")
    ours, = points(ax, "o")
    assert ours == (7.0, at - 0.18, figures.COLORS[True])
    assert sorted(x for x, y, _ in points(ax, "|")) == [4, 10]
    printed = PAPER["table2"]["td3bc"]["PointMaze"]
    theirs = [x for x, y, _ in points(ax, "D") if y == at + 0.18]
    assert theirs == [pytest.approx(printed["swap"][0] - printed["no_swap"][0])]
    low, high = next((low, high) for low, high, y, its in bars(ax) if (y, its) == (at - 0.18, figures.COLORS[True]))
    assert (low, high) == pytest.approx(compare.paired(np.array([4, 10]))[1:])
    assert not points(figure.axes[1], "o") and points(figure.axes[1], "D")
    assert not legend(figure)[0][0].startswith("the paper") and legend(figure)[0][1] == figures.COLORS[True]
    assert ax.get_xlim()[1] == pytest.approx(1.08 * high), "all of the interval"
    far = figures.swap_effect(results(*seeds([10.0, 20.0]), *seeds([14.0, 60.0], swap=True))).axes[0]
    assert far.get_xlim()[1] == pytest.approx(1.08 * 70), "to 250: cut at 0.7 of the largest return"
    hollow = [results(row(), row(swap=True), stale=stale) for stale in ((), ("td3bc",))]
    faces = [next(line for line in figures.swap_effect(some).axes[0].lines if line.get_marker() == "o"
                  ).get_markerfacecolor() for some in hollow]
    assert faces[0] != "white" == faces[1], "stale rows"
    assert ax.get_xlabel() == "" and "with swapping - return without" in figure.get_supxlabel()


def test_aggregates_are_of_normalised_returns():
    samples = {("dqapg", False): [np.array([0.1, 0.2]), np.array([0.3, 0.8])],
               ("dqapg", True): [np.array([0.4, 0.5]), np.array([0.9, 1.0])],
               ("td3bc", False): [np.array([0.0, 0.0]), np.array([0.0, 0.0])]}
    ax, = figures.aggregate_iqm(samples).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["DQAPG", "TD3+BC"]
    assert points(ax, "o") == [(pytest.approx(0.25), -0.16, figures.COLORS[False]),
                               (pytest.approx(0.7), 0.16, figures.COLORS[True]), (0.0, 0.84, figures.COLORS[False])]
    ax, = figures.aggregate_improvement(samples).axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["DQAPG, with over without swapping", "DQAPG over TD3+BC", "DQAPG-aug over TD3+BC"]
    assert [(x, y) for x, y, _ in points(ax, "o")] == [(1.0, 0), (1.0, 1), (1.0, 2)]
    assert [its for *_, its in points(ax, "o")][1:] == [figures.COLORS[False], figures.COLORS[True]]
    swapped = figures.comparisons({**samples, ("td3bc", True): samples["dqapg", True]})
    assert [label for label, *_ in swapped] == ["DQAPG, with over without swapping", "TD3+BC, with over without swapping",
                                               "DQAPG over TD3+BC", "DQAPG-aug over TD3+BC-aug"]
    figure = figures.aggregate_profiles(samples)
    lines = {color(line): line.get_data() for line in figure.axes[0].lines if line.get_linestyle() == "-"}
    for swap, above in ((False, lambda x: np.mean([x < 0.1, x < 0.2, x < 0.3, x < 0.8], 0)),
                        (True, lambda x: np.mean([x < 0.4, x < 0.5, x < 0.9, x < 1.0], 0))):
        thresholds, share = lines[figures.COLORS[swap]]
        assert share.tolist() == pytest.approx(above(thresholds).tolist())
    dotted = [line for ax in figure.axes[:2] for line in ax.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata().tolist() for line in dotted] == [lines[figures.COLORS[True]][1].tolist()] * 2


def test_captions_name_the_tasks_and_seeds_of_the_aggregates():
    planned = figures.plan(results(*many()))
    assert list(planned)[:4] == ["swap_effect.png", "overfitting.png", "maze_paths.png", "maze_pairs.png"]
    assert all("Tasks: FetchPush, PointMaze; " in planned[f"{name}.png"][0] and "the first 2 seeds" in planned[
        f"{name}.png"][0] for name in ("iqm", "profiles", "improvement"))
    assert [name for name in planned if name.startswith("curves_")] == ["curves_FetchPush.png", "curves_PointMaze.png"]
    assert "maze_paths.png" not in figures.plan(results(row("dqapg"), row("dqapg", swap=True))), "no row holds paths"
