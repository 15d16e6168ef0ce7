# What the targets share: options, and commands that run or are only shown.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # one file of several that run.sh reads together

# Every option with its default; one whose default is `no` is a switch. Targets add their own.
declare -A opt=(
  [config]="" [workdir]="" [verb]=train [program]=marker-lm [name]="" [logs]=""
  [restarts]=3 [wait]=30 [grace]=300 [dry-run]=no
)
numbers=(restarts wait grace) # options that are whole numbers
overrides=()                  # --config.KEY=VALUE, handed on as they are

say() { printf 'launch: %s\n' "$*" >&2; }

# die SENTENCE: what the user can mend; the exit code is that of marker-lm for the same.
die() {
  say "$*"
  exit 2
}

# nearest WORD CANDIDATE...: one that begins with the word, else the one with the fewest edits
# (Levenshtein).
nearest() {
  local word=$1 best="" least=999 candidate i j cost row previous
  shift
  for candidate in "$@"; do
    if [[ $candidate == "$word"* ]]; then
      best=$candidate
      break
    fi
    mapfile -t previous < <(seq 0 ${#candidate})
    for ((i = 1; i <= ${#word}; i++)); do
      row=("$i")
      for ((j = 1; j <= ${#candidate}; j++)); do
        [[ ${word:i-1:1} == "${candidate:j-1:1}" ]] && cost=0 || cost=1
        row[j]=$((previous[j - 1] + cost))
        ((row[j - 1] + 1 >= row[j])) || row[j]=$((row[j - 1] + 1))
        ((previous[j] + 1 >= row[j])) || row[j]=$((previous[j] + 1))
      done
      previous=("${row[@]}")
    done
    ((previous[${#candidate}] >= least)) || least=${previous[${#candidate}]} best=$candidate
  done
  printf '%s' "$best"
}

# parse ARGUMENT...: fills `opt` and `overrides`, and ends with a sentence where one is wrong.
parse() {
  local argument key file
  for argument in "$@"; do
    key=${argument%%=*} key=${key#--}
    if [[ $argument == --config.*=* ]]; then
      overrides+=("$argument")
    elif [[ $argument != --* ]]; then
      die "'$argument' is no option; options are written --KEY=VALUE"
    elif [[ ! -v opt[$key] ]]; then
      die "$target has no option --$key; did you mean --$(nearest "$key" "${!opt[@]}")?"
    elif [[ $argument == *=* ]]; then
      opt[$key]=${argument#*=}
    elif [[ ${opt[$key]} == no ]]; then
      opt[$key]=yes
    else
      die "--$key has no value; write --$key=VALUE"
    fi
  done
  need config
  file=${opt[config]%%:*}
  [[ -f $file ]] || die "there is no config $file; did you mean $(nearest "$file" configs/*.py)?"
  for key in "${numbers[@]}"; do
    [[ ${opt[$key]} =~ ^[0-9]+$ ]] || die "--$key=${opt[$key]} is not a whole number"
  done
  : "${opt[name]:=marker-lm-$(basename "$file" .py | tr '_[:upper:]' '-[:lower:]')}"
  [[ ${opt[name]} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] || die "--name=${opt[name]} must be" \
    "a letter, then letters, digits and '-', all small, 40 at most, as clusters want names"
  : "${opt[logs]:=launch-logs/${opt[name]}}"
}

# need KEY...: ends where an option without a default was not given.
need() {
  local key
  for key in "$@"; do
    [[ ${opt[$key]} ]] || die "--$key is missing; \`launch/run.sh $target --help\` tells of it"
  done
}

# need_command NAME HINT: ends where NAME is not installed; a dry run does without.
need_command() {
  dry || type -P "$1" >/dev/null || die "$1 is not installed here; $2"
}

# need_shared_workdir: checkpoints must outlive the pod, and every host writes its part of them.
need_shared_workdir() {
  need workdir
  [[ ${opt[workdir]} == gs://* ]] ||
    die "--workdir=${opt[workdir]} would be lost with the pod; give a gs:// folder"
}

# marker_lm PROCESSES: sets `program` to the command of each of them.
marker_lm() {
  [[ ${opt[verb]} == train || $1 == 1 ]] || die "--verb=${opt[verb]} runs in one process, not in $1"
  read -ra program <<<"${opt[program]}"
  program+=("${opt[verb]}" "--config=${opt[config]}")
  [[ -z ${opt[workdir]} ]] || program+=("--workdir=${opt[workdir]}")
  program+=("${overrides[@]}")
}

# --- commands: run and shown, or in a dry run only shown ---------------------------------------
dry() { [[ ${opt[dry-run]} == yes ]]; }

# quote WORD...: one line that a shell reads back as these words.
quote() {
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s' "${line# }"
}

# show WORD...: to file 3: a dry run's output, and else what the launcher says.
show() { printf '%s%s\n' "$shown_as" "$(quote "$@")" >&3; }

run() {
  show "$@"
  dry || "$@"
}

# ask DEFAULT COMMAND...: what the command prints; DEFAULT in a dry run.
ask() {
  local default=$1
  shift
  show "$@"
  if dry; then printf '%s' "$default"; else "$@"; fi
}

# ask_again DEFAULT COMMAND...: as `ask`; what does not answer is asked twenty times.
ask_again() {
  local i
  for i in {1..20}; do
    ask "$@" && return
    say "no answer ($i of 20): $2"
    sleep "${opt[poll]}"
  done
  return 1
}
