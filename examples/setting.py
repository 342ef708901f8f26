"""The length of the scripts' runs: with ``FASTOPT_EXAMPLES=short`` about a second each, else up to a minute."""

from __future__ import annotations

import os

#: Whether a script should take the smaller numbers. It shows the same with them, in the same pictures.
SHORT = os.environ.get("FASTOPT_EXAMPLES") == "short"
