"""I-ViT (Li and Gu 2023, arXiv 2207.01405): its operators, and import of its checkpoints."""
