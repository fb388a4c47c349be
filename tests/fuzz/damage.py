"""Bytes that were good once: cut, spliced, repeated, overwritten, nested too deep. By Hypothesis, so that what fails is made small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from hypothesis import strategies as st

MAX_BYTES = 256 * 1024
"""Edits that repeat can't make more of it than this: size limits have tests of their own."""

DEPTHS = (10, 1_000, 50_000)
NESTS = (b"\x91", b"\x81\xa1a", b"[", b'{"a":', b"(", b"[[")
TOKENS = (
    b"\x00", b"\xff", b"\xc1", b"\xff\xfe", b"\xf0\x9f", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xdf\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff",
    b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\x00" * 7, b"\xcb\x7f\xf8" + b"\x00" * 6,
    b"null", b"NaN", b"-Infinity", b"1e999", b"-0", b"1" + b"0" * 400,
    b"9" * 30, b"\\ud800", b"\\u0000", b"\n", b"\r", b",", b'"', b"'", b"{", b"}", b"]", b"=", b"[[", b"true", b"../..", b"%s%n",
    b"\x1b[2J",
)  # fmt: skip
"""Values at the edges of formats: length bytes that promise much, halves of characters, numbers that no type holds."""

EDIT_BYTES = 6
"""One edit is so many bytes of a program: what, where (two), how (three). Drawing them one by one takes Hypothesis ten times as long."""
MAX_EDITS = 6


def damaged(corpus: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of ``corpus`` after some edits; now and then untouched, or nothing but noise."""
    good = st.sampled_from(list(corpus))
    edited = st.builds(_run, good, good, st.binary(max_size=EDIT_BYTES * MAX_EDITS))
    return st.one_of(edited, edited, edited, st.binary(max_size=64))


def _run(content: bytes, other: bytes, program: bytes) -> bytes:
    """All edits of a program; what it lacks at its end counts as zeros, so that any beginning of a program is one."""
    for start in range(0, len(program), EDIT_BYTES):
        what, high, low, *how = program[start : start + EDIT_BYTES].ljust(EDIT_BYTES, b"\0")
        content = _EDITS[what % len(_EDITS)](content, other, (high << 8 | low) * len(content) >> 16, how)[:MAX_BYTES]
    return content


_Edit: TypeAlias = Callable[[bytes, bytes, int, list[int]], bytes]


def _flip(content: bytes, other: bytes, at: int, how: list[int]) -> bytes:
    return content[:at] + bytes(byte ^ (how[0] or 1) for byte in content[at : at + 1]) + content[at + 1 :]


def _end(content: bytes, other: bytes, at: int, how: list[int]) -> bytes:
    return content[:at]


def _cut(content: bytes, other: bytes, at: int, how: list[int]) -> bytes:
    return content[:at] + content[at + (how[0] << 8 | how[1]) % (len(content) + 1) :]


def _repeat(content: bytes, other: bytes, at: int, how: list[int]) -> bytes:
    return content[:at] + content[at : at + 1 + how[0] % 32] * (how[1] % 65) + content[at:]


def _token(content: bytes, other: bytes, at: int, how: list[int]) -> bytes:
    return content[:at] + TOKENS[how[0] % len(TOKENS)] + content[at:]


def _over(content: bytes, other: bytes, at: int, how: list[int]) -> bytes:
    token = TOKENS[how[0] % len(TOKENS)]
    return content[:at] + token + content[at + (how[1] % 16 or len(token)) :]


def _noise(content: bytes, other: bytes, at: int, how: list[int]) -> bytes:
    return content[:at] + bytes(how) + content[at:]


def _nest(content: bytes, other: bytes, at: int, how: list[int]) -> bytes:
    return content[:at] + NESTS[how[0] % len(NESTS)] * DEPTHS[how[1] % len(DEPTHS)] + content[at:]


def _splice(content: bytes, other: bytes, at: int, how: list[int]) -> bytes:
    return content[:at] + other[(how[0] << 8 | how[1]) * len(other) >> 16 :]


_EDITS: tuple[_Edit, ...] = (_flip, _end, _cut, _repeat, _token, _over, _noise, _nest, _splice)
