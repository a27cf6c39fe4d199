"""Proving to each other that both ends of a connection have the same key, before 3.12.

Who asks sends `#CHALLENGE#` and random bytes, who answers the HMAC of these under the key; then they change roles. Up
to 3.11 the digest was always MD5. Since 3.12 the random bytes begin with the name of a digest in braces, and so does
the answer; whoever does not know that answers with MD5 of the whole, which is accepted. This does the latter on 3.11,
so that either end may be of any version. From 3.12 on the standard library's own functions are used.
"""

from __future__ import annotations

import hmac
import os
from multiprocessing import AuthenticationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHALLENGE = b"#CHALLENGE#"
WELCOME = b"#WELCOME#"
FAILURE = b"#FAILURE#"

DIGESTS = (b"md5", b"sha256", b"sha384", b"sha3_256", b"sha3_384")
RANDOM_BYTES = 40
OLD_RANDOM_BYTES = 20  # what 3.11 and before sends, with no name
OLD_ANSWER_BYTES = 16
LONGEST = 256  # of the messages of this exchange


def deliver_challenge(connection: Any, authkey: bytes, digest_name: str = "sha256") -> None:
    """Let the other end prove that it has `authkey`.

    Raises ValueError if the key is not bytes, AuthenticationError if the other end does not have it, OSError if it sends
    too much and EOFError if it goes.
    """
    check_key(authkey)
    question = b"{%s}%s" % (digest_name.encode("ascii"), os.urandom(RANDOM_BYTES))
    connection.send_bytes(CHALLENGE + question)
    answer = connection.recv_bytes(LONGEST)
    name, code = split(answer, OLD_ANSWER_BYTES)
    if name is None or not hmac.compare_digest(hmac.digest(authkey, question, name), code):
        connection.send_bytes(FAILURE)
        raise AuthenticationError("digest received was wrong")
    connection.send_bytes(WELCOME)


def answer_challenge(connection: Any, authkey: bytes) -> None:
    """Prove to the other end that this one has `authkey`. Raises as `deliver_challenge`."""
    check_key(authkey)
    question = connection.recv_bytes(LONGEST)
    if not question.startswith(CHALLENGE):
        raise AuthenticationError(f"the other end did not ask for a proof of the key, but sent {question!r}")
    question = question.removeprefix(CHALLENGE)
    name, _ = split(question, OLD_RANDOM_BYTES)
    if name is None:
        raise AuthenticationError(f"the other end asked for a digest that is not known: {question!r}")
    code = hmac.digest(authkey, question, name)
    is_old = len(question) == OLD_RANDOM_BYTES
    connection.send_bytes(code if is_old else b"{%s}%s" % (name.encode("ascii"), code))
    if connection.recv_bytes(LONGEST) != WELCOME:
        raise AuthenticationError("digest sent was rejected")


def check_key(authkey: bytes) -> None:
    """Raise ValueError for a key that is none."""
    if not isinstance(authkey, bytes):
        raise ValueError(f"Authkey must be bytes, not {type(authkey)!s}")


def split(message: bytes, old_length: int) -> tuple[str | None, bytes]:
    """The digest that `message` names, and what follows; MD5 if it has the old length, None for what is unknown."""
    if len(message) == old_length:
        return "md5", message
    if message.startswith(b"{"):
        name, brace, rest = message[1:].partition(b"}")
        if brace and name in DIGESTS:
            return name.decode("ascii"), rest
    return None, message
