"""Registers in a row, and choosing in two steps."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Module, Signal

NEIGHBOUR_BITS = 2
"""The first step of a choice is among four neighbours."""


def delayed(m: Module, value: Any, cycles: int, name: str, *, shape=None, reset: bool = False) -> Any:
    """`value` behind `cycles` registers named ``name_0``, ``name_1``, …; with none, `value` itself.

    Parameters
    ----------
    shape: of the registers, by default the value's.
    reset: cleared by reset. Data needs none, which keeps the reset net small; strobes do, so that nothing of
        an aborted run arrives late.
    """
    for cycle in range(cycles):
        value = registered(m, value, f"{name}_{cycle}", shape=shape, reset=reset)
    return value


def registered(m: Module, value: Any, name: str, *, shape=None, reset: bool = False) -> Signal:
    """`value` behind one register."""
    register = Signal(value.shape() if shape is None else shape, name=name, reset_less=not reset)
    m.d.sync += register.eq(value)
    return register


def choose_near(m: Module, values: Sequence[Signal], index: Signal, name: str) -> tuple[list[Signal], Any]:
    """The first of two steps of choosing among values that lie far apart in the device.

    Returns
    -------
    A cycle later, what `index` chooses among each four neighbours, and the index of the second step:
    ``Array(chosen)[far]``.
    """
    near = index[:NEIGHBOUR_BITS]
    chosen = []
    for first in range(0, len(values), 1 << NEIGHBOUR_BITS):
        neighbours = Array(values[first : first + (1 << NEIGHBOUR_BITS)])
        chosen.append(registered(m, neighbours[near], f"{name}_{first}", shape=values[0].shape()))
    return chosen, registered(m, index[NEIGHBOUR_BITS:], f"{name}_far") if len(chosen) > 1 else 0
