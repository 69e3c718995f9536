from __future__ import annotations

import pytest
import torch

from clipft.data.batches import Batch
from clipft.report.progress import show_progress


def test_every_batch_comes_through_and_off_a_terminal_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    batches = [Batch(torch.zeros(0, 3, 4, 4), [], nothing, nothing, nothing, ()) for _ in range(5)]
    assert list(show_progress(batches, 5)) == batches
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
