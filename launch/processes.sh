# Processes that belong together: started, logged, watched, ended and begun again together.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # one file of several that run.sh reads together

declare -A label_of=() # process id -> the name of its log
declare -A begin_of=() # label -> the byte at which this attempt's log begins
followers=()           # processes that show logs
deadline=""            # of $SECONDS; then what did not end when asked is killed
stopped=""             # the exit code of a launch that a signal has ended
patience=10            # seconds until those whose peer has failed are killed

# Exit codes after which another try would end the same: 1 an exception, 2 bad input (both
# marker-lm), 126 and 127 a command that can't be run, 130 Ctrl-C. All others are taken for the
# machine's: 143 saved and stopped by SIGTERM, 137 killed, 255 a connection that broke, ...
FINAL_CODES=(1 2 126 127 130)
PREEMPTED=143
PEER_LOST=134 # ended because another process did: its error says why, not this one's

# follow FILE [BYTE]: shows what is written to the file from there on, each line with its label.
follow() {
  local label
  label=$(basename "$1" .log)
  tail -c "+${2:-1}" -s 0.3 -F --pid=$$ "$1" 2>/dev/null 3>&- > >(sed -u "s/^/[$label] /") &
  followers+=($!)
}

# follow_on FILE: as `follow`, from the end of what is there.
follow_on() {
  local label
  label=$(basename "$1" .log)
  touch "$1"
  begin_of[$label]=$(($(wc -c <"$1") + 1))
  follow "$1" "${begin_of[$label]}"
}

unfollow() {
  ((${#followers[@]})) || return 0
  sleep 0.4 # for what was written last
  kill "${followers[@]}" 2>/dev/null || true
  followers=()
}

# start LABEL COMMAND...: in the background, its output appended to LOGS/LABEL.log.
start() {
  local label=$1 file=${opt[logs]}/$1.log
  shift
  show "$@"
  dry && return
  follow_on "$file"
  # A session of its own: Ctrl-C reaches the launcher alone, and a kill all that it has started.
  (exec setsid "$@" >>"$file" 2>&1 </dev/null 3>&-) &
  label_of[$!]=$label
}

# watch: waits for all that was started. When one fails, the last lines of its log are shown and
# the others are ended. Gives 0, or the exit code of the first that failed by itself.
watch() {
  local pid code label running first=0 who="" ended=no
  while ((${#label_of[@]})); do
    running=" $(jobs -rp | tr '\n' ' ')"
    for pid in "${!label_of[@]}"; do
      [[ $running != *" $pid "* ]] || continue
      code=0
      wait "$pid" || code=$?
      label=${label_of[$pid]}
      unset "label_of[$pid]"
      if [[ $ended == yes || $stopped ]] || ((!code || (first && code == PEER_LOST))); then
        continue
      fi
      first=$code who=$label
      if ((code == PEER_LOST)); then # the others end by themselves, the cause with its own error
        deadline=$((SECONDS + patience))
      else
        ended=yes
        end_all "$patience"
      fi
    done
    if [[ $deadline ]] && ((SECONDS > deadline)); then
      ended=yes
      kill_all
    fi
    sleep 0.2
  done
  deadline=""
  unfollow
  [[ ! $who ]] || report "$who" "$first"
  return "$first"
}

# report LABEL CODE: which process failed, how, and the end of its log.
report() {
  local file=${opt[logs]}/$1.log how="exit code $2" name
  ! name=$(kill -l "$2" 2>/dev/null) || (($2 <= 128)) || how+=", SIG$name"
  say "$1 failed ($how), which ends all; its last lines ($file):"
  tail -c "+${begin_of[$1]-1}" "$file" | tail -n 20 | sed "s/^/  $1 | /" >&2
}

# terminate: asks all to save and end; targets whose processes run elsewhere have their own.
terminate() { ((${#label_of[@]} == 0)) || kill -TERM "${!label_of[@]}" 2>/dev/null || true; }

# end_all SECONDS: asks, and what is left after so long is killed.
end_all() {
  deadline=$((SECONDS + $1))
  terminate
}

# kill_all: what is left, with all that it has started.
kill_all() {
  local pid
  for pid in "${!label_of[@]}"; do kill -KILL -- "-$pid" || kill -KILL "$pid"; done 2>/dev/null || true
}

# stop CODE: what a signal to the launcher does; a second one ends it at once.
stop() {
  [[ $BASHPID == "$$" && ! $stopped ]] || exit "$1"
  stopped=$1
  say "stopping; what runs may save for ${opt[grace]} s, a second signal kills it"
  end_all "${opt[grace]}"
}

# pause SECONDS: a sleep that a signal ends.
pause() {
  local sleeper
  if dry || [[ $stopped ]]; then return; fi
  sleep "$1" >/dev/null 2>&1 3>&- &
  sleeper=$!
  wait "$sleeper" || kill "$sleeper" 2>/dev/null || true
}

# supervise COMMAND...: again with growing waits when the machine was at fault, up to --restarts.
supervise() {
  local tries=0 code wait=${opt[wait]}
  while true; do
    code=0
    "$@" || code=$?
    [[ ! $stopped ]] || return "$stopped"
    ((code)) || return 0
    if [[ " ${FINAL_CODES[*]} " == *" $code "* ]]; then
      say "exit code $code: the program's own error, which another try would not change"
      return "$code"
    elif ((tries == opt[restarts])); then
      say "exit code $code; given up after $tries restarts"
      return "$code"
    fi
    ((tries += 1))
    say "restart $tries of ${opt[restarts]} in $wait s; \`${opt[verb]}\` goes on where it was saved"
    pause "$wait"
    wait=$((wait < 300 ? 2 * wait : 600))
  done
}
