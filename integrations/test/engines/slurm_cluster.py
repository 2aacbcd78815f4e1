"""A Slurm cluster on this machine's loopback: munged, slurmctld and some slurmd, from Debian's packages that lie in a folder, with
everything that they write in one temporary folder. It needs no installation, and several may run side by side."""

import ctypes
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import debian

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "munge"]
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PRCTL = ctypes.CDLL(None, use_errno=True).prctl
# The version for which the settings are.
TRIED = "22.05"
# What a job may be in before it ends.
UNFINISHED = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "STOPPED", "REQUEUE_HOLD"}

CONFIGURATION = """
ClusterName=cupscale
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={cred_expire}
PluginDir={plugins}
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
# Neither control groups nor a database are needed.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
# Cores alone are counted.
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait={kill_wait}
MinJobAge=86400
{nodes}
PartitionName=work Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace_time}
PartitionName=urgent Nodes=ALL PriorityTier=10
"""


class Cluster:
    """`with Cluster() as cluster:` starts it, and ends every process of it on the way out."""

    def __init__(self, nodes=2, cpus=3, kill_wait=10, cred_expire=5, grace_time=0):
        self.names = [f"n{number + 1}" for number in range(nodes)]
        self.settings = dict(kill_wait=kill_wait, cred_expire=cred_expire, grace_time=grace_time)
        self.cpus = cpus
        self.daemons = []

    def __enter__(self):
        self.root = debian.unpacked(*PACKAGES)
        # A socket's path may have 107 bytes: not below a long TMPDIR.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cupscale-slurm-", dir="/tmp"))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
            **debian.environment(self.root),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }
        # Orphans of the daemons, as each job's keeper is one, become ours, and are ended by us.
        PRCTL(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            self.start()
        except BaseException as error:
            version = self.version()
            self.stop()
            if isinstance(error, AssertionError) and TRIED not in version:
                raise debian.Unavailable(f"{version or 'Slurm'} does not start with the settings of {TRIED}: {error}")
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        user = subprocess.run(["id", "-un"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        ports = free_ports(len(self.names) + 1)
        host = socket.gethostname().split(".")[0]
        plugins = next(iter(self.root.glob("usr/lib/*/slurm-wlm")), None)
        if plugins is None:
            raise debian.Unavailable(f"{self.root}: no plug-ins of Slurm's in Debian's packages")
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} RealMemory=65536 State=UNKNOWN"
            for name, port in zip(self.names, ports[1:])
        )
        for name in ("munge", "state", "log", *self.names):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(
            host=host, port=ports[0], folder=self.folder, plugins=plugins, user=user, nodes=nodes, **self.settings,
        ))
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        munge = self.folder / "munge"
        self.daemon(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/socket",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--num-threads=2",
        )
        self.until(lambda: (munge / "socket").exists(), "munged makes no socket")
        self.daemon("slurmctld-wlm", "-D", "-c")
        keeper = self.root / "usr/sbin/slurmstepd-wlm"
        for name in self.names:
            self.daemon("slurmd-wlm", "-D", "-N", name, "-d", str(keeper), log=name)
        self.until(
            lambda: self.call("sinfo", "-h", "-N", "-p", "work", "-o", "%T").split() == ["idle"] * len(self.names),
            "the nodes do not come up",
        )

    def daemon(self, program, *arguments, log=None):
        """Starts a daemon that ends with this process, whatever ends that."""
        output = open(self.folder / "log" / (log or program), "w")
        self.daemons.append(subprocess.Popen(
            [self.root / "usr/sbin" / program, *arguments], env=self.environment, cwd=self.folder,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            preexec_fn=lambda: PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
        ))

    def stop(self):
        if len(self.daemons) > 1:
            subprocess.run(
                ["scancel", "--signal=KILL", "--full", "--user", str(os.getuid())], env=self.environment,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60,
            )
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(2)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        # Keepers and jobs that nobody ended.
        for _ in range(100):
            left = descendants(os.getpid(), self.folder)
            for process in left:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if not left:
                break
            time.sleep(0.05)
        # Adopted ones that have ended want somebody to say so to.
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        self.daemons = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def until(self, condition, otherwise, seconds=120):
        """Waits for a condition; an error has the ends of the daemons' logs."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            dead = [daemon.args[0].name for daemon in self.daemons if daemon.poll() is not None]
            if dead:
                otherwise = f"{', '.join(dead)} ended"
                break
            value = condition()
            if value:
                return value
            time.sleep(0.1)
        logs = "\n".join(
            f"{path.name}: {line}" for path in sorted((self.folder / "log").iterdir())
            for line in path.read_text(errors="replace").splitlines()[-6:]
        )
        otherwise = otherwise() if callable(otherwise) else otherwise
        raise AssertionError(f"{otherwise} (after {seconds} s)\n{logs}")

    def version(self):
        return self.call("sinfo", "--version").strip()

    def call(self, *command, **options):
        """The output of one of Slurm's commands; nothing where it fails, as while the cluster comes up."""
        return subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options,
        ).stdout

    def sbatch(self, *arguments, cwd, variables={}):
        """Hands a job in as a user does."""
        return subprocess.run(
            ["sbatch", "--parsable", *map(str, arguments)], env={**self.environment, **variables}, cwd=cwd,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def submit(self, *arguments, **options):
        """Hands a job in, and gives its number."""
        done = self.sbatch(*arguments, **options)
        assert done.returncode == 0, f"sbatch: {done.stderr}"
        return done.stdout.strip()

    def tasks(self, job):
        """Every task of a job by its number in the array (0 without one): what `scontrol` says of it, by name."""
        found = {}
        for line in self.call("scontrol", "--oneliner", "show", "job", job).splitlines():
            fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
            # One line may stand for tasks that have not begun: 5-24%4.
            for number in expanded(fields.get("ArrayTaskId", "0")):
                found[number] = fields
        return found

    def state(self, job):
        """How many tasks are in each state."""
        states = {}
        for fields in self.tasks(job).values():
            states[fields["JobState"]] = states.get(fields["JobState"], 0) + 1
        return states

    def finished(self, job, seconds=300):
        """Waits until no task of a job runs or will run, and gives them all."""
        def ended():
            tasks = self.tasks(job)
            return tasks if tasks and not any(it["JobState"] in UNFINISHED for it in tasks.values()) else None
        return self.until(ended, lambda: f"job {job} does not end: {self.state(job)}", seconds)


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for it in held:
        it.bind(("127.0.0.1", 0))
    ports = [it.getsockname()[1] for it in held]
    for it in held:
        it.close()
    return ports


def expanded(numbers):
    """The numbers of a list as Slurm writes it, `1,3,5-8%4`."""
    found = []
    for part in numbers.split("%")[0].split(","):
        first, _, last = part.partition("-")
        last, _, step = last.partition(":")
        found += range(int(first), int(last or first) + 1, int(step or 1))
    return found


def descendants(of, folder):
    """The processes below one, adopted ones included, that belong to the cluster in a folder."""
    parents = {}
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            stat = (place / "stat").read_text()
        except OSError:
            continue
        state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
        if state != "Z":
            parents[int(place.name)] = int(parent)
    found = []
    for number in parents:
        at = number
        while at in parents and at != of:
            at = parents[at]
        if at == of and number != of:
            try:
                variables = pathlib.Path(f"/proc/{number}/environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in variables:
                found.append(number)
    return found
