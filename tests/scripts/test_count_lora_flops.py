"""What LoRA's backward pass costs: factored, about half of one through the dense matrix."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import count_lora_flops
from clipft.model.tally import Tally
from count_lora_flops import BATCH, CASES, RANK, Case, count, ours_on

ATTENTION = CASES[0]
RECORDED = (Path(count_lora_flops.__file__).parent / "README.md").read_text(encoding="utf-8").splitlines()


def test_it_is_the_sum_of_its_matrix_products() -> None:
    """Forward: four matrices, attention, four pairs of factors; backward: no gradient of a matrix W."""
    tokens, width = BATCH * ATTENTION.tokens, ATTENTION.width
    matrices, pairs = 2 * 4 * tokens * width**2, 2 * 4 * tokens * 2 * width * RANK
    attention = 2 * 2 * tokens * ATTENTION.tokens * width
    forward, backward = count(ours_on(ATTENTION), ATTENTION)
    assert forward == matrices + attention + pairs
    assert backward == matrices + 2 * attention + 2 * pairs


def test_a_backward_through_the_dense_matrix_costs_nearly_twice_as_much() -> None:
    dense = nn.MultiheadAttention(ATTENTION.width, ATTENTION.width // 64, batch_first=True)
    x = torch.randn(BATCH, ATTENTION.tokens, ATTENTION.width, requires_grad=True)
    with Tally() as tally:
        dense(x, x, x, need_weights=False)[0].sum().backward()
    forward, backward = count(ours_on(ATTENTION), ATTENTION)
    assert forward + backward < 0.75 * tally.flops
    assert backward < 0.6 * (tally.flops - forward)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_what_peft_was_counted_to_take(case: Case) -> None:
    """Against the table in scripts/README.md, so that it holds where peft is not installed too."""
    (row,) = (line for line in RECORDED if line.startswith(f"| {case.name} |"))
    forward, _, backward, pefts = (float(cell) for cell in row.split("|")[3:7])
    ours = count(ours_on(case), case)
    assert [f"{flops / 1e9:.2f}" for flops in ours] == [f"{forward:.2f}", f"{backward:.2f}"]
    assert ours[1] <= case.limit * (pefts + 0.005) * 1e9


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside peft where that is installed, else a sentence."""
    monkeypatch.setattr(count_lora_flops, "CASES", [replace(CASES[-1], tokens=5)])
    count_lora_flops.main()
    out = capsys.readouterr().out
    if importlib.util.find_spec("peft") is None:
        assert out.startswith("peft is not installed, so there is nothing to compare with: pip install")
    else:
        assert out.splitlines()[-1].endswith("| 1.000 | 1.0 |")
