"""The command line: one module per command, which parses and prints, and `main`.

Nothing heavy is imported before a command runs: ``segment`` must work on a board without torch.
"""
