"""The programs that are measured, behind one face: start, wait until it can be read, read at an offset, stop."""

import http.client
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.parse

from benchlib import KNOT, TARGET, cpu_of_pid, peak_rss, run, say
from streaming.swarm import CLIENT_PORT

WEBTORRENT = "webtorrent-cli@6.0.1"
START_SECONDS = 60


class TooSlow(Exception):
    """Something did not come in time."""


def within(seconds, function, *arguments):
    """What a function returns, or TooSlow; a read that hangs stays behind in its thread until its client ends."""
    outcome = []

    def call():
        try:
            outcome.append((True, function(*arguments)))
        except Exception as error:  # handed over to the thread that waits
            outcome.append((False, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(max(seconds, 0.001))
    if not outcome:
        raise TooSlow
    good, value = outcome[0]
    if not good:
        raise TooSlow from value
    return value


class Ended(Exception):
    """A program ended by itself before it could be read."""


class Client:
    """A running program that reads one torrent of one file."""

    label = port = None

    def __init__(self, swarm, content, directory, log):
        self.swarm, self.content, self.dir = swarm, content, directory
        self.log = log
        self.process = None
        self.began = time.monotonic()

    def fresh(self, name):
        path = os.path.join(self.dir, name)
        os.makedirs(path)
        return path

    def launch(self, *command, **environment):
        self.process = self.swarm.start(*command, stderr=self.log, stdin=subprocess.DEVNULL,
                                        env={**os.environ, **environment})
        # What a program says about itself must not fill the pipe.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def wait_until_readable(self):
        deadline = self.began + START_SECONDS
        while not self.readable():
            if self.process.poll() is not None:
                raise Ended(f"{self.label} ended with exit code {self.process.returncode}: see --log")
            if time.monotonic() > deadline:
                raise TooSlow
            time.sleep(0.005)

    def wait_until_connected(self, seconds=10):
        """Until it has every seeder, and a second more for them to begin; goes on without those that are missing."""
        deadline = time.monotonic() + seconds
        while self.swarm.connected(self.port) < len(self.swarm.seeders) and time.monotonic() < deadline:
            time.sleep(0.02)
        connected = self.swarm.connected(self.port)
        if connected < len(self.swarm.seeders):
            say(f"  {self.label}: connected to {connected} of {len(self.swarm.seeders)} seeders")
        time.sleep(1)

    def cpu(self):
        return cpu_of_pid(self.process.pid)

    def rss(self):
        return peak_rss(self.process.pid)

    def note(self):
        """What the program tells of itself, for the log."""

    def stop(self):
        if self.process in self.swarm.processes:
            self.swarm.stop(self.process)


class Mount(Client):
    """What is read through a mount."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.mountpoint = self.fresh("mnt")

    def source(self):
        return os.path.join(self.mountpoint, self.content.name)

    def readable(self):
        return os.path.ismount(self.mountpoint) and os.path.exists(self.source())

    def read(self, offset, length, _open_end=False):
        descriptor = os.open(self.source(), os.O_RDONLY)
        try:
            parts = []
            while length > 0:
                part = os.pread(descriptor, length, offset)
                if not part:
                    break
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def stop(self):
        super().stop()
        subprocess.run(["fusermount3", "-uzq", self.mountpoint], check=False, stderr=subprocess.DEVNULL)


class Knot(Mount):
    """A mount of the v1 torrent."""

    label, port = "knot", CLIENT_PORT

    def start(self):
        self.mount(self.content.torrent, "--discovery", "static,trackers")

    def mount(self, *source):
        self.launch(KNOT, "mount", "-f", *source, self.mountpoint, "--store", self.store())

    def store(self):
        return os.path.join(self.dir, "store")

    def note(self):
        print(run(KNOT, "status", "--json", "--store", self.store(), check=False), file=self.log, flush=True)


class KnotMerkle(Knot):
    """A mount of knot's own form."""

    label = "knot Merkle"

    def start(self):
        peers = self.swarm.seed_knot(self.content.path, self.content.knot)
        self.port = int(peers[0].split("/tcp/")[1].split("/")[0])
        self.began = time.monotonic()
        self.mount(self.content.knot, "--discovery", "none", *[word for peer in peers for word in ("--peer", peer)])


class Btfs(Mount):
    label, port = "btfs", CLIENT_PORT

    @staticmethod
    def missing():
        return None if shutil.which("btfs") else "btfs is not installed"

    def start(self):
        self.launch("btfs", "-f", self.content.torrent, self.mountpoint, HOME=self.fresh("home"))

    def readable(self):
        """It may abort when it is looked at as soon as it is mounted."""
        if not os.path.ismount(self.mountpoint):
            return False
        time.sleep(0.1)
        return super().readable()


class Http(Client):
    """What is read from a program's HTTP stream."""

    def url(self, path):
        return f"http://127.0.0.1:{self.http_port}{path}"

    def source(self):
        return self.url(self.stream)

    def request(self, method, path, body=None, headers=None, timeout=START_SECONDS):
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        connection.request(method, path, body, headers or {})
        return connection, connection.getresponse()

    def readable(self):
        """Whether the stream answers, content or not."""
        try:
            connection, answer = self.request("HEAD", self.stream, timeout=2)
            connection.close()
            return answer.status in (200, 206)
        except OSError:
            return False

    def read(self, offset, length, open_end=False):
        """A player asks for all that follows, and hangs up when it has enough."""
        last = "" if open_end else offset + length - 1
        connection, answer = self.request("GET", self.stream, headers={"Range": f"bytes={offset}-{last}"})
        try:
            if answer.status != 206:
                raise OSError(f"{self.label}: HTTP status {answer.status}")
            return answer.read(length)
        finally:
            # Without this a connection that still has content on its way would stay.
            answer.close()
            connection.close()


class Rqbit(Http):
    label, port, http_port, stream = "rqbit", CLIENT_PORT, 3030, "/torrents/0/stream/0"

    @staticmethod
    def missing():
        return None if shutil.which("rqbit") else "rqbit is not installed (cargo install rqbit)"

    def start(self):
        self.launch("rqbit", "--disable-dht", "--disable-lsd", "--disable-upnp-port-forward", "server", "start",
                    "--disable-persistence", self.fresh("out"), HOME=self.fresh("home"))
        self.added = False

    def readable(self):
        try:
            if not self.added:
                with open(self.content.torrent, "rb") as torrent:
                    connection, answer = self.request("POST", "/torrents?overwrite=true", torrent.read())
                if answer.status != 200:
                    raise SystemExit(f"rqbit does not take the torrent: {answer.read()}")
                connection.close()
                self.added = True
            connection, answer = self.request("GET", "/torrents/0/stats/v1", timeout=2)
            state = json.load(answer)["state"]
            connection.close()
            return state == "live"
        except OSError:
            return False


class Webtorrent(Http):
    label, port, http_port = "webtorrent", CLIENT_PORT, 8000

    @staticmethod
    def home():
        return os.path.join(TARGET, WEBTORRENT.replace("@", "-"))

    @staticmethod
    def missing():
        """Installs it on the first call; what is wrong, if anything is."""
        home = Webtorrent.home()
        program = os.path.join(home, "node_modules", ".bin", "webtorrent")
        if not os.path.exists(program):
            say(f"installing {WEBTORRENT}")
            install_webtorrent(home)
        done = subprocess.run([program, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False) if os.path.exists(program) else None
        if done is None or done.returncode != 0:
            return f"{WEBTORRENT} does not run: {done.stdout.strip() if done else 'npm did not install it'}"
        return None

    def start(self):
        self.stream = f"/webtorrent/{self.content.infohash}/{urllib.parse.quote(self.content.name)}"
        program = os.path.join(self.home(), "node_modules", "webtorrent-cli", "bin", "cmd.js")
        self.launch("node", program, "download", self.content.torrent, "--port", str(self.http_port), "--quiet",
                    "--keep-seeding", "--out", self.fresh("out"))


# Its WebRTC is a native module that npm does not have; nobody here speaks WebRTC, so an empty one does.
NO_WEBRTC = """export class PeerConnection {}
export class RtcpReceivingSession {}
export class Video {}
export class Audio {}
export function cleanup () {}
"""


def install_webtorrent(home):
    """Without optional packages, so without uTP, which the proxies do not pass on."""
    name, version = WEBTORRENT.split("@")
    shutil.rmtree(home, ignore_errors=True)
    os.makedirs(os.path.join(home, "no-webrtc"))
    write_json(os.path.join(home, "no-webrtc", "package.json"),
               {"name": "node-datachannel", "version": "0.0.0", "type": "module", "exports": "./index.js"})
    with open(os.path.join(home, "no-webrtc", "index.js"), "w") as module:
        module.write(NO_WEBRTC)
    write_json(os.path.join(home, "package.json"),
               {"private": True, "dependencies": {name: version},
                "overrides": {"node-datachannel": "file:./no-webrtc"}})
    subprocess.run(["npm", "install", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--silent"],
                   cwd=home, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file)


CLIENTS = {"knot": Knot, "btfs": Btfs, "rqbit": Rqbit, "webtorrent": Webtorrent, "merkle": KnotMerkle}
