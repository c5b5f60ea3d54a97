"""Running an accelerator without a board: executor of encoded programs, cycle model, Verilated simulated
board.
"""
