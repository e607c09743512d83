"""The model-loading core: what loads, what is refused, and that adapters are attached strictly."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from amp_cli.errors import AmpError
from amp_cli.models import load, machine, precision
from amp_cli.models.adapters import language_lora_targets
from amp_cli.models.llava.files import StoredTensor
from amp_cli.models.load import load_model, save_model_folder
from amp_cli.models.packages import needs_package
from amp_cli.models.resolve import TINY, adapter_folder, check_model, folder_identity
from amp_cli.models.spec import ModelSpec

PROMPT = torch.tensor([[1, 20, 30, 40]])


@pytest.fixture
def copy_of_tiny(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the tiny model whose B matrices are not zero."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    base = load_model(ModelSpec(model="tiny")).model
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=language_lora_targets(base)))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return folder


def logits(model: object) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=PROMPT).logits  # type: ignore[operator]


def test_tiny_loads_in_float32_on_the_cpu_in_eval_mode() -> None:
    loaded = load_model(ModelSpec(model="tiny", device="cpu"))
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.identity["template"] == "own"
    assert loaded.identity["model"]["name"] == "tiny"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("./nothing-here", "no model folder"),
        ("no-such-thing", "no model folder"),
        ("nobody/nothing", "not on this disk"),
    ],
)
def test_a_model_that_is_nowhere_is_a_sentence(model: str, reason: str) -> None:
    with pytest.raises(AmpError, match=reason):
        load_model(ModelSpec(model=model))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match=r"no config\.json"):
        check_model(ModelSpec(model=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AmpError, match="no weights"):
        check_model(ModelSpec(model=str(tmp_path)))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
    ids=["GPU", "CPU"],
)
def test_a_model_that_memory_is_too_small_for_is_not_called_damaged(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(load.AutoModelForImageTextToText, "from_pretrained", fail)
    with pytest.raises(AmpError, match=r"'tiny' takes more memory than is free: .*llocat") as caught:
        load_model(ModelSpec(model="tiny"))
    assert "nf4" in str(caught.value.hint)


def test_a_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(AmpError, match="model type 'bert'"):
        load_model(ModelSpec(model=str(tmp_path)))


def test_a_hybrid_is_read_as_its_weights_are_named_and_not_as_its_configuration_says(copy_of_tiny: Path) -> None:
    config = json.loads((copy_of_tiny / "config.json").read_text())
    (copy_of_tiny / "config.json").write_text(json.dumps({**config, "mm_vision_tower": "openai/clip"}))
    assert torch.equal(
        logits(load_model(ModelSpec(model=str(copy_of_tiny))).model), logits(load_model(ModelSpec(model="tiny")).model)
    )


def test_missing_weights_are_refused_not_drawn_anew(copy_of_tiny: Path) -> None:
    weights = load_file(copy_of_tiny / "model.safetensors")
    dropped = next(name for name in weights if "layers.1" in name)
    del weights[dropped]
    save_file(weights, copy_of_tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AmpError, match="lacks 1 of the weights"):
        load_model(ModelSpec(model=str(copy_of_tiny)))


def test_a_truncated_weight_file_is_refused(copy_of_tiny: Path) -> None:
    content = (copy_of_tiny / "model.safetensors").read_bytes()
    (copy_of_tiny / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(AmpError, match=r"model.safetensors' is damaged: it has .* bytes, it should have"):
        check_model(ModelSpec(model=str(copy_of_tiny)))


def test_an_index_that_names_a_missing_shard_is_refused(copy_of_tiny: Path) -> None:
    (copy_of_tiny / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (copy_of_tiny / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(AmpError, match="names 'model-00001-of-00002"):
        check_model(ModelSpec(model=str(copy_of_tiny)))


def test_an_adapter_changes_the_answers_and_is_frozen(adapter: Path) -> None:
    base, adapted = load_model(ModelSpec(model="tiny")), load_model(ModelSpec(model="tiny", adapter=str(adapter)))
    assert (logits(base.model) - logits(adapted.model)).abs().max() > 1e-3
    assert not any(parameter.requires_grad for parameter in adapted.model.parameters())
    with adapted.model.disable_adapter():
        assert torch.equal(logits(base.model), logits(adapted.model))


def test_an_adapter_is_attached_as_peft_itself_would(adapter: Path) -> None:
    from peft import PeftModel

    theirs = PeftModel.from_pretrained(load_model(ModelSpec(model="tiny")).model, adapter).eval()
    assert torch.equal(logits(theirs), logits(load_model(ModelSpec(model="tiny", adapter=str(adapter))).model))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda weights: {name.replace("layers.", "blocks."): value for name, value in weights.items()},
            "does not fit",
        ),
        (lambda weights: dict(list(weights.items())[:-1]), "1 modules get no weight"),
        (lambda weights: {name: value[:, :-1].contiguous() for name, value in weights.items()}, "does not fit"),
        (lambda weights: {**weights, "base_model.model.other.lora_A.weight": torch.zeros(4, 4)}, "1 weights match no"),
    ],
    ids=["names", "missing", "shapes", "unexpected"],
)
def test_an_adapter_that_does_not_fit_is_refused(adapter: Path, tmp_path: Path, change: object, reason: str) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(change(weights), tmp_path / "adapter" / "adapter_model.safetensors")  # type: ignore[operator]
    with pytest.raises(AmpError, match=reason):
        load_model(ModelSpec(model="tiny", adapter=str(tmp_path / "adapter")))


def test_bare_target_names_reach_only_the_language_model(adapter: Path, tmp_path: Path) -> None:
    """Adapters made on language-model code say `q_proj`, which CLIP's tower has too."""
    shutil.copytree(adapter, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    adapted = load_model(ModelSpec(model="tiny", adapter=str(tmp_path / "adapter"))).model
    names = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    assert names
    assert all("language_model" in name for name in names)


def test_a_run_folder_stands_for_its_adapter(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "run" / "adapter")
    assert adapter_folder(str(tmp_path / "run")) == tmp_path / "run" / "adapter"
    with pytest.raises(AmpError, match="not hold a LoRA adapter"):
        adapter_folder(str(tmp_path))


def test_four_bit_answers_are_near_the_full_ones_and_only_the_language_model_is_quantised() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    full, quantised = load_model(ModelSpec(model="tiny")), load_model(ModelSpec(model="tiny", quantization="nf4"))
    packed = [name for name, part in quantised.model.named_modules() if isinstance(part, bitsandbytes.nn.Linear4bit)]
    assert len(packed) == 4 * 7
    assert all("language_model" in name for name in packed)
    difference = (logits(full.model) - logits(quantised.model)).norm() / logits(full.model).norm()
    assert 0 < difference < 0.3


def test_eight_bit_answers_are_near_the_full_ones() -> None:
    full, quantised = load_model(ModelSpec(model="tiny")), load_model(ModelSpec(model="tiny", quantization="int8"))
    difference = (logits(full.model) - logits(quantised.model)).norm() / logits(full.model).norm()
    assert 0 < difference < 0.1


def test_unknown_settings_are_refused() -> None:
    for settings in ({"dtype": "float12"}, {"device": "abacus"}, {"quantization": "nf3"}, {"template": "nothing"}):
        with pytest.raises(AmpError):
            load_model(ModelSpec(model="tiny", **settings))


def test_a_saved_folder_is_the_same_model_with_the_template_in_use(tmp_path: Path) -> None:
    loaded = load_model(ModelSpec(model="tiny", template="vicuna_v1"))
    save_model_folder(loaded, tmp_path / "out")
    again = load_model(ModelSpec(model=str(tmp_path / "out"), template="own"))
    assert torch.equal(logits(loaded.model), logits(again.model))
    assert again.chat_template == loaded.chat_template


def test_a_changed_weight_changes_the_folder_s_identity(copy_of_tiny: Path) -> None:
    before = folder_identity(copy_of_tiny)
    weights = load_file(copy_of_tiny / "model.safetensors")
    head = next(name for name in weights if "lm_head" in name)
    weights[head] = weights[head] + 1
    save_file(weights, copy_of_tiny / "model.safetensors", metadata={"format": "pt"})
    assert folder_identity(copy_of_tiny) != before


@pytest.mark.parametrize(
    ("said", "package"),
    [
        ("Qwen2VLVideoProcessor requires the Torchvision library but it was not found.\nSee", "torchvision"),
        ("\nX requires the PIL library but it was not found.", "pillow"),
        ("No module named 'num2words'", "num2words"),
        ("This file requires packages that were not found: einops. Run `pip install einops`", "einops"),
    ],
)
def test_a_package_that_a_model_needs_is_one_whole_sentence(said: str, package: str) -> None:
    error = needs_package("The processor of 'm'", ImportError(said))
    assert error.message == f"The processor of 'm' needs the package {package}, which is not installed"
    wanted = "'amp-cli[vision]'" if package in ("torchvision", "num2words") else package
    assert error.hint == f"pip install {wanted}, then give the command again"


@pytest.mark.parametrize(
    ("device", "dtype", "quantization", "free", "said"),
    [
        ("cuda", torch.bfloat16, None, 13_900, "take 14.0 kB in bfloat16, and 13.9 kB on cuda are free"),
        ("cuda", torch.float32, None, 27_900, "take 28.0 kB in float32"),
        ("cuda", torch.bfloat16, "nf4", 3_900, "take 4.0 kB in bfloat16, packed as nf4"),
        ("cpu", torch.float32, None, 27_900, "take 28.0 kB in float32, and 27.9 kB of main memory are free"),
        ("cuda", torch.bfloat16, None, 14_000, None),
        ("cuda", torch.bfloat16, "nf4", 4_000, None),
        ("cpu", torch.float32, None, 28_000, None),
        ("cpu", torch.float16, None, 0, None),  # read from the disk as needed
    ],
)
def test_a_model_is_refused_only_where_its_weights_alone_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    dtype: torch.dtype,
    quantization: str | None,
    free: int,
    said: str | None,
) -> None:
    """7,000 weights in 16 bits: a matrix of 6,667 and a vector of 333."""
    tensors = [StoredTensor(file=Path("x"), shape=shape, dtype=torch.float16) for shape in ((59, 113), (333,))]
    monkeypatch.setattr(precision, "free_on", lambda _: free)
    monkeypatch.setattr(precision, "_free_swap", lambda: 0)
    spec = ModelSpec(model="m", quantization=quantization)
    if said is None:
        precision.refuse_too_large(spec, tensors, torch.device(device), dtype)
        return
    with pytest.raises(AmpError, match=said) as caught:
        precision.refuse_too_large(spec, tensors, torch.device(device), dtype)
    assert ("--quantization nf4" in caught.value.hint) == (quantization is None)
    assert ("--dtype bfloat16 takes 14.0 kB" in caught.value.hint) == (dtype == torch.float32)


def test_memory_of_a_gpu_that_pytorch_keeps_for_reuse_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 200)
    assert precision.free_on(torch.device("cuda")) == 1500


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_without_the_files_it_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    line, mount, file, used = {
        1: ("4:memory:/job/step", tmp_path / "memory", "memory.limit_in_bytes", "cache 900\ntotal_rss 300\n"),
        2: ("0::/job/step", tmp_path, "memory.max", "anon 250\nfile 900\nshmem 50\n"),
    }[version]
    (tmp_path / "own").write_text(f"1:cpu:/\n{line}\n")
    for group, limit in (("job/step", "9223372036854771712" if version == 1 else "max"), ("job", "1000")):
        (mount / group).mkdir(parents=True, exist_ok=True)
        (mount / group / file).write_text(limit + "\n")
        (mount / group / "memory.stat").write_text(used)
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    assert machine.free_memory() == 700
