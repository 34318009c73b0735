/**
 * More cases for `cases.js`: how a client comes by its token, shows it, renews it, and what becomes of it without one.
 */

const MINUTE_MS = 60_000;

/** A function that gives "token 1", "token 2" and so on, and the reasons that it was given. */
function issuer(give = (nth) => `token ${nth}`) {
  const reasons = [];
  const token = ({ reason }) => give(reasons.push(reason));
  return { reasons, token };
}

/** The next connection, once it has shown a token. */
async function showing(stage) {
  const socket = await stage.socket();
  socket.open();
  return { socket, auth: await socket.next("AUTH") };
}

/** The next connection, welcomed with its token, which ends in so long. */
async function authorized(stage, remainingMs) {
  const { socket, auth } = await showing(stage);
  accepts(socket, auth, remainingMs);
  socket.welcome(0);
  return socket;
}

function accepts(socket, { id }, remainingMs) {
  const expires = remainingMs === undefined ? undefined : Date.now() + remainingMs;
  socket.says({ type: "authorized", id, expires });
}

/** Says that a token is bad, and closes, as a server does. */
function refuses(socket, { id }, code = "unauthorized", message = "the token has expired") {
  socket.says({ type: "error", id, code, message });
  socket.lose(1008, "not allowed");
}

/** A token with this payload, signed by nobody. */
const jwt = (payload) => `head.${btoa(JSON.stringify(payload)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}.sign`;

/** Seconds after which a client asks for its next token, where this one ends in `remainingMs`. */
async function renewalAfter(module, remainingMs, random = 0.5, token = "token") {
  const stage = new Stage(module, { token: () => token });
  const { socket, auth } = await showing(stage);
  accepts(socket, auth, remainingMs);
  const delays = delaysOf(random, () => socket.welcome(0));
  stage.client.close();
  return delays.map((delay) => Math.round(delay / 100) / 10);
}

Object.assign(CASES, {
  async "a token is the first frame, and is seen nowhere else"(module) {
    const stage = new Stage(module, { token: "secret" });
    const frames = [];
    stage.client.on("frame", ({ text }) => frames.push(text));
    const joined = stage.client.subscribe("r");
    const { socket, auth } = await showing(stage);
    equal([auth.token, socket.url], ["secret", "ws://server.example/ws"]);
    accepts(socket, auth);
    socket.isQuiet();
    equal([stage.client.state, frames.length, frames.join().includes("secret")], ["connecting", 2, false]);
    equal(JSON.parse(frames[0]).token, "…");
    socket.welcome();
    socket.answers(await socket.next("SUBSCRIBE"), { type: "subscribed" });
    await joined;
    equal(stage.client.state, "live");
  },

  async "a function is asked for each connection, and may take its time"(module) {
    const { reasons, token } = issuer(async (nth) => {
      await new Promise((resolve) => setTimeout(resolve));
      return `token ${nth}`;
    });
    const stage = new Stage(module, { token });
    equal([reasons, stage.sockets.length], [[], 0]);
    for (const nth of [1, 2]) {
      const { socket, auth } = await showing(stage);
      equal(auth.token, `token ${nth}`);
      accepts(socket, auth);
      socket.welcome();
      socket.lose();
    }
    await stage.socket();
    equal(reasons, ["connect", "connect", "connect"]);
  },

  async "a function that gives nothing connects without a token"(module) {
    for (const nothing of [undefined, null]) {
      const stage = new Stage(module, { token: () => nothing });
      const socket = await stage.socket();
      socket.open();
      socket.welcome();
      socket.isQuiet();
      equal([stage.client.state, stage.news()], ["live", []]);
      stage.client.close();
    }
  },

  async "what is no token is refused at once"(module) {
    for (const token of ["", 5, {}, null]) {
      let error;
      try {
        new Stage(module, { token });
      } catch (thrown) {
        error = thrown;
      }
      equal(error instanceof TypeError, true);
    }
  },

  async "a function that fails is told of and asked again, and no connection is opened for nothing"(module) {
    const { reasons, token } = issuer((nth) => {
      if (nth === 1) throw new Error("offline");
      return nth === 2 ? 5 : "token";
    });
    const stage = new Stage(module, { token });
    const errors = [];
    stage.client.on("error", (error) => errors.push(error));
    const socket = await authorized(stage);
    equal([stage.sockets.length, reasons.length, socket.closedWith], [1, 3, null]);
    equal(errors.map(({ code, retryable }) => [code, retryable]), [["no_token", true], ["no_token", true]]);
    equal([errors[0].cause.message, stage.client.state], ["offline", "live"]);
  },

  async "a function that never answers holds nothing up"(module) {
    const { reasons, token } = issuer((nth) => (nth === 1 ? new Promise(() => {}) : "token"));
    const stage = new Stage(module, { token, connectTimeout: SOON_MS });
    await until("another attempt", () => reasons.length >= 2);
    await stage.socket();
    stage.client.close();
  },

  async "a client that is closed while it waits for a token opens no connection"(module) {
    let give;
    const stage = new Stage(module, { token: () => new Promise((resolve) => (give = resolve)) });
    await until("the question", () => give);
    stage.client.close();
    give("token");
    await new Promise((resolve) => setTimeout(resolve, SOON_MS));
    equal([stage.sockets.length, stage.client.state], [0, "closed"]);
  },

  async "a token that is refused is asked for once more, and then the client stops and says why"(module) {
    const { reasons, token } = issuer();
    const stage = new Stage(module, { token });
    const states = [];
    stage.client.on("state", ({ state, code }) => states.push([state, code]));
    const waiting = failure(stage.client.subscribe("r"));
    for (const code of ["unauthorized", "bad_command"]) {
      equal(stage.news(), []);
      const { socket, auth } = await showing(stage);
      refuses(socket, auth, code, "the token has expired");
    }
    equal([stage.client.state, states.at(-1)], ["closed", ["closed", 1008]]);
    equal(stage.told.map(([type]) => type), ["error"]);
    equal([(await waiting).code, reasons], ["closed", ["connect", "rejected"]]);
    // The application may have found another way meanwhile.
    stage.client.connect();
    await authorized(stage);
    equal([stage.client.state, reasons.at(-1)], ["live", "connect"]);
  },

  async "the error of a refused token has the server's words, and comes when the client has stopped"(module) {
    const stage = new Stage(module, { token: "secret" });
    const told = new Promise((resolve) => {
      stage.client.on("error", ({ code, message }) => resolve([code, message, stage.client.state]));
    });
    const { socket, auth } = await showing(stage);
    socket.says({ type: "error", id: auth.id, code: "unauthorized", message: "the signature is wrong" });
    equal(await told, ["unauthorized", "the signature is wrong", "closed"]);
    equal([socket.closedWith, stage.sockets.length], [1000, 1]);
  },

  async "a token that is accepted gives the next one its second chance again"(module) {
    const { reasons, token } = issuer();
    const stage = new Stage(module, { token });
    for (const _ of [1, 2]) {
      const { socket, auth } = await showing(stage);
      refuses(socket, auth);
      (await authorized(stage)).lose();
    }
    equal([reasons.slice(0, 4), stage.news()], [["connect", "rejected", "connect", "rejected"], []]);
  },

  async "a server that cannot tell whether a token is good is asked again later"(module) {
    const { reasons, token } = issuer();
    const stage = new Stage(module, { token });
    const { socket, auth } = await showing(stage);
    socket.says({ type: "error", id: auth.id, code: "internal", message: "out of order" });
    await authorized(stage);
    equal([reasons, stage.client.state], [["connect", "connect"], "live"]);
  },

  async "a client without a token that needs one asks why it is not welcome, and stops"(module) {
    const stage = new Stage(module);
    const socket = await stage.socket();
    socket.open();
    socket.answers(await socket.next("PING"), { type: "error", code: "unauthorized", message: "show a token first" });
    equal([stage.client.state, socket.closedWith], ["closed", 1000]);
    equal(stage.news(), ["error"]);
  },

  async "a server that is slow to welcome is waited for"(module) {
    const stage = new Stage(module);
    const socket = await stage.socket();
    socket.open();
    const { id } = await socket.next("PING");
    socket.welcome();
    socket.says({ type: "pong", id });
    equal([stage.client.state, stage.news()], ["live", []]);
  },

  async "a token that the server has no use for is told of"(module) {
    const stage = new Stage(module, { token: issuer().token });
    const socket = await stage.socket();
    socket.open();
    socket.welcome();
    socket.answers(await socket.next("AUTH"), { type: "error", code: "bad_command", message: "no keys here" });
    equal([stage.client.state, stage.news()], ["live", ["error"]]);
  },

  async "a token is renewed in time, and not with all the others"(module) {
    equal(await renewalAfter(module, 10 * MINUTE_MS, 0), [450]);
    equal(await renewalAfter(module, 10 * MINUTE_MS, 0.5), [480]);
    equal(await renewalAfter(module, 10 * MINUTE_MS, 1), [510]);
    equal(await renewalAfter(module, 20_000), [15]);
    equal(await renewalAfter(module, 8_000), [4]);
    equal(await renewalAfter(module, undefined), []);
    equal(await renewalAfter(module, 365 * 24 * 60 * MINUTE_MS), [Math.round((2 ** 31 - 1) / 100) / 10]);
  },

  async "a clock that is behind the server's does not make a token live longer"(module) {
    const ahead = Date.now() + 20 * MINUTE_MS;
    const token = jwt({ sub: "änn ÿ?>", iat: Math.floor(ahead / 1000), exp: Math.floor(ahead / 1000) + 300 });
    const [delay] = await renewalAfter(module, 25 * MINUTE_MS, 0.5, token);
    equal(Math.abs(delay - 240) < 2, true);
  },

  async "a token that seems to have ended already is renewed at once, and then ever more slowly"(module) {
    const { reasons, token } = issuer();
    const stage = new Stage(module, { token });
    const { socket, auth } = await showing(stage);
    accepts(socket, auth, -5 * MINUTE_MS);
    const pauses = delaysOf(0.5, () => socket.welcome(0));
    for (const _ of [1, 2, 3, 4, 5, 6]) {
      const renewal = await socket.next("AUTH");
      pauses.push(...(await delaysUntilTurn(() => accepts(socket, renewal, -5 * MINUTE_MS))));
    }
    equal(pauses, [0, 15_000, 30_000, 60_000, 120_000, 240_000, 240_000]);
    // Its clock cannot tell whether the server has put it out, or the token has ended.
    socket.lose(1008);
    equal(stage.client.state, "reconnecting");
    await until("another token", () => reasons.at(-1) === "connect");
  },

  async "a token is renewed on the living connection"(module) {
    const { reasons, token } = issuer();
    const stage = new Stage(module, { token });
    const { socket, auth } = await showing(stage);
    accepts(socket, auth, MINUTE_MS);
    delaysOf(0.5, () => socket.welcome(0));
    const renewal = await socket.next("AUTH");
    equal([renewal.token, reasons], ["token 2", ["connect", "renew"]]);
    equal(await delaysUntilTurn(() => accepts(socket, renewal, MINUTE_MS)), [48_000]);
    equal([(await socket.next("AUTH")).token, stage.sockets.length, stage.news()], ["token 3", 1, []]);
  },

  async "a renewal that fails is tried again until there is a token"(module) {
    const { reasons, token } = issuer((nth) => {
      if (nth === 2) throw new Error("offline");
      return nth === 3 ? null : `token ${nth}`;
    });
    const stage = new Stage(module, { token });
    const { socket, auth } = await showing(stage);
    accepts(socket, auth, MINUTE_MS);
    delaysOf(0.5, () => socket.welcome(0));
    const refused = await socket.next("AUTH");
    equal(refused.token, "token 4");
    socket.says({ type: "error", id: refused.id, code: "unauthorized", message: "no" });
    const accepted = await socket.next("AUTH");
    accepts(socket, accepted, MINUTE_MS);
    equal(reasons, ["connect", "renew", "renew", "renew", "rejected"]);
    equal([stage.all("error").length, stage.client.state, stage.sockets.length], [3, "live", 1]);
  },

  async "a function that does not answer a renewal is asked again"(module) {
    let give;
    const { reasons, token } = issuer((nth) => (nth === 2 ? new Promise((resolve) => (give = resolve)) : `token ${nth}`));
    const stage = new Stage(module, { token, requestTimeout: SOON_MS });
    const { socket, auth } = await showing(stage);
    accepts(socket, auth, MINUTE_MS);
    delaysOf(0.5, () => socket.welcome(0));
    equal([(await socket.next("AUTH")).token, reasons.length], ["token 3", 3]);
    equal(stage.news(), ["error"]);
    give("too late");
    await turn();
    socket.isQuiet();
  },

  async "somebody else's token is not tried again"(module) {
    const { reasons, token } = issuer();
    const stage = new Stage(module, { token });
    const { socket, auth } = await showing(stage);
    accepts(socket, auth, MINUTE_MS);
    delaysOf(0.5, () => socket.welcome(0));
    const { id } = await socket.next("AUTH");
    socket.says({ type: "error", id, code: "forbidden", message: "another sub" });
    await new Promise((resolve) => setTimeout(resolve, SOON_MS));
    equal([reasons.length, stage.client.state, stage.news()], [2, "live", ["error"]]);
  },

  async "a session that ends with its token is begun again with another"(module) {
    const { reasons, token } = issuer();
    const stage = new Stage(module, { token });
    // By its own clock, or by the server's word.
    for (const [remainingMs, reason] of [[1_500, "not allowed"], [MINUTE_MS, "the token has expired"]]) {
      (await authorized(stage, remainingMs)).lose(1008, reason);
      equal(stage.client.state, "reconnecting");
    }
    await authorized(stage, MINUTE_MS);
    equal([reasons, stage.news()], [["connect", "connect", "connect"], []]);
  },

  async "a session that the server has put out stays out"(module) {
    for (const remainingMs of [MINUTE_MS, undefined]) {
      const stage = new Stage(module, { token: issuer().token });
      (await authorized(stage, remainingMs)).lose(1008, "not allowed");
      equal([stage.client.state, stage.sockets.length], ["closed", 1]);
    }
  },

  async "a session whose only token has ended is over"(module) {
    const stage = new Stage(module, { token: "token" });
    (await authorized(stage, 500)).lose(1008, "the token has expired");
    equal(stage.client.state, "closed");
  },

  async "the next connection of a server that stops is opened with a token as well"(module) {
    const { reasons, token } = issuer();
    const stage = new Stage(module, { token });
    const old = await authorized(stage, MINUTE_MS);
    old.says({ type: "bye", closes_in_ms: 100 });
    // Refused once, it is opened again; the old one lives.
    const first = await showing(stage);
    refuses(first.socket, first.auth);
    const next = await authorized(stage, MINUTE_MS);
    equal([reasons, old.closedWith], [["connect", "connect", "rejected"], 1000]);
    equal([stage.client.session, stage.news()], ["session 3", []]);
    stage.client.close();
    equal(next.closedWith, 1000);
  },

  async "a token is renewed on the connection that commands go to, and on no other"(module) {
    const { reasons, token } = issuer();
    const stage = new Stage(module, { token });
    const old = await authorized(stage, MINUTE_MS);
    old.says({ type: "bye", closes_in_ms: 100 });
    const { socket: next, auth } = await showing(stage);
    // Of the old one no timer is left.
    stage.client.publish("r", "keeps the old one open", { wait: false }).catch(() => {});
    accepts(next, auth, MINUTE_MS);
    equal(delaysOf(0.5, () => next.welcome(0)).map((delay) => Math.round(delay / 1000)), [48]);
    const renewal = await next.next("AUTH");
    equal([renewal.token, reasons.length], ["token 3", 3]);
    // The new one is lost, and the old one has to do.
    const pauses = delaysOf(0.5, () => next.lose());
    equal(pauses.some((delay) => Math.abs(delay - 48_000) < 2_000), true);
    await old.next("sendMessage");
    equal((await old.next("AUTH")).token, "token 4");
  },

  async "a token that comes after the client was closed, or its connection lost, is shown to nobody"(module) {
    for (const end of ["close", "lose"]) {
      let give;
      const { token } = issuer((nth) => (nth === 2 ? new Promise((resolve) => (give = resolve)) : `token ${nth}`));
      const stage = new Stage(module, { token });
      const { socket, auth } = await showing(stage);
      accepts(socket, auth, MINUTE_MS);
      delaysOf(0.5, () => socket.welcome(0));
      await until("the question", () => give);
      if (end === "close") stage.client.close();
      else socket.lose();
      give("late");
      await new Promise((resolve) => setTimeout(resolve, SOON_MS));
      socket.isQuiet();
      equal(stage.news(), []);
      stage.client.close();
    }
  },

  async "a closed client asks for no token any more"(module) {
    const { reasons, token } = issuer();
    const stage = new Stage(module, { token });
    const { socket, auth } = await showing(stage);
    accepts(socket, auth, MINUTE_MS);
    const [renew] = timersOf(() => socket.welcome(0));
    stage.client.close();
    equal([renew.isCleared(), reasons], [true, ["connect"]]);
  },

  async "a room that the server takes away is not asked for again"(module) {
    const stage = new Stage(module, { token: issuer().token });
    const first = await authorized(stage);
    for (const room of ["r", "s"]) {
      stage.client.subscribe(room);
      first.answers(await first.next("SUBSCRIBE"), { type: "subscribed" });
    }
    first.says({ type: "unsubscribed", room: "r" });
    equal([stage.all("unsubscribed"), stage.client.rooms], [[{ room: "r", removed: true }], ["s"]]);
    first.lose();
    const second = await authorized(stage);
    equal((await second.next("SUBSCRIBE")).room, "s");
    second.isQuiet();
  },

  async "a room that a token does not allow any more ends with an error"(module) {
    const stage = new Stage(module, { token: issuer().token });
    const first = await authorized(stage);
    stage.client.subscribe("r");
    first.answers(await first.next("SUBSCRIBE"), { type: "subscribed" });
    first.lose();
    const second = await authorized(stage);
    stage.news();
    second.answers(await second.next("SUBSCRIBE"), { type: "error", code: "forbidden", message: "not this room" });
    equal([stage.news(), stage.client.rooms], [["error"], []]);
    second.lose();
    (await authorized(stage)).isQuiet();
  },
});

/** The timers that a call sets, which do not run, and whether each has been cleared since. */
function timersOf(call) {
  const { setTimeout, clearTimeout } = globalThis;
  const timers = [];
  const cleared = new Set();
  globalThis.setTimeout = () => timers.push(0) - 1 + 1e9;
  try {
    call();
  } finally {
    globalThis.setTimeout = setTimeout;
  }
  globalThis.clearTimeout = (timer) => {
    cleared.add(timer);
    clearTimeout(timer);
  };
  setTimeout(() => (globalThis.clearTimeout = clearTimeout));
  return timers.map((_, nth) => ({ isCleared: () => cleared.has(nth + 1e9) }));
}

/** [`delaysOf`] for a call whose timers are set when promises have been settled. */
async function delaysUntilTurn(call) {
  const { setTimeout } = globalThis;
  const { random: chance } = Math;
  const delays = [];
  globalThis.setTimeout = (act, delay) => {
    delays.push(Math.round(delay / 100) * 100);
    return setTimeout(act);
  };
  Math.random = () => 0.5;
  call();
  for (let turn = 0; turn < 20; turn += 1) await undefined;
  globalThis.setTimeout = setTimeout;
  Math.random = chance;
  return delays;
}
