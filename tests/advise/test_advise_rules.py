"""Rules from sizes: batches that an epoch has enough of, names that read well, a model that fits."""

from __future__ import annotations

import pytest

from clipft.advise.base import Machine, choose_base, named_base
from clipft.advise.class_names import Wording, wording
from clipft.advise.rules import Depths, Goal, batch_size, ways
from clipft.errors import InputError
from clipft.model.catalogue import catalogue


@pytest.mark.parametrize(
    ("rows", "goal", "gpu", "size"),
    [
        (2, "classify", False, 2),
        (10, "classify", False, 8),
        (100, "classify", False, 8),
        (330, "classify", False, 32),
        (10_000, "classify", False, 64),
        (10_000, "retrieve", False, 128),
        (10_000, "retrieve", True, 256),
    ],
)
def test_batches(rows: int, goal: Goal, gpu: bool, size: int) -> None:
    assert batch_size(rows, goal, gpu=gpu) == size


@pytest.mark.parametrize(
    ("lora", "offered"),
    [(("image", "text"), "lora"), (("image",), {"name": "lora", "towers": ["image"]}), (("text",), None), ((), None)],
)
def test_lora_is_offered_where_the_image_tower_has_matrices(lora: tuple[str, ...], offered: object) -> None:
    """P49: a target that matches nothing would be refused."""
    for images in (100, 5_000, 50_000):
        others = [value for value, _ in ways(images, "classify", Depths(12, 12, lora))[0].others]
        assert [value for value in others if "lora" in str(value)] == ([offered] if offered else [])


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (("cat", "t-shirt"), {}),
        (("0", "1", "10"), {"0": "zero", "1": "one", "10": "ten"}),
        (("sports_car", "JeepWrangler", "cat"), {"sports_car": "sports car", "JeepWrangler": "Jeep Wrangler"}),
        (("001.Blue_Jay", "002.tern"), {"001.Blue_Jay": "Blue Jay", "002.tern": "tern"}),
        (("2_hands", "3_hands"), {"2_hands": "2 hands", "3_hands": "3 hands"}),
        (("a_b", "a b"), {}),
    ],
)
def test_class_names_in_words(classes: tuple[str, ...], names: dict[str, str]) -> None:
    """P61: what the prompts say is what the model learns."""
    assert wording(classes).names == names


def test_codes_are_left_to_the_user() -> None:
    assert wording(("n01440764", "n01443537")) == Wording({}, "", ("n01440764", "n01443537"))
    assert wording(("0", "999")).codes == ("0", "999")
    assert wording(("0", "00")).names == {}


GB = 10**9


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (Machine("cpu", "fp32", 500 * GB), "ViT-B-32"),
        (Machine("cuda", "bf16", 80 * GB), "ViT-L-14"),
        (Machine("cuda", "bf16", 16 * GB), "ViT-B-16"),
        (Machine("cuda", "bf16", 4 * GB), "ViT-B-32"),
        (Machine("cuda", "bf16", None), "ViT-B-32"),
    ],
)
def test_a_model_that_fits(machine: Machine, name: str) -> None:
    base = choose_base(catalogue(), machine, "full", 64)
    assert base.name == name
    assert base.why.startswith(f"{name} with {base.pretrained} knows ")


def test_the_model_that_was_asked_for() -> None:
    assert named_base(catalogue(), "ViT-B-16", None).pretrained == "datacomp_xl_s13b_b90k"
    assert named_base(catalogue(), "ViT-B-16", "openai").pretrained == "openai"
    assert named_base(catalogue(), "local-dir:x", None).pretrained is None
    with pytest.raises(InputError, match="trained with another activation; write --model RN50-quickgelu"):
        named_base(catalogue(), "RN50", None)
