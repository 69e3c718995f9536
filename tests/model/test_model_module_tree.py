"""The tree of modules: equal ones folded, every parameter in it once, states as the plan has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from freeze_models import native, on_meta, plan_of
from tiny_families import FAMILIES, build
from torch import nn

from clipft.config.additions_schema import LastBlocks, LoraConfig
from clipft.errors import InputError
from clipft.model.lora import add_lora
from clipft.model.module_tree import Node, block_trees, module_tree
from clipft.model.towers import towers_of


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def at(node: Node, *names: str) -> Node:
    for name in names:
        node = next(child for child in node.children if child.name == name)
    return node


def test_vit_b_32_folds_each_towers_blocks_into_one() -> None:
    model = on_meta("ViT-B-32")
    tree = module_tree(model, *towers_of(model))
    image = at(tree, "visual", "transformer", "resblocks", "(0-11)")
    assert (image.kind, image.count, image.part, image.parameters) == (
        "ResidualAttentionBlock",
        12,
        "image blocks 0-11",
        7_087_872,
    )
    assert at(tree, "transformer", "resblocks", "(0-11)").parameters == 3_152_384
    assert tree.parameters == 151_277_313
    assert at(tree, "visual").parameters == 87_849_216
    own = {tensor.name: (tensor.shape, tensor.part) for tensor in tree.tensors}
    assert own["text_projection"] == ((512, 512), "text projection")
    assert own["logit_scale"] == ((), "logit_scale")
    assert "image_dropout" not in {child.name for child in tree.children}  # clipft's own, not the model's


def test_blocks_with_lora_fold_as_far_as_they_are_alike() -> None:
    model = on_meta("ViT-B-32")
    image, text = towers_of(model)
    add_lora(model, image, LoraConfig(rank=2, targets=("q", "fc"), layers=LastBlocks(last=4)))
    blocks = at(module_tree(model, image, text), "visual", "transformer", "resblocks").children
    assert [(node.name, node.part, node.parameters) for node in blocks] == [
        ("(0-7)", "image blocks 0-7", 7_087_872),
        ("(8-11)", "image blocks 8-11", 7_087_872 + 2 * (2 * 768) + 2 * (768 + 3072)),
    ]
    assert at(blocks[1], "attn", "lora", "q").detail == "rank=2, scaling=8, rows 0-768 of in_proj_weight"


@pytest.mark.parametrize("family", FAMILIES)
def test_each_parameter_is_counted_once(family: str, tmp_path: Path) -> None:
    """mT5 has its table under two names."""
    model = build(family, tmp_path)
    folded = module_tree(model, *towers_of(model))
    assert folded.parameters == sum(parameter.numel() for parameter in model.parameters())
    for node in walk(folded):
        own = sum(torch.Size(tensor.shape).numel() for tensor in node.tensors)
        assert node.parameters <= own + sum(child.count * child.parameters for child in node.children)


def test_full_has_every_module_by_its_name() -> None:
    model = native()
    names = [name for name, _ in model.named_modules()]
    tree = module_tree(model, *towers_of(model), fold=False)

    def paths(node: Node, above: str) -> Iterator[str]:
        path = f"{above}.{node.name}".strip(".")
        yield path
        for child in node.children:
            yield from paths(child, path)

    assert list(paths(tree, "")) == names


def test_a_plan_splits_what_it_treats_differently() -> None:
    model = native()
    plan = plan_of(model, image={"freeze_layers": 2}, text={"freeze_backbone": True})
    tree = module_tree(model, *towers_of(model), plan=plan)
    frozen, training = at(tree, "visual", "transformer", "resblocks").children
    assert (frozen.name, frozen.count, frozen.trainable, frozen.part) == ("(0-1)", 2, 0, "image blocks 0-1")
    assert (training.name, training.trainable, training.part) == ("2", training.parameters, "image block 2")
    assert tree.trainable == plan.totals()["trainable"]
    assert {tensor.name: tensor.trains for tensor in at(tree, "visual").tensors} == {
        "class_embedding": False,
        "positional_embedding": False,
        "proj": True,
    }


def test_rates_of_drop_path_do_not_keep_blocks_apart() -> None:
    model = on_meta("ViTamin-S")
    blocks = at(module_tree(model, *towers_of(model)), "visual", "trunk", "blocks")
    assert [child.name for child in blocks.children] == ["(0-13)"]
    assert {node.detail for node in walk(blocks) if node.kind == "DropPath"} == {""}


def test_modules_that_differ_stay_apart() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 3))
    clip = native()
    clip.visual.transformer.resblocks[1].mlp = model
    tree = module_tree(clip, *towers_of(clip))
    blocks = at(tree, "visual", "transformer", "resblocks")
    assert [child.name for child in blocks.children] == ["0", "1", "2"]
    assert [child.name for child in at(blocks, "1", "mlp").children] == ["(0-1)", "2"]


def test_one_block_of_each_tower_that_has_it() -> None:
    model = on_meta("RN50")
    towers = towers_of(model)
    third, seventh = block_trees(model, *towers, 3), block_trees(model, *towers, 7)
    assert {tower: node.name for tower, node in third.items()} == {
        "image": "visual.layer4",
        "text": "transformer.resblocks.3",
    }
    assert [node.name for node in third["image"].children] == ["0", "1", "2"]  # nothing is folded
    assert list(seventh) == ["text"]


@pytest.mark.parametrize("number", [12, -1])
def test_a_block_beyond_both_towers_is_refused_with_what_there_is(number: int) -> None:
    model = on_meta("RN50")
    words = f"--block: there is no block {number}; the image tower has blocks 0 to 3, the text tower 0 to 11"
    with pytest.raises(InputError, match=words):
        block_trees(model, *towers_of(model), number)
