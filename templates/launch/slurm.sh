#!/bin/bash
# Several nodes under Slurm: sbatch templates/launch/slurm.sh --size 7b --prefs prefs.jsonl --out run
# --out must lie on a disk that all nodes share; models and images must be found at the same paths on each.
#SBATCH --job-name=amp-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
set -euo pipefail

export MAIN_NODE GPUS
MAIN_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
GPUS=${SLURM_GPUS_PER_NODE:-8}
GPUS=${GPUS##*:}  # "a100:8" counts 8

# One task on each node: it writes down which machine it is, and trains.
srun bash -c '
set -euo pipefail
file=$(mktemp --suffix=.yaml)
cat > "$file" <<EOF
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
use_cpu: false
num_machines: $SLURM_NNODES
machine_rank: $SLURM_NODEID
num_processes: $((SLURM_NNODES * GPUS))
main_process_ip: $MAIN_NODE
main_process_port: $((20000 + SLURM_JOB_ID % 10000))
mixed_precision: "no"
rdzv_backend: static
same_network: true
EOF
exec amp train "$@" --accelerate-config "$file"
' amp-train "$@"
