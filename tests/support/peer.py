"""A libtorrent peer on a loopback address of its own.

usage: peer.py DIR IP forced|enabled|disabled TORRENT [PEER_IP:PORT ...]

TORRENT is a .torrent file or a magnet link; its content is in DIR, or is fetched into it. Dials the peers, if there
are any. Prints `listening PORT`, `seeding` when it has everything, and then, once for each, `sent IP` for peers that
it sent something. Ends with its standard input, or after two minutes.
"""

import os
import sys
import threading
import time

import libtorrent as lt

directory, ip, encryption, source, *peers = sys.argv[1:]

policy = int(getattr(lt.enc_policy, encryption))
session = lt.session({
    "listen_interfaces": f"{ip}:0",
    "outgoing_interfaces": ip,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "in_enc_policy": policy,
    "out_enc_policy": policy,
    "allow_multiple_connections_per_ip": True,
    "alert_mask": 0,
})
if source.startswith("magnet:"):
    parameters = lt.parse_magnet_uri(source)
else:
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(source)
parameters.save_path = directory
torrent = session.add_torrent(parameters)
deadline = time.monotonic() + 60
while not session.listen_port():
    time.sleep(0.02)
    if time.monotonic() > deadline:
        sys.exit("libtorrent does not listen")
print("listening", session.listen_port(), flush=True)
for peer in peers:
    host, _, port = peer.rpartition(":")
    torrent.connect_peer((host, int(port)))


def report():
    said = set()
    while True:
        lines = ["seeding"] if torrent.status().is_seeding else []
        lines += [f"sent {peer.ip[0]}" for peer in torrent.get_peer_info() if peer.total_upload > 0]
        for line in lines:
            if line not in said:
                said.add(line)
                print(line, flush=True)
        time.sleep(0.05)


threading.Thread(target=report, daemon=True).start()
threading.Timer(120, lambda: os._exit(1)).start()
sys.stdin.read()
os._exit(0)
