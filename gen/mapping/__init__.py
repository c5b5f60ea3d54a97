"""From an integer graph to a program: placement, tiling, memory planning, assembly."""

from popshift.gen.mapping.mapper import map_graph, prepared

__all__ = ["map_graph", "prepared"]
