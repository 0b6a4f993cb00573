"""Runs the checks that move KV with the kernel in Triton's interpreter; `test_gpu_check` runs this
file in a process, since Triton decides when it is imported."""

import json

from bench.gpu_check import check
from tests.bench.stand_in_gpu import StandInGpu

if __name__ == "__main__":
    print(json.dumps(check.run("movers", StandInGpu(), sizes=(2,))))
    print(json.dumps(check.run("joint", StandInGpu(), small=True)))
    print(json.dumps(check.run("joint", StandInGpu(broken=True), sizes=(2,), small=True)))
