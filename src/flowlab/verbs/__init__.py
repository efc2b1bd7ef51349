"""Level 10: what the words of the command line do, a file each; `cli` is their table."""
