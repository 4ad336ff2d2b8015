#!/usr/bin/env bash
# Starts a Slurm of two nodes on this machine, without systemd; prints the variable that names it.
#
#     apt-get install slurm-wlm munge        # Debian or Ubuntu, as root
#     eval "$(benchmarks/slurm/two_nodes.sh slurm_test)"
#     benchmarks/slurm/two_nodes.sh slurm_test stop
#
# Both nodes, n1 and n2, are this machine with two cores each, in the partition "cpu".
set -euo pipefail
folder=$(realpath -m "$1")  # the daemons change theirs
export SLURM_CONF=$folder/slurm.conf
if [ "${2:-}" = stop ]; then
  for file in "$folder"/*.pid; do kill "$(cat "$file")" || true; done
  exit
fi
host=$(hostname -s)
mkdir -p "$folder/state" /run/munge
if [ ! -S /run/munge/munge.socket.2 ]; then
  [ -f /etc/munge/munge.key ] || head -c 1024 /dev/urandom > /etc/munge/munge.key
  chown -R munge:munge /etc/munge /run/munge /var/log/munge /var/lib/munge
  chmod 400 /etc/munge/munge.key
  chmod 755 /run/munge
  su -s /bin/sh munge -c "munged --force" >&2
fi
cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
SlurmctldPort=16817
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmdSpoolDir=$folder/%n
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=300
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=n1 NodeHostname=$host Port=17001 CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname=$host Port=17002 CPUs=2 RealMemory=4000
PartitionName=cpu Nodes=n1,n2 MaxTime=INFINITE State=UP
CONF
slurmctld >&2
for node in n1 n2; do slurmd -N $node >&2; done
for _ in $(seq 30); do
  [ "$(sinfo -h -t idle -o %D)" = 2 ] && break
  sleep 1
done
sinfo >&2
echo "export SLURM_CONF=$SLURM_CONF"
