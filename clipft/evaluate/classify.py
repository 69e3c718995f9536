"""How good and how honest answers to "which class?" are, from logits; the classifier's own figures.

Ties count against the model: one that gives every class the same logit is right about none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clipft.model.classifier import Classifier

BINS = 15
"""Equal-width bins of the calibration error (Guo et al. 2017, On Calibration of Modern Neural Networks, section 4)."""
SURE = 0.9
"""Confidence above which a wrong answer counts as a confident one."""
_LOGITS_AT_ONCE = 1 << 24  # 128 MB in float64


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model said about each row.

    Args:
        labels: (N,) the right classes.
        ranks: (N,) how many wrong classes got at least the right one's logit; 0 is a right answer.
        confidences: (N,) the highest probability.
        losses: (N,) minus the logarithm of the right class's probability.
        classes: how many classes there were to choose from.
    """

    labels: Tensor
    ranks: Tensor
    confidences: Tensor
    losses: Tensor
    classes: int


def answer(features: Tensor, labels: Tensor, logits_of: Callable[[Tensor], Tensor], classes: int) -> Answers:
    """Ask for every row with a label.

    Args:
        features: (N, D) float32.
        labels: (N,) class numbers; rows with -1 are left out.
        logits_of: (B, D) float64 features to (B, C) logits.
        classes: C.
    """
    known = labels >= 0
    features, labels = features[known], labels[known]
    ranks, confidences, losses = [], [], []
    at_once = max(1, _LOGITS_AT_ONCE // classes)
    for some, right in zip(features.split(at_once), labels.split(at_once), strict=True):
        logits = logits_of(some.double())  # (B, C)
        log_probabilities = logits.log_softmax(dim=1)
        of_right = logits.gather(1, right[:, None])  # (B, 1)
        ranks.append((logits >= of_right).sum(dim=1) - 1)
        confidences.append(log_probabilities.max(dim=1).values.exp())
        losses.append(-log_probabilities.gather(1, right[:, None])[:, 0])
    return Answers(labels, torch.cat(ranks), torch.cat(confidences), torch.cat(losses), classes)


def answer_metrics(answers: Answers, name: str) -> dict[str, float]:
    """The figures of a set of answers; `name` is zero_shot or classifier.

    A model may be asked both ways: a bare name such as `nll` is the prompts', `classifier_nll` the classifier's.
    `mean_per_class` averages over the classes that have rows. `confident_wrong` is the share of the wrong answers
    that were given with more than 0.9 confidence, 0 where no answer was wrong.
    """
    right = answers.ranks == 0
    metrics = {f"{name}_top1": _mean(right)}
    if answers.classes > 5:
        metrics[f"{name}_top5"] = _mean(answers.ranks < 5)
    rows = torch.bincount(answers.labels, minlength=answers.classes)  # (C,)
    hits = torch.bincount(answers.labels[right], minlength=answers.classes)
    rest = {
        "mean_per_class": float((hits[rows > 0].double() / rows[rows > 0]).mean()),
        "ece": calibration_error(answers.confidences, right),
        "confident_wrong": _mean(answers.confidences[~right] > SURE) if not right.all() else 0.0,
        "nll": float(answers.losses.mean()),
    }
    prefix = "" if name == "zero_shot" else f"{name}_"
    return metrics | {f"{prefix}{figure}": value for figure, value in rest.items()}


def calibration_error(confidences: Tensor, right: Tensor) -> float:
    """Expected calibration error: |accuracy - confidence| by bin, weighted by rows (Guo et al. 2017, equation 3)."""
    bins = (confidences * BINS).ceil().long().clamp(1, BINS) - 1  # bin b holds (b / BINS, (b + 1) / BINS]
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, right.double() - confidences.double())
    return float(gaps.abs().sum() / len(confidences))


def classifier_metrics(features: Tensor, labels: Tensor, classifier: Classifier) -> dict[str, float]:
    """classifier_top1 and the rest, of image features (N, D) as the classifier sees them: L2-normalised."""
    classes = classifier.weight.shape[0]

    def logits_of(some: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = classifier(some.float().to(classifier.weight.device))
        return logits.double().cpu()

    return answer_metrics(answer(features, labels, logits_of, classes), "classifier")


def _mean(hits: Tensor) -> float:
    return float(hits.double().mean())
