"""From network to program: front ends, graph, golden model, quantisation, mapper, assembler, command line."""
