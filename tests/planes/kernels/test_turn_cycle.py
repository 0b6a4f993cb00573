"""The kernel compiled ahead of time, and in the interpreter; neither needs a GPU."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from amoeba_sglang.planes.kernels.turn_cycle import BLOCK, WARPS, turn_cycle

ROOT = Path(__file__).parents[3]
SIGNATURE = {
    "table": "*i64",
    "slots": "i32",
    "tensors": "i32",
    "run_quads": "i32",
    "row_quads": "i32",
    "MEMBERS": "constexpr",
    "BLOCK": "constexpr",
}
MEMBERS = [2, 4, 8]
"""All lengths of cycles in chains 1,2,4 and 1,2,4,8."""


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


def compiled(members, capability):
    source = ASTSource(
        fn=turn_cycle,
        signature=SIGNATURE,
        constexprs={"MEMBERS": members, "BLOCK": BLOCK},
        # As every table of torch has it.
        attrs={(0,): [["tt.divisibility", 16]]},
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": WARPS}).asm


def accesses_of(cubin, path):
    """How often the machine code has which access of any memory."""
    path.write_bytes(cubin)
    command = [triton.knobs.nvidia.nvdisasm.path, "-c", str(path)]
    code = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Global, local, shared, generic, and atomic ones.
    return Counter(re.findall(r"\s((?:LD|ST|ATOM|RED)[A-Z]*(?:\.[A-Z0-9_]+)*)\s", code))


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_units_are_loaded_and_stored_by_16_bytes(capability, members, tmp_path):
    asm = compiled(members, capability)
    found = accesses_of(asm["cubin"], tmp_path / "cubin")
    # A thread has 16 bytes of every member's block: these are all of the data. Beside them it loads
    # from the table, of int64: an address per member, the super-slot and who lives there.
    assert BLOCK * 4 == WARPS * 32 * 16
    constants = {name for name in found if name.startswith("LDC")}
    assert {name: found[name] for name in found.keys() - constants} == {
        "LDG.E.128": members,
        "STG.E.128": members,
        "LDG.E.64": members + 2,
    }


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_word_stays_with_one_thread(capability):
    """Nothing orders a read of one thread and a write of another at the same place."""
    code = compiled(4, capability)["ttgir"]
    assert "convert_layout" not in code
    assert len(re.findall(r"^#\w+ = #ttg\.", code, flags=re.MULTILINE)) == 1


def test_it_permutes_the_live_units_and_touches_nothing_else():
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "tests/planes/kernels/interpreted.py"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stdout + child.stderr
