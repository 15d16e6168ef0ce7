#!/usr/bin/env bash
# The one front of all launches; `launch/run.sh --help` teaches it.
# shellcheck disable=SC2034,SC2154  # the files that it reads use each other's names
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || {
  echo "launch: this is bash $BASH_VERSION; 5.1 or newer is needed" >&2
  exit 2
}
source "$here/lib.sh"
source "$here/processes.sh"
targets=(local tpu-vm gke slurm)

general_usage() {
  cat <<'END'
usage: launch/run.sh TARGET --config=FILE[:ARG] --workdir=DIR [--config.KEY=VALUE ...] [options]

Runs `marker-lm train` (or another verb) with the config and its overrides on TARGET:
  local    one or several processes on this machine
  tpu-vm   Cloud TPU VMs, by gcloud: created, installed, run, deleted
  gke      TPUs of a Google Kubernetes Engine cluster, by xpk or a JobSet
  slurm    GPUs of a SLURM cluster

`launch/run.sh TARGET --help` has the target's options and examples. Those of all targets:
  --dry-run      print every command that would run, and run none
  --restarts=N   how often a preempted run is begun again (3); it goes on from its newest
                 checkpoint. A program's own error (a bad config, an exception) is not retried
  --wait=S       seconds before the first restart (30); doubled with each one, 600 at most
  --grace=S      seconds that processes have to save when the launcher is stopped (300)
  --logs=DIR     one log a process or host (launch-logs/NAME)
  --name=NAME    of pod, job and logs (marker-lm- and the config's)
  --verb=VERB    train, prepare, decode, ...: of `marker-lm`
  --program=CMD  the command instead of `marker-lm`, e.g. --program='python3 -m marker_lm'

When one process fails all are ended, the end of its log is shown, and the launcher ends with its
exit code. Stopped (Ctrl-C, SIGTERM), the launcher has all processes save, cleans up, and ends.
END
}

target=${1-}
[[ $target && $target != --help && $target != -h ]] || {
  general_usage
  [[ $target ]] && exit 0 || exit 2
}
shift
[[ " ${targets[*]} " == *" $target "* ]] ||
  die "there is no target '$target'; did you mean '$(nearest "$target" "${targets[@]}")'?"
# shellcheck source=/dev/null  # each is checked by itself
source "$here/${target//-/_}.sh"
for argument in "$@"; do
  [[ $argument != --help && $argument != -h ]] || {
    usage
    printf '\n%s\n' "Options of all targets: launch/run.sh --help"
    exit 0
  }
done
parse "$@"

# clean_up: a target that creates something has its own.
declare -F clean_up >/dev/null || clean_up() { :; }
finish() {
  local code=$?
  [[ $BASHPID == "$$" ]] || return # a child that a signal met before it was its own process
  trap '' INT TERM HUP
  kill_all
  unfollow
  clean_up || say "the clean-up failed"
  exit "$code"
}
if dry; then
  exec 3>&1
  shown_as=""
else
  exec 3>&2
  shown_as="launch: + "
  mkdir -p "${opt[logs]}"
fi
export PYTHONUNBUFFERED=1 # or the logs would lag behind
trap finish EXIT
trap 'stop 130' INT
trap 'stop 143' TERM HUP
launch
