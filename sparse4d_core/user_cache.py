"""Where files are kept that can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path | None:
    """`$XDG_CACHE_HOME/sparse4d_ros`, by default under `~/.cache`; None where there is neither: a user id without an
    account, as containers have them, and no HOME."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(cache) / "sparse4d_ros"
