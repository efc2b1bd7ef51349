"""Level 3: anything to `Batch`. Embedded images, folders of images, the latent cache, the loader."""
