from __future__ import annotations

from tests.scenarios.conftest import client, held, server

__all__ = ["client", "held", "server"]
