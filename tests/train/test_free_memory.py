"""Free memory is what the system and the control group leave, or unknown."""

from __future__ import annotations

from pathlib import Path

import torch

from clipft.train.free_memory import cpu_memory, free_memory


def test_of_this_machine() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or free > 10**6


def test_the_system_and_its_limits(tmp_path: Path) -> None:
    meminfo, group = tmp_path / "meminfo", tmp_path / "group"
    assert cpu_memory(meminfo, group) is None
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:    8000 kB\n")
    assert cpu_memory(meminfo, group) == 8000 * 1024
    group.mkdir()
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("3000000\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 1000000\n")
    assert cpu_memory(meminfo, group) == 8000 * 1024
    (group / "memory.max").write_text("5000000\n")
    assert cpu_memory(meminfo, group) == 3_000_000
