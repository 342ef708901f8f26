"""The arithmetic, once: the twin of csrc/, with the same names in the same order."""
