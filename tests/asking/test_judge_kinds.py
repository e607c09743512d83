"""Judges without an endpoint: replies at hand, a model of one's own; and what judging is guessed to cost."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from amp_cli.asking.judge import JudgeRequest, JudgeSettings, Price, count_usage, estimate, open_judge, parse_price
from amp_cli.errors import AmpError
from amp_cli.models.resolve import TINY
from amp_cli.records import Verdict
from tests.support.judge_runs import requests, run


def replay(path: Path, content: Any, **changes: Any) -> Any:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return open_judge(JudgeSettings(judge=f"replay:{path}"), **changes)


def test_a_verdict_comes_back_from_json_as_it_went_and_refuses_what_is_none() -> None:
    verdict = Verdict(
        id="a", repeat=2, text="Rating: 3", model="m", request_id="r", prompt_tokens=5, finish_reason="length"
    )
    assert Verdict.from_json(verdict.to_json()) == verdict
    assert Verdict.from_json({"id": "a", "text": ""}) == Verdict(id="a", text="")
    for bad in (
        {"id": "", "text": "x"},
        {"id": "a", "text": None},
        {"id": "a", "text": "x", "repeat": -1},
        {"id": "a"},
        {"id": "a", "text": "x \ud800"},
        {"id": "a", "text": "x", "model": 5},
        {"id": "a", "text": "x", "prompt_tokens": 10**400},
        {"id": "a", "text": "x", "completion_tokens": -1},
    ):
        with pytest.raises(AmpError):
            Verdict.from_json(bad)


def test_replies_are_joined_by_id_and_a_missing_one_is_rejected_by_name(tmp_path: Path) -> None:
    lines = '{"id": "item-2", "text": "two"}\n{"id": "item-0", "text": "zero", "model": "gpt-4"}\n'
    outcome = run(replay(tmp_path / "replies.jsonl", lines), requests(3))
    assert [(verdict.id, verdict.text) for verdict in outcome.verdicts] == [("item-0", "zero"), ("item-2", "two")]
    assert outcome.verdicts[0].model == "gpt-4"
    assert outcome.rejected == {"item-1": "'replies.jsonl' holds no reply to 'item-1'"}


def test_repeats_are_replayed_by_their_number_and_ids_may_be_numbers(tmp_path: Path) -> None:
    lines = '{"id": 7, "text": "first"}\n{"id": 7, "text": "second", "repeat": 1}\n'
    asked = [JudgeRequest(id="7", repeat=number, messages=()) for number in range(3)]
    outcome = run(replay(tmp_path / "replies.jsonl", lines), asked)
    assert [verdict.text for verdict in outcome.verdicts] == ["first", "second"]
    assert outcome.rejected == {"7": "'replies.jsonl' holds no reply to '7' (repeat 2)"}


def test_a_list_of_texts_goes_by_item_order_even_when_only_some_are_asked(tmp_path: Path) -> None:
    texts = ["zero", "one", "two"]
    assert [one.text for one in run(replay(tmp_path / "a.json", texts), requests(3)).verdicts] == texts
    every = tuple(request.id for request in requests(3))
    rest = run(replay(tmp_path / "b.json", texts, items=every), requests(3)[1:])
    assert [(one.id, one.text) for one in rest.verdicts] == [("item-1", "one"), ("item-2", "two")]
    with pytest.raises(AmpError, match="holds 3 texts for 2 items"):
        run(replay(tmp_path / "c.json", texts), requests(3)[1:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}', "two replies to 'a'"),
        ('{"id": "a"}', "in record 1, the field 'text' is missing"),
        ('{"text": "x"}', "in record 1, the field 'id' is missing"),
        ('["x", 5]', "Entry 2 .* is not a text"),
        ("", "is empty"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AmpError, match=message):
        replay(tmp_path / "replies.jsonl", content)


def test_what_cannot_be_read_of_a_file_is_said_where_a_reply_is_missing(tmp_path: Path) -> None:
    outcome = run(replay(tmp_path / "a.jsonl", '{"id": "item-0", "text": "x"}\n{"id": "item-1", "te'), requests(2))
    assert [one.text for one in outcome.verdicts] == ["x"]
    assert "1 unreadable records, first: line 2 is not valid JSON" in outcome.rejected["item-1"]


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("replay:", "names nothing"),
        ("local:", "names nothing"),
        ("replay:nowhere.jsonl", "There is no file 'nowhere.jsonl'"),
        ("local:./nowhere", "no model folder"),
        (" ", "--judge is empty"),
    ],
)
def test_a_judge_that_is_not_there_is_refused_before_anything_is_judged(judge: str, message: str) -> None:
    with pytest.raises(AmpError, match=message):
        open_judge(JudgeSettings(judge=judge))


def test_the_embedded_model_judges_and_says_that_prompts_are_too_long_for_it() -> None:
    judge = open_judge(JudgeSettings(judge="local:tiny"))
    question = "Is there a red cup in the image?"
    asked = [
        JudgeRequest(id="a", messages=(("system", "Be fair."), ("user", question)), max_tokens=8),
        JudgeRequest(id="a", repeat=1, messages=(("system", "Be fair."), ("user", question)), max_tokens=8),
        JudgeRequest(id="whole", messages=(("user", question),), max_tokens=20),
        JudgeRequest(id="long", messages=(("user", "cup " * 600),), max_tokens=2),
        JudgeRequest(id="bad", messages=(("user", "one </s> two"),), max_tokens=2),
    ]
    outcome = run(judge, asked)
    texts = {(verdict.id, verdict.repeat): verdict.text for verdict in outcome.verdicts}
    assert set(texts) == {("a", 0), ("a", 1), ("whole", 0), ("long", 0)}
    assert texts["a", 0] == texts["a", 1]
    ends = {verdict.id: (verdict.finish_reason, verdict.max_tokens) for verdict in outcome.verdicts}
    assert ends == {"a": ("length", 8), "whole": ("stop", 20), "long": ("length", 2)}
    assert "special token '</s>'" in outcome.rejected["bad"]
    assert judge.notes == ("Prompts longer than the 512 tokens that 'tiny' was made for: 1",)
    assert judge.identity["kind"] == "local"
    assert len(judge.identity["weights"]["model"]["hash"]) == 64


def test_a_plain_language_model_judges_through_its_own_chat_template(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'].strip() }} {% endfor %}{% if add_generation_prompt %}so{% endif %}"
    )
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=128,
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    asked = JudgeRequest(id="a", messages=(("user", "is there a cup"),), max_tokens=3)
    outcome = run(open_judge(JudgeSettings(judge=f"local:{tmp_path}")), [asked])
    ids = tokenizer("is there a cup so", return_tensors="pt", return_token_type_ids=False)
    said = model.eval().generate(**ids, do_sample=False, max_new_tokens=3)[0, ids["input_ids"].shape[1] :]
    assert outcome.verdicts[0].text == tokenizer.decode(said, skip_special_tokens=True).strip()
    assert outcome.verdicts[0].text


def test_tokens_are_guessed_from_characters_and_completions_at_full_length() -> None:
    asked = [
        JudgeRequest(id="a", messages=(("system", "12345678"), ("user", "123456789")), max_tokens=100),  # 2 + 3 + 8
        JudgeRequest(id="b", messages=(("user", "猫が好き"),), max_tokens=50),  # 4 + 4
    ]
    settings = JudgeSettings(judge="gpt-x", price="1000,10000")
    guess = estimate(asked, settings)
    assert (guess.requests, guess.prompt_tokens, guess.completion_tokens) == (2, 21, 150)
    assert guess.cost == pytest.approx(0.021 + 1.5)
    assert "4 ASCII characters a token" in guess.method
    assert estimate(asked, JudgeSettings(judge="gpt-x")).cost is None
    assert estimate(asked, JudgeSettings(judge="local:tiny")).cost == 0


def test_usage_adds_up_what_the_judge_counted_and_says_what_it_did_not() -> None:
    verdicts = [
        Verdict(id="a", text="x", prompt_tokens=1_000, completion_tokens=100),
        Verdict(id="a", repeat=1, text="x", prompt_tokens=2_000, completion_tokens=200),
        Verdict(id="b", text="x"),
    ]
    usage = count_usage(verdicts, Price(prompt=2.5, completion=10))
    assert (usage.replies, usage.prompt_tokens, usage.completion_tokens, usage.uncounted) == (3, 3_000, 300, 1)
    assert usage.cost == pytest.approx(0.0075 + 0.003)
    assert count_usage(verdicts, None).cost is None


def test_a_price_is_two_numbers_and_a_cost_limit_needs_one() -> None:
    assert parse_price("2.5, 10") == Price(prompt=2.5, completion=10)
    for wrong in ("2.5", "a,b", "1,2,3", "-1,2", "nan,1", "inf,1"):
        with pytest.raises(AmpError, match="price"):
            parse_price(wrong)
    with pytest.raises(AmpError, match="needs to know what tokens cost") as caught:
        JudgeSettings(judge="gpt-x", max_cost=1.0)
    assert "--price" in str(caught.value.hint)


def test_a_local_judge_is_loaded_as_the_evaluation_says_and_its_precision_is_told() -> None:
    assert "dtype" not in open_judge(JudgeSettings(judge="local:tiny", device="cpu")).identity
    judge = open_judge(JudgeSettings(judge="local:tiny", device="cpu", dtype="bfloat16"))
    assert judge.identity["dtype"] == "bfloat16"
    assert run(judge, requests(1, max_tokens=4)).judged == {"item-0"}
