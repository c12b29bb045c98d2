"""Keeps the shared sections of the files in algos/ equal to those of algos/dqapg.py.

    python tests/shared_blocks.py            shows the differences; exit status 1 if there are any
    python tests/shared_blocks.py --write    copies the sections from dqapg.py to the other files

A section stands between "# --- shared: NAME ---" and "# --- end shared ---".
"""

import difflib
import re
import sys
from pathlib import Path

ALGOS = Path(__file__).resolve().parents[1] / "algos"
SECTION = re.compile(r"^( *# --- shared: ([^\n]+) ---\n)(.*?)^( *# --- end shared ---\n)", re.M | re.S)


def sections(text):
    """{name: body} of the shared sections."""
    found = {name: body for _, name, body, _ in SECTION.findall(text)}
    if not found or 2 * len(found) != len(re.findall(r"^ *# --- (?:shared: |end shared )", text, re.M)):
        raise ValueError("the markers of shared sections do not pair up, or a name is there twice")
    return found


def with_sections(text, bodies):
    """The text with other bodies of its shared sections."""
    return SECTION.sub(lambda match: match[1] + bodies[match[2]] + match[4], text)


def main():
    bodies, different = sections((ALGOS / "dqapg.py").read_text()), False
    for path in sorted(ALGOS.glob("*.py")):
        text = path.read_text()
        if list(sections(text)) != list(bodies):
            sys.exit(f"{path}: has the sections {list(sections(text))}, dqapg.py has {list(bodies)}")
        wanted = with_sections(text, bodies)
        different |= wanted != text
        if "--write" in sys.argv:
            path.write_text(wanted)
        else:
            lines = text.splitlines(True), wanted.splitlines(True)
            sys.stdout.writelines(difflib.unified_diff(*lines, str(path), f"{path} with dqapg.py's sections"))
    sys.exit(different and "--write" not in sys.argv)


if __name__ == "__main__":
    main()
