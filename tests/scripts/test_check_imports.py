"""The direction check finds what it is for, and finds nothing in clipft."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

import check_imports

PACKAGE = Path(__file__).parents[2] / "clipft"


def problems_in(tmp_path: Path, files: dict[str, str]) -> list[str]:
    package = tmp_path / "clipft"
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return check_imports.find_problems(check_imports.read_package(package))


def test_clipft_itself_points_one_way() -> None:
    assert check_imports.find_problems(check_imports.read_package(PACKAGE)) == []


def test_every_floor_has_its_rooms() -> None:
    rooms = {
        check_imports.room_of(name) for name in check_imports.read_package(PACKAGE).keys() - check_imports.ENTRANCES
    }
    assert set(check_imports.LAYERS) == rooms


def test_what_clipft_imports_is_among_its_dependencies() -> None:
    """An import that another package happens to bring may go with its next version."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    listed = {
        re.split(r"[<>=]", word)[0]
        for word in (
            *project["dependencies"],
            *(w for name in ("hf", "parquet", "plot", "tensorboard", "umap") for w in extras[name]),
        )
    }
    names = {
        "open_clip": "open_clip_torch",
        "PIL": "pillow",
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
        "umap": "umap-learn",
    }
    found = {i.target.split(".")[0] for imports in check_imports.read_package(PACKAGE).values() for i in imports}
    foreign = found - sys.stdlib_module_names - {"clipft"}
    assert {names.get(name, name) for name in foreign} == listed


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("model/towers.py", "from clipft.data import images"),
        ("data/images.py", "import clipft.model"),
        ("config/load.py", "from clipft.model.plan import Plan"),
        ("evaluate/measure.py", "from clipft.train.loop import run_loop"),
        ("train/run.py", "from clipft import cli"),
        ("errors.py", "def f():\n    from clipft.config.schema import Config"),
        ("model/build.py", "from ..train import loop"),
        ("report/html.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from clipft.train import loop"),
    ],
)
def test_an_import_upward_is_named(tmp_path: Path, importer: str, line: str) -> None:
    targets = {
        "data/images.py": "",
        "model/__init__.py": "",
        "model/plan.py": "",
        "train/__init__.py": "",
        "train/loop.py": "",
        "cli/__init__.py": "",
        "config/schema.py": "",
    }
    problems = problems_in(tmp_path, {**targets, importer: line})
    module = "clipft." + importer.removesuffix(".py").replace("/", ".")
    assert len([p for p in problems if p.startswith(f"{module}:") and "imports point from cli -> train" in p]) == 1


def test_downward_and_within_a_room_is_fine(tmp_path: Path) -> None:
    files = {
        "cli/training.py": "def train():\n    import torch\n    from clipft.train import run",
        "train/run.py": "import torch\nfrom clipft.evaluate import measure\nfrom clipft.train import loop",
        "train/loop.py": "from clipft.errors import InputError",
        "evaluate/measure.py": "from clipft.model import towers\nfrom clipft.data.images import read_image",
        "predict.py": "from clipft.evaluate.measure import measure\nfrom clipft import __version__",
        "model/towers.py": "from . import plan",
        "model/plan.py": "",
        "data/images.py": "from ..errors import InputError",
        "errors.py": "",
        "__init__.py": "def __getattr__(name):\n    from clipft.predict import load",
    }
    assert problems_in(tmp_path, files) == []


def test_a_ring_of_files_is_shown_once(tmp_path: Path) -> None:
    files = {
        "model/a.py": "from clipft.model import b",
        "model/b.py": "def f():\n    from clipft.model.c import g",
        "model/c.py": "from clipft.model.a import h",
    }
    assert problems_in(tmp_path, files) == [
        "ring of files: clipft.model.a -> clipft.model.b -> clipft.model.c -> clipft.model.a"
    ]


def test_a_ring_of_rooms_is_found_where_files_have_none(tmp_path: Path) -> None:
    files = {
        "evaluate/a.py": "from clipft.report import x",
        "evaluate/b.py": "",
        "report/x.py": "",
        "report/y.py": "from clipft.evaluate import b",
    }
    assert problems_in(tmp_path, files) == ["ring of rooms: evaluate -> report -> evaluate"]


def test_torch_stays_out_of_config_and_of_the_top_of_cli(tmp_path: Path) -> None:
    files = {
        "config/load.py": "def f():\n    import torch",
        "cli/training.py": "try:\n    import torch.nn\nfinally:\n    pass",
    }
    assert problems_in(tmp_path, files) == [
        "clipft.cli.training:2: imports torch; cli must answer without it (import it inside the command)",
        "clipft.config.load:2: imports torch; config must answer without it",
    ]


def test_a_room_that_stands_nowhere_is_asked_about(tmp_path: Path) -> None:
    (problem,) = problems_in(tmp_path, {"helpers.py": ""})
    assert problem.startswith("clipft.helpers: room 'helpers' stands on no floor")
