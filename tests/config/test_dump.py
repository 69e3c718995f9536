"""The resolved config and the JSON schema, as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipft.config.dump import dump_config, json_schema
from clipft.config.load import load_config
from clipft.config.schema import Config, RunConfig

TEXT = st.text(max_size=12) | st.sampled_from(["1e-5", "on", "null", "~", "0", "x0.5", "[0-3]", "a: b", "# c"])
RATE = st.none() | st.floats(1e-12, 10) | st.sampled_from(["x0.5", "x2", "x1e-2"])
PATTERN = st.none() | st.sampled_from(["all", "encoder.layer.[0-3]", r"\d+$", "a{2}", "(?i)norm"])
TOWER = st.fixed_dictionaries(
    {},
    optional={
        "freeze_pattern": PATTERN,
        "freeze_layers": st.none() | st.integers(-1, 99),
        "freeze_backbone": st.none() | st.booleans(),
        "dropout": st.floats(0, 0.99),
        "lr": RATE,
    },
)
SOURCE = st.one_of(
    st.fixed_dictionaries({"folder": TEXT}),
    st.fixed_dictionaries({"table": TEXT, "caption": TEXT}, optional={"root": st.none() | TEXT}),
    st.fixed_dictionaries({"sidecar": TEXT}),
    st.fixed_dictionaries({"builtin": st.just("hands")}, optional={"count": st.integers(1, 10**7)}),
)
CONFIG = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {"name": TEXT.filter(bool)}, optional={"image": TOWER, "text": TOWER, "pretrained": TEXT}
        ),
        "data": st.fixed_dictionaries(
            {"train": SOURCE},
            optional={
                "val": SOURCE | st.floats(0.001, 0.999) | st.none(),
                "class_names": st.dictionaries(TEXT, TEXT, max_size=3),
                "augment": st.sampled_from(["none", {"crop_scale": None}, {"crop_scale": [0.5, 1]}]),
                "workers": st.just("auto") | st.integers(0, 9),
            },
        ),
    },
    optional={
        "optim": st.fixed_dictionaries(
            {"lr": st.floats(1e-30, 1e30)},
            optional={"groups": st.lists(st.fixed_dictionaries({"pattern": PATTERN.filter(bool), "lr": RATE}))},
        ),
        "loss": st.just({"type": "classifier", "class_weights": {"0": 0.5, "on": 2}}),
        "run": st.fixed_dictionaries({"seed": st.integers(0, 2**32 - 1)}),
        "stages": st.lists(st.fixed_dictionaries({"epochs": st.integers(1, 99)}), max_size=3),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(CONFIG)
def test_a_dumped_config_loads_to_an_equal_one(tmp_path: Path, values: dict[str, Any]) -> None:
    config = Config.model_validate(values)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path, need_data=False).config == config


def test_a_dumped_config_names_no_folder() -> None:
    """Run again, it goes to a folder of its own."""
    values = {"model": {"name": "V"}, "data": {"train": {"builtin": "hands"}}, "run": {"dir": "runs/a", "seed": 3}}
    config = Config.model_validate(values)
    assert "dir: null" in dump_config(config)
    assert dump_config(config) == dump_config(config.model_copy(update={"run": RunConfig(seed=3)}))


def _sections(schema: Any) -> list[dict[str, Any]]:
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    own = [schema] if isinstance(schema, dict) and isinstance(schema.get("properties"), dict) else []
    return own + [section for part in inner for section in _sections(part)]


def test_every_section_of_the_json_schema_is_closed_and_described() -> None:
    sections = _sections(json.loads(json_schema()))
    assert len(sections) > 15
    for section in sections:
        assert section["additionalProperties"] is False
        assert section["description"]
        assert section["title"]


def test_every_key_of_the_json_schema_has_a_sentence() -> None:
    schema = json.loads(json_schema())
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for section in _sections(schema):
        for key, value in section["properties"].items():
            assert value.get("description") or "$ref" in value, (section["title"], key)
            assert "\n" not in value.get("description", "")
