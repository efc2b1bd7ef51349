"""Level 3: features in, numbers with their errors out. No network is run here; features arrive as tensors."""
