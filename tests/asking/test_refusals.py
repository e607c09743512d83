"""What servers say: which parameter a refusal means, and what of a completion is meant for the reader."""

from typing import Any

import pytest

from amp_cli.asking.wire import accepted, read_completion, refused_parameters

SENT = ("model", "messages", "temperature", "max_tokens", "seed", "response_format")


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.", {"max_tokens"}),
        ("'temperature' does not support 0.0 with this model. Only the default (1) is supported.", {"temperature"}),
        ("model does not support parameters: ['seed']", {"seed"}),
        ("[{'loc': ['body', 'seed'], 'msg': 'Extra inputs are not permitted'}]", {"seed"}),
        ("temperature and seed are not supported", {"temperature", "seed"}),
        ("json_schema is not supported by this model", {"response_format"}),
        ("Structured outputs are not available", {"response_format"}),
        ("I do not like it", {"response_format"}),
        ("max_tokens is too large: 99999. This model supports at most 4096 completion tokens", set()),
        ("'max_tokens' or 'max_completion_tokens' is too large: the maximum context length is 4096", set()),
    ],
)
def test_a_parameter_is_found_in_the_server_s_words_where_no_field_names_it(said: str, refused: set[str]) -> None:
    assert refused_parameters(400, None, said, SENT) == refused


def test_a_field_decides_and_what_was_not_sent_is_not_refused() -> None:
    assert refused_parameters(400, "seed", "temperature?", SENT) == {"seed"}
    assert refused_parameters(500, None, "temperature is not supported", SENT) == {"temperature"}
    assert refused_parameters(500, None, "out of order", SENT) == set()
    assert refused_parameters(401, None, "the seed of evil", SENT) == set()
    assert refused_parameters(400, None, "top_p is not supported", ("temperature",)) == set()


def test_a_refused_limit_goes_by_its_new_name_and_then_not_at_all() -> None:
    assert accepted({"max_tokens": 9}, set()) == {"max_tokens": 9}
    assert accepted({"max_tokens": 9}, {"max_tokens"}) == {"max_completion_tokens": 9}
    assert accepted({"max_tokens": 9}, {"max_tokens", "max_completion_tokens"}) == {}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "Yes."}, "Yes."),
        ({"content": [{"type": "text", "text": "Y"}, {"type": "output_text", "text": "es."}]}, "Yes."),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "No?"}]}, "Yes."]}, "Yes."),
        ({"content": [{"type": "reasoning", "text": "No?"}, {"text": {"value": "Yes."}}]}, "Yes."),
        ({"content": {"type": "text", "text": "Yes."}}, "Yes."),
        ({"content": None, "reasoning_content": "No"}, None),
        ({"content": "", "reasoning": "No"}, ""),
        ({"content": None, "refusal": "I cannot."}, "I cannot."),
        ({"content": [{"type": "refusal", "refusal": "I cannot."}]}, "I cannot."),
        ({"content": 5}, None),
        ({"content": []}, None),
    ],
)
def test_the_text_of_a_completion_is_what_is_meant_for_the_reader(message: dict[str, Any], text: str | None) -> None:
    reply = read_completion({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert reply is not None
    assert (reply.text, reply.finish_reason) == (text, "stop")


@pytest.mark.parametrize(
    "reply",
    [None, [], "text", {}, {"choices": []}, {"choices": None}, {"choices": {}}, {"choices": [None]},
     {"choices": [{"delta": {"content": "Yes."}}]}, {"choices": [{"message": "Yes."}]}],
)  # fmt: skip
def test_what_is_no_completion_is_not_read(reply: Any) -> None:
    assert read_completion(reply) is None
