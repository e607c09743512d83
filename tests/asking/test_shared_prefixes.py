"""Prefixes read once: the texts of plain `generate` in every family, and nothing computed twice for one image."""

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image

from amp_cli.asking.answerer import Request, batches, bundles
from amp_cli.asking.branches import BranchedCache, BranchedLayer, Prefixes, attending_to, branched_attention
from amp_cli.asking.generation import Generator, generation_config
from amp_cli.asking.local import answer_requests, load_to_answer
from amp_cli.asking.prefixes import Prompt, make_prompt, why_not_shared
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.spec import Decoding, ModelSpec
from tests.support.tiny_families import FAMILIES, IMAGE, TEXT, llava

BEAMS = Decoding(num_beams=2, max_new_tokens=8)
NOT_SHARED = ("PaliGemma", "LFM2-VL", "Qwen3.5")


class Numbers:
    """A tokenizer that says ids as numbers."""

    pad_token, pad_token_id, eos_token_id = "<pad>", 0, 2

    def batch_decode(self, ids: torch.Tensor, *, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [" ".join(str(one) for one in row if one not in (0, 2)) for row in ids.tolist()]


def loaded_as(network: Any) -> LoadedModel:
    return LoadedModel(
        model=network.eval(),
        processor=SimpleNamespace(tokenizer=Numbers()),
        name="family",
        chat_template="",
        background=None,
        vocabulary=500,
        identity={"dtype": "float64"},
        folder=Path(),
    )


def encoded(name: str, network: Any, images: Sequence[int], question: Sequence[int]) -> dict[str, torch.Tensor]:
    """What the family's processor would make of a question after images."""
    ids, inputs = FAMILIES[name].show(network, images, torch.float64) if images else ([], {})
    row = torch.cat([torch.tensor([11, 12, 13]), *ids, torch.tensor(question)])[None]
    types = {"Qwen": "mm_token_type_ids", "Gemma3": "token_type_ids"}
    kinds = {kind: (row == IMAGE).long() for family, kind in types.items() if name.startswith(family)}
    return {"input_ids": row, "attention_mask": torch.ones_like(row), **inputs, **kinds}


def plainly(loaded: LoadedModel, rows: Sequence[dict[str, torch.Tensor]], decoding: Decoding) -> list[str]:
    """Each row alone, by the model's own `generate`."""
    texts = []
    for row in rows:
        if hasattr(loaded.model.model, "rope_deltas"):
            loaded.model.model.rope_deltas = None
        with torch.inference_mode():
            ids = loaded.model.generate(**row, generation_config=generation_config(loaded, decoding))
        texts += loaded.tokenizer.batch_decode(ids[:, row["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def prompts_of(loaded: LoadedModel, rows: Sequence[dict[str, torch.Tensor]], shown: Sequence[str]) -> list[Prompt]:
    made = [make_prompt(loaded, row, (name,)) for row, name in zip(rows, shown, strict=True)]
    prompts = [one for one in made if one is not None]
    assert len(prompts) == len(rows)
    return prompts


def told(generator: Generator, prompts: Sequence[Prompt]) -> list[str]:
    return [answer.text for answer in generator.after_prefixes(prompts)]


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model(ModelSpec(model="tiny", device="cpu"))


# --- the texts of every family ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in NOT_SHARED])
def test_texts_after_shared_prefixes_are_those_of_plain_generate(name: str) -> None:
    torch.manual_seed(0)
    network = FAMILIES[name].build().double()
    loaded = loaded_as(network)
    assert why_not_shared(loaded) is None
    asked = [([0], [30, 40, 50]), ([0], [31]), ([1], [30, 40, 50, 60, 70]), ([1], [90, 80]), ([0, 1], [33, 34])]
    if FAMILIES[name].most_images < 2:
        asked = asked[:4]
    rows = [encoded(name, network, images, question) for images, question in asked]
    generator = Generator(loaded, BEAMS)
    plain = plainly(loaded, rows, BEAMS)
    assert len(set(plain)) > 2
    prompts = prompts_of(loaded, rows, [str(images) for images, _ in asked])
    for some in (slice(0, 4), slice(0, 2), slice(1, None)):  # as many questions each, one image, a ragged rest
        assert told(generator, prompts[some]) == plain[some]
    without = encoded(name, network, [], [41, 42, 43])  # some rows have a prefix, and one has none
    assert told(generator, [*prompts[:2], *prompts_of(loaded, [without], [""])]) == [
        *plain[:2],
        *plainly(loaded, [without], BEAMS),
    ]


@pytest.mark.parametrize("name", NOT_SHARED)
def test_families_whose_prefix_cannot_be_read_alone_say_so(name: str) -> None:
    torch.manual_seed(0)
    assert why_not_shared(loaded_as(FAMILIES[name].build())) is not None


def test_attention_with_a_soft_cap_gets_copies_of_the_prefix_and_the_same_texts() -> None:
    torch.manual_seed(0)
    name = "LLaVA, Llama"
    text = hf.Gemma2Config(
        **TEXT, head_dim=8, query_pre_attn_scalar=8, attn_logit_softcapping=1.0, layer_types=["full_attention"] * 3
    )
    network = llava(text).double()
    network.set_attn_implementation({"text_config": "eager"})  # the one that knows soft caps
    loaded = loaded_as(network)
    rows = [encoded(name, network, [0], question) for question in ([30, 40, 50], [31])]
    texts = told(Generator(loaded, BEAMS), prompts_of(loaded, rows, ["0", "0"]))
    assert texts == plainly(loaded, rows, BEAMS)
    assert network.config.text_config._attn_implementation == "eager"


# --- attention and the cache -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [1, 3])
def test_attention_to_prefix_and_own_tokens_is_plain_attention_over_both(new: int) -> None:
    """Two prefixes, the second one token shorter; two rows each; four heads on two key heads."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    prefixes = Prefixes(keys=random(2, 2, 5, 8), values=random(2, 2, 5, 8))
    own, query = (random(4, 2, 2 + new, 8), random(4, 2, 2 + new, 8)), random(4, 4, new, 8)
    seen = torch.ones(4, 7, dtype=torch.bool)
    seen[2:, 0] = False
    cache = BranchedCache([BranchedLayer(own, 2 + new, prefixes=prefixes, before=5)], seen)
    network = llava(hf.LlamaConfig(**TEXT))
    with attending_to(network, cache):
        assert network.config.text_config._attn_implementation == "amp_branched"
        found, _ = branched_attention(SimpleNamespace(layer_idx=0), query, *own, None)
    keys, values = (
        torch.cat((of_prefix.repeat_interleave(2, dim=0), of_row), dim=2)
        for of_prefix, of_row in zip((prefixes.keys, prefixes.values), own, strict=True)
    )
    sees = torch.ones(4, 1, new, 7 + new, dtype=torch.bool).tril(7)
    sees[2:, :, :, 0] = False
    plain = torch.nn.functional.scaled_dot_product_attention(query, keys, values, sees, enable_gqa=True)
    torch.testing.assert_close(found, plain.transpose(1, 2), rtol=0, atol=1e-12)


def test_beams_exchange_what_they_wrote_and_keep_their_prompt() -> None:
    rows = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    layer = BranchedLayer((rows.expand(2, 1, 40, 1).clone(), rows.expand(2, 1, 40, 1).clone()), 3)
    for step in range(60):  # beyond the first room
        layer.update(rows * 10 + step, rows * 10 + step)
    layer.reorder_cache(torch.tensor([1, 1]))
    assert layer.get_seq_length() == 63
    assert layer.keys[:, 0, :, 0].tolist() == [
        [row, row, row, *(20.0 + step for step in range(60))] for row in (1.0, 2.0)
    ]


# --- once for all questions ------------------------------------------------------------------------------------------


def question_of(number: int, path: Path) -> Request:
    words = ("car", "dog", "tree", "boat", "cup", "ball")
    return Request(id=f"{path.stem} {number}", images=(path,), questions=(f"is there a {words[number]} in the image?",))


def test_an_image_is_prepared_and_encoded_once_and_a_prompt_read_once_for_all_beams(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    class Counting:
        calls = 0

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):  # what `copy` looks for
                raise AttributeError(name)
            return getattr(tiny.processor.image_processor, name)

        def __call__(self, images: Any, **options: Any) -> Any:
            Counting.calls += 1
            return tiny.processor.image_processor(images, **options)

    processor = type(tiny.processor).__new__(type(tiny.processor))
    processor.__dict__.update(tiny.processor.__dict__)
    processor.image_processor = Counting()
    encoded_images, read = list[int](), list[int]()
    hooks = [
        tiny.model.model.vision_tower.register_forward_hook(
            lambda _module, _given, out: encoded_images.append(len(out[0]))
        ),
        tiny.model.get_decoder()
        .layers[0]
        .register_forward_pre_hook(
            lambda _module, given, named: read.append(
                (given[0] if given else named["hidden_states"]).shape[:2].numel()
            ),
            with_kwargs=True,
        ),
    ]
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for number, path in enumerate(paths):
        Image.new("RGB", (96, 96), (200, 99 * number, 9)).save(path)
    requests = [question_of(number, path) for number in range(6) for path in paths]
    answers: dict[str, tuple[str, ...]] = {}
    try:
        answer_requests(
            replace(tiny, processor=processor),
            requests,
            Decoding(num_beams=4, max_new_tokens=1),
            batch_size=3,
            seed=0,
            done=(),
            on_answer=lambda answer: answers.update({answer.id: answer.answers}),
            on_reject=lambda item, reason: pytest.fail(f"{item}: {reason}"),
        )
    finally:
        for hook in hooks:
            hook.remove()
    assert len(answers) == 12
    assert Counting.calls == 2
    assert encoded_images == [1, 1]  # though each image's questions were two batches
    # for each image: 12 tokens of the prefix; twice 8 more of 3 questions, then the last one of each for 4 beams
    assert read == [12, 3 * 8, 3 * 4, 3 * 8, 3 * 4] * 2


def test_later_rounds_read_on_from_the_image_that_the_first_one_read(tiny: LoadedModel, tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), (200, 30, 30)).save(tmp_path / "a.png")
    first = question_of(0, tmp_path / "a.png")
    rounds = [replace(first, id=str(number), questions=first.questions * number) for number in (2, 3)]
    seen = list[int]()
    hook = tiny.model.model.vision_tower.register_forward_hook(lambda _module, _given, out: seen.append(len(out[0])))
    try:
        for one in rounds:
            answer_requests(
                tiny,
                [one, replace(one, id="other")],
                Decoding(max_new_tokens=4),
                batch_size=2,
                seed=0,
                done=(),
                on_answer=lambda answer, one=one: seen.append(-len(one.questions)),  # type: ignore[misc]
                on_reject=lambda item, reason: pytest.fail(f"{item}: {reason}"),
            )
    finally:
        hook.remove()
    assert seen == [1, -2, -2, 1, -3, -3]


def test_what_was_read_of_an_image_is_let_go_of_before_the_next(tiny: LoadedModel, tmp_path: Path) -> None:
    requests = []
    for number in range(4):
        Image.new("RGB", (96, 96), (200, 60 * number, 30)).save(tmp_path / f"{number}.png")
        requests.append(question_of(0, tmp_path / f"{number}.png"))
    held = list[int]()
    answer_requests(
        tiny,
        requests,
        Decoding(max_new_tokens=1),
        batch_size=1,
        seed=0,
        done=(),
        on_answer=lambda answer: held.append(sum(type(one) is hf.DynamicCache for one in gc.get_objects())),
        on_reject=lambda item, reason: pytest.fail(f"{item}: {reason}"),
    )
    assert held == [held[0]] * 4


def test_questions_about_one_image_stand_together_and_bundles_keep_the_order_of_batches() -> None:
    images = [Path(name) for name in ("a", "b", "c")]
    requests = [question_of(number, path) for number in range(5) for path in images]
    found = list(bundles(requests, 4))
    assert [[{one.images[0].name for one in batch} for batch in bundle] for bundle in found] == [
        [{name}, {name}] for name in ("a", "b", "c")
    ]
    assert [[len(batch) for batch in bundle] for bundle in found] == [[2, 3]] * 3  # even parts of five
    assert [len(batch) for batch in batches(requests, 11)] == [10, 5]
    alone = [one.id for batch in batches(requests, 1) for one in batch]
    assert alone == [one.id for batch in batches(requests, 4) for one in batch]
    assert sorted(alone) == sorted(one.id for one in requests)


def test_items_with_their_own_images_or_none_come_by_length_as_ever() -> None:
    texts = ("dddd", "a", "ccc", "bb")
    own = [Request(id=text, images=(Path(text),), questions=(text,)) for text in texts]
    for requests in (own, [replace(one, images=()) for one in own]):
        assert [[one.id for one in batch] for batch in batches(requests, 3)] == [["a", "bb", "ccc"], ["dddd"]]


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    from amp_cli.models.adapters import language_lora_targets

    torch.manual_seed(0)
    network = load_model(ModelSpec(model="tiny", device="cpu")).model
    config = LoraConfig(r=4, target_modules=language_lora_targets(network), init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(network, config).save_pretrained(folder)
    return folder


def test_an_adapter_is_merged_to_answer_and_kept_apart_from_packed_weights(adapter: Path, tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), (200, 30, 30)).save(tmp_path / "a.png")
    spec = ModelSpec(model="tiny", adapter=str(adapter), device="cpu")
    merged, apart = load_to_answer(spec), load_model(spec)
    assert not hasattr(merged.model, "merge_and_unload")
    assert merged.identity == apart.identity
    texts: list[tuple[str, ...]] = []
    for loaded in (merged, apart, load_model(ModelSpec(model="tiny", device="cpu"))):
        answer_requests(
            loaded,
            [question_of(0, tmp_path / "a.png")],
            Decoding(max_new_tokens=20),
            batch_size=1,
            seed=0,
            done=(),
            on_answer=lambda answer: texts.append(answer.answers),
            on_reject=lambda item, reason: pytest.fail(f"{item}: {reason}"),
        )
    assert texts[0] == texts[1] != texts[2]
    packed = load_to_answer(replace(spec, quantization="nf4"))
    assert hasattr(packed.model, "merge_and_unload")
