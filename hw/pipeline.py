"""Registers in a row."""

from typing import Any

from amaranth.hdl import Module, Signal


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
