# tpu-vm: Cloud TPU VMs by gcloud, as a queued resource (one slice or several) or directly.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # one file of several that run.sh reads together

source "$here/tpus.sh"
opt+=([topology]="" [zone]="" [project]="" [runtime]="" [hosts]="" [extras]="tpu,gcs" [poll]=30)
opt+=([spot]=no [reserved]=no [direct]=no [keep]=no [reuse]=no)
numbers+=(poll)

usage() {
  cat <<'END'
tpu-vm: on Cloud TPU VMs, made by gcloud and deleted at the end.

  A v5e-16, waited for in the queue, at the price of what may be taken back:
    launch/run.sh tpu-vm --config=configs/qwen3_0p6b_v5e16.py --workdir=gs://bucket/run \
        --zone=us-west4-a --spot --config.data.tasks.rows.train=gs://bucket/rows.jsonl
  Two slices that talk over the data-centre network:
    launch/run.sh tpu-vm --config=configs/command_r7b_2slices_v5e256.py --topology='v5e:16x16*2' ...

The code gets there as `git archive` of what git tracks here, with your uncommitted changes; it is
installed with Python 3.11 and the pinned requirements.lock. So run this in the repository, and
`git add` a config of your own. Needs `gcloud auth login`, and for several hosts `ssh-add` of
~/.ssh/google_compute_engine. Every host is one gcloud process here, of about 100 MB.

  --zone=ZONE     where the TPUs are
  --project=ID    (gcloud's own setting)
  --topology=T    v5e:4x4, v5p:2x2x4, v5e:16x16*2, ... (the config's)
  --spot          may be preempted; then it is made anew, and the run goes on
  --reserved      from the project's reservation
  --direct        `tpu-vm create` instead of the queue; one slice only
  --runtime=NAME  runtime version (that of the generation, such as v2-alpha-tpuv5-lite)
  --hosts=N       hosts of a slice (4 chips each; one host for up to 8 chips of v5e and v6e)
  --extras=LIST   extras to install (tpu,gcs)
  --keep          leave the pod when the run ends
  --reuse         run on the pod of this --name, which was kept; it is not deleted then
  --poll=S        seconds between looks at the queue (30)
END
}

launch() {
  local state
  need zone
  need_shared_workdir
  read_topology
  [[ $runtime != - ]] || die "$generation is had through GKE only: launch/run.sh gke ..."
  [[ ${opt[direct]} == no || $slices == 1 ]] || die "--direct makes one slice; leave it out"
  need_command gcloud "see https://cloud.google.com/sdk/docs/install"
  case $generation:$chips in v5e:[148] | v6e:[148]) hosts=1 ;; *) hosts=$((chips / 4)) ;; esac
  : "${opt[hosts]:=$hosts}" "${opt[runtime]:=$runtime}"
  if [[ ${opt[direct]} == yes ]]; then
    kind=tpu-vm ready=READY state_path=state version=--version nodes=() force=()
  else
    kind=queued-resources ready=ACTIVE state_path=state.state version=--runtime-version
    nodes=(--node=all) force=(--force)
  fi
  created=no installed=no patience=60
  place=("--zone=${opt[zone]}" ${opt[project]:+"--project=${opt[project]}"})
  opt[program]=.venv/bin/marker-lm
  marker_lm $((slices * opt[hosts]))
  [[ ${opt[verb]} != train ]] || program+=(--distributed)
  state=$(pod_state) || exit 2
  [[ ! $state || ${opt[reuse]} == yes ]] ||
    die "there is a pod ${opt[name]} ($state); run on it with --reuse, or give another --name"
  pack
  supervise attempt
}

gcloud_tpus() { run gcloud compute tpus "$kind" "$@" "${place[@]}"; }

# pod_state: ACTIVE or READY when it can be used, empty when there is none.
pod_state() {
  local error=/dev/null
  dry || error=${opt[logs]}/describe.txt
  ask "" gcloud compute tpus "$kind" describe "${opt[name]}" "${place[@]}" \
    "--format=value($state_path)" 2>"$error" || grep -qi "not.found" "$error" || {
    say "$(tail -n 1 "$error")"
    return 255
  }
}

# pack: what git tracks here, uncommitted changes included, as an archive.
pack() {
  local commit file=${opt[config]%%:*}
  dry || git ls-files --error-unmatch "$file" >/dev/null 2>&1 ||
    die "$file is not in git, which takes the code to the pod; \`git add $file\`"
  commit=$(ask "" git stash create)
  run git archive --format=tar.gz "--output=${opt[logs]}/source.tar.gz" "${commit:-HEAD}"
}

attempt() {
  local state node worker which code=0
  state=$(pod_state) || return
  if [[ $state != "$ready" ]]; then
    [[ ! $state ]] || delete_pod || return # what a preemption has left
    create || return
  fi
  [[ $installed == yes ]] || install || return "$PREEMPTED" # hosts may not be up yet
  [[ ! $stopped ]] || return "$stopped"
  for ((node = 0; node < slices; node++)); do
    which=("${nodes[@]/all/$node}")
    for ((worker = 0; worker < opt[hosts]; worker++)); do
      start "slice-$node-host-$worker" gcloud compute tpus "$kind" ssh "${opt[name]}" \
        "${which[@]}" "--worker=$worker" "${place[@]}" "--command=$(host_command)"
    done
  done
  watch || code=$?
  dry || ((code == 0)) || [[ $stopped || $(pod_state) == "$ready" ]] || code=$PREEMPTED
  return "$code"
}

# host_command: kills what a broken connection has left, and runs the program.
host_command() {
  printf '%s' "cd marker-lm && { pkill -KILL -F pid -f marker-lm && sleep 5; echo \$\$ >pid;" \
    " PYTHONUNBUFFERED=1 exec $(quote "${program[@]}"); }"
}

create() {
  local how=()
  if ((slices > 1)); then
    how=("--node-count=$slices" "--node-prefix=${opt[name]}")
  elif [[ $kind == queued-resources ]]; then
    how=("--node-id=${opt[name]}")
  fi
  [[ ${opt[spot]} == no ]] || how+=(--spot)
  [[ ${opt[reserved]} == no ]] || how+=(--reserved)
  created=yes installed=no
  gcloud_tpus create "${opt[name]}" "--accelerator-type=$tpu_type" "$version=${opt[runtime]}" \
    "${how[@]}" && wait_until_ready
}

wait_until_ready() {
  local state
  while true; do
    state=$(pod_state) || return
    if dry; then return; fi
    case $state in
      "$ready") return ;;
      FAILED | SUSPEND*) say "the request for ${opt[name]} is $state" && return "$PREEMPTED" ;;
    esac
    say "${opt[name]} is $state"
    pause "${opt[poll]}"
    [[ ! $stopped ]] || return "$stopped"
  done
}

install() {
  gcloud_tpus scp "${opt[logs]}/source.tar.gz" "${opt[name]}:marker-lm.tar.gz" \
    --worker=all "${nodes[@]}" &&
    gcloud_tpus ssh "${opt[name]}" --worker=all "${nodes[@]}" "--command=mkdir -p marker-lm &&\
 tar -xzf marker-lm.tar.gz -C marker-lm && cd marker-lm && python3 -m pip install --quiet --user uv &&\
 ~/.local/bin/uv venv --quiet --allow-existing --python=3.11 .venv && ~/.local/bin/uv pip install\
 --quiet -r requirements.lock -c requirements-extras.lock '.[${opt[extras]}]'" &&
    installed=yes
}

delete_pod() {
  gcloud_tpus delete "${opt[name]}" --quiet "${force[@]}"
}

# terminate: the processes are on the hosts; ending ssh here would not tell them to save.
terminate() {
  ((${#label_of[@]} == 0)) || gcloud_tpus ssh "${opt[name]}" --worker=all "${nodes[@]}" \
    "--command=pkill -TERM -F marker-lm/pid -f marker-lm" >/dev/null 2>&1 </dev/null &
}

clean_up() {
  if [[ ${created-no} == yes && ${opt[keep]} == no ]]; then
    delete_pod
  elif [[ ${created-no} == yes ]]; then
    say "the pod ${opt[name]} stays and costs; its end: gcloud compute tpus $kind delete ${opt[name]}" \
      "${place[*]}"
  fi
}
