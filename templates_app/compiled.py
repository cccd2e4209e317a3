"""Definitions by version, read once per process: a version never changes."""

from __future__ import annotations

import threading
from collections import OrderedDict

from agentflow.conf import LIMITS
from agentflow.errors import NotFound
from agentflow.workflow.definition import Definition
from agentflow.workflow.parsing import parse

from .models import TemplateVersion

# Two of the largest templates, or thousands of everyday ones; a block is about 3 KB in memory.
BLOCKS_KEPT = 2 * LIMITS.blocks_per_template

_lock = threading.Lock()
_kept: OrderedDict[int, Definition] = OrderedDict()
_blocks = 0


def definition_of(version_id: int) -> Definition:
    """The definition of a version; the least recently used ones are read again.

    Raises:
        NotFound: the version is not there; it may have been deleted since the caller read of it.
    """
    with _lock:
        if version_id in _kept:
            _kept.move_to_end(version_id)
            return _kept[version_id]
    body = TemplateVersion.objects.filter(pk=version_id).values_list("definition", flat=True).first()
    if body is None:
        raise NotFound()
    # Two threads may read the same one at once: that is cheaper than a lock held over a query.
    return _keep(version_id, parse(body))


def _keep(version_id: int, definition: Definition) -> Definition:
    global _blocks
    with _lock:
        if version_id not in _kept:
            _kept[version_id] = definition
            _blocks += len(definition.blocks)
        while _blocks > BLOCKS_KEPT and len(_kept) > 1:
            _, dropped = _kept.popitem(last=False)
            _blocks -= len(dropped.blocks)
        return _kept[version_id]
