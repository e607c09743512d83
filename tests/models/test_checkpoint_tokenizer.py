"""Token ids of an original checkpoint are those of the original code, which reads with SentencePiece itself."""

import io
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AutoTokenizer

from amp_cli.errors import AmpError
from amp_cli.models.llava.tokenizer import BLANK, original_tokenizer
from tests.support.llava_checkpoints import GOLDEN, change_config

VOCABULARY = 1000
SPECIAL = ("<unk>", "<s>", "</s>")
BITS = [
    *("a", "the image", "Hello", " hello", "ASSISTANT:", "USER:", "1,000", "I'm", "100%", "snake_case", "-", "'"),
    *(" ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n", "\u00a0", "\u200b", "\x00", "\x07"),
    *("é", "e\u0301", "猫", "🙂", "👩‍🚀", "ﬁ", "①", "Ａ", "İ", "ß", "\U0010ffff", "عربى", BLANK, BLANK * 2),
    *("<0x41>", "<0x0A>", "<0xFF>", "<", ">", "<imag", "[INST]"),
]


def texts(seed: int, *, count: int = 300) -> list[str]:
    """Texts such as templates make: chunks between images, rounds that end with an end token before USER."""
    draw = random.Random(seed)

    def chunk() -> str:
        return "".join(draw.choices(BITS, k=draw.randint(0, 8)))

    def whole() -> str:
        rounds = [f"{chunk()}</s>USER:{chunk()}" for _ in range(draw.randint(0, 2))]
        images = [f"<image>{chunk()}" for _ in range(draw.randint(0, 2))]
        return "".join((chunk(), *images, *rounds, draw.choice(("", "</s>", "</s></s>", "<unk></s>"))))

    return [whole() for _ in range(count)]


def original_ids(sp: Any, text: str, *, legacy: bool, image: int) -> list[int]:
    """The original's rule: chunks between images; in them pieces between special tokens, each with a dummy blank.

    Unless `legacy`, only a chunk's first piece keeps it: elsewhere it is cut from the first token, except before a
    blank. A literal blank sign is read as a blank.
    """
    ids = [sp.bos_id()]
    for number, chunk in enumerate(text.split("<image>")):
        ids += [image] if number else []
        pieces = re.split("|".join(map(re.escape, SPECIAL)), chunk if legacy else chunk.replace(BLANK, " "))
        between = [*re.findall("|".join(map(re.escape, SPECIAL)), chunk), None]
        for place, (piece, special) in enumerate(zip(pieces, between, strict=True)):
            tokens = sp.encode(piece, out_type=str)
            if not legacy and place > 0 and tokens and not piece.startswith(" "):
                tokens = [tokens[0].removeprefix(BLANK), *tokens[1:]]
            ids += [sp.piece_to_id(token) for token in tokens if token]
            ids += [sp.piece_to_id(special)] if special else []
    return ids


def processor(folder: Path) -> Any:
    sp = sentencepiece.SentencePieceProcessor()
    sp.Load(str(folder / "tokenizer.model"))
    return sp


def trained(folder: Path, words: dict[str, int], size: int, **options: Any) -> Path:
    """Write a tiny `tokenizer.model` whose merges are in the order of how often the words are said."""
    folder.mkdir(exist_ok=True)
    out = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join([word] * 50) for word, times in words.items() for _ in range(times)]),
        model_writer=out,
        vocab_size=size,
        character_coverage=1.0,
        **(settings | options),
    )
    (folder / "tokenizer.model").write_bytes(out.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"legacy": False}))
    return folder


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(GOLDEN / "base" / name, folder / name)
    return folder


@pytest.mark.parametrize("legacy", [False, True])
def test_ids_are_those_of_sentencepiece_by_the_originals_rule(golden: Path, legacy: bool) -> None:
    change_config(golden, name="tokenizer_config.json", legacy=legacy)
    tokenizer, sp = original_tokenizer(golden, vocabulary=VOCABULARY), processor(golden)
    for text in texts(1 + legacy):
        assert tokenizer(text)["input_ids"] == original_ids(sp, text, legacy=legacy, image=VOCABULARY), repr(text)


def test_without_a_legacy_setting_the_old_rule_holds_as_in_the_originals_transformers(golden: Path) -> None:
    change_config(golden, name="tokenizer_config.json", without=("legacy",))
    text = "a</s>USER: b"
    tokenizer, sp = original_tokenizer(golden, vocabulary=VOCABULARY), processor(golden)
    assert tokenizer(text)["input_ids"] == original_ids(sp, text, legacy=True, image=VOCABULARY)
    assert tokenizer(text)["input_ids"] != original_ids(sp, text, legacy=False, image=VOCABULARY)


def test_ids_by_hand(golden: Path) -> None:
    sp, tokenizer = processor(golden), original_tokenizer(golden, vocabulary=VOCABULARY)
    the, image, end = sp.encode("the"), sp.encode("image"), 2
    assert tokenizer("the image")["input_ids"] == [1, *the, *image]
    assert tokenizer("the<image>the")["input_ids"] == [1, *the, 1000, *the]
    assert tokenizer("the</s>")["input_ids"] == [1, *the, end]
    assert tokenizer("the</s> the")["input_ids"] == [1, *the, end, *sp.encode(" the")]
    assert tokenizer("")["input_ids"] == [1]
    assert tokenizer("<image>")["input_ids"] == [1, 1000]
    assert tokenizer("<pad>")["input_ids"] == [1, 1001]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_saved_tokenizer_gives_the_same_ids(golden: Path, tmp_path: Path, legacy: bool) -> None:
    change_config(golden, name="tokenizer_config.json", legacy=legacy)
    tokenizer = original_tokenizer(golden, vocabulary=VOCABULARY)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in texts(7):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"], repr(text)
    assert (again.pad_token_id, again.convert_tokens_to_ids("<image>")) == (1001, 1000)
    assert again.padding_side == "left"


def test_what_was_read_is_written_back_as_sentencepiece_does(golden: Path) -> None:
    tokenizer, sp = original_tokenizer(golden, vocabulary=VOCABULARY), processor(golden)
    for text in ("Is it 100% sure?", "two  blanks", "line\nline", "猫 🙂 é", "I'm here."):
        ids = sp.encode(text)
        assert tokenizer.decode([1, *ids, 2], skip_special_tokens=True) == sp.decode(ids) == text


def test_a_role_that_begins_with_fewer_letters_after_a_blank_is_read_so_after_an_end_token(tmp_path: Path) -> None:
    """`▁USER` is `▁US` + `ER` here though `USER` is one token: the original cuts the blank from `▁US`."""
    inside = {f"{letter}USER": 1 for letter in "defg"} | {f"{letter}ER": 2 for letter in "abc"}
    folder = trained(tmp_path / "split", {"U": 9, "US": 7, ":": 1} | inside, 299)
    sp = processor(folder)
    assert sp.encode("USER:", out_type=str) == ["▁US", "ER", ":"]
    us, er, colon, user = map(sp.piece_to_id, ("US", "ER", ":", "USER"))
    assert sp.unk_id() not in (us, er, colon, user)
    tokenizer = original_tokenizer(folder, vocabulary=299)
    assert tokenizer("a</s>USER:")["input_ids"][-4:] == [2, us, er, colon]
    assert tokenizer("aUSER:")["input_ids"][-2:] == [user, colon]
    for text in texts(3, count=100):
        assert tokenizer(text)["input_ids"] == original_ids(sp, text, legacy=False, image=299), repr(text)


def test_a_role_that_is_a_token_only_after_a_blank_is_unknown_after_an_end_token(tmp_path: Path) -> None:
    folder = trained(tmp_path / "unknown", {"USER": 9, "USE": 8, "US": 7, "U": 7, "abc:": 1}, 279)
    sp = processor(folder)
    assert sp.encode("USER:", out_type=str) == ["▁USER", ":"]
    assert sp.piece_to_id("USER") == sp.unk_id() == 0
    tokenizer = original_tokenizer(folder, vocabulary=279)
    assert tokenizer("a</s>USER:")["input_ids"][-3:] == [2, 0, sp.piece_to_id(":")]
    for text in texts(4, count=100):
        assert tokenizer(text)["input_ids"] == original_ids(sp, text, legacy=False, image=279), repr(text)


def test_other_control_tokens_are_not_found_in_a_text(tmp_path: Path) -> None:
    """Mistral's `[INST]` is a control token of its model; the original finds only the begin, end and unknown tokens."""
    folder = trained(tmp_path / "control", WORDS, 300, control_symbols=["[INST]"], hard_vocab_limit=False)
    tokenizer, sp = original_tokenizer(folder, vocabulary=400), processor(folder)
    for text in ("[INST] a table [/INST]", "table[INST]", "[INST]"):
        assert tokenizer(text)["input_ids"] == [1, *sp.encode(text)]
        assert sp.piece_to_id("[INST]") not in tokenizer(text)["input_ids"]


WORDS = {word: 3 + len(word) for word in ("image", "magic", "imagine", "table", "stable", "unstable", "label", "sure!")}


@pytest.mark.parametrize(
    "options",
    [
        {"normalization_rule_name": "nmt_nfkc"},
        {"normalization_rule_name": "nfkc_cf"},
        {"model_type": "unigram"},
        {"add_dummy_prefix": False},
        {"remove_extra_whitespaces": True},
    ],
    ids=lambda options: "-".join(map(str, next(iter(options.items())))),
)
def test_a_model_that_cannot_be_reproduced_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = trained(tmp_path / "other", WORDS, 300, **({"hard_vocab_limit": False} | options))
    with pytest.raises(AmpError, match="is of a type that cannot be reproduced exactly"):
        original_tokenizer(folder, vocabulary=400)


def test_a_byte_pair_model_without_bytes_reads_unknown_letters_as_the_original_does(tmp_path: Path) -> None:
    folder = trained(tmp_path / "without", WORDS, 40, byte_fallback=False)
    tokenizer, sp = original_tokenizer(folder, vocabulary=40), processor(folder)
    for text in ("image 猫猫 table", "猫", "xyz"):
        assert tokenizer(text)["input_ids"] == [1, *sp.encode(text)]


def test_tokens_that_a_fine_tuning_added_keep_their_ids(golden: Path) -> None:
    (golden / "added_tokens.json").write_text(json.dumps({"<b>": 1001, "<a>": 1000, "</s>": 2}))
    tokenizer = original_tokenizer(golden, vocabulary=1004)
    assert tokenizer.convert_tokens_to_ids(["<a>", "<b>", "<image>", "<pad>"]) == [1000, 1001, 1004, 1005]
    sp = processor(golden)
    assert tokenizer("the<a>")["input_ids"] == [1, *sp.encode("the"), 1000]
    assert len(tokenizer) == 1006


def test_a_padding_token_of_the_fine_tuning_stays_the_padding_token(golden: Path) -> None:
    (golden / "added_tokens.json").write_text(json.dumps({"<pad>": 1000}))
    tokenizer = original_tokenizer(golden, vocabulary=1001)
    assert tokenizer.pad_token_id == 1000
    assert tokenizer.convert_tokens_to_ids("<image>") == 1001


def test_an_added_token_called_image_is_not_the_image(golden: Path) -> None:
    """The original cuts the text at `<image>` before its tokenizer sees it."""
    (golden / "added_tokens.json").write_text(json.dumps({"<image>": 1000}))
    tokenizer = original_tokenizer(golden, vocabulary=1001)
    assert tokenizer("<image>")["input_ids"] == [1, 1001]
    assert tokenizer.pad_token_id == 1002


@pytest.mark.parametrize(("added", "rows"), [({}, 999), ({"<a>": 1000}, 1000), ({"<a>": 1200}, 1100)])
def test_a_vocabulary_that_does_not_fit_the_embedding_is_refused(
    golden: Path, added: dict[str, int], rows: int
) -> None:
    (golden / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(AmpError, match=rf"The vocabulary does not fit: .* {rows:,} rows"):
        original_tokenizer(golden, vocabulary=rows)


def test_no_tokenizer_and_a_broken_one_are_sentences(golden: Path) -> None:
    content = (golden / "tokenizer.model").read_bytes()
    for broken in (content[: len(content) // 2], b"", b"version https://git-lfs.github.com/spec/v1\n"):
        (golden / "tokenizer.model").write_bytes(broken)
        with pytest.raises(AmpError, match="is not a SentencePiece model"):
            original_tokenizer(golden, vocabulary=VOCABULARY)
    (golden / "tokenizer.model").unlink()
    with pytest.raises(AmpError, match=r"has no tokenizer\.model"):
        original_tokenizer(golden, vocabulary=VOCABULARY)
