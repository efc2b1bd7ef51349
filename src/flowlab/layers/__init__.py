"""Parts that transformers share: attention, MLPs, norms, modulation, RoPE and fixed embeddings."""
