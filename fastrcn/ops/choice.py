"""Choices that are made by shape, and that a caller may make instead."""

from contextlib import contextmanager


class Choice:
    """One of ``names``; ``what`` it is called in errors."""

    def __init__(self, what, names):
        self._what, self._names = what, names
        self._asked: list[str] = []

    @property
    def asked(self) -> str | None:
        """The name asked for, or None."""
        return self._asked[-1] if self._asked else None

    @contextmanager
    def use(self, name):
        """Within this context ``name`` is asked for."""
        if name not in self._names:
            raise ValueError(f"{self._what}: expected one of {', '.join(self._names)}, got {name!r}")
        self._asked.append(name)
        try:
            yield
        finally:
            self._asked.pop()
