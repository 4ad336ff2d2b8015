"""Run an evaluation from a checkout: `python run.py configs/eval_llada_niah.py [OPTIONS]`.

Takes every option of OpenCompass. Needs nothing installed but the dependencies: the checkout is
put on the import path of this process and of the task processes that it starts. Exits with 1 if
any model has no result on any data set, and says which.
"""

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent


def put_checkout_first() -> None:
    """Make this checkout's package the one that this process and its children import."""
    sys.path[:] = [str(CHECKOUT), *(entry for entry in sys.path if entry != str(CHECKOUT))]
    inherited = [
        entry
        for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if entry and entry != str(CHECKOUT)
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *inherited])


def main() -> int:
    """Check the environment, then hand over to OpenCompass.

    Returns:
        The exit status.
    """
    put_checkout_first()
    from opencompass_llada.faults import guard

    return guard(check_and_launch, program="run.py")


def check_and_launch() -> int:
    """Check that the installed packages fit, and only then import what needs them."""
    from opencompass_llada.runs.machine import check_environment, read_requirements

    check_environment(read_requirements(CHECKOUT))
    from opencompass_llada.runs.launch import launch

    return launch()


if __name__ == "__main__":
    raise SystemExit(main())
