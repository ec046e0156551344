// A web app that signs with the daemon's file and verifies by its JWKS: `node jose.mjs 8001`.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createLocalJWKSet, createRemoteJWKSet, errors, importJWK, jwtVerify, SignJWT } from "jose";

const env = process.env;
const JWKS_URL = new URL(env.JWKS_URL ?? "http://127.0.0.1:9465/.well-known/jwks.json");
// jwks_max_age of the ring, or less: so long a revoked key is still believed here.
const JWKS_MAX_AGE = Number(env.JWKS_MAX_AGE ?? 300) * 1000;
const SIGNING_KEY = env.SIGNING_KEY ?? "/run/ringkeeper/signing-key.jwk";
const LIFETIME = 600; // seconds; access_token_validity of the ring, or less

// jose's own cache lives for ten minutes: too long. Its cooldown (no second look for an unknown kid
// within 30 s) may stay: a key is in the cache before it signs.
const remote = createRemoteJWKSet(JWKS_URL, { cacheMaxAge: JWKS_MAX_AGE });

/** The key of a token; while the daemon is away, of the JWKS that came last. */
async function keyOf(header, token) {
  try {
    return await remote(header, token);
  } catch (error) {
    if (error instanceof errors.JWKSNoMatchingKey || !remote.jwks()) throw error;
    console.error("the JWKS cannot be had:", error.message);
    return createLocalJWKSet(remote.jwks())(header, token);
  }
}

/** Whose token it is. */
async function verify(token) {
  const { payload } = await jwtVerify(token, keyOf, {
    algorithms: ["RS256", "ES256", "EdDSA"], // those that the ring may have
    clockTolerance: 60, // clock_skew of the ring
    requiredClaims: ["exp", "sub"],
  });
  return payload.sub;
}

/** A token by the key that signs now: the file is read each time, for it changes. */
async function sign(claims) {
  const jwk = JSON.parse(await readFile(SIGNING_KEY, "utf8"));
  return new SignJWT(claims)
    .setProtectedHeader({ alg: jwk.alg, kid: jwk.kid, typ: "JWT" })
    .setIssuedAt()
    .setExpirationTime(`${LIFETIME}s`)
    .sign(await importJWK(jwk));
}

/** Whether it is this token that is wrong, and not we. */
function isAboutTheToken(error) {
  return /^ERR_(JWT|JWS|JOSE_ALG|JOSE_NOT_SUPPORTED|JWKS_NO_MATCHING_KEY|JWKS_MULTIPLE_MATCHING_KEYS)/.test(error.code ?? "");
}

async function answer(request) {
  const bearer = /^Bearer (\S+)$/i.exec(request.headers.authorization ?? "")?.[1];
  try {
    if (request.url === "/login") return [200, await sign({ sub: "alice" })];
    if (bearer) return [200, `hello ${await verify(bearer)}`];
    return [401, "no token came along; get one at /login"];
  } catch (error) {
    if (isAboutTheToken(error)) return [401, "invalid token"];
    console.error(error); // the daemon's files or its JWKS are away: nobody is logged out for it
    return [503, "try again soon"];
  }
}

createServer(async (request, response) => {
  const [status, body] = await answer(request);
  response.writeHead(status, { "Content-Type": "text/plain" }).end(body);
}).listen(Number(process.argv[2] ?? 8001), "127.0.0.1");
