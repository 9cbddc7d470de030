"""``python -m fastrcn train``."""

import sys
from pathlib import Path

from fastrcn.training import config as configs
from fastrcn.training.commands.shared import ERRORS, words
from fastrcn.training.processes import is_first


def add_arguments(parser):
    """Options of the command."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with these options; flags go before it")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    configs.add_arguments(parser)


def run(args) -> int:
    """Train; 2 for what cannot be used, 1 where the loss is no number any more."""
    from fastrcn.training.loop import CONFIG, train

    try:
        given = configs.given(args)
        found = configs.read(args.config) if args.config else {}
        config = configs.from_dict(configs.joined(found, given))
        before = Path(config.out) / CONFIG
        if args.resume and config.out and before.exists():
            config = _resumed(configs.read(before), configs.joined(found, given))
        elif args.resume and not config.model:
            raise ValueError(f"out: there is no run in {config.out} that could go on")
        result = train(config, resume=args.resume)
    except ERRORS as error:
        print(f"train: {words(error)}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    if is_first():
        shown = ", ".join(f"{name} {value:.4g}" for name, value in result.items() if isinstance(value, float))
        print(f"{config.out}: {shown}")
    return 0


def _resumed(before, changes):
    """The run's options, with those that may be others."""
    old, new = configs.from_dict(before), configs.from_dict({**before, **changes})
    for name in changes:
        if name not in configs.CHANGEABLE and getattr(old, name) != getattr(new, name):
            raise ValueError(
                f"{name}: expected {getattr(old, name)!r}, as when the run began, got {getattr(new, name)!r}"
            )
    return new
