"""What Python frees by itself, and what waits for its search for cycles."""

import gc
import weakref
from contextlib import contextmanager


@contextmanager
def no_cycles_found():
    """Within this context Python does not look for cycles."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def noted_programs(monkeypatch, kind):
    """Weak references to all programs of a class from now on."""
    found, plain = [], kind.__init__

    def noted(self, *arguments, **options):
        found.append(weakref.ref(self))
        plain(self, *arguments, **options)

    monkeypatch.setattr(kind, "__init__", noted)
    return found
