"""`popshift doctor`: is everything here that popshift needs?"""

import typer

from popshift.gen.cli.output import Json, print_json
from popshift.hw.errors import EXIT_FAILED


def doctor(as_json: Json = False) -> None:
    """Look for every tool and print how to install a missing one; exit 1 if the main job cannot run."""
    from popshift.gen.doctor import examine, healthy

    findings = examine()
    good = healthy(findings)
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            missing = "missing, optional" if finding.optional else "MISSING"
            state = (finding.version or "found") if finding.found else missing
            print(f"{finding.tool:28} {state:20} {finding.needed_for}")
            if finding.mend:
                print(f"{'':28} -> {finding.mend}")
        print()
        print(
            "The main job can run."
            if good
            else "The main job cannot run until the lines marked MISSING are mended."
        )
    if not good:
        raise typer.Exit(EXIT_FAILED)
