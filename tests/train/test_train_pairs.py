"""Two strategies at once: together they train what each of them trains, or a sentence says why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from expected_names import expected
from safetensors.torch import load_file, save_file
from strategy_pairs import refusal_of
from tiny_files import MEAN, STD, write_open_clip, write_word_tokenizer
from train_runs import few_steps, go, lines, tensors, weights

from clipft.config.load import load_config
from clipft.config.schema import ModelConfig
from clipft.config.strategy_schema import STRATEGIES
from clipft.errors import ConfigError
from clipft.evaluate.compare import evaluate_target
from clipft.model.build import build
from clipft.model.runfiles import open_checkpoint
from clipft.train.checkpoint import saved_names
from clipft.train.prepare import prepare
from clipft.train.start import start

TOWERS = {"prompt": ["text"], "lora": ["image", "text"], "adapter": ["image", "text"]}
"""Of strategies with new parameters, the towers that get them by default."""
OPTIONS = {"last_layers": {"n": 1}}
FAST = {"lr": 1e-3, "lr_heads": 1e-3, "lr_new": 1e-3, "weight_decay": 0.0}

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native CLIP with weights whose tokenizer knows a few words, which takes no time to read."""
    folder = tmp_path_factory.mktemp("base")
    count = write_word_tokenizer(folder, pad=1)  # and the end of a text has the number 2
    text = {"context_length": 16, "vocab_size": count, "width": 32, "heads": 2, "layers": 3}
    text |= {"pool_type": "eos", "eos_id": 2, "hf_tokenizer_name": str(folder)}
    vision = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "squash"}
    write_open_clip(folder, {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, preprocess)
    save_file(model_of(folder).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def model_of(base: Path) -> Any:
    return build(ModelConfig(name=f"local-dir:{base}"), seed=5).model


@pytest.fixture
def write(base: Path, colour_folder: Callable[..., Path], tmp_path: Path) -> Write:
    """Writes the config of some strategies; further sections are laid over it."""
    folder = colour_folder(each=4)

    def write(strategies: Sequence[dict[str, Any]], **sections: dict[str, Any]) -> Path:
        names = [strategy["name"] for strategy in strategies]
        vectors = {"text": {"prompt": {"length": 2}}} if "prompt" in names else {}
        config: dict[str, dict[str, Any]] = {
            "model": {"name": f"local-dir:{base}", **vectors},
            "data": {"train": {"folder": str(folder)}, "val": None, "workers": 0},
            "train": {"epochs": 2, "batch_size": 8, "precision": "fp32", "device": "cpu"},
            "run": {"dir": str(tmp_path / "run")},
        }
        for section, keys in sections.items():
            config.setdefault(section, {}).update(keys)
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"strategy": list(strategies), **config}), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(("one", "other"), list(combinations(STRATEGIES, 2)))
def test_a_pair_trains_what_each_of_them_trains(one: str, other: str, write: Write, base: Path) -> None:
    """Each pair works or is refused with a sentence; what works takes its steps and is saved by name (P52)."""
    path = write([{"name": name, **OPTIONS.get(name, {})} for name in (one, other)], optim=FAST)
    if (sentence := refusal_of(one, other)) is not None:
        with pytest.raises(ConfigError, match=sentence):
            load_config(path)
        return
    prepared = prepare(load_config(path).config)
    together = union((one, other), [name for name, _ in model_of(base).named_parameters()])
    assert {p.name for p in prepared.plan.trainable} == together

    started = start(prepared)
    before = tensors(started)
    few_steps(prepared, started, 2)  # LoRA's A has no gradient before B has moved
    assert {name for name, tensor in tensors(started).items() if not torch.equal(tensor, before[name])} == together
    assert set(saved_names(started.clip.model, [prepared.plan], everything=False)) == together


def union(strategies: Sequence[str], names: Sequence[str]) -> set[str]:
    """What strategies train together, but for what a classifier's loss does not reach."""
    trained: set[str] = set()
    for strategy in strategies:
        if strategy != "differential_lr":  # it is there for its rates
            trained |= expected(strategy, "native", names, TOWERS.get(strategy, ()))
    if "linear_probe" in strategies:
        return {name for name in trained if name.startswith(("visual.", "classifier."))}
    return trained


NO_MORE = {"projections": False, "logit_scale": False}
RUNS: dict[str, tuple[list[dict[str, Any]], int]] = {  # and how many tensors of the tiny model train
    "lora and prompt": ([{"name": "lora"}, {"name": "prompt"}], 2 * 3 * 6 * 2 + 1),
    "prompt and logit_scale": ([{"name": "prompt"}, {"name": "logit_scale"}], 2),
    "prompt, last text block and final norm": (
        [{"name": "prompt"}, {"name": "last_layers", "n": {"text": 1}, **NO_MORE}],
        1 + 12 + 2,
    ),
    "heads and last_layers": ([{"name": "heads"}, {"name": "last_layers"}], 3 + 2 * (2 * 12 + 2)),
    "differential_lr and last_layers": ([{"name": "differential_lr"}, {"name": "last_layers"}], 3 + 2 * (2 * 12 + 2)),
}


@pytest.mark.parametrize("strategies", RUNS)
def test_a_run_of_two_strategies(strategies: str, write: Write, base: Path, colour_folder: Callable[..., Path]) -> None:
    """From config to figures: what trains is saved and moved, the rest is the base's, and what is read back answers
    as the run did.
    """
    both, count = RUNS[strategies]
    run = go(write(both, data={"val": {"folder": str(colour_folder("val", each=3))}})).folder
    saved = open_checkpoint(run).tensors()
    assert len(saved) == count
    plain, tuned = model_of(base).state_dict(), weights(run)
    moved = {name for name in plain.keys() & tuned.keys() if not torch.equal(plain[name], tuned[name])}
    new = {name for name in saved if name not in plain}
    assert moved | new == saved.keys()
    assert tuned.keys() - plain.keys() == new

    evaluations = [line["metrics"] for line in lines(run, "evaluation")]
    found = evaluate_target(str(run), None, device=torch.device("cpu"), workers=0, which="last")
    assert found.base is not None
    assert found.tuned is not None
    assert found.base.metrics == pytest.approx(evaluations[0])
    assert found.tuned.metrics == pytest.approx(evaluations[-1])
    trained = {name for name in load_file(open_checkpoint(run).folder / "optimizer.safetensors") if "/exp_avg" in name}
    assert {name.rpartition("/")[0] for name in trained} == saved.keys()
