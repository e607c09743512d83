"""What programs were promised to find where it was."""

from amp_cli.core.models import load_model as promised
from amp_cli.models.load import load_model


def test_load_model_is_found_at_the_address_that_was_promised() -> None:
    assert promised is load_model
