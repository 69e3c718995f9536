"""The script that sets what a step is said to cost beside a real one."""

from __future__ import annotations

import re
import sys

import pytest

import check_cost


@pytest.mark.slow
def test_a_row_a_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "ViT-S-32-alt", "--blocks", "10", "--batch-size", "4", "--ways", "last 2", "heads"]
    monkeypatch.setattr(sys, "argv", ["check_cost.py", *words])
    check_cost.main()
    rows = re.findall(r"\| (.+?) \| [\d.]+ GB \| [\d.]+ GB \| ([\d.]+) \| .* \| ([\d.]+) \|", capsys.readouterr().out)
    assert [row[0] for row in rows] == ["last 2", "heads"]
    assert all(0.8 <= float(memory) <= 1.2 and flops == "1.000000" for _, memory, flops in rows)
