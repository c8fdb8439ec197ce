"""The reference as a program: python -m tests.oracle [--fault NAME ...], one JSON object a line each way."""

from __future__ import annotations

import argparse
import json
import sys

from tests.oracle.faults import FAULTS
from tests.oracle.reference import answer

parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
parser.add_argument(
    "--fault", action="append", default=[], choices=sorted(FAULTS), metavar="NAME", help="make this mistake"
)
faults = parser.parse_args().fault
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"id": request["id"], **answer(request["op"], request["input"], faults)}), flush=True)
