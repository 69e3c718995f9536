"""The loss that asks as zero-shot classification does: an image against the prompts of all classes."""

import numpy as np
import pytest
import torch
from PIL import Image
from train_runs import Write, go, lines, said, view, weights

from clipft.config.load import load_config
from clipft.errors import ConfigError, InputError
from clipft.model.saved import load_saved
from clipft.train.losses import Features, Targets, ZeroShot
from clipft.train.plan_report import report_plan
from clipft.train.prepare import prepare

NAMES = ("blue", "green")


def test_it_is_the_cross_entropy_of_scaled_cosines() -> None:
    """Against NumPy, with two prompts a class and a class that does not train."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(5, 8)), rng.normal(size=(6, 8))
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    labels = np.array([0, 2, 3, 3, 0])  # of four classes, the second of which is not among the trained ones
    loss = ZeroShot(
        torch.nn.Parameter(torch.tensor(2.0)), tuple("abcdef"), 3, torch.tensor([0, -1, 1, 2]), label_smoothing=0.1
    )
    numbers = torch.arange(5)
    value = loss(
        Features(torch.from_numpy(image).float(), torch.from_numpy(text).float()),
        Targets(numbers, torch.from_numpy(labels), numbers),
    )
    embeddings = text.reshape(3, 2, 8).mean(axis=1)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    logits = np.exp(2.0) * image @ embeddings.T
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    right = log_p[np.arange(5), [0, 1, 2, 2, 0]]
    assert float(value.detach()) == pytest.approx(-(0.9 * right + 0.1 * log_p.mean(axis=1)).mean(), rel=1e-5)
    assert loss.chance(5) == pytest.approx(np.log(3))


def test_a_run_learns_and_its_plain_loss_is_the_nll(write: Write) -> None:
    shown = view()
    finished = go(write(loss={"type": "zero_shot"}, train={"epochs": 6}), shown=shown)
    assert finished.tuned["zero_shot_top1"] == 1.0
    assert finished.tuned["loss"] == pytest.approx(finished.tuned["nll"], abs=1e-6)
    assert lines(finished.folder, "step")[0]["chance"] == pytest.approx(np.log(4))
    assert "8 images x 1 process, each against the prompts of 4 classes" in said(shown)


def test_the_validation_loss_is_the_objective_on_the_classes_that_train(write: Write) -> None:
    """Smoothed and weighted as in training, by NumPy; what is measured on novel classes has no say in it (P62)."""
    weights = {"green": 3.0, "white": 50.0}  # the second is novel
    path = write(
        loss={"type": "zero_shot", "label_smoothing": 0.2, "class_weights": weights},
        data={"templates": ["a photo of a {}.", "{}"]},
        evaluate={"novel_classes": ["red", "white"]},
        train={"epochs": 1},
    )
    run = go(path)
    clip = load_saved(run.folder, "last").clip
    photos = [(label, p) for label in range(2) for p in sorted((path.parent / "val" / NAMES[label]).iterdir())]
    with torch.no_grad():
        images = torch.stack([clip.preprocess(Image.open(p).convert("RGB")) for _, p in photos])
        image = clip.model.encode_image(images, normalize=True).double().numpy()
        prompts = clip.tokenizer([text for name in NAMES for text in (f"a photo of a {name}.", name)])
        text = clip.model.encode_text(prompts, normalize=True).double().numpy()
    embeddings = text.reshape(2, 2, -1).mean(axis=1)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    logits = clip.scale * image @ embeddings.T
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    labels, of_class = np.array([label for label, _ in photos]), np.array([1.0, 3.0])
    target = 0.8 * np.eye(2)[labels] + 0.1
    assert len(labels) == 6
    expected = -(target * of_class * log_p).sum() / of_class[labels].sum()
    assert run.tuned["loss"] == pytest.approx(expected, rel=1e-5)
    assert lines(run.folder, "evaluation")[-1]["counts"]["classes_measured"] == 4


def test_pieces_give_the_whole_batchs_gradient(write: Write) -> None:
    """P22: fewer texts than pieces of rows, and prompts by several templates."""
    data = {"templates": ["a photo of a {}.", "{}", "the colour {}"]}
    loss, train = {"type": "zero_shot"}, {"epochs": 1}
    whole = go(write("whole", loss=loss, data=data, train=train, optim={"name": "sgd", "lr": 0.1}))
    pieces = go(
        write("pieces", loss=loss, data=data, train={**train, "micro_batch_size": 3}, optim={"name": "sgd", "lr": 0.1})
    )
    a, b = weights(whole.folder), weights(pieces.folder)
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-5
    assert any(not torch.equal(a[name], b[name]) for name in a)  # it did take another way


def test_novel_classes_are_not_among_the_answers(write: Write) -> None:
    finished = go(write(loss={"type": "zero_shot"}, evaluate={"novel_classes": "half"}, train={"epochs": 2}))
    assert lines(finished.folder, "step")[0]["chance"] == pytest.approx(np.log(2))


def test_what_it_needs(write: Write, tmp_path: object) -> None:
    config = load_config(write(loss={"type": "zero_shot", "label_smoothing": 0.1, "class_weights": "balanced"})).config
    assert prepare(config).loss == "zero_shot"
    cost = report_plan(config).cost
    assert cost is not None
    contrastive = report_plan(load_config(write("contrastive")).config).cost
    assert contrastive is not None
    assert cost.step.forward < contrastive.step.forward  # 4 texts in place of 8
    with pytest.raises(ConfigError, match="label_smoothing: is for type: classifier or zero_shot, not contrastive"):
        load_config(write(loss={"type": "contrastive", "label_smoothing": 0.1}))
    hands = {"train": {"builtin": "hands", "count": 32, "label": None}, "val": None}
    with pytest.raises(InputError, match=r"loss.type: zero_shot needs a class for each row"):
        prepare(load_config(write("captions", loss={"type": "zero_shot"}, data=hands)).config)
