"""Gowin LittleBee and Arora: synthesis infers MULT9X9 and MULT18X18 from plain multiplication."""

from popshift.hw.tech.portable import Portable


class Gowin(Portable):
    """Nothing but the name: yosys maps the portable multipliers and memories."""

    name = "gowin"
