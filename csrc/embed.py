"""Write a C++ file, with what it includes of csrc in its place, as a string:
``python csrc/embed.py SOURCE HEADER NAME``.

The extension carries the loops around emitted stages in this form, so that stages can be compiled on the machine that
runs it: ``NAME`` of the header. Includes of what is not in csrc, such as emitted code, stay.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def whole(path, seen):
    """The text of a file of csrc and of what it includes, each once."""
    lines = []
    for line in (ROOT / path).read_text().splitlines():
        included = re.fullmatch(r'#include "(.+)"', line)
        if included and (ROOT / included[1]).exists():
            if included[1] not in seen:
                seen.add(included[1])
                lines += whole(included[1], seen)
        elif line != "#pragma once":
            lines.append(line)
    return lines


def main(source, header, name):
    text = "\n".join(whole(source, set()))
    if ')source"' in text:
        raise ValueError(f"{source}: expected text without the end mark of the literal")
    literal = f'R"source({text}\n)source"'
    target = Path(header)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(
        f"// Written by csrc/embed.py. Not for editing.\n#pragma once\n\nstatic const char {name}[] = {literal};\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
