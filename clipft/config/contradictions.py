"""Written keys that take away all that a strategy trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clipft.config.schema import Config, TowerConfig
from clipft.config.strategy_schema import Strategy
from clipft.config.strategy_shares import TowerShare, share_of
from clipft.config.vocabulary import KeyPath, dotted


def contradictions(strategies: Sequence[Strategy], config: Config) -> Iterator[tuple[KeyPath, str]]:
    """The first such key of each strategy of which nothing is left, with what to say of it.

    Under stages, which write keys of their own, nothing is said.
    """
    for strategy in () if config.stages else strategies:
        if strategy.name == "linear_probe":
            if config.loss.type != "classifier":
                yield (
                    ("loss", "type"),
                    f"{config.loss.type} has no classifier, which is what strategy: linear_probe trains; leave this "
                    "key out, or write another strategy",
                )
            continue
        parts = list(_parts(strategy, config, image_alone=any(each.name == "linear_probe" for each in strategies)))
        if parts and all(taken for _, taken in parts):
            (first, value), *others = dict(taken for _, taken in parts if taken).items()
            beside = f" (and {', '.join(f'{dotted(path)}: {also}' for path, also in others)})" if others else ""
            keys = "one of these keys" if others else "this key"
            yield (
                first,
                f"{value}{beside} leaves nothing of what strategy: {strategy.name} trains: "
                f"{', '.join(what for what, _ in parts)}; leave {keys} out, or write another strategy",
            )


def _parts(
    strategy: Strategy, config: Config, *, image_alone: bool
) -> Iterator[tuple[str, tuple[KeyPath, str] | None]]:
    """What a strategy trains, each part with the key and value that take it away, if they do.

    Args:
        image_alone: a classifier stands beside it, which looks at no text.
    """
    share = share_of(strategy)
    for tower, part, section in (
        ("image", share.image, config.model.image),
        ("text", share.text, config.model.text),
    ):
        if tower == "image" or not image_alone:
            yield from _of_tower(tower, part, section)
    if share.logit_scale and not image_alone:
        gone = None if config.model.logit_scale.train else (("model", "logit_scale", "train"), "false")
        yield "logit_scale", gone


def _of_tower(tower: str, part: TowerShare, section: TowerConfig) -> Iterator[tuple[str, tuple[KeyPath, str] | None]]:
    where = ("model", tower)
    for new in part.new:
        yield f"{new} of the {tower} tower", None if getattr(section, new) is not None else ((*where, new), "null")
    if part.blocks is not None:
        key = section.stopped_by
        yield (
            f"blocks of the {tower} tower",
            None if key is None else ((*where, key), f"{getattr(section, key)}".lower()),
        )
    if part.projection:
        frozen = section.projection == "freeze"
        yield f"the {tower} projection", ((*where, "projection"), "freeze") if frozen else None
