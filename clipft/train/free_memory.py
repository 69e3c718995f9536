"""How much memory a device has left: asked of the system, or not known."""

from __future__ import annotations

from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process could still take on this device; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return cpu_memory(_MEMINFO, _GROUP)


def cpu_memory(meminfo: Path, group: Path) -> int | None:
    """What Linux says is available, and no more than the process's control group leaves of its limit.

    Args:
        meminfo: as proc(5) describes /proc/meminfo.
        group: folder with memory.max, memory.current and memory.stat (control groups v2).
    """
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    if kilobytes is None:
        return None
    left = _left_in_group(group)
    return 1024 * kilobytes if left is None else min(1024 * kilobytes, left)


def _left_in_group(group: Path) -> int | None:
    try:
        limit = (group / "memory.max").read_text(encoding="utf-8").strip()
        used = int((group / "memory.current").read_text(encoding="utf-8"))
        stat = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    if not limit.isdecimal():  # "max"
        return None
    cached = sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
    return max(0, int(limit) - used + cached)
