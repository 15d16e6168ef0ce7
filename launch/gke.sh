# gke: TPUs of a Google Kubernetes Engine cluster, as a JobSet of our own or one that xpk writes.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # one file of several that run.sh reads together

source "$here/tpus.sh"
opt+=([topology]="" [cluster]="" [zone]="" [project]="" [image]="" [through]="" [poll]=10)
opt+=([build]=no [spot]=no [keep]=no)
numbers+=(poll)

usage() {
  cat <<'END'
gke: on the TPU nodes of a Google Kubernetes Engine cluster that has JobSet installed.

  Build the image, run on v6e-16, follow the logs, remove the job:
    launch/run.sh gke --config=configs/llama31_8b_v6e16.py --workdir=gs://bucket/run \
        --cluster=my-cluster --zone=us-east5-b --project=my-project --build \
        --image=us-docker.pkg.dev/my-project/images/marker-lm:1
  See the manifest first: the same with --dry-run.

The code gets there in the image: --build makes it from launch/Dockerfile and this folder and
pushes it. The cluster's service account needs read and write on the bucket. The cluster begins a
preempted job again itself, so the launcher may be closed with --keep.

  --image=REF     the container's image
  --build         docker build and push it first
  --cluster=NAME  fetches its credentials (kubectl's current cluster); with --zone, --project
  --topology=T    v5e:4x4, v6e:4x4, tpu7x:2x2x4, v5e:16x16*2, ... (the config's)
  --through=HOW   xpk (where it is installed) or jobset
  --spot          only on spot nodes; with jobset (with xpk the node pools decide)
  --keep          leave the job and its pods; a stopped launcher leaves the run going on
  --poll=S        seconds between looks at the job (10)
END
}

launch() {
  need image
  need_shared_workdir
  read_topology
  : "${opt[through]:=$(type -P xpk >/dev/null && echo xpk || echo jobset)}"
  [[ ${opt[through]} == xpk || ${opt[through]} == jobset ]] ||
    die "--through=${opt[through]} is neither xpk nor jobset"
  need_command kubectl "see https://kubernetes.io/docs/tasks/tools"
  need_command "${opt[through]/jobset/kubectl}" "\`pip install xpk\` brings it"
  [[ ! ${opt[cluster]} ]] || need_command gcloud "see https://cloud.google.com/sdk/docs/install"
  marker_lm $((slices * (chips < 4 ? 1 : chips / 4)))
  [[ ${opt[verb]} != train ]] || program+=(--distributed)
  declare -gA following=()
  created=no selector=jobset.sigs.k8s.io/jobset-name=${opt[name]}
  if [[ ${opt[build]} == yes ]]; then
    need_command docker "it builds the image"
    run docker build --tag "${opt[image]}" --file launch/Dockerfile .
    run docker push "${opt[image]}"
  fi
  place=(${opt[zone]:+"--zone=${opt[zone]}"} ${opt[project]:+"--project=${opt[project]}"})
  [[ ! ${opt[cluster]} ]] ||
    run gcloud container clusters get-credentials "${opt[cluster]}" "${place[@]/#--zone/--location}"
  submit
  follow_job
}

submit() {
  if [[ ${opt[through]} == xpk ]]; then
    need cluster
    run xpk workload create "--cluster=${opt[cluster]}" "${place[@]}" "--workload=${opt[name]}" \
      "--tpu-type=$tpu_type" "--num-slices=$slices" "--docker-image=${opt[image]}" \
      "--max-restarts=${opt[restarts]}" "--termination-grace-period-seconds=${opt[grace]}" \
      "--command=$(quote "${program[@]}")"
  else
    local manifest=${opt[logs]}/jobset.yaml
    if dry; then render | sed 's/^/# /' >&3; else render >"$manifest"; fi
    run kubectl create "--filename=$manifest"
  fi
  created=yes # a job of this name that was there before is not ours to delete
}

# render: the template with its {{WORDS}} filled in.
render() {
  local text word command="" host_chips=$((chips < 4 ? chips : 4)) spot=""
  [[ ${opt[spot]} == no ]] ||
    spot=$'\n              cloud.google.com/gke-spot: "true"'
  for word in "${program[@]}"; do # a list of JSON strings, which YAML reads
    word=${word//\\/\\\\} word=${word//\"/\\\"} word=${word//$'\n'/\\n}
    command+=", \"$word\""
  done
  local -A words=(
    [NAME]=${opt[name]} [RESTARTS]=${opt[restarts]} [GRACE]=${opt[grace]} [IMAGE]=${opt[image]}
    [SLICES]=$slices [HOSTS]=$((chips / host_chips)) [HOST_CHIPS]=$host_chips [SPOT]=$spot
    [GKE_TPU]=$gke_tpu [SHAPE]=$shape [COMMAND]="[${command#, }]"
    [FINAL_CODES]="$(printf '%s, ' "${FINAL_CODES[@]}" | sed 's/, $//')"
  )
  text=$(<"$here/templates/jobset.yaml")
  for word in "${!words[@]}"; do text=${text//"{{$word}}"/"${words[$word]}"}; done
  printf '%s\n' "$text"
}

# follow_job: until the JobSet has completed or failed; shows and keeps the logs of its pods.
follow_job() {
  local state restarts=0
  while true; do
    follow_pods
    state=$(ask_again "0 Completed" kubectl get jobset "${opt[name]}" \
      '--output=jsonpath={.status.restarts} {.status.conditions[?(@.status=="True")].type}')
    [[ ${state%% *} == "$restarts" || ! ${state%% *} ]] || say "restart ${state%% *} of ${opt[restarts]}"
    restarts=${state%% *}
    case $state in
      *Completed*) return 0 ;;
      *Failed*) report_pod && return || return ;;
    esac
    pause "${opt[poll]}"
    [[ ! $stopped ]] || return "$stopped"
  done
}

# follow_pods: a log for each host; a pod that took the place of another goes on with its log.
follow_pods() {
  local pod label
  for pod in $(ask "" kubectl get pods "--selector=$selector" \
    '--field-selector=status.phase!=Pending' '--output=jsonpath={.items[*].metadata.name}'); do
    [[ ! ${following[$pod]-} ]] || continue
    label=${pod#"${opt[name]}-"} label=${label%-*}
    follow_on "${opt[logs]}/$label.log"
    kubectl logs --follow "$pod" >>"${opt[logs]}/$label.log" 2>&1 3>&- &
    following[$pod]=$label
    followers+=($!)
  done
}

# report_pod: the pod that failed first, and the end of its log; gives its exit code.
report_pod() {
  local status='.status.containerStatuses[0].state.terminated' code pod
  read -r _ code pod < <(ask "" kubectl get pods "--selector=$selector" \
    "--output=jsonpath={range .items[?(@$status.exitCode)]}{$status.finishedAt} {$status.exitCode} {.metadata.name}{\"\\n\"}{end}" |
    sort | grep -v '^[^ ]* 0 ') || { say "the job failed: kubectl describe jobset ${opt[name]}"; return 1; }
  unfollow
  report "${following[$pod]-$pod}" "$code"
  return "$code"
}

clean_up() {
  if [[ ${created-no} == yes && ${opt[keep]} == no ]]; then
    run kubectl delete jobset "${opt[name]}" --cascade=foreground --ignore-not-found
  elif [[ ${created-no} == yes ]]; then
    say "the job stays; its end: kubectl delete jobset ${opt[name]}"
  fi
}
