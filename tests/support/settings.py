"""Settings of an evaluation by the names that `run.json` and the commands' options have."""

from typing import Any

from amp_cli.benchmarks.settings import EvalSettings, settings_of
from amp_cli.disk.settings import default_settings


def eval_settings(**flat: Any) -> EvalSettings:
    """Return the settings; a name that is none is a mistake of the test."""
    known = {*default_settings(EvalSettings), "out", "overwrite", "only", "seed"}
    assert flat.keys() <= known, flat.keys() - known
    return settings_of(flat["benchmark"], flat)
