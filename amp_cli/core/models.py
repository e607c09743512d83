"""The address of `load_model` that programs were promised; it lives in `amp_cli.models.load`."""

from amp_cli.models.load import load_model as load_model
from amp_cli.models.spec import ModelSpec as ModelSpec
