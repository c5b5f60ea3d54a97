"""From Verilog to a placed and routed design: synthesis, place and route, and the tools they run."""
