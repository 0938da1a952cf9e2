"""A DHT node of libtorrent on the address IP, on its own until others come.

usage: dht.py IP

Prints `listening PORT`. Ends with its standard input.
"""

import sys
import time

import libtorrent

session = libtorrent.session(
    {
        "listen_interfaces": sys.argv[1] + ":0",
        "enable_dht": True,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "dht_bootstrap_nodes": "",
        "dht_restrict_routing_ips": False,
        "dht_restrict_search_ips": False,
        "dht_ignore_dark_internet": False,
        "dht_enforce_node_id": False,
        "dht_prefer_verified_node_ids": False,
    }
)
while session.listen_port() == 0 or not session.is_dht_running():
    time.sleep(0.05)
print("listening", session.listen_port(), flush=True)
sys.stdin.read()
