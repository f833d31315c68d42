#!/usr/bin/env bash
# Measure on a node of the cluster how fast shards are read, decoded and cropped, and name the best workers.
#
#   slurm/bench_shards.sh [SBATCH OPTION ...] [-- SHARDS [OPTION OF `arl shards bench` ...]]    with slurm/cluster.env
#   sbatch [SBATCH OPTION ...] slurm/bench_shards.sh [-- SHARDS [OPTION OF `arl shards bench` ...]]
#
# Leaves    bench.csv and bench.png in runs/bench_shards-JOB
#SBATCH --job-name=bench_shards
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --exclusive
#SBATCH --time=01:00:00
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
(($#)) || set -- "$(corpus_folder)/all/train"
[[ $1 == *:* || -r $1/manifest.json ]] || refuse "$1: holds no packed shards; name a folder with a manifest.json"
launch -- "${ARL[@]}" shards bench --out "$(runs_folder)/bench_shards-$SLURM_JOB_ID" --shards "$@" || rc=$?
end "${rc:-0}"
