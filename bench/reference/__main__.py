"""Streams through every layout on each row of the CUDA plane's table, on the REFERENCE device.

    python -m bench.reference [--rows sm90-bfloat16 ...] [--workers 2 4] [--layers 0]

32 streams run while at least 40 changes lead through every layout. Nothing may be lost; in float32
the tokens are those of the CPU plane, otherwise the mean log-likelihood of a text at every degree
is within 1e-3 of that at degree 1; weights and KV are bit for bit the same after a merge and a
split; slots are audited at every step. It says nothing of a GPU's arithmetic or speed. Each row
takes half an hour and more; bench/results/reference_rows.json has the last run of each, and its
commit.
"""

import argparse
import sys
import tempfile

from bench import results_file
from bench.reference.row import Row, run_row
from tests.serving.servers import MODEL
from tests.serving.shallow_model import make_shallow

ROWS = {
    "sm80-float32": Row("sm80", "float32"),
    "sm80-bfloat16": Row("sm80", "bfloat16"),
    "sm90-bfloat16": Row("sm90", "bfloat16"),
    "sm90-trtllm_mha": Row("sm90", "bfloat16", ("--attention-backend", "trtllm_mha")),
    "sm100-bfloat16": Row("sm100", "bfloat16"),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.reference", description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--workers", nargs="+", type=int, choices=(2, 4), default=[2, 4])
    parser.add_argument(
        "--layers",
        type=int,
        default=0,
        help="of the bundled model, 0 for all; cut down it is no language model, and says nothing "
        "of log-likelihoods (default: 0)",
    )
    parser.add_argument("--changes", type=int, default=40)
    options = parser.parse_args(argv)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        model = MODEL
        if options.layers:
            model = str(make_shallow(folder, options.layers, source_dir=MODEL))
        for name in options.rows:
            for workers in options.workers:
                found = run_row(ROWS[name], workers, model, options.changes)
                failed = failed or bool(found["problems"])
                case = f"{name}, N={workers}, {options.layers or 'all'} layers"
                results_file.add_row("reference_rows", case, found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
