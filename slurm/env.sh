# shellcheck shell=bash disable=SC2034
# The one file to adapt to your cluster. submit.sh and study.sh read it where you submit, each job where it runs.

# What a job needs before Python starts.
# module load cuda
# shellcheck disable=SC1091
if [ -f "$WINNOW/.venv/bin/activate" ]; then . "$WINNOW/.venv/bin/activate"; fi

# A directory on each node's own disk: a beton is copied there once and read there. Empty: betons are read in place.
# In single quotes, so that variables are expanded on the node.
export WINNOW_LOCAL=${WINNOW_LOCAL-} # '$SLURM_TMPDIR', or '/scratch/$USER'

# Options of every srun, and a command in front of Python, for sites that run containers. With pyxis:
SRUN=() # (--container-image=/shared/winnow.sqsh --container-mounts=/shared,/home)
# With apptainer; the checkout must be visible inside, under the same path:
INSIDE=() # (apptainer exec --nv --bind /shared /shared/winnow.sif)

# How the processes of several nodes find and reach each other. Leave all of it alone until a job says that its
# processes did not meet, or is slow on two nodes.
# export GLOO_SOCKET_IFNAME=eth0            # card for the rendezvous: where the host's own name leads to 127.0.0.1
# export NCCL_SOCKET_IFNAME=eth0            # card that NCCL starts on, often the same; `ip -brief address` lists them
# export NCCL_IB_HCA=mlx5                   # InfiniBand adapters for gradients, where there are also others
# export NCCL_IB_DISABLE=1                  # no InfiniBand here: plain Ethernet
# export NCCL_P2P_DISABLE=1                 # GPUs of a node that hang when they talk directly (virtual machines)
# export NCCL_DEBUG=INFO                    # NCCL says which cards and paths it takes
# export WINNOW_RENDEZVOUS_SECONDS=900      # nodes that start at very different times; 300 otherwise

# sbatch options of every job.
EVERY=() # (--partition=gpu --account=vision --mail-type=FAIL)

# sbatch options of each stage's jobs. One process (task) for each GPU; --cpus-per-task are its decoding threads.
# Pretraining takes as many nodes as you give it. --time: a job that needs more is requeued and resumes. It must be
# enough for one step that cannot be saved half done: writing a beton, features, a probe.
WRITE=(--nodes=1 --ntasks=1 --cpus-per-task=16 --mem=32G --time=08:00:00)
SURROGATE=(--nodes=1 --ntasks-per-node=1 --gpus-per-node=1 --cpus-per-task=12 --mem=64G --time=08:00:00)
PRUNE=(--nodes=1 --ntasks-per-node=1 --gpus-per-node=1 --cpus-per-task=12 --mem=64G --time=04:00:00)
PRETRAIN=(--nodes=1 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12 --mem=0 --time=1-00:00:00)
TRANSFER=(--nodes=1 --ntasks=1 --gpus-per-node=1 --cpus-per-task=12 --mem=64G --time=04:00:00)
REPORT=(--nodes=1 --ntasks=1 --cpus-per-task=4 --mem=16G --time=01:00:00)

# Tasks of a study that run at the same time (study.sh).
LIMIT=8
