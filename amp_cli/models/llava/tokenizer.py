"""Turns a SentencePiece `tokenizer.model` into a fast tokenizer that gives the original code's token ids exactly.

The original reads a prompt in chunks between `<image>`s, each with a dummy blank before it, and (unless `legacy`) none
after a special token. The `tokenizers` library can be told so: `<image>` splits the text before the blank is put in
front, `<s>`, `</s>` and `<unk>` after it. With ▁ for a blank, as SentencePiece writes it:

    text                 legacy                     else
    the<image>the        ▁the <image> ▁the          the same: each chunk is read as a text of its own
    the</s>USER:         ▁the </s> ▁USER :          ▁the </s> USER :       the dummy blank is cut off again
    the</s> the          ▁the </s> ▁ ▁the           ▁the </s> ▁ ▁the       a blank that was there stays
    </s>the              </s> ▁the                  </s> the
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from amp_cli.disk.parsing import read_object
from amp_cli.errors import AmpError

BLANK = "▁"
IMAGE, PAD = "<image>", "<pad>"
_AFTER_END = "USER"
"""What LLaVA's templates write right after an end token."""
_PROBES = (
    "a b",
    " a",
    "a  b",
    "A\n\tb.",
    "é e\u0301 ﬁ ① Ａ",
    "猫 and 🙂",
    "1,000 (x)",
    "I'm 100% sure!!!",
    BLANK + "x",
)


class Pieces:
    """What a `tokenizer.model` holds."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.Load(str(file))
        except (RuntimeError, OSError) as error:
            raise AmpError(
                f"'{file}' is not a SentencePiece model",
                hint="Copy the tokenizer.model of the base language model into the folder",
            ) from error

    @cached_property
    def names(self) -> list[str]:
        return [self.processor.id_to_piece(number) for number in range(self.processor.get_piece_size())]

    @cached_property
    def special(self) -> list[str]:
        """The unknown, begin and end tokens, which the original finds in a text."""
        sp = self.processor
        return [self.name(id) for id in (sp.unk_id(), sp.bos_id(), sp.eos_id())]

    @cached_property
    def bytes(self) -> set[str]:
        return {name for id, name in enumerate(self.names) if self.processor.is_byte(id)}

    @cached_property
    def silent(self) -> set[str]:
        """Pieces that no text is ever cut into: special and other control tokens, and bytes."""
        control = {name for id, name in enumerate(self.names) if self.processor.is_control(id)}
        return control | {*self.special} | self.bytes

    def name(self, number: int) -> str:
        """The token of a special id, e.g. `name(processor.bos_id())`."""
        return self.names[number]


def original_tokenizer(folder: Path, *, vocabulary: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer of an original checkpoint, with `<image>` and `<pad>` after its `vocabulary` rows.

    Args:
        vocabulary: rows of the checkpoint's embedding; the image token gets this id, the padding token the next.

    Raises:
        AmpError: no `tokenizer.model`, or one that does not fit the embedding or cannot be reproduced.
    """
    file = folder / "tokenizer.model"
    if not file.is_file():
        raise AmpError(
            f"'{folder}' has no tokenizer.model, which the original LLaVA layout needs",
            hint="Copy the base language model's tokenizer.model into the folder",
        )
    pieces = Pieces(file)
    added = _added_tokens(folder, len(pieces.names))
    if max([len(pieces.names) - 1, *added.values()]) >= vocabulary:
        raise AmpError(
            f"The vocabulary does not fit: '{file}' has {len(pieces.names) + len(added):,} tokens, "
            f"the model's embedding {vocabulary:,} rows",
            hint="Use the tokenizer.model that came with these weights",
        )
    config = read_object(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    fast = _fast_tokenizer(pieces, legacy=bool(config.get("legacy", True)))
    _refuse_other_ids(fast, pieces)
    return _wrapped(fast, pieces, added, vocabulary, config)


def _added_tokens(folder: Path, pieces: int) -> dict[str, int]:
    """Tokens that a fine-tuning put behind the pieces, by name."""
    file = folder / "added_tokens.json"
    listed = read_object(file) if file.is_file() else {}
    return {
        str(name): int(number) for name, number in sorted(listed.items(), key=lambda one: one[1]) if number >= pieces
    }


def _fast_tokenizer(pieces: Pieces, *, legacy: bool) -> Tokenizer:
    sp = pieces.processor
    # A byte-pair model has no list of merges in its file: pieces' scores are the ranks in which they were merged.
    scores = {name: sp.get_score(id) for id, name in enumerate(pieces.names) if name not in pieces.silent}
    vocabulary = {name: id for id, name in enumerate(pieces.names)}
    merges = generate_merges(vocabulary, scores, pieces.silent)
    unknown = pieces.name(sp.unk_id())
    fast = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=bool(pieces.bytes))
    )
    fast.normalizer = normalizers.Sequence(_normalizers(pieces, legacy=legacy))
    if not legacy:
        fast.pre_tokenizer = _role_border(pieces)
    fast.add_special_tokens([AddedToken(name, normalized=not legacy, special=True) for name in pieces.special])
    fast.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    begin = pieces.name(sp.bos_id())
    fast.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, sp.bos_id())])
    return fast


def _normalizers(pieces: Pieces, *, legacy: bool) -> list[Any]:
    """A blank before each chunk; unless `legacy`, none before a special token and a second one after it."""
    blanks = [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
    if legacy:
        return blanks
    special = "|".join(map(re.escape, pieces.special))
    # "</s> a" has become "▁</s>▁a" by now. The first ▁ goes, since the original puts none before a special token; the
    # second is doubled, since the original reads " a" with a dummy blank of its own: "</s>▁▁a".
    return [
        *blanks,
        normalizers.Replace(Regex(rf"\A{BLANK}(?={special})"), ""),
        normalizers.Replace(Regex(rf"(?<={special}){BLANK}"), BLANK * 2),
        *_unknown_role(pieces, special),
    ]


def _first_role_piece(pieces: Pieces) -> str:
    """What the original makes of the first letters after an end token: read with a dummy blank, which is then cut off.

    So "USER" may become "US" + "ER", where reading it without the blank would give one token.
    """
    first: str = pieces.processor.encode(f"{_AFTER_END}:", out_type=str)[0]
    return first.removeprefix(BLANK)


def _role_border(pieces: Pieces) -> Any:
    first = _first_role_piece(pieces)
    # Cut "US" from "ER:", so that no merge reaches over the border. \A: after an end token a new piece begins.
    rest = f"{_AFTER_END}:".removeprefix(first)
    return pre_tokenizers.Split(Regex(rf"\A{re.escape(first)}(?={re.escape(rest)})"), "isolated") if first else None


def _unknown_role(pieces: Pieces, special: str) -> list[Any]:
    """Where that first piece is no token, the original reads it as unknown."""
    first = _first_role_piece(pieces)
    if not first or first in pieces.names:
        return []
    rest = f"{_AFTER_END}:".removeprefix(first)
    pattern = rf"(?<={special}){re.escape(first)}(?={re.escape(rest)})"
    return [normalizers.Replace(Regex(pattern), pieces.name(pieces.processor.unk_id()))]


def _refuse_other_ids(fast: Tokenizer, pieces: Pieces) -> None:
    """Hold the built tokenizer against SentencePiece itself: a model of another kind would be read wrongly."""
    sp = pieces.processor
    differing = (text for text in _PROBES if fast.encode(text, add_special_tokens=False).ids != sp.encode(text))
    if all(sp.get_score(id).is_integer() for id in range(len(pieces.names))):  # ranks of merges
        reason = next((f"it differs on {text!r}" for text in differing), None)
    else:
        reason = "its pieces have likelihoods"
    if reason is not None:
        raise AmpError(
            f"'{pieces.file}' is of a type that cannot be reproduced exactly ({reason})",
            hint="Byte-pair models without text normalisation are supported, like those of Llama, Vicuna and Mistral",
        )


def _wrapped(
    fast: Tokenizer, pieces: Pieces, added: dict[str, int], vocabulary: int, config: dict[str, Any]
) -> PreTrainedTokenizerFast:
    """Give every id up to the padding token a name, and wrap the whole as transformers' tokenizer."""
    sp = pieces.processor
    # ids    0 ... pieces-1 | pieces ... vocabulary-1            | vocabulary | vocabulary+1
    #        the pieces     | added by a fine-tuning, or unused | <image>    | <pad>, unless there is one
    by_number = {number: name for name, number in added.items() if name != IMAGE}  # cut out before, so never read
    unused = range(len(pieces.names), vocabulary)
    names = [by_number.get(number, f"<unused{number}>") for number in unused] + [IMAGE]
    names += [PAD] if PAD not in (*pieces.names, *names) else []
    fast.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=pieces.name(sp.bos_id()),
        eos_token=pieces.name(sp.eos_id()),
        unk_token=pieces.name(sp.unk_id()),
        pad_token=PAD,
        extra_special_tokens=[IMAGE],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=int(min(config.get("model_max_length", 2048), 1 << 20)),
    )
