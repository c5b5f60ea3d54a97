// A word memory with one read and one write port; data follow the address two cycles later.
module popshift_ram #(
    parameter WIDTH = 8,
    parameter DEPTH = 512,
    parameter ADDRESS_BITS = 9,
    parameter EARLY_REGISTER = 0  // 1: the second register is before the memory, not behind it
) (
    input clk,
    input [ADDRESS_BITS-1:0] read_address,
    output [WIDTH-1:0] read_data,
    input write_enable,
    input [ADDRESS_BITS-1:0] write_address,
    input [WIDTH-1:0] write_data
);
    // A depth that is no power of two takes several rows of block RAM. With a part for each, the choice between
    // them comes behind the output registers, which block RAM may have inside.
    localparam LOW = 1 << (ADDRESS_BITS - 1);
    localparam SPLIT = !EARLY_REGISTER && DEPTH > 512 && DEPTH < 2 * LOW;
    generate
        if (SPLIT) begin : parts
            localparam HIGH_BITS = $clog2(DEPTH - LOW) > 0 ? $clog2(DEPTH - LOW) : 1;
            wire [WIDTH-1:0] low_data, high_data;
            reg first, second;
            always @(posedge clk) {second, first} <= {first, read_address[ADDRESS_BITS-1]};
            popshift_ram_block #(.WIDTH(WIDTH), .DEPTH(LOW), .ADDRESS_BITS(ADDRESS_BITS - 1)) low (
                .clk(clk),
                .read_address(read_address[ADDRESS_BITS-2:0]),
                .read_data(low_data),
                .write_enable(write_enable && !write_address[ADDRESS_BITS-1]),
                .write_address(write_address[ADDRESS_BITS-2:0]),
                .write_data(write_data)
            );
            popshift_ram_block #(.WIDTH(WIDTH), .DEPTH(DEPTH - LOW), .ADDRESS_BITS(HIGH_BITS)) high (
                .clk(clk),
                .read_address(read_address[HIGH_BITS-1:0]),
                .read_data(high_data),
                .write_enable(write_enable && write_address[ADDRESS_BITS-1]),
                .write_address(write_address[HIGH_BITS-1:0]),
                .write_data(write_data)
            );
            assign read_data = second ? high_data : low_data;
        end else begin : whole
            popshift_ram_block #(
                .WIDTH(WIDTH), .DEPTH(DEPTH), .ADDRESS_BITS(ADDRESS_BITS), .EARLY_REGISTER(EARLY_REGISTER)
            ) ram (
                .clk(clk),
                .read_address(read_address),
                .read_data(read_data),
                .write_enable(write_enable),
                .write_address(write_address),
                .write_data(write_data)
            );
        end
    endgenerate
endmodule

module popshift_ram_block #(
    parameter WIDTH = 8,
    parameter DEPTH = 512,
    parameter ADDRESS_BITS = 9,
    parameter EARLY_REGISTER = 0
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
    always @(posedge clk) if (write_enable) array[write_address] <= write_data;
    generate
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
