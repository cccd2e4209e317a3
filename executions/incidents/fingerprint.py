"""Which failures are the same: template, block, code and message, but for what differs each time.

Pure.  A message's moments, addresses, ids and numbers stand for one failure among many, so they are taken
out; its words stay.
"""

from __future__ import annotations

import hashlib
import json
import re
from uuid import UUID

READ_CHARS = 2000  # of a message; what follows is seldom about the failure any more
MESSAGE_CHARS = 300
FINGERPRINT_CHARS = 32

# In this order: what comes first would else be taken apart by what comes later.  Each needs only a look
# at a bounded stretch of text, whatever the message.
_PLACEHOLDERS = re.compile(
    r"""
    (?P<url> \b[A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s"'<>)\]}]{1,2000} )
    | (?P<email> [^\s@"'<>(),;:]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,6} )
    | (?P<id> \b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b )
    | (?P<time> \d{4}-\d\d-\d\d (?: [T\ ]\d\d?:\d\d(?::\d\d(?:[.,]\d{1,9})?)?
                                    (?:\ ?(?:Z|UTC|GMT|[+-]\d\d:?\d\d))? )?
              | (?<![\w:])\d\d?:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?![\w:]) )
    | (?P<address> (?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?![\w.]*\d)
                 | (?<![\w:])\[?(?=[0-9a-fA-F:]{0,40}\d)[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}\]?
                 | (?<![\w.-])[A-Za-z][\w-]{0,62}(?:\.[A-Za-z][\w-]{0,62}){0,6}:\d{2,5}\b
                 | \b0[xX][0-9a-fA-F]{1,32}\b )
    | (?P<hash> (?<!\w)(?=[0-9]{0,128}[a-fA-F])(?=[a-fA-F]{0,128}\d)[0-9a-fA-F]{8,128}(?!\w)
              | (?<!\w)(?=\d{0,63}[A-Za-z_-])(?=[A-Za-z_-]{0,63}\d)[\w-]{20,200}(?!\w) )
    | (?P<n> (?<!\w)[+-]?\d[\d.,_]*(?:[eE][+-]?\d{1,4})?(?=\D|$) | \d+ )
    """,
    re.VERBOSE,
)
_WORDS = {"hash": "id"}


def normalised(message: str) -> str:
    """The message without what differs each time: `Order 17 of 10.0.0.1:80` is `Order <n> of <address>`.

    Bounded, free of digits, and what it gives is left as it is.
    """
    text = _PLACEHOLDERS.sub(_placeholder, message[:READ_CHARS])
    return " ".join(text.split())[:MESSAGE_CHARS].rstrip()


def _placeholder(found: re.Match[str]) -> str:
    kind = found.lastgroup or "n"
    return f"<{_WORDS.get(kind, kind)}>"


def fingerprint(
    template_id: UUID | str, block_id: str, code: str, message: str, *, injected: bool = False
) -> str:
    """What failures of one group share: 32 hexadecimal digits.  What went wrong on purpose is apart.

    Of the template, not of its version: a failure that a new version still has is the same one.
    """
    said = json.dumps([str(template_id), block_id, code, normalised(message), *(["injected"] * injected)])
    return hashlib.sha256(said.encode(errors="replace")).hexdigest()[:FINGERPRINT_CHARS]
