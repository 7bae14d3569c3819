"""Texts in pieces: what is read and encoded is what it is as a whole, wherever it is cut."""

import hashlib
import os
import sys
import tracemalloc

import numpy as np
import pytest

import rnnfast
from rnnfast.errors import InputError
from rnnfast.text import pieces
from rnnfast.text.corpora import Text
from rnnfast.text.pieces import Digest, gather, read_pieces
from rnnfast.text.vocabulary import UnknownToken, count_tokens

SIZES = [1, 2, 3, 5, 8, 64, 10**6]
BOM = b"\xef\xbb\xbf"
# Line ends, white space that `split` knows, characters of every length, and marks inside a text.
PARTS = ["\r", "\n", "\r\n", " ", "\t", "\x1c", "\x85", "\u2028", "a", "the", "<unk>", "ä", "€"]
PARTS += ["\U0001f600", "\ufeff", "語", "\u200b"]


def random_text(seed):
    rng = np.random.default_rng(seed)
    return "".join(rng.choice(PARTS, rng.integers(1, 60)))


def whole(data):
    """What the text of a file is, in one go."""
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


@pytest.fixture(params=SIZES)
def size(request, monkeypatch):
    """Of the pieces that are read."""
    monkeypatch.setattr(pieces, "PIECE", request.param)
    return request.param


@pytest.fixture
def file(tmp_path):
    """Makes a file of bytes, or of a text."""

    def file(data):
        path = tmp_path / "text.txt"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return file


@pytest.mark.parametrize("seed", range(12))
def test_a_text_in_pieces_is_the_text(size, seed, file):
    data = BOM * (seed % 3) + random_text(seed).encode()
    read, digest = [], Digest()
    found = [*digest.of(read_pieces(file(data), read.append))]
    assert "".join(found) == rnnfast.load_text(file(data)) == whole(data)
    assert "" not in found
    assert digest.characters == len(whole(data))
    assert digest.sha256 == hashlib.sha256(whole(data).encode()).hexdigest()
    assert sum(read) == len(data)
    assert max(read) <= size


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (BOM, "has nothing but a byte order mark"),
        (b"abc\0def", "is binary: byte 3 is zero"),
        (b"\0", "is binary: byte 0 is zero"),
        ("äöü".encode() + b"\0\0", "is binary: byte 6 is zero"),
        (b"abc\xffdefghijklmn\0", "is binary: byte 15 is zero"),
        (b"abc\xffdef", "is not UTF-8: byte 3 is 0xff"),
        (b"abc\xe2\x82", "is not UTF-8: byte 3 is 0xe2"),
        (b"abc\xe2\x82de", "is not UTF-8: byte 3 is 0xe2"),
        (b"ab\xf0\x9f\x98\xff", "is not UTF-8: byte 2 is 0xf0"),
        (b"abcdefgh\xed\xa0\x80", "is not UTF-8: byte 8 is 0xed"),
        (BOM[:2], "is not UTF-8: byte 0 is 0xef"),
        (BOM + b"ab\x80", "is not UTF-8: byte 5 is 0x80"),
        (b"\r\n\r\n\xc3\xa4\xa4", "is not UTF-8: byte 6 is 0xa4"),
        (b"\xff\xfe" + b"ab" * 9, "is not UTF-8: byte 0 is 0xff"),
    ],
)
def test_what_is_wrong_is_found_wherever_it_is_cut(size, file, data, message):
    path = file(data)
    for read in (rnnfast.load_text, rnnfast.Vocabulary.from_file):
        with pytest.raises(InputError) as caught:
            read(path)
        assert str(caught.value).startswith(f"text file {path} {message}")


@pytest.mark.parametrize("level", ["char", "word"])
@pytest.mark.parametrize("in_memory", [0, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_a_file_is_encoded_as_its_text_is(size, level, in_memory, seed, file, monkeypatch):
    monkeypatch.setattr(pieces, "IN_MEMORY", in_memory)
    text = random_text(100 + seed)
    path, text = file(text), whole(text.encode())
    for options in ({}, {"min_count": 2}, {"max_size": 2}):
        vocabulary = rnnfast.Vocabulary.from_text(text, level, **options)
        assert rnnfast.Vocabulary.from_file(path, level, **options).tokens == vocabulary.tokens
        expected, ids = vocabulary.encode(text), vocabulary.encode_file(path)
        assert expected.dtype == np.int64
        np.testing.assert_array_equal(ids, expected.astype(np.uint8), strict=True)
        tokens = text if level == "char" else text.replace("\n", " <eos> ").split()
        known = {token: k for k, token in enumerate(vocabulary.tokens)}
        assert expected.tolist() == [known.get(t, known.get("<unk>")) for t in tokens]
    counts = count_tokens(read_pieces(path), level)
    assert sum(counts.values()) == len(tokens)
    assert counts == {token: tokens.count(token) for token in {*tokens}}


@pytest.mark.parametrize("level", ["char", "word"])
def test_tokens_without_an_id_are_named_with_their_place(size, level, file):
    """After others, which have one, and once each."""
    vocabulary = rnnfast.Vocabulary(["a", "b", " "] if level == "char" else ["a", "b"], level)
    text = "a b a a b " * 5 + "y a x y x a"
    for encode in (vocabulary.encode, lambda text: vocabulary.encode_file(file(text))):
        with pytest.raises(UnknownToken) as caught:
            encode(text)
        place = {"char": "character 50", "word": "word 25"}[level]
        message = f"'y' ({place} of the text) and 1 others not in the vocabulary of"
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1, "u1"), (256, "u1"), (257, "u2"), (2**16, "u2"), (2**16 + 1, "u4")],
)
def test_ids_take_as_few_bytes_as_hold_them(size, dtype, file):
    vocabulary = rnnfast.Vocabulary(map(str, range(size)), "word")
    ids = vocabulary.encode_file(file(f"0 {size - 1}"))
    assert (ids.dtype, ids.tolist()) == (np.dtype(dtype), [0, size - 1])


def test_characters_of_a_vocabulary_are_found_by_nothing_else():
    vocabulary = rnnfast.Vocabulary(["b", "ab", "\U0010ffff", "\ud800"], "char")
    assert vocabulary.encode("b\ud800\U0010ffff").tolist() == [0, 3, 2]
    for text in ("a", "ab", "c", "\ud801", "\0"):
        with pytest.raises(UnknownToken):
            vocabulary.encode(text)
        with pytest.raises(UnknownToken):
            rnnfast.Vocabulary(["b"], "char").encode(text)
    with pytest.raises(UnknownToken, match="vocabulary of 0 characters"):
        rnnfast.Vocabulary([], "char").encode("a")
    for level in ("char", "word"):
        assert rnnfast.Vocabulary([], level).encode("").tolist() == []
    for text in (b"b", ["b"], None):
        with pytest.raises(TypeError, match=r"^text: expected a str, got"):
            vocabulary.encode(text)


# Where ids are kept. ------------------------------------------------------------------------------


def mapped(array):
    """Whether an array is a file's memory."""
    return isinstance(array.base, np.memmap)


@pytest.mark.parametrize("most", [0, 1, 11, 12, 13, 100])
def test_large_arrays_are_mapped_from_a_file_without_a_name(most, monkeypatch, tmp_path):
    monkeypatch.setattr(pieces, "IN_MEMORY", most)
    arrays = [np.array(part, np.uint16) for part in ([1, 2], [], [300, 3, 4], [5])]
    found = gather(iter(arrays), tmp_path)
    np.testing.assert_array_equal(found, np.concatenate(arrays), strict=True)
    assert type(found) is np.ndarray
    assert mapped(found) is (most < 12)
    if mapped(found):
        assert not found.flags.writeable
        if os.name == "posix":
            assert os.listdir(tmp_path) == []


def test_where_there_is_no_room(monkeypatch, tmp_path):
    monkeypatch.setattr(pieces, "IN_MEMORY", 0)
    missing = tmp_path / "missing"
    with pytest.raises(InputError, match=f"ids of the text cannot be kept .* {missing}: No such"):
        gather([np.zeros(3)], missing)

    class Full:
        __enter__ = __exit__ = lambda self, *_: None

        def __new__(cls, **_):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(InputError, match=r"No space left on device; make room there$"):
        gather([np.zeros(3)])


@pytest.mark.parametrize(
    ("level", "times", "most"), [("char", 400_000, 12_000_000), ("word", 20_000, 700_000)]
)
def test_memory_does_not_grow_with_the_text(level, times, most, file, monkeypatch, request):
    """What NumPy and Python take, without the file that is mapped; of characters, 9 MB are a table
    of all that there are."""
    monkeypatch.setattr(pieces, "PIECE", 1 << 14)
    monkeypatch.setattr(pieces, "IN_MEMORY", 1 << 14)
    monkeypatch.setattr(sys.modules["rnnfast.text.lanes"], "COUNTED_AT_ONCE", 1 << 14)
    path = file("the quick brown fox jumps over the lazy dog.\n" * times)
    tracemalloc.start()
    request.addfinalizer(tracemalloc.stop)
    vocabulary = rnnfast.Vocabulary.from_file(path, level)
    ids = vocabulary.encode_file(path)
    assert mapped(ids)
    assert 1 < rnnfast.unigram_entropy(ids) < 4
    parts = rnnfast.split_by_position(ids)
    model = rnnfast.SimpleRnnlm(len(vocabulary), 2, 2, rng=0)
    trainer = rnnfast.Trainer(model, rnnfast.SGD(), *parts[:2], batch_size=2, time_size=10)
    trainer.blocks[len(trainer.blocks) // 2]
    peak = tracemalloc.get_traced_memory()[1]
    assert peak < most < os.path.getsize(path)


# Texts that are read twice. -----------------------------------------------------------------------


def test_a_text_can_be_read_again(file, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 3)
    path = file("a\r\nbcdef")
    text = Text(str(path))
    assert (text.name, text.size) == (str(path), 8)
    for _ in range(2):
        assert [*text.pieces()] == ["a\n", "bcd", "ef"]
    held = Text("a name", "abcdefg")
    assert (held.name, held.size) == ("a name", 0)
    for _ in range(2):
        assert [*held.pieces()] == ["abc", "def", "g"]
    assert Text(str(path.parent / "missing")).size == 0


def test_a_word_without_an_end(tmp_path, monkeypatch):
    """It is not gathered from all of a file."""
    monkeypatch.setattr(pieces, "PIECE", 100)
    monkeypatch.setattr("rnnfast.text.vocabulary.LONGEST_WORD", 1000)
    (tmp_path / "text.txt").write_text("a b " + "x" * 5000)
    Vocabulary = rnnfast.Vocabulary
    with pytest.raises(InputError, match="a word of more than 1,000 characters, which begins with"):
        Vocabulary.from_file(tmp_path / "text.txt", "word")
    (tmp_path / "text.txt").write_text("a b " + "x" * 900)
    assert len(Vocabulary.from_file(tmp_path / "text.txt", "word")) == 3
