"""Synthesised netlists as simulations: the models of the cells they are made of.

Those of yosys (which nextpnr's users simulate with), and for what it has as empty boxes our own, in
``cells/``.
"""

import re
from importlib import resources

from popshift.hw.errors import InputError

# Models of yosys: (file below its share folder, modules; none: the whole file).
_YOSYS = {
    "ecp5": (
        ("ecp5/common_sim.vh", ("LUT4", "LUT2", "TRELLIS_FF", "TRELLIS_DPR16X4")),
        ("ecp5/ccu2c_sim.vh", ("CCU2C",)),
    ),
    "ice40": (("ice40/cells_sim.v", ()),),
}
_OWN = {"ecp5": "ecp5.v"}
FAMILIES = tuple(_YOSYS)
"""Families whose netlists can be simulated."""


def cell_models(family: str) -> str:
    """Verilog of every cell that netlists of popshift consist of.

    Raises
    ------
    InputError: a family without models.
    """
    if family not in _YOSYS:
        raise InputError(
            f"netlists of {family!r} cannot be simulated: there are no models of their cells",
            remedy=f"choose {' or '.join(FAMILIES)}",
        )
    texts = []
    for file, modules in _YOSYS[family]:
        text = (resources.files("pyosys") / "share" / file).read_text(encoding="utf-8")
        texts += [_module(text, name) for name in modules] if modules else [text]
    if family in _OWN:
        texts.append((resources.files("popshift.sim") / "cells" / _OWN[family]).read_text(encoding="utf-8"))
    return "\n".join(texts)


def _module(text: str, name: str) -> str:
    found = re.search(rf"^module {name}\b.*?^endmodule\n", text, re.DOTALL | re.MULTILINE)
    assert found, f"yosys' models have no {name}"
    return found[0]
