"""Benchmarks of fastopt against its peers and against the speed of memory; see bench/README.md."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Run from a checkout, Python would find the checkout's own fastopt/ first, which has no compiled part unless it was
# built in place. What gets measured is the installed package: the checkout goes to the end of the search path.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT] + [str(ROOT)]
