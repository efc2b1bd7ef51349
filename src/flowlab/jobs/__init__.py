"""A study's jobs, each in its own process: the study starts them by command and never imports them."""
