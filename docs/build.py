"""Fills the generated parts of the pages in docs/: diffs, scores, the reading ladder and the table of equations.

    python docs/build.py          rebuilds them
    python docs/build.py check    exit status 1 if any is out of date

A generated part stands between `<!-- NAME -->` and `<!-- end -->`; all other text is written by hand. NAME is
`diff PARENT` or `scores` in the page of a method, `ladder` or `equations` in docs/README.md.
"""

import difflib
import json
import re
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS, ALGOS = REPOSITORY / "docs", REPOSITORY / "algos"
sys.path[:0] = [str(REPOSITORY / "results"), str(REPOSITORY / "tests")]
import report  # noqa: E402
from compare import line  # noqa: E402
from shared_blocks import BLOCK  # noqa: E402

PAPER = json.loads((REPOSITORY / "results" / "paper.json").read_text())

# the order of reading, and one sentence for each
LADDER = {
    "gcsl": "Goal-conditioned supervised learning: clone the actions of the data towards goals that they reached later.",
    "td3bc": "Learn Q, and let the policy raise it while it stays close to the actions of the data.",
    "awac": "No gradient of Q: clone each action with the weight exp(advantage of the action over the policy's own).",
    "crr": "The same with a filter instead: clone an action only if it is better than the policy's own.",
    "onestep": "Never ask for an action that the data does not hold: evaluate the behaviour policy, improve on it once.",
    "iql": "The same, but V is an upper expectile of Q over the actions of the data, close to the best of them.",
    "cql": "Push Q down where actions are not in the data, and follow its gradient with a stochastic policy.",
    "bcq": "Generate actions like those of the data, perturb them a little, and take the one with the largest Q.",
    "am": "Actionable models: Q-learning on chained goals, with Q of other actions kept down.",
    "wgcsl": "GCSL with weights: the discount of the goal's distance, exp(advantage), and the best advantages first.",
    "gofar": "No relabelling: V by a divergence between visited and goal-reaching states, then weighted cloning.",
    "dqapg": "Both at once: the gradient of Q and cloning weighted with exp(advantage), made for swapped goals.",
    "awr": "Advantage-weighted regression with V alone; in the paper's Table 1, but not in its results.",
}
# what an equation of the paper is, and why no line implements it where none does
EQUATIONS = {
    "Eq. (1)": ("objective: expected sum of rewards over goals", "definition; evaluations report this sum"),
    "Eq. (2)": ("reward: 0 at the goal, -1 elsewhere", None),
    "Eq. (3)": ("loss of V: V(s, g) to Q(s, g, pi(s, g))", None),
    "Eq. (4)": ("loss of Q: Q(s, g, a) to r + V(s', g)", None),
    "Eq. (5)": ("best policy within a KL divergence of the behaviour policy", "definition; solved by (6) and (7)"),
    "Eq. (6)": ("actor: advantage-weighted cloning", None),
    "Eq. (7)": ("actor: cloning and the gradient of Q", None),
    "Eq. (8)": ("actor of DQAPG: both", None),
    "Eq. (9)": ("(5) with the advantage, over goals, states and actions", "definition; derivation of (6)"),
    "Eq. (10)": ("its Lagrangian", "derivation of (6)"),
    "Eq. (11)": ("the policy where its derivative is zero", "derivation of (6)"),
    "Eq. (12)": ("partition function Z(s, g)", "derivation of (6); the paper leaves it out"),
    "Eq. (13)": ("closed form of the best policy", "derivation of (6)"),
    "Eq. (14)": ("its projection on parametric policies: weighted likelihood", None),
    "Eq. (15)": ("(14) of a deterministic policy: weighted squared distance", "the same as (6) with a temperature"),
    "Eq. (16)": ("(5) with Q", "definition; derivation of (7)"),
    "Eq. (17)": ("its Lagrangian", "derivation of (7)"),
    "Eq. (18)": ("(17) of a deterministic policy", "the same as (7)"),
    "Eq. (19)": ("loss of Q in CQL", None),
    "Alg. 1": ("goal swapping", None),
    "Alg. 2": ("Q-advantage policy gradient, in outline", None),
    "Alg. 3": ("offline goal-conditioned DQAPG", None),
    "Fig. 9": ("the authors' code of DQAPG", None),
}


def method_lines(method):
    """The lines of a method's file that are its own: no shared block, no script metadata, no two blank lines."""
    text = BLOCK.sub("", (ALGOS / f"{method}.py").read_text())
    text = re.sub(r"\A# /// script\n.*?^# ///\n", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n").split("\n")


def diff(parent, method):
    """A Markdown block with the difference of two methods' own lines."""
    for name in (parent, method):
        if not (ALGOS / f"{name}.py").exists():
            fail(f"docs/{method}.md: <!-- diff {parent} --> needs algos/{name}.py, which does not exist")
    lines = list(difflib.unified_diff(method_lines(parent), method_lines(method), f"algos/{parent}.py",
                                      f"algos/{method}.py", lineterm=""))
    # line numbers would be those of the stripped texts
    return "\n".join(["```diff", *("@@" if line.startswith("@@ ") else line for line in lines), "```"])


def tags(path):
    """(tag, line number) for every tag of the paper on a line of code or in a function's docstring.

    Not for settings, comments on lines of their own, or equations of other papers ("Fujimoto et al. (2019), Eq. (13)").
    """
    body = path.read_text().split('"""', 2)[-1]
    skipped = path.read_text().count("\n") - body.count("\n")
    for number, line in enumerate(body.split("\n"), skipped + 1):
        if re.match(r"\s*#|    \w+: ", line):
            continue
        for found in re.finditer(r"Eq\. \(\d+\)|Alg\. \d|Fig\. 9", line):
            if not re.search(r"(et al\.|\d{4}\)?|[A-Z]\w+ and [A-Z]\w+), $", line[:found.start()]):
                yield found[0], number


def equations():
    """The table of the paper's equations and algorithms, and the lines that implement them."""
    places = {name: [] for name in EQUATIONS}
    for path in [*sorted(ALGOS.glob("*.py")), *sorted((REPOSITORY / "envs").glob("*.py"))]:
        # a tag in a shared block is in every file of algos/: the canonical one stands for all
        text = path.read_text()
        shared = {n for m in BLOCK.finditer(text) for n in range(
            text.count("\n", 0, m.start()) + 1, text.count("\n", 0, m.end()) + 1)} if path.stem != "dqapg" else set()
        for name, number in dict.fromkeys(tags(path)):
            if number not in shared:
                if name not in places:
                    raise ValueError(f"{path}:{number}: the paper has no {name}")
                file = path.relative_to(REPOSITORY)
                places[name].append(f"[{file.name}:{number}](../{file}#L{number})")
    rows = [f"| {name} | {what} | {', '.join(places[name]) or why or 'not implemented yet'} |"
            for name, (what, why) in EQUATIONS.items()]
    return "\n".join(["| | what it is | where |", "|---|---|---|", *rows])


def title(method):
    """The name of a method, from the heading of its page."""
    page = DOCS / f"{method}.md"
    return page.read_text().split("\n")[0].removeprefix("# ") if page.exists() else method


def ladder():
    """The table of the methods in the order of reading."""
    lines = ["| | method | what it is | parent | lines of its own |", "|---|---|---|---|---|"]
    for method, sentence in LADDER.items():
        if (ALGOS / f"{method}.py").exists():
            page = DOCS / f"{method}.md"
            parent = re.search(r"<!-- diff (\w+) -->", page.read_text()) if page.exists() else None
            name = f"[{title(method)}]({method}.md)" if page.exists() else method
            lines.append(f"| {len(lines) - 1} | {name} ([file](../algos/{method}.py)) | {sentence} | "
                         f"{title(parent[1]) if parent else '-'} | {len(method_lines(method))} |")
    return "\n".join(lines)


def paper(method, task, swap):
    """The paper's numbers of a cell, with the table that each is from."""
    found = {}
    for name in ("table2", "table3", "table4"):
        value = PAPER[name].get(method, {}).get(task, {}).get("swap" if swap else "no_swap")
        if value:
            found.setdefault("{:.2f} ± {:.2f}".format(*value), []).append("T" + name[-1])
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in found.items()) or "-"


def scores(method):
    """Our runs of a method, averaged over seeds, beside the numbers of the paper."""
    cells, lines = {}, []
    for row in report.read_rows():
        if row["method"] == method:
            cells.setdefault((row["flags"]["task"], row["flags"]["swap"], report.describe(row), row["updates"],
                              report.setting(row), row["data"], row["file_sha256"]), []).append(row)

    def spread(rows, name):
        values = [row["scores"][name] for row in rows]
        return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")

    for (task, swap, settings, updates, *_, sha), rows in sorted(cells.items(), key=lambda item: item[0][:4]):
        stale = ", stale" * (report.file_hash(method) != sha)
        printed = paper(method, task, swap) if line(rows[0]) == method else "-"  # not of WGCSL official
        lines.append(f"| {task} | {'yes' if swap else 'no'} | {settings}{stale} | {updates:,} | {len(rows)} | "
                     f"{spread(rows, 'return')} | {spread(rows, 'success')} | {printed} |")
    measured = {cell[:2] for cell, rows in cells.items() if line(rows[0]) == method}
    head = [] if lines else ["This method has not been measured here yet.", ""]
    for task in PAPER["table2"]["dqapg"]:
        for swap in (False, True):
            if (task, swap) not in measured and (value := paper(method, task, swap)) != "-":
                lines.append(f"| {task} | {'yes' if swap else 'no'} | not measured | - | - | - | - | {value} |")
    return "\n".join([*head, "Ours: means over seeds, ± deviation over seeds. The paper (T2: Table 2, and so on): 500,000 "
                      "updates, 10 seeds, ± deviation over episodes, its own data.", "",
                      "| task | swap | settings | updates | seeds | return | success | return in the paper |",
                      "|---|---|---|---|---|---|---|---|", *lines] if lines else head[:1])


def rebuilt(name, text):
    """The text of docs/NAME.md with its generated parts as they must be."""
    makers = {"diff": lambda parent: diff(parent, name), "scores": lambda: scores(name), "ladder": ladder,
              "equations": equations}
    part = re.compile(r"^<!-- (diff \w+|scores|ladder|equations) -->\n(?:(?!<!-- ).*\n)*?<!-- end -->$", re.MULTILINE)
    if text.count("<!-- ") != 2 * len(part.findall(text)):
        fail(f"docs/{name}.md: a marker without its <!-- end -->, or of an unknown name")

    def fill(match):
        kind, *arguments = match[1].split()
        return f"<!-- {match[1]} -->\n{makers[kind](*arguments)}\n<!-- end -->"
    return part.sub(fill, text)


def fail(message):
    """One line to stderr, exit status 2."""
    print(f"build.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main():
    command = sys.argv[1:] or ["build"]
    if command not in (["build"], ["check"]):
        fail(f"{' '.join(command)}: unknown; check or nothing")
    different = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text()
        new = rebuilt(page.stem, text)
        if new != text:
            different.append(page)
            if command == ["build"]:
                page.write_text(new)
    if command == ["check"] and different:
        names = ", ".join(f"docs/{page.name}" for page in different)
        print(f"out of date: {names}; python docs/build.py rebuilds them", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
