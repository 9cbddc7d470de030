"""What the commands of training share."""

from pathlib import Path

from fastrcn.training import config as configs

ERRORS = (ValueError, FileNotFoundError, FileExistsError, ImportError, FloatingPointError)
"""What a user can mend: shown without a traceback."""


def words(error):
    """What an error says; where a process that reads data has raised it, that alone, without how it came here."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.strip().splitlines()[-1].partition(": ")[2]


CHANGES = ("device", "threads", "workers", "backend", "flow_cache")
"""What may be other than in training."""


def add_runs(parser):
    """Options of commands that take finished runs."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help="folders of training runs; the scores of several are averaged",
    )  # fmt: skip
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--fusion-weights", type=float, nargs="+", metavar="W", help="of the runs (default: all alike)")
    configs.add_arguments(parser, CHANGES)


def options_of(args):
    """What both commands pass on."""
    changes = {name: value for name, value in vars(args).items() if name in CHANGES}
    return {"checkpoint": args.checkpoint, "fusion_weights": args.fusion_weights, **changes}
