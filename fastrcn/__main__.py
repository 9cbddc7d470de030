"""``python -m fastrcn info``, ``python -m fastrcn demo`` and ``python -m fastrcn visualize``."""

import argparse
import importlib
import sys

_COMMANDS = {
    "info": "what this installation can do, seen by running it",
    "demo": "train a forecaster on a real clip, fused and unfused, and draw what it predicts",
    "visualize": "train a small 3-D net on a real clip to tell motions apart, and draw what it has learned",
}
_MODULES = {"info": "fastrcn.info", "demo": "fastrcn.demo", "visualize": "fastrcn.visualization.command"}


def main(argv=None):
    """Run one command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastrcn", description="Fused recurrent convolutional layers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    argv = sys.argv[1:] if argv is None else argv
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in argv[:1]:  # only the command that runs is imported: the demo needs more packages
            module = importlib.import_module(_MODULES[name])
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
