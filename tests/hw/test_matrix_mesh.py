"""The mesh's cycle law: a wave comes out `mesh_latency` cycles later, and one more per column tile."""

import pytest
from amaranth.sim import Simulator

from popshift.hw.config import load_config
from popshift.hw.matrix.mesh import Mesh, mesh_latency, tree_latency
from popshift.hw.tech import TECHNOLOGIES

SHAPES = [
    {},
    {"tile_rows": 1, "tile_cols": 1, "multiplier_stages": 2},
    {"rows": 6, "tile_rows": 3, "tile_cols": 4, "multiplier_stages": 4},
    {"tile_rows": 4, "tile_cols": 1},
    {"rows": 1, "cols": 1, "tile_rows": 1, "tile_cols": 1, "post_lanes": 1},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_come_after_the_latency_and_not_before(shape):
    config = load_config("tiny").replace(**shape)
    mesh = Mesh(config=config, technology=TECHNOLOGIES["simulated"]())
    rows, cols = config.rows, config.cols
    weights = [[(7 * r + 13 * c) % 256 - 128 for c in range(cols)] for r in range(rows)]
    activations = [-128 if r % 2 else 127 for r in range(rows)]
    wanted = [sum(activations[r] * weights[r][c] for r in range(rows)) for c in range(cols)]
    assert all(wanted)
    seen: list[list[int]] = []

    async def bench(ctx):
        for row in range(rows):  # one row a cycle into its tile; the mesh moves weights down a tile a cycle
            tile = row // config.tile_rows
            for c in range(cols):
                ctx.set(mesh.weights[c], weights[row][c] & 0xFF)
            ctx.set(mesh.load, 0)
            for wait in range(tile + 1):
                ctx.set(mesh.load, (1 << tile) if wait == tile else 0)
                await ctx.tick()
        ctx.set(mesh.load, 0)
        await ctx.tick().repeat(config.mesh_cols + config.mesh_rows)
        for cycle in range(mesh_latency(config) + config.mesh_cols + config.mesh_rows + 4):
            ctx.set(mesh.switch, (1 << cycle) % (1 << config.mesh_rows) if cycle < config.mesh_rows else 0)
            for row in range(rows):  # the switch comes a cycle before the wave
                arrives = cycle == row // config.tile_rows + 1
                ctx.set(mesh.activations[row], activations[row] if arrives else 0)
            seen.append([ctx.get(mesh.sums[c]) for c in range(cols)])
            await ctx.tick()

    simulator = Simulator(mesh)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    for c in range(cols):
        due = 1 + mesh_latency(config) + c // config.tile_cols
        found = {cycle: sums[c] for cycle, sums in enumerate(seen) if sums[c]}
        assert found == {due: wanted[c]}, (c, due)


@pytest.mark.parametrize(("rows", "levels"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6)])
def test_tree_latency(rows, levels):
    assert tree_latency(rows) == levels
