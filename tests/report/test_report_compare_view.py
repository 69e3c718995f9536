"""Two models side by side: stars where they differ, costs at the end."""

from __future__ import annotations

import io
from functools import cache

from freeze_models import on_meta
from rich.console import Console

from clipft.model.describe import describe
from clipft.model.forward_cost import model_cost
from clipft.model.towers import towers_of
from clipft.report.compare_view import Measured, print_comparison


@cache
def measured(name: str) -> Measured:
    model = on_meta(name)
    facts = describe(model, *towers_of(model), name=name)
    return Measured(facts, model_cost(model, *towers_of(model), facts))


def compared(one: str, other: str) -> list[str]:
    file = io.StringIO()
    print_comparison(measured(one), measured(other), Console(file=file, width=80, highlight=False))
    return file.getvalue().splitlines()


def test_what_differs_is_marked() -> None:
    lines = [" ".join(line.split()) for line in compared("ViT-B-32", "RN50")]
    assert "* family native ViT ModifiedResNet" in lines
    assert "* ends in 512 1,024" in lines
    assert "width 512 512" in lines  # the text towers
    assert "* image forward 8.8 GFLOP 11.6 GFLOP" in lines
    assert "text forward 6.0 GFLOP 6.0 GFLOP" in lines
    assert "* weights 605 MB 408 MB" in lines


def test_a_model_beside_itself_has_no_mark() -> None:
    marked = [line for line in compared("ViT-B-32", "ViT-B-32") if line.startswith("*")]
    assert marked == []


def test_it_fits() -> None:
    assert max(map(len, compared("ViT-SO400M-16-SigLIP-i18n-256", "convnext_base_w"))) <= 80


def test_json_has_facts_and_cost() -> None:
    one = measured("ViT-B-32")
    told = one.to_json()
    assert told["parameters"] == 151_277_313
    assert told["cost"]["image"]["flops"] == one.cost.image.flops
    assert told["cost"]["one_pair"] == one.cost.one_pair
