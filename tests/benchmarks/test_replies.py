"""What a judge's reply says aloud: without reasoning, whole, and read alike however it is wrapped."""

import json

import pytest

from amp_cli.benchmarks.ratings import read_mmhal_strict, read_mrhal_strict, read_pair_strict
from amp_cli.benchmarks.replies import LONGEST, aloud, why_unheard
from amp_cli.records import Verdict

REASONING = [
    ("<think>", "</think>"),
    ("<THINK>", "</Think>"),
    ('<think time="3s">', "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysisWe ", "assistantfinal"),
]


@pytest.mark.parametrize(("begin", "end"), REASONING)
def test_reasoning_never_counts_and_what_stands_behind_it_does(begin: str, end: str) -> None:
    assert read_mmhal_strict(f"{begin}Rating: 2?\nRating: 3{end}\nRating: 5").ratings == (5,)
    assert read_mrhal_strict(f"{begin}Ratings: [1, 1]{end}\nRatings: [6, 3]", 2).ratings == (6, 3)
    assert read_pair_strict(f"{begin}3 4{end}\n8 9\nGood.").ratings == (8, 9)


@pytest.mark.parametrize("begin", [begin for begin, _ in REASONING])
def test_reasoning_that_is_never_closed_leaves_nothing_to_read(begin: str) -> None:
    for said in ("Rating: 2", "Ratings: [6, 3]", "8 9"):
        text = f"{begin}\n{said}\n"
        assert aloud(text) is None
        assert read_mmhal_strict(text).ratings is None
        assert read_mrhal_strict(text, 2).ratings is None
        assert read_pair_strict(text).ratings is None
        assert "not closed" in why_unheard(Verdict(id="a", text=text, finish_reason="stop"))


def test_only_the_tag_of_its_own_name_closes_reasoning_and_a_lone_one_closes_what_the_template_opened() -> None:
    assert aloud("<think>a</reasoning>Rating: 2") is None
    assert aloud("Rating: 2?</think>Rating: 5") == "Rating: 5"
    assert aloud("<think>a <think>b</think> Rating: 2</think>Rating: 5") == "Rating: 5"
    assert aloud("Rating: 5<think>or Rating: 2") is None
    assert aloud("No <b>tags</b> of reasoning.") == "No <b>tags</b> of reasoning."


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "content_filter", "tool_calls", "abort"])
def test_a_reply_that_its_judge_did_not_end_is_cut_off(reason: str) -> None:
    assert why_unheard(Verdict(id="a", text="Rating: 5", finish_reason=reason)) == f"cut off (finish_reason: {reason})"


@pytest.mark.parametrize("reason", [None, "", "stop", "STOP", "eos_token", "end_turn"])
def test_a_reply_that_ended_by_itself_counts(reason: str | None) -> None:
    assert why_unheard(Verdict(id="a", text="Rating: 5", finish_reason=reason)) == ""


def test_a_reply_without_text_or_far_too_long_does_not_count() -> None:
    assert why_unheard(Verdict(id="a", text=" ")) == "no text"
    assert why_unheard(Verdict(id="a", text="<think>hm</think> ")) == "no text but its reasoning"
    assert "characters" in why_unheard(Verdict(id="a", text="x" * LONGEST + "\nRating: 5"))
    assert read_mmhal_strict("x" * LONGEST + "\nRating: 5").ratings is None


WRAPPINGS = [
    "Rating: {}",
    "```\nRating: {}\n```",
    "~~~text\nRating: {}\n~~~",
    "### Rating\n{}",
    "### Rating\n\n**{}**",
    "## Final rating:\n{}/6",
    "Rating:\n{} - it is right",
    "Rating：{}",
    "**Rating：** {}",
    "**Rating**: {}",
    "__Rating:__ {}",
    "<b>Rating:</b> {}",
    "It is right.<br>Rating: {}<br>",
    "<answer>Rating: {}</answer>",
    "<rating>{}</rating>",
    "The final rating is \\boxed{{{}}}",
    "\\boxed{{\\text{{Rating: {}}}}}",
    "Rating: $\\boxed{{{}}}$",
    "Rating: <|begin_of_box|>{}<|end_of_box|>",
    "Rating (0-6): {}",
    "Rating (on a scale from 0 to 6): {}",
    "Rating => {}",
    "Rating → {}",
    "Rating\u200b:\u00a0{}",
    '{{"findings": "right", "verdict": "Rating: {}"}}',
    '```json\n{{"findings": "right", "verdict": "Rating: {}"}}\n```',
    '<think>hm</think>{{"findings": "right", "verdict": "Rating: {}"}}',
    'Here it is:\n```json\n{{"findings": "right", "verdict": {}}}\n```\nThat is all.',
    '{{"explanation": "right", "rating": {}}}',
    '{{"explanation": "right", "Final_Rating": "{}/6"}}',
    '{{"explanation": "over\ntwo lines", "rating": "{}"}}',
    '{{"rating": {}.0}}',
    '{{"verdict": {{"rating": {}}}}}',
    '{{"verdict": "Rating: {}", "findings": "Rating: 1 would be harsh"}}',
]


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_rating_is_read_alike_in_every_wrapping(wrapping: str) -> None:
    for rating in range(7):
        assert read_mmhal_strict(wrapping.format(rating)).ratings == (rating,), rating


@pytest.mark.parametrize(
    "reply",
    [
        "A first guess would be Rating: 2, but let me",
        "I would not say Rating: 6",
        "At first, I was tempted by rating 6",
        "I weighed Rating: 2. Then again, rating: 5 is better.",
        "A rating of 2 or maybe 3",
        "Rating: [5, 4]",
        "### Rating\n5\n4",
        "### Rating\nN/A",
        '{"rating": 2, "final_rating": 5}',
        '{"rating": true}',
        '{"rating": null}',
        '{"rating": 4.5}',
        '{"rating": 7}',
        '{"rating": "1' + "0" * 5000 + '"}',
        '{"rating": 1' + "0" * 5000 + "}",
        '{"a":' * 20_000,
        "[" * 90_000,
    ],
    ids=lambda reply: reply[:30],
)
def test_what_is_weighed_ambiguous_or_monstrous_is_unscored(reply: str) -> None:
    reading = read_mmhal_strict(reply)
    assert reading.ratings is None
    assert reading.reason


@pytest.mark.parametrize(
    "reply",
    [
        '{"findings": "x", "verdict": [6, 3]}',
        '{"verdict": "Ratings: [6, 3]"}',
        '{"verdict": "[6, 3]"}',
        '```json\n{"ratings": ["6", "3"]}\n```',
        '{"ratings": {"round 1": 6, "round 2": 3}}',
        '{"ratings": [{"round": 1, "rating": 6}, {"round": 2, "rating": 3}]}',
        "### Ratings\n[6, 3]",
        "### Ratings\n6, 3",
        "Ratings:\n- Round 1: 6\n- Round 2: 3",
        "Ratings：[6， 3]",
        "Ratings: \\boxed{[6, 3]}",
    ],
)
def test_lists_of_ratings_are_read_in_all_wrappings_too(reply: str) -> None:
    assert read_mrhal_strict(reply, 2).ratings == (6, 3)


@pytest.mark.parametrize(
    "reply",
    ["```\n8 9\n```", "```json\n8 9\n```", "8， 9", "**8** **9**\nGood.", "\\boxed{8 9}"]
    + [json.dumps(one) for one in ({"scores": [8, 9]}, {"assistant 1": 8, "assistant 2": 9, "why": "x"})],
)
def test_pairs_of_scores_are_read_in_all_wrappings_too(reply: str) -> None:
    assert read_pair_strict(reply).ratings == (8, 9)
