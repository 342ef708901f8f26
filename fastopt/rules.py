"""The rules of the optimizers, and the operations to write your own with; see ``arithmetic/rules.py``."""

from .arithmetic.operations import *  # noqa: F403
from .arithmetic.rules import *  # noqa: F403
