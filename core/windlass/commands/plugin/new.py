"""`windlass plugin new NAME`: a distribution that adds a backend, ready to be made yours."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write a distribution that adds a backend, with its tests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `windlass plugin new`."""
    parser.add_argument("name", metavar="NAME", help="the backend's name: `--backend NAME`")
    parser.add_argument(
        "--device-type", required=True, metavar="TYPE", help="what torch calls the device"
    )
    parser.add_argument(
        "--device-files",
        default="",
        metavar="GLOB",
        help="the files that the driver makes for its devices (default: /dev/TYPE0, /dev/TYPE1, "
        "...; none where the device is the processor)",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="FOLDER",
        help="a new or empty folder (default: windlass-backend-NAME, here)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the distribution and say what to do next; 0 when it was written."""
    from windlass.authoring.new_plugin import new_plugin, write_plugin

    plugin = new_plugin(args.name, args.device_type, args.device_files)
    directory = args.directory or Path(plugin.distribution)
    for path in write_plugin(plugin, directory):
        print(path)
    print(
        f"\nNext: pip install -e '{directory}[test]', then: windlass doctor --backend "
        f"{plugin.name}, windlass conformance {plugin.name}"
    )
    return 0
