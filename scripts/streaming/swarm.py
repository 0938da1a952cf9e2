"""A swarm in network namespaces: one for the reader, one for each seeder, and a shaped link between the two.

No namespace has a way out. Each seeder is behind a delaying proxy (delay.py), whose address is the only one that the
reader can reach. A tracker in the reader's namespace names those addresses to whoever asks.
"""

import ctypes
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading

from benchlib import KNOT, run

DELAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "delay.py")
SYSTEM_PYTHON = "/usr/bin/python3"
CLIENT_PORT, KNOT_PORT = 6881, 4001
CLONE_NEWNET = 0x40000000
ON_A_WIRE = 1448 / 1514  # of an Ethernet frame, what is content of a TCP stream

# The proxies pass on TCP. Who tries uTP first is told so at once, rather than after a timeout.
NO_UDP = """table inet swarm {
    chain output {
        type filter hook output priority 0
        oifname != "lo" meta l4proto udp drop
    }
}"""

LIBTORRENT_SEEDER = """
import libtorrent as lt, sys, time
directory, address, *torrents = sys.argv[1:]
session = lt.session({"listen_interfaces": address, "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
                      "enable_natpmp": False, "enable_incoming_utp": False, "enable_outgoing_utp": False,
                      "allow_multiple_connections_per_ip": True})
for torrent in torrents:
    session.add_torrent({"ti": lt.torrent_info(torrent), "save_path": directory, "trackers": [],
                         "flags": lt.torrent_flags.seed_mode | lt.torrent_flags.override_trackers})
while not all(torrent.status().is_seeding for torrent in session.get_torrents()):
    time.sleep(0.1)
print("ready", flush=True)
while True:
    time.sleep(1)
"""


class Seeder:
    """A place in the swarm: its namespace, its link and what runs there."""

    def __init__(self, swarm, at, mbit):
        self.swarm, self.at, self.mbit = swarm, at, mbit
        self.namespace = f"{swarm.name}-{at}"
        self.address = f"10.77.0.{at + 2}"
        self.proxies = {}

    def link(self):
        run("ip", "netns", "add", self.namespace)
        self.swarm.namespaces.append(self.namespace)
        port, reader = f"seed{self.at}", self.swarm.reader
        run("ip", "-n", reader, "link", "add", port, "type", "veth", "peer", "name", "wire", "netns", self.namespace)
        run("ip", "-n", reader, "link", "set", port, "master", "swarm", "up")
        run("ip", "-n", reader, "link", "set", port, "type", "bridge_slave", "isolated", "on")
        run("ip", "-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "wire")
        run("ip", "-n", self.namespace, "link", "set", "wire", "up")
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        # Room for all that the sockets of a proxy hold: nothing is lost, it only waits.
        run("tc", "-n", self.namespace, "qdisc", "add", "dev", "wire", "root", "tbf", "rate", f"{self.mbit}mbit",
            "burst", "16kb", "limit", "4mb")

    def start(self, *command):
        """Starts a command here; it is ready when it has written a line, which is returned with it."""
        process = self.swarm.start("nsenter", f"--net=/run/netns/{self.namespace}", *command)
        line = process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"{' '.join(command[:3])} did not start")
        return process, line

    def proxy(self, port):
        """A proxy of what listens on a port of loopback here: its address, as the reader sees it."""
        self.proxies[port], _ = self.start(sys.executable, DELAY, f"{self.address}:{port}", f"127.0.0.1:{port}",
                                           str(self.swarm.delay_ms), str(self.mbit * 1e6 / 8))
        return f"{self.address}:{port}"

    def stop_answering(self):
        for proxy in self.proxies.values():
            proxy.send_signal(signal.SIGUSR1)

    def answer_again(self):
        for port, proxy in list(self.proxies.items()):
            self.swarm.stop(proxy)
            self.proxy(port)


class Swarm:
    """The namespaces, and every process in them, of this run."""

    def __init__(self, directory, rates_mbit, delay_ms, log):
        self.directory, self.delay_ms = directory, delay_ms
        self.name = f"knot-bench-{os.getpid()}"
        self.reader = f"{self.name}-reader"
        self.namespaces, self.processes = [], []
        self.log = log
        self.seeders = [Seeder(self, at, mbit) for at, mbit in enumerate(rates_mbit)]
        self.knot_peers = {}

    def enter(self):
        """Makes the namespaces, and moves this process, with all that it starts from now on, to the reader's."""
        run("ip", "netns", "add", self.reader)
        self.namespaces.append(self.reader)
        run("ip", "-n", self.reader, "link", "set", "lo", "up")
        run("ip", "-n", self.reader, "link", "add", "swarm", "type", "bridge")
        run("ip", "-n", self.reader, "address", "add", "10.77.0.1/24", "dev", "swarm")
        run("ip", "-n", self.reader, "link", "set", "swarm", "up")
        run("nsenter", f"--net=/run/netns/{self.reader}", "nft", NO_UDP)
        for seeder in self.seeders:
            seeder.link()
        with open(f"/run/netns/{self.reader}") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def start(self, *command, **options):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True,
                                   **{"stderr": self.log, **options})
        self.processes.append(process)
        return process

    def stop(self, process):
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.processes.remove(process)

    def capacity(self):
        """Content per second, in bytes, from those that answer to the end: all but the last."""
        return sum(seeder.mbit for seeder in self.seeders[:-1]) * 1e6 / 8 * ON_A_WIRE

    def addresses(self):
        return [(seeder.address, CLIENT_PORT) for seeder in self.seeders]

    def track(self):
        """Starts the tracker: its URL."""
        peers = b"".join(socket.inet_aton(host) + port.to_bytes(2, "big") for host, port in self.addresses())

        class Tracker(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"d8:intervali60e5:peers%d:%be" % (len(peers), peers))

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tracker)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/announce"

    def seed_torrents(self, contents, torrents):
        """libtorrent with all torrents, at every seeder."""
        for seeder in self.seeders:
            seeder.start(SYSTEM_PYTHON, "-c", LIBTORRENT_SEEDER, contents, f"127.0.0.1:{CLIENT_PORT}", *torrents)
            seeder.proxy(CLIENT_PORT)

    def seed_knot(self, content, metainfo):
        """A knot with one torrent, at every seeder, once: the addresses that the reader can dial."""
        if content not in self.knot_peers:
            port = KNOT_PORT + len(self.knot_peers)
            self.knot_peers[content] = [self.seed_knot_at(seeder, port, content, metainfo) for seeder in self.seeders]
        return self.knot_peers[content]

    def seed_knot_at(self, seeder, port, content, metainfo):
        store = os.path.join(self.directory, f"seeder-{seeder.at}-{port}")
        _, address = seeder.start(KNOT, "seed", content, "--metainfo", metainfo, "--store", store, "--discovery",
                                  "none", "--listen", f"/ip4/127.0.0.1/tcp/{port}")
        seeder.proxy(port)
        return address.replace("/127.0.0.1/", f"/{seeder.address}/")

    def received(self):
        """Bytes that came over the links so far, headers with them."""
        with open("/proc/thread-self/net/dev") as devices:
            return sum(int(line.split(":")[1].split()[0]) for line in devices if line.lstrip().startswith("seed"))

    def connected(self, port):
        """How many seeders the reader has a connection to."""
        wanted = {f"{socket.inet_aton(seeder.address)[::-1].hex().upper()}:{port:04X}" for seeder in self.seeders}
        found = set()
        for table in "tcp", "tcp6":
            with open(f"/proc/thread-self/net/{table}") as connections:
                for line in list(connections)[1:]:
                    fields = line.split()
                    if fields[3] == "01":
                        found.add(fields[2][-13:])
        return len(wanted & found)

    def close(self):
        for process in list(self.processes):
            self.stop(process)
        for namespace in self.namespaces:
            run("ip", "netns", "delete", namespace, check=False)
