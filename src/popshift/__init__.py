"""popshift: from a PyTorch network to an accelerator for open FPGA boards.

Everything public is here and loaded on first use, so that ``import popshift`` costs nothing:

``AcceleratorConfig``, ``load_config``, ``named_configs``
    what to generate (`popshift.hw.config`).
``compile``
    from a PyTorch module to a program for a configuration (`popshift.gen.compilation.compile_module`).
``load``
    a program file (`popshift.firmware_py.program.Program.load`).
``smartdeal``
    weights as power-of-two coefficients times a small basis (`popshift.gen.compress.smartdeal`):
    ``decompose``, ``SmartDealConfig``.
``execute``, ``verify``
    run a program at a level, and compare it with the golden model (`popshift.gen.execution`).
``open``
    a device on a serial port, on ``tcp:HOST:PORT``, or simulated (`popshift.gen.device.open_device`).
``errors``, ``PopshiftError``
    the exceptions a user can meet (`popshift.hw.errors`), and their base.
"""

import importlib
import operator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from popshift.firmware_py.program import Program as _Program
    from popshift.gen.compilation import compile_module as compile
    from popshift.gen.compress import smartdeal as smartdeal
    from popshift.gen.device import open_device as open
    from popshift.gen.execution import execute as execute
    from popshift.gen.execution import verify as verify
    from popshift.hw import errors as errors
    from popshift.hw.config import AcceleratorConfig as AcceleratorConfig
    from popshift.hw.config import load_config as load_config
    from popshift.hw.config import named_configs as named_configs
    from popshift.hw.errors import PopshiftError as PopshiftError

    load = _Program.load

# public name -> (module, name in it, dotted for a method); None: the module itself
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "AcceleratorConfig": ("popshift.hw.config", "AcceleratorConfig"),
    "PopshiftError": ("popshift.hw.errors", "PopshiftError"),
    "compile": ("popshift.gen.compilation", "compile_module"),
    "errors": ("popshift.hw.errors", None),
    "execute": ("popshift.gen.execution", "execute"),
    "load": ("popshift.firmware_py.program", "Program.load"),
    "load_config": ("popshift.hw.config", "load_config"),
    "named_configs": ("popshift.hw.config", "named_configs"),
    "open": ("popshift.gen.device", "open_device"),
    "smartdeal": ("popshift.gen.compress.smartdeal", None),
    "verify": ("popshift.gen.execution", "verify"),
}

__all__ = [  # the names in _PUBLIC
    "AcceleratorConfig",
    "PopshiftError",
    "compile",
    "errors",
    "execute",
    "load",
    "load_config",
    "named_configs",
    "open",
    "smartdeal",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'popshift' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    loaded = importlib.import_module(module)
    value = loaded if attribute is None else operator.attrgetter(attribute)(loaded)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
