# shellcheck shell=bash
# Sourced by gke_jobset.sh: checks its knobs and fills launch/jobset.yaml in.
# shellcheck disable=SC2034,SC2153  # knobs come from there, and the template takes them by name

# Nothing is cached, as every host writes; a checkpoint is renamed whole, which needs the limit in flat buckets.
MOUNT_OPTIONS=implicit-dirs,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0
MOUNT_OPTIONS+=,file-system:rename-dir-limit:200000

require() {                                 # require KNOB ...
  local knob
  for knob in "$@"; do
    [[ -n ${!knob} ]] || fail "give $knob; the knobs stand at the top of launch/gke_jobset.sh"
  done
}

whole() {                                   # whole KNOB ...
  local knob
  for knob in "$@"; do
    [[ ${!knob} =~ ^[1-9][0-9]*$ ]] || fail "$knob is a number above 0, not '${!knob}'"
  done
}

# Derives what the template and xpk need beyond the knobs, and refuses what cannot work.
check_run() {
  local given=$TOPOLOGY
  (($#)) || fail "give the arguments of vljepa_jax.main, such as --config=configs/base.py"
  [[ " $* " != *" --workdir"* ]] || fail "give WORKDIR, not --workdir"
  require NAME IMAGE BUCKET
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] || fail "NAME '$NAME' is no name for a JobSet, such as jepa-1"
  on_or_off SPOT
  read_type "$TYPE"
  TOPOLOGY=${given:-$TOPOLOGY}
  [[ $TOPOLOGY =~ ^[0-9]+(x[0-9]+)+$ ]] || fail "give TOPOLOGY, such as 4x4: $TYPE has no usual one"
  ((${TOPOLOGY//x/*} == CHIPS)) || fail "TOPOLOGY $TOPOLOGY has $((${TOPOLOGY//x/*})) chips, and $TYPE has $CHIPS"
  CHIPS_PER_HOST=${CHIPS_PER_HOST:-$((CHIPS < 4 ? CHIPS : 4))}
  whole SLICES CHIPS_PER_HOST RESTARTS GRACE
  ((CHIPS % CHIPS_PER_HOST == 0)) || fail "CHIPS_PER_HOST $CHIPS_PER_HOST does not divide the $CHIPS chips of $TYPE"
  HOSTS=$((CHIPS / CHIPS_PER_HOST))
  BUCKET=${BUCKET#gs://}
  WORKDIR=${WORKDIR:-$MOUNT/$NAME}
  [[ $WORKDIR == "$MOUNT"/* ]] || fail "WORKDIR '$WORKDIR' is not below MOUNT $MOUNT, where all hosts see the bucket"
}

# A list for YAML; Kubernetes reads $(NAME) in arguments, and $$ as $.
yaml_list() {
  local item list=
  for item in "$@"; do
    item=${item//\\/\\\\} item=${item//\"/\\\"} item=${item//$'\n'/\\n} item=${item//$'\t'/\\t}
    list+=", \"${item//\$/\$\$}\""
  done
  echo "[${list#, }]"
}

render() {
  local knob text ARGUMENTS
  check_run "$@"
  ARGUMENTS=$(yaml_list "$@" "--workdir=$WORKDIR")
  text=$(<launch/jobset.yaml)
  for knob in QUEUE BUCKET SERVICE_ACCOUNT SPOT; do
    if [[ -n ${!knob} ]]; then
      text=${text//" # if $knob"/}
    else
      text=$(grep -v " # if $knob\$" <<<"$text")
    fi
  done
  for knob in NAME NAMESPACE QUEUE RESTARTS SLICES HOSTS GRACE SERVICE_ACCOUNT ACCELERATOR TOPOLOGY IMAGE GENERATION \
    CHIPS_PER_HOST MOUNT_OPTIONS MOUNT BUCKET ARGUMENTS; do
    text=${text//"@$knob@"/"${!knob}"}
  done
  echo "$text"
}
