"""Trains each run below a folder, one after the other, on an Apple GPU as `apple_gpu` imitates one."""

import os
import sys
from pathlib import Path

os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # what other threads do is not caught

from tests.support.apple_gpu import apple_gpu

if __name__ == "__main__":
    with apple_gpu():  # first: what asks PyTorch for MPS asks once
        from amp_cli.training import worker

        for run in sorted(Path(sys.argv[1]).iterdir()):
            sys.argv[1] = str(run)
            worker.main()
