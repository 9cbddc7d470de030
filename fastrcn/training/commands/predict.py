"""``python -m fastrcn predict``."""

import sys
from pathlib import Path

from fastrcn.training.commands.shared import ERRORS, add_runs, options_of, words


def add_arguments(parser):
    """Options of the command."""
    add_runs(parser)
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, metavar="VIDEO", help="files, or folders of them"
    )
    parser.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR", help="where files are written")


def run(args) -> int:
    """Predict; 2 for what cannot be used."""
    from fastrcn.training.prediction import predict

    try:
        lines = predict(args.runs, args.data, args.out, **options_of(args))
    except ERRORS as error:
        print(f"predict: {words(error)}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0
