"""The pages in docs/: generated parts are up to date, and what is written by hand agrees with the code."""

import re
import shutil
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from conftest import ROOT, load_module
from speed import load, make

sys.path.insert(0, str(ROOT / "docs"))
import build  # noqa: E402

METHODS = sorted(path.stem for path in build.ALGOS.glob("*.py"))
SECTIONS = ["Objective", "What is new", "Metrics", "Implementation details", "Settings", "Scores", "References"]


def page(method):
    return (build.DOCS / f"{method}.md").read_text()


def section(method, name):
    return re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", page(method), re.MULTILINE | re.DOTALL)[1]


def table(text):
    """{name: other cells} of a Markdown table whose first cells are names in backticks, one or several."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {name: cells[1:] for cells in rows for name in re.findall(r"`([^`]+)`", cells[0])}


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["build.py", *arguments])
    try:
        build.main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_generated_parts_are_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "docs" / "build.py", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_check_finds_a_changed_part_and_build_mends_it(tmp_path, monkeypatch, capsys):
    shutil.copytree(build.DOCS, tmp_path / "docs")
    monkeypatch.setattr(build, "DOCS", tmp_path / "docs")
    path = tmp_path / "docs" / "dqapg.md"
    run(monkeypatch)
    good = path.read_text()
    for old, new in (("+class DQAPG(nn.Module):", "+class DQAPG:"), ("58.15 ± 19.83", "58.51 ± 19.83")):
        assert run(monkeypatch, "check") == 0 and old in good
        path.write_text(good.replace(old, new))
        assert run(monkeypatch, "check") == 1 and "dqapg.md" in capsys.readouterr().err
        assert run(monkeypatch) == 0 and path.read_text() == good
    path.write_text(good.replace("<!-- diff td3bc -->", "<!-- diff awac -->"))  # another parent
    assert run(monkeypatch, "check") == 1
    path.write_text(good)
    path.write_text(good.replace("# DQAPG\n", "# DQAPG\n\nMore by hand.\n"))
    assert run(monkeypatch, "check") == 0
    path.write_text(good.replace("<!-- end -->", "", 1))
    assert run(monkeypatch, "check") == 2 and "<!-- end -->" in capsys.readouterr().err
    path.write_text(good.replace("<!-- diff td3bc -->", "<!-- diff td4bc -->"))
    assert run(monkeypatch, "check") == 2 and "td4bc.py" in capsys.readouterr().err
    assert run(monkeypatch, "nonsense") == 2


def test_every_method_is_on_the_ladder_and_has_a_page():
    assert set(METHODS) <= set(build.LADDER)
    assert set(METHODS) == {path.stem for path in build.DOCS.glob("*.md")} - {"README", "results", "studies", "runs"}
    for method in METHODS:
        assert f"]({method}.md)" in page("README"), method


@pytest.mark.parametrize("method", METHODS)
def test_a_page_has_every_section_and_no_stub(method):
    text = page(method)
    assert re.match(r"# \S", text) and re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    for name in SECTIONS:
        assert len(section(method, name)) > 40, name
    assert "```math" in section(method, "Objective") and re.search(r"^1\. ", section(method, "Implementation details"),
                                                              re.MULTILINE)
    assert "<!-- scores -->" in section(method, "Scores")
    parent = re.search(r"<!-- diff (\w+) -->", section(method, "What is new"))
    assert parent or method == list(build.LADDER)[0], "only the first method of the ladder has no parent"
    assert not re.search(r"TODO|FIXME|TBD|XXX|coming soon|lorem", text, re.IGNORECASE)


PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted(build.DOCS.glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_formulas_survive_markdown(path):
    """GitHub reads a formula as Markdown first, but not one in a fence of kind math.

    Before punctuation it drops the backslash, at the start of a line it makes + a list, and in the text of a link it
    shows no formula.
    """
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]+`", "`code`", text)
    assert "$$" not in text
    for formula in re.findall(r"\$([^$]+)\$", text):
        assert "\n" not in formula and formula == formula.strip() and not re.search(r"\\[^A-Za-z ]", formula), formula
    assert not re.search(r"\[[^][]*\$[^][]*\]\(", text)


@pytest.mark.parametrize("method", METHODS)
def test_every_logged_metric_is_explained(method):
    module = load(method)
    torch.manual_seed(0)
    buffer, agent = make(module, (2, 2, 2), swap=False)
    logged = {key for n in range(1, 5) for key in agent.update(buffer.sample(16), n)}
    explained = table(section(method, "Metrics"))
    assert logged <= set(explained), logged - set(explained)
    assert all(cells and cells[-1] for cells in explained.values())
    text = (build.ALGOS / f"{method}.py").read_text()
    for key in explained:  # nor is anything explained that the file does not log
        assert re.search(rf'"{key}"|\b{key}=', text), key


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_of_the_method_is_explained_with_its_default(method):
    module, explained = load(method), table(section(method, "Settings"))
    for setting in fields(module.Algorithm):
        flag, default = "--" + setting.name.replace("_", "-"), getattr(module.DEFAULTS.algorithm, setting.name)
        cells = explained.get(flag, explained.get(flag.replace("--", "--no-", 1)))
        assert cells, flag
        shown = cells[0].strip("`").replace(",", "")
        if isinstance(default, bool):
            assert shown.lower() in ({"true", "on", "yes"} if default else {"false", "off", "no"}), flag
        elif isinstance(default, (int, float)):
            assert float(shown) == default, flag
        elif isinstance(default, (tuple, list)):
            assert re.findall(r"[\d.]+", shown) == [str(x) for x in default], flag
        else:
            assert shown == str(default), flag
        assert cells[-1], f"{flag}: no source"


def anchors(page):
    """The fragments that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_links_to_our_own_files_and_headings_resolve():
    for path in PAGES:
        for file, fragment in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", path.read_text()):
            if not re.match(r"https?://", file):
                target, where = path.parent / file if file else path, f"{path}: {file}#{fragment}"
                assert target.is_file() or target.is_dir(), where
                if number := re.fullmatch(r"L(?:\d+-L)?(\d+)", fragment):
                    assert int(number[1]) <= len(target.read_text().splitlines()), where
                elif fragment:
                    assert fragment in anchors(target), where


def test_every_page_with_tables_of_the_report_is_rebuilt():
    assert {path for path in PAGES if "<!--table " in path.read_text()} == {*build.report.PAGES}


def test_links_to_other_repositories_name_a_commit():
    for path in build.DOCS.glob("*.md"):
        for link in re.findall(r"https://github\.com/[^)\s]+/(?:blob|tree)/[^)\s]+", path.read_text()):
            assert re.search(r"/(?:blob|tree)/[0-9a-f]{40}(?:/|$)", link), f"{path.name}: {link}"


def test_the_table_of_equations_links_lines_that_carry_the_tag():
    rows = dict(re.findall(r"^\| ((?:Eq\.|Alg\.|Fig\.) \S+) \| [^|]+ \| (.+) \|$", build.equations(), re.MULTILINE))
    assert list(rows) == [f"Eq. ({n})" for n in range(1, 20)] + ["Alg. 1", "Alg. 2", "Alg. 3", "Fig. 9"]
    for name, where in rows.items():
        for file, number in re.findall(r"\]\(\.\./([\w/]+\.py)#L(\d+)\)", where):
            assert name in (ROOT / file).read_text().splitlines()[int(number) - 1], (name, file, number)
    missing = [name for name, where in rows.items() if where == "not implemented yet"]
    assert not missing or set(METHODS) != set(build.LADDER), missing


def test_tags_of_other_papers_and_of_settings_do_not_count(tmp_path):
    path = tmp_path / "some.py"
    path.write_text('"""Doc, Eq. (1)."""\n    weight: float = 1  # of Eq. (2)\n    # as in Eq. (3)\n'
                    "        x = 1  # Eq. (4)\n        y = 2  # Kostrikov et al., Eq. (5)\n"
                    "        z = 3  # Fujimoto and Gu, Eq. (6), Alg. 3, line 4\n"
                    "        t = 4  # Kumar et al. (2020), Eq. (7)\n"
                    '    """The loss, Eq. (8)."""\n')
    assert list(build.tags(path)) == [("Eq. (4)", 4), ("Alg. 3", 6), ("Eq. (8)", 8)]


def test_the_diff_shows_the_method_and_no_shared_block():
    text = build.diff("td3bc", "dqapg")
    assert "+class DQAPG(nn.Module):" in text and "-class TD3BC(nn.Module):" in text
    assert not re.search(r"ReplayBuffer:|# ---|dependencies|^[-+ ]import ", text, re.MULTILINE)


def row(method="td3bc", **changes):
    flags = {"task": "FetchPush", "swap": True, "precision": "fp32", "seed": 1, "swap-source": "batch",
             "swap-batch": "equal", "batch-size": 512}
    return {"method": method, "updates": 7000, "flags": flags | changes.pop("flags", {}), "file_sha256": "0",
            "dataset_sha256": "1", "data": "1",
            "scores": {"return": 10.0, "success": 0.5} | changes.pop("scores", {})} | changes


def test_scores_stand_beside_those_of_the_paper(monkeypatch):
    rows = [row(), row(flags={"seed": 2}, scores={"return": 20.0}), row(updates=9),
            row(flags={"lr": 0.1}, scores={"return": 90.0}), row("iql", scores={"return": 3.0}),
            row(data="2", scores={"return": 70.0})]
    monkeypatch.setattr(build.report, "read_rows", lambda: rows)
    text = build.scores("td3bc")
    line = "| 2 | 15.00 ± 7.07 | 0.50 ± 0.00 | 17.50 ± 15.47 (T2), 12.23 ± 15.63 (T4) |"
    assert line in text and "stale" in text and "| 9 | 1 | 10.00 | 0.50 |" in text
    assert "| 1 | 90.00 |" in text and "| 1 | 70.00 |" in text
    assert "| 3.00 |" not in text
    assert "| FetchPush | no | not measured | - | - | - | - | 12.94 ± 17.07 (T2), 15.46 ± 17.59 (T3) |" in text
    assert build.scores("gofar").startswith("This method has not been measured here yet.")
    assert build.scores("awr") == "This method has not been measured here yet."  # nor by the paper


def test_the_papers_numbers_stand_beside_the_version_that_they_are_of(monkeypatch):
    rows = [row("wgcsl", flags={"variant": variant, "swap": False}) for variant in ("gofar", "official")]
    rows.append(row("wgcsl", flags={"variant": "official", "swap": False, "task": "FetchPick"}))
    monkeypatch.setattr(build.report, "read_rows", lambda: rows)
    lines = [line for line in build.scores("wgcsl").splitlines() if line.startswith("| FetchPush | no ")]
    assert [line.split(" | ")[2].split(",")[0] for line in lines] == ["gofar", "official"]
    assert lines[0].endswith("| 10.14 ± 16.19 (T4) |") and lines[1].endswith("| - |")
    more = [line.split(" | ")[:3] for line in build.scores("wgcsl").splitlines() if "not measured" in line]
    assert len(more) == 8 and ["| FetchPush", "no", "not measured"] not in more
    assert ["| FetchPick", "no", "not measured"] in more, "there in the other version only"
    printed = [build.paper(method, "HandEggRotate", False) for method in ("td3bc", "bcq")]
    assert printed == ["29.58 ± 36.62 (T2, T3)", "0.00 ± 0.00 (T3, T4)"], "tables with one number together, in order"


def test_what_a_file_has_of_its_own(tmp_path, monkeypatch):
    """Neither shared blocks nor the metadata, and no gaps where these were."""
    monkeypatch.setattr(build, "ALGOS", tmp_path)
    text = "# /// script\n# x = 1\n# ///\na\n\n\n# --- shared: s ---\nb\n# --- end shared ---\n\n\n{}\n"
    for name, last in (("one", "c"), ("two", "d")):
        (tmp_path / f"{name}.py").write_text(text.format(last))
    assert build.method_lines("one") == ["a", "", "c"]
    assert build.diff("one", "two") == "```diff\n--- algos/one.py\n+++ algos/two.py\n@@\n a\n \n-c\n+d\n```"


def test_the_ladder_counts_and_names_parents():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in build.ladder().splitlines()[2:]]
    assert [row[0] for row in rows] == [str(n) for n in range(1, 14)]
    by_name = {re.match(r"\[(.+?)\]", row[1])[1]: row for row in rows}
    assert by_name["GCSL"][3] == "-" and by_name["DQAPG"][3] == "TD3+BC" and by_name["IQL"][3] == "Onestep-RL"
    assert [row[4] for row in rows] == [str(len(build.method_lines(method))) for method in build.LADDER]
    assert 30 < int(by_name["GCSL"][4]) < int(by_name["TD3+BC"][4]) < int(by_name["DQAPG"][4]) < 200


def test_a_tag_in_a_shared_block_is_listed_once_and_an_unknown_one_refused(tmp_path, monkeypatch):
    rows = dict(re.findall(r"^\| (\S+ \S+) \| [^|]+ \| (.+) \|$", build.equations(), re.MULTILINE))
    assert re.findall(r"\[(\w+)\.", rows["Eq. (2)"]) == ["dqapg", "pointmaze", "pointmaze"], "of ReplayBuffer one"
    assert len(re.findall(r"\[", rows["Eq. (15)"])) >= 6, "lines of methods of their own"
    shutil.copytree(build.ALGOS, tmp_path / "algos")
    (tmp_path / "envs").mkdir()
    with open(tmp_path / "algos" / "iql.py", "a") as file:
        file.write("x = 1  # Eq. (20)\n")
    monkeypatch.setattr(build, "ALGOS", tmp_path / "algos")
    monkeypatch.setattr(build, "REPOSITORY", tmp_path)
    with pytest.raises(ValueError, match=r"iql\.py:\d+: the paper has no Eq\. \(20\)"):
        build.equations()


def test_numbers_of_the_paper():
    tasks = list(build.PAPER["table2"]["dqapg"])
    assert set(tasks) == set(load_module(build.ALGOS / "dqapg.py").TASKS)
    for name, methods, cells in (("table2", 7, 2), ("table3", 8, 1), ("table4", 12, 1)):
        assert len(build.PAPER[name]) == methods and set(build.PAPER[name]) <= set(build.LADDER)
        for values in build.PAPER[name].values():
            assert list(values) == tasks and all(len(value) == cells for value in values.values())
            assert all(0 <= x <= 100 for value in values.values() for pair in value.values() for x in pair)
    # Table 4's column of CRR is Table 2's, Table 3's that of Table 2 without swapping
    assert all(build.PAPER["table4"]["crr"][t]["swap"] == build.PAPER["table2"]["crr"][t]["swap"] for t in tasks)
    assert all(build.PAPER["table3"]["crr"][t]["no_swap"] == build.PAPER["table2"]["crr"][t]["no_swap"] for t in tasks)
