from __future__ import annotations

import json
from functools import partial
from typing import Any

from django.db import models
from psycopg.types.json import Json

_dumps = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))


class OrderedJSONField(models.JSONField):
    """JSON as it was written: `json` where Django takes `jsonb`, which sorts the keys of objects.

    A form is drawn in the order of its schema's properties, and an author finds his definition again
    as he sent it.  Cannot be indexed, compared or made distinct; nothing asks for that.
    """

    def db_type(self, connection: Any) -> str:
        return "json"

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return value if value is None or hasattr(value, "as_sql") else Json(value, dumps=_dumps)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return value  # psycopg has read it already
