"""Write the tables and charts of docs/results.md, or draw all other figures.

python -m tools.results [--figures DIR]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.charts import measured
from tools.results import charts, page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="where to draw the figures that no page has"
    )
    options = parser.parse_args()
    if options.figures is not None:
        for path in measured.draw_all(options.figures):
            print(path)
        return
    for name in [*page.write(), *charts.draw_changed()]:
        print(f"changed: {name}")


if __name__ == "__main__":
    main()
