"""Noun chunks of real sentences, as spaCy's small English model parses them."""

from pathlib import Path
from typing import Any

import pytest
import spacy

from amp_cli.errors import AmpError
from amp_cli.preferences.autocheck import Checker
from amp_cli.preferences.encoders import MiniLMEncoder
from amp_cli.preferences.nounchunks import ChunkParser, spacy_language


@pytest.fixture(scope="module")
def parser() -> ChunkParser:
    return ChunkParser()


def chunks_of(parser: ChunkParser, text: str) -> list[str]:
    return [chunk.text for chunk in parser.parse([text])[0].chunks]


def test_a_relative_clause_belongs_to_the_chunk(parser: ChunkParser) -> None:
    text = "The image features a white motorhome, which is parked on a street."
    assert chunks_of(parser, text) == ["a white motorhome, which is parked on a street", "a street"]


def test_a_participle_belongs_to_the_chunk(parser: ChunkParser) -> None:
    assert "A woman wearing a red coat" in chunks_of(parser, "A woman wearing a red coat crosses the road.")


def test_a_prepositional_attachment_belongs_to_the_chunk(parser: ChunkParser) -> None:
    assert chunks_of(parser, "There is a cup of coffee.") == ["a cup of coffee", "coffee"]


def test_coordinated_nouns_are_chunks_of_their_own(parser: ChunkParser) -> None:
    assert chunks_of(parser, "A dog and three cats.") == ["A dog", "three cats"]


def test_the_first_part_of_a_compound_is_no_chunk(parser: ChunkParser) -> None:
    assert chunks_of(parser, "A fire truck is here.") == ["A fire truck"]


def test_nouns_of_the_stop_list_are_no_chunks_in_singular_or_plural(parser: ChunkParser) -> None:
    assert chunks_of(parser, "The photo has a nice atmosphere.") == []
    assert chunks_of(parser, "These images show details.") == []


def test_characters_and_sentences_point_into_the_text(parser: ChunkParser) -> None:
    text = "It is sunny. A dog is barking. Wow! Two cats are sleeping."
    (parsed,) = parser.parse([text])
    assert [(text[chunk.start : chunk.end], chunk.sentence) for chunk in parsed.chunks] == [
        ("A dog", 0),
        ("Two cats", 1),
    ]
    assert parsed.sentences == ("A dog is barking.", "Two cats are sleeping.")


@pytest.mark.parametrize(
    ("text", "number", "colours"),
    [
        ("There are two red apples.", 2, {"red"}),
        ("There are 12 grey cats.", 12, {"gray"}),
        ("There is no dog.", 0, set()),
        ("There is a dog.", 1, set()),
        ("The dogs are black and white.", None, {"black", "white"}),
        ("Dogs are barking.", None, set()),
    ],
)
def test_number_and_colours_are_those_of_the_head_noun(
    parser: ChunkParser, text: str, number: int | None, colours: set[str]
) -> None:
    (chunk,) = parser.parse([text])[0].chunks
    assert (chunk.number, chunk.colours) == (number, colours)


def test_a_colour_further_down_the_chunk_is_not_the_heads(parser: ChunkParser) -> None:
    woman, coat = parser.parse(["There is a woman in a red coat."])[0].chunks
    assert (woman.colours, coat.colours) == (set(), {"red"})


def test_equal_texts_get_equal_parses_in_the_order_asked(parser: ChunkParser) -> None:
    first, second, third = parser.parse(["A dog.", "A cat.", "A dog."])
    assert first is third
    assert second.chunks[0].text == "A cat"


def test_an_empty_text_has_no_chunk(parser: ChunkParser) -> None:
    assert parser.parse([""])[0].chunks == ()


def test_a_missing_spacy_model_names_the_pip_command() -> None:
    with pytest.raises(AmpError, match="'en_core_web_huge' is not installed") as caught:
        spacy_language("en_core_web_huge")
    assert caught.value.hint is not None
    assert "pip install en-core-web-huge" in caught.value.hint


def test_the_language_is_told_without_loading_the_model() -> None:
    assert ChunkParser().language == "en"


def french(folder: Path) -> Path:
    """Save a French pipeline of rules: `chien` and `balle` are nouns, a full stop ends a sentence."""
    pipeline = spacy.blank("fr")
    ruler: Any = pipeline.add_pipe("attribute_ruler")
    ruler.add(patterns=[[{"LOWER": {"IN": ["chien", "balle"]}}]], attrs={"POS": "NOUN"})
    ruler.add(patterns=[[{"LOWER": {"NOT_IN": ["chien", "balle"]}}]], attrs={"POS": "X"})
    pipeline.add_pipe("sentencizer")
    pipeline.to_disk(folder)
    return folder


def test_a_pipeline_of_another_language_reads_its_own_texts(tmp_path: Path) -> None:
    parser = ChunkParser(str(french(tmp_path / "fr")))
    assert parser.language == "fr"
    texts = ["Le chien court. Une balle est dans la rue."]
    assert [(chunk.text, chunk.sentence) for chunk in parser.parse(texts)[0].chunks] == [("chien", 0), ("balle", 1)]
    checker = Checker(encoder=MiniLMEncoder(), parser=parser)
    assert checker.can_read((texts[0],), [("Un chien dort sur le canapé.",)])
    assert not checker.can_read((texts[0],), [("A dog is sleeping on the sofa.",)])


def test_a_pipeline_without_sentences_or_nouns_is_refused(tmp_path: Path) -> None:
    spacy.blank("fr").to_disk(tmp_path / "blank")
    with pytest.raises(AmpError, match="tells no sentences and no parts of speech"):
        ChunkParser(str(tmp_path / "blank")).parse(["Un chien."])


@pytest.mark.parametrize("meta", [None, "[]", '{"lang": 3}', "{", "[" * 100_000])
def test_a_folder_that_is_not_a_spacy_model_is_refused(tmp_path: Path, meta: str | None) -> None:
    if meta is not None:
        (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(AmpError) as caught:
        ChunkParser(str(tmp_path))
    assert "fr_core_news_sm" in str(caught.value.hint)
