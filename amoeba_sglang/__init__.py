"""Runtime tensor-parallel transformation for SGLang: running instances merge and split.

    launch_server   builds everything from flags and serves; config, flags: what it was told
    frontend        what stands before SGLang's HTTP routes
    adapters        what joins the rest to SGLang: the only place that imports it
    planes          what carries bytes: `contract`, pages, KV units, transports; no decision
    control         what decides: layouts, shares of slots, votes, routing; pure, told the time
    host            ports, cores, processes and files of this machine
    patch, plan, doctor   commands

Imports go one way: control knows nobody, planes know control, adapters know both.
tests/test_walls.py keeps it so.
"""

__version__ = "0.1.0"
