"""Messages that say who made them and can be made again, so that any change to one is seen."""

from __future__ import annotations

from array import array
from hashlib import blake2b

KINDS = 16
HEADER = 16  # bytes in front of the binary kinds: producer and sequence number


def message(seed: int, producer: int, number: int) -> object:
    """The message `number` of a producer: always the same, of a kind and length that vary."""
    digest = blake2b(f"{seed}/{producer}/{number}".encode(), digest_size=64).digest()
    kind, length = digest[0] % KINDS, int.from_bytes(digest[1:3], "little")
    if kind < 6:
        return producer << 64 | number << 32 | int.from_bytes(digest[4:8], "little")
    if kind < 9:
        return producer, number, digest.hex()
    if kind < 11:
        return {"producer": producer, "number": number, "body": digest.hex() * (length % 20)}
    if digest[3] >= 4:
        length %= 6000
    else:
        length = 300_000 + length * 4  # seldom one that needs many chunks
    body = producer.to_bytes(8, "little") + number.to_bytes(8, "little")
    body += (digest * (length // 64 + 1))[:length]
    if kind < 13:
        return body
    if kind < 15:
        return bytearray(body)
    return array("B", body)


def origin(found: object) -> tuple[int, int]:
    """Who claims to have made a message: producer and number; ValueError if nobody can have."""
    match found:
        case int():
            return found >> 64, found >> 32 & 0xFFFFFFFF
        case (int(producer), int(number), str()):
            return producer, number
        case {"producer": int(producer), "number": int(number), "body": str()}:
            return producer, number
        case bytes() | bytearray() | array() if len(found) >= HEADER:
            head = bytes(found[:HEADER])
            return int.from_bytes(head[:8], "little"), int.from_bytes(head[8:], "little")
    raise ValueError(f"not a message: {str(found)[:200]}")


def is_intact(seed: int, producer: int, number: int, found: object) -> bool:
    expected = message(seed, producer, number)
    return type(found) is type(expected) and found == expected
