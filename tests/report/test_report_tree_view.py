"""The tree as a person sees it: 80 columns, folded, cut where there is more, states in words."""

from __future__ import annotations

import io

import pytest
from freeze_models import native, on_meta, plan_of
from rich.console import Console
from torch import nn

from clipft.model.module_tree import block_trees, module_tree
from clipft.model.towers import towers_of
from clipft.report.tree_view import print_blocks, print_tree


def shown(model: nn.Module, *, full: bool = False, width: int = 80, colour: bool = False, **policy: object) -> str:
    plan = plan_of(model, **policy) if policy else None  # type: ignore[arg-type]
    file = io.StringIO()
    system = "standard" if colour else None
    console = Console(file=file, width=width, highlight=False, force_terminal=colour, color_system=system)
    print_tree(module_tree(model, *towers_of(model), plan=plan, fold=not full), console, full=full)
    return file.getvalue()


def test_blocks_are_folded_and_named_as_the_freeze_keys_count_them() -> None:
    lines = [" ".join(line.split()) for line in shown(on_meta("ViT-B-32")).splitlines()]
    assert "(0-11): 12 x ResidualAttentionBlock 12 x 7,087,872 image blocks 0-11" in lines
    assert "(0-11): 12 x ResidualAttentionBlock 12 x 3,152,384 text blocks 0-11" in lines
    assert "proj 768 x 512 393,216 image projection" in lines
    assert "c_fc: Linear 3072 x 768 + bias 2,362,368" in lines


@pytest.mark.parametrize("name", ["convnext_xxlarge", "ViTamin-XL-384", "MobileCLIP2-L-14"])
def test_it_fits(name: str) -> None:
    lines = shown(on_meta(name)).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 90


def test_what_is_cut_is_marked_and_said() -> None:
    folded = shown(on_meta("RN50"))
    assert "(1-5): 5 x Bottleneck [+]" in folded
    assert folded.rstrip().endswith("[+] has more inside: --block N shows a whole block, --full every module")
    full = shown(on_meta("RN50"), full=True)
    assert "[+]" not in full
    assert " x Bottleneck" not in full
    assert full.count("Bottleneck") == 3 + 4 + 6 + 3


def test_states_are_words_and_frozen_parts_are_dim() -> None:
    policy = {"image": {"freeze_layers": 2}, "text": {"freeze_backbone": True}}
    plain = [" ".join(line.split()) for line in shown(native(), **policy).splitlines()]
    assert any(line.startswith("(0-1): 2 x ResidualAttentionBlock") and line.endswith("frozen") for line in plain)
    assert any(line.startswith("2: ResidualAttentionBlock") and line.endswith("trains") for line in plain)
    assert any(line.startswith("visual: VisionTransformer") and line.endswith("train") for line in plain)
    coloured = shown(native(), colour=True, **policy).splitlines()
    first = next(i for i, line in enumerate(coloured) if "(0-1): 2 x" in line)
    inside = next(line for line in coloured[first:] if "gelu" in line)
    assert coloured[first].startswith("\x1b[2m")
    assert inside.startswith("\x1b[2m")  # what has no parameters looks as what it is in


def test_one_block_with_all_that_is_in_it() -> None:
    model = on_meta("RN50")
    file = io.StringIO()
    print_blocks(3, block_trees(model, *towers_of(model), 3), Console(file=file, width=80))
    assert file.getvalue().startswith("image block 3\n visual.layer4: Sequential")
    assert "text block 3\n transformer.resblocks.3: ResidualAttentionBlock" in file.getvalue()
    file = io.StringIO()
    print_blocks(7, block_trees(model, *towers_of(model), 7), Console(file=file, width=80))
    assert file.getvalue().startswith("the image tower has no block 7\n")
