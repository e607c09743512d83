"""The benchmark of the MDPO step measures what it says, on the smallest shape; figures are for `make bench`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import answering
import mdpo_gpu
import mdpo_rounds
import mdpo_step
from mdpo_big import llava_7b, random_item, random_llava, random_policy
from mdpo_peers import Released, forget_gradient, gradient
from mdpo_rounds import Growth, Measured, Point
from mdpo_table import Results, bars, for_people, linear_bars, to_json
from measuring import BY_KERNEL, BY_TENSORS, Counted, counted, fit_line, memory_source, peak_mb, relative_difference

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny() -> Iterator[Results]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as monkeypatch:  # another process takes seconds to start
        monkeypatch.setattr(mdpo_rounds, "measure_peaks", mdpo_rounds.peaks_here)
        yield mdpo_step.run("tiny", repeats=1, levels=(2, 3))
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_object_has_what_the_contract_names(tiny: Results) -> None:
    record = json.loads(json.dumps(to_json(tiny)))
    keys = {"trl_pairs", "trl_pairs_micro", "released", "rows", "packed", "packed_cached"}
    assert record["variants"].keys() == keys
    for variant in record["variants"].values():
        assert {"cpu_seconds", "gflop", "peak_mb", "loss"} <= variant.keys()
        assert min(variant["cpu_seconds"], variant["gflop"], variant["attention_gflop"], variant["loss"]) > 0
    assert record["gradient_relative_error"].keys() == {"fp32", "fp64"}
    assert record["checkpointing"].keys() == {"released", "packed", "packed_cached"}
    assert [point["levels"] for point in record["growth"]["packed"]["points"]] == [2, 3]


@pytest.mark.slow
def test_every_way_to_make_the_step_has_the_same_loss_and_gradient(tiny: Results) -> None:
    ours = [tiny.variants[key].loss for key in ("rows", "packed", "packed_cached")]
    assert ours == pytest.approx([tiny.variants["released"].loss] * 3, abs=1e-4)
    assert tiny.float32_difference < 1e-5
    assert tiny.float64_difference < 1e-12
    assert tiny.released_difference < 1e-5
    assert max(tiny.trl_difference.values()) < 1e-5  # without the penalty, over the mean of the pairs
    assert [one.loss for one in tiny.checkpointed.values()] == pytest.approx([ours[0]] * 3, abs=1e-4)


@pytest.mark.slow
def test_tokens_are_those_that_enter_the_decoder(tiny: Results) -> None:
    processed = {key: one.counted.tokens for key, one in tiny.variants.items()}
    assert processed["packed_cached"] == tiny.unique_tokens
    assert processed["packed"] == 2 * tiny.unique_tokens  # policy and reference
    assert processed["released"] == processed["rows"]
    assert processed["released"] % (2 * tiny.levels) == 0  # rows of one length
    assert processed["trl_pairs"] == 3 * processed["released"]  # 12 rows for 4


@pytest.mark.slow
def test_the_table_is_plain_text_with_a_line_for_each_variant(tiny: Results) -> None:
    text = for_people(tiny)
    assert text.isascii()
    assert all(one.what in text for one in tiny.variants.values())
    assert "Bars" not in text  # they are for shape b


def measured(seconds: float, megabytes: float) -> Measured:
    count = Counted(gflop=1.0, attention_gflop=1.0, tokens=1)
    return Measured(what="", cpu_seconds=seconds, counted=count, peak_mb=megabytes, loss=0.0, gradient=torch.zeros(1))


def results(growth: Growth, **differences: float) -> Results:
    variants = {
        "trl_pairs": measured(20.0, 0.0),
        "trl_pairs_micro": measured(15.0, 0.0),
        "released": measured(5.6, 1000.0),
        "packed": measured(2.0, 390.0),
        "packed_cached": measured(1.5, 410.0),
    }
    return Results(
        shape="b",
        levels=4,
        unique_tokens=1,
        variants=variants,
        checkpointed=variants,
        growth={"packed": growth},
        float32_difference=differences.get("float32", 1e-6),
        float64_difference=differences.get("float64", 1e-14),
        released_difference=0.0,
        trl_difference={},
        memory_source="",
        machine={"load_before": 0.0, "load_after": 0.0},
    )


def growth(*seconds: float) -> Growth:
    points = tuple(
        Point(levels=levels, unique_tokens=tokens, cpu_seconds=second, gflop=1.0)
        for levels, tokens, second in zip((2, 4, 8), (1000, 2000, 4000), seconds, strict=True)
    )
    return Growth(points=points, line=fit_line([1000, 2000, 4000], seconds))


def test_bars_are_met_or_not_by_the_figures_of_the_run() -> None:
    found = results(growth(1.0, 2.0, 4.0), float64=2e-12)
    assert [bar.is_met for bar in bars(found)] == [
        True,  # 5.6 / 2.0 = 2.8
        False,  # 5.6 / 1.5 = 3.73
        True,  # 20 / 2 = 10
        False,  # 15 / 2 = 7.5
        False,  # 410 / 1000, the larger of the two
        True,
        False,
        True,
        True,
    ]
    assert for_people(found).count("NOT met") == 4


def test_time_that_grows_with_the_square_of_the_tokens_is_not_linear() -> None:
    assert all(bar.is_met for bar in linear_bars(growth(1.1, 2.1, 4.1)))
    assert [bar.is_met for bar in linear_bars(growth(1.0, 4.0, 16.0))] == [False, False]


def test_a_line_is_fitted_by_least_squares() -> None:
    line = fit_line([1, 2, 3], [3, 5, 7])
    assert (line.slope, line.intercept, line.r2) == pytest.approx((2, 1, 1))
    assert fit_line([1, 2, 3], [1, 3, 2]).r2 == pytest.approx(0.25)


def test_operations_are_counted_apart_for_products_and_attention() -> None:
    heads = torch.randn(1, 2, 10, 8, requires_grad=True)

    def step() -> None:
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads).sum().backward()
        torch.randn(3, 4) @ torch.randn(4, 5)

    count = counted(step, [])
    assert count.gflop == pytest.approx(2 * 3 * 4 * 5 / 1e9)
    assert count.attention_gflop == pytest.approx((2 + 5) * 2 * 2 * 10 * 10 * 8 / 1e9)  # 2 products forward, 5 back


@pytest.mark.parametrize("source", [BY_KERNEL, BY_TENSORS])
def test_peak_memory_is_what_a_call_holds_at_once(source: str) -> None:
    if source == BY_KERNEL and memory_source() != BY_KERNEL:
        pytest.skip("this kernel lets nobody reset its high-water mark")

    def step() -> None:
        for _ in range(3):  # one at a time
            torch.zeros(2**24).add_(1)

    assert peak_mb(step, source) == pytest.approx(64, abs=6)


def test_a_card_is_needed_for_the_gpu_part_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mdpo_step.py", "--gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^No CUDA card is visible to PyTorch here; --gpu needs one$"):
        mdpo_step.main()


def small_7b() -> Any:
    """The 7B's configuration with every size cut down, 4-bit layers still possible."""
    config = llava_7b()
    for name, value in {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "vocab_size": 704,
    }.items():
        setattr(config.text_config, name, value)
    config.text_config.num_attention_heads = config.text_config.num_key_value_heads = 2
    config.text_config.head_dim, config.text_config.pad_token_id = 64, 701
    for name, value in {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "image_size": 56}.items():
        setattr(config.vision_config, name, value)
    config.vision_config.num_attention_heads = 2
    config.image_token_index, config.image_seq_length = 700, 16
    return config


@pytest.mark.slow
@pytest.mark.parametrize("is_nf4", [False, True])
def test_the_random_7b_makes_the_same_step_packed_and_released(is_nf4: bool) -> None:
    config = small_7b()
    policy = random_policy(config, device=CPU, is_nf4=is_nf4)
    base = random_llava(config, device=CPU, is_nf4=is_nf4)
    item = random_item(config, 3)
    found = {}
    released = Released(policy=policy, reference=base, item=item, pad_id=0)
    for variant in [released, *mdpo_gpu.packed_variants(policy, item)]:
        variant.is_mixed = True
        variant.prepare()
        loss = variant.step()
        found[variant.key] = loss, gradient(policy)
        forget_gradient(policy)
    for key in ("packed", "packed_cached"):
        assert found[key][0] == pytest.approx(found["released"][0], abs=0.05)  # in bfloat16
        assert relative_difference(found[key][1], found["released"][1]) < 0.2


def test_layers_of_four_bits_count_as_the_products_that_they_are() -> None:
    counts = {}
    for is_nf4 in (False, True):
        policy = random_policy(small_7b(), device=CPU, is_nf4=is_nf4)
        variant = mdpo_gpu.packed_variants(policy, random_item(small_7b(), 2))[0]
        variant.prepare()
        counts[is_nf4] = counted(variant.step, variant.networks()).gflop
    assert counts[True] == pytest.approx(counts[False])


def test_attention_that_is_aligned_at_the_upper_left_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = mdpo_gpu.shared_prefix_attention

    def misaligned(layer: Any, query: Any, key: Any, value: Any, mask: Any, *, scaling: float, sharing: Any) -> Any:
        if query.dtype == torch.float32:
            return right(layer, query, key, value, mask, scaling=scaling, sharing=sharing)
        parts = []
        for start, length, before, shared in sharing.segments:
            places = [*range(before, before + shared), *range(start, start + length)]
            parts.append(
                torch.nn.functional.scaled_dot_product_attention(  # is_causal is aligned at the upper left
                    query[:, :, start : start + length], key[:, :, places], value[:, :, places], is_causal=True
                )
            )
        return torch.cat(parts, dim=2).transpose(1, 2), None

    assert mdpo_gpu.alignment_error(CPU) < mdpo_gpu.ALIGNED
    monkeypatch.setattr(mdpo_gpu, "shared_prefix_attention", misaligned)
    assert mdpo_gpu.alignment_error(CPU) > 10 * mdpo_gpu.ALIGNED


def test_the_gpu_table_says_what_does_not_fit_and_whether_the_bar_is_met() -> None:
    def row(variant: str, seconds: float | None, peak: float | None) -> mdpo_gpu.Row:
        return mdpo_gpu.Row(
            weights="nf4",
            levels=4,
            variant=variant,
            is_checkpointed=True,
            unique_tokens=1000,
            seconds=seconds,
            peak_gb=peak,
            gflop=1e3,
            share=0.4,
            loss=0.5,
        )

    def found(*rows: mdpo_gpu.Row) -> mdpo_gpu.GpuResults:
        return mdpo_gpu.GpuResults(card="Card X", memory_gb=24, rate=1e14, alignment=0.004, rows=rows)

    fast = found(row("released", 2.5, 20.0), row("packed", 1.0, 11.9))
    assert mdpo_gpu.bar(fast) == {"speed": 2.5, "peak_gb": 11.9, "met": True}
    assert "Card X" in mdpo_gpu.for_people(fast)
    assert mdpo_gpu.bar(found(row("released", 2.5, 20.0), row("packed", 1.0, 12.0)))["met"] is False
    lone = found(row("released", None, None), row("packed", 1.0, 11.9))
    assert mdpo_gpu.bar(lone)["met"] is None
    assert "does not fit" in mdpo_gpu.for_people(lone)


def test_all_ways_to_answer_give_the_same_texts_and_sharing_reads_fewer_tokens(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    record = answering.run("tiny", images=2, questions=3, beams=2, tokens=4, repeats=1, folder=tmp_path)
    torch.set_num_threads(threads)
    ways = record["ways"]
    assert [way["same_texts"] for way in ways.values()] == [6, 6, 6]
    assert ways["shared"]["tokens"] < ways["one by one"]["tokens"] / 2
    assert "6 of 6" in answering.for_people(record)
