// A ring, followed in Redis with nothing but a Redis client and jose, as docs/wire-format.md has it.
import { createHash, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "@redis/client";
import {
  base64url,
  calculateJwkThumbprint,
  compactDecrypt,
  compactVerify,
  errors,
  importJWK,
  jwtVerify,
  SignJWT,
} from "jose";

const ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"];

const keysIn = (jwks) => jwks.keys ?? [jwks];
const sha256 = (...parts) =>
  parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest();

/** Whether its private half is needed: it signs, or is to sign next. */
const isForSigning = ({ kind, state }) =>
  kind !== "foreign" && (state === "active" || state === "published");

function signed(claims, { entry, signs }, lifetime) {
  return new SignJWT(claims)
    .setProtectedHeader({ alg: entry.jwk.alg, kid: entry.jwk.kid, typ: "JWT" })
    .setIssuedAt()
    .setExpirationTime(`${lifetime}s`)
    .sign(signs);
}

/** Whether a key's name is that of its numbers, where it has one of ours. */
async function isNamedRightly({ jwk, kind }) {
  const [, ours] = /^[ds]-([\w-]{22})$/.exec(jwk.kid) ?? [];
  if (ours && !(await calculateJwkThumbprint(jwk)).startsWith(ours)) return false;
  return !jwk.kid.startsWith({ dynamic: "s-", static: "d-" }[kind] ?? "\0");
}

/** Whether a key is being revoked little by little, and it is this token's turn. */
function isDrained(entry, claims, token) {
  const { drained_from_ms: from, drained_until_ms: until } = entry;
  if (!from || !until) return false;
  const [t, W] = [Date.now() - from, until - from];
  const H = entry.retired_at_ms + entry.token_validity_ms - from;
  if (t >= W) return true;
  const isNamed = typeof claims.sub === "string" && claims.sub !== "";
  const hash = sha256(entry.jwk.kid, "\0", isNamed ? claims.sub : token.split(".")[1]);
  return Number(hash.readBigUInt64BE()) / 2 ** 64 < ((H - W) * t) / (W * (H - t));
}

export class Ring {
  #redis;
  #subscriber;
  #roots = new Map(); // thumbprint -> key
  #keks = new Map(); // kid -> bytes
  #ring = null; // the snapshot that is held, and its digest
  #digest = "";
  #proof = null;
  #keys = new Map(); // kid -> { entry, verifies, signs }, of that snapshot
  #id = randomUUID();
  #work = Promise.resolve();
  #usable = { epoch: 0, version: 0 }; // the newest version of which every key can be used
  #closing = new AbortController();

  /** The ring `name` at `url`; `root` is what root.pub.jwk holds, `kek` what kek.jwk holds. */
  static async open({ url, name = "access-token", root, kek }) {
    const ring = new Ring();
    ring.name = name;
    ring.at = (what) => `ringkeeper:{${name}}:${what}`;
    for (const jwk of keysIn(root)) {
      ring.#roots.set(await calculateJwkThumbprint(jwk), await importJWK(jwk, "Ed25519"));
    }
    for (const jwk of keysIn(kek)) ring.#keks.set(jwk.kid, base64url.decode(jwk.k));
    await ring.#follow(url);
    return ring;
  }

  /** A token; it lives for `lifetime` seconds. */
  async sign(claims, lifetime) {
    const { policy } = this.#ring;
    if (Date.now() - this.#proof.at_ms > policy.max_staleness_ms) throw new Error("heard nothing");
    if (lifetime * 1000 > policy.access_token_validity_ms) throw new RangeError("lives too long");
    const active = (kind) =>
      [...this.#keys.values()].find((k) => k.entry.kind === kind && k.entry.state === "active");
    const key = (!policy.use_dynamic_access_token_signing_key && active("static")) || active("dynamic");
    if (!key?.signs) throw new Error("no key to sign with");
    return signed(claims, key, lifetime);
  }

  /** The claims of a good token; else one of jose's errors. */
  async verify(token) {
    const { policy } = this.#ring;
    const stale = Date.now() - this.#proof.at_ms - policy.clock_skew_ms;
    if (stale > (policy.max_verify_staleness_ms ?? Infinity)) throw new Error("heard nothing");
    let entry;
    const { payload } = await jwtVerify(
      token,
      (header) => {
        const key = this.#keys.get(header.kid);
        if (!key || key.entry.state === "revoked") throw new errors.JWKSNoMatchingKey();
        entry = key.entry;
        if (header.alg !== entry.jwk.alg) throw new errors.JOSEAlgNotAllowed("not the key's");
        return key.verifies;
      },
      {
        algorithms: ALGORITHMS,
        clockTolerance: policy.clock_skew_ms / 1000,
        requiredClaims: ["exp"],
      },
    );
    if ((payload.iat ?? 0) * 1000 > Date.now() + policy.clock_skew_ms) {
      throw new errors.JWTClaimValidationFailed("from the future", payload, "iat", "check_failed");
    }
    if (isDrained(entry, payload, token)) throw new errors.JWKSNoMatchingKey();
    return payload;
  }

  async close() {
    this.#closing.abort();
    const leave = async () => {
      await this.#work;
      await this.#redis.hDel(this.at("instances"), this.#id);
      await this.#redis.zRem(this.at("seen"), this.#id);
    };
    await Promise.race([leave().catch(() => {}), sleep(1000)]); // Redis may be away
    this.#subscriber.destroy();
    this.#redis.destroy();
  }

  async #follow(url) {
    this.#redis = createClient({ url, disableOfflineQueue: true });
    this.#subscriber = this.#redis.duplicate();
    for (const client of [this.#redis, this.#subscriber]) {
      client.on("error", (error) => console.error("redis:", error.message));
    }
    await this.#redis.connect();
    await this.#subscriber.connect();
    // A message says only that there is something new: what is true is in the hash.
    const read = () => this.#soon(() => this.#read());
    await this.#subscriber.subscribe(this.at("published"), read);
    await this.#read(); // and what went wrong, to whoever opens the ring
    if (!this.#ring) throw new Error(`${this.name}: no ring to start with`);
    this.#subscriber.on("ready", read); // subscribed anew: what was said meanwhile is lost
    this.#poll(read);
  }

  async #poll(read) {
    while (!this.#closing.signal.aborted) {
      const pause = this.#ring.policy.poll_interval_ms * (0.8 + 0.4 * Math.random());
      await sleep(pause, null, { signal: this.#closing.signal }).catch(() => {});
      await read();
    }
  }

  /** One after the other; whatever fails, what is held is kept. */
  #soon(task) {
    this.#work = this.#work.then(async () => {
      if (this.#closing.signal.aborted) return;
      await task().catch((error) => console.error("ring:", error.message));
    });
    return this.#work;
  }

  async #read() {
    const key = this.at("keyring");
    for (const field of ["snapshot", "proof"]) {
      // Who may write to Redis shall not fill our memory.
      if ((await this.#redis.hStrLen(key, field)) > 128 * 1024) throw new Error("too long");
    }
    const [snapshot, proof] = await this.#redis.hmGet(key, ["snapshot", "proof"]);
    if (!snapshot || !proof) return;
    const ring = await this.#opened(snapshot, "ringkeeper-snapshot+json");
    const vouched = await this.#opened(proof, "ringkeeper-proof+json");
    const digest = base64url.encode(sha256(snapshot));
    const now = Date.now();
    const vouches =
      vouched.ring_id === ring.ring_id &&
      vouched.version === ring.version &&
      vouched.digest === digest &&
      vouched.at_ms <= now + ring.policy.clock_skew_ms;
    if (!this.#ring) {
      const isFresh = vouches && now - vouched.at_ms <= ring.policy.max_staleness_ms;
      if (!isFresh) throw new Error("nobody vouches for this snapshot now");
    } else if (ring.ring_id !== this.#ring.ring_id || ring.version < this.#ring.version) {
      throw new Error("another ring, or an older one");
    } else if (ring.version === this.#ring.version && digest !== this.#digest) {
      throw new Error("two snapshots of one version");
    }
    if (digest !== this.#digest || this.#usable.version < ring.version) {
      await this.#hold(ring, digest);
    }
    if (vouches && vouched.at_ms > (this.#proof?.at_ms ?? 0)) this.#proof = vouched;
    await this.#confirm();
  }

  /** The payload of a document that a pinned root signed. */
  async #opened(jws, typ) {
    const { payload, protectedHeader } = await compactVerify(
      jws,
      ({ kid }) => {
        if (!this.#roots.has(kid)) throw new Error("signed by a root that is not pinned");
        return this.#roots.get(kid);
      },
      { algorithms: ["Ed25519"] },
    );
    if (protectedHeader.typ !== typ || Object.keys(protectedHeader).length !== 3) {
      throw new Error(`no ${typ}`);
    }
    const members = JSON.parse(new TextDecoder().decode(payload));
    if (members.schema !== 1) throw new Error("a newer format");
    if (members.name !== this.name) throw new Error("another ring");
    return members;
  }

  async #hold(ring, digest) {
    const keys = new Map();
    for (const entry of ring.keys) {
      if (!(await isNamedRightly(entry))) throw new Error(`${entry.jwk.kid} is another key's name`);
      const verifies = await importJWK(entry.jwk, entry.jwk.alg);
      keys.set(entry.jwk.kid, { entry, verifies, signs: null });
    }
    let isUsable = true;
    for (const [kid, key] of keys) {
      if (!isForSigning(key.entry)) continue;
      try {
        const [jwe] = await this.#redis.hmGet(this.at("sealed"), [kid]);
        key.signs = await this.#unsealed(jwe, key.entry);
        await jwtVerify(await signed({}, key, 1), key.verifies); // it is tried before it is needed
      } catch (error) {
        [key.signs, isUsable] = [null, false];
        console.error(`ring: ${kid} cannot be used:`, error.message);
      }
    }
    [this.#ring, this.#digest, this.#keys] = [ring, digest, keys];
    if (isUsable) this.#usable = { epoch: ring.epoch, version: ring.version };
  }

  async #unsealed(jwe, { jwk: { kid, alg, use, ...open } }) {
    const { plaintext } = await compactDecrypt(jwe, (header) => this.#keks.get(header.kid), {
      keyManagementAlgorithms: ["dir"],
      contentEncryptionAlgorithms: ["A256GCM"],
    });
    const jwk = JSON.parse(new TextDecoder().decode(plaintext));
    // The ciphertext does not say whose it is.
    if (Object.keys(open).some((member) => jwk[member] !== open[member])) {
      throw new Error("another key's private half");
    }
    return importJWK(jwk, alg);
  }

  /** Tell the leader what can be used here: no key signs before all said that they can. */
  async #confirm() {
    const said = {
      role: "sign",
      ...this.#usable,
      roots: [...this.#roots.keys()],
      keks: [...this.#keks.keys()],
      algorithms: ALGORITHMS,
    };
    const [seconds, micros] = await this.#redis.sendCommand(["TIME"]);
    const now = String(seconds * 1000 + Math.floor(micros / 1000));
    await this.#redis.sendCommand(["ZADD", this.at("seen"), now, this.#id]);
    await this.#redis.hSet(this.at("instances"), this.#id, JSON.stringify(said));
  }
}
