"""Checks what schemas cannot: that names, labels and profiles meet, and that nothing is less locked down than it says.

    references.py compose NODES.json SPLIT.json        as `docker compose config` renders each profile
    references.py kubernetes PLAIN.yaml KEDA.yaml SECRET.yaml   as `kubectl kustomize` renders them; prints the ScaledObject
"""

import json
import re
import sys
from pathlib import Path

import yaml

ROLES = {"scheduler": 2, "worker": 3, "recorder": 2, "api": 2}
BESIDE = {"balancer", "demo", "postgres", "redis"}
wrong = []


def want(holds, what):
    if not holds:
        wrong.append(what)


def compose(nodes, split):
    want(set(nodes) == BESIDE | {"node1", "node2"}, f"profile nodes has {sorted(nodes)}")
    want(set(split) == BESIDE | set(ROLES), f"profile split has {sorted(split)}")
    for name, service in (nodes | split).items():
        def must(holds, what, name=name):
            want(holds, f"{name}: {what}")

        limits = service["deploy"]["resources"]["limits"]
        must(service.get("read_only"), "its root file system is writable")
        must(service.get("cap_drop") == ["ALL"], "capabilities are left")
        must("no-new-privileges:true" in service.get("security_opt", []), "new privileges are possible")
        must(service.get("healthcheck", {}).get("test"), "no health check")
        must("memory" in limits and "cpus" in limits, "no limits")
        must(re.search(r":\d+[.-]", service["image"]), f"{service['image']} is not pinned")
        must(all(port.get("host_ip") == "127.0.0.1" for port in service.get("ports", [])), "published beyond loopback")
        for mount in service.get("volumes", []):
            must(mount["type"] == "volume" or Path(mount["source"]).is_file(), f"{mount['source']} is missing")
        if name in BESIDE:
            continue
        must(service["image"] == "healthmon:0.1", "another image")
        must(service["stop_grace_period"] == "45s", "it is not given the time to drain")
        role = service["environment"].get("HEALTHMON_ROLE")
        must(role == (name if name in ROLES else None), f"its role is {role}")
        must(service["deploy"].get("replicas") == ROLES.get(name), "its replicas")
        aliases = (service["networks"]["default"] or {}).get("aliases", [])
        must(("api" in aliases) == name.startswith("node"), "who answers to the balancer's `api`")
    for profile in (nodes, split):
        want(sum("build" in service for service in profile.values()) == 1, "a profile builds the image exactly once")


def pick(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def kubernetes(documents, scaled, secret):
    deployments = {deployment["metadata"]["name"]: deployment for deployment in pick(documents, "Deployment")}
    labels = [deployment["spec"]["template"]["metadata"]["labels"] for deployment in deployments.values()]
    pods = {name: deployment["spec"]["template"]["spec"] for name, deployment in deployments.items()}
    want({name: deployment["spec"]["replicas"] for name, deployment in deployments.items()} == ROLES, "the replicas")

    def matched(selector):
        chosen = selector.get("matchLabels", {}).items()
        return sum(chosen <= pod.items() for pod in labels)

    for name, pod in pods.items():
        def must(holds, what, name=name):
            want(holds, f"{name}: {what}")

        [container] = pod["containers"]
        locked, where = container["securityContext"], pod["securityContext"]
        must(matched(deployments[name]["spec"]["selector"]) == 1, "its selector must match its own pods only")
        must(all(matched(spread["labelSelector"]) == 1 for spread in pod["topologySpreadConstraints"]), "its spread")
        must(pod["serviceAccountName"] in names(documents, "ServiceAccount"), "its service account")
        must(pod["automountServiceAccountToken"] is False, "a token is mounted")
        must(where["runAsNonRoot"] and where["seccompProfile"]["type"] == "RuntimeDefault", "it is not restricted")
        must(locked["allowPrivilegeEscalation"] is False and locked["readOnlyRootFilesystem"], "it is not locked down")
        must(locked["capabilities"] == {"drop": ["ALL"]}, "capabilities are left")
        must("volumes" not in pod, "it needs no volume")
        must(pod["terminationGracePeriodSeconds"] >= 45, "it is not given the time to drain")
        must(container["image"].startswith("registry.example/healthmon:"), "its image is not the kustomization's")
        for source in container["envFrom"]:
            for kind, where in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                if where in source:
                    must(source[where]["name"] in names([*documents, secret], kind), f"there is no such {kind}")
        environment = {variable["name"]: variable.get("value") for variable in container["env"]}
        must(environment["HEALTHMON_ROLE"] == name, "its role")
        shared = pick(documents, "ConfigMap")[0]["data"]
        region = environment.get("HEALTHMON_REGION", "local")
        must(region in shared.get("HEALTHMON_REGIONS", "").split(","), f"HEALTHMON_REGIONS does not name its region {region}")
        ports = {port["name"] for port in container["ports"]}
        paths = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
        if name == "api":
            # Whole, it would take every pod out of the Service when Redis is away.
            paths["readinessProbe"] = "/readyz?role=api"
        for probe, path in paths.items():
            get = container[probe]["httpGet"]
            must(get["path"] == path and get["port"] in ports, f"its {probe}")
    for document in pick(documents, "PodDisruptionBudget"):
        want(matched(document["spec"]["selector"]) == 1, f"disruption budget {document['metadata']['name']}")
    want(len(pick(documents, "PodDisruptionBudget")) == len(ROLES), "a disruption budget for each role")
    for document in pick(documents, "NetworkPolicy"):
        want(matched(document["spec"]["podSelector"]) > 0, f"network policy {document['metadata']['name']}")
    [service] = pick(documents, "Service")
    want(matched({"matchLabels": service["spec"]["selector"]}) == 1, "the Service's selector")
    for document in documents:
        here = document["metadata"].get("namespace", document["metadata"]["name"])
        want(here == secret["metadata"]["namespace"], f"{document['kind']} is elsewhere")

    [target] = pick(scaled, "ScaledObject")
    # KEDA's published schema lets unknown keys pass.
    known = {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "triggers", "advanced"}
    want(target["spec"].keys() == known, f"the ScaledObject has {sorted(target['spec'])}")
    for trigger in target["spec"]["triggers"]:
        want(trigger.keys() == {"type", "metricType", "metadata"}, f"its trigger has {sorted(trigger)}")
        known = {"serverAddress", "query", "threshold", "ignoreNullValues"}
        want(trigger["metadata"].keys() == known, f"its trigger's metadata has {sorted(trigger['metadata'])}")
    [worker] = [one for one in pick(scaled, "Deployment") if one["metadata"]["name"] == "worker"]
    want(target["spec"]["scaleTargetRef"]["name"] == "worker", "the ScaledObject's target")
    want("replicas" not in worker["spec"], "an apply would undo what KEDA scaled")
    want(target["spec"]["minReplicaCount"] == ROLES["worker"], "KEDA starts from another number of workers")
    rest = [document for document in scaled if document["kind"] != "ScaledObject"]
    worker["spec"]["replicas"] = ROLES["worker"]
    want(rest == documents, "the component changes more than the workers' replicas")
    print(json.dumps(target))


def names(documents, kind):
    return {document["metadata"]["name"] for document in pick(documents, kind)}


if sys.argv[1] == "compose":
    compose(*(json.loads(Path(path).read_text())["services"] for path in sys.argv[2:]))
else:
    plain, keda, [secret] = (list(yaml.safe_load_all(Path(path).read_text())) for path in sys.argv[2:])
    kubernetes(plain, keda, secret)
if wrong:
    sys.exit("\n".join(wrong))
