/**
 * roomcast.js against scripted servers: what it says on the wire, and what it tells the application.
 *
 * `runCases(module)` runs them all, those of `handover.js`, `tokens.js` and `presence.js` too, and gives the failures, one
 * line each. They run in any engine that can import the module. What should happen is awaited; what should not has had its chance when something
 * has come that comes later.
 */

const PATIENCE_MS = 5_000;
/** Short enough to be waited for, where a case is about its end. */
const SOON_MS = 30;

/* ---- the other side --------------------------------------------------------------------------------------------- */

/** Waits until `probe` gives something. */
async function until(what, probe) {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const found = probe();
    if (found) return found;
    if (performance.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve));
  }
}

function equal(actual, expected) {
  const [shown, wanted] = [actual, expected].map((value) => JSON.stringify(value));
  if (shown !== wanted) throw new Error(`${shown} where ${wanted} was expected`);
}

/** The error that a promise is rejected with. */
async function failure(promise) {
  const value = await promise.catch((error) => ({ error }));
  if (value?.error === undefined) throw new Error(`resolved to ${JSON.stringify(value)}`);
  return value.error;
}

/** Makes a call whose deadline never comes. */
function endless(call) {
  const { setTimeout } = globalThis;
  globalThis.setTimeout = () => undefined;
  try {
    return call();
  } finally {
    globalThis.setTimeout = setTimeout;
  }
}

/** What the client takes for a WebSocket, and the case for the server's end of it. */
class Socket {
  readyState = 0;
  closedWith = null;
  #frames = [];

  constructor(stage, url) {
    this.stage = stage;
    this.url = url;
    stage.sockets.push(this);
  }

  send(text) {
    this.#frames.push(JSON.parse(text));
  }

  close(code) {
    this.readyState = 3;
    this.closedWith = code;
  }

  /** The next frame that the client has sent, which must be of this type. */
  async next(type) {
    const frame = await until(`a ${type}`, () => this.#frames.shift());
    if (frame.type !== type) throw new Error(`${JSON.stringify(frame)} where a ${type} was expected`);
    return frame;
  }

  /** The client has sent nothing that was not read. */
  isQuiet() {
    equal(this.#frames, []);
  }

  /** The handshake is over. */
  open() {
    this.readyState = 1;
    this.onopen?.();
  }

  welcome(heartbeat = 25) {
    this.readyState = 1;
    this.says({ type: "welcome", session: `session ${this.stage.sockets.indexOf(this) + 1}`, node: "node", heartbeat });
  }

  /** A client that has closed its end hears no more. */
  says(frame) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  answers({ id, room }, reply) {
    this.says({ id, room, ...reply });
  }

  message(offset, message = `message ${offset}`, session = "another") {
    this.says({ type: "message", room: "r", message, offset, session });
  }

  lose(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}

/** A client without patience, the sockets that it opens, and what it reports, with the undefined left out. */
class Stage {
  sockets = [];
  told = [];

  constructor({ Roomcast }, { urls = "ws://server.example/ws", ...options } = {}) {
    const stage = this;
    const WebSocket = class {
      constructor(url) {
        return new Socket(stage, url);
      }
    };
    this.client = new Roomcast(urls, { WebSocket, backoffFirst: 2, backoffCap: 2, ...options });
    for (const type of ["message", "subscribed", "unsubscribed", "joined", "left", "gap", "error"]) {
      this.client.on(type, (detail) => this.told.push([type, JSON.parse(JSON.stringify(detail))]));
    }
  }

  /** The first connection, or the one after those so far. */
  async socket() {
    const nth = this.taken ?? 0;
    this.taken = nth + 1;
    return until("a connection", () => this.sockets[nth]);
  }

  async live(heartbeat) {
    const socket = await this.socket();
    socket.welcome(heartbeat);
    return socket;
  }

  /** The details of this event, in order. */
  all(type) {
    return this.told.filter(([name]) => name === type).map(([, detail]) => detail);
  }

  /** What was reported since the last call: the events' names, and of messages what they say. */
  news() {
    return this.told.splice(0).map(([type, detail]) => (type === "message" ? detail.message : type));
  }
}

/** A joined room "r" at this offset. */
async function inRoom(stage, offset, options = {}) {
  const socket = await stage.live();
  const joined = stage.client.subscribe("r", options);
  socket.answers(await socket.next("SUBSCRIBE"), { type: "subscribed", offset, epoch: "e1" });
  await joined;
  stage.told = [];
  return socket;
}

/* ---- the cases -------------------------------------------------------------------------------------------------- */

const CASES = {
  async "a first join asks for the last messages, which are reported once and in order"(module) {
    const stage = new Stage(module);
    const socket = await stage.live();
    const joined = stage.client.subscribe("r", { history: 3 });
    const command = await socket.next("SUBSCRIBE");
    equal([command.history, "after" in command, "epoch" in command], [3, false, false]);
    socket.answers(command, { type: "subscribed", offset: 10, epoch: "e1" });
    for (const offset of [8, 9, 9, 10, 11]) socket.message(offset);
    const position = { room: "r", offset: 10, epoch: "e1", rejoin: false };
    equal(await joined, position);
    equal(stage.told[0], ["subscribed", position]);
    const told = stage.told.slice(1).map(([, { offset, epoch, replayed }]) => [offset, epoch, replayed]);
    equal(told, [[8, "e1", true], [9, "e1", true], [10, "e1", true], [11, "e1", false]]);
  },

  async "a new connection goes on after the last message"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 10);
    first.message(11);
    first.lose();
    const second = await stage.live();
    const command = await second.next("SUBSCRIBE");
    equal([command.after, command.epoch, "history" in command], [11, "e1", false]);
    second.answers(command, { type: "subscribed", offset: 13, epoch: "e1", recovered: true });
    for (const offset of [11, 12, 13, 14]) second.message(offset);
    equal(stage.told[1], ["subscribed", { room: "r", offset: 13, epoch: "e1", recovered: true, rejoin: true }]);
    const told = stage.told.slice(2).map(([, { offset, replayed }]) => [offset, replayed]);
    equal(told, [[12, true], [13, true], [14, false]]);
  },

  async "a replay that was cut is taken up where it was cut"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 10);
    first.lose();
    const second = await stage.live();
    second.answers(await second.next("SUBSCRIBE"), { type: "subscribed", offset: 20, epoch: "e1", recovered: true });
    second.says({ type: "pong" });
    second.message(11);
    second.lose();
    const third = await stage.live();
    const command = await third.next("SUBSCRIBE");
    equal(command.after, 11);
    third.answers(command, { type: "subscribed", offset: 20, epoch: "e1", recovered: true });
    third.says({ type: "pong" });
    third.lose();
    equal((await (await stage.live()).next("SUBSCRIBE")).after, 11);
  },

  async "a first replay that was cut is taken up where it was cut"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 100, { history: 50 });
    first.message(51);
    first.says({ type: "pong" });
    first.lose();
    equal((await (await stage.live()).next("SUBSCRIBE")).after, 51);
  },

  async "a replay of which nothing has come yet begins anew"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 100, { history: 30 });
    first.lose();
    const second = await stage.live();
    const command = await second.next("SUBSCRIBE");
    equal([command.after, command.history], [70, 30]);
    second.says({ type: "pong" });
    second.answers(command, { type: "subscribed", offset: 100, epoch: "e1", recovered: true });
    second.message(71);
    equal(stage.news(), ["subscribed", "message 71"]);
  },

  async "a replay is over when something else comes"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 100, { history: 30 });
    first.says({ type: "pong" });
    first.lose();
    equal((await (await stage.live()).next("SUBSCRIBE")).after, 100);
  },

  async "a position that the server cannot go on from is told, and the last messages follow"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 41, { history: 2 });
    first.message(42);
    first.lose();
    const second = await stage.live();
    const command = await second.next("SUBSCRIBE");
    equal([command.after, command.epoch, command.history], [42, "e1", 2]);
    second.answers(command, { type: "subscribed", offset: 3, epoch: "e2", recovered: false });
    for (const offset of [2, 3, 4]) second.message(offset);
    const position = { room: "r", offset: 3, epoch: "e2" };
    equal(stage.told[1], ["subscribed", { ...position, recovered: false, rejoin: true }]);
    equal(stage.told[2], ["gap", { room: "r", after: 42, offset: 3, epoch: "e2" }]);
    const told = stage.told.slice(3).map(([, { offset, epoch, replayed }]) => [offset, epoch, replayed]);
    equal(told, [[2, "e2", true], [3, "e2", true], [4, "e2", false]]);
  },

  async "a server that has lost a room's end is followed from where it is"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 60, { history: 10 });
    first.message(61);
    first.lose();
    const second = await stage.live();
    second.answers(await second.next("SUBSCRIBE"), { type: "subscribed", offset: 50, epoch: "e1", recovered: false });
    for (const offset of [49, 50, 51, 52]) second.message(offset);
    equal(stage.news(), ["message 61", "subscribed", "gap", "message 51", "message 52"]);
  },

  async "a gap in a living room is told, and the next connection goes on behind it"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 41);
    const gap = { room: "r", after: 41, offset: 60, epoch: "e2" };
    first.says({ type: "gap", ...gap });
    equal(stage.told.pop(), ["gap", gap]);
    first.message(61);
    first.says({ type: "gap", room: "r", after: 61, offset: 0, epoch: "e3" });
    first.message(1);
    equal(stage.told.flatMap(([, { replayed }]) => replayed ?? []), [false, false]);
    first.lose();
    const command = await (await stage.live()).next("SUBSCRIBE");
    equal([command.after, command.epoch], [1, "e3"]);
  },

  async "a room that the server has ended is silent until it is joined again"(module) {
    const stage = new Stage(module);
    const socket = await inRoom(stage, 10);
    stage.client.subscribe("r");
    socket.says({ type: "unsubscribed", room: "r" });
    socket.message(11);
    equal(stage.news(), []);
    socket.answers(await socket.next("SUBSCRIBE"), { type: "subscribed", offset: 12, epoch: "e1", recovered: true });
    for (const offset of [11, 12]) socket.message(offset);
    equal(stage.news(), ["subscribed", "message 11", "message 12"]);
  },

  async "a gap in a replay is told, and the replay goes on behind it"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 10);
    first.lose();
    const second = await stage.live();
    second.answers(await second.next("SUBSCRIBE"), { type: "subscribed", offset: 20, epoch: "e1", recovered: true });
    second.message(11);
    second.says({ type: "gap", room: "r", after: 11, offset: 18, epoch: "e1" });
    for (const offset of [19, 20, 21]) second.message(offset);
    const told = stage.told.slice(2).map(([type, { offset, replayed = "" }]) => [type, offset, replayed]);
    equal(told, [["gap", 18, ""], ["message", 19, true], ["message", 20, true], ["message", 21, false]]);
  },

  async "without history nothing is asked for, nothing is dropped, and a new connection is a gap"(module) {
    const stage = new Stage(module);
    const first = await stage.live();
    const joined = stage.client.subscribe("r", { history: 50 });
    first.answers(await first.next("SUBSCRIBE"), { type: "subscribed" });
    equal(await joined, { room: "r", rejoin: false });
    first.message(undefined, "same");
    first.message(undefined, "same");
    first.says({ type: "gap", room: "r" });
    first.lose();
    equal(stage.news(), ["subscribed", "same", "same", "gap"]);
    const second = await stage.live();
    const command = await second.next("SUBSCRIBE");
    equal(["after" in command, "epoch" in command], [false, false]);
    second.answers(command, { type: "subscribed" });
    equal(stage.told, [
      ["subscribed", { room: "r", recovered: false, rejoin: true }],
      ["gap", { room: "r" }],
    ]);
  },

  async "a server that keeps no history any more is understood"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 41);
    first.lose();
    const second = await stage.live();
    second.answers(await second.next("SUBSCRIBE"), { type: "subscribed", recovered: false });
    second.message(undefined, "live");
    equal(stage.news(), ["subscribed", "gap", "live"]);
    second.lose();
    equal("after" in (await (await stage.live()).next("SUBSCRIBE")), false);
  },

  async "messages without an offset pass beside those with one"(module) {
    const stage = new Stage(module);
    const socket = await inRoom(stage, 10);
    socket.message(undefined, "from elsewhere");
    socket.message(11);
    socket.message(undefined, "from elsewhere");
    socket.message(11);
    equal(stage.news(), ["from elsewhere", "message 11", "from elsewhere"]);
  },

  async "joining a joined room once more changes nothing"(module) {
    const stage = new Stage(module);
    const socket = await inRoom(stage, 10);
    const again = stage.client.subscribe("r", { history: 50, after: 1, epoch: "e1" });
    // The server is ahead of what it has sent.
    socket.answers(await socket.next("SUBSCRIBE"), { type: "subscribed", offset: 12, epoch: "e1" });
    equal(await again, { room: "r", offset: 12, epoch: "e1", rejoin: false });
    for (const offset of [11, 12]) socket.message(offset);
    equal(stage.news(), ["subscribed", "message 11", "message 12"]);
  },

  async "an application may go on from a position that it has kept"(module) {
    const stage = new Stage(module);
    const socket = await stage.live();
    const joined = stage.client.subscribe("r", { after: 5, epoch: "e1", history: 4 });
    const command = await socket.next("SUBSCRIBE");
    equal([command.after, command.epoch, command.history], [5, "e1", 4]);
    socket.answers(command, { type: "subscribed", offset: 9, epoch: "e2", recovered: false });
    equal(await joined, { room: "r", offset: 9, epoch: "e2", recovered: false, rejoin: false });
    equal(stage.told[1], ["gap", { room: "r", after: 5, offset: 9, epoch: "e2" }]);
    for (const bad of [{ after: 5 }, { epoch: "e1" }, { after: -1, epoch: "e1" }, { history: 1.5 }]) {
      equal((await failure(stage.client.subscribe("other", bad))).code, "bad_command");
    }
    socket.isQuiet();
  },

  async "a room that is left and joined again is begun anew"(module) {
    const stage = new Stage(module);
    const socket = await inRoom(stage, 10);
    const left = stage.client.unsubscribe("r");
    const joined = stage.client.subscribe("r", { history: 2 });
    socket.message(11);
    socket.answers(await socket.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    await left;
    const command = await socket.next("SUBSCRIBE");
    equal(["after" in command, command.history], [false, 2]);
    socket.answers(command, { type: "subscribed", offset: 12, epoch: "e1" });
    equal((await joined).rejoin, false);
    for (const offset of [11, 12]) socket.message(offset);
    equal(stage.news(), ["subscribed", "message 11", "message 12"]);
  },

  async "a join that was given up speaks for no later one"(module) {
    const stage = new Stage(module);
    const socket = await stage.live();
    stage.client.subscribe("r", { history: 2 });
    stage.client.unsubscribe("r");
    const joined = stage.client.subscribe("r", { history: 2 });
    socket.answers(await socket.next("SUBSCRIBE"), { type: "subscribed", offset: 2, epoch: "e1" });
    for (const offset of [1, 2]) socket.message(offset);
    socket.answers(await socket.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    equal(stage.news(), []);
    socket.answers(await socket.next("SUBSCRIBE"), { type: "subscribed", offset: 2, epoch: "e1" });
    for (const offset of [1, 2]) socket.message(offset);
    await joined;
    equal(stage.news(), ["subscribed", "message 1", "message 2"]);
  },

  async "a position is not touched by what is left of an earlier membership"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 100, { history: 30 });
    stage.client.unsubscribe("r");
    const joined = failure(stage.client.subscribe("r", { after: 5, epoch: "e1" }));
    first.answers(await first.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    first.lose();
    equal((await joined).code, "disconnected");
    equal((await (await stage.live()).next("SUBSCRIBE")).after, 5);
  },

  async "a listener that leaves the room is told no more of it"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 10);
    first.lose();
    stage.client.on("subscribed", () => stage.client.unsubscribe("r"));
    const second = await stage.live();
    second.answers(await second.next("SUBSCRIBE"), { type: "subscribed", offset: 2, epoch: "e2", recovered: false });
    second.message(3);
    equal(stage.news(), ["subscribed"]);
  },

  async "a closed client that is connected again goes on where it was"(module) {
    const stage = new Stage(module);
    await inRoom(stage, 10);
    stage.client.close();
    stage.client.connect();
    equal((await (await stage.live()).next("SUBSCRIBE")).after, 10);
  },

  async "own messages are known, those of an earlier connection too"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 10);
    first.message(11, "mine", "session 1");
    first.lose();
    const second = await stage.live();
    second.answers(await second.next("SUBSCRIBE"), { type: "subscribed", offset: 12, epoch: "e1", recovered: true });
    second.message(12, "mine as well", "session 1");
    second.message(13, "still mine", "session 2");
    second.message(14, "theirs", "session 3");
    equal(stage.told.flatMap(([, { own }]) => own ?? []), [true, true, true, false]);
  },

  async "every publish has a key of its own, or the one that it is given"(module) {
    const stage = new Stage(module);
    const socket = await stage.live();
    const { client } = stage;
    for (const room of ["a", "b"]) client.publish(room, "hello");
    client.publish("c", "hello", { key: "mine" });
    const keys = [];
    for (let nth = 0; nth < 3; nth += 1) keys.push((await socket.next("sendMessage")).key);
    equal([new Set(keys).size, keys[2]], [3, "mine"]);
    for (const key of ["", "x".repeat(129), 5]) {
      const { code, outcome } = await failure(client.publish("d", "hello", { key }));
      equal([code, outcome], ["bad_command", "refused"]);
    }
  },

  async "keys can be made where the page is not secure"(module) {
    const { randomUUID } = crypto;
    Object.defineProperty(crypto, "randomUUID", { value: undefined, configurable: true });
    const stage = new Stage(module);
    const socket = await stage.live();
    for (const room of ["a", "b"]) stage.client.publish(room, "hello");
    Object.defineProperty(crypto, "randomUUID", { value: randomUUID, configurable: true });
    const keys = [(await socket.next("sendMessage")).key, (await socket.next("sendMessage")).key];
    equal([new Set(keys).size, keys.every((key) => key.length > 20)], [2, true]);
  },

  async "a publish whose answer was lost is sent again with its key"(module) {
    const stage = new Stage(module);
    const first = await stage.live();
    const published = stage.client.publish("r", { any: ["json"] });
    const { key } = await first.next("sendMessage");
    first.lose();
    const second = await stage.live();
    const again = await second.next("sendMessage");
    equal([again.key, again.message], [key, { any: ["json"] }]);
    second.answers(again, { type: "sent", offset: 7, epoch: "e1" });
    equal(await published, { room: "r", offset: 7, epoch: "e1" });
    second.isQuiet();
  },

  async "a publish that the server could not carry out is sent again, and none overtakes it"(module) {
    const stage = new Stage(module);
    const socket = await stage.live();
    const { client } = stage;
    const [one, two] = [client.publish("r", "one"), client.publish("r", "two")];
    const elsewhere = client.publish("other", "three");
    const first = await socket.next("sendMessage");
    socket.answers(await socket.next("sendMessage"), { type: "sent" });
    await elsewhere;
    socket.isQuiet();
    const troubles = [
      { code: "unavailable", outcome: "unknown" },
      { code: "unavailable", outcome: "refused" },
      { code: "rate_limited" },
      { code: "internal" },
    ];
    let command = first;
    for (const trouble of troubles) {
      socket.answers(command, { type: "error", ...trouble });
      command = await socket.next("sendMessage");
      equal([command.message, command.key], ["one", first.key]);
    }
    socket.answers(command, { type: "sent", offset: 1, epoch: "e1" });
    equal((await one).offset, 1);
    socket.answers(await socket.next("sendMessage"), { type: "sent", offset: 2, epoch: "e1" });
    equal((await two).offset, 2);
    equal(stage.told, []);
  },

  async "what has to wait is not hurried by what comes behind it"(module) {
    const stage = new Stage(module, { backoffFirst: 60_000, backoffCap: 60_000 });
    const socket = await stage.live();
    stage.client.publish("r", "one");
    socket.answers(await socket.next("sendMessage"), { type: "error", code: "rate_limited" });
    stage.client.publish("r", "two");
    socket.isQuiet();
  },

  async "a lost publish goes at once over the next connection, and later when that is lost as well"(module) {
    const stage = new Stage(module, { backoffFirst: 60_000, backoffCap: 60_000 });
    stage.client.publish("r", "one");
    for (const _ of ["first", "second"]) {
      const socket = await stage.live();
      await socket.next("sendMessage");
      socket.lose();
      stage.client.connect();
    }
    (await stage.live()).isQuiet();
  },

  async "what is published while there is no connection waits, behind the joins, and keeps its order"(module) {
    const stage = new Stage(module);
    const { client } = stage;
    const message = { n: 1 };
    const published = [client.publish("r", message), client.publish("r", "two")];
    message.n = "changed since";
    client.subscribe("r");
    const socket = await stage.live();
    await socket.next("SUBSCRIBE");
    for (const expected of [{ n: 1 }, "two"]) {
      const command = await socket.next("sendMessage");
      equal(command.message, expected);
      socket.answers(command, { type: "sent" });
    }
    await Promise.all(published);
  },

  async "a publish that never left ends refused"(module) {
    const stage = new Stage(module, { publishTimeout: SOON_MS });
    const { code, outcome, key, room, retryable } = await failure(stage.client.publish("r", "one", { key: "k" }));
    equal([code, outcome, key, room, retryable], ["disconnected", "refused", "k", "r", true]);
    (await stage.live()).isQuiet();
  },

  async "a publish that was put off until its end is refused with the reason"(module) {
    const stage = new Stage(module, { publishTimeout: SOON_MS });
    const socket = await stage.live();
    socket.send = (text) => socket.answers(JSON.parse(text), { type: "error", code: "unavailable", outcome: "refused" });
    const published = failure(stage.client.publish("r", "one"));
    const { code, outcome } = await published;
    equal([code, outcome], ["unavailable", "refused"]);
  },

  async "a publish without an answer ends unknown, and the next goes on"(module) {
    const stage = new Stage(module, { publishTimeout: SOON_MS });
    const socket = await stage.live();
    const one = stage.client.publish("r", "one");
    const late = await socket.next("sendMessage");
    const two = endless(() => stage.client.publish("r", "two"));
    const three = endless(() => stage.client.publish("r", "three"));
    const { code, outcome } = await failure(one);
    equal([code, outcome], ["timeout", "unknown"]);
    const command = await socket.next("sendMessage");
    equal(command.message, "two");
    socket.answers(late, { type: "sent", offset: 1, epoch: "e1" });
    socket.isQuiet();
    socket.answers(command, { type: "sent", offset: 2, epoch: "e1" });
    equal((await two).offset, 2);
    socket.answers(await socket.next("sendMessage"), { type: "sent", offset: 3, epoch: "e1" });
    equal((await three).offset, 3);
  },

  async "what may have been published is never said to be refused"(module) {
    const stage = new Stage(module);
    const first = await stage.live();
    const published = stage.client.publish("r", "one");
    await first.next("sendMessage");
    first.lose();
    const second = await stage.live();
    second.answers(await second.next("sendMessage"), { type: "error", code: "forbidden", message: "no" });
    const { code, outcome } = await failure(published);
    equal([code, outcome], ["forbidden", "unknown"]);
  },

  async "a refusal for good ends one publish and not the next"(module) {
    const stage = new Stage(module);
    const socket = await stage.live();
    const [one, two] = [stage.client.publish("r", "one"), stage.client.publish("r", "two")];
    socket.answers(await socket.next("sendMessage"), { type: "error", code: "message_too_large", message: "no" });
    const { code, outcome, message } = await failure(one);
    equal([code, outcome, message], ["message_too_large", "refused", "no"]);
    socket.answers(await socket.next("sendMessage"), { type: "sent" });
    await two;
  },

  async "a message too large to be read is refused, and the next goes over the next connection"(module) {
    const stage = new Stage(module);
    const first = await stage.live();
    const [large, small] = [stage.client.publish("r", "large"), stage.client.publish("r", "small")];
    await first.next("sendMessage");
    first.lose(1009);
    const { code, outcome } = await failure(large);
    equal([code, outcome], ["message_too_large", "refused"]);
    const second = await stage.live();
    const command = await second.next("sendMessage");
    equal(command.message, "small");
    second.answers(command, { type: "sent" });
    await small;
  },

  async "a publish that may not wait goes at once or not at all, and only once"(module) {
    const stage = new Stage(module);
    const { client } = stage;
    const early = await failure(client.publish("r", "early", { wait: false }));
    equal([early.code, early.outcome], ["disconnected", "refused"]);
    const first = await stage.live();
    client.publish("r", "waits");
    const one = client.publish("r", "one", { wait: false });
    const two = client.publish("r", "two", { wait: false });
    equal((await first.next("sendMessage")).message, "waits");
    first.answers(await first.next("sendMessage"), { type: "error", code: "rate_limited" });
    equal((await failure(one)).code, "rate_limited");
    const { key } = await first.next("sendMessage");
    first.lose();
    const lost = await failure(two);
    equal([lost.code, lost.outcome, lost.key], ["disconnected", "unknown", key]);
    const second = await stage.live();
    equal((await second.next("sendMessage")).message, "waits");
    second.isQuiet();
  },

  async "closing ends what waits, and says what may have been published"(module) {
    const stage = new Stage(module);
    const socket = await stage.live();
    const [one, two] = [stage.client.publish("r", "one"), stage.client.publish("r", "two")];
    await socket.next("sendMessage");
    stage.client.close();
    const ends = [await failure(one), await failure(two), await failure(stage.client.publish("r", "three"))];
    equal(ends.map(({ code }) => code), ["closed", "closed", "closed"]);
    equal(ends.map(({ outcome }) => outcome), ["unknown", "refused", "refused"]);
  },

  async "a connection ended by policy ends what waits"(module) {
    const stage = new Stage(module);
    const socket = await stage.live();
    const one = stage.client.publish("r", "one");
    await socket.next("sendMessage");
    socket.lose(1008);
    const { code, outcome } = await failure(one);
    equal([code, outcome, stage.client.state], ["closed", "unknown", "closed"]);
  },

  async "a publish without an answer casts doubt on the connection, and is sent again over another"(module) {
    // Impatient enough to ask several times before the answer to the first question is overdue.
    const stage = new Stage(module, { requestTimeout: SOON_MS / 10 });
    const first = await stage.live(SOON_MS / 1000);
    const published = stage.client.publish("r", "one");
    const { key } = await first.next("sendMessage");
    await until("the end of the connection", () => first.closedWith === 4000);
    const second = await stage.live();
    const again = await second.next("sendMessage");
    equal(again.key, key);
    second.answers(again, { type: "sent" });
    await published;
  },

  async "a connection that gives a sign of life is kept, and the publish sent again over it"(module) {
    const stage = new Stage(module, { requestTimeout: SOON_MS });
    const socket = await stage.live();
    const published = stage.client.publish("r", "one");
    const { key } = await socket.next("sendMessage");
    socket.answers(await socket.next("PING"), { type: "error", code: "rate_limited" });
    const again = await socket.next("sendMessage");
    equal(again.key, key);
    socket.answers(again, { type: "sent" });
    await published;
    equal([stage.sockets.length, stage.news()], [1, []]);
  },

  async "the number of waiting publishes is bounded"(module) {
    const stage = new Stage(module);
    const published = [];
    for (let nth = 0; nth < 10_000; nth += 1) published.push(failure(stage.client.publish("r", nth)));
    const { code, outcome, retryable } = await failure(stage.client.publish("r", "too many"));
    equal([code, outcome, retryable], ["queue_full", "refused", true]);
    stage.client.close();
    await Promise.all(published);
    stage.client.connect();
    stage.client.publish("r", "one");
    await stage.socket();
    equal((await (await stage.live()).next("sendMessage")).message, "one");
  },
};

/** Runs all cases on what `import("…/roomcast.js")` gives. What failed, as texts. */
async function runCases(module) {
  const failures = [];
  for (const [name, run] of Object.entries(CASES)) {
    await run(module).catch((error) => failures.push(`${name}: ${error.message}`));
  }
  return failures;
}
