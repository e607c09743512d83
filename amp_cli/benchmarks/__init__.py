"""The benchmarks: each is one file that tells all of itself, and one line here."""

from typing import Any

from amp_cli.benchmarks import (
    amber,
    chair,
    dashb,
    hallusionbench,
    hallusionbench_judged,
    humblebench,
    llava_bench,
    mmhal,
    mrhal,
    object_halbench,
    object_halbench_judged,
    pope,
    repope,
)
from amp_cli.benchmarks.benchmark import Benchmark

BENCHMARKS: dict[str, Benchmark[Any]] = {
    "pope": pope.BENCHMARK,
    "repope": repope.BENCHMARK,
    "dashb": dashb.BENCHMARK,
    "hallusionbench": hallusionbench.BENCHMARK,
    "humblebench": humblebench.BENCHMARK,
    "chair": chair.BENCHMARK,
    "object-halbench": object_halbench.BENCHMARK,
    "amber": amber.BENCHMARK,
    "mmhal": mmhal.BENCHMARK,
    "mrhal": mrhal.BENCHMARK,
    "hallusionbench-judged": hallusionbench_judged.BENCHMARK,
    "object-halbench-judged": object_halbench_judged.BENCHMARK,
    "llava-bench": llava_bench.BENCHMARK,
    "llava-bench-wild": llava_bench.WILD,
}
