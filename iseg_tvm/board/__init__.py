"""What runs on a board: its RPC server, its identity, and measurements on the spot."""
