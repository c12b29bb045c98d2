"""The blocks that every file in algos/ shares with the canonical algos/dqapg.py, and the command that copies them.

A shared block stands between `# --- shared: NAME ---` and `# --- end shared ---`. Change it in algos/dqapg.py, then

    python tests/shared_blocks.py --write    copies it to the other files
    python tests/shared_blocks.py            lists the differences, exit status 1 if there are any
"""

import difflib
import re
import sys
from pathlib import Path

ALGOS = Path(__file__).resolve().parents[1] / "algos"
CANONICAL = ALGOS / "dqapg.py"
BLOCK = re.compile(r"^# --- shared: ([^\n]+) ---\n(.*?)^# --- end shared ---\n", re.MULTILINE | re.DOTALL)


def blocks(text):
    """{name: body} of the shared blocks of a file, in order; ValueError if markers are unbalanced or names repeat."""
    found = BLOCK.findall(text)
    names = [name for name, _ in found]
    if len(re.findall(r"^# --- (?:shared|end)", text, re.MULTILINE)) != 2 * len(found) or len(set(names)) != len(names):
        raise ValueError("unbalanced or repeated markers of shared blocks")
    return dict(found)


def with_blocks_of(canonical, text):
    """`text` with the body of each of its shared blocks replaced by that of the same name in `canonical`."""
    source = blocks(canonical)
    return BLOCK.sub(lambda m: f"# --- shared: {m[1]} ---\n{source[m[1]]}# --- end shared ---\n", text)


def main():
    canonical, different = CANONICAL.read_text(), False
    for path in sorted(ALGOS.glob("*.py")):
        text = path.read_text()
        if list(blocks(text)) != list(blocks(canonical)):
            sys.exit(f"{path}: its shared blocks are {list(blocks(text))}, "
                     f"those of {CANONICAL.name} {list(blocks(canonical))}")
        wanted = with_blocks_of(canonical, text)
        if wanted != text:
            different = True
            sys.stdout.writelines(difflib.unified_diff(text.splitlines(True), wanted.splitlines(True), str(path),
                                                       f"{path}, with the blocks of {CANONICAL.name}"))
            if "--write" in sys.argv[1:]:
                path.write_text(wanted)
    sys.exit(different and "--write" not in sys.argv[1:])


if __name__ == "__main__":
    main()
