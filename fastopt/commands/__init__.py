"""The commands of ``python -m fastopt``."""
