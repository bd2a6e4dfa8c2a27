"""Training algorithms of selectors: pure functions from scored rollouts to one loss per row."""
