"""`rnnfast doctor`."""

import argparse
from pathlib import Path

from ..errors import InputError
from ..training.examination import examine
from .output import shown


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run folder; nothing in it is changed")


def execute(arguments: argparse.Namespace) -> int:
    findings = []
    for finding in examine(Path(arguments.run)):
        wrong = "" if finding.good else "WRONG: "
        line = shown(f"{finding.subject}: {wrong}{finding.seen}").replace("\n", r"\n")
        print(line, flush=True)
        findings.append(finding)
    commands = [finding.command for finding in findings if finding.command]
    print("works:", "; ".join(f"`{command}`" for command in commands) or "nothing")
    faults = [finding.subject for finding in findings if not finding.good]
    if faults:
        raise InputError(f"{arguments.run}: something is wrong with {', '.join(faults)}, see above")
    return 0
