"""How often somebody may try: counted in the cache by fixed windows."""

from __future__ import annotations

import hashlib
import logging
import time

from django.core.cache import cache
from redis.exceptions import RedisError

log = logging.getLogger(__name__)


def exceeded(what: str, who: str, *, most: int, window_s: int) -> int:
    """Seconds to wait, or 0.  Each call counts.  Without the cache nobody is held up: links stay signed."""
    now = time.time()
    window = int(now // window_s)
    key = f"rate:{what}:{window}:{hashlib.sha256(who.encode(errors='replace')).hexdigest()[:32]}"
    try:
        cache.add(key, 0, timeout=2 * window_s)
        count = cache.incr(key)
    except (OSError, ValueError, RedisError) as error:
        log.warning("nothing is counted, the cache fails: %r", error)
        return 0
    return 0 if count <= most else max(1, int((window + 1) * window_s - now))
