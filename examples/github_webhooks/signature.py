"""GitHub's signature: HMAC-SHA256 over the body, keyed with a secret that both sides know."""

from __future__ import annotations

import hashlib
import hmac


def sign(body: bytes, secret: str) -> str:
    """Return the value of ``X-Hub-Signature-256`` for a body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def is_signed(body: bytes, signature: str | None, secret: str) -> bool:
    """Tell whether a body was signed with the secret.

    In constant time: ``==`` would stop at the first wrong character, and from how long that took
    the right signature can be guessed one character at a time.
    """
    return hmac.compare_digest(sign(body, secret).encode(), (signature or "").encode())
