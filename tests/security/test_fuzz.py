"""Bytes of strangers come out as a value or as a documented error, quickly, and without eating the memory.

`FUZZ_EXAMPLES=5000 pytest tests/security/test_fuzz.py` looks longer; what it finds goes to `tests/corpus`.
"""

import os
import zlib
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.files.click_readers import LINE_BYTES_MAX
from tests.security.decoders import Decoder, decoders, found

DECODERS = decoders()
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
MEMORY_BYTES_MAX = 2**29

TOKENS = (
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b'"', b"{", b"}", b"[", b"]", b",", b":"),
    *(b"-", b"null", b"true", b"1e999", b"-1", b"0", b"NaN", b"9" * 30, b"18446744073709551616"),
    *(b"\n", b"\r", b"\t", b";", b"\x1f\x8b", b"PAR1", b"[" * 2000, b'{"a":' * 2000, b"2016-13-45"),
)
"""What breaks parsers, put in at random places."""


@st.composite
def mutated(draw: st.DrawFn, examples: tuple[bytes, ...]) -> bytes:
    """A valid example with a few bytes changed, taken out, doubled, or replaced by a token."""
    data = bytearray(draw(st.sampled_from(examples)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            data[start:end] = draw(st.sampled_from(TOKENS))
        elif kind == 1:
            data[start:end] = draw(st.binary(max_size=12))
        elif kind == 2:
            data[start:end] = data[start:end] * 3
        else:
            del data[start:]
    return bytes(data)


def survives(decoder: Decoder, data: bytes) -> None:
    try:
        decoder.decode(data)
    except decoder.errors as error:
        said = str(error)
    else:
        said = ""
    assert len(said) < 100_000, "an error that repeats all it was given"


@pytest.mark.parametrize("name", DECODERS)
def test_valid_examples_are_taken(name: str) -> None:
    for example in DECODERS[name].examples:
        DECODERS[name].decode(example)


@pytest.mark.parametrize("name", DECODERS)
def test_mutations_and_noise_give_a_value_or_a_documented_error(name: str) -> None:
    decoder = DECODERS[name]
    noise = st.binary(max_size=200) | st.text(max_size=60).map(lambda text: text.encode())

    @settings(max_examples=EXAMPLES)
    @given(mutated(decoder.examples) | noise)
    def look(data: bytes) -> None:
        survives(decoder, data)

    look()


@pytest.mark.parametrize(
    ("name", "file"), [(name, file) for name in DECODERS for file in found(name)], ids=str
)
def test_what_was_found_once_stays_mended(name: str, file: Path) -> None:
    survives(DECODERS[name], file.read_bytes())


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10_000_000,
        b'{"a":' * 2_000_000,
        b'{"session": 1, "events": ' + b"[" * 1_000_000,
        b'"' + b"x" * 20_000_000,
        b"9" * 10_000_000,
        b"\x00" * 10_000_000,
        zlib.compress(b" " * 2**28, 1),
        zlib.compress(b" " * (2**29), 1),
    ],
    ids=["arrays", "objects", "in a field", "a string", "digits", "zeros", "packed", "packed more"],
)
def test_large_and_deep_ones_are_survived_within_bounds(name: str, data: bytes) -> None:
    """Bounded by the process: twice the size of the input and then some."""
    before = psutil.Process().memory_info().rss
    survives(DECODERS[name], data)
    assert psutil.Process().memory_info().rss - before < MEMORY_BYTES_MAX


def test_a_small_file_that_unpacks_to_an_endless_line_is_refused(tmp_path: Path) -> None:
    import gzip  # noqa: PLC0415

    path = tmp_path / "clicks.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b'{"session_id": "s", "properties": "')
        for _ in range(LINE_BYTES_MAX // 2**20 + 2):
            stream.write(b"x" * 2**20)
    survives(DECODERS["click-file"], path.read_bytes())
