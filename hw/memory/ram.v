// A word memory with one read and one write port; data follow the address two cycles later.
module popshift_ram #(
    parameter WIDTH = 8,
    parameter DEPTH = 512,
    parameter ADDRESS_BITS = 9
) (
    input clk,
    input [ADDRESS_BITS-1:0] read_address,
    output reg [WIDTH-1:0] read_data,
    input write_enable,
    input [ADDRESS_BITS-1:0] write_address,
    input [WIDTH-1:0] write_data
);
    (* no_rw_check *)  // a word read while it is written may be either value
    reg [WIDTH-1:0] array [0:DEPTH-1];
    reg [WIDTH-1:0] fetched;
    always @(posedge clk) begin
        if (write_enable) array[write_address] <= write_data;
        fetched <= array[read_address];
        read_data <= fetched;
    end
endmodule
