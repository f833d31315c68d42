#!/usr/bin/env bash
# Fine-tune on tasks x seeds, an array of one-GPU jobs, and gather what they gave in one table.
#
#   export TASKS="busi gbcu" SEEDS="0 1 2" CKPT=FILE
#   slurm/finetune.sh [SBATCH OPTION ...] [-- RECIPE OVERRIDE ...]    with slurm/cluster.env
#   sbatch --array=0-5 [SBATCH OPTION ...] slurm/finetune.sh [-- RECIPE OVERRIDE ...]
#
# TASKS     names of downstream tasks (default: all six)
# SEEDS     numbers (default: 0 1 2)
# CKPT      the weights, as --checkpoint takes them (default: none, random weights)
# TASK_DATA holds one folder a task, by its name (default: data/tasks); or `phantom`, which draws made-up images
# PROTOCOL  finetune, probe, knn or segment (default: finetune); SIZE its recipe (default: base)
# OUT       holds TASK/seed_N of each run, then report.md (default: runs/PROTOCOL)
#SBATCH --job-name=finetune
#SBATCH --array=0-17
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=12
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
[[ -r $here/lib.sh ]] || here=${ARL_ROOT:-$SLURM_SUBMIT_DIR}/slurm # sbatch runs a copy of this script from elsewhere
[[ -r $here/lib.sh ]] || {
    echo "arl: error: $here/lib.sh: missing; submit from the project's folder, or set ARL_ROOT to it" >&2
    exit 2
}
# shellcheck source=slurm/lib.sh
source "$here/lib.sh"

load_settings
read -ra tasks <<<"${TASKS:-busi gbcu pocus echonet thyroid echo_views}"
read -ra seeds <<<"${SEEDS:-0 1 2}"
protocol=${PROTOCOL:-finetune}
out=${OUT:-$(runs_folder)/$protocol}
num_runs=$((${#tasks[@]} * ${#seeds[@]}))

if ! in_job; then
    submit gpu "$0" --array="0-$((num_runs - 1))" "$@"
    exit
fi

begin
[[ ${1:-} != -- ]] || shift
submit_once_after afterany "$out" report.sh -- "$out"
index=$(array_index "$num_runs")
[[ -n $index ]] || exit 0
task=${tasks[index / ${#seeds[@]}]}
seed=${seeds[index % ${#seeds[@]}]}
root=${TASK_DATA:-$(data_folder)/tasks}
[[ $root == phantom ]] || root=$root/$task
say "$protocol on $task, seed $seed"
task_options=$(sed -n 's/^options: *//p' "recipes/tasks/$task.yaml") # the task's own, as the recipe has them
words_for_check "$@"
check_first tasks check "$task" --root "$root" ${task_options:+--options "$task_options"} "${CHECKED[@]}"
launch -- "${ARL[@]}" "$protocol" "$task" --root "$root" --checkpoint "${CKPT:-none}" \
    --config "recipes/tasks/$task.yaml" --config "recipes/$protocol/${SIZE:-base}.yaml" \
    --seeds "[$seed]" --out "$out/$task/seed_$seed" "$@" || rc=$?
end "${rc:-0}"
