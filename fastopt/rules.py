"""The rules of the optimizers, and the operations to write your own with; see ``arithmetic/rules.py``."""

from .arithmetic.operations import *  # noqa: F403
from .arithmetic.rules import *  # noqa: F403

#: The names that the rules need themselves, for annotations.
NOT_PUBLIC = ("Any", "Callable", "NamedTuple", "Real", "TypeAlias", "annotations", "inspect", "lru_cache", "np", "npt")


def __dir__() -> list[str]:
    return [name for name in globals() if not (name.startswith("_") or name in (*NOT_PUBLIC, "NOT_PUBLIC"))]
