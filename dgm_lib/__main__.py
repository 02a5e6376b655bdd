"""`python -m dgm_lib doctor | data | fetch NAME …`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the first word says; returns the exit code. What can be expected to go wrong is one sentence."""
    options = parse(arguments)
    try:
        return options.do(options)
    except (ValueError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; `do` of the result is the function to call."""
    parser = argparse.ArgumentParser(prog="python -m dgm_lib", description="The library of the course, as a command.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    checking = commands.add_parser("doctor", help="say whether this machine is ready, and what to do if not")
    checking.set_defaults(do=doctor)
    listing = commands.add_parser("data", help="list the data sets")
    listing.set_defaults(do=data)
    fetching = commands.add_parser("fetch", help="download published data sets into the cache")
    fetching.add_argument("names", nargs="+", metavar="NAME", help="such as mnist; `data` lists them")
    fetching.set_defaults(do=fetch)
    return parser.parse_args(arguments)


def doctor(options: argparse.Namespace) -> int:
    """1 if something is wrong."""
    from dgm_lib.doctor import report

    return 0 if report() else 1


def data(options: argparse.Namespace) -> int:
    """Each data set with the first line of its card."""
    from dgm_lib.datasets import NAMES

    width = max(map(len, NAMES))
    for name in NAMES:
        print(f"{name:<{width}}  {first_line(name)}")
    return 0


def first_line(name: str) -> str:
    """What a data set is. The sets that one module makes may share a card."""
    from dgm_lib.datasets import MODULES, paths

    for card in (name, MODULES[name]):
        try:
            return paths.card(card).partition("\n")[0]
        except FileNotFoundError:
            continue
    return "(its card is missing)"


def fetch(options: argparse.Namespace) -> int:
    """Downloads one set after the other, and stops at the first that cannot be had."""
    from dgm_lib.datasets import published

    for name in options.names:
        published.fetch(name)
        print(f"{name} is in the cache.")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a console without ≥ or × shows ? in its place
    sys.exit(main())
