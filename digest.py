"""`hashlib`, when it is needed: with it OpenSSL is loaded, which takes a start 3 ms and 4 MB."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import hashlib

__all__ = ["blake2b", "sha256"]


def sha256(data: bytes | memoryview = b"") -> hashlib._Hash:
    """As `hashlib.sha256`."""
    import hashlib  # noqa: PLC0415 - see the head

    return hashlib.sha256(data)


def blake2b(data: bytes = b"", *, digest_size: int = 64) -> hashlib.blake2b:
    """As `hashlib.blake2b`."""
    import hashlib  # noqa: PLC0415 - see the head

    return hashlib.blake2b(data, digest_size=digest_size)
