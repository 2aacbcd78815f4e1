"""The Job of integrations/kubernetes without a cluster: its manifests by Kubernetes' own schemas, and its pods, run as the manifest
says (user, read-only files, volumes, variables, arguments) under a controller that applies the rules of the manifest.

    python3 integrations/test/engines/kubernetes_job.py target/release/cupscale-fast
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import debian
import pictures
import processes
import pypi

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "kubernetes"
DOCKERFILE = FOLDER.parent / "containers" / "Dockerfile"
# The oldest that has backoffLimitPerIndex for good, and the newest that the validator knows.
VALIDATOR, VERSIONS = "kubernetes-validate==1.37.0", ("1.33", "1.37")
PICTURES, SHARES, AT_ONCE = 18, 6, 3


def validate(python):
    """Every manifest by the schemas of both versions, without a field that they do not know."""
    files = sorted(FOLDER.glob("*.yaml"))
    for version in VERSIONS:
        done = debian.run([python.parent / "kubernetes-validate", "--strict", "-k", version, *files])
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("passed") + done.stderr.count("passed") >= len(files), done.stdout + done.stderr
    # A validator that lets everything pass would be none.
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as wrong:
        wrong.write((FOLDER / "job.yaml").read_text().replace("completionMode", "completionKind"))
        wrong.flush()
        assert debian.run([python.parent / "kubernetes-validate", "--strict", wrong.name]).returncode != 0
    print(f"manifests: {', '.join(file.name for file in files)} are valid for Kubernetes {' and '.join(VERSIONS)}")


def read(name, replacements=()):
    """The one document of a manifest, after lines of it were edited as a user does."""
    import yaml

    text = (FOLDER / name).read_text()
    for old, new in replacements:
        assert old in text, f"{name} has no {old}"
        text = text.replace(old, new)
    return yaml.safe_load(text)


def variants():
    """The manifest for GPUs is that for the CPU but for what it says of itself."""
    plain, other = read("job.yaml"), read("job-cuda.yaml")
    container = other["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"].pop("nvidia.com/gpu") == 1
    container["args"].remove("--device=cuda:0")
    container["image"] = container["image"].removesuffix("-cuda")
    assert plain == other, "job.yaml and job-cuda.yaml differ in more than they say"


def consistent(job):
    """What the API's server checks beyond the schema, and what the manifest's parts must agree in."""
    spec = job["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    assert spec["completionMode"] == "Indexed" and pod["restartPolicy"] == "Never"
    assert spec["maxFailedIndexes"] <= spec["completions"]
    assert f"--shard=auto/{spec['completions']}" in container["args"], "the number of shares is not that of completions"
    grace = next(int(it.split("=")[1]) for it in container["args"] if it.startswith("--grace="))
    assert grace < pod["terminationGracePeriodSeconds"], "the grace of the program is not within that of the pod"
    for rule in spec["podFailurePolicy"]["rules"]:
        on = rule.get("onExitCodes", {})
        assert on.get("containerName", container["name"]) == container["name"]
        values = on.get("values", [])
        assert values == sorted(set(values)) and 0 not in values
    assert {it["name"] for it in container["volumeMounts"]} == {it["name"] for it in pod["volumes"]}
    user = re.search(r"^USER (\d+)", DOCKERFILE.read_text(), re.M)
    assert user and int(user[1]) == pod["securityContext"]["runAsUser"], "the user of the image is not that of the pod"


def action(policy, exit_code, conditions=()):
    """What the rules say of a pod that failed: the first that matches, else that it counts."""
    for rule in policy["rules"]:
        if "onExitCodes" in rule:
            codes = rule["onExitCodes"]
            if (exit_code in codes["values"]) == (codes["operator"] == "In") and exit_code != 0:
                return rule["action"]
        elif any(
            (it["type"], it.get("status", "True")) in [(condition, "True") for condition in conditions]
            for it in rule["onPodConditions"]
        ):
            return rule["action"]
    return "Count"


class Node:
    """Runs pods with bubblewrap: the volumes of the manifest, read-only files around them, the user of the manifest."""

    def __init__(self, program, folder):
        root = debian.unpacked("bubblewrap")
        self.program, self.folder = program, folder
        self.bubblewrap = root / "usr/bin/bwrap"
        self.environment = {**os.environ, **debian.environment(root)}
        probe = debian.run([self.bubblewrap, "--ro-bind", "/", "/", "--unshare-all", "true"], env=self.environment)
        if probe.returncode != 0:
            raise debian.Unavailable(f"bubblewrap cannot make a container here: {probe.stderr.strip()}")

    def start(self, job, index, claims):
        """Starts the pod of an index; gives its process and its log."""
        pod = job["spec"]["template"]["spec"]
        container = pod["containers"][0]
        variables = {"JOB_COMPLETION_INDEX": str(index), "HOME": "/", "PATH": "/usr/local/bin:/usr/bin:/bin"}
        for it in container["env"]:
            if "value" in it:
                variables[it["name"]] = it["value"]
            elif "resourceFieldRef" in it.get("valueFrom", {}):
                kind, name = it["valueFrom"]["resourceFieldRef"]["resource"].split(".")
                variables[it["name"]] = container["resources"][kind][name]
        arguments = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], it) for it in container["args"]]
        volumes = {it["name"]: it for it in pod["volumes"]}
        mounts = []
        for it in container["volumeMounts"]:
            volume = volumes[it["name"]]
            if "emptyDir" in volume:
                place = pathlib.Path(tempfile.mkdtemp(dir=self.folder, prefix="scratch-"))
            else:
                place = claims[volume["persistentVolumeClaim"]["claimName"]]
            mounts += ["--ro-bind" if it.get("readOnly") else "--bind", place, it["mountPath"]]
        user, group = (str(pod["securityContext"][it]) for it in ("runAsUser", "runAsGroup"))
        log = open(self.folder / f"pod-{index}.log", "a")
        assert container["securityContext"]["readOnlyRootFilesystem"]
        return subprocess.Popen(
            [
                self.bubblewrap, "--tmpfs", "/", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib",
                *(("--symlink", "usr/lib64", "/lib64") if os.path.exists("/usr/lib64") else ()),
                "--ro-bind", self.program, "/opt/cupscale-fast",
                "--proc", "/proc", "--dev", "/dev", *mounts, "--remount-ro", "/",
                # The program is the first process of its pod, as in a container.
                "--unshare-all", "--as-pid-1", "--uid", user, "--gid", group, "--die-with-parent", "--clearenv",
                *(word for name, value in variables.items() for word in ("--setenv", name, value)),
                "/opt/cupscale-fast", *arguments,
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment,
        )


class Controller:
    """What the Job's controller does with pods that end, by the rules of the manifest."""

    def __init__(self, node, job, claims):
        self.node, self.job, self.claims = node, job, claims
        # By index: how often it counted as failed, how its pods ended, what befell the first of them.
        self.failures, self.codes, self.happened = {}, {}, {}
        self.succeeded, self.failed = set(), set()

    def run(self, troubles=()):
        """Runs the Job to its end. Each trouble befalls the pod of another index, in the middle of a picture."""
        pods = {}
        try:
            self.pods_to_their_end(pods, list(troubles))
        finally:
            for process in pods.values():
                process.kill()
                process.wait()

    def pods_to_their_end(self, pods, troubles):
        spec = self.job["spec"]
        waiting = list(range(spec["completions"]))
        end = time.monotonic() + 300
        while waiting or pods:
            assert time.monotonic() < end, f"the Job does not end; its pods ended with {self.codes}"
            while waiting and len(pods) < spec["parallelism"]:
                index = waiting.pop(0)
                self.codes.setdefault(index, [])
                pods[index] = self.node.start(self.job, index, self.claims)
            time.sleep(0.02)
            for index, process in list(pods.items()):
                # What bubblewrap started is the program.
                program = next(filter(processes.begun, processes.children(process.pid)), None)
                if troubles and program and index not in self.happened:
                    self.happened[index] = troubles.pop(0)
                    os.kill(program, signal.SIGKILL if self.happened[index] == "killed" else signal.SIGTERM)
                code = process.poll()
                if code is None:
                    continue
                del pods[index]
                if self.ended(index, 128 - code if code < 0 else code):
                    waiting.append(index)
        assert not troubles, f"nothing was in the middle of a picture to be {troubles}"

    def ended(self, index, code):
        """Notes the end of a pod; true if there is to be another one in its place."""
        self.codes[index].append(code)
        if code == 0:
            self.succeeded.add(index)
            return False
        first = len(self.codes[index]) == 1
        conditions = ["DisruptionTarget"] if first and self.happened.get(index) == "evicted" else []
        what = action(self.job["spec"]["podFailurePolicy"], code, conditions)
        if what == "Count":
            self.failures[index] = self.failures.get(index, 0) + 1
        if what == "FailIndex" or self.failures.get(index, 0) > self.job["spec"]["backoffLimitPerIndex"]:
            self.failed.add(index)
            return False
        return True


def rules(policy):
    """The exit codes of the program, by the rules: what fails a share and what tries it again."""
    for code, conditions, expected in [
        (1, [], "FailIndex"), (2, [], "FailIndex"), (130, [], "Ignore"), (143, [], "Ignore"),
        (137, [], "Count"), (139, [], "Count"), (134, [], "Count"), (3, [], "Count"),
        (137, ["DisruptionTarget"], "Ignore"), (1, ["DisruptionTarget"], "Ignore"), (130, ["DisruptionTarget"], "Ignore"),
        (137, ["PodReadyToStartContainers"], "Count"),
    ]:
        found = action(policy, code, conditions)
        assert found == expected, f"exit code {code} with {conditions}: {found} and not {expected}"


def jobs(program, folder):
    node = Node(program, folder)
    claims = {"pictures": folder / "pictures", "cupscale-models": folder / "models"}
    for claim in claims.values():
        claim.mkdir()
    pictures.cut(program, claims["pictures"] / "shots", PICTURES, 96, 72)
    one = folder / "one"
    subprocess.run(
        [program, "-q", "shots", "-o", one, "--scale", "2", "--threads", "2"], check=True, cwd=claims["pictures"],
    )
    reference = pictures.outputs(one)
    edits = [
        ("completions: 50", f"completions: {SHARES}"), ("auto/50", f"auto/{SHARES}"), ("maxFailedIndexes: 50", f"maxFailedIndexes: {SHARES}"),
        ("parallelism: 8", f"parallelism: {AT_ONCE}"), ("--scale=4", "--scale=2"), ('cpu: "4"', 'cpu: "1"'),
    ]

    # Pods that are stopped, evicted and killed in the middle of a picture.
    job = read("job.yaml", edits)
    consistent(job)
    controller = Controller(node, job, claims)
    controller.run(["stopped", "evicted", "killed"])
    assert controller.succeeded == set(range(SHARES)), controller.codes
    first = {"stopped": 130, "evicted": 130, "killed": 137}
    for index, codes in controller.codes.items():
        happened = controller.happened.get(index)
        assert codes == ([first[happened], 0] if happened else [0]), f"{controller.happened}: {controller.codes}"
    # Killed without being asked alone is counted.
    assert controller.failures == {index: 1 for index, it in controller.happened.items() if it == "killed"}, controller.failures
    pictures.same(reference, claims["pictures"] / "big", PICTURES)
    said, code = pictures.status(program, claims["pictures"] / "big")
    assert code == 0 and said["done"] == said["pictures"] == PICTURES and len(said["shares"]) == SHARES, said
    happened = ", ".join(f"{index} {it}" for index, it in controller.happened.items())
    print(f"job: {PICTURES} pictures, {SHARES} shares; pods {happened}; all done, the same bytes", flush=True)

    # A picture that cannot be read fails its share alone, at once; so does an option that is wrong.
    (claims["pictures"] / "shots" / "broken.ppm").write_bytes(b"P6\n96 72\n255\ntoo short")
    controller = Controller(node, job, claims)
    controller.run()
    assert len(controller.failed) == 1 and len(controller.succeeded) == SHARES - 1, controller.codes
    assert controller.codes[next(iter(controller.failed))] == [1], controller.codes
    said, code = pictures.status(program, claims["pictures"] / "big")
    assert code == 1 and said["failed"] == 1 and "broken.ppm" in said["failures"][0]["picture"], said
    controller = Controller(node, read("job.yaml", [*edits, ("--scale=2", "--scale=none")]), claims)
    controller.run()
    assert controller.codes == {index: [2] for index in range(SHARES)}, controller.codes
    assert controller.failed == set(range(SHARES))
    print("job: a broken picture fails its share alone, and a wrong option every share; neither is tried again")


def main():
    try:
        pypi.with_packages(VALIDATOR)
        program = pathlib.Path(sys.argv[1]).resolve()
        python = pathlib.Path(sys.executable)
        folder = pathlib.Path(tempfile.mkdtemp(prefix="cupscale-test-")).resolve()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            validate(python)
            variants()
            rules(read("job.yaml")["spec"]["podFailurePolicy"])
            consistent(read("job.yaml"))
            consistent(read("job-cuda.yaml"))
            try:
                jobs(program, folder)
            except BaseException:
                for log in sorted(folder.glob("pod-*.log")):
                    print(f"-- {log.name}\n{log.read_text()}", file=sys.stderr)
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except debian.Unavailable as missing:
        print(f"SKIPPED: {missing}")


if __name__ == "__main__":
    main()
