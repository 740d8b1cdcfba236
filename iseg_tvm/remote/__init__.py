"""Boards from the host's side: trackers, sessions, uploads, measurements (``tvm.rpc``)."""
