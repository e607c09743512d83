"""`amp eval NAME` and `EvalSettings(benchmark=NAME)` mean the same evaluation, for every benchmark."""

from pathlib import Path

import pytest

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.settings import EvalSettings, settings_of
from amp_cli.commands.eval import as_meant, options_of
from amp_cli.commands.options import REQUIRED
from amp_cli.models.spec import Decoding, ModelSpec

OUT = Path("out")


def typed(name: str, **given: object) -> EvalSettings:
    """Return the settings of `amp eval NAME --out out ...`: the help page's defaults, but for what is given."""
    defaults = {key: default for key, (_, default) in options_of(BENCHMARKS[name]).items() if default is not REQUIRED}
    return settings_of(name, as_meant({**defaults, "out": OUT, **given}))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_commands_defaults_are_those_of_the_settings(name: str) -> None:
    assert typed(name) == EvalSettings(benchmark=name, out=OUT)
    asked = EvalSettings(benchmark=name, out=OUT, spec=ModelSpec(model="7b"))
    assert typed(name, model="7b") == asked


def test_the_authors_protocols() -> None:
    mmhal = EvalSettings(benchmark="mmhal", out=OUT, spec=ModelSpec(model="7b"))
    assert mmhal.decoding == Decoding(num_beams=4, max_new_tokens=512, no_repeat_ngram_size=5)
    assert mmhal.spec is not None
    assert mmhal.spec.template == "authors"
    pope = EvalSettings(benchmark="pope", out=OUT, spec=ModelSpec(model="7b"))
    assert pope.decoding == Decoding(num_beams=4, max_new_tokens=16)
    assert pope.spec is not None
    assert pope.spec.template == "auto"
    assert EvalSettings(benchmark="chair", out=OUT).sample == "auto"
    assert EvalSettings(benchmark="amber", out=OUT).part == "all"


def test_what_is_given_stands() -> None:
    given = EvalSettings(
        benchmark="mmhal",
        out=OUT,
        spec=ModelSpec(model="7b", template="own"),
        decoding=Decoding(),
    )
    assert given.spec == ModelSpec(model="7b", template="own")
    assert given.decoding == Decoding()
    assert EvalSettings(benchmark="pope", out=OUT, prompt_suffix="").prompt_suffix == ""
    assert EvalSettings(benchmark="chair", out=OUT, sample="hash").sample == "hash"
