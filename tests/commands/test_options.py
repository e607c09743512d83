"""Groups of options become one record, and a help page says of each what it said alone."""

import inspect
from typing import Any

from amp_cli.asking.answerer import Running
from amp_cli.asking.judge import JudgeSettings
from amp_cli.commands.options import DECODING, JUDGE, LOADING, MODEL, RUNNING, takes
from amp_cli.models.spec import Decoding, Loading, ModelSpec


def test_a_parameter_that_names_a_group_gets_its_record() -> None:
    @takes(spec=MODEL, decoding=DECODING.with_defaults(num_beams=1))
    def ask(out: str, spec: ModelSpec | None, decoding: Decoding) -> Any:
        return out, spec, decoding

    values = {name: one.default for name, one in inspect.signature(ask).parameters.items() if name != "out"}
    assert list(inspect.signature(ask).parameters)[:3] == ["out", "model", "adapter"]
    assert ask(out="x", **values) == ("x", None, Decoding(num_beams=1))
    asked = ask(out="x", **{**values, "model": "tiny", "device": "cpu", "num_beams": 3})
    assert asked == ("x", ModelSpec(model="tiny", device="cpu"), Decoding(num_beams=3))


def test_a_local_judge_gets_the_device_precision_and_seed_of_the_evaluation() -> None:
    @takes(spec=MODEL, judging=JUDGE, running=RUNNING)
    def judge(spec: ModelSpec | None, judging: JudgeSettings, running: Running) -> Any:
        return spec, judging, running

    values = {name: one.default for name, one in inspect.signature(judge).parameters.items()}
    spec, judging, running = judge(**{**values, "judge": "local:tiny", "device": "cpu", "dtype": "float16", "seed": 3})
    assert (spec, running.seed) == (None, 3)
    assert judging == JudgeSettings(judge="local:tiny", device="cpu", dtype="float16", seed=3)


def test_a_group_under_another_title_leaves_the_first_as_it_was() -> None:
    titles = [
        kind.__metadata__[0].rich_help_panel
        for group in (LOADING, LOADING.in_panel("Elsewhere"))
        for kind, _ in group.options.values()
    ]
    assert set(titles) == {"Model", "Elsewhere"}
    assert LOADING.make(dtype="float16") == Loading(dtype="float16")
