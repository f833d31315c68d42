#!/usr/bin/env bash
# Gather the results of all runs below folders in one table.
#
#   slurm/report.sh [SBATCH OPTION ...] [-- FOLDER [OPTION OF `arl report` ...]]    with slurm/cluster.env
#   sbatch [SBATCH OPTION ...] slurm/report.sh [-- FOLDER [OPTION OF `arl report` ...]]
#
#SBATCH --job-name=report
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=8G
#SBATCH --time=01:00:00
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
folder=${1:-$(runs_folder)/finetune}
[[ -d $folder ]] || refuse "$folder: no such folder; name the one that holds the runs"
launch -- "${ARL[@]}" report "$folder" --out "$folder/report.md" "${@:2}" || rc=$?
end "${rc:-0}"
