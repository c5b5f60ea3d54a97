"""Processing elements, by the name a configuration gives them. A new kind is one file here and one entry
below.
"""

from amaranth.lib import data

from popshift.hw.config import PE_KINDS, AcceleratorConfig
from popshift.hw.matrix.pe.mul import MulColumn
from popshift.hw.matrix.pe.shift import ShiftColumn
from popshift.hw.matrix.pe.xnor import XnorColumn

COLUMNS = {"mul": MulColumn, "shift": ShiftColumn, "xnor": XnorColumn}
assert tuple(COLUMNS) == PE_KINDS


def pe_word(config: AcceleratorConfig) -> data.StructLayout:
    """What a PE stores: for each of its kinds a weight, all but one of them zero."""
    return data.StructLayout({kind: COLUMNS[kind].weight(config) for kind in config.pe_kinds})
