"""`python -m benchmarks [--only NAME ...] [--data DIR] [--quick] [--threads N] [--minutes M]`."""

import argparse
import importlib
import sys
import traceback
from pathlib import Path

from benchmarks._timing import Options, as_json, machine, save, say, table

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, help="one question; may repeat")
    parser.add_argument("--data", type=Path, help="folder that holds mnist.npz")
    parser.add_argument("--quick", action="store_true", help="two rounds; nothing is written")
    parser.add_argument(
        "--threads", type=int, help="threads of each library (default: its own choice)"
    )
    parser.add_argument(
        "--minutes", type=float, help="of training, where a benchmark trains for a time"
    )
    arguments = parser.parse_args()
    if arguments.data is not None and not arguments.data.is_dir():
        parser.error(f"--data: there is no folder {arguments.data}")
    if arguments.minutes is not None and not arguments.minutes > 0:
        parser.error(f"--minutes: expected a number above 0, got {arguments.minutes:g}")
    options = Options(arguments.data, arguments.quick, arguments.threads, arguments.minutes)

    shown, failed = [], []
    for name in arguments.only or NAMES:
        say(f"benchmarks: {name} ...")
        before = machine()
        try:
            report = importlib.import_module(f"benchmarks.{name}").run(options)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        document = as_json(report, options, before)
        if not options.quick:
            save(document)
        shown += table(document)
    print("\n".join(shown))
    if failed:
        say(f"benchmarks: failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
