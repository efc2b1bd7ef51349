"""Level 0: knows nothing of images beyond their number format; every other folder may import it."""
