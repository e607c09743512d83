"""What a shell offers: commands, options, and the values of those that have names."""

import os
import subprocess
import sys

import pytest
from typer.main import get_command

from amp_cli.commands import completing
from amp_cli.main import COMPLETING, app


def offered(line: str) -> list[str]:
    """Return what bash is offered for the last word of a line."""
    words = line.split(" ")
    asked = {COMPLETING: "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; sys.argv = ['amp']\nfrom amp_cli.main import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **asked}
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.slow
def test_bash_is_offered_commands_options_and_values() -> None:
    assert offered("amp tr") == ["train"]
    assert offered("amp train --size t") == ["tiny"]


def test_a_setting_is_offered_with_its_default_and_then_with_its_texts() -> None:
    assert completing.settings("be") == [("beta=0.1", "number from 0")]
    assert [word for word, _ in completing.settings("pairs=a")] == ["pairs=all", "pairs=adjacent"]
    assert completing.settings("nothing") == []


@pytest.mark.parametrize(
    ("offer", "begun", "words"),
    [
        (completing.sizes, "1", ["13b"]),
        (completing.recipes, "p", ["paper"]),
        (completing.methods, "s", ["sft"]),
        (completing.references, "c", ["cache"]),
        (completing.adapters, "amp-meg-7", ["amp-meg-7b"]),
        (completing.models, "amp-meg-7", ["amp-meg-7b"]),
        (completing.downloads, "pop", ["pope"]),
        (completing.formats, "rlhf", ["rlhf-v"]),
        (completing.accelerate_configs, "f", ["fsdp"]),
        (completing.templates, "vic", ["vicuna_v1"]),
        (completing.dtypes, "bf", ["bfloat16"]),
        (completing.devices, "m", ["mps"]),
        (completing.quantizations, "n", ["nf4"]),
        (completing.encoders, "cl", ["clip:"]),
    ],
)
def test_names_are_offered(offer: object, begun: str, words: list[str]) -> None:
    assert offer(begun) == words  # type: ignore[operator]


def test_completion_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom amp_cli.commands import completing as c\n"
        "[offer('') for offer in (c.sizes, c.settings, c.models, c.downloads, c.formats, c.templates)]\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'yaml', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_root_page_tells_how_completion_is_installed() -> None:
    names = {flag for one in get_command(app).params for flag in one.opts}
    assert {"--install-completion", "--show-completion"} <= names
