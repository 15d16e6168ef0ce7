# slurm: GPUs of a SLURM cluster, by sbatch.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # one file of several that run.sh reads together

opt+=([nodes]=1 [gpus]=8 [per]=gpu [time]="" [partition]="" [account]="" [sbatch]="" [poll]=10)
opt+=([keep]=no)
numbers+=(nodes gpus poll)

usage() {
  cat <<'END'
slurm: on the GPUs of a SLURM cluster, one process a GPU.

  Two nodes of eight GPUs, for at most a day at a time:
    launch/run.sh slurm --config=configs/default.py --workdir=/shared/run --nodes=2 --gpus=8 \
        --time=24:00:00 --partition=gpu --program=/shared/venv/bin/marker-lm \
        --config.data.tasks.rows.train=/shared/rows.jsonl

Run it on a login node, in a folder that all nodes see: --program, --workdir and the logs are used
from there (`pip install '.[cuda]'` in a shared virtual environment brings marker-lm). Before its
time is up a job saves; then, and when it was preempted, it is queued again and goes on.

  --nodes=N       machines (1)
  --gpus=G        GPUs of each (8)
  --per=gpu|node  one process for every GPU (gpu), or one for all GPUs of a node
  --time=LIMIT    of one job, such as 24:00:00 (the partition's)
  --partition=P, --account=A   (the cluster's defaults)
  --sbatch=FLAGS  further flags of sbatch, such as --sbatch='--qos=low --mem=0'
  --keep          a stopped launcher leaves the job going on
  --poll=S        seconds between looks at the job (10)
END
}

launch() {
  need workdir
  [[ ${opt[workdir]} == gs://* || ${opt[workdir]} == /* ]] ||
    die "--workdir=${opt[workdir]} must be a full path that all nodes see, or gs://"
  [[ ${opt[per]} == gpu || ${opt[per]} == node ]] || die "--per=${opt[per]} is neither gpu nor node"
  ((opt[nodes] > 0 && opt[gpus] > 0)) || die "--nodes and --gpus must be 1 or more"
  need_command sbatch "run this on a login node of the cluster"
  tasks=$([[ ${opt[per]} == node ]] && echo 1 || echo "${opt[gpus]}")
  marker_lm $((opt[nodes] * tasks))
  [[ ${opt[verb]} != train ]] || program+=(--distributed)
  # Under SLURM, JAX gives a process one GPU unless it is told else.
  [[ ${opt[per]} == gpu ]] ||
    program=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((opt[gpus] - 1)))" "${program[@]}")
  job="" followed=" "
  follow_logs follow_on
  supervise attempt
}

attempt() {
  local extra
  read -ra extra <<<"${opt[sbatch]}"
  job=$(ask JOB sbatch --parsable "--job-name=${opt[name]}" "--nodes=${opt[nodes]}" \
    "--ntasks-per-node=$tasks" "--gpus-per-node=${opt[gpus]}" ${opt[time]:+"--time=${opt[time]}"} \
    ${opt[partition]:+"--partition=${opt[partition]}"} ${opt[account]:+"--account=${opt[account]}"} \
    --requeue "--signal=TERM@${opt[grace]}" --open-mode=append "--output=${opt[logs]}/job.log" \
    "${extra[@]}" "$here/slurm_job.sh" "${opt[restarts]}" "${opt[logs]}" "${FINAL_CODES[*]}" \
    "${program[@]}") || return
  job=${job%%;*} # a cluster's name may follow
  follow_job
}

# follow_job: until SLURM has ended the job for good; gives the exit code of the run.
follow_job() {
  local about state="" code=1
  while true; do
    follow_logs follow
    about=$(ask_again "JobState=COMPLETED ExitCode=0:0" scontrol --oneliner show job "$job") || return
    [[ $about =~ JobState=([A-Z_]+) ]] && state=${BASH_REMATCH[1]}
    [[ $about =~ ExitCode=([0-9]+): ]] && code=${BASH_REMATCH[1]}
    case $state in
      COMPLETED) job="" && return 0 ;;
      PREEMPTED | NODE_FAIL | BOOT_FAIL | TIMEOUT)
        say "job $job ended: $state"
        return "$PREEMPTED"
        ;;
      FAILED | OUT_OF_MEMORY | CANCELLED | DEADLINE) # it has been queued again as often as it may
        say "job $job ended: $state"
        report_task "$code"
        job=""
        exit "$((code ? code : 1))"
        ;;
    esac
    pause "${opt[poll]}"
    [[ ! $stopped ]] || return "$stopped"
  done
}

# follow_logs HOW: shows the logs that were not there before.
follow_logs() {
  local file
  for file in "${opt[logs]}"/*.log; do
    [[ -f $file && $followed != *" $file "* ]] || continue
    "$1" "$file"
    followed+="$file "
  done
}

# report_task CODE: the task that srun names first, and the end of its log.
report_task() {
  local task
  task=$(grep -m 1 -oE 'tasks? [0-9]+' "${opt[logs]}/srun.txt" 2>/dev/null | grep -oE '[0-9]+') || true
  report "$([[ $task ]] && echo "process-$task" || echo job)" "$1"
}

# clean_up: a job that still waits or runs.
clean_up() {
  [[ ${job-} ]] || return 0
  if [[ ${opt[keep]} == yes ]]; then
    say "the job goes on; its end: scancel $job"
  else
    run scancel "$job"
  fi
}
