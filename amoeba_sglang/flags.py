"""The `--amoeba-*` flags."""

import argparse

from amoeba_sglang.control.transform.pace import GROWTH_SHARE

POLICIES = ("amoeba", "round_robin", "least_load", "static")
TRANSPORTS = ("peer", "collective")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the `--amoeba-*` flags alone; SGLang's flags are left to its own parser."""
    parser = argparse.ArgumentParser(
        prog="python -m amoeba_sglang.launch_server",
        add_help=False,
        allow_abbrev=False,
        description="SGLang whose running instances merge and split. --tp-size N is the highest "
        "tensor-parallel degree, --dp-size M the number of groups of N workers.",
    )
    group = parser.add_argument_group("Amoeba")
    _add_layout_flags(group)
    group.add_argument(
        "--amoeba-transport",
        choices=TRANSPORTS,
        default="peer",
        help="how KV and weights move: through shared memory or by collectives (default: peer)",
    )
    group.add_argument(
        "--amoeba-page-size-kib",
        type=int,
        metavar="KIB",
        help="page of weights and KV, a power of two: on a CPU up to 2048 (default: 64), on a GPU "
        "from 2048 to 32768 (default: 2048)",
    )
    group.add_argument(
        "--amoeba-staging-mib",
        type=int,
        default=8,
        metavar="MIB",
        help="staging buffer of a worker (default: 8)",
    )
    group.add_argument(
        "--amoeba-prepare-timeout-s",
        type=float,
        default=20.0,
        metavar="S",
        help="how long a transformation waits for every vote before it gives up (default: 20)",
    )
    group.add_argument(
        "--amoeba-max-n",
        type=int,
        default=128,
        metavar="N",
        help="the most samples (n) of one prompt that a request may ask for (default: 128)",
    )
    _add_measurement_flags(group)
    return parser


def _add_layout_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--amoeba-degrees",
        metavar="1,2,4",
        help="allowed degrees, a divisor chain from 1 to --tp-size "
        "(default: the longest chain that the model's heads allow)",
    )
    group.add_argument(
        "--amoeba-policy",
        choices=POLICIES,
        default="amoeba",
        help="where requests go, and when instances merge and split (default: amoeba). With static "
        "the layout changes only by POST /amoeba/transform",
    )
    group.add_argument(
        "--amoeba-initial-degree",
        type=int,
        default=1,
        metavar="D",
        help="degree at start (default: 1)",
    )
    group.add_argument(
        "--amoeba-layers-per-step",
        default="auto",
        metavar="K",
        help="layers moved between two steps of a transformation: 0 moves all at once, auto as "
        f"many as stretch a step by {100 * GROWTH_SHARE:g} %%, or all where that was measured to "
        "cost less (default: auto)",
    )


def _add_measurement_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--amoeba-emulate",
        metavar="FILE",
        help="a device file, or the name of one that comes with the package: EMULATE its model on "
        "it, so that steps and transformations take their time and compute nothing",
    )
    group.add_argument(
        "--amoeba-emulate-dilation",
        type=float,
        metavar="X",
        help="real seconds in which one emulated second passes (with --amoeba-emulate, no default)",
    )
    group.add_argument(
        "--amoeba-reference-device",
        choices=("sm80", "sm90", "sm100"),
        help="with --device cuda and no GPU: the REFERENCE of a kind of GPU, which makes all calls "
        "to its libraries and computes them on the host",
    )
    group.add_argument(
        "--amoeba-share-gpu",
        action="store_true",
        help="all workers on the first GPU, which gather through the host: to check a server where "
        "there is one GPU, not to serve from it",
    )
    group.add_argument(
        "--amoeba-throughput-table",
        metavar="FILE",
        help="what steps cost at every degree, to start from; if there is no such file, measure it "
        "by a warm-up at every degree and write it",
    )
    group.add_argument(
        "--amoeba-expert-loads",
        metavar="FILE",
        help="of a mixture: how often each expert was chosen, by which they are dealt out to the "
        "workers of an instance; counted on while serving, and written every minute",
    )
