"""Computing without the autocast of who calls."""

from functools import wraps

import torch


def without_autocast(function, *devices):
    """``function`` without autocast for these types of devices."""

    @wraps(function)
    def run(*arguments):
        active = [device for device in devices if torch.is_autocast_enabled(device)]
        if not active:
            return function(*arguments)
        with torch.autocast(active[0], enabled=False):
            return run(*arguments)

    return run
