"""What programs were promised to find, under the names that they were promised."""

import inspect

from amp_cli.core.models import load_model as promised
from amp_cli.models.load import load_model
from amp_cli.preferences.autocheck import autocheck
from amp_cli.training.loss import mdpo_loss


def test_load_model_is_found_at_the_address_that_was_promised() -> None:
    assert promised is load_model


def test_the_loss_and_auto_check_take_what_was_promised() -> None:
    assert list(inspect.signature(mdpo_loss).parameters) == [
        *("policy_logps", "reference_logps", "mask", "beta", "penalty", "pairs", "reduction"),
        *("loss_type", "pair_weights", "lengths", "length_alpha", "sft_weight", "images"),
    ]
    assert {"standard", "candidates", "encoder", "tau"} <= inspect.signature(autocheck).parameters.keys()
