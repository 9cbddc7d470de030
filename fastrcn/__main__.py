"""``python -m fastrcn COMMAND``: info, demo, train, evaluate, predict, visualize."""

import argparse
import importlib
import sys

_COMMANDS = {
    "info": "what this installation can do, seen by running it",
    "demo": "train a forecaster on a real clip, fused and unfused, and draw what it predicts",
    "train": "train a model on your own videos, in one process or under torchrun",
    "evaluate": "measure trained models on labelled videos, or a forecaster on sequences",
    "predict": "tell the classes of videos, or how they go on",
    "visualize": "train a small 3-D net on a real clip to tell motions apart, and draw what it has learned",
}
_MODULES = {
    "info": "fastrcn.info",
    "demo": "fastrcn.demo",
    "train": "fastrcn.training.commands.train",
    "evaluate": "fastrcn.training.commands.evaluate",
    "predict": "fastrcn.training.commands.predict",
    "visualize": "fastrcn.visualization.command",
}


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
