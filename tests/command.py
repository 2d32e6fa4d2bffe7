"""The installed command, for tests that need a process of its own. No tests here."""

from __future__ import annotations

import sys
from pathlib import Path

CODEC = Path(sys.executable).with_name("codec")
