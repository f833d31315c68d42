#!/usr/bin/env bash
# Pack data sets into shards, an array of one job a spec, then merge and verify them.
#
#   export SPECS="shards/specs/hc18.yaml shards/specs/camus.yaml" DATA=DIR
#   slurm/pack_shards.sh [SBATCH OPTION ...] [-- OPTION OF `arl shards pack` ...]   with slurm/cluster.env
#   sbatch --array=0-1 [SBATCH OPTION ...] slurm/pack_shards.sh [-- OPTION OF `arl shards pack` ...]
#
# SPECS     files that say what is packed and how, see shards/README.md
# DATA      holds the data sets' folders (default: data)
# OUT       the merged corpus (default: corpus/all); OUT.parts holds one corpus a spec
# FREE_GB   refuse to begin with less space there (default: 10); a corpus needs twice its size while it is packed
#SBATCH --job-name=pack_shards
#SBATCH --array=0-17
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem=64G
#SBATCH --time=24:00:00
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
read -ra specs <<<"${SPECS:-}"
((${#specs[@]})) || refuse 'SPECS: not set; name what to pack: SPECS="shards/specs/hc18.yaml shards/specs/camus.yaml"'
out=${OUT:-$(corpus_folder)/all}

if ! in_job; then
    submit cpu "$0" --array="0-$((${#specs[@]} - 1))" "$@"
    exit
fi

begin
[[ ${1:-} != -- ]] || shift
parts=()
for spec in "${specs[@]}"; do parts+=("$out.parts/$(basename "$spec" .yaml)"); done
submit_once_after afterok "$out.parts" merge_shards.sh --kill-on-invalid-dep=yes -- "$out" "${parts[@]}"
index=$(array_index "${#specs[@]}")
[[ -n $index ]] || exit 0
spec=${specs[index]}
data=${DATA:-$(data_folder)}
say "packing $spec from $data into ${parts[index]}"
refuse_full_disk "$out.parts" "${FREE_GB:-10}"
# Of an archive every header would be read.
if grep -q '^source: *dicom' "$spec"; then
    [[ -d $data ]] || refuse "$data: no such folder; DATA names the one that holds the data sets"
else
    check_first shards pack "$spec" --root "$data" --dry_run true
fi
launch -- "${ARL[@]}" shards pack "$spec" --root "$data" --out "${parts[index]}" \
    --processes "${SLURM_CPUS_PER_TASK:-1}" "$@" || rc=$?
end "${rc:-0}"
