"""Measurements on this machine: other runtimes side by side, and a profile of our kernels."""
