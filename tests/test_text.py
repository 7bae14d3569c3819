"""Texts, vocabularies, lanes."""

import math
import sys

import numpy as np
import pytest

import rnnfast
from rnnfast.errors import InputError
from rnnfast.text.lanes import Blocks
from rnnfast.text.vocabulary import END_OF_LINE, UNKNOWN


def test_builtin_corpus_is_a_long_english_text():
    text = rnnfast.builtin_corpus()
    assert len(text) > 100_000
    assert "the" in text.split()


def test_a_python_without_topics_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(InputError, match="not part of this Python"):
        rnnfast.builtin_corpus()


def test_load_text_reads_utf8_and_line_ends(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffGrüße\r\nan\ralle\n".encode())
    assert rnnfast.load_text(path) == "Grüße\nan\nalle\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"abc\0def", "is binary: byte 3"),
        (b"abc\xff", "is not UTF-8: byte 3 is 0xff"),
    ],
)
def test_load_text_names_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        rnnfast.load_text(path)
    assert str(path) in str(caught.value)


def test_load_text_of_a_folder(tmp_path):
    with pytest.raises(
        InputError, match="is a folder, and only regular files are read; give a file"
    ):
        rnnfast.load_text(tmp_path)


def test_characters_are_sorted_and_round_trip():
    text = "I am learning RNN"
    vocabulary = rnnfast.Vocabulary.from_text(text)
    assert vocabulary.tokens == sorted(set(text))
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int64
    assert ids[:3].tolist() == [1, 0, 4]
    assert vocabulary.decode(ids) == text


def test_words_stand_in_order_of_first_use_with_ends_of_lines():
    vocabulary = rnnfast.Vocabulary.from_text("the cat\nthe  dog\n", "word")
    assert vocabulary.tokens == ["the", "cat", END_OF_LINE, "dog"]
    assert vocabulary.encode("dog the\n").tolist() == [3, 0, 2]
    assert vocabulary.decode([0, 1, 2, 0, 3, 2]) == "the cat\nthe dog\n"
    assert vocabulary.decode([2, 2, 1, 2, 2, 0]) == "\n\ncat\n\nthe"


def test_rare_words_become_unknown():
    text = "a b a c a b d"
    vocabulary = rnnfast.Vocabulary.from_text(text, "word", min_count=2)
    assert vocabulary.tokens == ["a", "b", UNKNOWN]
    assert vocabulary.encode("d a z").tolist() == [2, 0, 2]
    assert rnnfast.Vocabulary.from_text(text, "word", max_size=2).tokens == ["a", UNKNOWN]
    assert len(rnnfast.Vocabulary.from_text(text, "word", max_size=4)) == 4


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
@pytest.mark.parametrize("argument", ["max_size", "min_count"])
def test_sizes_of_vocabularies(argument, value):
    with pytest.raises(
        ValueError, match=f"^{argument}: expected a whole number of at least 1, got"
    ):
        rnnfast.Vocabulary.from_text("a b a", "word", **{argument: value})
    assert rnnfast.Vocabulary.from_text("a b a", "word", max_size=1).tokens == [UNKNOWN]


def test_tokens_are_texts():
    for make in (
        lambda: rnnfast.Vocabulary.from_text(b"abc"),
        lambda: rnnfast.Vocabulary([97], "char"),
    ):
        with pytest.raises(TypeError, match=r"^tokens: expected texts, got 97"):
            make()


def test_a_token_without_id_is_named_with_its_place():
    vocabulary = rnnfast.Vocabulary.from_text("abc")
    with pytest.raises(InputError, match=r"'x' \(character 2 of the text\) and 1 others"):
        vocabulary.encode("abxy")
    with pytest.raises(ValueError, match="level"):
        rnnfast.Vocabulary("ab", "byte")
    with pytest.raises(ValueError, match="'a' more than once"):
        rnnfast.Vocabulary("aba", "char")


def test_parts_follow_each_other():
    parts = rnnfast.split_by_position(np.arange(100), valid=0.1, test=0.2)
    assert [len(part) for part in parts] == [70, 10, 20]
    assert np.array_equal(np.concatenate(parts), np.arange(100))
    with pytest.raises(ValueError, match="fractions"):
        rnnfast.split_by_position(np.arange(9), valid=0.5, test=0.5)


@pytest.mark.parametrize("parts", [(0.5, 0.5), (-0.1, 0.2), (0.2, -0.1), (math.nan, 0.1)])
def test_parts_that_are_none(parts):
    with pytest.raises(ValueError, match=r"^valid, test: expected fractions of at least 0"):
        rnnfast.split_by_position(np.arange(10), *parts)


@pytest.mark.parametrize(("size", "batch_size"), [(2, 1), (13, 4), (12, 3), (5, 7)])
def test_every_token_but_the_first_is_a_target_once(size, batch_size):
    ids = np.arange(10, 10 + size)
    xs, ts = rnnfast.lanes(ids, batch_size)
    assert xs.shape == ts.shape
    assert len(xs) == batch_size
    counted = ts != -1
    assert np.array_equal(ts[counted], ids[1:])
    assert np.array_equal(xs[counted], ids[:-1])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint64", ">i4"])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 60])
@pytest.mark.parametrize("time_size", [1, 5, 100])
def test_blocks_are_those_of_the_lanes(dtype, batch_size, time_size, tmp_path):
    """Of ids in a file too, of which only the block at hand is copied."""
    ids = np.random.default_rng(0).integers(0, 120, 50).astype(dtype)
    ids.tofile(tmp_path / "ids")
    mapped = np.memmap(tmp_path / "ids", dtype, "r")
    inputs, targets = rnnfast.lanes(ids, batch_size)
    for text in (ids, mapped, ids.tolist(), np.repeat(ids, 2)[::2]):
        blocks = Blocks(text, batch_size, time_size)
        assert len(blocks) == math.ceil(inputs.shape[1] / time_size)
        assert blocks.tokens == 49
        for k, (xs, ts) in enumerate(blocks):
            columns = slice(k * time_size, (k + 1) * time_size)
            for found, expected in ((xs, inputs[:, columns]), (ts, targets[:, columns])):
                np.testing.assert_array_equal(found, expected, strict=True)
                assert type(found) is np.ndarray
        last = blocks[len(blocks) - 1]
        np.testing.assert_array_equal(last, blocks[-1])
        last[0][...] = 7  # the caller's own
        assert np.array_equal(blocks[-1][0], inputs[:, -last[0].shape[1] :])
        for k in (len(blocks), -len(blocks) - 1):
            with pytest.raises(IndexError):
                blocks[k]


def test_blocks_of_what_is_no_text():
    for ids, Error, message in (
        ([0.5, 1.5], TypeError, "ids: expected token ids of an integer dtype"),
        ([0, 1, -3], ValueError, r"ids: expected token ids in .*, got -3 at position \(2,\)"),
        (np.array([0, 2**63], np.uint64), ValueError, r"got 9223372036854775808 at position"),
        ([[0, 1], [1, 0]], ValueError, r"ids: expected an array of shape \(M,\), got \(2, 2\)"),
        ([1], InputError, "ids: expected at least 2 token ids, got 1; take a longer text"),
    ):
        for call in (
            lambda ids=ids: Blocks(ids, 1, 2),
            lambda ids=ids: rnnfast.unigram_entropy(ids),
        ):
            with pytest.raises(Error, match=message):
                call()
    for sizes in ((0, 2), (2, 0), (1.5, 2), (2, True)):
        with pytest.raises(ValueError, match="_size: expected a whole number of at least 1, got"):
            Blocks([0, 1], *sizes)


ONE = np.array([1])


@pytest.mark.parametrize(
    ("name", "unit", "call"),
    [
        ("ids", "token id", lambda: rnnfast.lanes(ONE, 2)),
        ("ids", "token id", lambda: rnnfast.split_by_position(ONE)),
        ("ids", "token id", lambda: rnnfast.split_by_position(ONE, 0, 0)),
        ("ids", "token id", lambda: rnnfast.unigram_entropy(ONE)),
        ("corpus", "token id", lambda: rnnfast.cyclic_batch(ONE, 2)),
        ("ids", "character", lambda: rnnfast.CharLstm.random(3, 4, rng=0).fit(ONE)),
    ],
)
def test_a_text_of_one_token(name, unit, call):
    """Nothing can be learnt from it, since its token follows none. A vocabulary it has."""
    assert rnnfast.Vocabulary.from_text("a").tokens == ["a"]
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == f"{name}: expected at least 2 {unit}s, got 1; take a longer text"


def test_a_file_of_one_word(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("a", encoding="utf-8")
    with pytest.raises(InputError, match="at least 51 words for 10 lanes of 5, got 1; take a"):
        rnnfast.train_word_file(path)
    path.write_text("a b", encoding="utf-8")
    with pytest.raises(InputError, match="ids: expected at least 2 words for 1 lanes of 1, got 1"):
        rnnfast.train_word_file(path, corpus_size=1, batch_size=1, time_size=1)
    assert len(rnnfast.train_word_file(path, batch_size=1, time_size=1, epochs=2).perplexities) == 2


def test_texts_of_no_token():
    with pytest.raises(InputError, match="ids: expected at least 2 token ids, got 0"):
        rnnfast.unigram_entropy([])
    with pytest.raises(ValueError, match=r"ids: expected an array of shape \(M,\), got \(0,\)"):
        rnnfast.lanes(np.array([], int), 2)


@pytest.mark.parametrize("level", ["char", "word"])
def test_ids_that_are_no_tokens(level):
    vocabulary = rnnfast.Vocabulary(["a", "b"], level)
    for ids, value, where in (([0, -1], -1, 1), ([2], 2, 0), (np.array([1, 0, -2]), -2, 2)):
        message = rf"^ids: expected token ids in 0\.\.1, got {value} at position \({where},\)"
        with pytest.raises(ValueError, match=message):
            vocabulary.decode(ids)
    for ids in ([0.0], "ab", [True], [None]):
        with pytest.raises(TypeError, match=r"^ids: expected token ids of an integer dtype"):
            vocabulary.decode(ids)
    with pytest.raises(ValueError, match=r"^ids: expected an array of shape \(M,\), got \(1, 2\)"):
        vocabulary.decode([[0, 1]])
    assert vocabulary.decode([]) == vocabulary.decode(np.array([])) == ""
    assert vocabulary.decode(k for k in (1, 0)) == {"char": "ba", "word": "b a"}[level]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64"])
def test_lanes_of_any_integers(dtype):
    """Among which a target may be no number of the dtype, such as -1 among unsigned ones."""
    xs, ts = rnnfast.lanes(np.array([3, 200, 5], dtype), 3)
    assert xs.dtype == ts.dtype == np.int64
    assert ts.tolist() == [[200], [5], [-1]]
    with pytest.raises(TypeError, match="ids: expected token ids of an integer dtype"):
        rnnfast.lanes([0.5, 1.5], 1)


def test_unigram_entropy_of_fair_and_loaded_coins():
    assert rnnfast.unigram_entropy(np.array([0, 1, 0, 1])) == pytest.approx(math.log(2), rel=1e-15)
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rnnfast.unigram_entropy(np.array([5, 5, 5, 9])) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint64"])
@pytest.mark.parametrize("at_once", [1, 7, 100, 10**6])
def test_unigram_entropy_is_counted_in_pieces(dtype, at_once, monkeypatch):
    monkeypatch.setattr(sys.modules["rnnfast.text.lanes"], "COUNTED_AT_ONCE", at_once)
    ids = np.random.default_rng(0).integers(3, 60, 100).astype(dtype)
    counts = np.unique(ids, return_counts=True)[1]
    assert rnnfast.unigram_entropy(ids) == (counts / 100 * np.log(1 / (counts / 100))).sum()
    counts_of_few = rnnfast.unigram_entropy(np.array([0, 2**40, 0, 2**40]))
    assert counts_of_few == pytest.approx(math.log(2), rel=1e-15)


@pytest.mark.parametrize(
    "text", ["a a <unk> rare <unk>", "a a <unk> rare", "<unk> a a", "a a rare"]
)
def test_a_text_that_has_the_unknown_word_already(text):
    """As the prepared Penn Treebank has it."""
    vocabulary = rnnfast.Vocabulary.from_text(text, "word", min_count=2)
    assert vocabulary.tokens.count(UNKNOWN) == 1
    a, unknown = vocabulary.id_of("a"), vocabulary.id_of(UNKNOWN)
    assert vocabulary.encode("<unk> never-seen a").tolist() == [unknown, unknown, a]
    often = rnnfast.Vocabulary.from_text("<unk> " * 9 + text + " a b b", "word", max_size=2)
    assert often.tokens == [UNKNOWN, "a"]


def test_the_entropy_of_one_token_is_a_plain_zero():
    assert str(rnnfast.unigram_entropy([3, 3])) == "0.0"


@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_lanes_of_no_size(value):
    with pytest.raises(ValueError, match=r"^batch_size: expected a whole number of at least 1"):
        rnnfast.lanes(np.arange(10), value)
