"""Every slip ends with exit code 2 and one sentence that says what to mend."""

import pytest

GOOD = {
    "local": ["--config=configs/plain.py", "--workdir=run"],
    "tpu-vm": ["--config=configs/tiny.py", "--workdir=gs://b/run", "--zone=z"],
    "gke": ["--config=configs/tiny.py", "--workdir=gs://b/run", "--image=i"],
    "slurm": ["--config=configs/plain.py", "--workdir=/shared/run"],
}
SLIPS = [
    (["tpuvm"], "there is no target 'tpuvm'; did you mean 'tpu-vm'?"),
    (["local"], "--config is missing"),
    (
        ["local", "--config=configs/plane.py"],
        "no config configs/plane.py; did you mean configs/plain",
    ),
    (["local", "--config=configs/plain.py"], "--workdir is missing"),
    (["local", *GOOD["local"], "--proceses=2"], "no option --proceses; did you mean --processes?"),
    (["local", *GOOD["local"], "--zone=z"], "local has no option --zone"),
    (["local", *GOOD["local"], "--processes"], "--processes has no value; write --processes=VALUE"),
    (["local", *GOOD["local"], "--processes=two"], "--processes=two is not a whole number"),
    (["local", *GOOD["local"], "--processes=0"], "--processes=0 starts nothing"),
    (["local", *GOOD["local"], "--processes=2"], "needs --devices=M"),
    (["local", *GOOD["local"], "--devices=0"], "--devices=0 is not 1 or more"),
    (["local", *GOOD["local"], "run.py"], "'run.py' is no option"),
    (["local", *GOOD["local"], "--name=A/b"], "--name=A/b must be a letter"),
    (["local", *GOOD["local"]], "marker-lm is not installed here"),
    (["tpu-vm", *GOOD["tpu-vm"][:-1]], "--zone is missing"),
    (["tpu-vm", *GOOD["tpu-vm"]], "gcloud is not installed here; see https://cloud.google.com/sdk"),
    (["tpu-vm", *GOOD["tpu-vm"], "--workdir=/tmp/run"], "would be lost with the pod; give a gs://"),
    (["tpu-vm", *GOOD["tpu-vm"], "--topology=v6:4x4"], "no TPU 'v6'; did you mean v6e?"),
    (
        ["tpu-vm", *GOOD["tpu-vm"], "--topology=v5e:4x5"],
        "v5e has no topology 4x5; did you mean 4x4?",
    ),
    (["tpu-vm", *GOOD["tpu-vm"], "--topology=v5e-16"], "is not written GENERATION:SHAPE"),
    (["tpu-vm", *GOOD["tpu-vm"], "--config=configs/plain.py"], "the config names no topology"),
    (["tpu-vm", *GOOD["tpu-vm"], "--topology=tpu7x:2x2x4"], "tpu7x is had through GKE only"),
    (["tpu-vm", *GOOD["tpu-vm"], "--direct", "--topology=v5e:4x4*2"], "--direct makes one slice"),
    (
        ["tpu-vm", *GOOD["tpu-vm"], "--verb=decode", "--dry-run"],
        "--verb=decode runs in one process, not in 4",
    ),
    (["gke", *GOOD["gke"][:-1]], "--image is missing"),
    (["gke", *GOOD["gke"]], "kubectl is not installed here"),
    (["gke", *GOOD["gke"], "--through=helm"], "--through=helm is neither xpk nor jobset"),
    (["slurm", *GOOD["slurm"]], "sbatch is not installed here; run this on a login node"),
    (["slurm", *GOOD["slurm"], "--workdir=run"], "must be a full path that all nodes see"),
    (["slurm", *GOOD["slurm"], "--per=core"], "--per=core is neither gpu nor node"),
]


@pytest.mark.parametrize(("words", "sentence"), SLIPS)
def test_a_slip_is_named_with_its_mend(place, words, sentence):
    done = place.run(*words)
    assert done.code == 2
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1 and done.err.startswith("launch: ")
    assert not done.out


@pytest.mark.parametrize("target", ["", *GOOD])
def test_help_teaches(place, target):
    done = place.run(*[target] * bool(target), "--help")
    assert done.code == 0 and not done.err
    assert "--dry-run" in done.out or "launch/run.sh --help" in done.out
    assert not target or f"launch/run.sh {target} --config=" in done.out


def test_without_a_target_the_help_is_shown(place):
    done = place.run()
    assert done.code == 2 and "usage: launch/run.sh TARGET" in done.out
