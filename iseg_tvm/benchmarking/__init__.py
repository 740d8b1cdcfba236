"""Latency of a bundle, here or on a board: measuring, recording, comparing."""
