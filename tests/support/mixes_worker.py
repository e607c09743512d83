"""One of several processes that train each folder below a given one, one after the other, in one process group."""

import sys
from pathlib import Path

from accelerate import PartialState

from amp_cli.disk.run import Run
from amp_cli.training.config import TrainConfig
from amp_cli.training.session import Session

PartialState(cpu=True)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    Session(TrainConfig.from_settings(Run.read(folder).settings), folder).run()
