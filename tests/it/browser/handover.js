/**
 * More cases for `cases.js`: what becomes of a client whose server says `bye`.
 *
 * The old connection is `old` in each of them, the one that replaces it `next`. A room is handed over when both sides
 * have had their time, which these cases wait for (a quarter of a second each).
 */

const SOON_CLOSING_MS = 100;

/** Lets the old server say bye, and gives the connection that the client opens for it. */
async function successor(stage, old, closesInMs = SOON_CLOSING_MS) {
  old.says({ type: "bye", closes_in_ms: closesInMs });
  return stage.socket();
}

/** The states that a client goes through, as its listeners are told them. */
function statesOf(client) {
  const states = [];
  client.on("state", ({ state }) => states.push(state));
  return states;
}

/** A client in room "r" at offset 10 whose next connection is welcomed and has been asked for the room. */
async function changing(module, options = {}) {
  const stage = new Stage(module, options);
  const old = await inRoom(stage, 10);
  const states = statesOf(stage.client);
  const next = await successor(stage, old);
  next.welcome();
  return { stage, client: stage.client, states, old, next, command: await next.next("SUBSCRIBE") };
}

/** The same where the server keeps no history. */
async function changingWithoutHistory(module) {
  const stage = new Stage(module);
  const old = await stage.live();
  const joined = stage.client.subscribe("r");
  old.answers(await old.next("SUBSCRIBE"), { type: "subscribed" });
  await joined;
  stage.news();
  const next = await successor(stage, old);
  return { stage, old, next };
}

/** A message without an offset, as roomcast publishes it. */
function unnumbered(socket, message, time = 5) {
  socket.says({ type: "message", room: "r", message, session: "another", time });
}

/** The delays that `call` asks timers for, with this as the random number. They pass at once. */
function delaysOf(random, call) {
  const { setTimeout } = globalThis;
  const { random: chance } = Math;
  const delays = [];
  globalThis.setTimeout = (act, delay) => {
    delays.push(delay);
    return setTimeout(act);
  };
  Math.random = () => random;
  try {
    call();
  } finally {
    globalThis.setTimeout = setTimeout;
    Math.random = chance;
  }
  return delays;
}

Object.assign(CASES, {
  async "a room changes to the next connection, and every message is reported once and in order"(module) {
    const { stage, states, old, next, command } = await changing(module);
    equal([command.after, command.epoch], [10, "e1"]);
    for (const offset of [11, 12]) old.message(offset);
    next.answers(command, { type: "subscribed", offset: 13, epoch: "e1", recovered: true });
    for (const offset of [11, 12, 13, 14]) next.message(offset);
    for (const offset of [13, 14, 15]) old.message(offset);
    for (const offset of [15, 16, 17]) next.message(offset);
    const leave = await old.next("UNSUBSCRIBE");
    equal([leave.room, old.closedWith], ["r", null]);
    old.message(16);
    old.answers(leave, { type: "unsubscribed" });
    equal(old.closedWith, 1000);
    next.message(18);
    equal(stage.told.map(([, { replayed }]) => replayed), Array(8).fill(false));
    equal(stage.news(), [11, 12, 13, 14, 15, 16, 17, 18].map((offset) => `message ${offset}`));
    equal([states, stage.client.session, stage.sockets.length], [["live"], "session 2", 2]);
    next.isQuiet();
    next.lose();
    equal((await (await stage.live()).next("SUBSCRIBE")).after, 18);
  },

  async "the old connection goes on until the next one is welcomed"(module) {
    const stage = new Stage(module);
    const old = await inRoom(stage, 10);
    await successor(stage, old);
    old.message(11);
    stage.client.subscribe("s");
    stage.client.publish("s", "hello");
    equal([(await old.next("SUBSCRIBE")).room, (await old.next("sendMessage")).message], ["s", "hello"]);
    equal([stage.news(), stage.client.state, stage.client.session], [["message 11"], "live", "session 1"]);
    equal(delaysOf(0, () => old.says({ type: "bye", closes_in_ms: 0 })), []);
  },

  async "a replay on the old connection is not ended by what the next one says"(module) {
    const stage = new Stage(module);
    const old = await stage.live();
    stage.client.subscribe("r", { history: 30 });
    const asked = await old.next("SUBSCRIBE");
    const next = await successor(stage, old);
    next.welcome();
    old.answers(asked, { type: "subscribed", offset: 100, epoch: "e1" });
    next.says({ type: "pong" });
    for (const offset of [71, 72]) old.message(offset);
    equal(stage.news(), ["subscribed", "message 71", "message 72"]);
  },

  async "messages without an offset are reported once when their room changes"(module) {
    const { stage, old, next } = await changingWithoutHistory(module);
    // The next node may not have sent it to others yet when the room is joined there.
    unnumbered(old, "one");
    next.welcome();
    next.answers(await next.next("SUBSCRIBE"), { type: "subscribed" });
    for (const text of ["one", "two", "two"]) unnumbered(next, text);
    for (const text of ["two", "two", "three"]) unnumbered(old, text);
    const leave = await old.next("UNSUBSCRIBE");
    unnumbered(old, "four");
    old.answers(leave, { type: "unsubscribed" });
    for (const text of ["three", "four", "five", "five"]) unnumbered(next, text);
    equal(stage.news(), ["one", "two", "two", "three", "four", "five", "five"]);
    equal(old.closedWith, 1000);
  },

  async "what others publish directly is known by its text while both connections are in the room"(module) {
    const { stage, old, next } = await changingWithoutHistory(module);
    const direct = (socket) => socket.says({ type: "message", room: "r", message: "tick" });
    direct(old);
    next.welcome();
    const command = await next.next("SUBSCRIBE");
    direct(old);
    next.answers(command, { type: "subscribed" });
    direct(next);
    old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    direct(next);
    equal(stage.news(), ["tick", "tick", "tick"]);
  },

  async "what looks the same is another message once the change is over"(module) {
    const { stage, old, next } = await changingWithoutHistory(module);
    next.welcome();
    next.answers(await next.next("SUBSCRIBE"), { type: "subscribed" });
    unnumbered(old, "tick");
    old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    equal(stage.news(), ["tick"]);
    const over = performance.now() + 300;
    await until("the end of the overlap", () => performance.now() > over);
    unnumbered(next, "tick");
    equal(stage.news(), ["tick"]);
  },

  async "without history an old connection that ends with its last word leaves no gap, and one that breaks does"(module) {
    for (const [code, expected] of [[1012, ["one", "two"]], [1006, ["one", "subscribed", "gap", "two"]]]) {
      const { stage, old, next } = await changingWithoutHistory(module);
      next.welcome();
      next.answers(await next.next("SUBSCRIBE"), { type: "subscribed" });
      unnumbered(old, "one");
      for (const text of ["one", "two"]) unnumbered(next, text);
      await old.next("UNSUBSCRIBE");
      old.lose(code);
      equal([stage.news(), stage.client.state], [expected, "live"]);
    }
  },

  async "without history an old connection that ends too early is a gap"(module) {
    for (const isConfirmed of [false, true]) {
      const { stage, old, next } = await changingWithoutHistory(module);
      next.welcome();
      const command = await next.next("SUBSCRIBE");
      unnumbered(old, "one");
      if (isConfirmed) next.answers(command, { type: "subscribed" });
      old.lose(1012);
      if (!isConfirmed) next.answers(command, { type: "subscribed" });
      for (const text of ["one", "two"]) unnumbered(next, text);
      equal(stage.news(), ["one", "subscribed", "gap", "two"]);
    }
  },

  async "a publish under way is answered on the old connection, and the next goes over the new one"(module) {
    const stage = new Stage(module);
    const old = await stage.live();
    const { client } = stage;
    const published = [client.publish("r", "one"), client.publish("r", "two")];
    const hasty = client.publish("r", "hasty", { wait: false });
    const [one, once] = [await old.next("sendMessage"), await old.next("sendMessage")];
    const next = await successor(stage, old);
    next.welcome();
    published.push(client.publish("other", "three"));
    const three = await next.next("sendMessage");
    equal(three.message, "three");
    next.answers(three, { type: "sent" });
    next.isQuiet();
    old.answers(one, { type: "sent", offset: 1, epoch: "e1" });
    equal((await published[0]).offset, 1);
    const two = await next.next("sendMessage");
    next.answers(two, { type: "sent", offset: 2, epoch: "e1" });
    equal([(await published[1]).offset, old.closedWith], [2, null]);
    old.answers(once, { type: "sent" });
    await Promise.all([hasty, ...published]);
    equal(old.closedWith, 1000);
    for (const socket of [old, next]) socket.isQuiet();
  },

  async "a publish that the old connection does not answer is sent again over the new one"(module) {
    const stage = new Stage(module);
    const old = await stage.live();
    const published = [stage.client.publish("r", "one"), stage.client.publish("r", "two")];
    const hasty = failure(stage.client.publish("r", "hasty", { wait: false }));
    const { key } = await old.next("sendMessage");
    const next = await successor(stage, old);
    next.welcome();
    old.lose(1012);
    const again = await next.next("sendMessage");
    equal(again.key, key);
    next.answers(again, { type: "sent" });
    next.answers(await next.next("sendMessage"), { type: "sent" });
    await Promise.all(published);
    const { code, outcome } = await hasty;
    equal([code, outcome, stage.client.state], ["disconnected", "unknown", "live"]);
    next.isQuiet();
  },

  async "a room that is left in the midst of the change is left on both connections"(module) {
    const { stage, client, old, next, command } = await changing(module);
    next.answers(command, { type: "subscribed", offset: 11, epoch: "e1", recovered: true });
    next.message(11);
    const left = client.unsubscribe("r");
    const leaves = [await old.next("UNSUBSCRIBE"), await next.next("UNSUBSCRIBE")];
    for (const socket of [old, next]) socket.message(12);
    old.answers(leaves[0], { type: "unsubscribed" });
    equal([stage.news(), old.closedWith], [[], 1000]);
    next.answers(leaves[1], { type: "unsubscribed" });
    await left;
    equal([stage.news(), client.rooms], [["unsubscribed"], []]);
    next.isQuiet();
  },

  async "a room that is left and joined again in the midst of the change is joined on the new connection"(module) {
    const { stage, client, old, next, command } = await changing(module);
    client.unsubscribe("r");
    const joined = client.subscribe("r", { history: 1 });
    next.answers(command, { type: "subscribed", offset: 11, epoch: "e1", recovered: true });
    next.message(11);
    old.message(11);
    next.answers(await next.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    const again = await next.next("SUBSCRIBE");
    equal(["after" in again, again.history], [false, 1]);
    next.answers(again, { type: "subscribed", offset: 12, epoch: "e1" });
    old.message(12);
    old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    next.message(12);
    equal((await joined).rejoin, false);
    equal([stage.news(), client.rooms, old.closedWith], [["subscribed", "message 12"], ["r"], 1000]);
    for (const socket of [old, next]) socket.isQuiet();
  },

  async "what was being left when the connection changed is left"(module) {
    const stage = new Stage(module);
    const old = await inRoom(stage, 10);
    const left = stage.client.unsubscribe("r");
    const leave = await old.next("UNSUBSCRIBE");
    const next = await successor(stage, old);
    next.welcome();
    old.answers(leave, { type: "unsubscribed" });
    await left;
    next.answers(await next.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    equal([stage.news(), stage.client.rooms, old.closedWith], [["unsubscribed"], [], 1000]);
    // Wanted again before the old connection has answered.
    const joined = stage.client.subscribe("r");
    next.answers(await next.next("SUBSCRIBE"), { type: "subscribed", offset: 10, epoch: "e1" });
    await joined;
    stage.client.unsubscribe("r");
    const late = await next.next("UNSUBSCRIBE");
    const again = stage.client.subscribe("r");
    await next.next("SUBSCRIBE");
    const third = await successor(stage, next);
    third.welcome();
    third.answers(await third.next("SUBSCRIBE"), { type: "error", code: "unavailable" });
    next.answers(late, { type: "unsubscribed" });
    equal((await third.next("SUBSCRIBE")).room, "r");
    next.lose(1012);
    equal([(await failure(again)).code, stage.client.rooms], ["disconnected", ["r"]]);
  },

  async "a room that is first joined in the midst of the change is joined on the new connection alone"(module) {
    const { stage, client, old, next } = await changing(module);
    const joined = client.subscribe("s");
    const command = await next.next("SUBSCRIBE");
    equal(command.room, "s");
    next.answers(command, { type: "subscribed", offset: 0, epoch: "e1" });
    await joined;
    equal(stage.news(), ["subscribed"]);
    old.isQuiet();
  },

  async "joining a room once more in the midst of its change is answered, and changes nothing"(module) {
    const { stage, client, old, next, command } = await changing(module);
    const again = client.subscribe("r");
    next.answers(command, { type: "subscribed", offset: 11, epoch: "e1", recovered: true });
    next.message(11);
    stage.news();
    next.answers(await next.next("SUBSCRIBE"), { type: "subscribed", offset: 11, epoch: "e1" });
    equal(await again, { room: "r", offset: 11, epoch: "e1", rejoin: false });
    old.message(11);
    old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    next.message(12);
    equal(stage.news(), ["subscribed", "message 11", "message 12"]);
  },

  async "a join under way when the connection changes is answered by whichever is first"(module) {
    for (const isOldFirst of [true, false]) {
      const stage = new Stage(module);
      const old = await stage.live();
      const joined = stage.client.subscribe("r", { history: 2 });
      const asked = await old.next("SUBSCRIBE");
      const next = await successor(stage, old);
      next.welcome();
      const command = await next.next("SUBSCRIBE");
      const answer = (socket, to) => {
        socket.answers(to, { type: "subscribed", offset: 2, epoch: "e1" });
        for (const offset of [1, 2, 3]) socket.message(offset);
      };
      if (isOldFirst) answer(old, asked);
      answer(next, command);
      if (!isOldFirst) answer(old, asked);
      else old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
      equal((await joined).offset, 2);
      next.message(4);
      const told = stage.news().filter((name) => name !== "subscribed");
      equal(told, [1, 2, 3, 4].map((offset) => `message ${offset}`));
      equal(old.closedWith, 1000);
    }
  },

  async "a room that was first joined over a connection that ends is gone on with from there"(module) {
    const stage = new Stage(module);
    const old = await stage.live();
    const joined = stage.client.subscribe("r");
    const asked = await old.next("SUBSCRIBE");
    const next = await successor(stage, old);
    next.welcome();
    const command = await next.next("SUBSCRIBE");
    old.answers(asked, { type: "subscribed", offset: 10, epoch: "e1" });
    await joined;
    old.message(11);
    old.lose(1012);
    // It was asked before there was a position, and so it does not begin at one.
    next.answers(command, { type: "subscribed", offset: 12, epoch: "e1" });
    next.message(13);
    await next.next("UNSUBSCRIBE");
    const again = await next.next("SUBSCRIBE");
    equal(again.after, 11);
    next.says({ type: "unsubscribed", room: "r", id: again.id - 1 });
    next.answers(again, { type: "subscribed", offset: 13, epoch: "e1", recovered: true });
    for (const offset of [12, 13]) next.message(offset);
    equal(stage.news(), ["subscribed", "message 11", "subscribed", "message 12", "message 13"]);
  },

  async "a refusal that may pass is not told while the old connection reports the room"(module) {
    const { stage, old, next, command } = await changing(module);
    next.answers(command, { type: "error", code: "unavailable" });
    old.message(11);
    const again = await next.next("SUBSCRIBE");
    equal(again.after, 11);
    equal(stage.news(), ["message 11"]);
    old.lose(1012);
    next.answers(again, { type: "error", code: "unavailable" });
    next.answers(await next.next("SUBSCRIBE"), { type: "subscribed", offset: 11, epoch: "e1", recovered: true });
    equal(stage.news(), ["error", "subscribed"]);
  },

  async "a room that the next server refuses for good is left"(module) {
    const { stage, client, old, next, command } = await changing(module);
    next.answers(command, { type: "error", code: "forbidden" });
    old.message(11);
    equal([stage.news(), client.rooms], [["error"], []]);
    old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    equal(old.closedWith, 1000);
  },

  async "a room that a server ends in the midst of the change is left on both connections"(module) {
    for (const which of ["old", "next"]) {
      const { stage, client, old, next, command } = await changing(module);
      next.answers(command, { type: "subscribed", offset: 10, epoch: "e1", recovered: true });
      ({ old, next })[which].says({ type: "unsubscribed", room: "r" });
      for (const socket of [old, next]) socket.message(11);
      equal([stage.news(), client.rooms], [["unsubscribed"], []]);
      await next.next("UNSUBSCRIBE");
      old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
      equal(old.closedWith, 1000);
    }
  },

  async "a numbering that begins anew in the midst of the change is followed"(module) {
    const { stage, old, next, command } = await changing(module);
    old.message(11);
    old.says({ type: "gap", room: "r", after: 11, offset: 0, epoch: "e2" });
    old.message(1, "new 1");
    // Of a node that has not heard of it yet.
    next.answers(command, { type: "subscribed", offset: 11, epoch: "e1", recovered: true });
    next.message(11);
    next.message(1, "new 1");
    old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    await next.next("UNSUBSCRIBE");
    const again = await next.next("SUBSCRIBE");
    equal([again.after, again.epoch], [1, "e2"]);
    next.message(2, "new 2");
    next.says({ type: "unsubscribed", room: "r", id: again.id - 1 });
    next.answers(again, { type: "subscribed", offset: 2, epoch: "e2", recovered: true });
    next.message(2, "new 2");
    equal(stage.news(), ["message 11", "gap", "new 1", "subscribed", "new 2"]);
  },

  async "a join that the client itself overtakes, because the numbering began anew, is answered all the same"(module) {
    const { stage, client, old, next, command } = await changing(module);
    old.says({ type: "gap", room: "r", after: 10, offset: 0, epoch: "e2" });
    next.answers(command, { type: "subscribed", offset: 10, epoch: "e1", recovered: true });
    const leave = await old.next("UNSUBSCRIBE");
    const joined = client.subscribe("r");
    const overtaken = await next.next("SUBSCRIBE");
    old.answers(leave, { type: "unsubscribed" });
    const left = await next.next("UNSUBSCRIBE");
    const again = await next.next("SUBSCRIBE");
    next.answers(overtaken, { type: "error", code: "cancelled" });
    next.answers(left, { type: "unsubscribed" });
    next.answers(again, { type: "subscribed", offset: 0, epoch: "e2", recovered: true });
    equal([(await joined).epoch, client.rooms, stage.news()], ["e2", ["r"], ["gap", "subscribed"]]);
    // One that the application has left meanwhile is cancelled as ever.
    client.subscribe("r").catch(() => {});
    const given = failure(client.subscribe("r"));
    const late = [await next.next("SUBSCRIBE"), await next.next("SUBSCRIBE")];
    client.unsubscribe("r");
    // Even if it is wanted again.
    client.subscribe("r").catch(() => {});
    for (const each of late) next.answers(each, { type: "error", code: "cancelled" });
    equal((await given).code, "cancelled");
  },

  async "a gap that the old connection has told, or has filled, is not told again"(module) {
    const { stage, old, next, command } = await changing(module);
    next.answers(command, { type: "subscribed", offset: 10, epoch: "e1", recovered: true });
    for (const offset of [11, 12, 13]) old.message(offset);
    next.says({ type: "gap", room: "r", after: 10, offset: 12, epoch: "e1" });
    for (const offset of [13, 14]) next.message(offset);
    old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    equal(stage.news(), [11, 12, 13, 14].map((offset) => `message ${offset}`));
  },

  async "a next server that has lost the end of the room is followed from where it is"(module) {
    const { stage, old, next, command } = await changing(module);
    next.answers(command, { type: "subscribed", offset: 5, epoch: "e1", recovered: false });
    next.message(6);
    old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    equal(stage.news(), ["subscribed", "gap", "message 6"]);
  },

  async "what the old connection has told before its end is recovered, although the next one does not know it"(module) {
    const { stage, old, next, command } = await changing(module);
    for (const offset of [11, 12]) old.message(offset);
    old.lose(1012);
    next.answers(command, { type: "subscribed", offset: 11, epoch: "e1", recovered: false });
    equal(stage.told[2], ["subscribed", { room: "r", offset: 11, epoch: "e1", recovered: true, rejoin: true }]);
    for (const offset of [12, 13]) next.message(offset);
    equal(stage.news(), ["message 11", "message 12", "subscribed", "message 13"]);
  },

  async "a position that the next server cannot go on from is no gap if the old one has told what follows"(module) {
    for (const offset of [12, 13]) {
      const { stage, old, next, command } = await changing(module);
      next.answers(command, { type: "subscribed", offset, epoch: "e1", recovered: false });
      next.message(offset + 1);
      for (const missing of [11, 12]) old.message(missing);
      old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
      const expected = offset === 12 ? ["message 13"] : ["subscribed", "gap", "message 14"];
      equal(stage.news(), ["message 11", "message 12", ...expected]);
    }
  },

  async "an old connection that ends while the next is opened makes that the reconnect"(module) {
    const stage = new Stage(module);
    const old = await inRoom(stage, 10);
    const details = [];
    stage.client.on("state", (detail) => details.push(detail));
    const next = await successor(stage, old);
    old.message(11);
    old.lose(1012);
    equal(details.map(({ state, attempt, retryAt, code }) => [state, attempt, retryAt ?? 0, code]), [
      ["reconnecting", 1, 0, 1012],
    ]);
    next.welcome();
    next.answers(await next.next("SUBSCRIBE"), { type: "subscribed", offset: 12, epoch: "e1", recovered: true });
    next.message(12);
    equal([stage.news(), stage.client.state], [["message 11", "subscribed", "message 12"], "live"]);
    equal(stage.sockets.length, 2);
  },

  async "an old connection that ends before the room has changed is recovered from"(module) {
    const { stage, old, next, command, states } = await changing(module);
    for (const offset of [11, 12]) old.message(offset);
    old.lose(1012);
    next.answers(command, { type: "subscribed", offset: 13, epoch: "e1", recovered: true });
    for (const offset of [11, 12, 13, 14]) next.message(offset);
    equal(stage.told[2], ["subscribed", { room: "r", offset: 13, epoch: "e1", recovered: true, rejoin: true }]);
    equal(stage.news(), ["message 11", "message 12", "subscribed", "message 13", "message 14"]);
    equal(states, ["live"]);
  },

  async "an old connection that does not say that it has left the room is not waited for"(module) {
    const { stage, old, next, command } = await changing(module, { requestTimeout: SOON_MS });
    next.answers(command, { type: "subscribed", offset: 11, epoch: "e1", recovered: true });
    next.message(11);
    await old.next("UNSUBSCRIBE");
    await until("the message", () => stage.told.length > 0);
    old.message(12);
    next.message(12);
    equal([stage.news(), old.closedWith], [["message 11", "message 12"], 1000]);
  },

  async "a new connection that is lost at once leaves the old one in its place"(module) {
    const { stage, client, old, next, command, states } = await changing(module);
    next.answers(command, { type: "subscribed", offset: 11, epoch: "e1", recovered: true });
    next.message(11);
    const published = client.publish("r", "hello");
    const { key } = await next.next("sendMessage");
    next.lose();
    const again = await old.next("sendMessage");
    equal([again.key, client.session, states], [key, "session 1", ["live", "live"]]);
    old.answers(again, { type: "sent" });
    await published;
    for (const offset of [11, 12]) old.message(offset);
    const third = await stage.live();
    const later = await third.next("SUBSCRIBE");
    equal(later.after, 12);
    third.answers(later, { type: "subscribed", offset: 12, epoch: "e1", recovered: true });
    old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    third.message(13);
    equal(stage.news(), ["message 11", "message 12", "message 13"]);
    equal(old.closedWith, 1000);
  },

  async "a join that is lost with the new connection is asked of the old one"(module) {
    const { stage, client, old, next } = await changing(module);
    const joined = failure(client.subscribe("r"));
    next.lose();
    equal((await joined).code, "disconnected");
    old.answers(await old.next("SUBSCRIBE"), { type: "subscribed", offset: 10, epoch: "e1" });
    equal(stage.news(), ["subscribed"]);
  },

  async "a room that had changed already is joined again when the old connection has to do"(module) {
    const { stage, client, old, next, command } = await changing(module);
    client.publish("other", "unanswered", { wait: false }).catch(() => {});
    await next.next("sendMessage");
    // Keeps the old connection open.
    client.unsubscribe("s").catch(() => {});
    await next.next("UNSUBSCRIBE");
    next.answers(command, { type: "subscribed", offset: 10, epoch: "e1", recovered: true });
    await old.next("UNSUBSCRIBE");
    next.lose();
    const again = await old.next("SUBSCRIBE");
    old.message(11);
    equal(again.after, 10);
    old.says({ type: "unsubscribed", room: "r", id: again.id - 1 });
    old.answers(again, { type: "subscribed", offset: 12, epoch: "e1", recovered: true });
    for (const offset of [11, 12]) old.message(offset);
    equal(stage.news().filter((name) => name !== "unsubscribed"), ["message 11", "subscribed", "message 12"]);
  },

  async "a second bye is followed like the first, and a repeated one is not"(module) {
    const { stage, client, old, next, command, states } = await changing(module);
    const byes = [];
    client.on("bye", ({ closesInMs }) => byes.push(closesInMs));
    old.says({ type: "bye", closes_in_ms: 1 });
    next.says({ type: "bye", closes_in_ms: 2 });
    next.answers(command, { type: "subscribed", offset: 10, epoch: "e1", recovered: true });
    old.message(11);
    const leave = await old.next("UNSUBSCRIBE");
    // It is a quarter of a second after the second bye, but the first change is not complete.
    equal(stage.sockets.length, 2);
    old.answers(leave, { type: "unsubscribed" });
    for (const offset of [11, 12]) next.message(offset);
    const third = await stage.live();
    const later = await third.next("SUBSCRIBE");
    equal(later.after, 12);
    third.answers(later, { type: "subscribed", offset: 13, epoch: "e1", recovered: true });
    third.message(13);
    next.answers(await next.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    third.message(14);
    equal([stage.news(), byes], [[11, 12, 13, 14].map((offset) => `message ${offset}`), [1, 2]]);
    equal(states, ["live", "live"]);
    equal([old.closedWith, next.closedWith, stage.sockets.length], [1000, 1000, 3]);
  },

  async "closing the client in the midst of the change closes both connections"(module) {
    const { client, old, next } = await changing(module);
    client.close();
    equal([old.closedWith, next.closedWith, client.state], [1000, 1000, "closed"]);
    const stage = new Stage(module);
    const first = await stage.live();
    const opening = await successor(stage, first);
    stage.client.close();
    equal([first.closedWith, opening.closedWith], [1000, 1000]);
  },

  async "a next connection that is refused by policy ends the client"(module) {
    const stage = new Stage(module);
    const old = await inRoom(stage, 10);
    const next = await successor(stage, old);
    next.lose(1008);
    equal([stage.client.state, old.closedWith, stage.client.session], ["closed", 1000, null]);
  },

  async "a list of servers is begun anywhere, and the one that stops is passed over"(module) {
    const urls = ["ws://a.example/", "ws://b.example/"];
    for (const [random, first] of [[0, 0], [0.49, 0], [0.5, 1], [0.999, 1]]) {
      const { random: chance } = Math;
      Math.random = () => random;
      const stage = new Stage(module, { urls });
      Math.random = chance;
      const old = await stage.live();
      equal(old.url, urls[first]);
      // However often the other one refuses.
      for (const code of [1006, 1013, 1006]) {
        const next = await (code === 1006 && stage.sockets.length === 1 ? successor(stage, old) : stage.socket());
        equal(next.url, urls[1 - first]);
        next.lose(code);
        equal(stage.client.state, "live");
      }
      stage.client.close();
    }
  },

  async "a single server is asked again"(module) {
    const stage = new Stage(module);
    const old = await stage.live();
    const next = await successor(stage, old);
    equal(next.url, old.url);
    next.lose();
    const again = await stage.live();
    equal([again.url, old.closedWith, stage.client.state], [old.url, 1000, "live"]);
  },

  async "the next connection is opened shortly before the end of the old one"(module) {
    const expected = [
      [25_000, 0, 23_300], [25_000, 1, 23_000], [3_000, 0.5, 1_150], [1_000, 0, 150], [1_000, 1, 0], [0, 0, 0],
      [undefined, 0.5, 0], [-5, 0.5, 0],
    ];
    for (const [closesInMs, random, delay] of expected) {
      const stage = new Stage(module);
      const old = await stage.live();
      equal(delaysOf(random, () => old.says({ type: "bye", closes_in_ms: closesInMs })), [delay]);
      stage.client.close();
    }
  },

  async "an attempt that fails is repeated before the old connection ends"(module) {
    const stage = new Stage(module, { backoffFirst: 100, backoffCap: 15_000 });
    const states = statesOf(stage.client);
    const old = await stage.live();
    delaysOf(1, () => old.says({ type: "bye", closes_in_ms: 3_000 }));
    const delays = [];
    for (let nth = 0; nth < 6; nth += 1) {
      const next = await stage.socket();
      delays.push(...delaysOf(1, () => next.lose()));
    }
    equal(delays.slice(0, 4), [100, 200, 400, 800]);
    // Half of what is left, and no time has passed to speak of.
    for (const delay of delays.slice(4)) equal(delay > 1_000 && delay <= 1_500, true);
    equal([delays.length, states], [6, ["live"]]);
  },

  async "clients that a server has closed together come back spread over seconds"(module) {
    const options = { backoffFirst: 500, backoffCap: 15_000 };
    const retryAfter = async (code, isAnnounced, random, more = {}) => {
      const stage = new Stage(module, { ...options, ...more });
      const socket = await stage.live();
      if (isAnnounced) delaysOf(0, () => socket.says({ type: "bye", closes_in_ms: 60_000 }));
      const [delay] = delaysOf(random, () => socket.lose(code));
      stage.client.close();
      return delay;
    };
    for (const code of [1001, 1012]) {
      equal([await retryAfter(code, false, 0), await retryAfter(code, false, 1)], [0, 5_000]);
      equal(await retryAfter(code, true, 1), 500);
      equal(await retryAfter(code, false, 1, { backoffCap: 1_000 }), 1_000);
    }
    equal(await retryAfter(1006, false, 1), 500);
  },
});
