"""What a run writes down before its first step: what was asked, what trains, with which versions and device."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

import clipft
from clipft.config.dump import dump_config
from clipft.config.schema import Config
from clipft.errors import InputError
from clipft.model.plan import Plan
from clipft.model.runfiles import CONFIG
from clipft.train.checkpoint import write_whole
from clipft.train.folder import RunFolder, resolved


def open_folder(folder: RunFolder, config: Config, plans: Sequence[Plan]) -> None:
    """Make the run's folder and write config.yaml, plan.json and environment.json, unless it goes on with a run.

    Raises:
        InputError: it cannot be made.
    """
    path = folder.path
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a name that is too long, a disk that is full
        raise InputError(f"run.dir: {path} cannot be made ({error.strerror}); name another folder") from None
    if folder.resume_from is not None:
        return
    write_whole(path / CONFIG, dump_config(resolved(config)))
    each = [plan.to_json() for plan in plans]
    write_whole(path / "plan.json", json.dumps(each[0] | ({"stages": each} if len(each) > 1 else {}), indent=1))
    write_whole(path / "environment.json", json.dumps(environment(), indent=1))


def environment() -> dict[str, Any]:
    """Versions and device: what a run may depend on. No environment variable is recorded."""
    packages = ("torch", "torchvision", "open_clip_torch", "timm", "safetensors", "pydantic")
    cuda = torch.cuda.is_available()
    return {
        "clipft": clipft.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
