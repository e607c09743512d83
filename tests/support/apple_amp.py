"""amp's command line on a machine with an Apple GPU, as `apple_gpu` imitates one."""

import os

os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # what other threads do is not caught

from tests.support.apple_gpu import apple_gpu

if __name__ == "__main__":
    with apple_gpu():  # first: what asks PyTorch for MPS asks once
        from amp_cli.main import main

        main()
