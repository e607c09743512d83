"""Weights are readable by whom the umask lets: libraries write them for their owner alone."""

import os
from pathlib import Path

import torch

from amp_cli.disk.modes import share_weights
from amp_cli.models.llava.files import save_tensors


def test_weights_get_the_umasks_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_tensors({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
        (tmp_path / "deep").mkdir()
        inner = tmp_path / "deep" / "adapter_model.safetensors"
        inner.touch(mode=0o600)
        share_weights(tmp_path)
    finally:
        os.umask(before)
    assert [oct(file.stat().st_mode & 0o777) for file in (tmp_path / "model.safetensors", inner)] == ["0o640", "0o640"]
