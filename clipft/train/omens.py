"""What an epoch showed to be wrong, in a sentence with its number, its cause and what to do: no way, or the wrong way.

A collapse, which ends a run, is `health`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import Config
from clipft.config.strategies import keys_for
from clipft.config.values import resolve_rate
from clipft.report.metric_words import words_of
from clipft.report.run_table import main_figure

_FAR = 1.25  # times chance, or the base's own loss: a pretrained model that is tuned only falls from there
_LEFT = 2 / 3  # of the base's accuracy, and below: less is what a good run may lose in its first epochs
_NOISE = 0.05  # a loss of accuracy that a few validation rows bring about
_MUCH = 3  # times the usual rate


def not_learning(losses: Sequence[float], chance: float, *, better: bool = False) -> str | None:
    """A sentence when an epoch's mean loss stayed within 2 % of chance (P18), else None.

    Args:
        losses: of its steps.
        better: whether validation says that something was learnt all the same.
    """
    mean = sum(losses) / len(losses)
    first, last = _thirds(losses)  # a run that only passes through chance is learning
    if better or abs(mean - chance) > 0.02 * chance or first - last > 0.01 * chance:
        return None
    return (
        f"the epoch's mean loss {mean:.3f} is within 2 % of chance ({chance:.3f}): nothing was learnt. Usual causes: a "
        "rate far too high or too low, captions that do not tell the images apart, random weights on little data; "
        "`clipft overfit CONFIG` tries whether a single batch can be learnt"
    )


def is_better(base: Mapping[str, float], now: Mapping[str, float]) -> bool:
    """Whether the figure that says most is better than the base's."""
    name = main_figure(now)
    return name is not None and name in base and now[name] > base[name]


def going_wrong(
    losses: Sequence[float],
    chance: float,
    base: Mapping[str, float],
    now: Mapping[str, float],
    config: Config,
    rates: Mapping[str, float],
) -> str | None:
    """A sentence when an epoch left a pretrained model much worse than it was (P29), else None.

    Args:
        losses: of the epoch's steps.
        base: the base's figures, its `loss` where it is the one that trains; nothing where nothing is measured.
        now: those after the epoch.
        rates: the peak rate of each part that trains.
    """
    signs, name, (first, loss) = [], main_figure(now), _thirds(losses)
    if name is not None and name in base and now[name] < min(base[name] * _LEFT, base[name] - _NOISE):
        signs.append(f"{words_of(name)} fell from the base's {base[name]:.3f} to {now[name]:.3f}")
    high = loss > _FAR * max(chance, base.get("loss", chance))
    if high and ("loss" in base or loss >= first) and not is_better(base, now):
        signs.append(f"the training loss ends the epoch at {loss:.3f}, well above chance ({chance:.3f})")
    if not signs:
        return None
    return (
        f"{' and '.join(signs)}: the usual cause is a rate far too high (here {_rates(config, rates)}). Stop with "
        "Ctrl-C and start anew with a smaller one and another run.dir"
    )


def usual_rates(config: Config) -> dict[str, float]:
    """The rates under `optim` that the strategy stands for: by key."""
    said = {key.path[1]: key.value for key in keys_for(config.strategy) if key.path[0] == "optim"}
    lr = float(said.get("lr", OptimConfig().lr))
    return {f"optim.{key}": resolve_rate(value, lr) for key, value in said.items() if key.startswith("lr")}


def _rates(config: Config, rates: Mapping[str, float]) -> str:
    """The keys that are far above the strategy's, each with what that is; without one, all rates."""
    now = config.optim
    high = [
        f"{key}: {rate:g}, the strategy's {usual:g}"
        for key, usual in usual_rates(config).items()
        if (rate := resolve_rate(getattr(now, key.removeprefix("optim.")), now.lr)) > _MUCH * usual
    ]
    return "; ".join(high) or ", ".join(f"{part} {rate:g}" for part, rate in rates.items())


def _thirds(losses: Sequence[float]) -> tuple[float, float]:
    """The mean of the first third and that of the last."""
    third = max(1, len(losses) // 3)
    return sum(losses[:third]) / third, sum(losses[-third:]) / third
