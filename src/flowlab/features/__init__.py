"""Frozen networks: images => features. Level 2: everything that measures or aligns may use them."""
