"""Developer keys: who may send requests."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

from dream_o.errors import InputError, UserError
from dream_o.service.settings import KEY_HASH

SCRYPT = {"n": 2**14, "r": 8, "p": 1}
"""RFC 7914's parameters for interactive logins: 16 MiB and about 50 ms per guess."""

# A server answers about 2,000 guesses a second. Twenty random letters and digits have 2^119 values.
LEAST_KEY_CHARACTERS = 20


def check_dev_key(given: str, accepted: Sequence[str], hashes: Sequence[str] = ()) -> None:
    """Refuses a key that is not an accepted one.

    Every accepted key and hash is compared, each in constant time, so that the response time does
    not reveal how much of a key was right or which key it was.

    Args:
        given: the caller's key.
        accepted: the accepted keys.
        hashes: hashes (`hash_key`) of further accepted keys.

    Raises:
        InputError: `dev_key` is not recognised, or no key is accepted at all.
    """
    if not (accepted or hashes):
        raise InputError(
            "dev_key",
            "no key is accepted, because DREAM_RENDER_DEV_KEYS is not set on the server; "
            "set it to the accepted keys, separated by commas, or set DREAM_RENDER_DEV_KEYS_FILE "
            "or DREAM_RENDER_DEV_KEY_HASHES",
        )
    # Bytes, because compare_digest only accepts text in ASCII.
    offered = given.encode("utf-8", "surrogatepass")
    matches = [hmac.compare_digest(offered, key.encode("utf-8")) for key in accepted]
    matches += [hmac.compare_digest(*_digests(offered, each)) for each in hashes]
    if not any(matches):
        raise InputError("dev_key", "not recognised")


def hash_key(key: str) -> str:
    """A salted, slow hash of a key, for DREAM_RENDER_DEV_KEY_HASHES; different each time.

    It contains no `$`, which a Dockerfile's ENV would expand.

    Raises:
        UserError: the key is empty.
    """
    if not key:
        raise UserError("the key is empty; type it, or send it on standard input")
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(key.encode("utf-8"), salt=salt, dklen=32, **SCRYPT)
    return f"scrypt:{SCRYPT['n']}:{SCRYPT['r']}:{SCRYPT['p']}:{salt.hex()}:{digest.hex()}"


def check_key_hash(text: str) -> None:
    """Raises UserError if the text is not a hash from `hash_key`; the error does not repeat it."""
    if not re.fullmatch(KEY_HASH, text):
        raise UserError(
            "a --dev-key-hash is not a hash of a key; `dream-o render hash-key` makes one"
        )


def _digests(offered: bytes, hashed: str) -> tuple[bytes, bytes]:
    """The offered key's digest with the salt and parameters of `hashed`; the expected digest."""
    _, n, r, p, salt, digest = hashed.split(":")
    made = hashlib.scrypt(
        offered, salt=bytes.fromhex(salt), n=int(n), r=int(r), p=int(p), dklen=len(digest) // 2
    )
    return made, bytes.fromhex(digest)
