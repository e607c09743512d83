"""Compiled MLPs: the same update, the adapter switched off for the reference included."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from amp_cli.errors import AmpError
from amp_cli.training.session import load_policy
from tests.training.test_trainer import RAGGED, gradients, metrics, relative_difference, train

ONLINE = replace(RAGGED, reference="online", lr_scheduler_type="constant")


has_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="there is no C++ compiler"
)


@pytest.mark.slow
@has_compiler
def test_compiled_mlps_give_the_same_losses_and_gradients(tmp_path: Path) -> None:
    seen = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        with gradients() as collected:
            train(folder, replace(ONLINE, torch_compile=compiled, gradient_checkpointing=True))
        seen.append((collected, metrics(folder)))
    (plain, lines), (compiled_gradients, compiled_lines) = seen
    assert relative_difference(compiled_gradients[0], plain[0]) < 1e-5
    assert [line["loss"] for line in compiled_lines] == pytest.approx([line["loss"] for line in lines], rel=1e-4)


@has_compiler
def test_every_layers_mlp_is_compiled_and_nothing_else() -> None:
    model = load_policy(replace(ONLINE, torch_compile=True), "cpu").model
    compiled = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
    layers = len(model.get_decoder().layers)
    assert len(compiled) == layers
    assert all(name.endswith(".mlp") and ".language_model." in name for name in compiled)


def test_without_a_compiler_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    def missing() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)
    with pytest.raises(AmpError, match="needs a C\\+\\+ compiler"):
        load_policy(replace(ONLINE, torch_compile=True), "cpu")
