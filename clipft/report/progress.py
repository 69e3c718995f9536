"""How far a measurement has come: a line that goes away again, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from clipft.data.batches import Batch
from clipft.report.console import talk


def show_progress(batches: Iterable[Batch], total: int) -> Iterable[Batch]:
    """A Watch (evaluate.measure) for the terminal; elsewhere, and for a few batches, it says nothing."""
    console = talk()
    if not console.is_terminal or total < 3:
        return batches
    return track(batches, " looking at images", total, console=console, transient=True)


def show_work(words: str) -> AbstractContextManager[object]:
    """Says what takes its time while it does, on a terminal."""
    console = talk()
    return console.status(words) if console.is_terminal else nullcontext()


@contextmanager
def show_steps(words: str) -> Iterator[Callable[[int], Callable[[], object]]]:
    """On a terminal, how far so many steps have come: it gives what takes their number and returns what counts one."""
    console = talk()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def watch(steps: int) -> Callable[[], object]:
            task = progress.add_task(words, total=steps)
            return lambda: progress.advance(task)

        yield watch
