"""``python -m rdcodec.codecs.kv_cache.lmcache server ...``: LMCache's own command line, with the serde registered."""

from __future__ import annotations

import sys
from typing import Any

from .serde import register


def main() -> Any:
    """Run LMCache with the arguments of this process; its exit status."""
    try:
        from lmcache.cli.main import main as lmcache_main
    except ImportError as error:
        sys.exit(f"rdcodec: LMCache is not installed here ({error}); pip install lmcache")
    register()
    sys.argv[0] = "lmcache"
    return lmcache_main()


if __name__ == "__main__":
    sys.exit(main())
