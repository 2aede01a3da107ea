"""Tokenizers against those who made them: golden ids of AutoTokenizer, and the sentencepiece library on random texts."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from checkpoints import tokenizer as small_tokenizer
from slmops.core.errors import CorruptInput, Unsupported
from slmops.formats import _sentencepiece, _tokenizer

DATA = Path(__file__).parent.parent / "data" / "tokenizers"
STORIES = DATA / "tinystories-512" / "tokenizer.model"
LLAMA = {"tokenizer_class": "LlamaTokenizer"}


def unpacked(name: str, folder: Path) -> Path:
    for file in (DATA / name).iterdir():
        if file.suffix == ".gz":
            (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        else:
            shutil.copy(file, folder)
    return folder


def golden() -> list[str]:
    # llama.cpp ends every text, the last one too, with the separator; newlines must stay as they are.
    return (DATA / "golden.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")[:-1]


@pytest.mark.parametrize(
    ("name", "eos", "pad", "tokens"),
    [pytest.param("qwen2", 151645, 151643, 151646, marks=pytest.mark.slow), ("phi3", 32000, 32000, 32011)],
)
def test_golden_ids(name: str, eos: int, pad: int, tokens: int, tmp_path: Path) -> None:
    """vocab.json with merges.txt (Qwen2), and a tokenizer.json that came from SentencePiece (Phi-3)."""
    read = _tokenizer.read(unpacked(name, tmp_path), {}, {})
    assert read is not None
    loaded = tokenizers.Tokenizer.from_str(read.json.decode())
    expected = [[int(word) for word in line.split()] for line in (DATA / name / "golden.out").read_text().splitlines()]
    texts = golden()
    assert len(texts) == len(expected) == 46
    for text, ids in zip(texts, expected, strict=True):
        assert loaded.encode(text, add_special_tokens=False).ids == ids, text
    assert (read.eos, read.pad, read.adds_bos) == ((eos,), pad, False)
    assert _tokenizer.count(read) == tokens


def test_a_part_that_one_parser_sees_and_another_does_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first of two models has a prefix at which the library panics; json.loads knows the last one alone."""
    small_tokenizer(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    first = json.dumps({**document["model"], "continuing_subword_prefix": "longer than a merge"})
    text = json.dumps(document).replace('"model": {', f'"model": {first}, "model": {{', 1)
    assert json.loads(text) == document
    with pytest.raises(CorruptInput, match=r"tokenizer\.json: a name stands twice"):
        _tokenizer.finish(text.encode(), {}, {}, {})
    assert not capfd.readouterr().err


def corpus(seed: int, count: int) -> list[str]:
    """Texts of every script, of blanks and control characters, surrogates left out."""
    source = random.Random(seed)

    def sign() -> str:
        low, high = source.choice([(32, 127), (32, 33), (9, 14), (0xA0, 0x3000), (0x4E00, 0x9FFF), (0x1F300, 0x1F700)])
        return chr(source.randrange(low, high))

    words = ["once", "upon a time", " the ", "▁", "  ", "\n", "Lily's", "3.14"]
    return [
        "".join(source.choice([sign(), sign(), source.choice(words)]) for _ in range(source.randrange(40)))
        for _ in range(count)
    ]


def same_ids(data: bytes, settings: dict[str, Any], texts: list[str]) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    ours = tokenizers.Tokenizer.from_str(_sentencepiece.convert(data, settings)[0].decode())
    for text in texts:
        ids = theirs.encode(text)
        assert ours.encode(text, add_special_tokens=False).ids == ids, text
        if "▁" not in text:  # SentencePiece takes it for a blank, of which it drops any number at the start
            assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids), text


def test_sentencepiece_gives_the_librarys_ids() -> None:
    same_ids(STORIES.read_bytes(), {}, corpus(1, 3000) + golden())


@pytest.mark.parametrize(
    ("model", "rule", "bytes_too", "collapse", "prefix"),
    [
        ("bpe", "identity", True, False, True),
        ("bpe", "identity", False, True, False),
        ("bpe", "nfkc", True, True, True),
        ("unigram", "identity", True, False, True),
        ("unigram", "identity", True, True, False),
    ],
)
def test_kinds_of_sentencepiece(
    model: str, rule: str, bytes_too: bool, collapse: bool, prefix: bool, tmp_path: Path
) -> None:
    """Models trained here, so that every option is met."""
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = [line for text in golden() for line in text.splitlines() if line.isascii() and line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines + ["the cat sat on the mat", "once upon a time there was a dog", "café"] * 50),
        model_prefix=str(tmp_path / "m"),
        vocab_size=420 if bytes_too else 160,
        model_type=model,
        normalization_rule_name=rule,
        byte_fallback=bytes_too,
        remove_extra_whitespaces=collapse,
        add_dummy_prefix=prefix,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    # The Rust library applies nfkc grapheme by grapheme, and so misses a few combining signs: plain letters there.
    texts = corpus(3, 500) if rule == "identity" else ["ﬁne ½ Ⅷ  ｆｕｌｌ width", " the cat  sat ", "once upon a time", ""]
    data = (tmp_path / "m.model").read_bytes()
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    ours = tokenizers.Tokenizer.from_str(_sentencepiece.convert(data, {})[0].decode())
    for text in texts:
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text), text


def test_sentencepiece_folder(tmp_path: Path) -> None:
    shutil.copy(STORIES, tmp_path)
    read = _tokenizer.read(tmp_path, {}, {})
    assert read is not None
    assert (read.bos, read.eos, read.pad, read.adds_bos) == (1, (2,), None, True)
    assert read.sentencepiece == STORIES.read_bytes()
    loaded = tokenizers.Tokenizer.from_str(read.json.decode())
    assert loaded.encode("Once upon a time").ids[0] == 1
    assert loaded.encode("<s>a</s>", add_special_tokens=False).ids[::2] == [1, 2]


def test_added_tokens_of_a_sentencepiece_folder(tmp_path: Path) -> None:
    """Renamed, appended, and beyond a gap: each keeps its id."""
    shutil.copy(STORIES, tmp_path)
    added = {
        "2": {"content": "<end>", "special": True},
        "512": {"content": "<|user|>", "special": True},
        "520": {"content": "<|far|>", "special": True},
    }
    settings = {**LLAMA, "added_tokens_decoder": added, "eos_token": "<end>", "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    read = _tokenizer.read(tmp_path, {}, {})
    assert read is not None and read.eos == (2,) and not read.adds_bos
    ids = tokenizers.Tokenizer.from_str(read.json.decode()).encode("<|user|>a<|far|><end>").ids
    assert ids[0] == 512 and ids[-2:] == [520, 2]


def test_blank_after_a_special_token(tmp_path: Path) -> None:
    """`legacy: false` puts the blank before the text only, not after every special token, as transformers does."""
    shutil.copy(STORIES, tmp_path)
    counts = []
    for legacy in (True, False):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**LLAMA, "legacy": legacy}))
        read = _tokenizer.read(tmp_path, {}, {})
        assert read is not None
        loaded = tokenizers.Tokenizer.from_str(read.json.decode())
        counts.append(loaded.encode("<s>cat", add_special_tokens=False).tokens[1][0])
        assert loaded.encode("cat", add_special_tokens=False).tokens[0][0] == "▁"
    assert counts == ["▁", "c"]


@pytest.mark.parametrize("wants", [True, False, None])
@pytest.mark.parametrize("does", [True, False])
def test_who_decides_about_bos(wants: bool | None, does: bool, tmp_path: Path) -> None:
    """tokenizer_config.json where it says so outright, else tokenizer.json's own post-processor; and both agree after."""
    small_tokenizer(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["post_processor"] = _tokenizer.template(("<|endoftext|>", 0), None) if does else None
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    settings: dict[str, Any] = {"bos_token": {"content": "<|endoftext|>"}, "eos_token": "<|im_end|>"}
    if wants is not None:
        settings["add_bos_token"] = wants
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    read = _tokenizer.read(tmp_path, {}, {"eos_token_id": [0, 2]})
    assert read is not None
    assert read.adds_bos is (does if wants is None else wants)
    assert (tokenizers.Tokenizer.from_str(read.json.decode()).encode("cat").ids[0] == 0) is read.adds_bos
    assert read.bos == 0 and read.eos == (2, 0)


def test_pad_and_eos_from_the_generation_config(tmp_path: Path) -> None:
    small_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    read = _tokenizer.read(tmp_path, {"eos_token_id": 1}, {"pad_token_id": 0})
    assert read is not None and (read.bos, read.eos, read.pad) == (None, (1,), 0)


def test_a_trainers_limits_are_left_out(tmp_path: Path) -> None:
    """Truncation and padding that were saved with the tokenizer; and a pad token beyond the embedding."""
    small_tokenizer(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    document["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
    }  # fmt: skip
    document["post_processor"] = _tokenizer.template(("<|im_start|>", 1), None)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    read = _tokenizer.read(tmp_path, {"vocab_size": 0}, {})
    assert read is not None and read.adds_bos and read.bos == 1 and read.pad is None
    loaded = tokenizers.Tokenizer.from_str(read.json.decode())
    assert len(loaded.encode("z").ids) == 2 and len(loaded.encode("z y x w v").ids) > 4


def test_byte_level_of_an_unknown_class_is_refused(tmp_path: Path) -> None:
    unpacked("qwen2", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CodeGenTokenizer"}')
    with pytest.raises(Unsupported, match="CodeGenTokenizer") as caught:
        _tokenizer.read(tmp_path, {}, {})
    assert "save_pretrained" in caught.value.cure


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x7f", b"\x0a\x02\x0a\xc3", b"PK\3\4 not one"])
def test_broken_sentencepiece(data: bytes) -> None:
    with pytest.raises(CorruptInput, match=r"tokenizer\.model"):
        _sentencepiece.convert(data, {})


def test_broken_anywhere() -> None:
    """A flipped byte is refused or read as another model; it never raises anything else."""
    data = STORIES.read_bytes()
    source = random.Random(4)
    for _ in range(300):
        broken = bytearray(data)
        broken[source.randrange(len(data))] = source.randrange(256)
        with contextlib.suppress(CorruptInput, Unsupported):
            _sentencepiece.convert(bytes(broken[: source.randrange(1, len(data))]), {})


@pytest.mark.parametrize(
    "added", [{"x": {"content": "a"}}, {"5": {"content": 3}}, {"5": "a"}, {"999999999": {"content": "a"}}, [1]]
)
def test_broken_added_tokens(added: Any, tmp_path: Path) -> None:
    shutil.copy(STORIES, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    with pytest.raises(CorruptInput):
        _tokenizer.read(tmp_path, {}, {})
