"""`python -m flowlab` is the command `flowlab`."""

from flowlab.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
