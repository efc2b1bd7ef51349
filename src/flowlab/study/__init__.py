"""The study: a grid of runs, their rows, what the rows say, and the report."""
