"""Device technologies: how multipliers and memories become gates. One file each, chosen by name when a design
is generated.
"""

from popshift.hw.tech.ecp5 import Ecp5
from popshift.hw.tech.gowin import Gowin
from popshift.hw.tech.ice40 import Ice40
from popshift.hw.tech.portable import Portable, Simulated

TECHNOLOGIES: dict[str, type[Portable]] = {cls.name: cls for cls in (Portable, Simulated, Ecp5, Ice40, Gowin)}
