"""Original LLaVA checkpoints against the released code: token ids, pixels, logits and greedy answers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from amp_cli.asking.answerer import Request
from amp_cli.asking.local import answer_requests
from amp_cli.models.llava.convert import ConvertSettings, convert
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.prompts import encode_dialogue
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.training.merge import MergeSettings, merge_lora
from tests.support.llava_golden import (
    ADAPTER,
    BASES,
    CASES,
    GOLDEN,
    dialogue_of,
    expanded,
    golden_model,
    images_of,
    in_template_of,
    tensors_of,
)

VOCABULARY = 1000
PATCHES = 16
OPEN = [case for case in CASES if "greedy_base" in case]


def name_of(case: dict[str, Any]) -> str:
    return str(case["name"])


def logits_of(loaded: LoadedModel, case: dict[str, Any]) -> torch.Tensor:
    """(length, 1000) logits over the ids that text can have."""
    inputs = encode_dialogue(in_template_of(loaded, case), *dialogue_of(case), images_of(case))
    with torch.no_grad():
        return loaded.model(**inputs).logits[0, :, :VOCABULARY]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_token_ids_are_those_of_the_original(case: dict[str, Any]) -> None:
    loaded = in_template_of(golden_model(), case)
    ids = encode_dialogue(loaded, *dialogue_of(case), images_of(case))["input_ids"][0].tolist()
    stored = tensors_of(case)["input_ids"].tolist()
    assert ids == expanded(stored, image_token=VOCABULARY, patches=PATCHES)
    assert len(stored) == case["input_len"]
    assert len(ids) == case["expanded_len"]


@pytest.mark.parametrize("padded", [True, False], ids=["pad", "square"])
@pytest.mark.parametrize("case", [case for case in CASES if case["images"]], ids=name_of)
def test_pixels_are_bit_equal_to_the_original_s(case: dict[str, Any], padded: bool) -> None:
    loaded = in_template_of(load_model(ModelSpec(model=str(GOLDEN / "model" / "base"))), case)
    if not padded:
        loaded.prepare_images(pad_to_square=False, max_pixels=None)
    pixels = encode_dialogue(loaded, *dialogue_of(case), images_of(case))["pixel_values"]
    assert torch.equal(pixels, tensors_of(case)["pixel_values_pad" if padded else "pixel_values_square"])


@pytest.mark.parametrize("with_adapter", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_logits_are_the_original_s(case: dict[str, Any], base: str, with_adapter: bool) -> None:
    logits = logits_of(golden_model(base, with_adapter=with_adapter), case)
    stored, what = tensors_of(case), "adapter" if with_adapter else "base"
    torch.testing.assert_close(logits[stored["positions"]], stored[f"logits_{what}"], rtol=0, atol=1e-4)
    torch.testing.assert_close(logits.double().logsumexp(dim=1), stored[f"logsumexp_{what}"], rtol=0, atol=1e-4)
    assert torch.equal(logits.argmax(dim=1), stored[f"argmax_{what}"])


@pytest.mark.parametrize("case", [case for case in CASES if case["images"]], ids=name_of)
def test_image_features_are_the_original_s(case: dict[str, Any]) -> None:
    stored = tensors_of(case)
    features = golden_model().model.get_image_features(pixel_values=stored["pixel_values_pad"]).pooler_output
    torch.testing.assert_close(torch.stack(list(features)), stored["projected_features"], rtol=0, atol=1e-4)


def ids_of_answer(loaded: LoadedModel, case: dict[str, Any], tokens: int) -> list[int]:
    inputs = encode_dialogue(in_template_of(loaded, case), *dialogue_of(case), images_of(case))
    ids = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
    return [int(token) for token in ids[0, inputs["input_ids"].shape[1] :]]


@pytest.mark.parametrize("with_adapter", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("case", OPEN, ids=name_of)
def test_greedy_tokens_are_the_original_s(case: dict[str, Any], base: str, with_adapter: bool) -> None:
    loaded = golden_model(base, with_adapter=with_adapter)
    expected = case["greedy_adapter" if with_adapter else "greedy_base"]["ids"]
    assert ids_of_answer(loaded, case, 20) == expected


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    out = tmp_path_factory.mktemp("golden") / "merged"
    merge_lora(MergeSettings(adapter=ADAPTER, out=out, base=str(GOLDEN / "model" / "base"), dtype="float32"))
    return load_model(ModelSpec(model=str(out)))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    out = tmp_path_factory.mktemp("golden") / "converted"
    convert(ConvertSettings(model=str(GOLDEN / "model" / "base"), out=out, to="hf"))
    return load_model(ModelSpec(model=str(out)))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_merged_model_s_logits_are_those_of_the_original_with_its_adapter_merged(
    case: dict[str, Any], merged: LoadedModel
) -> None:
    logits, stored = logits_of(merged, case), tensors_of(case)
    torch.testing.assert_close(logits[-1], stored["logits_merged_last"], rtol=0, atol=1e-4)
    assert case["max_abs_adapter_minus_base"] > 1  # the adapter does something


@pytest.mark.parametrize("case", OPEN, ids=name_of)
def test_the_merged_model_s_greedy_tokens_are_the_original_s(case: dict[str, Any], merged: LoadedModel) -> None:
    assert ids_of_answer(merged, case, 20) == case["greedy_merged"]["ids"]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_converted_folder_gives_the_original_s_logits(case: dict[str, Any], converted: LoadedModel) -> None:
    stored = tensors_of(case)
    logits = logits_of(converted, case)[stored["positions"]]
    torch.testing.assert_close(logits, stored["logits_base"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", [case for case in OPEN if len(case["turns"]) == 1], ids=name_of)
@pytest.mark.parametrize("protocol", ["adapter_beam4_norepeat5", "adapter_beam4_pope"])
def test_beams_of_the_evaluation_protocol_give_the_original_s_text(case: dict[str, Any], protocol: str) -> None:
    expected = case[protocol]
    loaded = in_template_of(golden_model(with_adapter=True), case)
    questions, _ = dialogue_of(case)
    kept: dict[str, tuple[str, ...]] = {}
    answer_requests(
        loaded,
        [Request(id="0", images=tuple(Path(GOLDEN / name) for name in case["images"]), questions=tuple(questions))],
        Decoding(
            num_beams=4,
            no_repeat_ngram_size=expected.get("no_repeat_ngram_size", 0),
            max_new_tokens=expected["max_new_tokens"],
        ),
        batch_size=1,
        seed=0,
        done=set(),
        on_answer=lambda answer: kept.update({answer.id: answer.answers}),
        on_reject=lambda item, reason: pytest.fail(f"{item}: {reason}"),
    )
    assert kept["0"] == (loaded.tokenizer.decode(expected["ids"], skip_special_tokens=True).strip(),)
