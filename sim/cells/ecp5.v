// What yosys has as empty boxes of the ECP5: a multiplier and a block RAM, as far as the netlists of popshift
// use them. After Lattice FPGA-TN-02205 (sysDSP usage guide) and FPGA-TN-02204 (memory usage guide).

// Operands, product and result each pass a register or not. Clock enable and reset are those of all of them.
module MULT18X18D #(parameter REG_INPUTA_CLK = "NONE", REG_INPUTB_CLK = "NONE", REG_PIPELINE_CLK = "NONE",
    REG_OUTPUT_CLK = "NONE")
  (input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
   input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
   input CLK0, CE0, RST0, SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
   output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17,
       P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0);
  wire [17:0] a = SOURCEA ? 18'd0 : {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2,
      A1, A0};
  wire [17:0] b = SOURCEB ? 18'd0 : {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2,
      B1, B0};
  reg signed [18:0] a_q, b_q;
  reg signed [35:0] pipe_q, out_q;
  wire signed [18:0] a_extended = {SIGNEDA & a[17], a};
  wire signed [18:0] b_extended = {SIGNEDB & b[17], b};
  wire signed [18:0] a_used = REG_INPUTA_CLK == "CLK0" ? a_q : a_extended;
  wire signed [18:0] b_used = REG_INPUTB_CLK == "CLK0" ? b_q : b_extended;
  wire signed [37:0] full = a_used * b_used;
  wire signed [35:0] piped = REG_PIPELINE_CLK == "CLK0" ? pipe_q : full[35:0];
  wire signed [35:0] product = REG_OUTPUT_CLK == "CLK0" ? out_q : piped;
  assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17,
      P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = RST0 ? 36'd0 : product;
  always @(posedge CLK0) if (CE0) begin
    a_q <= a_extended;
    b_q <= b_extended;
    pipe_q <= full[35:0];
    out_q <= piped;
  end
endmodule

// 1024 words of 18 bits; ports of 1, 2 or 4 bits do not see the ninth bit of a half. With 36 bits A is the writing
// and B the reading port, and the upper half is on B. The low bits of a wide port's address enable its bytes.
module DP16KD #(parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18, REGMODE_A = "NOREG", REGMODE_B = "NOREG",
    WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL", RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC",
    CSDECODE_A = "0b000", CSDECODE_B = "0b000", CLKAMUX = "CLKA", CLKBMUX = "CLKB", GSR = "ENABLED",
    INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0, INITVAL_04 = 0, INITVAL_05 = 0,
        INITVAL_06 = 0, INITVAL_07 = 0, INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0,
        INITVAL_0C = 0, INITVAL_0D = 0, INITVAL_0E = 0, INITVAL_0F = 0,
    INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 = 0, INITVAL_14 = 0, INITVAL_15 = 0,
        INITVAL_16 = 0, INITVAL_17 = 0, INITVAL_18 = 0, INITVAL_19 = 0, INITVAL_1A = 0, INITVAL_1B = 0,
        INITVAL_1C = 0, INITVAL_1D = 0, INITVAL_1E = 0, INITVAL_1F = 0,
    INITVAL_20 = 0, INITVAL_21 = 0, INITVAL_22 = 0, INITVAL_23 = 0, INITVAL_24 = 0, INITVAL_25 = 0,
        INITVAL_26 = 0, INITVAL_27 = 0, INITVAL_28 = 0, INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0,
        INITVAL_2C = 0, INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0,
    INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0, INITVAL_34 = 0, INITVAL_35 = 0,
        INITVAL_36 = 0, INITVAL_37 = 0, INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0,
        INITVAL_3C = 0, INITVAL_3D = 0, INITVAL_3E = 0, INITVAL_3F = 0)
  (input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3,
      DIA2, DIA1, DIA0,
   input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
   input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
   output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3,
       DOA2, DOA1, DOA0,
   input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3,
       DIB2, DIB1, DIB0,
   input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
   input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
   output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3,
       DOB2, DOB1, DOB0);
  localparam WIDE = DATA_WIDTH_A == 36;
  localparam NARROW_A = DATA_WIDTH_A < 9, NARROW_B = DATA_WIDTH_B < 9;
  localparam BITS_A = NARROW_A ? DATA_WIDTH_A : 1, BITS_B = NARROW_B ? DATA_WIDTH_B : 1;
  reg [17:0] memory [0:1023];
  wire [13:0] a_address = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1,
      ADA0};
  wire [13:0] b_address = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1,
      ADB0};
  wire [35:0] in = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5,
      DIB4, DIB3, DIB2, DIB1, DIB0, DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8,
      DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
  wire a_write = CEA & WEA & ~(CSA2 | CSA1 | CSA0);
  wire b_write = CEB & WEB & ~(CSB2 | CSB1 | CSB0);
  reg [17:0] a_q, a_register, b_high_q;
  reg [17:0] b_q, b_register;

  // Word and half of an address; a half is all of a port of 9 bits.
  wire [9:0] a_word = WIDE ? {a_address[13:5], 1'b0} : a_address[13:4];
  wire [9:0] b_word = WIDE ? {b_address[13:5], 1'b0} : b_address[13:4];
  wire [1:0] a_enable = DATA_WIDTH_A == 9 ? {a_address[3], ~a_address[3]} : a_address[1:0];
  wire [1:0] b_enable = DATA_WIDTH_B == 9 ? {b_address[3], ~b_address[3]} : b_address[1:0];
  wire [17:0] a_in = DATA_WIDTH_A == 9 ? {2{in[8:0]}} : in[17:0];
  wire [17:0] b_in = DATA_WIDTH_B == 9 ? {2{in[26:18]}} : in[35:18];

  // Lowest bit of a narrow port's piece.
  wire [3:0] a_piece = a_address[3:0] & ~(BITS_A - 4'd1), b_piece = b_address[3:0] & ~(BITS_B - 4'd1);
  wire [4:0] a_low = a_piece + {4'd0, a_piece[3]}, b_low = b_piece + {4'd0, b_piece[3]};

  always @(posedge CLKA) if (a_write && NARROW_A) memory[a_word][a_low +: BITS_A] <= in[BITS_A-1:0];
  always @(posedge CLKB) if (b_write && NARROW_B) memory[b_word][b_low +: BITS_B] <= in[18 +: BITS_B];
  always @(posedge CLKA) if (a_write && !NARROW_A) begin
    if (a_enable[0]) memory[a_word][8:0] <= a_in[8:0];
    if (a_enable[1]) memory[a_word][17:9] <= a_in[17:9];
    if (WIDE && a_address[2]) memory[a_word | 10'd1][8:0] <= in[26:18];
    if (WIDE && a_address[3]) memory[a_word | 10'd1][17:9] <= in[35:27];
  end
  always @(posedge CLKB) if (b_write && !WIDE && !NARROW_B) begin
    if (b_enable[0]) memory[b_word][8:0] <= b_in[8:0];
    if (b_enable[1]) memory[b_word][17:9] <= b_in[17:9];
  end

  wire [17:0] a_read = memory[a_word], b_read = memory[b_word];
  wire [17:0] a_half = DATA_WIDTH_A == 9 && a_address[3] ? {9'd0, a_read[17:9]} : a_read;
  wire [17:0] b_half = DATA_WIDTH_B == 9 && b_address[3] ? {9'd0, b_read[17:9]} : b_read;
  wire [17:0] a_found = NARROW_A ? a_read >> a_low : a_half;
  wire [17:0] b_found = NARROW_B ? b_read >> b_low : b_half;
  always @(posedge CLKA) begin
    if (CEA && (!WEA || WRITEMODE_A == "READBEFOREWRITE")) a_q <= a_found;
    if (OCEA) a_register <= a_q;
  end
  always @(posedge CLKB) begin
    if (CEB && (!WEB || WRITEMODE_B == "READBEFOREWRITE")) b_q <= b_found;
    if (CEB) b_high_q <= memory[b_word | 10'd1];
    if (OCEB) b_register <= b_q;
  end
  wire [17:0] a_out = REGMODE_A == "OUTREG" ? a_register : a_q;
  wire [17:0] b_out = REGMODE_B == "OUTREG" ? b_register : b_q;
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3,
      DOA2, DOA1, DOA0} = WIDE ? b_q : a_out;
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3,
      DOB2, DOB1, DOB0} = WIDE ? b_high_q : b_out;
endmodule
