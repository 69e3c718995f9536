"""The freeze rules against a second implementation of them, written from the rules' text alone, on random policies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from freeze_models import minilm, native, plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clipft.errors import InputError
from clipft.model.classifier import Classifier

# --- the second implementation: flat names and string handling, no Tower -------------------------

IMAGE, MINILM_TEXT = "visual.", "text.transformer."
BLOCK = {"image": r"visual\.transformer\.resblocks\.(\d+)\.", "native": r"transformer\.resblocks\.(\d+)\."}
BLOCK["minilm"] = r"text\.transformer\.encoder\.layer\.(\d+)\."


def tower_names(names: list[str], tower: str, kind: str) -> list[str]:
    if tower == "image":
        return [n for n in names if n.startswith("visual.") and n != "visual.proj"]
    if kind == "minilm":
        return [n for n in names if n.startswith("text.transformer.")]
    roots = ("transformer.", "token_embedding.", "ln_final.", "positional_embedding")
    return [n for n in names if n.startswith(roots)]


def every_match(pattern: str, name: str) -> Iterator[tuple[int, int]]:
    """All spans in which the pattern can match, found by asking for each of them."""
    expression = re.compile(pattern)
    for start in range(len(name) + 1):
        for end in range(start, len(name) + 1):
            if expression.fullmatch(name, start, end):
                yield start, end


def splits_a_number(name: str, at: int) -> bool:
    return 0 < at < len(name) and name[at - 1].isdigit() and name[at].isdigit()


def expected(names: list[str], kind: str, policy: dict[str, Any]) -> set[str] | None:
    """The frozen names; None where the policy is refused."""
    frozen: set[str] = set()
    for tower, strip in (("image", IMAGE), ("text", MINILM_TEXT if kind == "minilm" else "")):
        keys = policy[tower]
        backbone = tower_names(names, tower, kind)
        block = re.compile(BLOCK["image" if tower == "image" else kind])
        depth = 1 + max(int(m[1]) for n in backbone if (m := block.match(n)))
        if keys.get("freeze_pattern") is not None:
            if keys["freeze_pattern"] == "all":
                took = set(backbone)
            else:
                took = {
                    n
                    for n in backbone
                    if any(
                        not splits_a_number(n[len(strip) :], a) and not splits_a_number(n[len(strip) :], b)
                        for a, b in every_match(keys["freeze_pattern"], n[len(strip) :])
                    )
                }
            if not took:
                return None
        elif keys.get("freeze_layers") is not None:
            count = keys["freeze_layers"]
            if count > depth:
                return None
            last = ("visual.ln_post", "ln_final")
            took = {
                n
                for n in backbone
                if count == -1
                or (count > 0 and (int(m[1]) < count if (m := block.match(n)) else not n.startswith(last)))
            }
        else:
            took = set(backbone) if keys.get("freeze_backbone") else set()
        frozen |= took
        if keys.get("projection") == "freeze":
            ends = {"image": ("visual.proj",), "text": ("text_projection", "text.proj.weight")}[tower]
            frozen |= set(ends) & set(names)
    if not policy["logit_scale"]["train"]:
        frozen |= {"logit_scale", "logit_bias"} & set(names)
    if policy["loss"] == "contrastive":
        frozen |= {"logit_bias"} & set(names)
    if policy["loss"] == "classifier":
        frozen |= {n for n in names if not n.startswith(("visual.", "classifier."))}
        frozen |= {"visual.proj"} if policy["features"] == "pooled" else set()
    return None if frozen == set(names) else frozen


# --- random policies -----------------------------------------------------------------------------

PIECES = (
    "resblocks",
    "encoder.layer",
    "ln_",
    "attn",
    "attention",
    "LayerNorm",
    "embed",
    "weight",
    "1",
    "2",
    "12",
    r"\.",
)
NUMBERS = ("[0-2]", "(1|11)", r"\d+", "[13]", "1?", ".", "0", "(0|1|2)", r"1\d")
PATTERNS = st.one_of(
    st.just("all"),
    st.sampled_from(PIECES),
    st.builds(lambda piece, number: f"{piece}.{number}", st.sampled_from(PIECES), st.sampled_from(NUMBERS)),
    st.builds(
        lambda a, n, b: f"{a}.{n}.{b}", st.sampled_from(PIECES), st.sampled_from(NUMBERS), st.sampled_from(PIECES)
    ),
    st.builds(lambda a, b: f"{a}|{b}", st.sampled_from(PIECES), st.sampled_from(PIECES)),
)
KEYS = st.fixed_dictionaries(
    {},
    optional={
        "freeze_pattern": st.none() | PATTERNS,
        "freeze_layers": st.none() | st.integers(-1, 14),
        "freeze_backbone": st.none() | st.booleans(),
        "projection": st.sampled_from(["train", "freeze"]),
    },
)
POLICIES = st.fixed_dictionaries(
    {
        "image": KEYS,
        "text": KEYS,
        "logit_scale": st.fixed_dictionaries({"train": st.booleans()}),
        "loss": st.sampled_from(["contrastive", "siglip", "classifier"]),
        "features": st.sampled_from(["projected", "pooled"]),
    }
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nn.Module]:
    """Twelve blocks, so that numbers have two digits; a bias, a classifier."""
    made = {
        "native": native(vision={"layers": 12}, text={"layers": 12}, init_logit_bias=-10.0),
        "minilm": minilm(tmp_path_factory.mktemp("minilm")),
    }
    for model in made.values():
        model.classifier = Classifier(3, 24, cosine=False, bias=True)
    return made


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(["native", "minilm"]), policy=POLICIES)
def test_freeze_agrees_with_the_second_implementation(
    models: dict[str, nn.Module], kind: str, policy: dict[str, Any]
) -> None:
    """P13, P14: random policies, the whole set of frozen names."""
    model = models[kind]
    wanted = expected([name for name, _ in model.named_parameters()], kind, policy)
    if wanted is None:
        with pytest.raises(InputError, match=r"matches none of|out of range|nothing trains"):
            plan_of(model, **policy)
        return
    plan = plan_of(model, **policy)
    assert {p.name for p in plan.frozen} == wanted
    assert all(p.rule and p.lr is None and p.weight_decay is None for p in plan.frozen)
    assert all(not p.rule and p.lr is not None and p.weight_decay is not None for p in plan.trainable)


def test_the_second_implementation_knows_the_lines_of_minilm(tmp_path: Path) -> None:
    names = [name for name, _ in minilm(tmp_path).named_parameters()]
    counts = {"attention": 60, "LayerNorm": 26, "encoder.layer.[0-3]": 64, "all": 101}
    for pattern, count in counts.items():
        policy = {"image": {}, "text": {"freeze_pattern": pattern}, "logit_scale": {"train": True}, "loss": "siglip"}
        frozen = expected(names, "minilm", policy)
        assert frozen is not None
        assert len(frozen) == count
