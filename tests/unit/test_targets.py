"""Target files: their content, what is refused in them, and the choice of ``native``."""

import json
from pathlib import Path

import pytest

from iseg_tvm import host_cpu
from iseg_tvm.errors import IsegError
from iseg_tvm.host_cpu import AMX, HostCpu, check_host, parse_cpuinfo, read_host_cpu
from iseg_tvm.target_file import ISAS
from iseg_tvm.targets import (
    TargetSpec,
    check_llvm_knows,
    list_targets,
    load_target,
    targets_dir,
)

NAMES = [spec.name for spec in list_targets()]
VNNI = load_target("x86-vnni").features

# LLVM's names for instruction sets whose instructions it may choose by itself for integer code,
# and what Linux calls them. Not listed: tuning switches, system instructions, and sets that only
# intrinsics use (AES, SHA, random numbers).
LINUX_NAMES = {
    "x86_64": {
        "sse3": "pni", "ssse3": "ssse3", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "cx16": "cx16",
        "sahf": "lahf_lm", "popcnt": "popcnt", "avx": "avx", "avx2": "avx2", "bmi": "bmi1",
        "bmi2": "bmi2", "f16c": "f16c", "fma": "fma", "lzcnt": "abm", "movbe": "movbe",
        "xsave": "xsave", "adx": "adx", "gfni": "gfni", "avxvnni": "avx_vnni",
        "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512cd": "avx512cd",
        "avx512dq": "avx512dq", "avx512vl": "avx512vl", "avx512vnni": "avx512_vnni",
        "avx512vbmi": "avx512vbmi", "avx512vbmi2": "avx512_vbmi2", "avx512ifma": "avx512ifma",
        "avx512bitalg": "avx512_bitalg", "avx512vpopcntdq": "avx512_vpopcntdq",
        "avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16",
        "amx-tile": "amx_tile", "amx-int8": "amx_int8",
    },
    "aarch64": {
        "neon": "asimd", "fp-armv8": "fp", "crc": "crc32", "lse": "atomics", "rdm": "asimdrdm",
        "fullfp16": "asimdhp", "dotprod": "asimddp", "rcpc": "lrcpc", "i8mm": "i8mm",
        "bf16": "bf16", "sve": "sve", "sve2": "sve2", "jsconv": "jscvt", "complxnum": "fcma",
        "flagm": "flagm", "fp16fml": "asimdfhm",
    },
}  # fmt: skip

GOOD = """
description = "a board"
aliases = ["b"]
[tvm]
kind = "llvm"
mtriple = "aarch64-linux-gnu"
mcpu = "cortex-a72"
mattr = ["-aes"]
num-cores = 4
[cpu]
arch = "aarch64"
features = ["asimd"]
l1d-bytes = 32768
l2-bytes = 1048576
[kernels]
isa = "neon"
[rpc]
key = "board"
"""


@pytest.mark.parametrize("name", NAMES)
def test_target_files(name: str) -> None:
    spec = load_target(name)
    assert spec.isa in ISAS
    assert TargetSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    check_llvm_knows(spec)


@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_set_llvm_may_use_is_checked_for(name: str) -> None:
    from tvm.target import Target, codegen

    spec = load_target(name)
    enabled = codegen.llvm_get_cpu_features(Target(spec.tvm_target_dict()))
    names = LINUX_NAMES[spec.arch]
    needed = {names[feature] for feature in map(str, enabled) if feature in names}
    assert needed <= spec.features
    assert len(needed) >= 2


@pytest.mark.parametrize(
    ("isa", "feature"),
    [
        ("amx", "amx_int8"),
        ("amx", "amx_tile"),
        ("avx512vnni", "avx512_vnni"),
        ("avx512bw", "avx512bw"),
        ("avxvnni", "avx_vnni"),
        ("avx2", "avx2"),
        ("neon", "asimd"),
        ("neon_dotprod", "asimddp"),
        ("neon_i8mm", "i8mm"),
    ],
)
def test_a_kernel_family_never_runs_without_its_instructions(isa: str, feature: str) -> None:
    specs = [spec for spec in list_targets() if spec.isa == isa]
    assert specs
    assert all(feature in spec.features for spec in specs)


def test_aliases() -> None:
    assert load_target("arm").name == "rpi4"
    assert load_target("rpi4").rpc_key == "rpi4"


@pytest.mark.parametrize(
    ("asked", "guess"), [("x86-vni", "x86-vnni"), ("rpi44", "rpi4"), ("nativ", "native")]
)
def test_unknown_target(asked: str, guess: str) -> None:
    with pytest.raises(IsegError, match=f"unknown target '{asked}'") as caught:
        load_target(asked)
    assert f"did you mean {guess}?" in caught.value.hint
    assert all(name in caught.value.hint for name in NAMES)


def test_no_guess_for_something_else_altogether() -> None:
    with pytest.raises(IsegError) as caught:
        load_target("§§§§§§")
    assert caught.value.hint.startswith("known targets: native")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "llvm"', 'kind = "cuda"', "tvm.kind: 'cuda' is none of llvm"),
        ('mcpu = "cortex-a72"', "", "the key tvm.mcpu is missing"),
        ('mcpu = "cortex-a72"', "mcpu = 3", "tvm.mcpu must be a string, not 3"),
        ("num-cores = 4", "num-cores = 0", "tvm.num-cores must be a positive integer"),
        ("num-cores = 4", "num-cores = true", "tvm.num-cores must be a positive integer"),
        ("num-cores = 4", "num-cores = 4\ncores = 4", "unknown key tvm.cores"),
        ('mattr = ["-aes"]', 'mattr = ["aes"]', "'aes' does not start with"),
        ('mattr = ["-aes"]', 'mattr = "-aes"', "tvm.mattr must be a list of strings"),
        ('features = ["asimd"]', "features = [1]", "cpu.features must be a list of strings"),
        ('arch = "aarch64"', 'arch = "mips"', "cpu.arch: 'mips' is none of"),
        ('arch = "aarch64"', 'arch = "x86_64"', "tvm.mtriple: 'aarch64' is none of x86_64"),
        ('isa = "neon"', 'isa = "mmx"', "kernels.isa: 'mmx' is none of"),
        ('key = "board"', "", "the key rpc.key is missing"),
        ("[rpc]", "[prc]", "unknown key prc"),
        ('description = "a board"', "description = ", "is not a TOML file"),
    ],
)
def test_wrong_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD)
    assert load_target(str(path)).mattr == ("-aes",)
    assert GOOD.count(old) == 1
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(IsegError) as caught:
        load_target(str(path))
    assert message in caught.value.message
    assert str(path) in caught.value.message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(IsegError, match="cannot read the target"):
        load_target(str(tmp_path / "absent.toml"))


def test_two_targets_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "b.toml").write_text(GOOD.replace('aliases = ["b"]', ""))
    with pytest.raises(IsegError, match="'b' means both a and b"):
        list_targets(tmp_path)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(IsegError, match="no target files"):
        list_targets(tmp_path)


@pytest.mark.parametrize(
    ("mcpu", "mattr", "message"),
    [
        ("cortex-a27", "-aes", "LLVM knows no CPU 'cortex-a27'"),
        ("cortex-a72", "+dotproduct", "does not understand mattr '[+]dotproduct'"),
    ],
)
def test_names_llvm_does_not_know(tmp_path: Path, mcpu: str, mattr: str, message: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD.replace("cortex-a72", mcpu).replace("-aes", mattr))
    with pytest.raises(IsegError, match=message):
        check_llvm_knows(load_target(str(path)))


ARM64 = frozenset({"fp", "asimd", "crc32"})
DOT = ARM64 | {"asimddp", "asimdrdm", "atomics"}


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (HostCpu("x86_64", VNNI | AMX), "x86-amx"),
        (HostCpu("x86_64", VNNI, refused=AMX), "x86-vnni"),
        (HostCpu("x86_64", VNNI), "x86-vnni"),
        (HostCpu("x86_64", VNNI - {"avx512vbmi"}), "x86-cascadelake"),
        (HostCpu("x86_64", VNNI - {"avx512vbmi", "avx512_vnni"}), "x86-avx512"),
        (HostCpu("x86_64", VNNI - {"avx512bw"}), "x86-avx2"),
        (HostCpu("x86_64", VNNI - {"avx512bw"} | {"avx_vnni"}), "x86-avxvnni"),
        (HostCpu("x86_64", VNNI - {"fma"}), "x86-generic"),
        (HostCpu("aarch64", ARM64), "aarch64"),
        (HostCpu("aarch64", ARM64, frozenset({"0x41:0xd03"})), "rpi3"),
        (HostCpu("aarch64", ARM64, frozenset({"0x41:0xd08"})), "rpi4"),
        (HostCpu("aarch64", ARM64, frozenset({"0x41:0xd03", "0x41:0xd08"})), "aarch64"),
        (HostCpu("aarch64", DOT), "aarch64-dotprod"),
        (
            HostCpu("aarch64", DOT | {"asimdhp", "fphp", "lrcpc"}, frozenset({"0x41:0xd0b"})),
            "rpi5",
        ),
        (HostCpu("aarch64", DOT | {"i8mm"}), "aarch64-i8mm"),
    ],
)
def test_native(host: HostCpu, name: str) -> None:
    assert load_target("native", host=host).name == name


def test_native_has_the_hosts_cores() -> None:
    assert load_target("native", host=HostCpu("x86_64", VNNI, num_cores=17)).num_cores == 17


def test_native_runs_here() -> None:
    spec = load_target("native")
    check_host(spec.arch, spec.features, what="it")
    assert spec.num_cores == read_host_cpu().num_cores


def test_native_on_an_unknown_machine() -> None:
    with pytest.raises(IsegError, match=r"no target fits this machine \(riscv64\)"):
        load_target("native", host=HostCpu("riscv64", frozenset()))


def test_features_that_the_system_refuses_are_named() -> None:
    host = HostCpu("x86_64", VNNI, refused=AMX)
    message = "it needs amx_int8 amx_tile, which the operating system refuses this process"
    with pytest.raises(IsegError, match=message):
        check_host("x86_64", VNNI | AMX, what="it", host=host)
    with pytest.raises(IsegError, match="this machine lacks: amx_int8 amx_tile$"):
        check_host("x86_64", VNNI | AMX, what="it", host=HostCpu("x86_64", VNNI))


def test_refused_features_are_none_of_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "flags : sse2 amx_tile amx_int8"
    monkeypatch.setattr(host_cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(host_cpu, "parse_cpuinfo", lambda _: parse_cpuinfo(text))
    for granted in (True, False):
        monkeypatch.setattr(host_cpu, "has_amx_permission", lambda granted=granted: granted)
        host = read_host_cpu()
        assert host.features == ({"sse2"} | (AMX if granted else set()))
        assert host.refused == (set() if granted else AMX)


def test_check_host_names_what_is_missing() -> None:
    host = HostCpu("x86_64", frozenset({"avx2"}))
    check_host("x86_64", {"avx2"}, what="it", host=host)
    with pytest.raises(IsegError, match="it needs CPU features this machine lacks: b c$"):
        check_host("x86_64", {"avx2", "c", "b"}, what="it", host=host)
    with pytest.raises(IsegError, match="it is for aarch64 CPUs, and this one is x86_64"):
        check_host("aarch64", set(), what="it", host=host)


def test_cores_that_differ_share_only_the_common_features() -> None:
    text = """processor : 0
Features\t: fp asimd asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd05

processor : 1
Features\t: fp asimd asimddp i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd44
"""
    features, parts = parse_cpuinfo(text)
    assert features == {"fp", "asimd", "asimddp"}
    assert parts == {"0x41:0xd05", "0x41:0xd44"}
    assert parse_cpuinfo("") == (frozenset(), frozenset())


def test_the_folder_of_this_checkout_is_found() -> None:
    assert (targets_dir() / "x86-vnni.toml").is_file()
