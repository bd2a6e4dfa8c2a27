"""How a selector learns: pure functions from scored gazes to a loss a row."""
