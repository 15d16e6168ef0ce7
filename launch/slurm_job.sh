#!/usr/bin/env bash
# The batch script of `launch/run.sh slurm`: slurm_job.sh RESTARTS LOGS FINAL_CODES COMMAND...
# It has itself queued again when the machine was at fault, also where no launcher waits any more.
set -uo pipefail

restarts=$1 logs=$2 final=$3
shift 3
srun --kill-on-bad-exit=1 --open-mode=append --output="$logs/process-%t.log" "$@" 2>"$logs/srun.txt"
code=$?
cat "$logs/srun.txt" >&2
((code)) || exit 0
# srun gives the highest code, and those that it killed have a higher one than the one that failed.
first=$(grep -m 1 -E 'tasks? [0-9]' "$logs/srun.txt" || true)
[[ ! $first =~ exit\ code\ ([0-9]+) ]] || code=${BASH_REMATCH[1]}
[[ " $final " != *" $code "* ]] || exit "$code"
if ((${SLURM_RESTART_COUNT:-0} < restarts)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
