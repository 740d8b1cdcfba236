"""What the ARM kernels cost without a board: instructions executed, cycles by LLVM's models."""
