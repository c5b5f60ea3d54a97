"""Runs Yosys commands from standard input, one per line; as a process, since a Yosys error ends it."""

import sys

from pyosys import libyosys  # pyright: ignore[reportAttributeAccessIssue] - a binary module


def main() -> None:
    design = libyosys.Design()
    for line in sys.stdin:
        if command := line.strip():
            libyosys.run_pass(command, design)


if __name__ == "__main__":
    main()
