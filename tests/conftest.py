"""Shared by all tests: one thread, no network, nothing of the user's environment."""

import os
import tempfile

for key in [name for name in os.environ if name.startswith("AMP_")]:
    os.environ.pop(key)  # defaults of the user's
os.environ["AMP_CONFIG"] = "none"
_HOME = tempfile.TemporaryDirectory(prefix="amp-tests-")
os.environ["AMP_HOME"] = _HOME.name  # nothing of the user's cache is read or written
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NO_COLOR"] = "1"
os.environ["COLUMNS"] = "120"
for key in ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY"):
    os.environ.pop(key, None)
