// A web app that verifies with jsonwebtoken and jwks-rsa: `node jsonwebtoken.mjs 8001`.
import { createServer } from "node:http";
import jwt from "jsonwebtoken";
import jwksRsa from "jwks-rsa";

const env = process.env;
// jwks_max_age of the ring, or less: so long a revoked key is still believed here.
const JWKS_MAX_AGE = Number(env.JWKS_MAX_AGE ?? 300) * 1000;
const ALGORITHMS = ["RS256", "ES256"]; // those that the ring may have; jsonwebtoken has no EdDSA

/** The JWKS, asked for once a second at most: jwks-rsa asks anew for each kid that it lacks. */
let asked = { at: -Infinity };
function fetcher(url) {
  if (performance.now() - asked.at >= 1000) asked = { at: performance.now(), jwks: get(url) };
  return asked.jwks;
}

async function get(url) {
  const response = await fetch(url, { signal: AbortSignal.timeout(5000) });
  if (!response.ok) throw new Error(`the JWKS cannot be had: ${response.status}`);
  return response.json();
}

const jwks = jwksRsa({
  jwksUri: env.JWKS_URL ?? "http://127.0.0.1:9465/.well-known/jwks.json",
  fetcher,
  cacheMaxAge: JWKS_MAX_AGE, // by itself: ten minutes
  cacheMaxEntries: 40, // as many keys as a ring may have; by itself: 5
  cacheMaxAgeFallback: 24 * 3600 * 1000, // while the daemon is away, nobody is logged out
  onStaleCacheFallback: (error) => console.error("the JWKS cannot be had:", error.message),
});

/** Whose token it is. */
async function verify(token) {
  const header = jwt.decode(token, { complete: true })?.header;
  if (typeof header?.kid !== "string") throw new jwt.JsonWebTokenError("it names no key");
  const key = await jwks.getSigningKey(header.kid);
  // By an EdDSA key it raises an error that looks like one of ours.
  if (!ALGORITHMS.includes(key.alg)) throw new jwt.JsonWebTokenError("not an algorithm of ours");
  const claims = jwt.verify(token, key.getPublicKey(), {
    algorithms: [key.alg], // the key's, and no other
    clockTolerance: 60, // clock_skew of the ring
  });
  if (typeof claims.exp !== "number") throw new jwt.JsonWebTokenError("it never expires");
  return claims.sub;
}

async function answer(request) {
  const bearer = /^Bearer (\S+)$/i.exec(request.headers.authorization ?? "")?.[1];
  if (!bearer) return [401, "no token came along"];
  try {
    return [200, `hello ${await verify(bearer)}`];
  } catch (error) {
    const isAboutTheToken =
      error instanceof jwt.JsonWebTokenError || error instanceof jwksRsa.SigningKeyNotFoundError;
    if (isAboutTheToken) return [401, "invalid token"];
    console.error(error); // the JWKS is away, and was never seen: nobody is logged out for it
    return [503, "try again soon"];
  }
}

createServer(async (request, response) => {
  const [status, body] = await answer(request);
  response.writeHead(status, { "Content-Type": "text/plain" }).end(body);
}).listen(Number(process.argv[2] ?? 8001), "127.0.0.1");
