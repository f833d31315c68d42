# shellcheck shell=bash
# What the job scripts beside this file share: the site's settings, submitting themselves, preflight, the launch.
#
# A script sources it with `here` set to the folder that both lie in. Outside of a job it then calls `submit`; within
# one `begin`, `check_first`, `launch` and `end`.

ARL_ROOT=$(cd "${here:?}/.." && pwd)
export ARL_ROOT
readonly SETTINGS=${ARL_CLUSTER_ENV:-$ARL_ROOT/slurm/cluster.env}

in_job() { [[ -n ${SLURM_JOB_ID:-} ]]; }

say() { # into the job's log
    local task=${SLURM_ARRAY_JOB_ID:+" (${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-})"}
    printf 'job %s%s: %s\n' "$SLURM_JOB_ID" "$task" "$*"
}

refuse() { # REASON: with the status of all that a user can mend
    printf 'arl: error: %s\n' "$*" >&2
    exit 2
}

# ---------------------------------------------------------------- settings

load_settings() {
    # Whoever logs in to one machine of GPUs may carry MASTER_ADDR=localhost: several nodes then wait for ever.
    unset MASTER_ADDR MASTER_PORT
    GPU_OPTIONS=() CPU_OPTIONS=() CONTAINER_OPTIONS=()
    if [[ -r $SETTINGS ]]; then
        set -a # NCCL_*, GLOO_* and SBATCH_* are for other programs
        # shellcheck source=slurm/cluster.env.example
        source "$SETTINGS"
        set +a
    elif [[ -n ${ARL_CLUSTER_ENV:-} ]]; then
        refuse "ARL_CLUSTER_ENV: no file $SETTINGS; copy slurm/cluster.env.example"
    fi
}

runs_folder() { printf '%s/runs' "${SCRATCH_FOLDER:-$ARL_ROOT}"; }
corpus_folder() { printf '%s/corpus' "${SCRATCH_FOLDER:-$ARL_ROOT}"; }
data_folder() { printf '%s/data' "${SCRATCH_FOLDER:-$ARL_ROOT}"; }

# ---------------------------------------------------------------- submitting

submit() { # gpu|cpu SCRIPT [SBATCH OPTION ...] [-- ARGUMENT ...]
    local kind=$1 script=slurm/${2##*/} options=()
    shift 2
    if [[ $kind == gpu ]]; then options=("${GPU_OPTIONS[@]}"); else options=("${CPU_OPTIONS[@]}"); fi
    while (($#)) && [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    (($# == 0)) || shift
    command -v sbatch >/dev/null || refuse "no sbatch here: run $script on a login node of a Slurm cluster"
    cd "$ARL_ROOT"
    # sbatch makes no folder for the log, and a job whose log cannot be opened fails without a word.
    mkdir -p slurm/logs
    sbatch --output="slurm/logs/$(log_name "$script")" "${options[@]}" "$script" -- "$@"
}

log_name() { sed -n 's/^#SBATCH --output=//p' "$1"; } # SCRIPT

submit_once_after() { # CONDITION FOLDER SCRIPT [SBATCH OPTION ...] -- ARGUMENT ...: of an array, for all of it
    local condition=$1 mark=$2/.followed-$SLURM_ARRAY_JOB_ID script=$3
    shift 3
    ((SLURM_ARRAY_TASK_ID == SLURM_ARRAY_TASK_MIN)) || return 0
    mkdir -p "${mark%/*}"
    mkdir "$mark" 2>/dev/null || return 0 # this task has been requeued
    say "$script follows when all of the array have ended"
    if ! (
        forget_job
        submit cpu "$script" --dependency="$condition:$array" "$@"
    ); then
        rmdir "$mark"
        say "$script could not be submitted from here; once all have ended: slurm/$script ${*@Q}"
    fi
}

forget_job() { # so that a job submitted from within one does not take its numbers for its own
    array=$SLURM_ARRAY_JOB_ID
    local configuration=${SLURM_CONF:-}
    unset "${!SLURM_@}"
    [[ -z $configuration ]] || export SLURM_CONF=$configuration
}

# ---------------------------------------------------------------- within a job

begin() {
    cd "$ARL_ROOT"
    # Left alone, these would end the batch shell at once, and the job with it, while its ranks still save. Not ignored:
    # that would be handed down.
    trap : USR1 TERM
    say "$SLURM_JOB_NAME, start $((${SLURM_RESTART_COUNT:-0} + 1)), on ${SLURM_JOB_NODELIST:-?}, $(date '+%F %T')"
    [[ -r $SETTINGS ]] || say "no $SETTINGS: what a site needs is taken from sbatch alone"
    load_modules
    # Each worker keeps a few shards open, and batches travel through file descriptors.
    ulimit -Sn "$(ulimit -Hn)" || say "the limit of open files stays at $(ulimit -Sn)"
    export PYTHONUNBUFFERED=1                    # the last words of a killed rank reach the log
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the cores belong to the loaders' workers
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
    find_arl
}

load_modules() {
    [[ -n ${MODULES:-} ]] || return 0
    local module
    set +eu # the functions behind `module` are not written for them
    for module in $MODULES; do
        module load "$module" || refuse "MODULES: \`module load $module\` failed"
    done
    set -eu
}

find_arl() { # sets ARL, the words that run `arl`
    local program=${VENV:-$ARL_ROOT/.venv}/bin/arl runtime=${CONTAINER_RUNTIME:-apptainer}
    if [[ -z ${CONTAINER:-} ]]; then
        [[ -x $program ]] || refuse "$program: missing; run \`make setup\`, or set VENV or CONTAINER in cluster.env"
        ARL=("$program")
        return
    fi
    command -v "$runtime" >/dev/null || refuse "CONTAINER_RUNTIME: no $runtime on $SLURMD_NODENAME"
    local verb=exec
    [[ $runtime != enroot ]] || verb=start
    ARL=("$runtime" "$verb" "${CONTAINER_OPTIONS[@]}" "$CONTAINER" arl)
}

array_index() { # NUM_RUNS: prints this task's own, nothing where there is no run for it
    local index=$SLURM_ARRAY_TASK_ID
    ((SLURM_ARRAY_TASK_COUNT >= $1)) || say "this array runs $SLURM_ARRAY_TASK_COUNT of $1: --array=0-$(($1 - 1))" >&2
    if ((index < $1)); then printf '%s' "$index"; else say "nothing to do: there are $1 runs" >&2; fi
}

refuse_full_disk() { # FOLDER GIGABYTES
    mkdir -p "$1"
    local free
    free=$(df --output=avail --block-size=1G "$1" | tail -n 1)
    ((free >= $2)) || refuse "$1: $((free)) GB are free, FREE_GB asks for $2; make room, or set OUT to another folder"
}

words_for_check() { # WORD ... of a run: sets CHECKED, those that `arl tasks check` takes too
    CHECKED=()
    while (($#)); do
        case $1 in
            --table=* | --root=* | --options=* | --options.*=*) CHECKED+=("$1") ;;
            --table | --root | --options | --options.*)
                CHECKED+=("$1" "${2:-}")
                shift $(($# > 1))
                ;;
        esac
        shift
    done
}

check_first() { # ARGUMENT ...: of `arl`; ends the job where it refuses them
    local rc=0
    "${ARL[@]}" "$@" || rc=$?
    ((rc)) || return 0
    say "refused before anything was started (status $rc): mend what stands above, then submit again"
    exit "$rc"
}

holding_signals() { # sets HELD, the words before a command that hold signals back until it lets them in
    # Python imports for seconds, and SIGUSR1 would kill it meanwhile; `arl` lets signals in once it has its handlers.
    HELD=(env --block-signal=USR1 --block-signal=TERM)
    "${HELD[@]}" true 2>/dev/null || {
        HELD=()
        say "this env cannot hold signals back (coreutils 8.31 can): one within the first seconds ends the run"
    }
}

launch() { # [SRUN OPTION ...] -- COMMAND ...: on all tasks of the job; returns srun's status
    local options=() rc=0
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    # ALL: sbatch may have been told NONE. block: the ranks of a node follow one another.
    srun --kill-on-bad-exit=1 --export=ALL --distribution=block --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        "${options[@]}" "$@" || rc=$?
    return "$rc"
}

end() { # STATUS
    case $1 in
        0) say "done, $(date '+%F %T')" ;;
        138 | 143) # 128 + SIGUSR1 or SIGTERM
            say "stopped by a signal (status $1): the lines above say whether it goes on by itself" ;;
        *)
            all_nodes_answer || start_again
            say "failed with status $1: the first error above says why; submitted again, it goes on where it stopped"
            ;;
    esac
    exit "$1"
}

# Ranks lose a dead node's peers long before Slurm misses the node (SlurmdTimeout, 5 minutes by default), and end.
all_nodes_answer() {
    ((SLURM_NNODES == 1)) || timeout 90 srun --export=ALL --overlap --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" \
        --ntasks-per-node=1 --cpus-per-task=1 true >/dev/null 2>&1
}

start_again() {
    say "a node of $SLURM_JOB_NODELIST does not answer: back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || return 0
    sleep 60 # Slurm ends this shell meanwhile
}

# ---------------------------------------------------------------- pretraining

pretrain() { # RECIPE [--] [OVERRIDE ...]
    local recipe=$1 rc=0
    shift
    [[ ${1:-} != -- ]] || shift
    [[ -n ${SLURM_NTASKS_PER_NODE:-} ]] || refuse "--ntasks-per-node: not given to sbatch; give one task a GPU"
    local arguments=(--config "$recipe" --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE")
    if [[ -n ${SCRATCH_FOLDER:-} ]]; then
        local name=${recipe##*/}
        arguments+=(--run.folder "$(runs_folder)/${name%.yaml}" --data.shards "$(corpus_folder)/all/train")
    fi
    arguments+=(--ckpt_path last "$@")
    if [[ -n ${ARL_RANK_REPORT:-} ]]; then
        launch -- "${ARL[@]}" ranks "${arguments[@]}" || rc=$?
        end "$rc"
    fi
    check_first preflight "${arguments[@]}"
    holding_signals
    launch --label -- "${HELD[@]}" "${ARL[@]}" pretrain "${arguments[@]}" || rc=$?
    end "$rc"
}
