"""Integer CPU kernels in TIR, generated in plain Python for each instruction set."""
