// A web app that signs and verifies with the ring in Redis, by ring.mjs: `node redis.mjs 8001`.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { errors } from "jose";
import { Ring } from "./ring.mjs";

const env = process.env;
const read = async (file) => JSON.parse(await readFile(file, "utf8"));
const ring = await Ring.open({
  url: env.REDIS_URL ?? "redis://127.0.0.1:6379/0",
  root: await read(env.TRUST_ROOT ?? "/etc/ringkeeper/root.pub.jwk"),
  kek: await read(env.KEK ?? "/etc/ringkeeper/kek.jwk"),
});
process.once("SIGTERM", () => ring.close().finally(() => process.exit()));

async function answer(request) {
  const bearer = /^Bearer (\S+)$/i.exec(request.headers.authorization ?? "")?.[1];
  try {
    if (request.url === "/login") return [200, await ring.sign({ sub: "alice" }, 600)];
    if (bearer) return [200, `hello ${(await ring.verify(bearer)).sub}`];
    return [401, "no token came along; get one at /login"];
  } catch (error) {
    if (error instanceof errors.JOSEError) return [401, "invalid token"];
    console.error(error); // nothing was heard of the ring for long: nobody is logged out for it
    return [503, "try again soon"];
  }
}

createServer(async (request, response) => {
  const [status, body] = await answer(request);
  response.writeHead(status, { "Content-Type": "text/plain" }).end(body);
}).listen(Number(process.argv[2] ?? 8001), "127.0.0.1");
