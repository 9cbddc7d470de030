"""Write the C++ of every built-in cell's stages: ``python csrc/generate.py HEADER``. Needs SymPy, not PyTorch."""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(path):
    # The package's __init__ imports PyTorch, which a build environment need not have: stand in for it.
    package = types.ModuleType("fastrcn")
    package.__path__ = [str(ROOT / "fastrcn")]
    sys.modules["fastrcn"] = package
    from fastrcn.cells import BUILT_IN
    from fastrcn.compiler.emit_cpp import header_source

    text = header_source(BUILT_IN)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1])
