"""The files of algos/ as texts, and the pages about them: sections, equations, metrics, flags, links."""

import dataclasses
import difflib
import importlib.util
import re
import statistics
import subprocess
import sys
import typing

import pytest
from conftest import ROOT
from shared_blocks import ALGOS, sections, with_sections
from speed import make
from tools import METHODS, load_method

FILES = {path.stem: path.read_text() for path in sorted(ALGOS.glob("*.py"))}
each_method = pytest.mark.parametrize("method", FILES)
LONGER = ("am", "bcq", "cql", "dqapg", "dqapg_gaussian", "gofar", "wgcsl")
MOST_LINES = dict.fromkeys(FILES, 560) | dict.fromkeys(LONGER, 590)
EQUATIONS = {  # of the paper
    1: "objective: expected sum of rewards",
    2: "reward: 0 at the goal, else -1",
    3: "loss of V: V(s, g) to Q(s, g, pi(s, g))",
    4: "loss of Q: Q(s, g, a) to r + V(s', g)",
    5: "best policy within a KL divergence of the data's",
    6: "actor: advantage-weighted cloning",
    7: "actor: cloning and the gradient of Q",
    8: "actor of DQAPG: both",
    14: "weighted likelihood; 9 to 13 derive it",
    15: "weighted cloning of a deterministic policy, (6) with a temperature",
    18: "(7) again; 16 and 17 derive it",
    19: "loss of Q in CQL",
    20: "success: the error of a position",
    21: "success: the error of a rotation",
}
MAIN_EQUATIONS = {2, 3, 4, 6, 7, 8, 15}
LINES = {1: 5, 2: 6, 3: 20}  # of Alg. 1, 2, 3


def test_every_method_is_listed_and_has_a_page():
    for name in FILES.keys() | METHODS.keys():
        assert name in FILES, f"data/tools.py lists {name} in METHODS: write algos/{name}.py"
        assert name in METHODS, f'algos/{name}.py is new: add "{name}" to METHODS in data/tools.py'
        assert (ROOT / f"docs/{name}.md").exists(), f"algos/{name}.py is new: write its page docs/{name}.md"
        assert METHODS[name].sibling in FILES, (
            f"METHODS in data/tools.py: no algos/{METHODS[name].sibling}.py"
        )


@each_method
def test_shared_sections_are_those_of_dqapg(method):
    for name, body in sections(FILES["dqapg"]).items():
        same = sections(FILES[method]).get(name) == body
        assert same, f'shared section "{name}" differs: python tests/shared_blocks.py --write copies it'


def test_the_copy_command_changes_shared_sections_only():
    changed = (
        FILES["dqapg"].replace("EVAL_SEED = 1", "EVAL_SEED = 2").replace("    seed: int", "    seeds: int")
    )
    copied = with_sections(FILES["td3bc"], sections(changed))
    assert sections(copied) == sections(changed) != sections(FILES["td3bc"])
    assert (
        copied.replace("EVAL_SEED = 2", "EVAL_SEED = 1").replace("    seeds:", "    seed:") == FILES["td3bc"]
    )
    with pytest.raises(ValueError):
        sections(changed.replace("# --- end shared ---", "", 1))


@each_method
def test_a_file_is_not_too_long(method):
    lines = FILES[method].count("\n")
    assert lines <= MOST_LINES[method], (
        f"algos/{method}.py has {lines} lines, {MOST_LINES[method]} are allowed"
    )


def test_siblings_stay_close(capsys):
    """Prints the share of each file's lines that are not in its nearest sibling."""
    table, shares = ["method          sibling   lines  own"], []
    for name, method in METHODS.items():
        a, b = FILES[method.sibling].splitlines(), FILES[name].splitlines()
        same = sum(x.size for x in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks())
        shares.append(1 - same / len(b))
        table.append(f"{name:15} {method.sibling:9} {len(b):5} {shares[-1]:5.1%}")
    with capsys.disabled():
        print("\n" + "\n".join(table), f"\nmedian {statistics.median(shares):.1%}")
    assert statistics.median(shares) <= 0.10


def test_tags_of_equations_resolve():
    found = set()
    for name, text in FILES.items():
        for match in re.finditer(r"(et al\.,? )?Eq\. (\(?\d+\)?(?:(?:,| and) \(?\d+\)?)*)", text):
            numbers = {int(x) for x in re.findall(r"\d+", match[2])}
            if not match[1]:  # else it is of another paper
                assert numbers <= EQUATIONS.keys(), f"algos/{name}.py: {match[0]} is not one of EQUATIONS"
                found |= numbers
        for algorithm, numbers in re.findall(r"Alg\. (\d)(?:, lines? (\d+(?: and \d+)*))?", text):
            assert all(int(x) <= LINES[int(algorithm)] for x in re.findall(r"\d+", numbers)), (
                name,
                algorithm,
                numbers,
            )
    untagged = [f"({n}) {EQUATIONS[n]}" for n in sorted(MAIN_EQUATIONS - found)]
    assert not untagged, f"no line of algos/ has the tag of Eq. {', '.join(untagged)}"


def own_flags(method):
    """The fields of Args that dqapg.py and td3bc.py do not both have with the same default."""
    a, b, own = (
        {f.name: f for f in dataclasses.fields(load_method(x).Args)} for x in ("dqapg", "td3bc", method)
    )
    common = {name for name, field in a.items() if name in b and b[name].default == field.default}
    return [f for name, f in own.items() if name not in common or f.default != a[name].default]


@each_method
def test_the_page_explains_every_flag_and_every_metric(method):
    page = (ROOT / f"docs/{method}.md").read_text()
    module, flags = load_method(method), own_flags(method)
    for flag in flags:
        assert re.search(rf"`--{flag.name.replace('_', '[-_]')}\b", page), (
            f"docs/{method}.md: no `--{flag.name}`"
        )
    variants = [{}] + [{f.name: True} for f in flags if f.type is bool]
    variants += [{f.name: x} for f in flags for x in typing.get_args(f.type) if isinstance(x, str)]
    for settings in variants:
        buffer, agent = make(module, hidden=(8,), batch_size=16, **settings)
        for metric in agent.update(buffer.sample(), 1) | agent.update(buffer.sample(), 2):
            assert f"`{metric}`" in page, f"docs/{method}.md: no metric `{metric}` ({settings})"


def anchors(text):
    """The fragments that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = [ROOT / "README.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_local_links_resolve(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith(("http://", "https://")):
            file, _, fragment = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), f"{page}: {link}"
            assert not fragment or fragment in anchors(target.read_text()), f"{page}: {link}"


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(command):
    if not importlib.util.find_spec("ruff"):
        pytest.skip("ruff is not installed: pip install ruff")
    done = subprocess.run([sys.executable, "-m", "ruff", *command, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
