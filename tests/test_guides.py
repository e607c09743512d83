"""Every command of README and the guides, typed page by page, in a page's order, in a folder as a user has it.

They are run in this process as they stand: tiny models lie in the hub's cache under the names of the large ones, and an
`amp.toml` makes training and answers short. What is exchanged in a line, and what is not run here, is listed.
"""

import functools
import gc
import io
import json
import re
import shlex
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from amp_cli.commands import pipeline
from amp_cli.downloads import fetch
from amp_cli.downloads.sources import VAL2014, BenchmarkFiles, find_benchmark
from amp_cli.errors import AmpError
from amp_cli.launching import MARK
from amp_cli.main import app
from amp_cli.models.resolve import TINY
from amp_cli.training import launch
from amp_cli.world import files
from tests.support.family_folders import write_folder
from tests.support.hub_server import HubServer
from tests.support.hub_writes import WritableHub, push_to
from tests.support.judge_server import JudgeServer
from tests.support.judged_data import mmhal_folder, mmhal_records, mrhal_folder
from tests.support.prefs_formats import image, rated, turns, write_json, write_lines
from tests.support.training_here import train_here
from tests.support.training_items import draw, preference, write_described, write_preferences
from tests.test_architecture import ROOT
from tests.test_docs_commands import PAGES, typed_commands

LLAVA = ROOT / "tests" / "golden" / "llava" / "model"
TOKEN = "hf_of-these-tests"

NOT_RUN = {
    "amp quickstart --out demo": "minutes; tests/commands/test_quickstart.py::test_every_page_and_folder_is_there",
    "amp ablate templates/ablations/paper.yaml --out runs/paper --jobs 2": (
        "hours; tests/commands/test_ablate.py::test_the_table_by_hand_and_nothing_done_twice"
    ),
    "amp ablate templates/ablations/paper.yaml --out runs/paper --final": (
        "hours; tests/commands/test_ablate.py::test_held_out_seeds_wait_for_final_and_nothing_changes_after_it"
    ),
    "amp compare 7b runs/mdpo --serve": (
        "waits for a browser, without end; "
        "tests/compare/test_serving.py::test_the_page_is_on_this_machine_alone_and_names_no_other"
    ),
    "amp --install-completion": (
        "writes into the user's shell; "
        "tests/commands/test_completing.py::test_the_root_page_tells_how_completion_is_installed"
    ),
}
"""Command -> why it is not run here, and the test that does in its place what can be done."""

SHAPES = "half a minute of estimating each; tests/training/test_dry_run.py::"
NOT_RUN |= {
    "amp train --size 13b --prefs prefs.jsonl --out run --dry-run --gpu 24GB --gpus 8 --rate 900 --json": (
        f"{SHAPES}test_what_is_asked_for_is_planned"
    ),
    "amp train --base llava-1.6-34b --prefs prefs.jsonl --out run --dry-run --gpu 48GB --gpus 8": (
        f"{SHAPES}test_a_known_shape_has_the_parameters_that_its_page_tells"
    ),
    "amp train --size 7b --prefs prefs.jsonl --out run --dry-run --gpu 24GB --gpus 8 --rate 2500": (
        f"{SHAPES}test_a_7b_is_planned_for_gpus_that_are_not_here_with_nothing_of_it_on_the_disk"
    ),
}

NEEDS = {"amp train --size 7b --prefs prefs.jsonl --out runs/train --set report_to=trackio": "trackio"}
"""Command -> the package of an extra; without it the command has to name the extra."""

SHORT = """
[train.set]
quantization = "none"
max_steps = 1
global_batch_size = 8
logging_steps = 1
save_steps = 1
data_workers = 0
gradient_checkpointing = false

[generate-prefs]
num-beams = 1
max-new-tokens = 16

[compare]
max-new-tokens = 8

[eval]
limit = 1
judge-max-tokens = 8
max-new-tokens = 8
num-beams = 1

[eval.pope]
rule = "official"
"""


ASKING = ("eval", "run", "loop", "doctor")
"""What may end with status 3: a model that knows nothing says neither yes nor no, and this machine may lack much."""

ELSEWHERE = {"amp convert merged --to hf --out merged-hf": "original"}
"""Command -> the folder in which the other case lies that it is for: another `merged`."""


class Place:
    """The folder that a page's commands are typed in, and what they find outside of it."""

    def __init__(self, folder: Path, home: Path, hub: HubServer, written: WritableHub) -> None:
        self.folder, self.hub, self.written = folder, hub, written
        self.models = home / "cache"
        self.benchmarks = home / ".cache" / "amp" / "benchmarks"
        self.servers: dict[str, JudgeServer] = {}

    def type_in(self, line: str) -> str:
        """Run a command as a shell would have it typed, and return what it printed.

        It ends well, or with status 3 where something may be left out.
        """
        words = [re.sub(r"^~/", f"{Path.home()}/", word) for word in shlex.split(self._exchanged(line))]
        constants.HF_HUB_OFFLINE = words[1] not in ("download", "push")
        constants.ENDPOINT = self.written.url if words[1] == "push" else "https://huggingface.co"
        with chdir(self.folder / ELSEWHERE.get(line, "")):
            done = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert done.exit_code in (0, 3 if words[1] in ASKING else 0), f"{line}\n{done.output[-2000:]}"
        return done.stdout

    def _exchanged(self, line: str) -> str:
        """Put the addresses of the tests' servers into a command."""
        line = ADDRESS.sub(lambda found: self.server(found[0]), line)
        if line.startswith("amp download"):
            return f"{line} --mirror {self.hub.url}"
        for theirs, ours in EXCHANGED.items():
            line = line.replace(theirs, ours)
        return line

    def server(self, address: str) -> str:
        """Return the address of the server that stands for one in a guide."""
        if address not in self.servers:
            self.servers[address] = JudgeServer(lambda body: f"Yes, says {body['model']}.\nRating: 5").__enter__()
        return self.servers[address].url

    def stop(self) -> None:
        for server in self.servers.values():
            server.__exit__(None, None, None)


EXCHANGED = {"openbmb/RLAIF-V-Dataset": "rlaif.jsonl", "--rounds 3": "--rounds 1"}
"""What is not on the tests' hub, and what would be the same again: rounds are tested in test_run."""

ADDRESS = re.compile(r"http://[\w.]+:\d+/v1")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Images with questions and answers, preferences, POPE's files; LLaVA's names mean the tiny model."""
    folder = tmp_path / "work"
    write_preferences(folder, [preference(number, levels=2 + number % 3) for number in range(20)])
    write_described(folder, scenes=4, seed=3)
    shutil.copy(folder / "0.png", folder / "photo.jpg")
    write_pope(folder / "POPE/output/coco", folder / "val2014")
    (folder / "templates").symlink_to(ROOT / "templates")
    (tmp_path / "amp.toml").write_text(SHORT)
    gc.freeze()  # each training has all garbage collected, and there is a lot in a process of tests
    monkeypatch.setattr(launch, "run_worker", train_here)
    monkeypatch.setattr(launch, "draw_curves", lambda out: None)  # two seconds each; the tests of training draw them
    monkeypatch.setattr(pipeline, "run_stages", functools.partial(pipeline.run_stages, start=start_here))
    with WritableHub({TOKEN: "me"}) as written, HubServer() as hub:
        push_to(written, monkeypatch, tmp_path)
        pope = pope_on(hub)
        monkeypatch.setattr(fetch, "find_benchmark", lambda name: pope if name == "pope" else find_benchmark(name))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("AMP_HOME")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AMP_CONFIG", str(tmp_path / "amp.toml"))
        place = Place(folder, tmp_path, hub, written)
        lay_model(place, "llava-hf/llava-1.5-7b-hf")
        lay_model(place, "llava-hf/llava-1.5-13b-hf")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-these-tests")
        monkeypatch.setenv("OPENAI_BASE_URL", place.server("https://api.openai.com/v1"))
        yield place
        place.stop()
    gc.unfreeze()


def start_here(words: Sequence[str]) -> pipeline.Outcome:
    """Stand in for `start_command`, which takes a process for each stage."""
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    said = "".join(line for line in done.stdout.splitlines() if not line.startswith(MARK))
    return pipeline.Outcome(status=done.exit_code, result=json.loads(said))


def write_pope(folder: Path, images: Path) -> None:
    files.write_evaluation(folder, scenes=2, seed=3)
    (folder / "images").rename(images)


def lay_model(place: Place, repo: str, source: Path = TINY) -> None:
    """Put a model into the hub's cache."""
    folder = place.models / f"models--{repo.replace('/', '--')}"
    shutil.copytree(source, folder / "snapshots" / ("c" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c" * 40)


def on_hub(place: Place, repo: str, source: Path) -> None:
    """Let the hub have a model."""
    place.hub.add_repository(repo, {file.name: file.read_bytes() for file in source.iterdir()})


def pope_on(hub: HubServer) -> BenchmarkFiles:
    """Let the server have a POPE of 3 x 3,000 questions about 250 images, all of them alike."""
    names = [f"COCO_val2014_{number:012}.jpg" for number in range(250)]
    asked = [
        {"question_id": n, "image": names[n % 250], "text": f"Is there a {n // 250}?", "label": ("yes", "no")[n % 2]}
        for n in range(3000)
    ]
    pope = find_benchmark("pope")
    assert pope is not None
    assert pope.members is not None
    for file in pope.files:
        hub.files[file.url.removeprefix("https:/")] = "".join(json.dumps(one) + "\n" for one in asked).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        for name in names:
            out.writestr(f"val2014/{name}", image())
    hub.files[VAL2014.url.removeprefix("https:/")] = packed.getvalue()
    return replace(pope, members=replace(pope.members, archive=replace(VAL2014, bytes=len(packed.getvalue()))))


def lay_pope(place: Place) -> None:
    """Put POPE where `amp download pope` puts it."""
    write_pope(place.benchmarks / "pope", place.benchmarks / "pope" / "val2014")


# ---- what a page takes for granted


def prepare_readme(place: Place) -> None:
    write_pipeline(place, "README.md")


def write_pipeline(place: Place, page: str) -> None:
    """Write the pipeline that stands on a page."""
    found = re.search(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found
    (place.folder / "pipeline.yaml").write_text(found[1])


def prepare_checkpoints(place: Place) -> None:
    """Original checkpoints and an adapter in the folder and on the hub, which has POPE and LLaVA as well."""
    for name, source in {"liuhaotian/llava-v1.5-7b": "base", "my-llava-lora": "adapter", "openai": "openai"}.items():
        shutil.copytree(LLAVA / source, place.folder / name)
    shutil.copytree(LLAVA / "openai", place.folder / "liuhaotian" / "openai")
    on_hub(place, "llava-hf/llava-1.5-7b-hf", TINY)
    on_hub(place, "mengxizhang/amp-7b-base", LLAVA / "base")
    on_hub(place, "mengxizhang/amp_meg_7b", LLAVA / "adapter")
    on_hub(place, "openai/clip-vit-large-patch14-336", LLAVA / "openai" / "clip-vit-tiny-patch14-56")


def prepare_compare(place: Place) -> None:
    lay_pope(place)
    write_pope(place.folder / "coco", place.folder / "coco" / "val2014")
    lines = (place.folder / "prefs.jsonl").read_text().splitlines(keepends=True)
    (place.folder / "held_out.jsonl").write_text("".join(lines[:3]))
    for line in (
        "amp train --size 7b --prefs prefs.jsonl --out runs/mdpo",
        "amp merge-lora runs/mdpo --out merged",
        "amp eval pope --model 7b --out runs/base-pope",
        "amp eval pope --model 7b --adapter runs/mdpo --out runs/mdpo-pope",
    ):
        place.type_in(line)


def prepare_data(place: Place) -> None:
    """A merged model, and preferences in the layouts of other projects; POPE has one of their images."""
    shutil.copytree(TINY, place.folder / "merged-13b")
    lay_pope(place)
    for name in ("coco/a", "vlfeedback"):
        (place.folder / name).mkdir(parents=True)
    for number in range(4):
        draw(place.folder / "coco/a", number)
    draw(place.benchmarks / "pope", 3)
    theirs = [
        {
            "image": f"a/{number}.png",
            **{f"output_{k + 1}": turns("<image>\nWhat is it?", f"{number} {word}") for k, word in enumerate("ab")},
        }
        for number in range(4)
    ]
    write_json(place.folder / "their_train.json", theirs)
    four = [rated(5 - number, number + 1, 3, f"Answer {number}.", f"m{number}") for number in range(4)]
    rows = [{"id": "v", "prompt": "What?", "completions": four}]
    write_lines(place.folder / "vlfeedback/train.jsonl", rows)
    rlaif = {
        "question": "What?", "chosen": "This.", "rejected": "That.", "image": {"bytes": None, "path": "coco/a/0.png"},
        "ds_name": "x", "origin_dataset": "y", "origin_split": "z", "idx": "1", "image_path": "coco/a/0.png",
    }  # fmt: skip
    write_lines(place.folder / "rlaif.jsonl", [rlaif])
    for name in ("sharegpt4v", "silkie", "rlhfv", "own"):
        levels = [{"answers": [f"{name} {word}"], "source": word} for word in ("good", "bad")]
        item = {"id": name, "images": ["coco/a/1.png"], "questions": ["What?"], "levels": levels}
        rows = [item, {**item, "id": f"{name}-2", "images": ["coco/a/2.png"]}]
        write_lines(place.folder / f"{name}.jsonl", rows)


def prepare_judges(place: Place) -> None:
    """MMHal and MRHal as downloaded, somebody's answers and verdicts, and a judge on this machine."""
    mmhal_folder(place.benchmarks / "mmhal", 96)
    mrhal_folder(place.benchmarks / "mrhal")
    write_json(place.folder / "responses.json", [{**one, "model_answer": "A dog."} for one in mmhal_records(96)])
    said = {"choices": [{"message": {"role": "assistant", "content": "Rating: 4"}}]}
    write_json(place.folder / "evaluation.json", [said] * 96)
    lay_model(place, "Qwen/Qwen2.5-7B-Instruct")


def prepare_models(place: Place) -> None:
    source = write_folder("qwen2.5-vl", place.folder / "qwen")
    on_hub(place, "Qwen/Qwen2.5-VL-7B-Instruct", source)
    lay_model(place, "Qwen/Qwen2.5-VL-3B-Instruct", source)


def prepare_serving(place: Place) -> None:
    write_pope(place.folder / "coco-pope", place.folder / "coco-pope" / "val2014")
    place.type_in("amp train --size 7b --prefs prefs.jsonl --out runs/train")
    shutil.copytree(LLAVA / "base", place.folder / "original" / "merged")
    shutil.copytree(LLAVA / "openai", place.folder / "original" / "openai")


PREPARED: dict[str, Callable[[Place], None]] = {
    "README.md": prepare_readme,
    "checkpoints.md": prepare_checkpoints,
    "compare.md": prepare_compare,
    "data.md": prepare_data,
    "judges.md": prepare_judges,
    "models.md": prepare_models,
    "pipeline.md": lay_pope,
    "serving.md": prepare_serving,
}


MADE = {
    "README.md": ("prefs/stats.json", "my-7b/model.safetensors", "report.html", "runs/7b/report.html"),
    "checkpoints.md": ("back/tokenizer.model", "merged", "run/adapter/adapter_model.safetensors"),
    "compare.md": ("runs/look/compare.html", "runs/look-chair/compare.html"),
    "data.md": ("shards/all/preferences.jsonl", "preferences.html", "trl/train.parquet", "my-preferences/README.md"),
    "judges.md": ("runs/mmhal/scores.json", "runs/later/verdicts.jsonl", "runs/theirs/scores.json"),
    "models.md": ("my-qwen/model.safetensors", "run-projector/adapter/adapter_model.safetensors"),
    "pipeline.md": ("runs/7b/report.html", "runs/loop/report.html"),
    "serving.md": ("runs/served-pope/scores.json", "runs/ollama-pope/scores.json"),
    "training.md": ("merged/model.safetensors", "fast/adapter/adapter_model.safetensors"),
}
"""What a page's commands have left behind at its end, among other things."""


TYPED = [page for page in PAGES if typed_commands(page) and page.name not in ("index.md", "scale.md")]
"""Pages whose commands are run: the start page has the README's, and scale.md none that is short."""


@pytest.mark.slow
@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_in_their_order(page: Path, place: Place) -> None:
    if page.name in PREPARED:
        PREPARED[page.name](place)
    for line in map(shlex.join, typed_commands(page)):
        if line in NOT_RUN:
            continue
        package, before = NEEDS.get(line), everything_in(place.folder)
        if package is not None and find_spec(package) is None:
            with pytest.raises(AmpError) as refused:
                place.type_in(line)
            assert f"amp-cli[{package}]" in str(refused.value.hint)
            continue
        printed = place.type_in(line)
        if {"--dry-run", "--print"} & set(line.split()):
            assert everything_in(place.folder) == before, line
        if " prefs check " in line:
            assert "leakage" in printed  # POPE has one of the images
    assert [name for name in MADE.get(page.name, ()) if not (place.folder / name).exists()] == []
    if page.name == "README.md":
        assert json.loads((place.folder / "prefs/stats.json").read_text())["items"] > 0
        assert (place.folder / "report.html").stat().st_size > 5000
    if page.name == "compare.md":
        assert set(place.written.branches) == {"me/my-7b-lora", "me/my-7b"}


def everything_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_what_is_not_run_here_stands_in_a_guide_and_names_the_test_in_its_place() -> None:
    lines = {shlex.join(words) for page in PAGES for words in typed_commands(page)}
    assert {*NOT_RUN, *NEEDS} <= lines
    for reason in NOT_RUN.values():
        file, _, name = reason.rpartition("; ")[2].partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), reason


def test_the_pages_that_are_not_typed_have_nothing_of_their_own() -> None:
    readme, index, scale = (
        [re.sub(r" --(data|image-root) \S+", "", shlex.join(words)) for words in typed_commands(page)]
        for page in (ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "scale.md")
    )
    assert set(index) - set(readme) == {"amp quickstart --out demo", "amp doctor"}  # test_doctor types it
    assert set(scale) <= set(NOT_RUN)


def test_readme_s_commands_by_hand_are_six_in_the_loop_s_order() -> None:
    names = [words[1] for words in typed_commands(ROOT / "README.md")]
    assert names[-6:] == ["generate-prefs", "eval", "train", "merge-lora", "eval", "report"]
