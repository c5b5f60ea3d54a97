"""The accelerators that the regression builds unless others are asked for: small, and unlike each other."""

from popshift.hw.config import AcceleratorConfig, load_config

_CHANGES = {
    "wide": {
        "rows": 2,
        "cols": 8,
        "tile_rows": 1,
        "tile_cols": 4,
        "multiplier_stages": 4,
        "post_lanes": 1,
        "pe_kinds": ["mul", "xnor"],
    },
    "tall": {
        "rows": 8,
        "cols": 2,
        "tile_rows": 2,
        "multiplier_stages": 2,
        "post_lanes": 1,
        "requantise": "compact",
        "accumulator_width": 24,
    },
    "systolic": {"rows": 3, "cols": 3, "tile_rows": 1, "tile_cols": 1, "post_lanes": 3},
    "dot": {
        "rows": 8,
        "cols": 8,
        "tile_rows": 8,
        "tile_cols": 1,
        "post_lanes": 4,
        "pe_kinds": ["mul", "xnor"],
        "depthwise": True,
    },
    "smartdeal": {
        "cols": 6,
        "tile_rows": 2,
        "tile_cols": 3,
        "post_lanes": 1,
        "pe_kinds": ["mul", "shift"],
        "rebuild": True,
    },
    "shifts": {
        "rows": 2,
        "cols": 14,
        "tile_rows": 2,
        "tile_cols": 7,
        "pe_kinds": ["shift"],
        "accumulator_width": 24,
        "residual": False,
    },
    "binary": {"rows": 8, "cols": 8, "tile_rows": 4, "post_lanes": 8, "pe_kinds": ["xnor"]},
    "everything": {
        "rows": 4,
        "cols": 8,
        "tile_rows": 2,
        "tile_cols": 4,
        "multiplier_stages": 2,
        "requantise": "compact",
        "pe_kinds": ["mul", "shift", "xnor"],
        "rebuild": True,
    },
}


def default_configs() -> list[AcceleratorConfig]:
    """Square, wide, tall, 1 x 1 tiles, dot-product tiles; both requantisations, 24 and 32 bits; every kind of
    PE alone and all kinds of weights at once; signs packed from 1, 2, 4 and 8 lanes.
    """
    tiny = load_config("tiny")
    return [tiny, *(tiny.replace(name=name, **changes) for name, changes in _CHANGES.items())]
