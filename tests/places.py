"""Where the tests and the source tree are. Where only the tests were copied, ROOT holds nothing but them."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
