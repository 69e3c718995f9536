"""Prompt tuning in whole runs: what moves, what stands still, what is shown, what is refused, what reads it back."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_files import write_native
from torch import Tensor
from train_runs import Write, go, lines, said, same, stop_after, view, weights

from clipft.cli import main
from clipft.config.load import load_config
from clipft.errors import InputError
from clipft.evaluate.compare import evaluate_target
from clipft.evaluate.target import open_target
from clipft.evaluate.zeroshot import class_embeddings
from clipft.model.build import build
from clipft.model.runfiles import open_checkpoint
from clipft.model.saved import load_saved
from clipft.predict import Compute, predict_classes
from clipft.train.plan_report import report_plan
from clipft.train.prepare import prepare
from clipft.train.rehearsal import dry_run
from clipft.train.start import start

CPU = torch.device("cpu")
COLOURS = ("blue", "green", "red", "white")


def prompts(image: dict[str, Any] | None = None, **text: Any) -> dict[str, Any]:
    """The `model` section of a run in which prompt vectors train beside frozen towers."""
    frozen = {"projection": "freeze"}
    return {
        "image": frozen | ({} if image is None else {"prompt": image}) | ({} if image else {"freeze_backbone": True}),
        "text": frozen | {"prompt": {"length": 4, **text}},
        "logit_scale": {"train": False},
    }


RUN = {"optim": {"name": "sgd", "lr": 1.0, "lr_new": 1.0}, "train": {"epochs": 2}}


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        (prompts(init="words", words="a photo of a"), {"text_prompt.vectors.0": 4}),
        (prompts(position="middle", depth=2), {"text_prompt.vectors.0": 4, "text_prompt.vectors.1": 4}),
        (prompts(position="front", class_specific=True), {"text_prompt.vectors.0": 16}),
        (
            prompts({"length": 2, "depth": 2}, depth=1),
            {"text_prompt.vectors.0": 4, "image_prompt.vectors.0": 2, "image_prompt.vectors.1": 2},
        ),
    ],
)
def test_every_vector_moves_and_the_base_stands_still(
    write: Write, tmp_path: Path, model: dict[str, Any], rows: dict[str, int]
) -> None:
    """P54: a checkpoint holds the vectors and nothing of the base, and a run of them is read back."""
    path = write(model={"name": f"local-dir:{write_native(tmp_path / 'base')}"} | model, **RUN)
    loaded = load_config(path).config
    base = build(loaded.model, loaded.run.seed, classes=COLOURS).model.state_dict()
    run = go(path).folder
    saved = open_checkpoint(run).tensors()
    assert {name: len(vectors) for name, vectors in saved.items()} == rows
    after = weights(run)
    for name, tensor in base.items():
        if name in rows:
            assert bool((after[name] != tensor).any(dim=1).all()), name
        else:
            assert torch.equal(after[name], tensor), name


def test_a_run_is_evaluated_asked_and_continued_as_it_was_trained(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(model=prompts({"length": 2}, position="middle"), **RUN)
    run = go(path).folder
    last = lines(run, "evaluation")[-1]["metrics"]
    found = evaluate_target(str(run), None, device=CPU)
    assert found.tuned is not None
    assert found.tuned.metrics == pytest.approx(last)
    target = open_target(str(run))
    answers = predict_classes(target, [load_config(path).config.data.val.folder], Compute(CPU), top=1)
    right = [Path(p.image).parent.name == p.classes[0].name for p in answers.predictions]
    assert sum(right) / len(right) == pytest.approx(last["zero_shot_top1"])

    other = write("stopped", model=prompts({"length": 2}, position="middle"), **RUN)
    stop_after(1, other, monkeypatch)
    assert same(weights(go(other).folder), weights(run))


def test_the_base_is_measured_without_vectors(write: Write) -> None:
    """Those of epoch 0 are drawn; the base has none to compare with, in a run as in `evaluate`."""
    run = go(write(model=prompts({"length": 2}), **RUN)).folder
    plain = go(write("plain", optim={"lr": 1e-3}, train={"epochs": 1})).folder
    base = lines(run, "evaluation")[0]["metrics"]
    assert base == lines(plain, "evaluation")[0]["metrics"]
    found = evaluate_target(str(run), None, device=CPU)
    assert found.base is not None
    assert found.base.metrics == pytest.approx(base)


def test_shared_vectors_work_with_classes_of_no_training(write: Write) -> None:
    """P54: vectors are saved without class names, so any names go with them."""
    run = go(write(model=prompts(position="middle"), optim=RUN["optim"], train={"epochs": 1})).folder
    clip = load_saved(run).clip
    assert class_embeddings(clip, ("dog", "cat", "red"), ("a {}.",), device=CPU).shape == (3, 32)


def test_layouts_and_the_text_batch_are_shown_before_the_first_step(write: Write) -> None:
    """P53: three decoded layouts. P55: how many texts of which length a step encodes."""
    shown = view()
    templates = ["a photo of a {}.", "{}"]
    dry_run(load_config(write(model=prompts(position="middle"), data={"templates": templates}, **RUN)), "x", shown)
    words = said(shown)
    for layout in ("a photo of a blue V3 V4 . [end]", "green V3 V4 [end]", "a photo of a red V3 V4 . [end]"):
        assert f"[start] V1 V2 {layout}" in words
    assert "prompt vectors: up to 8 prompts of classes x 16 tokens of text a step" in words
    assert "longest caption 12 of 16 tokens" in words


def test_a_class_name_that_no_longer_fits_stops_a_rehearsal_and_no_report(write: Write) -> None:
    """P53: refused before any training, with the count; a plan needs no tokenizer."""
    names = {"class_names": {"red": "a very long name of a red colour"}}
    loaded = load_config(write(model=prompts(), data=names, **RUN))
    assert report_plan(loaded.config).plan.trainable
    with pytest.raises(InputError, match=r"1 of 4 class names no longer fit \(a very long name of a red colour\)"):
        dry_run(loaded, "x", view())


LONG = "a very long name of a pink colour"


@pytest.fixture
def pink(colour_folder: Callable[..., Path]) -> Path:
    """Pictures of which one class has a name too long for prompts with vectors."""
    folder = colour_folder("pink", each=3)
    (folder / "red").rename(folder / LONG)
    return folder


def captioned(folder: Path, table: Path) -> dict[str, str]:
    """A source of the folder's pictures with captions, and their classes as labels."""
    rows = [f'{p},"a photo {p.stem}",{p.parent.name}\n' for p in sorted(folder.rglob("*.png"))]
    table.write_text("image,text,label\n" + "".join(rows))
    return {"table": str(table), "image": "image", "caption": "text"}


def refused_at_the_start(path: Path, *overrides: str) -> str:
    """What a rehearsal and a run say, the same, with nothing trained."""
    loaded = load_config(path, overrides)
    said = []
    for begin in (lambda: dry_run(loaded, "x", view()), lambda: go(path, *overrides)):
        with pytest.raises(InputError) as refusal:
            begin()
        said.append(str(refusal.value))
    assert said[0] == said[1]
    assert not (path.parent / "runs" / "colours").exists()
    return said[0]


def test_a_long_name_among_what_is_kept_is_refused_at_the_start(write: Write, pink: Path) -> None:
    """P53, P54: before a whole epoch is lost; in its own templates."""
    path = write(model=prompts(), evaluate={"keep": {"folder": str(pink)}}, **RUN)
    message = rf"evaluate.keep: model.text.prompt.length: 1 of 4 class names no longer fit \({LONG}\)"
    assert re.match(message, refused_at_the_start(path))
    keep = {
        "keep": {"folder": str(pink.parent / "val")},
        "keep_templates": ["a photo of many words and many more and one {}"],
    }
    path = write(model=prompts(), evaluate=keep, **RUN)
    assert "evaluate.keep: model.text.prompt.length: 4 of 4 class names no longer fit" in refused_at_the_start(path)


def test_a_long_name_among_validation_classes_is_refused_at_the_start(write: Write, pink: Path, tmp_path: Path) -> None:
    """P53: training has captions alone, or captions and labels."""
    plain = captioned(tmp_path / "colours", tmp_path / "captions.csv")
    path = write(model=prompts(), data={"train": plain, "val": {"folder": str(pink)}}, **RUN)
    assert refused_at_the_start(path).startswith("data.val: model.text.prompt.length: 1 of 4 class names no longer")
    both = {"train": captioned(pink, tmp_path / "both.csv") | {"label": "label"}}
    path = write(model=prompts(), data={**both, "val": None}, **RUN)
    assert refused_at_the_start(path).startswith("data.train: model.text.prompt.length: 1 of 4 class names no longer")


def test_templates_of_what_is_kept_are_of_no_use_beside_captions(write: Write, tmp_path: Path) -> None:
    keep = captioned(tmp_path / "colours", tmp_path / "captions.csv")
    for source, told in ((keep, True), (keep | {"label": "label"}, False)):
        shown = view()
        evaluate = {"keep": source, "keep_templates": ["{}"]}
        dry_run(load_config(write(evaluate=evaluate)), "x", shown)
        words = " ".join(said(shown).split())
        assert ("evaluate.keep_templates is not used: evaluate.keep has captions and no classes" in words) == told


@pytest.mark.parametrize("key", ["position", "class_specific"])
def test_captions_have_no_class_name_to_stand_around(write: Write, tmp_path: Path, key: str) -> None:
    photos = sorted((tmp_path / "colours").rglob("*.png"))
    table = tmp_path / "captions.csv"
    table.write_text("image,text\n" + "".join(f"{p},a photo of {p.parent.name} {p.stem}\n" for p in photos))
    data = {"train": {"table": str(table), "image": "image", "caption": "text"}, "val": 0.2}
    value, harmless = {"position": ("front", "end"), "class_specific": (True, "false")}[key]
    path = write(model=prompts(**{key: value}), data=data, **RUN)
    written = json.dumps(value).strip('"')
    with pytest.raises(InputError, match=f"model.text.prompt.{key}: {written} needs class names, and data.train"):
        prepare(load_config(path).config)
    shown = view()
    go(path, f"model.text.prompt.{key}={harmless}", shown=shown)
    assert "[start] V1 ... V4 a photo of" in said(shown)
    assert "prompt vectors: up to 8 captions x 16 tokens of text a step" in said(shown)


def test_what_is_watched_for_forgetting_needs_vectors_too(write: Write, colour_folder: Callable[..., Path]) -> None:
    """P54: refused before anything is computed, not after a whole epoch."""
    other = colour_folder("other", each=1)
    (other / "red").rename(other / "pink")
    text = {"prompt": {"length": 2, "class_specific": True}}
    path = write(model={"text": text}, evaluate={"keep": {"folder": str(other)}})
    with pytest.raises(InputError, match=r"class_specific: true: 'pink' of evaluate.keep does not train"):
        go(path)


def test_a_class_s_own_vectors_are_counted_in_a_report(write: Write) -> None:
    plan = report_plan(load_config(write(model=prompts(class_specific=True), **RUN)).config).plan
    assert {p.name: p.shape for p in plan.trainable} == {"text_prompt.vectors.0": (16, 32)}


def test_another_run_does_not_start_from_prompt_vectors(write: Write) -> None:
    run = go(write(model=prompts(), **RUN)).folder
    with pytest.raises(InputError, match="this run tuned prompt vectors, which are no weights of a plain model"):
        start(prepare(load_config(write("next", model={"pretrained": str(run)})).config))


# --- equal captions once -------------------------------------------------------------------------


@pytest.mark.parametrize("text", [{}, {"prompt": {"length": 4, "depth": 2}}])
def test_equal_captions_encoded_once_give_the_gradient_of_each(write: Write, text: dict[str, Any]) -> None:
    """P55: texts of a step are its distinct ones, and nothing else changes."""
    started = start(prepare(load_config(write(model={"text": text})).config))
    network, clip = started.stepper.network, started.clip
    captions = ["a photo of a red.", "a photo of a blue.", "a photo of a red.", "a photo of a white."] * 2
    clip.model.double()
    wanted = torch.randn(8, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen: list[int] = []
    tokenizer = clip.tokenizer

    def gradient(features: Tensor) -> dict[str, Tensor]:
        clip.model.zero_grad(set_to_none=True)
        (features * wanted).sum().backward()
        return {n: p.grad for n, p in clip.model.named_parameters() if p.grad is not None}

    def count(texts: list[str]) -> Tensor:
        seen.append(len(texts))
        return tokenizer(texts)

    clip.tokenizer = count  # type: ignore[assignment]
    once = gradient(network._text(captions))
    assert seen == [3]
    each = gradient(torch.cat([clip.text.encode(tokenizer([caption])) for caption in captions]))
    assert once.keys() == each.keys() != set()
    for name, expected in each.items():
        torch.testing.assert_close(once[name], expected, rtol=1e-9, atol=1e-12, msg=name)


# --- the command ---------------------------------------------------------------------------------


def test_the_nearest_words_of_a_run_s_vectors(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = prompts(init="words", words="a photo of a")
    run = go(write(model=model, optim={"lr": 1e-6}, train={"epochs": 1})).folder

    def typed(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["clipft", "inspect", "--prompts", str(run), *words])
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    printed = typed()
    assert " [start] V1 ... V4 a photo of a blue . [end]" in printed.splitlines()
    assert [line.split()[2] for line in printed.splitlines() if line.startswith(" V")] == ["a", "photo", "of", "a"]
    told = json.loads(typed("--json"))["prompts"]
    assert [(vector["owner"], vector["vector"]) for vector in told] == [(None, 1), (None, 2), (None, 3), (None, 4)]
    assert [vector["words"][0]["word"] for vector in told] == ["a", "photo", "of", "a"]
