"""Who may ask: developer keys."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

from dream_o.errors import InputError, UserError
from dream_o.service.settings import KEY_HASH

SCRYPT = {"n": 2**14, "r": 8, "p": 1}
"""16 MiB and about 50 ms a guess: the parameters of RFC 7914's interactive logins."""


def check_dev_key(given: str, accepted: Sequence[str], hashes: Sequence[str] = ()) -> None:
    """Refuses a key that is not among the accepted ones.

    The time does not tell how much of a key was right, nor which key it was: every accepted key
    and hash is compared, each in constant time.

    Args:
        given: the caller's key.
        accepted: keys.
        hashes: what `hash_key` made of further keys.

    Raises:
        InputError: `dev_key` is not recognised, or there is no accepted key at all.
    """
    if not (accepted or hashes):
        raise InputError(
            "dev_key",
            "no key is accepted, because DREAM_RENDER_DEV_KEYS is not set on the server; "
            "set it to the accepted keys, separated by commas, or set DREAM_RENDER_DEV_KEYS_FILE "
            "or DREAM_RENDER_DEV_KEY_HASHES",
        )
    # Bytes, because compare_digest takes no text beyond ASCII.
    offered = given.encode("utf-8", "surrogatepass")
    matches = [hmac.compare_digest(offered, key.encode("utf-8")) for key in accepted]
    matches += [hmac.compare_digest(*_digests(offered, each)) for each in hashes]
    if not any(matches):
        raise InputError("dev_key", "not recognised")


def hash_key(key: str) -> str:
    """A salted, slow hash of a key, for DREAM_RENDER_DEV_KEY_HASHES; other each time.

    It has no `$`, which a Dockerfile's ENV would expand.

    Raises UserError for an empty key.
    """
    if not key:
        raise UserError("the key is empty; type it, or send it on standard input")
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(key.encode("utf-8"), salt=salt, dklen=32, **SCRYPT)
    return f"scrypt:{SCRYPT['n']}:{SCRYPT['r']}:{SCRYPT['p']}:{salt.hex()}:{digest.hex()}"


def check_key_hash(text: str) -> None:
    """Raises UserError when a text is not what `hash_key` gives. It is not repeated."""
    if not re.fullmatch(KEY_HASH, text):
        raise UserError("a --dev-key-hash is not one; dream-o render hash-key makes it of a key")


def _digests(offered: bytes, hashed: str) -> tuple[bytes, bytes]:
    """The digest of the offered key under a hash's salt and parameters, and the right one."""
    _, n, r, p, salt, digest = hashed.split(":")
    made = hashlib.scrypt(
        offered, salt=bytes.fromhex(salt), n=int(n), r=int(r), p=int(p), dklen=len(digest) // 2
    )
    return made, bytes.fromhex(digest)
