"""P55: the texts of a step in pieces of their own: the gradient of one graph, and what is said of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_cost import config_of
from torch import Tensor
from train_runs import Begin, Write, gradients, said, view

from check_cost import real_step
from clipft.config.load import load_config
from clipft.config.schema import Config
from clipft.train import pieces
from clipft.train.losses import Features
from clipft.train.pieces import PROMPTS_AT_ONCE, texts_at_once
from clipft.train.plan_report import report_plan
from clipft.train.rehearsal import dry_run
from clipft.train.start import Started

ZERO_SHOT = {"type": "zero_shot"}
TEMPLATES = [f"a photo of a {{}}, number {i}." for i in range(75)]  # 300 prompts of four classes


@pytest.fixture
def data(colour_folder: Callable[..., Path]) -> dict[str, Any]:
    return {"train": {"folder": str(colour_folder("many"))}, "val": None, "workers": 0, "templates": TEMPLATES[:3]}


def counted(started: Started) -> dict[str, list[tuple[int, bool]]]:
    """How many images and texts go through their towers from now on, and whether with a graph."""
    seen: dict[str, list[tuple[int, bool]]] = {"image": [], "text": []}
    network = started.stepper.network
    image, text = network.image_features, network.text_features

    def look(images: Tensor) -> Tensor:
        seen["image"].append((len(images), torch.is_grad_enabled()))
        return image(images)

    def read(texts: tuple[str, ...]) -> Tensor:
        seen["text"].append((len(texts), torch.is_grad_enabled()))
        return text(texts)

    network.image_features, network.text_features = look, read  # type: ignore[assignment,method-assign]
    return seen


def test_more_prompts_than_fit_go_in_pieces_and_images_do_not(begin: Begin, data: dict[str, Any]) -> None:
    started, batch = begin(loss=ZERO_SHOT, data={**data, "templates": TEMPLATES})
    seen = counted(started)
    gradients(started, batch)
    assert seen["text"] == [(256, False), (44, False), (256, True), (44, True)]
    assert seen["image"] == [(8, True)]


@pytest.mark.parametrize(("micro", "texts"), [(None, [(12, True)]), (5, [(5, False), (5, False), (2, False)])])
def test_fewer_go_in_one_graph_unless_the_rows_do_not(
    begin: Begin, data: dict[str, Any], micro: int | None, texts: list[tuple[int, bool]]
) -> None:
    started, batch = begin(loss=ZERO_SHOT, data=data, train={"micro_batch_size": micro})
    seen = counted(started)
    gradients(started, batch)
    assert seen["text"] == texts + [(count, True) for count, graph in texts if not graph]


def test_a_frozen_text_backbone_has_no_pieces(begin: Begin, data: dict[str, Any]) -> None:
    """Its features come from memory."""
    frozen = {"text": {"freeze_backbone": True}}
    started, batch = begin(model=frozen, loss=ZERO_SHOT, data={**data, "templates": TEMPLATES})
    seen = counted(started)
    gradients(started, batch)
    assert seen["text"] == [(300, True)]


@pytest.mark.parametrize("text", [{}, {"prompt": {"length": 2}}])
@pytest.mark.parametrize("micro", [None, 3])
def test_their_gradient_is_that_of_one_graph(
    begin: Begin, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, micro: int | None, text: dict[str, Any]
) -> None:
    settings = {"model": {"text": text}, "loss": ZERO_SHOT, "data": data}
    expected = gradients(*begin(**settings))
    monkeypatch.setattr(pieces, "PROMPTS_AT_ONCE", 5)
    started, batch = begin(**settings, train={"micro_batch_size": micro})
    seen = counted(started)
    found = gradients(started, batch)
    assert len(seen["text"]) == 2 * (3 if micro is None else 4)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_their_dropout_is_drawn_once(begin: Begin, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one graph over the same pieces, drawn in the same order from the same seed."""
    monkeypatch.setattr(pieces, "PROMPTS_AT_ONCE", 5)
    model = {"image": {"dropout": 0.3}, "text": {"dropout": 0.3}}
    started, batch = begin(model=model, loss=ZERO_SHOT, data=data)
    found = gradients(started, batch)
    torch.manual_seed(3)
    started.stepper.optimizer.zero_grad(set_to_none=True)
    network, texts = started.stepper.network, started.objective.texts
    image = network.image_features(batch.images)
    text = torch.cat([network.text_features(texts[start : start + 5]) for start in (0, 5, 10)])
    started.objective(Features(image, text), started.stepper._targets(batch)).backward()
    for name, parameter in started.clip.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_random_numbers_go_on_as_after_one_pass(begin: Begin, data: dict[str, Any]) -> None:
    """What is drawn after a step was not drawn in it."""
    model = {"text": {"dropout": 0.3}}
    started, batch = begin(model=model, loss=ZERO_SHOT, data={**data, "templates": TEMPLATES})
    gradients(started, batch)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    with torch.no_grad():
        started.stepper.network.image_features(batch.images)
        for start in (0, PROMPTS_AT_ONCE):
            started.stepper.network.text_features(started.objective.texts[start : start + PROMPTS_AT_ONCE])
    assert torch.equal(after, torch.get_rng_state())


def test_captions_come_with_their_rows() -> None:
    assert texts_at_once(1024, 1024, None, trains=True, of_classes=False) == 1024
    assert texts_at_once(1024, 1024, 32, trains=True, of_classes=False) == 32
    assert texts_at_once(1024, 64, 512, trains=True, of_classes=True) == 256


@pytest.mark.parametrize("micro", [None, 20])
@pytest.mark.parametrize("image", [{}, {"freeze_backbone": True}])
def test_a_step_costs_what_is_said(image: dict[str, Any], micro: int | None, tiny_native: Path) -> None:
    """Memory within 20 %, FLOPs exact; 270 prompts of six numbers of fingers."""
    hands = {"train": {"builtin": "hands", "label": "fingers"}, "workers": 0, "templates": TEMPLATES[:45]}
    train = {"micro_batch_size": micro}
    config: Config = config_of(tiny_native, {"image": image}, loss=ZERO_SHOT, data=hands, train=train)
    cost, real = report_plan(config).cost, real_step(config)
    assert cost is not None
    assert cost.texts > cost.texts_at_once == (micro or 256)
    assert cost.step.total == real.flops
    assert cost.peak == pytest.approx(real.peak, rel=0.2)


@pytest.mark.parametrize(
    ("model", "train", "expected"),
    [
        ({}, {}, "texts: 300 prompts of classes x 16 tokens of text a step, 256 at a time"),
        ({"text": {"prompt": {"length": 2}}}, {}, "prompt vectors: up to 300 prompts of classes x 16 tokens of text a"),
        ({}, {"micro_batch_size": 2}, "texts: 300 prompts of classes x 16 tokens of text a step, 2 at a time"),
    ],
)
def test_the_real_piece_is_said(write: Write, model: dict[str, Any], train: dict[str, Any], expected: str) -> None:
    shown = view()
    path = write(model=model, loss=ZERO_SHOT, data={"templates": TEMPLATES}, train={"epochs": 1, **train})
    dry_run(load_config(path), path.stem, shown)
    words = " ".join(said(shown).split())
    assert expected in words
    assert f"{train.get('micro_batch_size', 256)} at a time" in words
