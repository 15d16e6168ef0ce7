# Names of TPUs: what a topology is called by TPU VMs, by GKE and by xpk.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # one file of several that run.sh reads together

# generation, type of TPU VM, cores of a chip (types count cores), accelerator of GKE, runtime
# version of TPU VMs, topologies. From cloud.google.com/tpu/docs and
# cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus; tpu7x is had through GKE only.
tpus="
v4    v4        2 tpu-v4-podslice      tpu-ubuntu2204-base 2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x12 8x8x16 8x16x16
v5e   v5litepod 1 tpu-v5-lite-podslice v2-alpha-tpuv5-lite 1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16
v5p   v5p       2 tpu-v5p-slice        v2-alpha-tpuv5      2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16
v6e   v6e       1 tpu-v6e-slice        v2-alpha-tpuv6e     1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16
tpu7x tpu7x     2 tpu7x                -                   2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16
"

# read_topology: --topology, else the first one that the config names, such as v5e:4x4 or
# v5e:16x16*2; sets generation, shape, slices, chips (of a slice), tpu_type, gke_tpu and runtime.
read_topology() {
  local text=${opt[topology]} cores shapes
  local pattern='"(v4|v5e|v5p|v6e|tpu7x):[0-9x]+(\*[0-9]+)?"'
  : "${text:=$(grep -oEm1 "$pattern" "${opt[config]%%:*}" | head -n 1 | tr -d '"')}"
  [[ $text ]] || die "the config names no topology; give one, such as --topology=v5e:4x4"
  [[ $text =~ ^([a-z0-9]+):([0-9x]+)(\*([1-9][0-9]*))?$ ]] ||
    die "topology '$text' is not written GENERATION:SHAPE or GENERATION:SHAPE*SLICES, as v5e:4x4"
  generation=${BASH_REMATCH[1]} shape=${BASH_REMATCH[2]} slices=${BASH_REMATCH[4]:-1}
  read -r _ tpu_type cores gke_tpu runtime shapes <<<"$(grep "^$generation " <<<"$tpus")" || true
  # shellcheck disable=SC2046,SC2086  # lists of words
  [[ $tpu_type ]] || die "there is no TPU '$generation'; did you mean" \
    "$(nearest "$generation" $(awk '{print $1}' <<<"$tpus"))?"
  # shellcheck disable=SC2086
  [[ " $shapes " == *" $shape "* ]] ||
    die "$generation has no topology $shape; did you mean $(nearest "$shape" $shapes)?"
  chips=$((${shape//x/*}))
  tpu_type+=-$((chips * cores))
}
