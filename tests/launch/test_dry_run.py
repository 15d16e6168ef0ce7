"""What a dry run prints, compared with golden/*.txt; GOLDEN=write writes them anew."""

import os
import subprocess
from pathlib import Path

import pytest

GOLDEN = Path(__file__).with_name("golden")
POD = ["--config=configs/tiny.py", "--workdir=gs://bucket/run", "--config.train.steps=8"]
SHARED = [
    "--config=configs/plain.py:markers",
    "--workdir=/shared/run",
    "--config.data.separator=a b",
]
ZONE = ["--zone=us-west4-a", "--project=my-project"]
CASES = {
    "local": ["local", *SHARED],
    "local_processes": ["local", *SHARED, "--processes=2", "--devices=4", "--port=18476"],
    "local_verb": ["local", *SHARED, "--verb=prepare", "--program=python3 -m marker_lm"],
    "tpu_vm": ["tpu-vm", *POD, *ZONE],
    "tpu_vm_spot_kept": ["tpu-vm", *POD, *ZONE, "--spot", "--keep", "--name=mine", "--extras=tpu"],
    "tpu_vm_slices": ["tpu-vm", *POD, *ZONE, "--topology=v5e:2x4*2", "--reserved"],
    "tpu_vm_direct": ["tpu-vm", *POD, "--zone=z", "--direct", "--topology=v6e:2x4"],
    "gke": ["gke", *POD, "--image=images/marker-lm:1", "--through=jobset"],
    "gke_slices": [
        *("gke", *POD, *ZONE, "--cluster=c", "--image=i", "--build", "--spot", "--restarts=9"),
        *("--topology=v5e:16x16*2", "--through=jobset"),
    ],
    "gke_xpk": ["gke", *POD, *ZONE, "--cluster=c", "--image=i", "--through=xpk"],
    "slurm": ["slurm", *SHARED],
    "slurm_nodes": [
        *("slurm", *SHARED, "--nodes=4", "--gpus=2", "--per=node", "--time=12:00:00"),
        *("--partition=gpu", "--account=me", "--sbatch=--qos=low --mem=0", "--keep"),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_prints_every_command_and_runs_none(place, case):
    place.has("gcloud", "kubectl", "xpk", "docker", "sbatch", "scontrol")
    done = place.run(*CASES[case], "--dry-run")
    assert done.code == 0, done.err
    assert not place.calls() and not (place.path / "launch-logs").exists()
    assert str(place.path) not in done.out
    file = GOLDEN / f"{case}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(done.out)
    assert done.out == file.read_text(), "GOLDEN=write writes the golden files anew"


def test_every_golden_file_has_its_case():
    assert {file.stem for file in GOLDEN.iterdir()} == set(CASES)


def test_what_a_dry_run_prints_is_what_runs(place):
    """The same commands, in the same order, and a shell reads each line back as its words."""
    place.has("gcloud", "kubectl", looks=[{"pods": [], "status": "0 Completed"}])
    words = [
        "gke",
        *POD,
        "--zone=z",
        "--cluster=c",
        "--image=i",
        "--config.data.separator='\"\\ \n",
    ]
    printed = place.run(*words, "--dry-run")
    real = place.run(*words)
    assert real.code == 0, real.err
    ran = place.calls()
    script = "".join(line for line in printed.out.splitlines(True) if not line.startswith("# "))
    (place.fakes / "calls").unlink()
    (place.fakes / "count-looks").unlink()
    (place.path / "script.sh").write_text(script)
    subprocess.run(["bash", "script.sh"], cwd=place.path, env=place.env, check=True)
    assert place.calls() == ran
