// A word memory with one read and one write port; data follow the address two cycles later. The word at the
// write port's address can be read, too.
module popshift_ram #(
    parameter WIDTH = 8,
    parameter DEPTH = 512,
    parameter ADDRESS_BITS = 9,
    parameter EARLY_REGISTER = 0,  // 1: the second register is before the memory, not behind it
    parameter READ_BACK = 0  // 1: `word_there` is built
) (
    input clk,
    input [ADDRESS_BITS-1:0] read_address,
    output reg [WIDTH-1:0] read_data,
    input write_enable,
    input [ADDRESS_BITS-1:0] write_address,
    input [WIDTH-1:0] write_data,
    output [WIDTH-1:0] word_there
);
    (* no_rw_check *)  // a word read while it is written may be either value
    reg [WIDTH-1:0] array [0:DEPTH-1];
    reg [WIDTH-1:0] fetched;
    always @(posedge clk) if (write_enable) array[write_address] <= write_data;
    generate
        if (READ_BACK) begin : there
            reg [WIDTH-1:0] fetched_there, registered_there;
            always @(posedge clk) fetched_there <= array[write_address];
            always @(posedge clk) registered_there <= fetched_there;
            assign word_there = registered_there;
        end else begin : nowhere
            assign word_there = {WIDTH{1'b0}};
        end
        if (EARLY_REGISTER) begin : early
            reg [ADDRESS_BITS-1:0] address;
            always @(posedge clk) address <= read_address;
            always @(posedge clk) fetched <= array[address];
            always @* read_data = fetched;
        end else begin : late
            always @(posedge clk) fetched <= array[read_address];
            always @(posedge clk) read_data <= fetched;
        end
    endgenerate
endmodule
