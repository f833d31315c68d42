#!/usr/bin/env bash
# Pretrain A-ViT-B on 64 GPUs, 8 nodes of 8; stopped by its time limit or preempted, the job goes on by itself.
#
#   slurm/pretrain_64gpu.sh [SBATCH OPTION ...] [-- RECIPE OVERRIDE ...]    with slurm/cluster.env
#   sbatch [SBATCH OPTION ...] slurm/pretrain_64gpu.sh [-- RECIPE OVERRIDE ...]
#   ARL_RANK_REPORT=1 slurm/pretrain_64gpu.sh ...     what each rank is and reads; nothing is trained
#
# Recipe    recipes/pretrain/avit_base_64gpu.yaml; nodes and devices come from the allocation.
# Shards    at least 640 (64 ranks x 10 workers).
# Guide     docs/cluster.md
#SBATCH --job-name=pretrain_64gpu
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
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
if in_job; then
    begin
    pretrain recipes/pretrain/avit_base_64gpu.yaml "$@"
else
    submit gpu "$0" "$@"
fi
