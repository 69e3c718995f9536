"""The freeze report as a person sees it: in 80 columns, without colour, with the same words on a terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from rich.console import Console
from torch import nn

from clipft.config.load import load_config
from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import ModelConfig
from clipft.model.classifier import Classifier
from clipft.model.cost import Cost, Flops
from clipft.model.describe import memory
from clipft.model.freeze import make_plan
from clipft.model.plan import Plan
from clipft.model.towers import towers_of
from clipft.report.amounts import grouped, in_bytes, in_flops, share
from clipft.report.freeze_table import print_every_parameter, print_freeze_report, rate, shape_words
from clipft.train.plan_report import report_plan

VIT_B_32 = """\
ViT-B-32 · laion2b_s34b_b79k · 151,277,313 parameters

image  froze embeddings + first 10/12 blocks
       (125 of 151 tensors, 73.3M of 87.5M parameters)
text   froze all backbone parameters (148 tensors, 63.2M parameters)

 part            tensors   parameters   trainable     lr  share / why
 image
   embeddings          5    2,400,000           -      -  freeze_layers: 10
   blocks 0-9        120   70,878,720           -      -  freeze_layers: 10
   blocks 10-11       24   14,175,744  14,175,744  1e-05  9.4 %
   norm                2        1,536       1,536  1e-05  <0.1 %
   projection          1      393,216     393,216  1e-04  0.3 %
 text
   embeddings          2   25,336,320           -      -  freeze_backbone: true
   blocks 0-11       144   37,828,608           -      -  freeze_backbone: true
   norm                2        1,024           -      -  freeze_backbone: true
   projection          1      262,144     262,144  1e-04  0.2 %
 logit_scale           1            1           1  1e-04  <0.1 %
 total               302  151,277,313  14,832,641         9.8 % trains

 decay    0.1 on 10 tensors · none on 19: biases, norms, tables, scales
 memory   weights 605 MB · gradients 59 MB · optimiser 119 MB
 a step   backward stops at image block 10 and at the text projection
 frozen   stays in evaluation mode: no dropout, no new BatchNorm statistics
"""


@pytest.fixture(scope="module")
def vit_b_32() -> nn.Module:
    with torch.device("meta"):
        return open_clip.create_model("ViT-B-32", device="meta")


def plan_of(model: nn.Module, *, loss: str = "contrastive", optim: dict[str, Any] | None = None, **config: Any) -> Plan:
    section = ModelConfig(name="ViT-B-32", pretrained="laion2b_s34b_b79k", **config)
    chosen = OptimConfig(**({"lr_heads": 1e-4} | (optim or {})))
    image, text = towers_of(model)
    return make_plan(model, image, text, name="ViT-B-32", config=section, loss=loss, features="projected", optim=chosen)


def printed(show: Callable[[Console], None], width: int = 80, **console: Any) -> str:
    file = io.StringIO()
    show(Console(file=file, width=width, highlight=False, **console))
    return file.getvalue()


def report(
    plan: Plan, width: int = 80, base: str = "laion2b_s34b_b79k", cost: Cost | None = None, **console: Any
) -> str:
    return printed(lambda c: print_freeze_report(plan, c, base=base, optimizer="adamw", cost=cost), width, **console)


def test_vit_b_32_whole(vit_b_32: nn.Module) -> None:
    plan = plan_of(vit_b_32, image={"freeze_layers": 10}, text={"freeze_backbone": True})
    assert report(plan) == VIT_B_32


COST = """\
 memory   weights 605 MB · gradients 59 MB · optimiser 119 MB
          activations 383 MB at batch 64 in fp32 · peak 1.1 GB
          Python and its libraries come on top
 a step   564 GFLOP forward · 183 GFLOP backward
          26.5 % of the 2.8 TFLOP of training everything
          the frozen text backbone is in no step: it takes each caption once
          backward stops at image block 10 and at the text projection
"""
PIECES = "activations 98 MB at batch 64, 16 at a time, in bf16 · peak 9.9 GB"


def cost_of(plan: Plan, **changes: Any) -> Cost:
    return replace(
        Cost(
            memory(plan, "adamw"),
            activations=383_048_704,
            peak=1_139_072_016,
            step=Flops(564_365_623_296, 183_302_619_136),
            everything=Flops(945_742_675_968, 1_876_687_847_424),
            batch_size=64,
            rows_at_once=64,
            precision="fp32",
            texts_once=True,
        ),
        **changes,
    )


def test_what_a_step_costs(vit_b_32: nn.Module) -> None:
    plan = plan_of(vit_b_32, image={"freeze_layers": 10}, text={"freeze_backbone": True})
    start = VIT_B_32.index(" memory")
    end = VIT_B_32.index(" frozen   stays")
    assert report(plan, cost=cost_of(plan)) == VIT_B_32[:start] + COST + VIT_B_32[end:]


def test_what_is_held_twice_has_a_line_of_its_own(vit_b_32: nn.Module) -> None:
    plan = plan_of(vit_b_32)
    text = report(plan, cost=cost_of(plan, copies=1_210_000_000))
    assert "optimiser 1.2 GB\n          copies 1.2 GB of what trains, for train.ema or train.regularize\n" in text


def test_what_pieces_and_training_everything_cost(vit_b_32: nn.Module) -> None:
    plan = plan_of(vit_b_32)
    everything = Flops(10**12, 2 * 10**12)
    changes = {"rows_at_once": 16, "precision": "bf16", "activations": 98 * 10**6, "peak": 9_940_000_000}
    text = report(plan, cost=cost_of(plan, step=everything, everything=everything, texts_once=False, **changes))
    assert f"          {PIECES}\n          Python and its libraries come on top\n a step   1.0 TFLOP forward" in text
    assert "TFLOP forward · 2.0 TFLOP backward\n          backward goes" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"texts": 3000, "texts_at_once": 256}, True),
        ({"texts": 64, "texts_at_once": 16, "rows_at_once": 16}, False),  # captions, with their rows
        ({"texts": 20, "texts_at_once": 20}, False),
    ],
)
def test_texts_in_pieces_of_their_own_are_said(vit_b_32: nn.Module, texts: dict[str, int], said: bool) -> None:
    """P55."""
    plan = plan_of(vit_b_32)
    text = report(plan, cost=cost_of(plan, texts_once=False, **texts))
    assert ("          3,000 texts a step, 256 at a time with the gradient of all\n" in text) == said
    assert ("texts a step" in text) == said


POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"image": {"freeze_layers": 10, "freeze_backbone": False}, "logit_scale": {"train": False}},
    {
        "image": {"freeze_pattern": "ln|attn"},
        "text": {"freeze_pattern": "resblocks.(1|3|5|7|9|11).(attn|mlp).*(weight|bias)"},
    },
    {"image": {"freeze_pattern": "attn", "freeze_layers": 3, "freeze_backbone": True, "projection": "freeze"}},
    {"optim": {"groups": [{"pattern": "mlp", "lr": 1.234e-7}, {"pattern": "resblocks.3", "lr": "x0.123456"}]}},
)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("width", [80, 140])
def test_it_fits(vit_b_32: nn.Module, policy: dict[str, Any], width: int) -> None:
    text = report(plan_of(vit_b_32, **policy), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_the_largest_model_fits() -> None:
    with torch.device("meta"):
        model = open_clip.create_model("ViT-bigG-14", device="meta")
    text = report(plan_of(model, image={"freeze_pattern": "attn"}, text={"freeze_layers": 3}))
    assert "2,539,567,105" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_colour_adds_and_never_carries(vit_b_32: nn.Module, policy: dict[str, Any]) -> None:
    plan = plan_of(vit_b_32, **policy)
    coloured = report(plan, force_terminal=True, color_system="truecolor")
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == report(plan)


def test_rows_add_up_to_the_total(vit_b_32: nn.Module) -> None:
    for policy in POLICIES:
        text = report(plan_of(vit_b_32, **policy))
        rows = re.findall(r"^ +((?:blocks? )?\S+) +([\d,]+) +([\d,]+) +([\d,]+|-)  ", text, re.M)
        numbers = [[int(cell.replace(",", "").replace("-", "0")) for cell in row[1:]] for row in rows]
        assert rows[-1][0] == "total"
        assert [sum(column) for column in zip(*numbers[:-1], strict=True)] == numbers[-1]


def test_blocks_of_one_state_are_one_line(vit_b_32: nn.Module) -> None:
    text = report(plan_of(vit_b_32, text={"freeze_pattern": "resblocks.(1|3|10|11)"}))
    found = re.findall(r"^   (blocks? \S+)", text, re.M)
    assert found == ["blocks 0-11", "block 0", "block 1", "block 2", "block 3", "blocks 4-9", "blocks 10-11"]
    assert "'resblocks.(1|3|10|11)' took blocks 1, 3, 10-11" in text


def test_what_is_ignored_or_not_in_the_loss_is_said(vit_b_32: nn.Module) -> None:
    """P23, P14: the report, not only the plan, has it."""
    with torch.device("meta"):
        model = open_clip.create_model("ViT-B-32", device="meta", init_logit_bias=-10)
        text = report(plan_of(model, image={"freeze_layers": 0, "freeze_backbone": True}))
        assert "freeze_backbone: true ignored" in text
        assert re.search(r"logit_bias +1 +1 +- +-  not in the loss", text)
        assert "logit_bias is frozen" in text
        model.classifier = Classifier(10, 512, cosine=False, bias=True)
        text = report(plan_of(model, loss="classifier"))
        told = report(plan_of(model, loss="classifier", text={"freeze_backbone": True}))  # as linear_probe writes it
        assert "true ignored" not in told
        assert "freeze_layers: 3 ignored" in report(plan_of(model, loss="classifier", text={"freeze_layers": 3}))
    assert re.search(r"classifier +2 +5,130 +5,130  1e-04", text)
    assert "froze all 149 tensors: not in the loss" in text
    assert "stays out of the text tower" in " ".join(text.split())


def test_a_model_that_is_its_own_base_is_named_once(vit_b_32: nn.Module) -> None:
    assert report(plan_of(vit_b_32), base="ViT-B-32").splitlines()[0] == "ViT-B-32 · 151,277,313 parameters"


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_the_whole_list(vit_b_32: nn.Module, policy: dict[str, Any]) -> None:
    plan = plan_of(vit_b_32, **policy)
    text = printed(lambda c: print_every_parameter(plan, c))
    heading, seen = "", {}
    for line in text.splitlines():
        if found := re.fullmatch(r"(frozen|trains\*?) +(\S+)  (.+)", line):
            seen[found[2]] = (found[1], found[3], heading)
        else:  # a long heading takes two lines
            heading = f"{heading} {line}"[-200:]
    assert set(seen) == {p.name for p in plan.parameters}
    for p in plan.parameters:
        state, shape, heading = seen[p.name]
        assert shape == shape_words(p.shape)
        assert state == ("frozen" if not p.trainable else "trains" if p.weight_decay else "trains*")
        assert heading.endswith(p.rule if p.rule else rate(p.lr))
        assert p.group in heading
    assert max(map(len, text.splitlines())) <= 80


def test_amounts() -> None:
    assert grouped(151277313) == "151,277,313"
    assert [share(n, 10_000) for n in (0, 1, 5, 980, 9_999, 10_000)] == [
        "0.0 %",
        "<0.1 %",
        "0.1 %",
        "9.8 %",
        ">99.9 %",
        "100 %",
    ]
    assert [in_bytes(n) for n in (0, 999, 1_500, 9_960_000, 605_109_252, 10_158_268_420)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "10 MB",
        "605 MB",
        "10 GB",
    ]
    assert [in_flops(n) for n in (0, 92_274_688, 564_365_623_296, 2_822_430_523_392, 5.6e15, 2e19)] == [
        "0 FLOP",
        "92 MFLOP",
        "564 GFLOP",
        "2.8 TFLOP",
        "5.6 PFLOP",
        "20000 PFLOP",
    ]
    assert [rate(lr) for lr in (1e-5, 1e-4, 3.5e-6, 1.2344e-7, 0.1, None)] == [
        "1e-05",
        "1e-04",
        "3.5e-06",
        "1.234e-07",
        "1e-01",
        "-",
    ]
    assert (shape_words((768, 512)), shape_words(())) == ("768 x 512", "scalar")


def test_a_resized_model_says_so_before_its_weights_are_there(tmp_path: Path) -> None:
    """P47: freeze-report tells of positions that training would resample."""
    path = tmp_path / "c.yaml"
    path.write_text("model: {name: ViT-S-32, image_size: 256}\ndata: {train: {builtin: hands}}\n")
    report = report_plan(load_config(path, need_data=False).config, with_cost=False)
    assert any(note.startswith("model.image_size: 256 pixels in place of 224") for note in report.notes)


def test_one_of_something_is_one(vit_b_32: nn.Module) -> None:
    only = plan_of(vit_b_32, image={"freeze_pattern": "conv1"})
    assert "froze 1 of 151 tensors matching 'conv1'" in only.lines["image"]
    decayed = {"groups": [{"pattern": "visual.conv1", "weight_decay": 0.3}]}
    assert "0.3 on 1 tensor ·" in report(plan_of(vit_b_32, optim=decayed))
