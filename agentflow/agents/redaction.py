"""Takes secrets out of what a call brings back, in the forms in which they come back."""

from __future__ import annotations

import base64
import functools
import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote, quote_plus

from ..workflow.failures import Failure

HIDDEN = "********"
LEAST_CHARS = 6  # of any form: less would take ordinary text away
_BASE64_LEAST_CHARS = 8


class Redactor:
    """Replaces the secrets of one call; one without secrets gives everything back as it is."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._take(tuple(dict.fromkeys(secrets)))

    def add(self, secret: str) -> None:
        """One that became known during the call, such as a token."""
        if secret not in self._secrets:
            self._take((*self._secrets, secret))

    def _take(self, secrets: tuple[str, ...]) -> None:
        self._secrets = secrets
        self._forms, self._pattern = _compiled(secrets)

    def __bool__(self) -> bool:
        return self._pattern is not None

    def clean(self, value: Any) -> Any:
        """A JSON value without the secrets, in its texts, its keys, and numbers that are one."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self._pattern.sub(HIDDEN, value)
        if isinstance(value, dict):
            return {self.clean(key): self.clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(item) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return HIDDEN if self._pattern.fullmatch(str(value)) else value
        return value

    def clean_excerpt(self, value: Any) -> Any:
        """As `clean`, for what may have been cut in the middle of a secret: neither half of one stays."""
        if self._pattern is None:
            return value
        if isinstance(value, dict):
            return {self.clean(key): self.clean_excerpt(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean_excerpt(item) for item in value]
        return self._without_halves(self.clean(value)) if isinstance(value, str) else self.clean(value)

    def clean_failure(self, failure: Failure) -> Failure:
        if self._pattern is None:
            return failure
        return replace(
            failure,
            message=self.clean_excerpt(failure.message),
            evidence=self.clean_excerpt(failure.evidence),
        )

    def _without_halves(self, text: str) -> str:
        for form in self._forms:
            for size in range(min(len(form) - 1, len(text)), LEAST_CHARS - 1, -1):
                if text.endswith(form[:size]):
                    text = text[:-size] + HIDDEN
                    break
            for size in range(min(len(form) - 1, len(text)), LEAST_CHARS - 1, -1):
                if text.startswith(form[-size:]):
                    text = HIDDEN + text[size:]
                    break
        return text


@functools.lru_cache(maxsize=256)
def _compiled(secrets: tuple[str, ...]) -> tuple[list[str], re.Pattern[str] | None]:
    forms = {form for secret in secrets for form in _forms(secret) if len(form) >= LEAST_CHARS}
    longest_first = sorted(forms, key=len, reverse=True)
    return longest_first, re.compile("|".join(map(re.escape, longest_first))) if forms else None


def _forms(secret: str) -> Iterator[str]:
    parts = [secret, *(line.strip() for line in secret.splitlines() if len(line.strip()) >= 8)]
    for part in dict.fromkeys(parts):
        yield from _escaped(part)
        for escaped in list(_escaped(part)):
            yield json.dumps(escaped)[1:-1]  # JSON within JSON
        yield from _base64(part.encode(errors="replace"))


def _escaped(text: str) -> Iterator[str]:
    yield text
    for escaped in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
        yield escaped
        yield escaped.replace("/", "\\/")
    for quoted in (quote(text, safe="", errors="replace"), quote(text, errors="replace")):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)
    plus = quote_plus(text, errors="replace")
    yield plus
    yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), plus)
    yield html.escape(text)
    yield repr(text)[1:-1]


def _base64(data: bytes) -> Iterator[str]:
    """As it stands in the base64 of a longer text: three alignments, without what the neighbours decide."""
    yield base64.b64encode(data).decode()
    yield base64.urlsafe_b64encode(data).decode()
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        first = -(-before * 8 // 6)  # characters that hold bits of what comes before
        last = (before + len(data)) * 8 // 6
        core = whole[first:last]
        if len(core) >= _BASE64_LEAST_CHARS:
            yield core
            yield core.replace("+", "-").replace("/", "_")
            yield core.replace("/", "\\/")
            yield quote(core, safe="")
