"""The settings of a training run: recipe files, their `paper` and `released` variants, and `--set key=value`."""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

from amp_cli.disk.parsing import read_object, read_yaml
from amp_cli.disk.settings import free
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.models.spec import ModelSpec
from amp_cli.ranges import refuse_out_of_range
from amp_cli.records import PAIR_SETS

METHODS = ("mdpo", "sft")
REDUCTIONS = ("sum", "mean")
LOSS_TYPES = ("sigmoid", "plackett-luce")
IMAGE_PAIRS = (None, "crop", "other")
SCHEDULERS = ("cosine", "constant", "linear")
QUANTIZATIONS = (None, "nf4", "int8")
REPORTS = ("none", "tensorboard", "wandb", "trackio", "mlflow", "swanlab")
REFERENCES = ("auto", "online", "cache")
CHOICES: dict[str, tuple[str | None, ...]] = {
    "method": METHODS,
    "pairs": PAIR_SETS,
    "reduction": REDUCTIONS,
    "loss_type": LOSS_TYPES,
    "image_pairs": IMAGE_PAIRS,
    "lr_scheduler_type": SCHEDULERS,
    "quantization": QUANTIZATIONS,
    "report_to": REPORTS,
    "reference": REFERENCES,
}
"""Setting -> the texts that it may be."""

COPIES, FSDP, ZERO_2, ZERO_3 = SHARINGS = ("copies", "fsdp", "zero-2", "zero-3")
"""What processes share: nothing; all of the model by FSDP; AdamW's moments; all of the model by DeepSpeed."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the result of a training run; each field is a `--set` key.

    The comment behind a field is what `amp train --list-settings` says of it, the one above a group is its title.
    """

    base: str  # model to start from, and the reference
    adapter: str | None = None  # LoRA adapter to go on training; the reference is the base without it
    vision_tower: str | None = None  # tower of an original LLaVA checkpoint (None: what it names)
    method: str = "mdpo"  # "sft" is plain fine-tuning on the best response
    # loss
    beta: float = 0.1  # how far the policy may leave the reference: smaller is farther
    penalty: float = 1.0  # weight of the term that holds the best response's likelihood up
    pairs: str = "all"  # which levels are compared
    reduction: str = "sum"  # "sum" over an item's pairs (paper), or "mean" over all pairs of a batch (released code)
    round_weight: float = 0.0  # a token of round n (from 0) weighs 1 + round_weight * n
    loss_type: str = "sigmoid"  # of each pair; or "plackett-luce": of the whole ranking (DPO, A.3)
    image_pairs: str | None = None  # mDPO: the best response beside a "crop" of its image, or "other" images, as worse
    image_weight: float = 1.0  # of an item's image pair
    sft_weight: float = 0.0  # RPO, MPO: of the negative log-probability of a token of the best response
    gap_weight: float = 0.0  # share of a pair's weight that follows auto-check's gap
    length_balance: float = 0.0  # share of the lean in length over all pairs that their weights take out
    length_alpha: float = 0.0  # R-DPO: reward for each token; positive teaches shorter answers, negative longer ones
    # adapter
    lora_r: int = 64  # rank of LoRA
    lora_alpha: int = 16  # LoRA is scaled by lora_alpha / lora_r
    lora_dropout: float = 0.0  # sft: share of LoRA's inputs that are left out in a step
    train_projector: bool = False  # also train what makes the tower's features the language model's, whole
    # optimisation
    learning_rate: float = 5e-5  # AdamW's, at its peak
    lr_scheduler_type: str = "cosine"  # how the learning rate falls after the warm-up
    warmup_steps: float = 0.0  # steps until the peak; below 1: share of all steps
    epochs: float | None = None  # passes over all items; this or max_steps
    max_steps: int | None = None  # updates in all; this or epochs
    global_batch_size: int = 16  # items in one update, over all devices
    tokens_per_step: int = free(4096)  # mdpo: tokens in one forward pass of a device; an item that has more goes alone
    per_device_batch_size: int | None = free(None)  # sft: items in one forward pass (None: 1)
    max_grad_norm: float = 0.3  # a longer gradient is cut to this; 0: none is
    # speed and memory
    reference: str = free("auto")  # log-probabilities: "online" in every step, "cache" once to disk, or as it pays
    gradient_checkpointing: bool | None = free(None)  # less memory, more time (None: where memory would not do)
    torch_compile: bool = free(default=False)  # compile the language model's MLPs
    # model and data
    max_length: int = 4096  # tokens of a row, image tokens included; longer items are rejected
    quantization: str | None = None  # of the base, through bitsandbytes (None: as its weights are)
    dtype: str = "auto"  # precision of the base: float32, bfloat16, float16, stored or auto
    template: str = "auto"  # chat template: auto, authors, own, vicuna_v1, llava_v1 or a file
    trust_remote_code: bool = False  # whether Python code that comes with the model may run
    pad_to_square: bool | None = None  # images get borders (None: as the model was trained)
    max_pixels: int | None = None  # of an image; a larger one is made smaller, its sides' ratio kept (None: no limit)
    # running
    seed: int = 0  # seed of everything random
    save_steps: int = 100  # steps between two checkpoints; a multiple of logging_steps
    held_out: float = 0.0  # share of the items that is evaluated and not trained on; no image is on both sides
    eval_steps: int | None = None  # steps between two evaluations of held-out items (None: save_steps)
    patience: int | None = None  # evaluations without a better one after which training ends (None: it does not)
    keep_checkpoints: int = free(2)  # how many of the newest; `amp eval sweep` scores those that are kept
    logging_steps: int = 10  # steps between two lines of metrics.jsonl
    report_to: str = free("none")  # who else gets the metrics; its package must be installed
    data_workers: int = free(0)  # processes that read images ahead
    threads: int | None = free(None)  # CPU threads of a process (None: torch decides)

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            _refuse_outside(name, getattr(self, name), allowed)
        refuse_out_of_range(self)
        if (self.epochs is None) == (self.max_steps is None):
            raise AmpError("Give either epochs or max_steps", hint="E.g. --set max_steps=3000 --set epochs=none")
        self._refuse_unfit_loss()
        if self.method == "mdpo" and self.per_device_batch_size is not None:
            raise AmpError(
                "per_device_batch_size is only for sft; mdpo splits a batch into forward passes by tokens_per_step",
                hint="E.g. --tokens-per-step 4096",
            )
        if self.method == "mdpo" and self.lora_dropout:
            raise AmpError(
                f"lora_dropout must be 0 with mdpo, not {self.lora_dropout}: "
                "dropout would add noise to the comparison of policy and reference",
                hint="Leave out lora_dropout",
            )
        if self.adapter is not None and self.lora_dropout:
            raise AmpError(
                f"lora_dropout must be 0 when training continues from an adapter, not {self.lora_dropout}",
                hint="Leave out lora_dropout",
            )
        if self.adapter is not None and self.train_projector:
            raise AmpError(
                "train_projector is for a fresh adapter: one whose projector was trained goes on with it by itself",
                hint="Leave out train_projector, or --adapter",
            )
        if self.save_steps % self.logging_steps:
            raise AmpError(
                f"save_steps ({self.save_steps}) must be a multiple of logging_steps ({self.logging_steps}): "
                "otherwise a resumed run would log other steps than an unbroken one",
                hint="Set both, e.g. --set logging_steps=10 --set save_steps=100",
            )

    def _refuse_unfit_loss(self) -> None:
        """Refuse what is asked of the loss and would be without effect."""
        asked = [name for name, off in OFF.items() if getattr(self, name) != off]
        if self.method != "mdpo" and asked:
            raise AmpError(f"{asked[0]} is for mdpo, and the method is {self.method}", hint=f"Leave out {asked[0]}")
        if self.loss_type == "sigmoid":
            return
        if self.pairs != "all":
            raise AmpError(
                f"loss_type {self.loss_type} takes the whole ranking, and pairs is '{self.pairs}'",
                hint="Leave out pairs, or give --set loss_type=sigmoid",
            )
        for name in ("gap_weight", "length_balance"):
            if getattr(self, name):
                raise AmpError(
                    f"{name} weighs pairs, and loss_type {self.loss_type} has none",
                    hint=f"Leave out {name}, or give --set loss_type=sigmoid",
                )

    def items_per_batch(self, processes: int) -> tuple[int, int]:
        """Return how many items a process of `processes` is given at once, and how often in an update.

        With mdpo it is the process's share of the update, which the trainer cuts by tokens.

        Raises:
            AmpError: the global batch cannot be cut so.
        """
        at_once = 1 if self.method == "mdpo" else self.per_device_batch_size or 1
        if self.global_batch_size % (at_once * processes):
            sft = f" x per_device_batch_size {at_once}" if at_once > 1 else ""
            raise AmpError(
                f"global_batch_size {self.global_batch_size} is not a multiple of {processes} processes{sft}",
                hint="Change one of them with --set, or --num-processes",
            )
        share = self.global_batch_size // processes
        return (share, 1) if self.method == "mdpo" else (at_once, share // at_once)

    def lighter(self, *, checkpointing: bool) -> list[str]:
        """Return the options that would take less memory, of those that are not in use; `checkpointing`: whether it is.

        The last of them changes what is trained; the others may be changed where a run goes on.
        """
        lighter = [] if checkpointing else ["--set gradient_checkpointing=true"]
        if self.method == "mdpo" and self.tokens_per_step > 1:
            lighter.append(f"--tokens-per-step {self.tokens_per_step // 2}")
        if self.method == "sft" and (self.per_device_batch_size or 1) > 1:
            lighter.append("--set per_device_batch_size=1")
        return lighter if self.quantization == "nf4" else [*lighter, "--set quantization=nf4, in another --out"]

    def visits(self, items: int) -> float:
        """Return how many items are seen in all, each as often as it comes, when there are so many."""
        return (self.max_steps or 0) * self.global_batch_size or items * (self.epochs or 0)

    @property
    def spec(self) -> ModelSpec:
        """The model to start from; where it is loaded, the device is chosen."""
        return ModelSpec(
            model=self.base,
            adapter=self.adapter,
            vision_tower=self.vision_tower,
            dtype=self.dtype,
            quantization=self.quantization,
            template=self.template,
            trust_remote_code=self.trust_remote_code,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Build the settings from plain values; texts are read as the field's type.

        Raises:
            AmpError: an unknown key (with the nearest known one), or a value of the wrong type.
        """
        return cls(**{name: _typed(name, value) for name, value in record.items()})

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Pick the training settings out of a run's settings; one that an older run lacks has its default."""
        return cls.from_json({one.name: settings[one.name] for one in fields(cls) if one.name in settings})


OFF: dict[str, Any] = {
    "loss_type": "sigmoid",
    "image_pairs": None,
    "sft_weight": 0.0,
    "gap_weight": 0.0,
    "length_balance": 0.0,
    "length_alpha": 0.0,
}
"""What has been added to the paper's loss, and the value that leaves it out."""


def load_config(
    size: str,
    *,
    recipe: str = "paper",
    base: str | None = None,
    adapter: str | None = None,
    vision_tower: str | None = None,
    method: str | None = None,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """Read the recipe of `size` (a name in `templates/recipes`, or a .yaml file), apply the variant and `key=value`s.

    Args:
        base: model to start from, in place of the recipe's; a name such as `amp-meg-7b` means base and adapter.
        adapter: LoRA adapter to go on with; its rank and alpha are taken over.

    Raises:
        AmpError: unknown size, variant or key, or a value that does not fit.
    """
    from amp_cli.models.resolve import model_and_adapter  # brings torch along

    given = split_settings(overrides)
    values = recipe_values(size, recipe, given)
    chosen = {"base": base, "adapter": adapter, "vision_tower": vision_tower, "method": method}
    values |= {name: value for name, value in chosen.items() if value is not None}
    values["base"], values["adapter"] = model_and_adapter(values["base"], values.get("adapter"))
    if values["adapter"] is not None:
        values |= _rank_of(values["adapter"], given)
    return TrainConfig.from_json(values)


def recipe_values(size: str, recipe: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Return what a recipe's variant says, with the given settings in place of its own.

    Raises:
        AmpError: unknown size or variant.
    """
    values = _read_recipe(size)
    variants = values.pop("recipes", {})
    if recipe not in variants:
        raise AmpError(f"'{size}' has no recipe '{recipe}'", hint=f"It has: {', '.join(variants) or 'none'}")
    values |= variants[recipe] or {}
    if "max_steps" in given and "epochs" not in given:
        values["epochs"] = None
    if "epochs" in given and "max_steps" not in given:
        values["max_steps"] = None
    return {**values, **given}


def split_settings(texts: Sequence[str]) -> dict[str, str]:
    """Return `key=value` texts as an object; the last of a key counts."""
    return dict(_split(text) for text in texts)


def _rank_of(adapter: str, given: Mapping[str, str]) -> dict[str, int]:
    """Return an adapter's rank and alpha; refuse others that are given."""
    from amp_cli.models.resolve import adapter_folder

    stored = read_object(adapter_folder(adapter) / "adapter_config.json", r=int, lora_alpha=int | float)
    values = {"lora_r": int(stored["r"]), "lora_alpha": int(stored["lora_alpha"])}
    for name, value in values.items():
        if name in given and given[name] != str(value):
            raise AmpError(f"The adapter '{adapter}' has {name} {value}, not {given[name]}", hint=f"Leave out {name}")
    return values


def known_sizes() -> list[str]:
    """Return the names of our recipes."""
    return sorted(file.stem for file in template_path("recipes").glob("*.yaml"))


def _read_recipe(size: str, *, read: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a recipe's values; with `like: SIZE`, what it does not say is as in that recipe."""
    if size.endswith((".yaml", ".yml")):
        path = Path(size)
    else:
        known = known_sizes()
        if size not in known:
            raise AmpError(f"There is no recipe for size '{size}'", hint=f"Known: {', '.join(known)}, or a .yaml file")
        path = template_path("recipes", f"{size}.yaml")
    if path in read:
        raise AmpError(f"The recipe '{path}' is like itself", hint="Change what it says under `like`")
    values = read_yaml(path)
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise AmpError(
            f"The recipe '{path}' is not a list of `key: value`", hint="Copy one of amp's recipes and change its values"
        )
    other = values.pop("like", None)
    return values if other is None else {**_read_recipe(str(other), read=(*read, path)), **values}


def _split(override: str) -> tuple[str, str]:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise AmpError(f"'{override}' is not of the form key=value", hint="E.g. --set learning_rate=1e-4")
    return key.strip(), value.strip()


def _typed(name: str, value: Any) -> Any:
    """Return `value` as the type of the field `name`; texts come from the command line (or 1e-4 in YAML)."""
    known = {field.name for field in fields(TrainConfig)}
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.0)
        raise AmpError(
            f"There is no training setting '{name}'",
            hint=f"Did you mean '{near[0]}'? `amp train --list-settings` shows all",
        )
    hint = get_type_hints(TrainConfig)[name]
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
        if types.NoneType in kinds:
            return None
        if name != "report_to":  # its "none" is a value of its own
            raise AmpError(
                f"{name} needs a value, not none",
                hint=f"Give one with --set {name}=VALUE, or leave it out of the recipe",
            )
        return "none"
    kind = next(kind for kind in kinds if kind is not types.NoneType)
    converted = _converted(kind, value)
    if converted is None:
        raise AmpError(
            f"{name} must be {_TYPE_WORDS[kind]}, not {value!r:.40}",
            hint=f"Give --set {name}=VALUE; `amp train --list-settings` says what it may be",
        )
    return converted


_TYPE_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _converted(kind: type, value: Any) -> Any:
    """Return `value` as `kind`, or None when it does not fit."""
    if kind is bool:
        return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())
    if isinstance(value, bool):
        return None
    if kind is str:
        return value if isinstance(value, str) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number):
        return None
    if kind is int:
        return int(number) if number == int(number) else None
    return number


def _refuse_outside(name: str, value: str | None, allowed: Sequence[str | None]) -> None:
    if value not in allowed:
        raise AmpError(
            f"{name} must be one of {', '.join(str(one) for one in allowed)}, not '{value}'",
            hint=f"Give --set {name}=VALUE; `amp train --list-settings` says what it may be",
        )


def checkpoints_sft(config: TrainConfig, device: str) -> bool:
    """Return whether sft computes activations twice to hold fewer: on GPUs, unless the settings say otherwise.

    Args:
        device: "cpu", "cuda" or "mps", on which PyTorch would leave out other inputs the second time.

    Raises:
        AmpError: the settings ask for both there.
    """
    leaves_out_others = device == "mps" and config.lora_dropout > 0
    if config.gradient_checkpointing is None:
        return device != "cpu" and not leaves_out_others
    if config.gradient_checkpointing and leaves_out_others:
        raise AmpError(
            "gradient_checkpointing on an Apple GPU needs lora_dropout 0: PyTorch repeats no random numbers there",
            hint="Leave out one of the two, or give --accelerate-config cpu",
        )
    return config.gradient_checkpointing


def check_packages(config: TrainConfig) -> None:
    """Refuse settings whose package is not installed.

    Raises:
        AmpError: naming the package.
    """
    if config.quantization is not None and find_spec("bitsandbytes") is None:
        raise AmpError(
            f"Quantization {config.quantization} needs bitsandbytes, which is not installed",
            hint="pip install bitsandbytes, or --set quantization=none",
        )
    if config.report_to != "none" and find_spec(config.report_to) is None:
        raise AmpError(
            f"report_to={config.report_to} needs a package that is not installed",
            hint=f"pip install 'amp-cli[{config.report_to}]', or --set report_to=none",
        )
