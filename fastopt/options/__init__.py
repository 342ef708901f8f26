"""The options of optimizers: their names, ranges and values."""
