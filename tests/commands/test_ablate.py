"""An ablation: what a plan may say, equal tokens, held-out seeds, cells that fail, and the same table after a kill."""

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from amp_cli.asking.answerer import Request
from amp_cli.benchmarks.comparing import holm, seeds_needed
from amp_cli.benchmarks.runner import EvalResult, run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.commands.ablation import Workshop, keep_levels, unchecked_items
from amp_cli.commands.ablation_plan import read_plan
from amp_cli.disk.jsonl import write_json, write_records
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.models.load import load_outline
from amp_cli.records import Answer, Candidate, PreferenceItem
from amp_cli.report.ablation import COLOURS, SHAPES, _contrast, questions_of
from amp_cli.training.matching import FedTokens
from amp_cli.world.files import write_evaluation
from tests.support.ablation import plan_of, run_plan, train_here
from tests.support.answering import one_by_one
from tests.support.training_items import preference, write_preferences
from tests.test_architecture import ROOT

IMAGES = 10


@pytest.fixture
def prefs(tmp_path: Path) -> Path:
    return write_preferences(tmp_path / "prefs")


@pytest.fixture
def data(tmp_path: Path, prefs: Path) -> Path:
    """Ten images of a dog; POPE asks of a dog and a cat in each."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [
        {"image": f"{number}.png", "text": f"Is there a {thing} in the image?", "label": label}
        for number in range(IMAGES)
        for thing, label in (("dog", "yes"), ("cat", "no"))
    ]
    for number in range(IMAGES):
        shutil.copyfile(prefs.parent / "0.png", folder / f"{number}.png")
    (folder / "coco_pope_random.json").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


class Answering:
    """Says yes to a cat in as many images as a variant and its seed say; counts the evaluations."""

    def __init__(self, wrong: dict[tuple[str, int], int]) -> None:
        self.wrong = wrong
        self.evaluations = 0

    def evaluate(self, settings: EvalSettings) -> EvalResult:
        self.evaluations += 1
        variant, seed = settings.out.parts[-3:-1]
        wrong = self.wrong[variant, 0 if seed == "all" else int(seed.removeprefix("seed-"))]

        def say(request: Request) -> str:
            return "yes" if "dog" in request.questions[0] or int(request.images[0].stem) < wrong else "no"

        return run_benchmark(settings, answerer=one_by_one(say))


def no_training(config: Any, **paths: Any) -> Any:
    return SimpleNamespace(seconds=1.0, items=8, rejected=0, items_per_second=4.0)


SAID = {("base", 0): 6, ("dpo", 0): 4, ("dpo", 1): 2, ("sft", 0): 6, ("sft", 1): 7, ("dpo", 2): 6, ("sft", 2): 6}


def test_what_a_plan_may_not_say_is_named(tmp_path: Path, prefs: Path, data: Path) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"sedes": [0]}, "no `sedes` in a plan"),
        ({"variants": {"a": {"betta": 1}}, "control": "a"}, "Variant 'a': There is no training setting 'betta'"),
        ({"variants": {"a": {"beta": "much"}}, "control": "a"}, "Variant 'a': beta must be a number"),
        ({"variants": {"a": {"seed": 1}}, "control": "a"}, "`seed` does not belong to variant 'a'"),
        ({"variants": {"a": {"levels": [0]}}, "control": "a"}, "keeps 1 level"),
        ({"variants": {"a": {"levels": [0, 9]}}, "control": "a"}, "a level of variant 'a' is 9"),
        ({"variants": {"a": {"auto_check": "maybe"}}, "control": "a"}, "auto_check of variant 'a' is 'maybe'"),
        ({"variants": {"base": {}}, "control": "base"}, "'base' cannot name a variant"),
        ({"variants": {"../a": {}}, "control": "../a"}, "cannot name a variant"),
        ({"variants": {"Aux.1": {}}, "control": "Aux.1"}, "cannot name a variant"),
        ({"variants": {"a.": {}}, "control": "a."}, "cannot name a variant"),
        ({"variants": {"dpo": {}, "DPO": {}}, "control": "dpo"}, "'DPO' is, but for capital letters"),
        ({"control": "none"}, "'none' is not one of the variants"),
        ({"seeds": [0, 0]}, "names a seed twice"),
        ({"seeds": [True]}, "is True"),
        ({"seeds": [0], "held_out": [0]}, "Seed 0 is in `seeds` and in `held_out`"),
        ({"match": "hours"}, "`match` is 'hours'"),
        ({"steps": None}, "steps is None"),
        ({"evaluate": ["popes"]}, "no benchmark 'popes'"),
        ({"evaluate": [{"pope": {"num_beamz": 1}}]}, "no `num_beamz` in `evaluate` for pope"),
        ({"evaluate": [{"pope": {"num_beams": "x"}}]}, "`evaluate` for pope: Invalid value for '--num-beams'"),
        ({"evaluate": [{"pope": {"answers": "x"}}]}, "no `answers`"),
        ({"evaluate": [{"pope": {"model": "7b"}}]}, "no `model` in `evaluate` for pope"),
        ({"evaluate": None}, "`evaluate` is missing"),
        ({"variants": []}, "`variants` does not consist of `key: value` lines"),
        ({"seeds": 0}, "`seeds` is not a list"),
        ({"world": {"scenes": 8}}, "either it or `preferences`"),
    ]
    for changes, message in refused:
        with pytest.raises(AmpError) as caught:
            read_plan(plan_of(tmp_path, prefs, data, **changes))
        assert message in caught.value.message, changes
    drawn: dict[str, Any] = {"preferences": None, "world": {"scenes": 8}}
    for evaluate, message in (("amber", "draws nothing for amber"), ({"pope": {"data": "x"}}, "`data` of pope")):
        with pytest.raises(AmpError, match=message):
            read_plan(plan_of(tmp_path, prefs, data, **drawn, evaluate=[evaluate]))
    twice = plan_of(tmp_path, prefs, data)
    twice.write_text(twice.read_text() + "variants:\n  dpo: {}\n")
    with pytest.raises(AmpError, match="'variants' is given twice"):
        read_plan(twice)


def test_the_plans_that_come_along_can_be_read() -> None:
    paper = read_plan(ROOT / "templates" / "ablations" / "paper.yaml")
    assert [one.name for one in paper.variants[:6]] == ["sft", "dpo", "k2", "k3", "k4", "k5"]
    assert not paper.variant("unchecked").auto_check
    assert paper.variant("k2").levels == (0, -1)
    assert paper.config(paper.variant("sft"), 3, 20).per_device_batch_size == 8
    assert not paper.items_are_shared
    assert read_plan(ROOT / "templates" / "ablations" / "small.yaml").seeds == (0, 1)
    field = read_plan(ROOT / "templates" / "ablations" / "field.yaml")
    assert field.to_json() == paper.to_json()  # the same world, control, settings and evaluations
    assert field.variant("k5") == paper.variant("k5")


def test_levels_are_kept_in_their_order_and_an_item_that_lacks_them_is_left_out() -> None:
    item = PreferenceItem.from_json(preference(0, levels=3))
    kept = keep_levels(item, [-1, 0])
    assert kept is not None
    assert kept.levels == (item.levels[0], item.levels[2])
    assert keep_levels(item, [0, 3]) is None  # it has three levels, of which one is left
    assert keep_levels(item, [2, -1]) is None  # the same one twice


def test_without_auto_check_the_candidates_stand_in_their_experts_order(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"")
    write_json(tmp_path / "data.json", [{"id": "a", "images": [], "questions": ["What?"], "answers": ["A dog."]}])
    out = tmp_path / "prefs"
    with Run.start(out, command="generate-prefs", settings={"data": tmp_path / "data.json"}) as run:
        run.finish()
    answers = {"strong": "A cat.", "weak": "A dog and a ball."}
    candidates = [Candidate(id="a", source=name, answers=(text,)) for name, text in answers.items()]
    write_records(out / "candidates.jsonl", (one.to_json() for one in candidates))
    (item,) = unchecked_items(out / "preferences.jsonl")
    assert [level.source for level in item.levels] == ["standard", "strong", "weak"]
    (out / "candidates.jsonl").unlink()
    with pytest.raises(AmpError, match="auto_check: off needs the candidates"):
        unchecked_items(out / "preferences.jsonl")


@pytest.mark.parametrize("settings", [{"image_pairs": "crop"}, {"method": "sft"}])
def test_the_tokens_that_are_counted_are_those_that_are_fed(
    settings: dict[str, str], tmp_path: Path, prefs: Path, data: Path
) -> None:
    plan = read_plan(plan_of(tmp_path, prefs, data, variants={"a": {**settings, "reference": "online"}}, control="a"))
    config = plan.config(plan.variants[0], 5, 3)  # the second epoch begins in the third update
    fed = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        if type(module).__name__ != "LlamaModel" or not torch.is_grad_enabled():
            return
        if any(frame.function == "training_step" for frame in inspect.stack(0)):  # and not the start-up test
            fed.append(output.last_hidden_state.shape[:2].numel())

    out = tmp_path / "train"
    handle = register_module_forward_hook(note)
    try:
        train_here(config, prefs=prefs, out=out, image_root=None)
    finally:
        handle.remove()
    count = FedTokens(config, load_outline(replace(config.spec, device="cpu")), prefs)
    units = 3 if config.method == "sft" else 4  # forward and backward, and forward for the reference
    assert count.of(3) == units * sum(fed)
    per_step = count.of(3) - count.of(2)
    assert count.steps_for(count.of(2) + per_step // 3) == 2
    assert count.steps_for(count.of(3) - per_step // 3) == 3
    assert count.steps_for(1) == 1


def test_a_reference_on_disk_is_counted_once_for_each_item(tmp_path: Path, prefs: Path, data: Path) -> None:
    changes = {"variants": {"a": {"reference": "cache"}, "b": {"reference": "online"}}, "control": "a"}
    plan = read_plan(plan_of(tmp_path, prefs, data, **changes))
    outline = load_outline(replace(plan.config(plan.variants[0], 0, 1).spec, device="cpu"))
    kept, online = (FedTokens(plan.config(one, 0, 1), outline, prefs) for one in plan.variants)
    assert kept.of(2) == online.of(2)  # two updates of four: each of the eight items once
    assert kept.of(6) - kept.of(4) == 3 * (online.of(6) - online.of(4)) // 4


def test_items_that_are_held_out_are_not_counted(tmp_path: Path, prefs: Path, data: Path) -> None:
    plan = read_plan(plan_of(tmp_path, prefs, data))
    config = replace(plan.config(plan.variants[0], 0, 1), reference="online", held_out=0.5)
    count = FedTokens(config, load_outline(replace(config.spec, device="cpu")), prefs)
    assert count.of(2) == 2 * count.of(1)  # updates of four: each holds all that is left of the eight items
    whole = FedTokens(replace(config, held_out=0.0), load_outline(replace(config.spec, device="cpu")), prefs)
    assert whole.of(2) > count.of(1)


ADDED: dict[str, dict[str, Any]] = {
    "image-crop": {"image_pairs": "crop", "image_weight": 4},
    "image-other": {"image_pairs": "other"},
    "sft-term": {"sft_weight": 0.5},
    "gap": {"gap_weight": 1},
    "balance": {"length_balance": 0.5},
    "r-dpo": {"length_alpha": -0.05},
    "ranking": {"loss_type": "plackett-luce"},
}


def test_a_plan_may_ask_what_has_been_added_to_the_loss(tmp_path: Path, prefs: Path, data: Path) -> None:
    plan = read_plan(plan_of(tmp_path, prefs, data, variants={"dpo": {"pairs": "best-vs-rest"}, **ADDED}))
    for name, settings in ADDED.items():
        config = plan.config(plan.variant(name), 0, 4)
        assert {key: getattr(config, key) for key in settings} == settings
    workshop = Workshop(plan, tmp_path / "out", type_in=lambda words: None, train=train_here)
    steps, units = workshop.length(plan.variant("image-crop"), 0)
    whole = workshop.length(plan.variant("dpo"), 0)
    assert steps < whole[0] == 4  # an image pair has a prefix of its own
    assert units is not None
    assert whole[1] is not None
    assert 0.5 < units / whole[1] < 1.5
    assert workshop.length(plan.variant("ranking"), 0) == whole


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.9])
    assert holm([]) == []


def test_an_interval_over_seeds_by_hand() -> None:
    question = questions_of("pope")[0]
    apart = _contrast("a", "base", question, {"0": 0.1, "1": 0.2}, 0.0, shared=False)
    assert apart.mean == pytest.approx(0.15)
    # s = 0.0707, s / sqrt(2) = 0.05, Student's t with one degree of freedom 12.706; p = 2 / pi * atan(1 / 3)
    assert apart.ci95 == pytest.approx((0.15 - 0.6353, 0.15 + 0.6353), abs=1e-4)
    assert apart.p_value == pytest.approx(0.2048, abs=1e-4)
    assert apart.signs == "2 of 2"
    alike = _contrast("a", "base", question, {"0": 0.1, "1": 0.1}, 0.02, shared=False)
    assert alike.ci95 == pytest.approx((0.1 - 1.2706, 0.1 + 1.2706), abs=1e-4)  # items alone: sqrt(0.02 / 2) = 0.1
    shared = _contrast("a", "base", question, {"0": 0.1, "1": 0.2}, 0.0075, shared=True)
    assert shared.ci95 == pytest.approx((0.15 - 1.2706, 0.15 + 1.2706), abs=1e-4)  # sqrt(0.0025 + 0.0075) = 0.1


def test_one_training_seed_is_never_clear() -> None:
    question = questions_of("pope")[0]
    alone = _contrast("a", "base", question, {"0": 0.5}, 1e-9, shared=True)
    assert (alone.ci95, alone.p_value, alone.is_clear) == (None, None, False)


def test_more_seeds_are_advised_until_four_of_five_tries_would_find_the_difference() -> None:
    needed = seeds_needed(1.0, lambda seeds: 1.0 / seeds**0.5, 0.05)
    assert needed == 10  # Cohen's table: a paired effect of one deviation, 80 % power, two-sided 5 %
    assert seeds_needed(1.0, lambda seeds: 10.0, 0.05) is None


def test_no_two_of_many_variants_look_alike() -> None:
    looks = [(COLOURS[number % len(COLOURS)], SHAPES[number % len(SHAPES)]) for number in range(60)]
    assert len({*looks}) == 60


def test_the_table_by_hand_and_nothing_done_twice(tmp_path: Path, prefs: Path, data: Path) -> None:
    plan, out, answering = plan_of(tmp_path, prefs, data), tmp_path / "out", Answering(SAID)
    result = run_plan(plan, out, train=no_training, evaluate=answering.evaluate)
    assert result["scores"]["base"]["pope/overall/accuracy"] == 0.7  # wrong about 6 of 20
    assert result["scores"]["dpo"]["pope/overall/accuracy"] == pytest.approx(0.85)
    (dpo, sft, against) = result["contrasts"]
    assert (dpo["variant"], dpo["against"], dpo["signs"]) == ("dpo", "base", "2 of 2")
    assert dpo["differences"] == pytest.approx({"0": 0.1, "1": 0.2})
    assert sft["signs"] == "1 of 2"
    assert (against["variant"], against["against"], against["mean"]) == ("sft", "dpo", pytest.approx(-0.175))
    assert result["comparisons"] == 3
    assert answering.evaluations == 5  # the base once, since all seeds share their items
    assert "unclear" in result["sentences"][0]
    assert result == run_plan(plan, out, train=no_training, evaluate=answering.evaluate)
    assert answering.evaluations == 5
    for name in ("ablation.json", "ablation.md", "ablation.html"):
        assert "0.850" in (out / name).read_text() or name == "ablation.json"


def test_held_out_seeds_wait_for_final_and_nothing_changes_after_it(tmp_path: Path, prefs: Path, data: Path) -> None:
    out, answering = tmp_path / "out", Answering(SAID)
    doing: dict[str, Any] = {"train": no_training, "evaluate": answering.evaluate}
    plan = plan_of(tmp_path, prefs, data, held_out=[2])
    assert run_plan(plan, out, **doing)["seeds"]["dpo"] == [0, 1]
    assert not (out / "cells" / "dpo" / "seed-2").exists()
    with pytest.raises(AmpError, match="Seed 2 was held out"):
        run_plan(plan_of(tmp_path, prefs, data, seeds=[0, 1, 2]), out, **doing)
    plan = plan_of(tmp_path, prefs, data, held_out=[2])
    final = run_plan(plan, out, final=True, **doing)
    assert (final["seeds"]["dpo"], final["held_out"], final["chosen_on"]["seeds"]["dpo"]) == ([2], True, [0, 1])
    assert "from one training seed" in final["sentences"][0]
    assert run_plan(plan, out, **doing) == final  # since then they are part of it
    more = {"dpo": {"pairs": "best-vs-rest"}, "sft": {"method": "sft"}, "all": {}}
    with pytest.raises(AmpError, match=r"were run on .*`variants` has changed since"):
        run_plan(plan_of(tmp_path, prefs, data, held_out=[2], variants=more), out, **doing)
    with pytest.raises(AmpError, match="holds out none"):
        run_plan(plan_of(tmp_path, prefs, data), tmp_path / "other", final=True, **doing)


def test_a_variant_may_be_added_but_not_changed(tmp_path: Path, prefs: Path, data: Path) -> None:
    out, answering = tmp_path / "out", Answering(SAID | {("all", 0): 0, ("all", 1): 0})
    doing: dict[str, Any] = {"train": no_training, "evaluate": answering.evaluate}
    run_plan(plan_of(tmp_path, prefs, data), out, **doing)
    variants: dict[str, Any] = {"dpo": {"pairs": "best-vs-rest"}, "sft": {"method": "sft"}, "all": {}}
    added = run_plan(plan_of(tmp_path, prefs, data, variants=variants), out, **doing)
    assert added["scores"]["all"]["pope/overall/accuracy"] == 1.0
    assert answering.evaluations == 7
    variants["sft"] = {"method": "sft", "learning_rate": 0.1}
    with pytest.raises(AmpError, match=r"was made with .*'sft'"):
        run_plan(plan_of(tmp_path, prefs, data, variants=variants), out, **doing)
    variants = {"dpo": {"pairs": "all"}}
    with pytest.raises(AmpError, match="control"):
        run_plan(plan_of(tmp_path, prefs, data, variants=variants), out, **doing)


def test_a_cell_that_fails_is_named_and_tried_again(tmp_path: Path, prefs: Path, data: Path) -> None:
    plan, out, answering = plan_of(tmp_path, prefs, data), tmp_path / "out", Answering(SAID)

    def fails(config: Any, **paths: Any) -> Any:
        if config.method == "sft" and config.seed == 1:
            raise AmpError("the loss is nan", hint="Lower it")
        return no_training(config)

    result = run_plan(plan, out, train=fails, evaluate=answering.evaluate)
    assert [(one["variant"], one["seed"]) for one in result["failed"]] == [("sft", 1)]
    assert result["seeds"]["sft"] == [0]
    assert any("sft, seed 1, is not complete: the loss is nan" in one for one in result["sentences"])
    again = run_plan(plan, out, train=no_training, evaluate=answering.evaluate)
    assert (again["failed"], again["seeds"]["sft"]) == ([], [0, 1])

    def always_fails(config: Any, **paths: Any) -> Any:
        raise AmpError("no room", hint="Make some")

    with pytest.raises(AmpError, match="Every cell failed, first: no room"):
        run_plan(plan, tmp_path / "other", train=always_fails, evaluate=answering.evaluate)


def test_a_variant_whose_answers_nobody_can_read_does_not_keep_the_others_from_being_compared(
    tmp_path: Path, prefs: Path, data: Path
) -> None:
    answering = Answering(SAID)

    def mumble(settings: EvalSettings) -> EvalResult:
        if "sft" not in settings.out.parts:
            return answering.evaluate(settings)

        def answer(requests: Sequence[Request], *, on_answer: Callable[[Answer], None], **other: Any) -> None:
            for request in requests:
                on_answer(Answer(id=request.id, answers=("mumble",)))

        return run_benchmark(settings, answerer=answer)

    result = run_plan(plan_of(tmp_path, prefs, data), tmp_path / "out", train=no_training, evaluate=mumble)
    assert {one["variant"] for one in result["contrasts"] if one["against"] == "base"} == {"dpo"}
    assert any("sft, seed 0, is not complete: pope is not compared with base" in one for one in result["sentences"])
    assert result["undone"] == 2 * 2 * IMAGES


def test_steps_may_be_matched_by_the_time_of_a_step(tmp_path: Path, prefs: Path, data: Path) -> None:
    plan = read_plan(plan_of(tmp_path, prefs, data, match="seconds"))

    def train(config: Any, **paths: Any) -> Any:
        return SimpleNamespace(
            seconds=1.0, items=8, rejected=0, items_per_second=8.0 if config.method == "sft" else 2.0
        )

    workshop = Workshop(plan, tmp_path / "out", type_in=lambda words: None, train=train)
    (tmp_path / "out").mkdir()
    assert workshop.probe() == {"dpo": 2.0, "sft": 0.5}
    assert workshop.length(plan.variant("sft"), 0)[0] == 16  # 4 steps of 2 seconds
    assert workshop.length(plan.variant("dpo"), 0)[0] == 4


def test_overwrite_starts_afresh_and_keeps_what_is_not_ours(tmp_path: Path, prefs: Path, data: Path) -> None:
    plan, out, answering = plan_of(tmp_path, prefs, data), tmp_path / "out", Answering(SAID)
    doing: dict[str, Any] = {"train": no_training, "evaluate": answering.evaluate}
    run_plan(plan, out, **doing)
    (out / "cells" / "dpo" / "seed-0" / "pope" / "run.lock").write_text('{"pid": 1}')  # as a kill leaves it
    run_plan(plan, out, overwrite=True, **doing)
    assert answering.evaluations == 10
    (out / "cells" / "note.txt").write_text("mine")
    with pytest.raises(AmpError, match=r"note\.txt"):
        run_plan(plan, out, overwrite=True, **doing)


@pytest.mark.slow
def test_killed_between_cells_and_inside_one_the_table_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    prefs = write_preferences(tmp_path / "prefs")
    write_evaluation(tmp_path / "test", scenes=2, seed=0)
    plan = plan_of(tmp_path, prefs, tmp_path / "test")
    for moment in ("between", "inside"):
        words = [sys.executable, "-m", "tests.support.ablation", str(plan), str(tmp_path / "killed"), moment]
        assert subprocess.run(words, cwd=ROOT, check=False, capture_output=True).returncode == -9, moment
    assert not (tmp_path / "killed" / "cells" / "sft" / "seed-0" / "cell.json").exists()
    killed = run_plan(plan, tmp_path / "killed")
    whole = run_plan(plan, tmp_path / "whole")
    assert killed["contrasts"] == whole["contrasts"]
    for name in ("ablation.json", "ablation.md", "ablation.html"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
