"""Small forms of the comparisons with open_clip_train, so that the full ones keep working."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import side_by_side

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run_script(name: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / name), *options], cwd=SCRIPTS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_drawn_pairs_are_jpegs_with_captions_of_their_own(tmp_path: Path) -> None:
    rows = side_by_side.draw_pairs(tmp_path / "a", 3)
    assert len({caption for _, caption in rows}) == 3
    with Image.open(rows[0][0]) as image:
        assert (image.format, image.size) == ("JPEG", (400, 300))
    again = side_by_side.draw_pairs(tmp_path / "b", 3)
    assert [Path(path).read_bytes() for path, _ in rows] == [Path(path).read_bytes() for path, _ in again]


def test_the_peers_optimiser_has_what_trains_and_decays_matrices_alone() -> None:
    args = side_by_side.peer_arguments(
        "ViT-B-32", batch_size=2, lr=1e-5, weight_decay=0.2, precision="fp32", device="cpu"
    )
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    model[0].requires_grad_(False)
    plain, decayed = side_by_side.peer_optimizer(model, args).param_groups
    assert (plain["params"], plain["weight_decay"]) == ([model[1].bias], 0.0)
    assert (decayed["params"], decayed["weight_decay"]) == ([model[1].weight], 0.2)
    assert (decayed["eps"], decayed["betas"]) == (1e-6, (0.9, 0.98))


@pytest.mark.slow
def test_clipft_follows_open_clip_train() -> None:
    printed = run_script(
        "follow_open_clip_train.py", "--model", "ViT-S-32-alt", "--batch-size", "4", "--steps", "6", "--lr", "1e-4"
    )
    assert "largest difference" in printed


@pytest.mark.slow
def test_the_benchmark_prints_a_row_a_way() -> None:
    printed = run_script(
        "bench_step.py",
        *("--model", "ViT-S-32-alt", "--batch-size", "4", "--steps", "2", "--turns", "1", "--ways", "last 2"),
    )
    assert "| last 2 |" in printed
