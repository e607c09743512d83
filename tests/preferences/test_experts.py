"""Experts: how they are named, what is asked again after a stop, and who is left out."""

from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from amp_cli.asking.answerer import Answerer, Request
from amp_cli.asking.faults import ItemRejectedError
from amp_cli.disk.jsonl import RecordLog
from amp_cli.disk.left_out import LeftOutLog
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding
from amp_cli.preferences.experts import (
    FOLDER,
    Expert,
    collect_candidates,
    parse_expert,
    refuse_repeated_names,
    request_of,
    sampled,
)
from amp_cli.records import Candidate, SourceItem
from tests.support.answering import one_by_one

ITEMS = [SourceItem(id=name, images=(), questions=("Q",), answers=("A",)) for name in ("x", "y", "z")]
EXPERTS = (Expert(name="big", model="13b"), Expert(name="small", model="7b"))


class FakeAnswering:
    """Answers "<expert> on <id>"; refuses some, and is killed before some `(expert, id)`."""

    def __init__(self, refuse: Collection[tuple[str, str]] = (), killed_at: tuple[str, str] | None = None) -> None:
        self.refuse = refuse
        self.killed_at = killed_at
        self.asked: list[tuple[str, str]] = []
        self.loaded: list[str] = []

    def __call__(self, expert: Expert, folder: Path) -> Answerer:
        self.loaded.append(expert.name)

        def say(request: Request) -> str:
            if (expert.name, request.id) == self.killed_at:
                raise KeyboardInterrupt
            self.asked.append((expert.name, request.id))
            if (expert.name, request.id) in self.refuse:
                raise ItemRejectedError("cannot be asked")
            return f"{expert.name} on {request.id}"

        return one_by_one(say)


def collect(folder: Path, answering: FakeAnswering) -> dict[str, tuple[Candidate, ...]]:
    rejected = LeftOutLog.open(folder / "rejected.jsonl")
    log = RecordLog(folder / "candidates.jsonl")
    return collect_candidates(EXPERTS, list(map(request_of, ITEMS)), log=log, answering=answering, rejected=rejected)


def test_an_expert_is_a_name_a_model_and_perhaps_an_adapter(tmp_path: Path) -> None:
    assert parse_expert("big=13b") == Expert(name="big", model="13b")
    assert parse_expert("big=org/model+runs/a") == Expert(name="big", model="org/model", adapter="runs/a")
    folder = tmp_path / "with+plus"
    folder.mkdir()
    assert parse_expert(f"big={folder}") == Expert(name="big", model=str(folder))
    assert parse_expert(f"big={folder}+runs/a+b") == Expert(name="big", model=str(folder), adapter="runs/a+b")


@pytest.mark.parametrize("text", ["13b", "=13b", "big=", "big=7b+", "standard=7b"])
def test_a_malformed_expert_is_refused(text: str) -> None:
    with pytest.raises(AmpError):
        parse_expert(text)


def test_two_experts_of_one_name_are_refused() -> None:
    with pytest.raises(AmpError, match="Two experts are called 'big'"):
        refuse_repeated_names([EXPERTS[0], EXPERTS[0]])


def test_samples_are_numbered_experts_of_one_model_in_the_order_given() -> None:
    tuned = Expert(name="small", model="7b", adapter="runs/a")
    assert sampled([EXPERTS[0], tuned], 2, Decoding(temperature=0.7)) == (
        Expert(name="big-1", model="13b"),
        Expert(name="big-2", model="13b"),
        Expert(name="small-1", model="7b", adapter="runs/a"),
        Expert(name="small-2", model="7b", adapter="runs/a"),
    )


def test_one_sample_leaves_the_experts_as_they_are_at_any_temperature() -> None:
    assert sampled(EXPERTS, 1, Decoding(temperature=0.0)) == EXPERTS
    assert sampled((), 1, Decoding(temperature=0.7)) == ()


@pytest.mark.parametrize(
    ("experts", "temperature", "message"),
    [
        (EXPERTS, 0.0, "At temperature 0 the 2 samples"),
        ((), 0.7, "--samples 2 asks for several answers of each --expert, and none is given"),
        ((EXPERTS[0], EXPERTS[0]), 0.7, "Two experts are called 'big'$"),
    ],
)
def test_samples_that_cannot_be_taken_are_refused(experts: Sequence[Expert], temperature: float, message: str) -> None:
    with pytest.raises(AmpError, match=message):
        sampled(experts, 2, Decoding(temperature=temperature))


def test_candidates_come_in_the_experts_order(tmp_path: Path) -> None:
    candidates = collect(tmp_path, FakeAnswering())
    assert [candidate.source for candidate in candidates["y"]] == ["big", "small"]
    assert candidates["y"][1].answers == ("small on y",)


@pytest.mark.parametrize("place", [("big", "x"), ("big", "z"), ("small", "y")])
def test_after_a_kill_nothing_is_asked_twice_and_the_files_are_the_same(tmp_path: Path, place: tuple[str, str]) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    collect(whole, FakeAnswering())
    first, second = FakeAnswering(killed_at=place), FakeAnswering()
    with pytest.raises(KeyboardInterrupt):
        collect(stopped, first)
    stopped.mkdir(exist_ok=True)  # killed before the first answer
    with (stopped / "candidates.jsonl").open("a") as stream:
        stream.write('{"id": "torn')
    candidates = collect(stopped, second)
    assert len(first.asked + second.asked) == len(set(first.asked + second.asked)) == 6
    assert (stopped / "candidates.jsonl").read_bytes() == (whole / "candidates.jsonl").read_bytes()
    assert candidates == collect(whole, FakeAnswering())


def test_an_expert_with_nothing_left_to_do_is_not_loaded(tmp_path: Path) -> None:
    collect(tmp_path, FakeAnswering())
    again = FakeAnswering()
    collect(tmp_path, again)
    assert again.loaded == []


def test_an_item_that_one_expert_cannot_answer_is_left_out_and_stays_out(tmp_path: Path) -> None:
    refuse = {("big", "y")}
    first = FakeAnswering(refuse)
    assert set(collect(tmp_path, first)) == {"x", "z"}
    assert ("small", "y") not in first.asked
    again = FakeAnswering(refuse)
    assert set(collect(tmp_path, again)) == {"x", "z"}
    assert again.loaded == []
    (record,) = RecordLog(tmp_path / "rejected.jsonl").read()
    assert record == {"id": "y", "reason": "big: cannot be asked", "source": "big"}


def test_candidates_stand_in_one_order_whoever_finished_first(tmp_path: Path) -> None:
    class Backwards(FakeAnswering):
        def __call__(self, expert: Expert, folder: Path) -> Answerer:
            answer = super().__call__(expert, folder)
            return lambda requests, **others: answer(list(reversed(requests)), **others)

    for folder, answering in (("one", FakeAnswering()), ("other", Backwards())):
        collect(tmp_path / folder, answering)
    one, other = ((tmp_path / folder / "candidates.jsonl").read_bytes() for folder in ("one", "other"))
    assert other == one


def test_what_processes_of_a_killed_command_had_finished_is_not_asked_again(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER / "1"
    folder.mkdir(parents=True)
    (folder / "answering.0.lock").touch()
    (folder / "answers.0.jsonl").write_text('{"id": "z", "answers": ["big on z"]}\n{"id": "y", "reason": "too dark"}\n')
    answering = FakeAnswering()
    assert set(collect(tmp_path, answering)) == {"x", "z"}
    assert ("big", "x") in answering.asked
    assert not {("big", "y"), ("big", "z")} & set(answering.asked)
    assert not folder.exists()
