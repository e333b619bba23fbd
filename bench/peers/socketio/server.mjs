/**
 * A chat on Socket.IO 4 with the Redis streams adapter and connection state recovery. PORT and STORE_URL are in the environment.
 * KEEP=1 stores each message in its room's stream before the answer, for a fair comparison with a server that does so.
 */
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const HOUR_S = 3_600;
const keep = process.env.KEEP === "1";
const options = process.env.STORE_URL.startsWith("unix:")
  ? { socket: { path: new URL(process.env.STORE_URL).pathname } }
  : { url: process.env.STORE_URL };
const store = createClient(options);
const streams = createClient(options);
await Promise.all([store.connect(), streams.connect()]);

const http = createServer();
const io = new Server(http, {
  adapter: createAdapter(streams),
  connectionStateRecovery: {},
  transports: ["websocket"],
  serveClient: false,
});

async function remember(room, body) {
  const key = `log:${room}`;
  await Promise.all([store.xAdd(key, "*", { body }), store.expire(key, HOUR_S)]);
}

io.on("connection", (socket) => {
  const { room } = socket.handshake.auth;
  socket.join(room);
  socket.emit("joined");
  socket.on("message", async (body, answer) => {
    if (keep) await remember(room, body);
    io.to(room).emit("message", body);
    answer(1);
  });
});

http.listen(+process.env.PORT, "127.0.0.1");
