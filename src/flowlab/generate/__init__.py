"""Level 4: a trained model and conditions => latents, images, an image folder."""
