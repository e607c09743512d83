"""Text encoders: unit rows in the order asked, the calibrated tau, and clear errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from amp_cli.errors import AmpError
from amp_cli.preferences.encoders import ClipTextEncoder, MiniLMEncoder, make_encoder

PAIRS = Path(__file__).parents[1] / "data" / "chunk_pairs.jsonl"


@pytest.fixture(scope="module")
def minilm() -> MiniLMEncoder:
    return MiniLMEncoder(device="cpu")


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP text tower with random weights and a vocabulary of single letters."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


def test_rows_have_length_one_and_stand_in_the_order_asked(minilm: MiniLMEncoder) -> None:
    texts = ["a dog", "a large brown dog that is lying on the pavement next to a bench", "cat"]
    together = minilm.embed(texts)
    assert together.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for row, text in zip(together, texts, strict=True):
        np.testing.assert_allclose(row, minilm.embed([text])[0], atol=1e-5)


def test_no_texts_give_no_rows(minilm: MiniLMEncoder) -> None:
    assert len(minilm.embed([])) == 0


def test_tau_of_minilm_has_the_stated_balanced_accuracy(minilm: MiniLMEncoder) -> None:
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    cosines = (minilm.embed([pair["a"] for pair in pairs]) * minilm.embed([pair["b"] for pair in pairs])).sum(axis=1)
    same = np.array([pair["same"] for pair in pairs])
    balanced = ((cosines[same] > minilm.tau).mean() + (cosines[~same] <= minilm.tau).mean()) / 2
    assert len(pairs) == 94
    assert balanced == pytest.approx(0.927, abs=0.005)


def test_minilm_alone_does_not_tell_two_from_three_bicycles(minilm: MiniLMEncoder) -> None:
    two, three = minilm.embed(["two bicycles", "three bicycles"])
    assert two @ three > minilm.tau


def test_clip_uses_the_projected_text_and_its_own_tau(tiny_clip: Path) -> None:
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    encoder = make_encoder(f"clip:{tiny_clip}", device="cpu")
    assert isinstance(encoder, ClipTextEncoder)
    assert (encoder.tau, encoder.name) == (0.85, f"clip:{tiny_clip}")
    rows = encoder.embed(["a dog", "a very long cat " * 30])
    model = CLIPTextModelWithProjection.from_pretrained(tiny_clip)
    inputs = CLIPTokenizer.from_pretrained(tiny_clip)(["a dog"], return_tensors="pt")
    expected = model(**inputs).text_embeds[0].detach().numpy()
    np.testing.assert_allclose(rows[0], expected / np.linalg.norm(expected), atol=1e-5)
    assert rows.shape == (2, 8)


@pytest.mark.parametrize(
    ("name", "message"), [("bert", "no text encoder 'bert'"), ("clip:", "no text encoder 'clip:'")]
)
def test_an_unknown_encoder_is_refused(name: str, message: str) -> None:
    with pytest.raises(AmpError, match=message):
        make_encoder(name)


def test_a_clip_folder_that_does_not_exist_is_refused_before_it_is_used(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="no model folder"):
        make_encoder(f"clip:{tmp_path / 'none'}")


def test_a_sentence_encoder_needs_a_threshold_and_gives_unit_vectors(minilm: MiniLMEncoder) -> None:
    folder = str(minilm._folder)
    with pytest.raises(AmpError, match="threshold") as caught:
        make_encoder(f"sentence:{folder}")
    assert "--tau" in str(caught.value.hint)
    encoder = make_encoder(f"sentence:{folder}", tau=0.7)
    assert (encoder.name, encoder.tau, encoder.language) == (f"sentence:{folder}", 0.7, "xx")
    np.testing.assert_allclose(encoder.embed(["a dog"]), minilm.embed(["a dog"]), atol=1e-6)
