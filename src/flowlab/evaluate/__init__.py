"""Level 5: a checkpoint or an autoencoder => result rows."""
