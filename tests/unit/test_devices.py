"""How much of a processor a process may use: affinity and quotas, from folders laid out as a kernel's."""

from __future__ import annotations

import os

import pytest
import torch

from tidemill.engines import rates, torch_engine
from tidemill.engines.devices import auto_token_budget, resolve_dtype
from tidemill.engines.rates import ProductRates
from tidemill.machine import memory_bytes, num_cpus, processor

CPUINFO = """\
processor\t: 0
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C
stepping\t: 8
flags\t\t: fpu vme smep avx2 avx512f avx512_bf16 amx_tile rdtscp
processor\t: 1
model name\t: Another
"""
ARM_CPUINFO = "CPU implementer\t: 0x41\nCPU part\t: 0xd40\nFeatures\t: fp asimd bf16 i8mm crc32\n"


@pytest.fixture(autouse=True)
def _sixty_four_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def laid_out(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


GIB = 2**30
V2, V1 = "proc/self/cgroup", "proc/self/cgroup"
TOP = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({f"{TOP}/cpu.max": "max 100000\n"}, 64),
        ({f"{TOP}/cpu.max": "200000 100000\n"}, 2),
        ({f"{TOP}/cpu.max": "150000 100000\n"}, 2),
        ({f"{TOP}/cpu.max": "10000 100000\n"}, 1),
        ({f"{TOP}/cpu.max": "9900000 100000\n"}, 64),
        ({f"{TOP}/cpu.max": "nonsense\n"}, 64),
        ({f"{TOP}/cpu.max": "0 0\n"}, 64),
        ({V2: "0::/pod/box\n", f"{TOP}/pod/box/cpu.max": "max 100000\n", f"{TOP}/pod/cpu.max": "300000 100000\n"}, 3),
        ({V2: "0::/pod/box\n", f"{TOP}/pod/box/cpu.max": "400000 100000\n", f"{TOP}/pod/cpu.max": "max 1\n"}, 4),
        ({V2: "0::/../../elsewhere\n", f"{TOP}/cpu.max": "500000 100000\n"}, 5),
        ({V2: "no colons\n", f"{TOP}/cpu.max": "500000 100000\n"}, 5),
        ({V1: "1:cpu:/\n", f"{TOP}/cpu/cpu.cfs_quota_us": "-1\n", f"{TOP}/cpu/cpu.cfs_period_us": "100000\n"}, 64),
        (
            {
                V1: "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/\n",
                f"{TOP}/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000\n",
                f"{TOP}/cpu,cpuacct/docker/x/cpu.cfs_period_us": "50000\n",
                f"{TOP}/cpu,cpuacct/docker/cpu.cfs_quota_us": "-1\n",
                f"{TOP}/cpu,cpuacct/docker/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
        # Within a container the group that the kernel names is not there: its own is at the top.
        (
            {
                V1: "4:cpu,cpuacct:/docker/x\n",
                f"{TOP}/cpu/cpu.cfs_quota_us": "600000\n",
                f"{TOP}/cpu/cpu.cfs_period_us": "100000\n",
            },
            6,
        ),
    ],
)
def test_a_quota_bounds_the_cpus(tmp_path, files, expected):
    assert num_cpus(laid_out(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (None, 8 * GIB)),
        ({f"{TOP}/memory.max": "max\n", f"{TOP}/memory.current": "1\n"}, (None, 8 * GIB)),
        ({f"{TOP}/memory.max": f"{4 * GIB}\n", f"{TOP}/memory.current": f"{GIB}\n"}, (4 * GIB, 3 * GIB)),
        ({f"{TOP}/memory.max": f"{GIB}\n", f"{TOP}/memory.current": f"{2 * GIB}\n"}, (GIB, 0)),
        # What is read from files counts as used, and is given up where memory is asked for.
        (
            {
                f"{TOP}/memory.max": f"{4 * GIB}\n",
                f"{TOP}/memory.current": f"{3 * GIB}\n",
                f"{TOP}/memory.stat": f"anon {GIB}\nfile {2 * GIB}\ninactive_file {2 * GIB}\nactive_file 0\n",
            },
            (4 * GIB, 3 * GIB),
        ),
        (
            {
                f"{TOP}/memory.max": f"{4 * GIB}\n",
                f"{TOP}/memory.current": f"{3 * GIB}\n",
                f"{TOP}/memory.stat": "inactive_file many\n",
            },
            (4 * GIB, GIB),
        ),
        (
            {
                V1: "4:memory:/box\n",
                f"{TOP}/memory/box/memory.limit_in_bytes": f"{2 * GIB}\n",
                f"{TOP}/memory/box/memory.usage_in_bytes": f"{2 * GIB}\n",
                f"{TOP}/memory/box/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}\n",
            },
            (2 * GIB, GIB),
        ),
        (
            {
                V1: "4:memory:/box\n",
                f"{TOP}/memory/box/memory.limit_in_bytes": f"{2 * GIB}\n",
                f"{TOP}/memory/box/memory.usage_in_bytes": f"{GIB}\n",
                f"{TOP}/memory/memory.limit_in_bytes": "9223372036854771712\n",
                f"{TOP}/memory/memory.usage_in_bytes": f"{GIB}\n",
            },
            (2 * GIB, GIB),
        ),
    ],
)
def test_a_containers_memory_is_what_it_may_have(tmp_path, files, expected):
    whole = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:   {8 * GIB // 1024} kB\n"}
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    assert memory_bytes(laid_out(tmp_path, {**whole, **files})) == (expected[0] or total, expected[1])


def test_affinity_bounds_them_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})

    assert num_cpus(laid_out(tmp_path, {f"{TOP}/cpu.max": "400000 100000\n"})) == 1


@pytest.mark.parametrize(("cpus", "streams"), [(1, 1), (2, 2), (3, 3), (8, 8), (12, 6), (64, 8), (96, 8)])
def test_streams_share_all_cpus_evenly(cpus, streams):
    assert torch_engine._most_streams(cpus) == streams


def test_a_processor_is_what_the_kernel_says_of_it(tmp_path, monkeypatch):
    for name in ("ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    found = processor(laid_out(tmp_path, {"proc/cpuinfo": CPUINFO, f"{TOP}/cpu.max": "200000 100000\n"}))

    assert (found.name, found.model) == ("Intel(R) Xeon(R) Platinum 8481C", "6 143 8")
    assert found.flags == ("amx_tile", "avx2", "avx512_bf16", "avx512f")
    assert (found.num_cpus, found.limits) == (2, ())
    assert processor(laid_out(tmp_path / "arm", {"proc/cpuinfo": ARM_CPUINFO})).flags == ("asimd", "bf16", "i8mm")
    assert processor(tmp_path / "nothing").flags == ()


def test_it_is_another_with_another_quota_or_when_libraries_are_kept_from_its_instructions(tmp_path, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    whole = processor(laid_out(tmp_path, {"proc/cpuinfo": CPUINFO}))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    masked = processor(tmp_path)
    bounded = processor(laid_out(tmp_path, {f"{TOP}/cpu.max": "200000 100000\n"}))

    assert masked.limits == (("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16"),)
    assert len({whole.fingerprint, masked.fingerprint, bounded.fingerprint}) == 3


@pytest.mark.parametrize(
    ("times", "expected"), [(2.1, "bfloat16"), (0.53, "float32"), (1.1, "float32"), (None, "float32")]
)
def test_auto_is_bfloat16_where_its_products_are_measured_to_be_faster(times, expected, monkeypatch):
    monkeypatch.setattr(rates, "product_rates", lambda: ProductRates(1e11, times and times * 1e11, None))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)

    assert resolve_dtype("auto", torch.device("cpu")) == expected
    assert resolve_dtype("float16", torch.device("cpu")) == "float16"


def test_a_processor_without_products_of_bfloat16_is_not_measured_for_it(monkeypatch):
    monkeypatch.setattr(rates, "product_rates", lambda: pytest.fail("measured"))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)

    assert resolve_dtype("auto", torch.device("cpu")) == "float32"


@pytest.mark.parametrize("wide", ["float32", "int8"])
def test_batches_are_smaller_where_a_cpu_holds_activations_in_four_bytes(wide):
    assert auto_token_budget("cpu", wide) < auto_token_budget("cpu", "bfloat16") == auto_token_budget("cpu", "float16")
    assert auto_token_budget("cuda:1", wide) == auto_token_budget("cuda", "bfloat16")
