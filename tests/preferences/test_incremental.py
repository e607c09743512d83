"""Incremental generation: nested subsets, names, and fine-tuning that goes on where it stopped."""

import json
from pathlib import Path

import pytest

from amp_cli.errors import AmpError
from amp_cli.preferences.experts import Expert
from amp_cli.preferences.incremental import (
    FinetuneJob,
    FineTuning,
    finetune_series,
    nested_subsets,
    series_names,
)
from amp_cli.records import SourceItem


def items(count: int) -> list[SourceItem]:
    return [SourceItem(id=f"f{n}", images=(), questions=("Q",), answers=(f"A{n}",)) for n in range(count)]


class FakeTraining:
    """Writes an adapter folder; fails on the job named `broken`."""

    def __init__(self, broken: str = "") -> None:
        self.jobs: list[FinetuneJob] = []
        self.broken = broken

    def __call__(self, job: FinetuneJob) -> Path:
        self.jobs.append(job)
        if job.name == self.broken:
            raise KeyboardInterrupt
        adapter = job.out / "adapter"
        adapter.mkdir(parents=True)
        return adapter


def series(folder: Path, training: FakeTraining, tuning: FineTuning) -> list[Expert]:
    return finetune_series("tiny", items(10), levels=4, tuning=tuning, finetune=training, folder=folder, seed=0)


def test_the_series_is_named_from_most_data_to_none() -> None:
    assert series_names(4) == ["ig-2", "ig-1", "base"]
    assert series_names(5) == ["ig-3", "ig-2", "ig-1", "base"]


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_fewer_than_three_levels_leave_nothing_to_fine_tune(levels: int) -> None:
    with pytest.raises(AmpError, match="at least 3 levels"):
        series_names(levels)


def test_subsets_are_nested_equal_and_use_all_of_the_data() -> None:
    first, second, third = map(list, nested_subsets(items(11), 3, seed=5))
    assert (len(first), len(second), len(third)) == (4, 8, 11)
    assert second[:4] == first
    assert third[:8] == second
    assert {item.id for item in third} == {f"f{n}" for n in range(11)}


def test_the_split_depends_on_the_seed_alone() -> None:
    one, again, other = ([list(part) for part in nested_subsets(items(30), 2, seed=seed)] for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_too_little_data_is_refused() -> None:
    with pytest.raises(AmpError, match="1 usable items, too few for 2 parts"):
        nested_subsets(items(1), 2, seed=0)


def test_experts_come_strong_to_weak_and_steps_grow_with_the_subset(tmp_path: Path) -> None:
    training = FakeTraining()
    experts = series(tmp_path, training, FineTuning(max_steps=25, more={"threads": "1"}))
    assert experts == [
        Expert(name="ig-2", model="tiny", adapter=str(tmp_path / "ig-2" / "adapter")),
        Expert(name="ig-1", model="tiny", adapter=str(tmp_path / "ig-1" / "adapter")),
        Expert(name="base", model="tiny"),
    ]
    assert [(job.name, job.settings["max_steps"], job.settings["threads"]) for job in training.jobs] == [
        ("ig-1", 25, "1"),
        ("ig-2", 50, "1"),
    ]
    lines = (tmp_path / "ig-1.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [item.id for item in nested_subsets(items(10), 2, seed=0)[0]]


def test_epochs_are_the_same_for_every_subset(tmp_path: Path) -> None:
    training = FakeTraining()
    series(tmp_path, training, FineTuning(epochs=2))
    assert [(job.settings["epochs"], "max_steps" in job.settings) for job in training.jobs] == [(2, False), (2, False)]


def test_a_finished_subset_is_not_trained_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        series(tmp_path, FakeTraining(broken="ig-2"), FineTuning())
    again = FakeTraining()
    experts = series(tmp_path, again, FineTuning())
    assert [job.name for job in again.jobs] == ["ig-2"]
    assert [expert.name for expert in experts] == ["ig-2", "ig-1", "base"]
