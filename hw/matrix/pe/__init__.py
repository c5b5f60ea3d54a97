"""Processing elements, by the name a configuration gives them. A new kind is one file here and one entry
below.
"""

from popshift.hw.config import PE_KINDS
from popshift.hw.matrix.pe.mul import MulColumn

COLUMNS = {"mul": MulColumn}
assert tuple(COLUMNS) == PE_KINDS
