"""What mypy is told by who has no plugin, and where it keeps what it learns of torch: the tests' runs share it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

STRICT: Final = "[mypy]\npython_version = 3.11\nstrict = True\n"
CACHE: Final = Path(__file__).parents[2] / ".mypy_cache" / "strict"
"""For `STRICT` alone, and what comes to the same: mypy checks anew what it checked with other options."""
