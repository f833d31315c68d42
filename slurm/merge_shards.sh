#!/usr/bin/env bash
# Merge packed corpora into one, shuffled anew, and verify it; slurm/pack_shards.sh submits this by itself.
#
#   slurm/merge_shards.sh [SBATCH OPTION ...] [-- OUT CORPUS ...]    with slurm/cluster.env
#   sbatch [SBATCH OPTION ...] slurm/merge_shards.sh [-- OUT CORPUS ...]
#
#SBATCH --job-name=merge_shards
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem=64G
#SBATCH --time=24:00:00
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
if ! in_job; then
    submit cpu "$0" "$@"
    exit
fi

begin
[[ ${1:-} != -- ]] || shift
(($# >= 2)) || refuse "name the merged corpus, then those that it is made of"
out=$1
shift
for part in "$@"; do
    compgen -G "$part/manifest.json" >/dev/null || compgen -G "$part/*/manifest.json" >/dev/null ||
        refuse "$part: holds no packed shards; pack it first"
done
launch -- "${ARL[@]}" shards merge "$@" --out "$out" --processes "${SLURM_CPUS_PER_TASK:-1}" || rc=$?
((${rc:-0})) || launch -- "${ARL[@]}" shards verify "$out" || rc=$?
end "${rc:-0}"
