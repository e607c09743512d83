"""Models behind an OpenAI-compatible endpoint: what is sent, in what order, what a fault costs, what is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from amp_cli.addresses import stored
from amp_cli.asking.answerer import Request, Running
from amp_cli.asking.endpoint import EndpointAnswerer, check_endpoint, is_endpoint
from amp_cli.asking.faults import Patience
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.models.images import image_data_url
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.preferences.experts import parse_expert
from amp_cli.preferences.generate import GenerateSettings, generate_preferences
from amp_cli.records import Answer
from tests.support.judge_server import Fault, JudgeServer
from tests.support.settings import eval_settings

QUICK = Patience(attempts=3, first_delay=0.01)
KEY = "sk-very-secret"


class Outcome:
    """Answers by id and reasons of rejection, in the order they came."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, ...]] = {}
        self.rejected: dict[str, str] = {}

    def keep(self, answer: Answer) -> None:
        self.answers[answer.id] = answer.answers


def endpoint(server: JudgeServer, *, concurrency: int = 4, **decoding: Any) -> EndpointAnswerer:
    running = Running(seed=7, concurrency=concurrency)
    return answerer(ModelSpec(model=f"{server.url}#llava"), Decoding(**decoding), running)


def answerer(spec: ModelSpec, decoding: Decoding, running: Running) -> EndpointAnswerer:
    return EndpointAnswerer(spec, decoding, running, lambda **facts: None, patience=QUICK)


def ask(model: EndpointAnswerer, requests: list[Request], *, done: frozenset[str] = frozenset()) -> Outcome:
    outcome = Outcome()
    model(requests, done=done, on_answer=outcome.keep, on_reject=outcome.rejected.__setitem__)
    return outcome


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (4, 4), (255, 0, 0)).save(path)
    return path


def asked_about(image: Path, count: int, *questions: str) -> list[Request]:
    return [
        Request(id=f"item-{number}", images=(image,), questions=questions or (f"Question {number}?",))
        for number in range(count)
    ]


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_the_image_goes_inline_before_the_question_with_the_sampling_settings(image: Path) -> None:
    with JudgeServer(" A red square. \n") as server:
        outcome = ask(endpoint(server, temperature=0.5, top_p=0.9, max_new_tokens=33), asked_about(image, 1))
    assert outcome.answers == {"item-0": ("A red square.",)}
    body = server.asked[0].body
    (message,) = body.pop("messages")
    assert body == {"model": "llava", "temperature": 0.5, "top_p": 0.9, "max_tokens": 33, "seed": 7}
    shown, question = message["content"]
    kind, _, content = shown["image_url"]["url"].partition(",")
    assert (message["role"], shown["type"], kind) == ("user", "image_url", "data:image/png;base64")
    assert base64.b64decode(content) == image.read_bytes()
    assert question == {"type": "text", "text": "Question 0?"}


def test_rounds_come_in_turn_with_the_model_s_own_answers_between_them(image: Path) -> None:
    with JudgeServer(lambda body: f"answer {len(body['messages'])}") as server:
        outcome = ask(endpoint(server), asked_about(image, 1, "One?", "Two?", "Three?"))
    assert outcome.answers == {"item-0": ("answer 1", "answer 3", "answer 5")}
    last = server.asked[-1].body["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "user", "assistant", "user"]
    assert [message["content"] for message in last[1:]] == ["answer 1", "Two?", "answer 3", "Three?"]
    assert len(last[0]["content"]) == 2  # the image is shown once


def test_a_format_that_browsers_know_is_sent_as_it_is_and_others_as_png(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 3), (0, 0, 255))
    for suffix, kind in (("jpg", "image/jpeg"), ("webp", "image/webp"), ("gif", "image/gif")):
        image.save(tmp_path / f"blue.{suffix}")
        url = image_data_url(tmp_path / f"blue.{suffix}")
        expected = base64.b64encode((tmp_path / f"blue.{suffix}").read_bytes()).decode()
        assert url == f"data:{kind};base64,{expected}"
    image.save(tmp_path / "blue.bmp")
    head, _, content = image_data_url(tmp_path / "blue.bmp").partition(",")
    (tmp_path / "back.png").write_bytes(base64.b64decode(content))
    assert head == "data:image/png;base64"
    assert list(Image.open(tmp_path / "back.png").getdata()) == list(image.getdata())


def test_no_more_items_are_under_way_than_allowed_and_done_ones_are_not_asked(image: Path) -> None:
    with JudgeServer("Yes.", delay=0.05) as server:
        outcome = ask(endpoint(server, concurrency=3), asked_about(image, 9), done=frozenset({"item-3"}))
    assert server.busiest == 3
    assert sorted(outcome.answers) == [f"item-{number}" for number in range(9) if number != 3]


def test_the_key_goes_only_to_an_endpoint_that_asks_for_one(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with JudgeServer("Yes.") as server:
        ask(endpoint(server), asked_about(image, 2))
        assert KEY not in str([one.headers for one in server.asked])
        server.faults.append(Fault(status=401, message="who are you"))
        outcome = ask(endpoint(server), asked_about(image, 1))
    assert outcome.answers == {"item-0": ("Yes.",)}
    assert server.asked[-1].headers["authorization"] == f"Bearer {KEY}"


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Fault(status=429), Fault(status=503), Fault(cut=0), Fault(cut=30), Fault(body='{"choices": [')],
    ids=["429", "503", "hung up", "cut off", "half JSON"],
)
def test_a_passing_fault_is_tried_again(image: Path, fault: Fault) -> None:
    with JudgeServer("Yes.") as server:
        server.faults.append(fault)
        outcome = ask(endpoint(server), asked_about(image, 1))
    assert outcome.answers == {"item-0": ("Yes.",)}
    assert len(server.asked) == 2


def test_an_item_that_fails_is_rejected_with_the_reason_and_the_others_are_answered(image: Path) -> None:
    with JudgeServer("Yes.") as server:
        server.fault_for = {"Question 1?": Fault(status=400, message="too long"), "Question 2?": Fault(status=500)}
        requests = asked_about(image, 4)
        requests.append(Request(id="no image", images=(image.with_name("torn.png"),), questions=("What?",)))
        image.with_name("torn.png").write_bytes(image.read_bytes()[:40])
        outcome = ask(endpoint(server), requests)
    assert sorted(outcome.answers) == ["item-0", "item-3"]
    assert outcome.rejected["item-1"] == "the model refused the request (400): too long"
    assert outcome.rejected["item-2"].startswith("given up after 3 attempts: the model is busy or broken (500)")
    assert "torn.png" in outcome.rejected["no image"]


def test_an_empty_answer_is_one_only_when_the_model_ended_it(image: Path) -> None:
    def empty(reason: str) -> Fault:
        choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": reason}
        return Fault(body=json.dumps({"choices": [choice]}))

    with JudgeServer("Yes.") as server:
        server.fault_for = {"Question 0?": empty("stop"), "Question 1?": empty("length")}
        outcome = ask(endpoint(server), asked_about(image, 2))
    assert outcome.answers == {"item-0": ("",)}
    assert outcome.rejected == {"item-1": "the model sent no text (finish_reason: length)"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(status=401, message="who are you"), r"The model at .* refuses the key \(401\): who are you"),
        (Fault(status=404, message="no such model"), r"does not know the model 'llava' \(404\): no such model"),
        (Fault(status=429, code="insufficient_quota"), "has no credit left"),
    ],
)
def test_what_no_item_can_pass_stops_at_once(image: Path, fault: Fault, said: str) -> None:
    with JudgeServer("Yes.") as server:
        server.fault_for = {"Question": fault}
        with pytest.raises(AmpError, match=said):
            ask(endpoint(server, concurrency=2), asked_about(image, 50))
    assert len(server.asked) <= 4


def test_a_server_that_is_not_there_stops_at_once(image: Path) -> None:
    model = answerer(ModelSpec(model="http://127.0.0.1:9/v1#llava"), Decoding(), Running())
    with pytest.raises(AmpError, match=r"Cannot reach the model at 'http://127\.0\.0\.1:9/v1'"):
        ask(model, asked_about(image, 3))


def test_a_set_up_that_refuses_every_item_stops_after_twenty(image: Path) -> None:
    with JudgeServer("Yes.") as server:
        server.fault_for = {"Question": Fault(status=400, message="no images here")}
        with pytest.raises(AmpError, match=r"The first 20 items were all refused.*no images here"):
            ask(endpoint(server, concurrency=2), asked_about(image, 60))
    assert len(server.asked) <= 22


def test_a_parameter_that_the_model_does_not_take_is_left_out_and_said(image: Path) -> None:
    with JudgeServer("Yes.") as server:
        server.faults.append(Fault(status=400, param="top_p", message="no top_p"))
        model = endpoint(server)
        assert ask(model, asked_about(image, 1)).answers == {"item-0": ("Yes.",)}
    assert "top_p" not in server.asked[1].body
    assert model.late_notes == ("'llava' takes no top_p; it used its own",)
    assert "top_p" not in model.identity["sampling"]


# --- what is refused or said -----------------------------------------------------------------------------------------


def test_an_endpoint_is_told_from_folders_and_hub_ids() -> None:
    assert is_endpoint("http://127.0.0.1:8000/v1#llava")
    assert is_endpoint("https://host/v1#a/b")
    assert not any(map(is_endpoint, ("tiny", "owner/name", "./http", "/models/7b")))
    assert check_endpoint(ModelSpec(model="https://host:8/v1/#owner/llava")) == {
        "model": {"kind": "endpoint", "name": "owner/llava", "url": "https://host:8/v1"}
    }


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("http://127.0.0.1:8000/v1", "names no model"),
        ("http://:8000/v1#llava", "not an http or https address"),
        ("https://user:hidden@host/v1#llava", "holds a user name, a password or a query"),
        ("https://host/v1?key=hidden#llava", "holds a user name, a password or a query"),
        ("https://api.openai.com/v1#gpt-x", "needs a key"),
    ],
)
def test_an_address_that_cannot_work_is_refused_and_its_secrets_are_not_repeated(model: str, said: str) -> None:
    with pytest.raises(AmpError, match=said) as caught:
        check_endpoint(ModelSpec(model=model))
    assert "hidden" not in caught.value.message + str(caught.value.hint)


@pytest.mark.parametrize(
    "option",
    [{"adapter": "mine"}, {"quantization": "nf4"}, {"template": "vicuna_v1"}, {"num_processes": 2}, {"device": "cpu"}],
)
def test_what_only_a_model_loaded_here_can_have_is_refused(pope: Path, tmp_path: Path, option: dict[str, Any]) -> None:
    settings = eval_settings(
        benchmark="pope", data=pope, out=tmp_path / "out", model="http://127.0.0.1:9/v1#llava", **option
    )
    with pytest.raises(AmpError, match=r"--.* does not go with the endpoint"):
        run_benchmark(settings)
    assert not (tmp_path / "out").exists()


def test_beams_and_repetition_rules_are_not_sent_and_that_is_said(image: Path) -> None:
    with JudgeServer("Yes.") as server:
        model = endpoint(server, num_beams=4, no_repeat_ngram_size=5)
        ask(model, asked_about(image, 1))
    assert not {"num_beams", "no_repeat_ngram_size", "repetition_penalty"} & set(server.asked[0].body)
    assert model.notes == ("The endpoint of 'llava' cannot be asked for num_beams=4, no_repeat_ngram_size=5: "
                           "it answers without",)  # fmt: skip
    assert model.identity["not_sent"] == {"num_beams": 4, "no_repeat_ngram_size": 5}


# --- through the commands' functions ---------------------------------------------------------------------------------


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    """Six images, one question each; odd ones have yes as the answer."""
    folder = tmp_path / "pope"
    folder.mkdir()
    lines = []
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(folder / f"{number}.png")
        label = "yes" if number % 2 else "no"
        lines.append(
            {"question_id": number, "image": f"{number}.png", "text": f"Is there a dog in {number}?", "label": label}
        )
    (folder / "coco_pope_random.json").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_a_benchmark_is_answered_and_a_stopped_run_asks_only_for_the_rest(pope: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with JudgeServer("Yes.", delay=0.02) as server:
        settings = eval_settings(
            benchmark="pope", data=pope, out=out, model=f"{server.url}#llava", num_beams=1, concurrency=1
        )
        server.fault_for = {"dog in 4": Fault(status=403, message="enough for today")}
        with pytest.raises(AmpError, match="enough for today"):
            run_benchmark(settings)
        before = len((out / "answers.jsonl").read_text().splitlines())
        assert before == 4
        server.fault_for = {}
        server.asked.clear()
        result = run_benchmark(settings)
    assert len(server.asked) == 2
    assert result.scores["overall"]["accuracy"] == 0.5
    facts = Run.read(out).facts
    assert facts["identity"]["model"] == {"kind": "endpoint", "name": "llava", "url": server.url}
    assert (facts["model"]["template"], facts["model"]["reported_models"]) == ("endpoint", ["judge-2026-01"])


def test_answers_stand_in_the_items_order_however_they_arrived(pope: Path, tmp_path: Path) -> None:
    with JudgeServer("Yes.") as server:
        server.fault_for = {"dog in 0": Fault(text="Yes.", hang=0.3)}
        run_benchmark(eval_settings(benchmark="pope", data=pope, out=tmp_path / "out", model=f"{server.url}#llava"))
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    assert ids == sorted(ids)
    assert len(ids) == 6


def three_items(folder: Path, image: Path) -> Path:
    """A data file for `amp generate-prefs`, of the items 0, 1 and 2."""
    data = folder / "data.jsonl"
    records = [
        {"id": str(n), "images": [str(image)], "questions": ["What is it?"], "answers": ["A red square."]}
        for n in range(3)
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    return data


def test_an_expert_may_be_an_endpoint(tmp_path: Path, image: Path) -> None:
    expert = parse_expert("big=http://127.0.0.1:8000/v1#llava+more")
    assert (expert.name, expert.model, expert.adapter) == ("big", "http://127.0.0.1:8000/v1#llava+more", None)
    data = three_items(tmp_path, image)
    with JudgeServer("A blue circle.") as server:
        settings = GenerateSettings(
            data=data,
            out=tmp_path / "prefs",
            method="meg",
            experts=(parse_expert(f"big={server.url}#llava"),),
            image_root=tmp_path,
            auto_check=False,
        )
        result = generate_preferences(settings)
    assert (result.stats["items"], result.rejected) == (3, 0)
    candidates = [json.loads(line) for line in result.candidates.read_text().splitlines()]
    assert {one["id"]: one["answers"] for one in candidates} == {str(n): ["A blue circle."] for n in range(3)}
    assert Run.read(tmp_path / "prefs").facts["identity"]["models"]["big"]["model"]["url"] == server.url


class Sampling:
    """`amp generate-prefs` of three items, with a server whose answer is the seed it was sent."""

    def __init__(self, folder: Path, image: Path) -> None:
        self.folder, self.data = folder, three_items(folder, image)
        self.server = JudgeServer(lambda body: f"A blue circle number {body['seed']}.")

    def command(self, out: str, *options: str) -> Result:
        words = ["generate-prefs", str(self.data), "--method", "meg", "--no-auto-check", "--json"]
        words += ["--image-root", str(self.folder), "--out", str(self.folder / out), *options]
        return CliRunner().invoke(app, words)

    def experts(self, *names: str) -> list[str]:
        return [word for name in names for word in ("--expert", f"{name}={self.server.url}#llava")]

    def candidates(self, out: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / out / "candidates.jsonl").read_text().splitlines()]


def test_samples_of_an_expert_are_what_as_many_typed_experts_answer(tmp_path: Path, image: Path) -> None:
    sampling = Sampling(tmp_path, image)
    with sampling.server as server:
        done = sampling.command("out", *sampling.experts("big"), "--samples", "3")
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert (told["items"], told["rejected"], told["levels"]) == (3, 0, {"4": 3})
        seeds = {one["source"]: one["answers"] for one in sampling.candidates("out")}
        assert list(seeds) == ["big-1", "big-2", "big-3"]
        assert len({str(answers) for answers in seeds.values()}) == 3
        assert len(server.asked) == 9
        typed = sampling.experts("big-1", "big-2", "big-3")
        assert sampling.command("typed", *typed).exit_code == 0
        assert sampling.candidates("typed") == sampling.candidates("out")
        assert sampling.command("out", *typed).exit_code == 0  # the same run: nobody is asked again
        assert len(server.asked) == 18


def test_a_stopped_command_asks_for_no_sample_twice(tmp_path: Path, image: Path) -> None:
    sampling = Sampling(tmp_path, image)
    options = (*sampling.experts("big"), "--samples", "2", "--concurrency", "1")
    with sampling.server as server:
        server.faults.extend([None] * 4 + [Fault(status=401)])  # all of big-1, one of big-2
        assert sampling.command("out", *options).exit_code == 1
        assert len(sampling.candidates("out")) == 4
        assert sampling.command("out", *options).exit_code == 0
        assert len(server.paid) == 6
        assert [one["source"] for one in sampling.candidates("out")] == ["big-1"] * 3 + ["big-2"] * 3


def test_samples_that_cannot_be_taken_ask_nobody(tmp_path: Path, image: Path) -> None:
    sampling = Sampling(tmp_path, image)
    with sampling.server as server:
        for options, reason in {
            (*sampling.experts("big"), "--samples", "2", "--temperature", "0"): "At temperature 0 the 2 samples",
            (*sampling.experts("big", "small"), "--samples", "4"): "8 experts and the standard answer give more than 8",
            (*sampling.experts("big"), "--samples", "9"): "--samples",
        }.items():
            done = sampling.command("out", *options)
            assert done.exit_code in (1, 2)
            assert reason in " ".join(done.stderr.split()) or reason in str(done.exception)
        assert server.asked == []
    assert not (tmp_path / "out").exists()


def test_a_model_behind_an_endpoint_cannot_be_fine_tuned(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="cannot be fine-tuned here"):
        GenerateSettings(
            data=tmp_path, out=tmp_path, method="ig", base="http://h/v1#m", finetune_data=tmp_path, levels=3
        )


# --- several servers, and the limits of what they serve ------------------------------------------------------------


def several(*addresses: str, concurrency: int = 4, **decoding: Any) -> EndpointAnswerer:
    spec = ModelSpec(model=f"{','.join(addresses)}#llava")
    return answerer(spec, Decoding(**decoding), Running(seed=7, concurrency=concurrency))


def test_several_servers_are_asked_in_turn(image: Path) -> None:
    with JudgeServer("One.") as one, JudgeServer("Two.") as two:
        outcome = ask(several(one.url, two.url, concurrency=1), asked_about(image, 6))
    assert (len(one.asked), len(two.asked)) == (3, 3)
    assert sorted(outcome.answers.values()) == [("One.",)] * 3 + [("Two.",)] * 3


def test_a_server_that_is_not_there_leaves_its_requests_to_the_others_and_that_is_told_once(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with JudgeServer("Yes.") as server:
        outcome = ask(several("http://127.0.0.1:9/v1", server.url), asked_about(image, 8))
    assert (len(outcome.answers), outcome.rejected) == (8, {})
    assert len(server.asked) == 8
    assert capsys.readouterr().err.replace("\n", " ").count("From now on") == 1


def test_a_server_that_falls_silent_is_given_up_after_three_requests(image: Path) -> None:
    with JudgeServer("Yes.") as silent, JudgeServer("Yes.") as server:
        silent.fault_for = {"Question": Fault(cut=0)}
        outcome = ask(several(silent.url, server.url, concurrency=1), asked_about(image, 12))
    assert (len(outcome.answers), outcome.rejected) == (12, {})
    assert (len(silent.asked), len(server.asked)) == (3, 12)


def test_a_busy_server_is_not_given_up(image: Path) -> None:
    with JudgeServer("Yes.") as busy, JudgeServer("Yes.") as server:
        busy.faults.extend([Fault(status=503)] * 4)
        outcome = ask(several(busy.url, server.url, concurrency=1), asked_about(image, 20))
    assert len(outcome.answers) == 20
    assert sum(one.answered for one in busy.asked) > 3


def test_where_no_server_is_left_the_run_stops(image: Path) -> None:
    model = several("http://127.0.0.1:9/v1", "http://127.0.0.1:19/v1")
    with pytest.raises(AmpError, match="Cannot reach the model at"):
        ask(model, asked_about(image, 3))


def test_the_key_goes_only_to_the_one_of_several_servers_that_asks_for_it(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with JudgeServer("Yes.") as closed, JudgeServer("Yes.") as free:
        closed.faults.append(Fault(status=401, message="who are you"))
        ask(several(closed.url, free.url), asked_about(image, 6))
    assert closed.asked[-1].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in str([one.headers for one in free.asked])


def test_several_addresses_are_stored_and_shown_without_their_secrets() -> None:
    model = "https://a.example/t0psecret/v1,https://b.example/v1#llava"
    identity = check_endpoint(ModelSpec(model=model))["model"]
    assert identity["url"] == "https://a.example/***/v1,https://b.example/v1"
    assert stored(model) == "https://a.example/***/v1,https://b.example/v1#llava"
    with pytest.raises(AmpError, match="An address is given twice"):
        check_endpoint(ModelSpec(model="http://a/v1,http://a/v1/#llava"))
    assert (
        check_endpoint(ModelSpec(model="http://a/v1, http://b/v1#llava"))["model"]["url"] == "http://a/v1,http://b/v1"
    )


@pytest.mark.parametrize("second", ["", "b:8000/v1", f"me:{KEY}@b:8000/v1", "ftp://b/v1"])
def test_each_of_several_addresses_has_to_be_one_and_is_not_repeated_where_it_is_not(second: str) -> None:
    with pytest.raises(AmpError, match="An address of the model is not an http or https address") as caught:
        check_endpoint(ModelSpec(model=f"http://a/v1,{second}#llava"))
    assert KEY not in f"{caught.value} {caught.value.hint}"


def test_a_repetition_penalty_is_sent_and_left_out_where_it_is_refused(image: Path) -> None:
    with JudgeServer("Yes.") as server:
        model = endpoint(server, repetition_penalty=1.1)
        ask(model, asked_about(image, 1))
        assert server.asked[0].body["repetition_penalty"] == 1.1
        server.faults.append(Fault(status=400, message="Unrecognized request argument supplied: repetition_penalty"))
        assert ask(model, asked_about(image, 1)).answers == {"item-0": ("Yes.",)}
    assert "repetition_penalty" not in server.asked[-1].body
    assert model.late_notes == ("'llava' takes no repetition_penalty; it used its own",)


CONTEXTS = {
    "older vLLM": "This model's maximum context length is 4096 tokens. However, you requested 4600 tokens (4088 in the "
    "messages, 512 in the completion). Please reduce the length of the messages or completion.",
    "SGLang": "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total "
    "of 4600 tokens: 4088 tokens from the input messages and 512 tokens for the completion.",
    "vLLM": "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 4096 "
    "tokens and your request has 4088 input tokens (512 > 4096 - 4088).",
}


@pytest.mark.parametrize("said", CONTEXTS.values(), ids=CONTEXTS)
def test_an_answer_is_asked_for_within_the_room_that_the_prompt_leaves(image: Path, said: str) -> None:
    with JudgeServer("Yes.") as server:
        server.faults.append(Fault(status=400, message=said.replace("4088", "4000")))
        model = endpoint(server, max_new_tokens=512)
        assert ask(model, asked_about(image, 1)).answers == {"item-0": ("Yes.",)}
        assert [one.body["max_tokens"] for one in server.asked] == [512, 96]
        assert "at the least 96" in model.late_notes[0]
        server.faults.append(Fault(status=400, message=said))  # 8 tokens: no answer
        outcome = ask(model, asked_about(image, 1))
    assert outcome.rejected["item-0"].startswith("its prompt leaves no room for an answer")


def test_where_the_server_has_not_counted_the_prompt_half_as_much_is_asked_for_each_time(image: Path) -> None:
    def said(most: int) -> Fault:
        least = 4096 - most + 1
        return Fault(
            status=400,
            message=f"This model's maximum context length is 4096 tokens. However, you requested {most} output tokens "
            f"and your prompt contains at least {least} input tokens, for a total of at least 4097 tokens.",
        )

    with JudgeServer("Yes.") as server:
        server.faults.extend([said(512), said(256)])
        assert ask(endpoint(server, max_new_tokens=512), asked_about(image, 1)).answers == {"item-0": ("Yes.",)}
    assert [one.body["max_tokens"] for one in server.asked] == [512, 256, 128]
