"""Configurations: what ships is legal, what is wrong is refused in one line that says what to do."""

import pytest

from popshift.hw.config import AcceleratorConfig, load_config, named_configs
from popshift.hw.errors import EXIT_BAD_INPUT, ConfigError


def test_shipped_configurations():
    configs = named_configs()
    assert {
        "tiny",
        "icebreaker",
        "ulx3s-12f",
        "ulx3s-85f",
        "orangecrab-25f",
        "tangnano-20k",
        "a8",
        "a16",
        "a32",
    } <= set(configs)
    for name, config in configs.items():
        assert config.name == name and load_config(name) == config


def test_toml_round_trip(tmp_path):
    config = load_config("icebreaker")
    path = tmp_path / "mine.toml"
    path.write_text(config.to_toml())
    assert AcceleratorConfig.from_toml(path) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "configuration tiny: rows must be 1 .. 64, not 0; choose a value in that range"),
        ({"rows": "4"}, "configuration tiny: rows must be an integer, not '4'; correct it"),
        (
            {"tile_rows": 3},
            "configuration tiny: tile_rows must divide rows = 4, not 3; choose one of [1, 2, 4]",
        ),
        (
            {"post_lanes": 3},
            "configuration tiny: post_lanes must divide rows = 4, not 3; choose one of [1, 2, 4]",
        ),
        (
            {"requantise": "fast"},
            "configuration tiny: requantise must be one of exact, compact, not 'fast'; correct it",
        ),
        (
            {"pe_kinds": ["gpu"]},
            "configuration tiny: pe_kinds must be among mul, shift, xnor, not ('gpu',); "
            "remove the unknown kind",
        ),
        (
            {"accumulator_width": 16},
            "configuration tiny: accumulator_width must be 24 .. 32, not 16; choose a value in that range",
        ),
        (
            {"accumulator_width": 24},
            "configuration tiny: accumulator_width must be at least 29 with residual = true and exact "
            "requantisation, not 24; raise it, or set residual to false",
        ),
        (
            {"paired_banks": True, "rows": 3, "tile_rows": 3, "post_lanes": 1},
            "configuration tiny: rows must be even with paired_banks = true, not 3; choose an even number",
        ),
        (
            {"paired_banks": True},
            "configuration tiny: residual must be false with paired_banks = true, not true; "
            "set residual = false",
        ),
        (
            {"depthwise": True, "residual": False},
            "configuration tiny: depthwise needs residual = true, not true; "
            "set residual = true, or depthwise = false",
        ),
        ({"weight_dpeth": 5}, "configuration: unknown key 'weight_dpeth'; did you mean weight_depth?"),
        (
            {"baud": 90_000_000},
            "configuration tiny: baud must be 1200 .. 25000000, not 90000000; choose a value in that range",
        ),
        (
            {"performance_counters": 1},
            "configuration tiny: performance_counters must be true or false, not 1; correct it",
        ),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ConfigError) as caught:
        load_config("tiny").replace(**changes)
    assert str(caught.value) == message
    assert caught.value.exit_status == EXIT_BAD_INPUT


def test_missing_key_and_bad_files(tmp_path):
    with pytest.raises(ConfigError, match="rows is missing; add rows = …"):
        AcceleratorConfig.from_dict({"name": "x"})
    with pytest.raises(ConfigError, match="no configuration named 'tini'; did you mean tiny"):
        load_config("tini")
    broken = tmp_path / "broken.toml"
    broken.write_text("rows = [")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(broken)
    with pytest.raises(ConfigError, match="cannot read it"):
        load_config(tmp_path / "none.toml")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(load_config("tiny").to_toml().replace("rows = 4", "rows = 0"))
    with pytest.raises(ConfigError, match=r"wrong.toml: \w*rows must be"):
        load_config(wrong)


def test_digest_tells_architectures_apart_and_nothing_else():
    config = load_config("tiny")
    assert config.replace(name="other", clock_hz=50_000_000, link="uart").digest == config.digest
    for field, value in {"rows": 8, "post_lanes": 1, "weight_depth": 2048, "requantise": "compact"}.items():
        assert config.replace(**{field: value}).digest != config.digest, field
