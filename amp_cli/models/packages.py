"""The packages that some families' processors need beside those of every installation: the extra `vision`."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from amp_cli.errors import AmpError

VISION = ("torchvision", "num2words")
"""What the extra brings."""
NEEDED_BY = {"smolvlm": "num2words", "lfm2_vl": "torchvision"}
"""Model type -> the package that its processor asks for. What is not listed is noticed when the processor is loaded."""
_INSTALLED_BY = {"pil": "pillow", "cv2": "opencv-python", "pytorch": "torch"}
"""What transformers calls packages -> what they are installed by."""


def refuse_missing_package(model: str, config: Mapping[str, Any]) -> None:
    """Refuse a model whose processor needs a package that is not here, before anything of it is loaded.

    Raises:
        AmpError: with the command that installs it.
    """
    package = NEEDED_BY.get(str(config.get("model_type")))
    if package is not None and find_spec(package) is None:
        raise _missing(f"The processor of '{model}'", package)


def needs_package(what: str, error: ImportError) -> AmpError:
    """Return a whole sentence for a package that transformers looked for in vain, by what it says of it."""
    text = str(error).strip() or type(error).__name__
    said = re.search(r"requires the (\S+) library|No module named '([^'.]+)|pip install (\S+)", text)
    if said is None:
        return AmpError(
            f"{what} could not be loaded: {text.splitlines()[0][:300]}", hint="See what is installed: amp doctor"
        )
    package = next(name for name in said.groups() if name).strip("`'.").lower()
    return _missing(what, _INSTALLED_BY.get(package, package))


def _missing(what: str, package: str) -> AmpError:
    wanted = "'amp-cli[vision]'" if package in VISION else package
    return AmpError(
        f"{what} needs the package {package}, which is not installed",
        hint=f"pip install {wanted}, then give the command again",
    )
