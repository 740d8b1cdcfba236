"""Compiler passes on the Relax module, one a file; ``pipeline`` is the only ordered list."""
