"""One loop, several recipes: autoencoder, flow, and the embedded feature networks."""
