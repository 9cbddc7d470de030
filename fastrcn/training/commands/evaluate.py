"""``python -m fastrcn evaluate``."""

import sys
from pathlib import Path

from fastrcn.training.commands.shared import ERRORS, add_runs, options_of, words
from fastrcn.training.processes import is_first


def add_arguments(parser):
    """Options of the command."""
    add_runs(parser)
    parser.add_argument("--data", metavar="DATA", help="(default: the first run's validation)")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out damaged files; they are named")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="for the numbers and each item's (default: the first RUN)"
    )


def run(args) -> int:
    """Measure; 2 for what cannot be used."""
    from fastrcn.training.evaluation import evaluate

    try:
        out = args.out or args.runs[0]
        result = evaluate(args.runs, args.data, out=out, skip_unreadable=args.skip_unreadable, **options_of(args))
    except ERRORS as error:
        print(f"evaluate: {words(error)}", file=sys.stderr)
        return 2
    for name, value in result.items() if is_first() else ():
        print(f"{name}: " + (" ".join(f"{v:.6g}" for v in value) if isinstance(value, list) else f"{value:.6g}"))
    return 0
