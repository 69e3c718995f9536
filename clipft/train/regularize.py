"""`train.regularize` held against the plan: what each pull holds, what it leaves out, what makes no sense."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from clipft.config.forgetting_schema import RegularizeConfig, regularizers
from clipft.config.train_schema import TrainConfig
from clipft.errors import InputError
from clipft.model.plan import NEW, ParameterPlan, Plan, numel
from clipft.words import some

_NOT_OF_THE_BASE = (*NEW, "classifier")
_SCALES = ("logit_scale", "logit_bias")


@dataclass(frozen=True)
class Pull:
    """One of `train.regularize` under a plan.

    Args:
        type: l2sp, feature_distill or zero_shot_distill.
        weight: what it is multiplied by.
        towers: whose features it looks at; none under l2sp.
        holds: the parameters that l2sp holds.
        left_out: those that train without it.
    """

    type: str
    weight: float
    towers: tuple[str, ...] = ()
    holds: tuple[ParameterPlan, ...] = ()
    left_out: tuple[ParameterPlan, ...] = ()

    def in_words(self) -> str:
        """What it does, in a line."""
        if self.type == "l2sp":
            words = (
                f"l2sp {self.weight:g} x the sum of squared differences to the base, over {len(self.holds)} "
                f"tensors ({numel(self.holds):,} parameters)"
            )
            return words + (f"; left out: {some((p.name for p in self.left_out), 5)}" if self.left_out else "")
        of = "features" if self.type == "feature_distill" else "answers"
        measure = "(1 - cosine) to" if self.type == "feature_distill" else "the divergence from"
        passes = "images once more a step, without gradient" if "image" in self.towers else ""
        texts = "texts once" if "text" in self.towers else ""
        cost = ", ".join(part for part in (passes, texts) if part)
        return f"{self.type} {self.weight:g} x {measure} the base's {of}, {' and '.join(self.towers)} (encoded: {cost})"


def settle(
    config: TrainConfig, stages: Sequence[tuple[Plan, str]], drawn: Collection[str] = ()
) -> list[tuple[Pull, ...]]:
    """The pulls of each stage of a run; one that would hold nothing in a stage sits it out.

    Args:
        config: the section.
        stages: of each its plan and its loss (contrastive, siglip, zero_shot or classifier).
        drawn: towers whose projection the base does not have.

    Raises:
        InputError: one would hold nothing in any stage, what the loss does not look at, or what the base has not.
    """
    found: list[list[Pull]] = [[] for _ in stages]
    for one in regularizers(config.regularize):
        refused: list[InputError] = []
        for pulls, (plan, loss) in zip(found, stages, strict=True):
            try:
                pulls.append(_settle(one, plan, loss, drawn))
            except InputError as error:
                refused.append(error)
        if len(refused) == len(stages):
            raise refused[0]
    return [tuple(pulls) for pulls in found]


def _settle(one: RegularizeConfig, plan: Plan, loss: str, drawn: Collection[str]) -> Pull:
    if one.type == "l2sp":
        return _of_weights(one.weight, plan, drawn)
    if drawn:
        raise InputError(
            f"train.regularize: {one.type} holds the base's features, and the projection of {' and '.join(drawn)} is "
            "drawn at random, so the base has none; write type: l2sp"
        )
    trains = {p.tower for p in plan.trainable}
    if one.type == "zero_shot_distill":
        if loss == "classifier":
            raise InputError(
                "train.regularize: zero_shot_distill compares an image with the captions of its batch, at which "
                "loss.type: classifier does not look; write type: feature_distill with towers: image"
            )
        if trains.isdisjoint(("image", "text")):
            raise InputError("train.regularize: zero_shot_distill: no tower trains, so its answers stay the base's own")
        return Pull(one.type, one.weight, ("image", "text"))
    if one.towers == "text" and loss == "classifier":
        raise InputError(
            "train.regularize: feature_distill with towers: text, but loss.type: classifier does not look at texts; "
            "write towers: image"
        )
    asked = ("image", "text") if one.towers == "both" else (one.towers,)
    seen = ("image",) if loss == "classifier" else ("image", "text")
    towers = tuple(tower for tower in asked if tower in seen and tower in trains)
    if not towers:
        raise InputError(
            f"train.regularize: feature_distill with towers: {one.towers}, but nothing there trains, so its features "
            "stay the base's own; take it out, or name another tower"
        )
    return Pull(one.type, one.weight, towers)


def _of_weights(weight: float, plan: Plan, drawn: Collection[str]) -> Pull:
    left_out = tuple(
        p
        for p in plan.trainable
        if p.group in (*_NOT_OF_THE_BASE, *_SCALES) or (p.group == "projection" and p.tower in drawn)
    )
    holds = tuple(p for p in plan.trainable if p not in left_out)
    if not holds:
        raise InputError(
            "train.regularize: l2sp holds parameters of the base near their start, and none of them trains here "
            f"(only {some((p.name for p in left_out), 5)}); write type: feature_distill, or take it out"
        )
    return Pull("l2sp", weight, (), holds, left_out)
