"""``python -m fastopt``: print the backend in use; ``python -m fastopt --help`` lists the other commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

COMMANDS = {
    "info": "print which backend runs on this machine, and why (the default)",
    "demo": "train an MLP on handwritten digits with each optimizer",
    "bench": "time each optimizer, next to the speed of this machine's memory",
    "schedules": "draw every learning-rate schedule into one picture",
}
MODULES = {
    "demo": "fastopt.commands.demo",
    "bench": "fastopt.commands.bench",
    "schedules": "fastopt.commands.plot_schedules",
}


def usage() -> str:
    lines = [f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(["usage: python -m fastopt [command] [--help]", "", *lines])


def main(argv: list[str]) -> int:
    """Run one command; return its exit code."""
    command = argv[0] if argv else "info"
    if command in ("-h", "--help"):
        print(usage())
        return 0
    if command not in COMMANDS:
        print(f"fastopt: there is no command {command!r}\n{usage()}", file=sys.stderr)
        return 2
    try:
        if command == "info":
            from .backends.information import info_text

            print(info_text())
            return 0
        run: Callable[[list[str]], int] = import_module(MODULES[command]).main
        return run(argv[1:])
    except (ValueError, RuntimeError) as error:
        print(f"fastopt: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
