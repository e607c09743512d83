"""`amp doctor`: measures, keeps keys to itself, asks no network, fails when something needed is broken."""

import json
from importlib import metadata

import pytest
from typer.testing import CliRunner

from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.models import machine
from amp_cli.models.machine import measure_machine, needed_packages, what_fits


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*arguments: object) -> None:
        raise AssertionError("doctor asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.slow
def test_a_secret_is_present_or_not_and_never_shown(monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    for arguments in (["doctor"], ["doctor", "--json"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert "very" not in result.output
    found = json.loads(result.stdout)
    assert found["keys"] == {"OPENAI_API_KEY": True, "HF_TOKEN": True, "WANDB_API_KEY": False}
    assert found["hub_reachable"] is None
    assert found["cores"] >= 1
    assert found["problems"] == []


def test_a_package_of_the_wrong_version_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version

    def version(name: str) -> str:
        return "0.0.1" if name == "peft" else installed(name)

    monkeypatch.setattr(metadata, "version", version)
    wrong = [package for package in needed_packages() if not package.is_fine]
    assert [(package.name, package.installed) for package in wrong] == [("peft", "0.0.1")]
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert isinstance(result.exception, AmpError)
    assert "peft 0.0.1" in result.exception.message
    assert "peft" in json.loads(result.stdout)["problems"][0]


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        machine, "_declared_requirements", lambda: ["no-such-package-here>=1", "numpy", 'x; extra == "y"']
    )
    first, second = needed_packages()
    assert (first.installed, first.is_fine) == (None, False)
    assert second.is_fine
    assert "no-such-package-here is missing" in measure_machine().problems[0]


LLAVA = ("tiny", "7b", "13b")


def test_what_fits_by_memory() -> None:
    def rows(gpu: float, memory: float) -> dict[str, tuple[str, str]]:
        return {fit.size: (fit.run, fit.train) for fit in what_fits(gpu, memory) if fit.size in LLAVA}

    assert rows(0, 8) == {"tiny": ("cpu", "cpu"), "7b": ("no", "no"), "13b": ("no", "no")}
    assert rows(0, 20)["7b"] == ("cpu 16 bit", "no")
    assert rows(0, 64)["7b"] == ("cpu", "no")
    assert rows(8, 16)["7b"] == ("4 bit", "no")
    assert rows(24, 64) == {"tiny": ("yes", "yes"), "7b": ("yes", "yes"), "13b": ("4 bit", "yes")}
    assert rows(80, 64)["13b"] == ("yes", "yes")
