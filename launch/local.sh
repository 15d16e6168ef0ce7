# local: one process, or several that behave like the hosts of a pod, on this machine.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # one file of several that run.sh reads together

opt+=([processes]=1 [devices]="" [port]=8476)
numbers+=(processes port)

usage() {
  cat <<'END'
local: on this machine, in one process or in several.

  One process uses all accelerators of the machine:
    launch/run.sh local --config=configs/default.py --workdir=/tmp/run \
        --config.data.tasks.rows.train=rows.jsonl
  Two processes with four CPU devices each behave like two hosts of a pod:
    launch/run.sh local --processes=2 --devices=4 --config=... --workdir=/tmp/run

  --processes=N  processes (1). Several need --devices; they find each other at --port
  --devices=M    CPU devices of each process, instead of the machine's accelerators
  --port=PORT    where process 0 listens (8476, or the next that is free)
END
}

launch() {
  need workdir
  ((opt[processes] > 0)) || die "--processes=${opt[processes]} starts nothing; give 1 or more"
  ((opt[processes] == 1)) || [[ ${opt[devices]} ]] ||
    die "--processes=${opt[processes]} needs --devices=M: processes can't share accelerators"
  [[ ${opt[devices]:-1} =~ ^[1-9][0-9]*$ ]] || die "--devices=${opt[devices]} is not 1 or more"
  marker_lm "${opt[processes]}"
  need_command "${program[0]}" "\`pip install .\` brings it, or give --program=COMMAND"
  supervise attempt
}

attempt() {
  local i command=() place=()
  [[ -z ${opt[devices]} ]] || command=(env JAX_PLATFORMS=cpu
    "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=${opt[devices]}")
  free_port
  for ((i = 0; i < opt[processes]; i++)); do
    ((opt[processes] == 1)) ||
      place=("--coordinator=127.0.0.1:${opt[port]}" "--processes=${opt[processes]}" "--process=$i")
    start "process-$i" "${command[@]}" "${program[@]}" "${place[@]}"
  done
  watch
}

# free_port: the first from --port on at which nothing listens.
free_port() {
  while (exec 4<>"/dev/tcp/127.0.0.1/${opt[port]}") 2>/dev/null; do ((opt[port] += 1)); done
}
