from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from clipft.config.schema import ModelConfig
from clipft.evaluate.classify import calibration_error, classifier_metrics
from clipft.evaluate.zeroshot import base_to_novel_metrics, class_embeddings, zero_shot_metrics
from clipft.model.build import build
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel
from clipft.model.encode import encode_texts

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip(tiny_native: Path) -> ClipModel:
    return build(ModelConfig(name=f"local-dir:{tiny_native}"), seed=0)


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def test_class_embeddings_equal_open_clips(clip: ClipModel) -> None:
    classes, templates = ["red", "dark blue", "green"], ["a photo of a {}.", "{}", "the colour {} on a wall"]
    ours = class_embeddings(clip, classes, templates, device=CPU)
    theirs = open_clip.build_zero_shot_classifier(clip.model, clip.tokenizer, classes, templates).T
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_braces_in_a_class_name_are_letters(clip: ClipModel) -> None:
    odd = class_embeddings(clip, ["{0} {}"], ["a {}"], device=CPU)
    torch.testing.assert_close(odd, encode_texts(clip, ["a {0} {}"], device=CPU))


@pytest.mark.parametrize("classes", [4, 9])
def test_zero_shot_figures_equal_numpys(classes: int) -> None:
    images, embeddings, scale = unit(300, 8, 0), unit(classes, 8, 1), 12.0
    labels = torch.randint(classes, (300,), generator=torch.Generator().manual_seed(2))
    found = zero_shot_metrics(images, embeddings, labels, scale)

    shares, right = softmax(scale * images.numpy().astype(float) @ embeddings.numpy().T.astype(float)), labels.numpy()
    answers, confidence = shares.argmax(axis=1), shares.max(axis=1)
    hit = answers == right
    bins = np.minimum((confidence * 15).astype(int), 14)
    ece = sum(abs(hit[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins))
    assert found["zero_shot_top1"] == pytest.approx(hit.mean())
    assert found["mean_per_class"] == pytest.approx(np.mean([hit[right == c].mean() for c in range(classes)]))
    assert found["nll"] == pytest.approx(-np.log(shares[np.arange(300), right]).mean(), abs=1e-6)
    assert found["ece"] == pytest.approx(ece, abs=1e-6)
    assert found["confident_wrong"] == pytest.approx((confidence[~hit] > 0.9).mean())
    top5 = (np.argsort(-shares, axis=1)[:, :5] == right[:, None]).any(axis=1).mean()
    assert found.get("zero_shot_top5") == (pytest.approx(top5) if classes > 5 else None)


def test_mean_per_class_is_over_classes_with_rows_and_unlabelled_rows_are_left_out() -> None:
    embeddings = torch.eye(3)
    images, labels = embeddings[[0, 0, 0, 1]], torch.tensor([0, 0, 1, -1])
    found = zero_shot_metrics(images, embeddings, labels, 10.0)
    assert found["zero_shot_top1"] == pytest.approx(2 / 3)
    assert found["mean_per_class"] == pytest.approx((1.0 + 0.0) / 2)


def test_a_collapsed_model_is_right_about_nothing() -> None:
    same = F.normalize(torch.ones(7, 4), dim=-1)
    found = zero_shot_metrics(same, same, torch.arange(7), 100.0)
    assert found["zero_shot_top1"] == found["zero_shot_top5"] == 0.0


def test_calibration_error_is_zero_when_confidence_is_accuracy() -> None:
    confidences = torch.tensor([0.75, 0.75, 0.75, 0.75], dtype=torch.float64)
    assert calibration_error(confidences, torch.tensor([True, True, True, False])) == pytest.approx(0)
    assert calibration_error(torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.bool)) == 1.0


@pytest.mark.parametrize("cosine", [False, True])
def test_classifier_figures_equal_numpys(cosine: bool) -> None:
    torch.manual_seed(0)
    classifier = Classifier(4, 8, cosine=cosine, bias=True, scale=9.0)
    images, labels = unit(100, 8, 0), torch.arange(100) % 4
    found = classifier_metrics(images, labels, classifier)
    shares = softmax(classifier(images).detach().numpy())
    assert found["classifier_top1"] == pytest.approx((shares.argmax(axis=1) == labels.numpy()).mean())
    assert found["classifier_nll"] == pytest.approx(-np.log(shares[np.arange(100), labels]).mean(), abs=1e-5)
    rest = ("mean_per_class", "nll", "ece", "confident_wrong")
    assert set(found) == {"classifier_top1", *(f"classifier_{name}" for name in rest)}


def test_base_and_novel_rows_are_asked_among_their_own_classes() -> None:
    """P54, P62: equal to a loop over rows; a side without rows gives no figure."""
    images, embeddings = unit(40, 8, 1), unit(5, 8, 2)
    labels = torch.randint(-1, 5, (40,), generator=torch.Generator().manual_seed(3))
    novel = [1, 4]
    right: dict[bool, list[bool]] = {False: [], True: []}
    for image, label in zip(images, labels.tolist(), strict=True):
        if label >= 0:
            among = [c for c in range(5) if (c in novel) == (label in novel)]
            right[label in novel].append(max(among, key=lambda c: float(image @ embeddings[c])) == label)
    base, new = (np.mean(right[side]) for side in (False, True))
    found = base_to_novel_metrics(images, embeddings, labels, novel)
    assert found == pytest.approx({"base_top1": base, "novel_top1": new, "harmonic_mean": 2 / (1 / base + 1 / new)})
    only_base = torch.where((labels == 1) | (labels == 4), -1, labels)
    assert base_to_novel_metrics(images, embeddings, only_base, novel) == {}
    wrong = base_to_novel_metrics(-embeddings[:2], embeddings[:2], torch.tensor([0, 1]), [1])
    assert wrong["harmonic_mean"] == 1.0  # one class on each side: nothing else to say
