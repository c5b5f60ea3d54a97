"""Skips for what is in an extra of its own: each package of place and route prepares itself for minutes at
its first call.
"""

import pytest

from popshift.gen.implement.toolchain import NEXTPNR, PACKER


def needs(family: str):
    """Place and route, and the packer, for a family of devices."""
    lacking = [tool for tool in (NEXTPNR[family], PACKER[family]) if not tool.available]
    reason = "; ".join(f"{tool.name} is not installed (popshift doctor): {tool.mend}" for tool in lacking)
    return pytest.mark.skipif(bool(lacking), reason=reason)
