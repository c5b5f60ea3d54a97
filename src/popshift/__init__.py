"""popshift: from a PyTorch network to an accelerator for open FPGA boards.

Everything public is here and loaded on first use, so that ``import popshift`` costs nothing:

``AcceleratorConfig``, ``load_config``, ``named_configs``
    what to generate (`popshift.hw.config`).
``errors``
    the exceptions a user can meet (`popshift.hw.errors`).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from popshift.hw import errors as errors
    from popshift.hw.config import AcceleratorConfig as AcceleratorConfig
    from popshift.hw.config import load_config as load_config
    from popshift.hw.config import named_configs as named_configs

# public name -> (module, name in it); None: the module itself
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "AcceleratorConfig": ("popshift.hw.config", "AcceleratorConfig"),
    "load_config": ("popshift.hw.config", "load_config"),
    "named_configs": ("popshift.hw.config", "named_configs"),
    "errors": ("popshift.hw.errors", None),
}

__all__ = ["AcceleratorConfig", "errors", "load_config", "named_configs"]  # the names in _PUBLIC


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'popshift' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    loaded = importlib.import_module(module)
    value = loaded if attribute is None else getattr(loaded, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
