#!/usr/bin/env bash
# Test the job scripts on a real Slurm: the one that this machine belongs to, else a cluster that is started here.
#
#   make test-slurm [FULL=1] [ARGS="-k signalled"]
#
# ARL_TEST_SBATCH   options that a site's sbatch needs, such as "--account=me --partition=debug"
# SLURM_CLUSTER     a script that starts a cluster of Linux namespaces: up, run, kill-node, start-node, down
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
shift
export ARL_TEST_SLURM=1

if timeout 20 sinfo --noheader >/dev/null 2>&1; then
    unset SLURM_CLUSTER # nodes of somebody's cluster are not switched off
    exec "$python" -m pytest tests/slurm "$@"
fi

export SLURM_CLUSTER=${SLURM_CLUSTER:-$PWD/../shared/tools/slurm-cluster}
[[ -x $SLURM_CLUSTER ]] || {
    echo "test-slurm: no Slurm answers here (sinfo), and SLURM_CLUSTER names no script that starts one:" \
        "$SLURM_CLUSTER; run this on a login node, or name such a script" >&2
    exit 2
}
SLURM_CLUSTER_DIR=$(mktemp -d /tmp/arl-slurm.XXXXXX)
export SLURM_CLUSTER_DIR
trap '"$SLURM_CLUSTER" down && rm -rf "$SLURM_CLUSTER_DIR"' EXIT
trap 'exit 130' INT TERM
# As many nodes, GPUs and cores as the largest script asks for; the machine need not have them.
"$SLURM_CLUSTER" up 8 128 8
"$SLURM_CLUSTER" run "$python" -m pytest tests/slurm "$@"
