"""The rules of the optimizers, and the operations to write one's own with; they stand in ``arithmetic/rules.py``."""

from .arithmetic.rules import *  # noqa: F403
