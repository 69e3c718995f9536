"""The freeze report: what trains, why, at which rate and at what cost, in 80 columns and without need of colour."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from rich.console import Console
from rich.text import Text

from clipft.model.cost import Cost
from clipft.model.describe import backward_reach, memory
from clipft.model.plan import ParameterPlan, Plan, block_number
from clipft.report.amounts import grouped, in_bytes, in_flops, share
from clipft.words import counted

_HEADINGS = ("part", "tensors", "parameters", "trainable", "lr", "share / why")
_INDENT = 7  # of what is said about a tower


def print_freeze_report(
    plan: Plan, console: Console, *, base: str, optimizer: str, cost: Cost | None = None, searches: bool = False
) -> None:
    """The lines a tower, the table by part, memory and the reach of a step.

    Args:
        base: one phrase for the weights that training starts from.
        optimizer: adamw, adam or sgd.
        cost: of a step, to show too.
        searches: whether what trains is computed: then there is no step, no rate and no optimiser.
    """
    totals = plan.totals()
    names = dict.fromkeys((plan.model, base))  # a local-dir: is its own base
    console.print(Text(" · ".join([*names, f"{grouped(totals['parameters'])} parameters"]), style="bold"))
    console.print()
    for tower, line in plan.lines.items():
        for row in _wrapped(tower, line, console.width):
            console.print(Text(row))
    for note in plan.notes:
        _say(console, "note", note, style="yellow")
    for warning in plan.warnings:
        _say(console, "warning", warning, style="yellow")
    console.print()
    rows = _rows(plan)
    _print_table([_without_rate(row) for row in rows] if searches else rows, console)
    console.print()
    if searches:
        _say(console, "memory", f"weights {in_bytes(memory(plan, optimizer).weights)}, without gradients or optimiser")
    else:
        _say_each(console, "decay", _decay(plan))
        _say_each(console, "memory", _memory(plan, optimizer, cost))
        _say_each(console, "a step", _step(plan, cost))
    if any(not p.trainable for p in plan.parameters):
        _say(console, "frozen", "stays in evaluation mode: no dropout, no new BatchNorm statistics")


def print_every_parameter(plan: Plan, console: Console) -> None:
    """Every parameter with its shape, state and rule: a heading for each rule in each part, a line a parameter."""
    for (tower, group), parameters in plan.groups().items():
        part = f"{tower} {group}" if tower in ("image", "text") else group
        for why in dict.fromkeys(map(_why, parameters)):
            for row in textwrap.wrap(f"{part} · {why}", console.width, break_on_hyphens=False):
                console.print(Text(row, style="bold"))
            for parameter in (p for p in parameters if _why(p) == why):
                line = f"{_state(parameter):<7} {parameter.name}  {shape_words(parameter.shape)}"
                console.print(Text(line, style="green" if parameter.trainable else "dim"), soft_wrap=True)
    if any(p.weight_decay == 0 for p in plan.trainable):
        console.print("* without weight decay")


def rate(lr: float | None) -> str:
    """A learning rate with no more digits than it needs: 1e-05, 3.5e-06; `-` for none."""
    if lr is None:
        return "-"
    mantissa, exponent = f"{lr:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"


def shape_words(shape: Sequence[int]) -> str:
    """A shape as 768 x 512; a single number is `scalar`."""
    return " x ".join(map(str, shape)) or "scalar"


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """A line of the table; a tower's heading has no cells."""

    part: str
    cells: tuple[str, ...] = ()
    style: str = ""
    share: str = ""
    rules: tuple[str, ...] = ()


def _rows(plan: Plan) -> list[_Row]:
    """The parts of each tower, equal consecutive blocks as one, then the heads and the total."""
    total = plan.totals()
    rows = []
    by_tower = groupby(plan.groups().items(), key=lambda item: item[0][0])
    for tower, items in by_tower:
        parts = _folded([(group, parameters) for (_, group), parameters in items])
        is_tower = tower in ("image", "text")
        if is_tower:
            rows.append(_Row(f" {tower}", style="bold"))
        indent = "   " if is_tower else " "
        rows += [_row(f"{indent}{part}", parameters, total["parameters"]) for part, parameters in parts]
    trains = share(total["trainable"], total["parameters"])
    cells = (grouped(len(plan.parameters)), grouped(total["parameters"]), grouped(total["trainable"]), "")
    return [*rows, _Row(" total", cells, "bold", f"{trains} trains")]


def _without_rate(row: _Row) -> _Row:
    return replace(row, cells=(*row.cells[:3], "-" if row.cells[3] else "")) if row.cells else row


def _folded(
    parts: Iterable[tuple[str, tuple[ParameterPlan, ...]]],
) -> list[tuple[str, tuple[ParameterPlan, ...]]]:
    """Consecutive blocks in the same state as one part, `blocks 0-9`."""
    folded = []
    for key, run in groupby(parts, key=lambda part: _fold_key(*part)):
        same = list(run)
        first, last = same[0][0], same[-1][0]
        name = first if first == last else f"blocks {block_number(first)}-{block_number(last)}"
        folded.append((name if key else first, tuple(p for _, parameters in same for p in parameters)))
    return folded


def _fold_key(group: str, parameters: tuple[ParameterPlan, ...]) -> object:
    """Equal for blocks that may share a line: how many of their tensors train, by which rules, at which rates."""
    if block_number(group) is None:
        return group
    training = sum(p.trainable for p in parameters)
    how_many = "all" if training == len(parameters) else "none" if not training else (training, len(parameters))
    return how_many, frozenset(map(_why, parameters))


def _row(part: str, parameters: tuple[ParameterPlan, ...], of: int) -> _Row:
    size = sum(p.numel for p in parameters)
    trainable = sum(p.numel for p in parameters if p.trainable)
    rates = sorted({p.lr for p in parameters if p.lr is not None})
    lr = rate(rates[0] if rates else None) if len(rates) < 2 else "mixed"
    rules = tuple(sorted({p.rule for p in parameters if p.rule}))
    cells = (grouped(len(parameters)), grouped(size), grouped(trainable) if trainable else "-", lr)
    return _Row(part, cells, "green" if trainable else "dim", share(trainable, of) if trainable else "", rules)


def _print_table(rows: Sequence[_Row], console: Console) -> None:
    """Numbers to the right, words to the left; words too long for the terminal lose the least first."""
    part = max(len(_HEADINGS[0]) + 1, *(len(row.part) for row in rows))
    widths = [max(len(_HEADINGS[i + 1]), *(len(row.cells[i]) for row in rows if row.cells)) for i in range(4)]
    room = console.width - part - sum(widths) - 2 * 5
    heading = _Row(f" {_HEADINGS[0]}", _HEADINGS[1:5], "underline" if console.color_system else "", _HEADINGS[5])
    for row in (heading, *rows):
        numbers = "".join(f"  {cell:>{width}}" for cell, width in zip(row.cells, widths, strict=bool(row.cells)))
        line = f"{row.part:<{part}}{numbers}  {_fitting(row, room)}".rstrip()
        console.print(Text(line, style=row.style), soft_wrap=True)


def _fitting(row: _Row, room: int) -> str:
    """The share and the rules as far as there is room: keys without values first, then without the share."""
    keys = [rule.split(":")[0] for rule in row.rules]
    forms = [" · ".join(filter(None, form)) for form in ([row.share, *row.rules], [row.share, *keys], row.rules, keys)]
    return next((form for form in forms if len(form) <= room), f"{forms[-1][: max(room - 1, 0)]}…")


def _why(parameter: ParameterPlan) -> str:
    """The rule that froze a parameter, or the rate it trains at."""
    return parameter.rule or f"lr {rate(parameter.lr)}"


def _state(parameter: ParameterPlan) -> str:
    if not parameter.trainable:
        return "frozen"
    return "trains*" if parameter.weight_decay == 0 else "trains"


# --- cost ----------------------------------------------------------------------------------------


def _decay(plan: Plan) -> list[str]:
    """How many tensors are pulled to zero, and how strongly; the rest is biases, norms, tables and scales (P31)."""
    counts = Counter(p.weight_decay for p in plan.trainable)
    spared = counts.pop(0.0, 0)
    said = [f"{decay:g} on {counted(count, 'tensor')}" for decay, count in sorted(counts.items(), reverse=True)]
    said += [f"none on {grouped(spared)}: biases, norms, tables, scales"] if spared else []
    return [" · ".join(said)] if said else []


def _memory(plan: Plan, optimizer: str, cost: Cost | None) -> list[str]:
    """Bytes that the plan takes by itself; then those that hang on the batch."""
    fixed = memory(plan, optimizer)
    sizes = {"weights": fixed.weights, "gradients": fixed.gradients, "optimiser": fixed.optimizer}
    lines = [" · ".join(f"{what} {in_bytes(size)}" for what, size in sizes.items())]
    if cost is not None and cost.copies:
        lines.append(f"copies {in_bytes(cost.copies)} of what trains, for train.ema or train.regularize")
    if cost is not None:
        pieces = f", {cost.rows_at_once} at a time," if cost.rows_at_once < cost.batch_size else ""
        batch = f"activations {in_bytes(cost.activations)} at batch {cost.batch_size}{pieces} in {cost.precision}"
        lines.append(f"{batch} · peak {in_bytes(cost.peak)}")
        as_rows = (cost.texts, cost.texts_at_once) == (cost.batch_size, cost.rows_at_once)
        if cost.texts_at_once < cost.texts and not as_rows:
            lines.append(f"{cost.texts:,} texts a step, {cost.texts_at_once} at a time with the gradient of all")
        lines.append("Python and its libraries come on top")
    return lines


def _step(plan: Plan, cost: Cost | None) -> list[str]:
    """FLOPs, beside those of training everything; what they leave out; how far the backward pass goes."""
    lines = []
    if cost is not None:
        lines.append(f"{in_flops(cost.step.forward)} forward · {in_flops(cost.step.backward)} backward")
        if cost.step != cost.everything:
            whole = cost.everything.total
            lines.append(f"{share(cost.step.total, whole)} of the {in_flops(whole)} of training everything")
        if cost.texts_once:
            lines.append("the frozen text backbone is in no step: it takes each caption once")
    return [*lines, backward_reach(plan)]


# --- lines ---------------------------------------------------------------------------------------


def _wrapped(tower: str, line: str, width: int) -> list[str]:
    """A tower's line; where it is too long, what is in brackets goes below, and then what was ignored."""
    bracket = line.rfind(" (", 0, line.rfind(" parameters)"))  # not a bracket of the pattern's own
    end = line.find("; ", bracket)
    cuts = [0, bracket + 1, *([end + 2] if end > 0 else []), len(line)]
    rows = [""]
    for start, stop in pairwise(cuts):
        piece = line[start:stop]
        if rows[-1] and len(rows[-1] + piece.rstrip()) > width - _INDENT:
            rows.append("")
        rows[-1] += piece
    rows = [row for long in rows for row in textwrap.wrap(long, width - _INDENT, break_on_hyphens=False)]
    return [f"{tower if i == 0 else '':<{_INDENT}}{row}" for i, row in enumerate(rows)]


def print_note(console: Console, text: str) -> None:
    """A sentence in the grid of the lines below the table."""
    _say(console, "note", text)


def _say(console: Console, heading: str, text: str, style: str = "") -> None:
    for i, row in enumerate(textwrap.wrap(text, console.width - 10, break_on_hyphens=False)):
        console.print(Text(f" {heading if i == 0 else '':<9}{row}", style=style))


def _say_each(console: Console, heading: str, lines: Sequence[str]) -> None:
    for i, line in enumerate(lines):
        _say(console, heading if i == 0 else "", line)
