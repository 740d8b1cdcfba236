"""The demo model: scenes from photographs' textures, training script, shipped checkpoint."""
