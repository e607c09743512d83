"""Keeps the reference's log-probabilities on disk, so that several epochs and runs compute them once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.downloads.places import cache_folder
from amp_cli.errors import AmpError
from amp_cli.models.prompts import EncodedItem
from amp_cli.training.rows.forward import ForwardPass
from amp_cli.training.sharding import InStep, Passes

INDEX = "index.json"
SUFFIX = ".safetensors"
ITEMS_PER_FILE = 128
"""What a kill can cost; a file of so many items takes some 20 kB."""
MOST_OFF = 0.05
"""Nats a token that kept numbers may be off in any precision: in a sum over an answer, rounding mostly cancels out."""


def item_key(item: EncodedItem) -> str:
    """Return the SHA-256 (hex) of all that the model reads of an item: tokens, what is supervised, and images."""
    digest = hashlib.sha256()
    read = []
    for part in item.parts:
        read += sorted(part.image_inputs.items())
        for response in part.responses:
            read += [("input_ids", response.input_ids), ("round", response.round)]  # round is -1 where not supervised
    for name, value in read:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def cache_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the reference depends on beside the items: the loaded model without the adapter, which is off."""
    return {name: value for name, value in identity.items() if not name.startswith("adapter")}


def choose_reference(wanted: str, *, items: int, visits: float) -> tuple[bool, str]:
    """Return whether to compute the reference once to disk, and why, in a line.

    Args:
        wanted: "online", "cache" or "auto". items: how many there are. visits: items seen in all, over all updates.
    """
    if wanted != "auto":
        return wanted == "cache", f"Reference: {wanted}, as asked for"
    rounds = visits / items
    if rounds > 1:
        return True, f"Reference: computed once to disk, since each item is seen {rounds:.1f} times"
    return False, f"Reference: in every step, since each item is seen {rounds:.1f} times"


class ReferenceCache:
    """Log-probabilities by item, (levels, rounds) float64 each, in safetensors files named by their content.

    Where an image pair is trained on, one more row tells of the best response beside other images.

    The folder is named by the model's identity; items are known by all that the model reads of them, so that other
    preferences, templates or images never meet the wrong numbers. A damaged file is left out and computed again.

    `used` holds what was asked for or added, so that it can be told to the other processes.
    """

    def __init__(self, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True)
        self.folder = cache_folder() / "reference" / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._known: dict[str, torch.Tensor] = {}
        self._unwritten: dict[str, torch.Tensor] = {}
        self.used: dict[str, torch.Tensor] = {}
        if not (self.folder / INDEX).exists():
            write_json(self.folder / INDEX, {"identity": dict(identity), "holds": "(levels, rounds) float64, nats"})
        self.read()

    def read(self) -> None:
        """Take in every whole file of the folder."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != path.name.removesuffix(SUFFIX):
                path.unlink(missing_ok=True)
                continue
            try:
                self._known |= load(content)
            except SafetensorError:  # whole, but written by something else
                continue

    def __contains__(self, item: EncodedItem) -> bool:
        key = item_key(item)
        if key in self._known:
            self.used[key] = self._known[key]
        return key in self._known

    def learn(self, told: Mapping[str, torch.Tensor]) -> None:
        """Take in what another process has used."""
        self._known |= told

    def add(self, item: EncodedItem, sums: torch.Tensor) -> None:
        """Keep an item's (levels, rounds); on disk with the next full file or `flush`."""
        key = item_key(item)
        self._known[key] = self.used[key] = self._unwritten[key] = sums.double().cpu().contiguous()
        if len(self._unwritten) >= ITEMS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        if not self._unwritten:
            return
        content = save(self._unwritten)
        path = self.folder / f"{hashlib.sha256(content).hexdigest()}{SUFFIX}"

        def write() -> None:
            beside = path.with_suffix(".part")
            beside.write_bytes(content)
            beside.replace(path)

        disk_errors_explained(write, path)
        self._unwritten = {}

    def round_logps(self, items: Sequence[EncodedItem]) -> torch.Tensor:
        """Return the (responses, rounds) of these items, zero in rounds that an item does not have.

        Raises:
            AmpError: an item was never added.
        """
        try:
            kept = [self._known[item_key(item)] for item in items]
        except KeyError as error:
            raise AmpError(
                "The reference of an item is missing: the item could not be read while it was computed, or has changed",
                hint="The same command computes it and goes on from the last checkpoint",
            ) from error
        rounds = max(sums.shape[1] for sums in kept)
        return torch.cat([torch.nn.functional.pad(sums, (0, rounds - sums.shape[1])) for sums in kept])


@torch.no_grad()
def compute_reference(
    model: Any,
    forward: ForwardPass,
    items: Sequence[EncodedItem],
    *,
    tokens_per_step: int,
    in_step: InStep | None = None,
) -> list[torch.Tensor]:
    """Return each item's (responses of all parts, rounds) log-probabilities under the model with its adapter off.

    Args:
        in_step: where processes share the model, so that all must compute something at the same time.
    """
    found: dict[int, torch.Tensor] = {}
    device = next(model.parameters()).device
    if in_step is None:
        cut = forward.cut(items, tokens_per_step)
        passes = Passes(items=[[items[number] for number in numbers] for numbers in cut], tower_calls=0)
    else:
        passes = in_step.passes(items, tokens_per_step)
    with model.disable_adapter():
        for own in passes.items:
            read, idle = (own, []) if in_step is None else in_step.filled(own, passes.tower_calls)
            batch = forward.lay_out(read).to(device)
            sums = forward.round_logps(model, batch, forward.show_images(model, batch, idle=idle))
            counts = [len(item.all_responses) for item in read]
            for item, rows in zip(own, torch.split(sums, counts), strict=False):  # but for what fills
                rounds = max(int(response.round.max()) for response in item.responses) + 1
                found[id(item)] = rows[:, :rounds]
    return [found[id(item)] for item in items]


def check_cache(
    cache: ReferenceCache,
    model: Any,
    forward: ForwardPass,
    items: Sequence[EncodedItem],
    *,
    tolerance: float,
    in_step: InStep | None = None,
) -> bool:
    """Compute one that the cache knows once more, so that another machine or library's numbers are not trusted.

    Args:
        tolerance: mean difference of an answer token's log-probability, nats, as the self-test allows it; no more than
            `MOST_OFF` is allowed here.

    Returns:
        Whether there was one, which is good for all; where processes share the model, in any of them.

    Raises:
        AmpError: the kept numbers are others.
    """
    known = next(([item] for item in items if item in cache), [])
    if not (known if in_step is None else in_step.any_process(bool(known))):
        return False
    computed = compute_reference(model, forward, known, tokens_per_step=1, in_step=in_step)  # a longer item goes alone
    for item, sums in zip(known, computed, strict=True):
        tokens = torch.tensor([int(response.supervised.sum()) for response in item.all_responses])
        difference = float(((sums.cpu() - cache.round_logps([item])).sum(dim=1).abs() / tokens).max())
        if not difference <= min(tolerance, MOST_OFF):
            raise AmpError(
                f"The reference kept in '{cache.folder}' differs by {difference:.2g} nats a token from the current one",
                hint="Delete that folder, or train with --reference online",
            )
    return True


def fill_cache(
    cache: ReferenceCache,
    model: Any,
    forward: ForwardPass,
    items: Sequence[EncodedItem],
    *,
    tokens_per_step: int,
    in_step: InStep | None = None,
) -> None:
    """Compute what the cache lacks of these items; where processes share the model, all do so at the same time."""
    missing = [item for item in items if item not in cache]
    if in_step is not None and not in_step.any_process(bool(missing)):
        return
    sums = compute_reference(model, forward, missing, tokens_per_step=tokens_per_step, in_step=in_step)
    for item, own in zip(missing, sums, strict=True):
        cache.add(item, own)
