"""The report's figures, drawn from the tables of `study.analysis` and `study.effects`."""
