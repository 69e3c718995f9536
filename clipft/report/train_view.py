"""What a person sees while a model trains: the plan, one live line, a table of evaluations, the end.

On a terminal the line is redrawn in place; off it the same words come as plain lines, now and then.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clipft.report.amounts import in_bytes
from clipft.report.run_table import columns

_PLAIN_EVERY_S = 10.0  # off a terminal, at most a line this often
_SMOOTH = 0.9  # weight of the past in the speed shown

Part = TypeVar("Part")


@dataclass(frozen=True)
class Pulse:
    """What the live line shows of a step.

    Args:
        chance: the loss when every answer is equally likely: ln(batch) under a contrastive loss.
        rates: the highest learning rate of each part that trains.
        scale: exp(logit_scale), or None where it plays no part.
        waited: share of the time spent waiting for data, 0 to 1.
        memory: bytes used at most.
        whole_process: whether these are the process's, Python and libraries included, and not a device's tensors.
        added: what `train.regularize` added to the loss; None where it is not asked for.
    """

    loss: float
    chance: float
    rates: Mapping[str, float]
    scale: float | None
    memory: int
    added: float | None = None
    whole_process: bool = False


@dataclass
class TrainView:
    """The display of one run; everything it says also goes into the run's log.

    Args:
        console: where talk goes (stderr).
    """

    console: Console
    _log_path: Path | None = field(default=None, init=False)
    _unlogged: list[str] = field(default_factory=list, init=False)  # said before there was a folder
    _live: Live | None = field(default=None, init=False)
    _speed: float = field(default=0.0, init=False)
    _wait: float = field(default=0.0, init=False)
    _left: tuple[int, int, int, int] = field(
        default=(0, 0, 0, 0), init=False
    )  # epoch, epochs, step in it, steps an epoch
    _step_s: float = field(default=0.0, init=False)
    _printed_at: float = field(default=0.0, init=False)
    _columns: dict[str, tuple[str, int]] = field(default_factory=dict, init=False)  # figure to heading and width
    _kept: str = field(default="", init=False)
    _chooses: str | None = field(default=None, init=False)

    def say(self, line: str = "", *, style: str = "", wrap: bool = True) -> None:
        """Print a line and log it; on a terminal it is wrapped between words, but for what is to be copied."""
        self.console.print(Text(line, style=style), soft_wrap=not (wrap and self.console.is_terminal))
        self._log(line)

    def warn(self, line: str) -> None:
        """A sentence that asks for attention."""
        self.facts([("warning", line)], style="yellow")

    def note(self, line: str) -> None:
        """A sentence worth knowing."""
        self.facts([("note", line)])

    def facts(self, rows: Sequence[tuple[str, str]], *, style: str = "") -> None:
        """Lines with a heading word in a column of their own, as the plan of a run is shown."""
        table = Table.grid(padding=(0, 1), expand=False)
        table.add_column(style="bold", no_wrap=True, min_width=9)
        table.add_column(overflow="fold")
        for heading, text in rows:
            table.add_row(f" {heading}", Text(text), style=style)
            self._log(f" {heading:<8} {text}")
        self.console.print(table)

    def show(self, draw: Callable[[Console], None]) -> None:
        """Let a report draw itself; the log gets it without colour."""
        draw(self.console)
        plain = Console(file=io.StringIO(), width=100, color_system=None)
        draw(plain)
        assert isinstance(plain.file, io.StringIO)
        for line in plain.file.getvalue().splitlines():
            self._log(line)

    def begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Start the live line, on a terminal."""
        self._left = (0, epochs, 0, steps_per_epoch)
        self._printed_at = time.monotonic()
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def stop(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def epoch(self, epoch: int) -> None:
        """An epoch, counted from 1, begins."""
        self._left = (epoch, self._left[1], 0, self._left[3])

    def step(self, pulse: Pulse, *, rows: int, seconds: float, waited: float) -> None:
        """A step was taken."""
        epoch, epochs, done, of = self._left
        done += 1
        self._left = (epoch, epochs, done, of)
        first = self._step_s == 0.0
        self._step_s = seconds if first else _SMOOTH * self._step_s + (1 - _SMOOTH) * seconds
        self._wait = waited if first else _SMOOTH * self._wait + (1 - _SMOOTH) * waited
        self._speed = rows / self._step_s if self._step_s else 0.0
        if self._live is not None:
            self._live.update(self._picture(pulse))
        elif done == of or time.monotonic() - self._printed_at >= _PLAIN_EVERY_S:
            self._printed_at = time.monotonic()
            self.say(f" epoch {epoch}/{epochs}  step {done}/{of}  {self._words(pulse)} · {self._time_left()} left")

    def watch(self, parts: Iterable[Part], total: int, doing: str = "looking at images") -> Iterator[Part]:
        """Pass parts of some long work on, and show which of `total` is being worked on."""
        for number, part in enumerate(parts, 1):
            words = f" {doing}: {number} of {total}"
            if self._live is not None:
                self._live.update(Text(words))
            elif time.monotonic() - self._printed_at >= _PLAIN_EVERY_S:
                self._printed_at = time.monotonic()
                self.say(words)
            yield part
        if self._live is not None:
            self._live.update(Text(""))

    def _picture(self, pulse: Pulse) -> Group:
        epoch, epochs, done, of = self._left
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            Text(f" epoch {epoch:>2}/{epochs}"),
            ProgressBar(total=of, completed=done, width=min(40, max(8, self.console.width - 48))),
            Text(f"{done}/{of}"),
            Text(f"{self._time_left()} left"),
        )
        line = f" {self._words(pulse)}"
        if len(line) <= self.console.width:
            return Group(bar, Text(line))
        above = f" {_rates_in_words(pulse.rates)} · {_memory_in_words(pulse)}"
        return Group(bar, Text(above), Text(f" {self._words(pulse, whole=False)}"))

    def _words(self, pulse: Pulse, *, whole: bool = True) -> str:
        """A step's figures; where these are too long for a line, rates and memory go into another one."""
        added = "" if pulse.added is None else f" + pull {pulse.added:.2g}"
        words = [f"loss {pulse.loss:.2f}{added} (chance {pulse.chance:.2f})"]
        words += [_rates_in_words(pulse.rates)] if whole else []
        if pulse.scale is not None:
            words.append(f"scale {pulse.scale:.0f}")
        share = self._wait / self._step_s if self._step_s else 0.0
        words += [f"{self._speed:.3g} pairs/s", f"wait {share:.0%}"]
        words += [_memory_in_words(pulse)] if whole else []
        return " · ".join(words)

    def _time_left(self) -> str:
        epoch, epochs, done, of = self._left
        return in_time(((epochs - epoch) * of + of - done) * self._step_s)

    @property
    def wait_share(self) -> float:
        """Share of the recent time that was spent waiting for data, 0 to 1."""
        return self._wait / self._step_s if self._step_s else 0.0

    def table_head(
        self, metrics: Mapping[str, float], *, kept: str = "", chooses: str | None = None, searches: bool = False
    ) -> None:
        """The head of the table of evaluations.

        Args:
            metrics: figures as the rows will have them.
            kept: what to call the source that is watched for forgetting.
            chooses: the figure that chooses the best.
            searches: whether the answer is computed, without epochs.
        """
        self._kept, self._chooses = kept, chooses
        self._columns = columns(metrics, kept=kept, chooses=chooses)
        headings = "".join(f"{heading:>{width}}" for heading, width in self._columns.values())
        train = "train NLL" if searches and "loss" not in metrics else "train loss"
        self.say(f" {'' if searches else 'epoch':>5}{train:>12}{headings}", style="bold")

    def table_row(self, epoch: str, loss: float | None, metrics: Mapping[str, float], *, mark: str = "") -> None:
        """One evaluation, under a head of its own where a stage measures something else.

        Args:
            mark: what stands behind it, at most `(best)`.
        """
        if self._columns.keys() != columns(metrics, kept=self._kept, chooses=self._chooses).keys():
            self.table_head(metrics, kept=self._kept, chooses=self._chooses)
        figures = "".join(f"{metrics[name]:>{width}.3f}" for name, (_, width) in self._columns.items())
        row = f" {epoch:>5}{'-' if loss is None else f'{loss:.3f}':>12}{figures}"
        self.say(f"{row} {mark.center(6)}".rstrip())

    def log_to(self, path: Path) -> None:
        """Write what is said from now on, and what was said so far, into a file too."""
        self._log_path = path
        lines, self._unlogged = self._unlogged, []
        for line in lines:
            self._log(line)

    def _log(self, line: str) -> None:
        if self._log_path is None:
            self._unlogged.append(line)
            return
        with self._log_path.open("a", encoding="utf-8") as file:
            file.write(line.rstrip() + "\n")


def _rates_in_words(rates: Mapping[str, float]) -> str:
    """One rate where all parts have the same, else each with its part."""
    shown = {part: f"{rate:.1e}" for part, rate in rates.items()}
    if len(set(shown.values())) == 1:
        return f"lr {next(iter(shown.values()))}"
    return "lr " + ", ".join(f"{rate} {part}" for part, rate in shown.items())


def _memory_in_words(pulse: Pulse) -> str:
    """On a CPU only the whole process can be measured, which says so: it is far above what a plan counts."""
    return ("process " if pulse.whole_process else "") + in_bytes(pulse.memory).replace(".0 ", " ")


def in_time(seconds: float) -> str:
    """Seconds as 0:41 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
