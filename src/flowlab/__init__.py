"""flowlab: a laboratory for latent image generators. Which latent space, and which noise schedule?"""

__all__ = ["__version__"]

__version__ = "0.1.0"
