"""The files in algos/ as texts: shared blocks are identical, siblings stay close, equation tags resolve."""

import difflib
import re

import pytest
from shared_blocks import ALGOS, CANONICAL, blocks, with_blocks_of

FILES = sorted(ALGOS.glob("*.py"))
# nearest sibling of each file, and the share of its lines that may differ from it
PARENTS = {"gcsl": "awac", "td3bc": "awac", "awac": "crr", "crr": "awac", "awr": "awac", "onestep": "iql", "iql": "onestep",
           "wgcsl": "crr", "cql": "awac", "bcq": "td3bc", "am": "td3bc", "gofar": "awr", "dqapg": "td3bc"}
MORE_OF_THEIR_OWN = {"cql": 0.25, "bcq": 0.25, "am": 0.25, "gofar": 0.25,
                     "dqapg": 0.15}  # its four printed variants and two kinds of policies
MAIN_EQUATIONS = {2, 3, 4, 6, 7, 8}  # reward, values, and the actors of the paper's Sec. 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shared_blocks_are_identical(path):
    assert blocks(path.read_text()) == blocks(CANONICAL.read_text()), "python tests/shared_blocks.py --write copies them"


def test_the_copy_command_copies_and_only_touches_shared_blocks():
    canonical, other = CANONICAL.read_text(), (ALGOS / "td3bc.py").read_text()
    changed = canonical.replace("EVAL_SEED = ", "EVAL_SEED = 1 + ")
    assert blocks(other) != blocks(changed)
    copied = with_blocks_of(changed, other)
    assert blocks(copied) == blocks(changed) and copied.replace("= 1 + 1", "= 1") == other
    with pytest.raises(ValueError):
        blocks(canonical.replace("# --- end shared ---", "", 1))


def test_no_file_imports_from_the_repository_but_envs():
    for path in FILES:
        names = set(re.findall(r"^\s*(?:from|import) ([a-z_]+)", path.read_text(), re.MULTILINE))
        assert not names & ({"data", "tests", "algos", "results"} | {p.stem for p in FILES}), path


def test_a_method_differs_from_its_nearest_sibling_only_where_the_method_differs(capsys):
    assert PARENTS.keys() == {path.stem for path in FILES}
    print_out = ["", "method     nearest    lines  differ"]
    shares = {}
    for child, parent in PARENTS.items():
        a, b = ((ALGOS / f"{name}.py").read_text().splitlines() for name in (parent, child))
        same = sum(block.size for block in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks())
        shares[child] = 1 - same / len(b)
        print_out.append(f"{child:10} {parent:10} {len(b):5} {shares[child]:7.1%}")
    with capsys.disabled():
        print("\n".join(print_out))
    assert not {child: share for child, share in shares.items() if share > MORE_OF_THEIR_OWN.get(child, 0.10)}


def test_equation_tags_resolve_and_every_main_equation_is_tagged():
    found = set()
    for path in [*FILES, ALGOS.parent / "envs" / "pointmaze.py"]:
        for line in path.read_text().splitlines():
            for number in re.findall(r"# .*?Eq\. \((\d+)\)", line):
                assert 1 <= int(number) <= 19, f"{path}: the paper has no Eq. ({number})"
                if not line.lstrip().startswith("#"):
                    found.add(int(number))
            for algorithm, number in re.findall(r"Alg\. (\d), lines? (\d+)", line):
                assert int(number) <= {"1": 5, "2": 6, "3": 20}[algorithm], f"{path}: Alg. {algorithm} is shorter"
    assert found >= MAIN_EQUATIONS, f"not tagged: {MAIN_EQUATIONS - found}"


def test_script_metadata_pins_what_requirements_pin():
    wanted = dict(re.findall(r"^([\w-]+)==(.+)$", (ALGOS.parent / "requirements.txt").read_text(), re.MULTILINE))
    for path in FILES:
        header = path.read_text().split("# ///")[1]
        for name, pinned in re.findall(r'"([\w-]+)==([^"]+)"', header):
            assert wanted[name] == pinned, f"{path}: {name}"
        assert {"torch", "mujoco", "gymnasium", "gymnasium-robotics"} <= set(dict(re.findall(r'"([\w-]+)==([^"]+)"', header)))
