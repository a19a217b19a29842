#!/usr/bin/env bash
# A Slurm of this one machine, for tests: `slurm.sh start DIR`, `slurm.sh stop DIR`.
# It needs root and Debian's packages slurm-wlm and munge; DIR/slurm.conf is for SLURM_CONF.
set -euo pipefail
action=$1 folder=$2

stop() {
  for name in slurmd slurmctld; do
    [ ! -f "$folder/$name.pid" ] || kill "$(cat "$folder/$name.pid")" 2>/dev/null || true
  done
  [ ! -f "$folder/started_munge" ] || pkill -x munged || true
}

if [ "$action" = stop ]; then stop; exit; fi

for program in munged slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null || { echo "$program is not installed"; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "root is needed to start Slurm"; exit 1; }
mkdir -p "$folder/state" "$folder/spool"
if ! pgrep -x munged >/dev/null; then
  install -d -o munge -g munge /run/munge
  su -s /bin/sh munge -c /usr/sbin/munged || { echo "munged does not start"; exit 1; }
  touch "$folder/started_munge"
fi
host=$(hostname -s)
cat >"$folder/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$folder/slurm.conf
slurmctld && slurmd || { echo "slurmctld or slurmd does not start"; stop; exit 1; }
for _ in $(seq 30); do
  [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && exit
  sleep 1
done
echo "the node does not become idle"
stop
exit 1
