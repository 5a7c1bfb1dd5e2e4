"""Numbers that are planted everywhere, and a search for them in all forms that may leak."""

from __future__ import annotations

import base64
import hashlib

from ndoo import nhs_number
from support.people import KEYS

PLACES = (
    "asked", "malformed", "token", "raw", "metadata", "method", "http", "opted out", "changed",
    "undecodable", "snapshot", "state", "policy", "file", "file name", "setting", "url", "raised",
    "logged", "recorded",
)  # fmt: skip

PEOPLE = {place: 31_337 + 977 * at for at, place in enumerate(PLACES)}
"""A person for each place, so that a leak tells where it came from."""


def digits(place: str) -> str:
    return f"{nhs_number.numbers_of([KEYS[PEOPLE[place]]])[0]:010d}"


def grouped(place: str, separator: str = " ") -> str:
    text = digits(place)
    return separator.join((text[:3], text[3:6], text[6:]))


def forms(number: str) -> dict[str, bytes]:
    """What *number*, its key and hashes of them look like in a text or file."""
    key = number[:9]
    words = {
        "digits": number.encode(),
        "spaces": f"{number[:3]} {number[3:6]} {number[6:]}".encode(),
        "hyphens": f"{number[:3]}-{number[3:6]}-{number[6:]}".encode(),
        "in a URL": f"{number[:3]}%20{number[3:6]}%20{number[6:]}".encode(),
        "key": key.encode(),
        "with commas": f"{int(number):,}".encode(),
        "key with commas": f"{int(key):,}".encode(),
    }
    raw = {
        "number": int(number).to_bytes(8, "little"),
        "number, big-endian": int(number).to_bytes(8, "big"),
        "key": int(key).to_bytes(4, "little"),
        "text": number.encode(),
    }
    for name, value in raw.items():
        words |= {f"raw {name}": value, f"repr of {name}": repr(value)[2:-1].encode()}
        words |= {f"hex of {name}": value.hex().encode()}
        if len(value) > 4:  # of four bytes no more than four letters are theirs alone
            words |= {f"base64 of {name} at {at}": _base64(value, at) for at in range(3)}
    for name, value in (("number", number), ("key", key)):
        words[f"hexadecimal {name}"] = f"{int(value):x}".encode()
        for algorithm in ("md5", "sha1", "sha256"):
            digest = hashlib.new(algorithm, value.encode())
            words[f"{algorithm} of {name}"] = digest.hexdigest().encode()
            words[f"{algorithm} of {name} in base64"] = base64.b64encode(digest.digest())[:-2]
    return words


def _base64(value: bytes, at: int) -> bytes:
    """What of the base64 of a longer text is *value* alone, that stands so many bytes after a
    multiple of three.
    """
    encoded = base64.b64encode(bytes(at) + value)
    return encoded[-(-at * 8 // 6) : (at + len(value)) * 8 // 6]


_ALL = {f"{place}: {name}": word for place in PLACES for name, word in forms(digits(place)).items()}


def leaks(*told: bytes | str) -> list[str]:
    """What of all planted is in *told*: the place that it was planted in, and its form."""
    text = b"\n".join(each.encode() if isinstance(each, str) else each for each in told)
    lower = text.lower()
    return [what for what, word in _ALL.items() if word in text or word.lower() in lower]
