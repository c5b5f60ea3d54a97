"""Verilog models of device primitives, to simulate what device technologies instantiate.

CCU2C, SB_MAC16 and SB_SPRAM256KA are those of yosys. Its multipliers of ECP5 and Gowin are empty boxes:
theirs are written here after Lattice FPGA-TN-02205 (sysDSP usage guide) and Gowin UG287 (DSP user guide):
operands, product and result each pass a register or not.
"""

from importlib import resources

_MULTIPLIER = """
module multiplier_model #(parameter BITS = 18, A_REG = 0, B_REG = 0, PIPE_REG = 0, OUT_REG = 0)
  (input clk, ce, a_signed, b_signed, input [BITS-1:0] a, b, output [2*BITS-1:0] product);
  reg signed [BITS:0] a_q, b_q;
  reg signed [2*BITS-1:0] pipe_q, out_q;
  wire signed [BITS:0] a_extended = {a_signed & a[BITS-1], a};
  wire signed [BITS:0] b_extended = {b_signed & b[BITS-1], b};
  wire signed [BITS:0] a_used = A_REG ? a_q : a_extended;
  wire signed [BITS:0] b_used = B_REG ? b_q : b_extended;
  wire signed [2*BITS+1:0] full = a_used * b_used;
  wire signed [2*BITS-1:0] piped = PIPE_REG ? pipe_q : full[2*BITS-1:0];
  assign product = OUT_REG ? out_q : piped;
  always @(posedge clk) if (ce) begin
    a_q <= a_extended;
    b_q <= b_extended;
    pipe_q <= full[2*BITS-1:0];
    out_q <= piped;
  end
endmodule
"""

_GOWIN = """
module MULT{bits}X{bits} #(parameter AREG = 0, BREG = 0, PIPE_REG = 0, OUT_REG = 0, ASIGN_REG = 0, BSIGN_REG =
0,
    SOA_REG = 0, MULT_RESET_MODE = "SYNC")
  (input [{top}:0] A, SIA, B, SIB, input ASIGN, BSIGN, ASEL, BSEL, CE, CLK, RESET, output [{out}:0] DOUT);
  wire [{out}:0] product;
  multiplier_model #(.BITS({bits}), .A_REG(AREG), .B_REG(BREG), .PIPE_REG(PIPE_REG), .OUT_REG(OUT_REG)) model(
    .clk(CLK), .ce(CE), .a_signed(ASIGN), .b_signed(BSIGN), .a(ASEL ? SIA : A), .b(BSEL ? SIB : B),
    .product(product));
  assign DOUT = RESET ? 0 : product;
endmodule
"""

_ECP5 = """
module MULT18X18D #(parameter REG_INPUTA_CLK = "NONE", REG_INPUTB_CLK = "NONE", REG_PIPELINE_CLK = "NONE",
    REG_OUTPUT_CLK = "NONE")
  (input {a}, {b}, CLK0, CE0, RST0, SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, output {p});
  wire [35:0] product;
  multiplier_model #(.BITS(18), .A_REG(REG_INPUTA_CLK == "CLK0"), .B_REG(REG_INPUTB_CLK == "CLK0"),
    .PIPE_REG(REG_PIPELINE_CLK == "CLK0"), .OUT_REG(REG_OUTPUT_CLK == "CLK0")) model(
    .clk(CLK0), .ce(CE0), .a_signed(SIGNEDA), .b_signed(SIGNEDB),
    .a(SOURCEA ? 18'd0 : {{{a}}}), .b(SOURCEB ? 18'd0 : {{{b}}}), .product(product));
  assign {{{p}}} = RST0 ? 36'd0 : product;
endmodule
"""


def _module(family: str, file: str, name: str) -> str:
    """One module of yosys' simulation models."""
    text = (resources.files("pyosys") / "share" / family / file).read_text(encoding="utf-8")
    start = text.index(f"module {name}")
    return text[start : text.index("endmodule", start)] + "endmodule\n"


def verilog() -> str:
    """The models of all primitives in use."""

    def bits(letter: str, count: int) -> str:
        return ", ".join(f"{letter}{bit}" for bit in reversed(range(count)))

    cells = [
        _module("ecp5", "common_sim.vh", "LUT4"),
        _module("ecp5", "common_sim.vh", "LUT2"),
        _module("ecp5", "ccu2c_sim.vh", "CCU2C"),
        _module("ice40", "cells_sim.v", "SB_MAC16"),
        _module("ice40", "cells_sim.v", "SB_SPRAM256KA"),
        _ECP5.format(a=bits("A", 18), b=bits("B", 18), p=bits("P", 36)),
        *(_GOWIN.format(bits=width, top=width - 1, out=2 * width - 1) for width in (9, 18)),
    ]
    return _MULTIPLIER + "".join(cells)
