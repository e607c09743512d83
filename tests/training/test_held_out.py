"""Held-out items: who is held out, what is measured, which adapter is the best, and when a training ends early."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from amp_cli.disk.replacing import replaceable
from amp_cli.errors import AmpError
from amp_cli.models.load import load_model
from amp_cli.models.spec import ModelSpec
from amp_cli.training.arguments import MARKER
from amp_cli.training.config import TrainConfig
from amp_cli.training.curves import draw_curves
from amp_cli.training.data import HELD_OUT, EncodedItems, load_items, prepare_items
from amp_cli.training.dry_run import plan_training
from amp_cli.training.feeding import shares_in_turn
from amp_cli.training.held_out import best_of, overtraining, rows_of, since_best
from amp_cli.training.launch import train_model
from amp_cli.training.merge import MergeSettings, merge_lora
from tests.support.training_items import preference, write_preferences
from tests.training.test_trainer import RAGGED, adapter, metrics, train

CONFIG = replace(RAGGED, max_steps=4, eval_steps=1, penalty=0.1)
ITEMS = [preference(number, levels=2 + number % 3, rounds=1 + number % 2) for number in range(12)]


def row(
    step: int, accuracy: float, loss: float = 1.0, best_per_token: float = 0.0, pairs: int = 10_000
) -> dict[str, Any]:
    return {
        "step": step,
        "held_out_accuracy": accuracy,
        "held_out_loss": loss,
        "held_out_best_per_token": best_per_token,
        "held_out_pairs": pairs,
    }


def held_out(folder: Path) -> list[Any]:
    return rows_of(metrics(folder))


# --- what follows from the rows ---------------------------------------------------------------------------------------


def test_the_best_has_most_pairs_in_order_and_of_those_the_least_loss_and_of_those_comes_first() -> None:
    rows = [row(1, 0.7, 0.1), row(2, 0.8, 0.9), row(3, 0.8, 0.5), row(4, 0.8, 0.5)]
    assert best_of(rows) is rows[2]
    assert since_best(rows) == 1
    assert (best_of([]), since_best([])) == (None, 0)


def test_of_plain_fine_tuning_the_best_has_the_least_loss() -> None:
    rows = [{"step": 1, "held_out_loss": 2.0}, {"step": 2, "held_out_loss": 1.0}, {"step": 3, "held_out_loss": 1.5}]
    assert best_of(rows) is rows[1]


def test_best_answers_that_lose_a_tenth_of_a_nat_a_token_below_the_reference_are_told() -> None:
    told = overtraining([row(1, 0.8, best_per_token=0.04), row(2, 0.9, best_per_token=-0.06)])
    assert told is not None
    assert "from +0.04 to -0.06 nats a token against the reference since step 1" in told
    assert overtraining([row(1, 0.8, best_per_token=0.04), row(2, 0.9, best_per_token=-0.05)]) is None
    assert overtraining([row(1, 0.8, best_per_token=0.5), row(2, 0.9, best_per_token=0.1)]) is None  # above it


def test_training_that_gains_what_held_out_items_lose_is_told_beyond_chance() -> None:
    training = [{"step": 1, "accuracy": 0.8}, {"step": 2, "accuracy": 0.9}]
    told = overtraining([*training, row(1, 0.80), row(2, 0.77)])
    assert told is not None
    assert "accuracy fell from 0.800 to 0.770 on held-out items since step 1" in told
    assert overtraining([*training, row(1, 0.80), row(2, 0.79)]) is None  # less than .02
    assert overtraining([*training, row(1, 0.80, pairs=400), row(2, 0.76, pairs=400)]) is None  # below 1 / sqrt(400)
    falling = [{"step": 1, "accuracy": 0.9}, {"step": 2, "accuracy": 0.8}]
    assert overtraining([*falling, row(1, 0.80), row(2, 0.77)]) is None


@pytest.mark.parametrize(("items", "processes", "at_once"), [(10, 1, 4), (10, 2, 2), (5, 4, 1), (1, 3, 2), (3, 4, 16)])
def test_every_process_has_as_many_shares_and_each_item_comes_once(items: int, processes: int, at_once: int) -> None:
    shares = [shares_in_turn(items, process=one, processes=processes, at_once=at_once) for one in range(processes)]
    assert len({len(one) for one in shares}) == 1
    assert sorted(number for one in shares for share in one for number in share) == list(range(items))
    assert max(len(share) for one in shares for share in one) <= at_once


# --- who is held out --------------------------------------------------------------------------------------------------


def test_no_image_is_on_both_sides_and_the_seed_decides(tmp_path: Path) -> None:
    shared = [{**preference(number, levels=2), "images": [f"{number // 3}.png"]} for number in range(30)]
    prefs = write_preferences(tmp_path / "data", shared)
    sides = []
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        assert prepare_items(prefs, tmp_path / name, image_root=None, method="mdpo", held_out=0.25, seed=seed) == 24
        kept, aside = (load_items(tmp_path / name, "mdpo", file) for file in ("items.jsonl", HELD_OUT))
        assert len(aside) == 6  # two images of three items each: a third one would be beyond 7.5
        images = [{image for item in side for image in item.images} for side in (kept, aside)]
        assert images[0].isdisjoint(images[1])
        sides.append([item.id for item in aside])
    assert sides[0] == sides[1] != sides[2]


def test_a_share_that_holds_nothing_or_everything_out_is_refused(tmp_path: Path) -> None:
    prefs = write_preferences(tmp_path / "data", ITEMS[:3])
    for share, told in ((0.1, "holds none out"), (0.999, "leaves none")):
        with pytest.raises(AmpError, match=told):
            prepare_items(prefs, tmp_path / "run", image_root=None, method="mdpo", held_out=share)


def test_images_of_evaluated_items_that_are_trained_on_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefs = write_preferences(tmp_path / "data", ITEMS[:3])
    other = tmp_path / "data" / "other.jsonl"
    other.write_text("".join(json.dumps({**ITEMS[number], "id": f"other-{number}"}) + "\n" for number in (1, 2)))
    prepare_items(prefs, tmp_path / "run", image_root=None, method="mdpo", eval_source=(other, None))
    assert "2 of 2 items to evaluate show images that are trained on too" in " ".join(capsys.readouterr().err.split())
    assert [item.id for item in load_items(tmp_path / "run", "mdpo", HELD_OUT)] == ["other-1", "other-2"]


@pytest.mark.parametrize(
    ("config", "has_file", "told"),
    [
        (replace(RAGGED, held_out=0.1), True, "both say"),
        (replace(RAGGED, patience=2), False, "patience is for items that are held out"),
        (replace(RAGGED, eval_steps=2), False, "eval_steps is for items that are held out"),
    ],
)
def test_settings_without_items_or_with_two_sources_are_refused(
    tmp_path: Path, config: Any, has_file: bool, told: str
) -> None:
    prefs = write_preferences(tmp_path / "data", ITEMS[:2])
    with pytest.raises(AmpError, match=told):
        train_model(config, prefs=prefs, out=tmp_path / "run", eval_prefs=(prefs, None) if has_file else None)
    with pytest.raises(AmpError, match=told):
        plan_training(config, prefs=prefs, has_eval_prefs=has_file)
    assert not (tmp_path / "run").exists()


# --- what is measured -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps on 9 items; 3 others are evaluated after each."""
    folder = tmp_path_factory.mktemp("watched")
    train(folder, replace(CONFIG, held_out=0.25, save_steps=1, keep_checkpoints=9), ITEMS)
    return folder


def plain_logps(spec: ModelSpec, folder: Path) -> list[list[float]]:
    """Return the held-out answers' log-probabilities by item and level, from full logits of one answer at a time."""
    loaded = load_model(spec)
    found = []
    for item in EncodedItems(loaded, load_items(folder, "mdpo", HELD_OUT), method="mdpo"):
        sums = []
        for response in item.responses:
            with torch.no_grad():
                logits = loaded.model(input_ids=response.input_ids[None], **item.image_inputs).logits[0].double()
            logps = logits.log_softmax(-1)[:-1].gather(1, response.input_ids[1:, None])[:, 0]
            sums.append(float(logps[response.supervised[1:]].sum()))
        found.append([*sums, int(item.responses[0].supervised.sum())])
    return found


def test_what_is_measured_is_what_full_logits_of_one_answer_at_a_time_give(watched: Path) -> None:
    policy = plain_logps(ModelSpec(model="tiny", adapter=str(watched)), watched)
    reference = plain_logps(ModelSpec(model="tiny"), watched)
    rewards = [[p - r for p, r in zip(ps[:-1], rs[:-1], strict=True)] for ps, rs in zip(policy, reference, strict=True)]
    margins = [better - worse for one in rewards for place, better in enumerate(one) for worse in one[place + 1 :]]
    loss = sum(
        -torch.nn.functional.logsigmoid(torch.tensor(0.1 * (one[i] - one[j]))).item() - (0.1 * one[0] if i == 0 else 0)
        for one in rewards
        for i in range(len(one))
        for j in range(i + 1, len(one))
    )
    last = held_out(watched)[-1]
    assert (last["held_out_items"], last["held_out_pairs"]) == (3, len(margins))
    assert last["held_out_margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-3)
    assert last["held_out_accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / len(margins))
    assert last["held_out_loss"] == pytest.approx(loss / 3, abs=1e-3)
    tokens = sum(one[-1] for one in policy)
    assert last["held_out_best_per_token"] == pytest.approx(sum(one[0] for one in rewards) / tokens, abs=1e-4)


def test_each_evaluation_has_a_line_after_that_of_its_step(watched: Path) -> None:
    lines = metrics(watched)
    assert [line["step"] for line in lines] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert ["held_out_loss" in line for line in lines] == [False, True] * 4
    assert not {"loss", "accuracy", "margin"} & lines[1].keys()  # a reader of the training's lines passes over it


@pytest.mark.parametrize(
    "config",
    [replace(CONFIG, max_steps=2), replace(CONFIG, method="sft", max_steps=2, lora_dropout=0.5)],
    ids=lambda config: config.method,
)
def test_evaluating_leaves_the_training_as_it_is(tmp_path: Path, config: TrainConfig) -> None:
    prefs = write_preferences(tmp_path / "data", ITEMS)
    other = write_preferences(tmp_path / "other", ITEMS[:3])
    for folder, source in (("plain", None), ("watched", (other, None))):
        shutil.copytree(prefs.parent, tmp_path / folder / "data")
        train(tmp_path / folder, config, eval_source=source)
    plain, watched = (tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("plain", "watched"))
    assert plain.read_bytes() == watched.read_bytes()


def test_the_best_adapter_is_that_of_the_best_steps_checkpoint(watched: Path) -> None:
    best = best_of(held_out(watched))
    assert best is not None
    kept = watched / "checkpoints" / f"checkpoint-{best['step']}" / "adapter_model.safetensors"
    assert (watched / "adapter-best" / "adapter_model.safetensors").read_bytes() == kept.read_bytes()
    card = (watched / "adapter-best" / "README.md").read_text()
    assert f"| steps | {best['step']} of 4 items |" in card
    assert f"| pairs in order on held-out items | {best['held_out_accuracy']:.3f} |" in card
    assert not list((watched / "checkpoints").glob("best-*"))


def test_merging_takes_the_best_adapter_when_asked_to_and_says_where_there_is_none(
    watched: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    shutil.copytree(watched / "adapter-best", tmp_path / "run" / "adapter-best")  # no other adapter is there
    merge_lora(MergeSettings(adapter=str(tmp_path / "run"), out=tmp_path / "merged", base="tiny", best=True))
    assert (tmp_path / "merged" / "config.json").exists()
    with pytest.raises(AmpError, match="has no adapter-best"):
        merge_lora(MergeSettings(adapter=str(tmp_path / "merged"), out=tmp_path / "again", base="tiny", best=True))


def test_held_out_curves_have_a_mark_at_each_evaluation(watched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[tuple[str, str | None]] = []
    plot = Axes.plot

    def watch(self: Axes, *args: Any, **named: Any) -> Any:
        drawn.append((named.get("label", ""), named.get("marker")))
        return plot(self, *args, **named)

    monkeypatch.setattr(Axes, "plot", watch)
    assert draw_curves(watched) is not None
    assert ("loss", None) in drawn
    assert ("loss, held out", "o") in drawn
    assert ("adjacent levels, held out", "o") in drawn


def test_overwrite_knows_the_files_of_an_evaluated_run(watched: Path, tmp_path: Path) -> None:
    facts = {"amp_version": "0", "command": "train", "settings": {}}
    shutil.copytree(watched, tmp_path / "run", ignore=lambda folder, names: ["data"] if "data" in names else [])
    shutil.copytree(watched / "adapter-best", tmp_path / "run" / "checkpoints" / "best-2")
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    ours = {file.relative_to(tmp_path / "run").as_posix() for file in replaceable(tmp_path / "run", "train", [])}
    assert {"held_out.jsonl", "adapter-best/adapter_config.json", "checkpoints/best-2/README.md"} <= ours


# --- an early end, and a kill -----------------------------------------------------------------------------------------

IMPATIENT = replace(CONFIG, max_steps=12, save_steps=2, held_out=0.25, patience=2, learning_rate=3e-2)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("impatient")
    result = train(folder, IMPATIENT, ITEMS)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_training_ends_when_as_many_evaluations_as_patience_says_were_no_better(impatient: Path) -> None:
    rows = held_out(impatient)
    result = json.loads((impatient / "result.json").read_text())
    assert result["steps"] == rows[-1]["step"] < 12
    assert since_best(rows) == 2
    assert all(since_best(rows[:end]) < 2 for end in range(1, len(rows)))
    assert result["held_out"]["stopped_early"]
    assert result["held_out"]["best"]["step"] == rows[-3]["step"]
    assert metrics(impatient)[-2]["step"] == result["steps"]  # the last step has a line of its own


@pytest.mark.parametrize("killed", ["after the early end", "before it", "before the first checkpoint"])
def test_a_killed_run_ends_as_an_unbroken_one_with_the_same_record_and_best_adapter(
    impatient: Path, tmp_path: Path, killed: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(impatient, broken)
    shutil.rmtree(broken / "adapter")
    # as kills leave it: what the best step had written is in a folder of its own until the end
    best = best_of(held_out(impatient))
    assert best is not None
    (broken / "adapter-best").rename(broken / "checkpoints" / f"best-{best['step']}")
    newest = sorted((broken / "checkpoints").glob("checkpoint-*"), key=lambda one: int(one.name.split("-")[1]))
    gone = {"after the early end": [], "before it": newest[-1:], "before the first checkpoint": newest}[killed]
    for checkpoint in gone:
        (checkpoint / MARKER).unlink()
    (broken / "checkpoints" / "best-9.part").mkdir()
    train(broken, IMPATIENT)
    for file in ("adapter/adapter_model.safetensors", "adapter-best/adapter_model.safetensors", "metrics.jsonl"):
        assert (broken / file).read_bytes() == (impatient / file).read_bytes(), file
    assert not list((broken / "checkpoints").glob("best-*"))


def test_plain_fine_tuning_tells_the_loss_of_held_out_answers(tmp_path: Path) -> None:
    config = replace(RAGGED, method="sft", max_steps=1, save_steps=1, held_out=0.25)
    train(tmp_path, config, ITEMS)
    loaded = load_model(ModelSpec(model="tiny", adapter=str(tmp_path)))
    losses = []
    for item in EncodedItems(loaded, load_items(tmp_path, "sft", HELD_OUT), method="sft"):
        response = item.responses[0]
        with torch.no_grad():
            logits = loaded.model(input_ids=response.input_ids[None], **item.image_inputs).logits[0].double()
        logps = logits.log_softmax(-1)[:-1].gather(1, response.input_ids[1:, None])[:, 0]
        losses += (-logps[response.supervised[1:]]).tolist()
    (told,) = held_out(tmp_path)
    assert told["held_out_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert told["held_out_tokens"] == len(losses)


def test_a_held_out_item_that_cannot_be_used_is_named_and_the_rest_is_measured(tmp_path: Path) -> None:
    other = write_preferences(tmp_path / "other", [preference(0, levels=2), preference(1, levels=2, rounds=2)])
    config = replace(RAGGED, max_steps=1, save_steps=1, max_length=45)
    train(tmp_path, config, [{**preference(0, levels=2), "id": "a"}], eval_source=(other, None))
    (told,) = held_out(tmp_path)
    assert told["held_out_items"] == 1
    assert "max_length is 45" in (tmp_path / "rejected.jsonl").read_text()
    assert adapter(tmp_path)
