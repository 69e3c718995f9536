"""What can go wrong, as a small tree: the command prints these without a traceback; a bug keeps its own."""

from __future__ import annotations

from dataclasses import dataclass


class ClipftError(Exception):
    """Something a person can act on went wrong while working; exit code 1."""

    exit_code = 1


class InputError(ClipftError):
    """What the user gave (config, option, file, row) is wrong; exit code 2."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a config.

    Args:
        line: the line it stands on; None for `--set` and for a missing section.
        key: the dotted key; empty where the file as a whole is wrong.
        message: one sentence.
        place: where it stands if not in the file, such as `--set`.
    """

    line: int | None
    key: str
    message: str
    place: str = ""

    def __str__(self) -> str:
        place = f"line {self.line}  " if self.line is not None else f"{self.place}  " if self.place else ""
        return f"{place}{self.key}: {self.message}" if self.key else f"{place}{self.message}"


class ConfigError(InputError):
    """All mistakes of one config file at once.

    Args:
        path: the file as the user named it.
        problems: the mistakes in file order.
        advice: further lines to print below them (a ready-to-paste file, say).
    """

    def __init__(self, path: str, problems: tuple[Problem, ...], advice: str = "") -> None:
        self.path = path
        self.problems = problems
        self.advice = advice
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{self._where(p)}: {p.key + ': ' if p.key else ''}{p.message}" for p in self.problems]
        if len(lines) > 1:
            lines = [f"{self.path} has {len(lines)} mistakes:", *(f"  {line}" for line in lines)]
        return "\n".join([*lines, *(["", self.advice] if self.advice else [])])

    def _where(self, problem: Problem) -> str:
        return problem.place or (self.path if problem.line is None else f"{self.path}:{problem.line}")
