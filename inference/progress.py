"""Progress of long computations: a bar in a terminal, a line that changes in a notebook, finished lines elsewhere."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta

from multipyro._optional import optional_imports

__all__ = ["Progress"]

_REFRESH = 0.5  # seconds


class Progress:
    """Shows the progress of a loop, drawn by the loop itself: a separate thread would compete with it.

    In a terminal it is a bar, in a notebook one line that changes; in a pipe or a batch job only finished lines appear.

    Args:
        show: Whether progress is shown.

    Example:
        >>> progress = Progress()
        >>> for step in range(1, 4):
        ...     progress.update(step, 3, lambda: "counting")
        >>> progress.finish_line("counted to 3")
        counted to 3
    """

    def __init__(self, show: bool = True) -> None:
        self._is_shown, self._in_place, self._bar = show, _in_notebook(), None
        self._started, self._begin, self._shown, self._width = 0.0, 0, 0.0, 0
        self.restart()
        if show and sys.stdout.isatty():
            with optional_imports("a progress bar"):
                from rich.progress import BarColumn, Progress, TextColumn
            # no markup: names come from data
            columns = BarColumn(), TextColumn("{task.description}", markup=False)
            self._bar = Progress(*columns, auto_refresh=False, transient=True)
            self._task = self._bar.add_task("")
            self._bar.start()

    def restart(self, completed: int = 0) -> None:
        """Begins a new loop, of which some is done already: the time left is estimated from here."""
        self._started, self._begin = time.monotonic(), completed

    def update(self, completed: int, total: int | None, text: Callable[[], str]) -> None:
        """Shows a step, unless another was shown within the last half second.

        Args:
            completed: Number of steps done.
            total: Number of all steps; None if unknown.
            text: Returns what is shown beside the bar; called only if it is.
        """
        now = time.monotonic()
        if not self._is_shown or now - self._shown < _REFRESH:
            return
        self._shown = now
        if self._bar is not None:
            line = f"{text()}{self.time_left(completed, total)}"
            self._bar.update(self._task, completed=completed, total=total, description=line, refresh=True)
        elif self._in_place:
            self._print(f"{text()}{self.time_left(completed, total)}", "\r")

    def finish_line(self, text: str) -> None:
        """Writes a line that stays; nothing beside a bar."""
        if self._is_shown and self._bar is None:
            self._print(text, "\n")

    def note(self, text: str) -> None:
        """Writes a line that stays, above a bar too."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        else:
            self.finish_line(text)

    def time_left(self, completed: int, total: int | None) -> str:
        """`", 0:01:30 left"`; empty if it is unknown."""
        if total is None or completed <= self._begin:
            return ""
        seconds = (time.monotonic() - self._started) * (total - completed) / (completed - self._begin)
        return f", {timedelta(seconds=round(seconds))} left"

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()

    def _print(self, text: str, end: str) -> None:
        print(text.ljust(self._width), end=end, flush=True)
        self._width = len(text) if end == "\r" else 0


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and type(ipython.get_ipython()).__name__ == "ZMQInteractiveShell"
