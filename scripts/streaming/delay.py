"""A TCP proxy that delays: what arrives is passed on a fixed time later, in order, in both directions.

usage: delay.py LISTEN_HOST:PORT TARGET_HOST:PORT DELAY_MS RATE_BYTES

It holds no more than the delay at the given rate needs, and some, so that a sender feels the link behind it. After
SIGUSR1 it stops answering: connections stay open and new ones are taken, and nothing is passed on any more.
"""

import asyncio
import signal
import socket
import sys

CHUNK = 16 << 10


def bounded(sock, size):
    """A socket with buffers of about `size`, which the kernel would otherwise let grow to seconds of a slow link."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


class Line:
    """Chunks on their way, with the time that each is due; `put` waits while it holds `bound` bytes or more."""

    def __init__(self, bound):
        self.bound, self.held = bound, 0
        self.chunks, self.room = asyncio.Queue(), asyncio.Event()
        self.room.set()

    async def put(self, due, chunk):
        await self.room.wait()
        self.chunks.put_nowait((due, chunk))
        self.hold(len(chunk))

    async def get(self):
        due, chunk = await self.chunks.get()
        self.hold(-len(chunk))
        return due, chunk

    def hold(self, change):
        self.held += change
        if self.held < self.bound:
            self.room.set()
        else:
            self.room.clear()


async def take(loop, source, line, delay):
    """Reads until the end, which is an empty chunk."""
    chunk = b"-"
    while chunk:
        chunk = await loop.sock_recv(source, CHUNK)
        await line.put(loop.time() + delay, chunk)


async def give(loop, line, sink, answering):
    """Writes what is due until the end."""
    while True:
        due, chunk = await line.get()
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        await answering.wait()
        if not chunk:
            return sink.shutdown(socket.SHUT_WR)
        await loop.sock_sendall(sink, chunk)


async def relay(loop, near, target, delay, bound, answering):
    far = bounded(socket.socket(), 2 * CHUNK)
    try:
        await loop.sock_connect(far, target)
        async with asyncio.TaskGroup() as both:
            for source, sink in (near, far), (far, near):
                line = Line(bound)
                both.create_task(take(loop, source, line, delay))
                both.create_task(give(loop, line, sink, answering))
    except* OSError:
        pass
    finally:
        near.close()
        far.close()


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


async def serve(listen, target, delay, rate):
    loop, answering, relays = asyncio.get_running_loop(), asyncio.Event(), set()
    answering.set()
    loop.add_signal_handler(signal.SIGUSR1, answering.clear)
    server = socket.create_server(listen)
    server.setblocking(False)
    on_the_way = int(rate * delay)
    print("ready", flush=True)
    while True:
        near, _ = await loop.sock_accept(server)
        bounded(near, max(4 * CHUNK, on_the_way))
        task = loop.create_task(relay(loop, near, target, delay, 2 * on_the_way + 2 * CHUNK, answering))
        relays.add(task)
        task.add_done_callback(relays.discard)


if __name__ == "__main__":
    asyncio.run(serve(address(sys.argv[1]), address(sys.argv[2]), float(sys.argv[3]) / 1000, float(sys.argv[4])))
