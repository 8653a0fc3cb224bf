"""Runs what docker-compose.yml, Dockerfile, deploy/kubernetes and deploy/systemd name, as processes of this machine.

    run.py HEALTHMON [POSTGRES_URL REDIS_URL]

Entry points, environments and health checks are taken from the files. Replaced are only host names (by 127.0.0.1),
ports (by free ones), secrets, and directories (by temporary ones). Each part waits until every health check passes, uses
what runs, ends it by its stop signal, and wants exit status 0.
"""

import asyncio
import base64
import contextlib
import glob
import hashlib
import http.client
import json
import os
import re
import secrets
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

HEALTHMON = str(Path(sys.argv[1]).resolve())
GIVEN = sys.argv[2:]
SECRETS = {name: secrets.token_hex(16) for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD")}
TOKEN = f"hm_{secrets.token_urlsafe(32)}"
SECRETS["HEALTHMON_TOKENS"] = f"admin:admin:{hashlib.sha256(TOKEN.encode()).hexdigest()}"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
# What the images stop by, where it is not SIGTERM.
STOP = {"haproxy": signal.SIGUSR1, "nginx": signal.SIGQUIT, "postgres": signal.SIGINT}
READY_WITHIN = 60
scratch = Path(tempfile.mkdtemp(prefix="healthmon-"))
scratch.chmod(0o755)


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def own_address():
    """An address of this machine beyond loopback: what a pod has, and where a prober may go."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return probe.getsockname()[0]


def until(what, holds, within=READY_WITHIN):
    end = time.monotonic() + within
    while not (value := holds()):
        if time.monotonic() > end:
            raise SystemExit(f"not within {within} s: {what}")
        time.sleep(0.1)
    return value


def ask(address, port, path, method="GET", body=None, headers=None):
    """Status and body of an answer; status 0 when there was none."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        data = None if body is None else json.dumps(body)
        extra = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, data, {**extra, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


class Container:
    """A process in a container's stead."""

    def __init__(self, name, argv, environment, grace=10, **options):
        self.name, self.grace = name, grace
        self.program = Path(argv[0]).name
        self.log = scratch / f"{name}.log"
        path = f"{os.path.dirname(HEALTHMON)}:{os.environ['PATH']}:/usr/sbin"
        self.environment = {"PATH": path, **environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log, start_new_session=True, **options)

    def passes(self, command):
        if self.process.poll() is not None:
            raise SystemExit(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
        check = subprocess.run(command, env=self.environment, capture_output=True, timeout=10, check=False)
        return check.returncode == 0

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def stop(self):
        self.process.send_signal(STOP.get(self.program, signal.SIGTERM))

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def ended(self):
        """Why it did not end well, or nothing."""
        try:
            status = self.process.wait(self.grace)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"{self.name} did not end within {self.grace} s:\n{self.tail()}"
        return "" if status == 0 else f"{self.name} ended with {status}:\n{self.tail()}"


@contextlib.contextmanager
def ending(containers):
    """Ends them all at once, and wants each to end well; kills them if the part itself failed."""
    try:
        yield containers
    except BaseException:
        for container in containers:
            container.kill()
            print(f"--- {container.name}\n{container.tail()}", file=sys.stderr)
        raise
    started = time.monotonic()
    running = [container for container in containers if container.process.poll() is None]
    for container in running:
        container.stop()
    if wrong := [reason for container in running if (reason := container.ended())]:
        raise SystemExit("\n".join(wrong))
    print(f"   {len(running)} ended with 0 in {time.monotonic() - started:.1f} s")


# The files.

def dockerfile():
    """The last stage's entry point, command, environment and health check."""
    text = Path("Dockerfile").read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    words = {name: json.loads(value) for name, value in re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", text, re.M)}
    environment = dict(pair.split("=", 1) for pair in shlex.split(re.search(r"^ENV (.*)$", text, re.M)[1]))
    check = json.loads(re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", text, re.M)[1])
    return words["ENTRYPOINT"], words["CMD"], environment, check


def interpolate(value):
    if isinstance(value, dict):
        return {key: interpolate(one) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolate(one) for one in value]
    return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: SECRETS[found[1]], value) if isinstance(value, str) else value


def names_of(name, service):
    """What a service is called on the balancer's network."""
    networks = service["networks"]
    more = (networks["default"] or {}).get("aliases", []) if isinstance(networks, dict) else []
    return [name, *more]


def seconds(span):
    return int(re.fullmatch(r"(\d+)s", span)[1])


ENTRYPOINT, CMD, IMAGE, IMAGE_CHECK = dockerfile()
COMPOSE = interpolate(yaml.safe_load(Path("docker-compose.yml").read_text()))["services"]


def kubernetes():
    directory = Path("deploy/kubernetes")
    listed = yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]
    return [one for name in [*listed, "secret.example.yaml"] for one in
            yaml.safe_load_all((directory / name).read_text())]


def systemd():
    """The unit's command and environment, its example file's after its own."""
    unit = Path("deploy/systemd/healthmon.service").read_text()
    command = re.search(r"^ExecStart=(.*)$", unit, re.M)[1].replace("/etc/healthmon/", f"{Path('deploy/systemd').resolve()}/")
    command = command.split()
    lines = re.findall(r"^Environment=(.*)$", unit, re.M)
    lines += [line for line in Path("deploy/systemd/healthmon.env").read_text().splitlines() if re.match(r"\w", line)]
    return command, dict(line.replace("%S/healthmon", str(scratch)).split("=", 1) for line in lines)


# The parts.

def node(name, environment, stores, grace=45, words=CMD):
    """A healthmon that listens on a port of its own; `stores` replaces where its stores are."""
    port = free_port()
    changed = {**environment, **stores}
    changed.setdefault("HEALTHMON_NODE", name)  # in a container: the host name
    listen = changed["HEALTHMON_LISTEN"]
    changed["HEALTHMON_LISTEN"] = f"{listen.rpartition(':')[0]}:{port}"
    assert (words[0] if words is not CMD else ENTRYPOINT[0]).endswith("healthmon")
    container = Container(name, [HEALTHMON, *(words[1:] if words is not CMD else CMD)], changed, grace, cwd=scratch)
    container.port = port
    return container


def check_of(container, command):
    """A health check's command with the container's port."""
    return [word.replace("127.0.0.1:8080", f"127.0.0.1:{container.port}") for word in command]


def known_settings():
    """Every variable that the files set is one that `serve` knows."""
    help_text = subprocess.run([HEALTHMON, *CMD, "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"\[env: (HEALTHMON_\w+)", help_text))
    for path in ("docker-compose.yml", "Dockerfile", *glob.glob("deploy/kubernetes/*.yaml"),
                 *glob.glob("deploy/systemd/*")):
        if unknown := set(re.findall(r"HEALTHMON_[A-Z_]+", Path(path).read_text())) - known:
            raise SystemExit(f"{path} names {sorted(unknown)}, and `healthmon serve` does not")


@contextlib.contextmanager
def stores():
    """The settings that say where PostgreSQL and Redis are: those given, or private ones by the file's commands."""
    database, queue = (COMPOSE["node1"]["environment"][f"HEALTHMON_{name}"] for name in ("DATABASE", "QUEUE"))
    if GIVEN:
        yield {"HEALTHMON_DATABASE": GIVEN[0], "HEALTHMON_QUEUE": GIVEN[1]}
        return
    postgres, redis = COMPOSE["postgres"], COMPOSE["redis"]
    data, password = scratch / "postgres", scratch / "password"
    password.write_text(postgres["environment"]["POSTGRES_PASSWORD"])
    data.mkdir()
    for path in (data, password):
        path.chmod(0o700)
        subprocess.run(["chown", "postgres", path], check=True)
    programs = Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
    subprocess.run([programs / "initdb", "--no-sync", f"--pgdata={data}", f"--pwfile={password}", "--auth-local=trust",
                    "--username", postgres["environment"]["POSTGRES_USER"],
                    *shlex.split(postgres["environment"]["POSTGRES_INITDB_ARGS"])],
                   user="postgres", cwd="/", stdout=subprocess.DEVNULL, check=True)
    [program, *words], [_, *redis_words] = postgres["command"], redis["command"]
    ports = free_port(), free_port()
    first = Container("postgres", [programs / program, "-D", data, "-k", data, "-p", str(ports[0]), *words], {},
                      seconds(postgres["stop_grace_period"]), user="postgres", cwd="/")
    second = Container("redis", ["redis-server", "--port", str(ports[1]), "--dir", str(scratch), *redis_words],
                       redis["environment"], seconds(redis["stop_grace_period"]))
    with ending([first, second]):
        for container, service, port in ((first, postgres, ports[0]), (second, redis, ports[1])):
            command = [*service["healthcheck"]["test"][1:2], "-p", str(port), *service["healthcheck"]["test"][2:]]
            until(f"{container.name} passes {command}", lambda c=container, w=command: c.passes(w))
        user = postgres["environment"]["POSTGRES_USER"]
        subprocess.run([programs / "createdb", f"--host={data}", f"--port={ports[0]}", f"--username={user}",
                        postgres["environment"]["POSTGRES_DB"]], check=True)
        yield {"HEALTHMON_DATABASE": database.replace("@postgres:5432", f"@127.0.0.1:{ports[0]}"),
               "HEALTHMON_QUEUE": queue.replace("@redis:6379", f"@127.0.0.1:{ports[1]}")}


class Network:
    """Docker's network to the balancer: a name server that knows `api`, and an address for each container."""

    def __init__(self, containers):
        self.members = {f"127.0.1.{index}": container for index, container in enumerate(containers, 1)}
        self.port, self.dns_port = free_port(), free_port()
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self.listen())
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def listen(self):
        await self.loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", self.dns_port))
        for address, container in self.members.items():
            async def forward(reader, writer, container=container):
                try:
                    there = await asyncio.open_connection("127.0.0.1", container.port)
                except OSError:
                    return writer.transport.abort()
                await asyncio.gather(self.copy(reader, there[1]), self.copy(there[0], writer))
            container.server = await asyncio.start_server(forward, address, self.port)

    def forget(self, container):
        """The address of a container that ended takes no connections."""
        asyncio.run_coroutine_threadsafe(self.close(container.server), self.loop).result()

    @staticmethod
    async def close(server):
        server.close()

    @staticmethod
    async def copy(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, reason):
        pass

    def datagram_received(self, query, sender):
        end = query.index(b"\0", 12) + 5
        asked = query[12:end]
        running = [address for address, one in self.members.items() if one.process.poll() is None]
        known = asked == b"\3api\0\0\1\0\1"
        answers = [struct.pack("!HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(address) for address in running]
        head = query[:2] + struct.pack("!HHHHH", 0x8180 if known else 0x8183, 1, len(answers) if known else 0, 0, 0)
        self.transport.sendto(head + asked + (b"".join(answers) if known else b""), sender)


class Events:
    """A WebSocket to the API."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
                             f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
                             f"Authorization: {BEARER['Authorization']}\r\n\r\n").encode())
        self.stream = self.socket.makefile("rb")
        status = self.stream.readline().split()[1]
        assert status == b"101", f"the upgrade was answered with {status}"
        while self.stream.readline().strip():
            pass

    def next(self):
        """The next frame's JSON, pings apart."""
        while True:
            first, size = self.stream.read(2)
            size = size if size < 126 else struct.unpack("!H", self.stream.read(2))[0]
            body = self.stream.read(size)
            if first == 0x81:
                return json.loads(body)
            assert first == 0x89, f"a frame of kind {first:#x}"

    def until(self, status):
        while True:
            event = self.next()
            if event["type"] == "transition" and event["to"] == status:
                return


def part(profile, where):
    """A profile of docker-compose.yml: nodes, demo target and balancer."""
    print(f"== docker-compose.yml, profile {profile} ==")
    containers, serving = [], []
    with ending(containers):
        for name, service in COMPOSE.items():
            if profile not in service.get("profiles", []):
                continue
            count = service["deploy"].get("replicas")
            for index in range(count or 1):
                label = f"{name}-{index + 1}" if count else name
                replica = node(label, {**IMAGE, **service["environment"]}, where, seconds(service["stop_grace_period"]))
                replica.check = check_of(replica, service["healthcheck"]["test"][1:])
                containers.append(replica)
                if "api" in names_of(name, service):
                    serving.append(replica)
        network = Network(serving)
        demo, balancer = free_port(), free_port()
        # nginx's own workers must reach the switches.
        switches = scratch / profile
        switches.mkdir(mode=0o755)
        config = scratch / f"{profile}-demo.conf"
        text = Path("deploy/compose/demo.conf").read_text()
        config.write_text(text.replace("listen 8080", f"listen {demo}").replace("/tmp/", f"{switches}/"))
        beside = [(Container("demo", ["nginx", "-c", str(config), "-g", "daemon off;"], {}), "demo", demo)]
        config = scratch / f"{profile}-haproxy.cfg"
        text = Path("deploy/compose/haproxy.cfg").read_text()
        for old, new in (("127.0.0.11:53", f"127.0.0.1:{network.dns_port}"), ("api:8080", f"api:{network.port}"),
                         ("bind :8080", f"bind 127.0.0.1:{balancer}")):
            assert old in text
            text = text.replace(old, new)
        config.write_text(text)
        # As the image's entry point starts it.
        beside.append((Container("balancer", ["haproxy", "-W", "-db", "-f", str(config)], {},
                                 seconds(COMPOSE["balancer"]["stop_grace_period"])), "balancer", balancer))
        for container, name, port in beside:
            container.port = port
            container.check = check_of(container, COMPOSE[name]["healthcheck"]["test"][1:])
            containers.append(container)
        for container in containers:
            until(f"{container.name} passes {container.check}", lambda c=container: c.passes(c.check))
        print(f"   {len(containers)} pass their health checks")
        use(balancer, demo, switches)
        leave(network, balancer, serving[0])


def use(balancer, demo, switches):
    """Watches the demo target through the balancer: UP, made to fail DOWN, mended UP."""
    until("the balancer reaches a node", lambda: ask("127.0.0.1", balancer, "/readyz")[0] == 200)
    assert ask("127.0.0.1", balancer, "/api/v1/services")[0] == 401, "the API must ask for a token"
    assert ask("127.0.0.1", balancer, "/api/v1/services", headers=BEARER)[0] == 200, "the token must be taken"
    events = Events(balancer)
    assert events.next()["type"] == "hello"
    settings = {"name": f"demo-{demo}", "url": f"http://{own_address()}:{demo}/", "interval": "1s",
                "policy": {"failure_threshold": 1, "success_threshold": 1}}
    status, body = ask("127.0.0.1", balancer, "/api/v1/services", "POST", settings, BEARER)
    assert status == 201, f"registering was answered with {status}: {body}"
    events.until("UP")
    (switches / "down").touch()
    events.until("DOWN")
    (switches / "down").unlink()
    events.until("UP")
    path = f"/api/v1/services/{json.loads(body)['id']}"
    assert json.loads(ask("127.0.0.1", balancer, path, headers=BEARER)[1])["status"] == "UP"
    (switches / "slow").touch()
    started = time.monotonic()
    assert ask(own_address(), demo, "/")[0] == 200 and time.monotonic() - started > 1, "/tmp/slow must slow it down"
    (switches / "slow").unlink()
    assert ask("127.0.0.1", balancer, path, "DELETE", headers=BEARER)[0] in (200, 204)
    print("   through the balancer: token, WebSocket, demo target UP, DOWN, UP")


def leave(network, balancer, leaving):
    """One node ends: the other answers."""
    leaving.stop()
    if reason := leaving.ended():
        raise SystemExit(reason)
    network.forget(leaving)
    answers = [ask("127.0.0.1", balancer, "/api/v1/services", headers=BEARER)[0] for _ in range(50)]
    assert answers == [200] * 50, f"with {leaving.name} gone the balancer answered {sorted(set(answers))}"
    print(f"   {leaving.name} ended with 0, and the balancer goes on without it")


def pods(where):
    """deploy/kubernetes: each replica, probed as a kubelet does."""
    print("== deploy/kubernetes ==")
    documents = kubernetes()
    sources = {}
    for one in documents:
        sources[one["kind"], one["metadata"]["name"]] = one.get("data") or one.get("stringData") or {}
    sources["Secret", "healthmon"]["HEALTHMON_TOKENS"] = SECRETS["HEALTHMON_TOKENS"]
    containers, probes = [], {}
    with ending(containers):
        for deployment in (one for one in documents if one["kind"] == "Deployment"):
            spec = deployment["spec"]["template"]["spec"]
            [container] = spec["containers"]
            assert container["args"] == CMD
            for index in range(deployment["spec"]["replicas"]):
                name = f"{deployment['metadata']['name']}-{index + 1}"
                environment = dict(IMAGE)
                for source in container["envFrom"]:
                    for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                        environment |= sources[kind, source[key]["name"]] if key in source else {}
                for variable in container["env"]:
                    named = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath") == "metadata.name"
                    environment[variable["name"]] = name if named else variable["value"]
                pod = node(name, environment, where, spec["terminationGracePeriodSeconds"])
                pod.role = environment["HEALTHMON_ROLE"]
                probes[pod] = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")]
                containers.append(pod)
        address = own_address()
        for pod, paths in probes.items():
            for path in paths:
                until(f"{pod.name} answers {path}", lambda p=pod, w=path: p.passes(["true"]) and
                      ask(address, p.port, w)[0] == 200)
        print(f"   {len(containers)} pass their probes")
        query = yaml.safe_load(Path("deploy/kubernetes/keda/scaledobject.yaml").read_text())
        metric = re.search(r"healthmon_\w+", query["spec"]["triggers"][0]["metadata"]["query"])[0]
        shown = {pod.role: ask(address, pod.port, "/metrics") for pod in containers}
        assert {role: status for role, (status, _) in shown.items()} == {
            "scheduler": 200, "worker": 200, "recorder": 200, "api": 401}, "who may read /metrics"
        assert any(re.search(rf"^{metric}\b", text, re.M) for _, text in shown.values()), f"nobody shows {metric}"
        outside = {pod.role: ask(address, pod.port, "/api/v1/services", headers=BEARER)[0] for pod in containers}
        assert [role for role, status in outside.items() if status == 200] == ["api"], f"the API answers: {outside}"
        print(f"   /metrics as configured, with {metric}; the API on api alone")


def alone():
    """One node and its file: the image as it is, and the unit."""
    print("== Dockerfile ==")
    file = {"HEALTHMON_DATABASE": str(scratch / "image.db")}
    naked = node("image", IMAGE, file)
    assert naked.process.wait(30) != 0, "it must not listen beyond loopback without tokens"
    image = node("image", IMAGE, file | {"HEALTHMON_TOKENS": SECRETS["HEALTHMON_TOKENS"]}, 10)
    with ending([image]):
        until("the image's health check passes", lambda: image.passes(check_of(image, IMAGE_CHECK)))
    print("== deploy/systemd ==")
    command, environment = systemd()
    # Its default port may be taken here.
    unit = node("unit", {"HEALTHMON_LISTEN": "127.0.0.1:8080", **environment}, {}, words=command)
    with ending([unit]):
        until("the unit is ready", lambda: unit.passes(check_of(unit, IMAGE_CHECK)))
        unit.process.send_signal(signal.SIGHUP)  # ExecReload
        until("the unit reads its file anew", lambda: "read anew who may use the API" in unit.tail())
    assert (scratch / "healthmon.db").exists(), "the database is in the state directory"


try:
    known_settings()
    alone()
    with stores() as where:
        part("nodes", where)
        part("split", where)
        pods(where)
    print("== all of it runs ==")
except AssertionError as error:
    sys.exit(str(error))
finally:
    subprocess.run(["rm", "-rf", scratch], check=True)
