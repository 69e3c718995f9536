"""Runs with adapters, a feature adapter, `train_only` and new projections: trained, saved small, measured again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from tiny_files import write_native
from train_runs import Write, go, same, stop_after, view, weights

from clipft.config.load import load_config
from clipft.config.schema import ModelConfig
from clipft.evaluate.compare import evaluate_target
from clipft.export import export
from clipft.model.build import build_meta
from clipft.model.clip_model import ClipModel
from clipft.model.saved import load_saved
from clipft.train.evaluation import Evaluations
from clipft.train.folder import choose_folder
from clipft.train.prepare import prepare
from clipft.train.ready import get_ready
from clipft.train.start import start

ADAPTER = {"adapter": {"bottleneck": 4}}
FEATURE = {"feature_adapter": {}, "projection": "freeze"}
NORMS = {"train_only": ["norms", "biases"]}
WIDE = ("visual.proj", "text_projection")
CPU = torch.device("cpu")


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A base with weights, so that a checkpoint holds what trains alone and the rest comes from the base again."""
    return f"local-dir:{write_native(tmp_path / 'base')}"


def held(run: Path) -> set[str]:
    (state,) = (run / "checkpoints").glob("step-*/state.json")
    return set(json.loads(state.read_text())["saved"])


def one(path: Path, *, random_start: bool = False) -> tuple[Path, ClipModel]:
    """Train, then read the run back; measured again it gives the figures of its end.

    Args:
        random_start: of the classifier, which is then no part of the base that is measured.
    """
    run = go(path).folder
    found = evaluate_target(str(run), None, device=CPU, workers=0).to_json()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = [line["metrics"] for line in lines if line["kind"] == "evaluation"]
    assert found["tuned"].keys() & told[-1].keys()
    for measured, logged in ((found["base"], told[0]), (found["tuned"], told[-1])):
        shared = measured.keys() & logged.keys()
        assert shared or (random_start and measured is found["base"])
        assert {name: measured[name] for name in shared} == pytest.approx({name: logged[name] for name in shared})
    return run, load_saved(run).clip


def at_epoch_0(path: Path) -> Evaluations:
    """A run that has measured its base, before the first step."""
    loaded = load_config(path)
    ready = get_ready(loaded, choose_folder(loaded.config, path.stem, resume=False), view(), write=False)
    assert ready.evaluations is not None
    ready.evaluations.measure_base()
    return ready.evaluations


def sections(base: str, section: dict[str, Any], epochs: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "model": {"name": base, "image": section, "text": section, **more},
        "optim": {"lr": 1e-2},
        "train": {"epochs": epochs},
        "checkpoint": {"keep": {"last": 1}},
    }


def test_adapters(write: Write, base: str) -> None:
    """P36: stopped and taken up again, the run ends in the same bits."""
    run, clip = one(write(**sections(base, ADAPTER)))
    new = {*clip.image.added, *clip.text.added}
    assert held(run) == {*new, *WIDE, "logit_scale"}
    assert all(clip.model.get_parameter(name).abs().max() > 0 for name in new)
    assert not clip.model.training


def test_adapters_in_a_run_that_was_stopped(write: Write, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P36."""
    straight = go(write("straight", **sections(base, ADAPTER))).folder
    path = write("stopped", **sections(base, ADAPTER))
    stop_after(1, path, monkeypatch)
    assert same(weights(straight), weights(go(path, resume=True).folder))


def test_a_feature_adapter(write: Write, base: str) -> None:
    run, clip = one(write(loss={"type": "zero_shot"}, **sections(base, FEATURE)))
    assert held(run) == {*clip.image.added, *clip.text.added, "logit_scale"}


def test_a_feature_adapter_is_no_part_of_the_base(write: Write, base: str) -> None:
    """P29: it is drawn, so epoch 0 is measured without it, as `evaluate` does; the alarm for a collapse knows both."""
    plain = at_epoch_0(write("plain", **sections(base, {})))
    adapted = at_epoch_0(write(**sections(base, {"feature_adapter": {"ratio": 1.0}})))
    assert adapted.base == plain.base
    drawn = adapted._on(adapted.rows, adapted.prepared.config.data.templates).similarity
    assert drawn.keys() == plain.first_similarity.keys()
    assert adapted.first_similarity == {n: max(plain.first_similarity[n], drawn[n]) for n in drawn}
    assert adapted.first_similarity != plain.first_similarity


def test_a_feature_adapter_under_a_classifier(write: Write, base: str) -> None:
    run, clip = one(write(loss={"type": "classifier"}, **sections(base, FEATURE)))
    assert held(run) == {
        *(name for tower in (clip.image, clip.text) for name in tower.added),  # the text's stands still, yet is new
        *("classifier.weight", "classifier.bias"),
    }


def test_a_classifier_starts_from_the_prompts_of_the_base(write: Write, base: str) -> None:
    """Not from what a drawn feature adapter makes of them."""
    heads = []
    for name, section in (("plain", {}), ("adapted", {"feature_adapter": {"ratio": 1.0}})):
        config = load_config(write(name, loss={"type": "classifier"}, **sections(base, section))).config
        heads.append(start(prepare(config)).clip.model.get_parameter("classifier.weight"))
    assert torch.equal(*heads)


def test_train_only(write: Write, base: str) -> None:
    run, clip = one(write(**sections(base, NORMS, epochs=1)))
    assert all(clip.model.get_parameter(name).ndim < 2 for name in held(run) - set(WIDE))
    assert {"visual.ln_post.weight", "transformer.resblocks.0.mlp.c_proj.bias"} <= held(run)


def test_another_width_goes_with_the_weights(write: Write, base: str, tmp_path: Path) -> None:
    """Into the run, the run that starts from it, and what plain open_clip loads."""
    run, clip = one(write(**sections(base, {"freeze_backbone": True}, embed_dim=24)))
    assert held(run) == {*WIDE, "logit_scale"}
    assert (clip.image.embed_dim, clip.model_cfg["embed_dim"]) == (24, 24)
    export(str(run), str(tmp_path / "out"))
    again = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    assert json.loads((tmp_path / "out" / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"] == 24
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again.encode_image(x), clip.model.encode_image(x), atol=1e-6, rtol=0)

    frozen = {"freeze_backbone": True, "projection": "freeze"}
    said = "model.embed_dim: 24 in place of 32, as model.pretrained has it"
    assert said in build_meta(ModelConfig(name=base, pretrained=str(run))).notes
    second, after = one(write("second", **sections(base, frozen, epochs=1, pretrained=str(run))))
    assert held(second) == {"logit_scale"}  # of this run's base the projections are the own
    assert all(torch.equal(after.model.get_parameter(name), clip.model.get_parameter(name)) for name in WIDE)


def test_a_projection_drawn_anew(write: Write, base: str) -> None:
    """Under a classifier the text's projection does not train, but no file has it."""
    reset = {"freeze_backbone": True, "projection": "reset"}
    run, _ = one(
        write(loss={"type": "classifier", "init": "random"}, **sections(base, reset, epochs=1)), random_start=True
    )
    assert held(run) == {*WIDE, "classifier.weight", "classifier.bias"}


def test_stages_may_train_other_kinds(write: Write, base: str) -> None:
    """Two-stage few-shot (2SFS) trains norms first; what trained in any stage is saved."""
    stages = [
        {"epochs": 1, "model": {"image": {"train_only": ["norms"]}}},
        {"epochs": 1, "model": {"image": {"freeze_backbone": True}}},
    ]
    path = write(**sections(base, {"projection": "freeze"}))
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "stages": stages}))
    run = go(path).folder
    assert "visual.ln_post.weight" in held(run)
    assert "visual.conv1.weight" not in held(run)
