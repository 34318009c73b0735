/**
 * More cases for `cases.js`: who is in a room, as it is told, as it is asked for, and as a list that keeps itself.
 *
 * The client's own sessions are "session 1", "session 2" and so on, those of others are called by one letter.
 */

const member = (session, user) => (user === undefined ? { session } : { session, user });

/** Says that others have joined or left. */
function moves(socket, type, ...sessions) {
  for (const session of sessions) socket.says({ type, room: "r", member: member(session, `user ${session}`) });
}

/** Answers MEMBERS. */
function lists(socket, command, sessions, count = sessions.length) {
  socket.answers(command, { type: "members", count, members: sessions.map((session) => member(session, `user ${session}`)) });
}

/** Joins, whatever becomes of it. */
function join({ client }, room, options) {
  client.subscribe(room, options).catch(() => {});
}

/** Lets promises be settled. */
async function turn() {
  for (let nth = 0; nth < 10; nth += 1) await undefined;
}

/** A client in room "r", its list, and what that has told. */
async function listing(module, sessions = ["session 1", "a", "b"], count = undefined) {
  const stage = new Stage(module);
  const socket = await stage.live();
  const list = stage.client.memberList("r");
  const changes = [];
  list.on("change", ({ joined, left }) => {
    changes.push([joined, left].map((some) => some.map(({ session }) => session)));
  });
  join(stage, "r", { presence: true });
  socket.answers(await socket.next("SUBSCRIBE"), { type: "subscribed", offset: 0, epoch: "e1" });
  lists(socket, await socket.next("MEMBERS"), sessions, count);
  await turn();
  const seen = () => [[...list.members.keys()].join(" "), list.count, list.isCurrent];
  return { stage, client: stage.client, socket, list, changes, seen };
}

Object.assign(CASES, {
  async "presence is asked for where it is wanted, and on every connection"(module) {
    const stage = new Stage(module);
    const first = await stage.live();
    join(stage, "r", { presence: true });
    join(stage, "s");
    const [r, s] = [await first.next("SUBSCRIBE"), await first.next("SUBSCRIBE")];
    equal([r.presence, "presence" in s], [true, false]);
    first.answers(r, { type: "subscribed" });
    // Once more, it changes that alone.
    const switched = stage.client.subscribe("s", { presence: true, history: 5 });
    const again = await first.next("SUBSCRIBE");
    equal([again.presence, "history" in again], [true, false]);
    first.answers(s, { type: "subscribed" });
    first.answers(again, { type: "subscribed" });
    await switched;
    join(stage, "r", { presence: false });
    equal((await first.next("SUBSCRIBE")).presence, false);
    join(stage, "r");
    equal((await first.next("SUBSCRIBE")).presence, false);
    first.lose();
    const second = await stage.live();
    equal([(await second.next("SUBSCRIBE")).presence, (await second.next("SUBSCRIBE")).presence], [false, true]);
    equal((await failure(stage.client.subscribe("t", { presence: "yes" }))).code, "bad_command");
  },

  async "a room that is left and joined again is joined as it is asked for then"(module) {
    const stage = new Stage(module);
    const socket = await stage.live();
    join(stage, "r", { presence: true });
    stage.client.unsubscribe("r");
    join(stage, "r");
    await socket.next("SUBSCRIBE");
    await socket.next("UNSUBSCRIBE");
    equal("presence" in (await socket.next("SUBSCRIBE")), false);
  },

  async "who comes and goes is told, without oneself and only of wanted rooms"(module) {
    const stage = new Stage(module);
    const first = await inRoom(stage, 10, { presence: true });
    first.says({ type: "joined", room: "r", member: { session: "a", user: "ann", more: 1 } });
    first.says({ type: "left", room: "r", member: { session: "b" } });
    first.says({ type: "joined", room: "other", member: { session: "c" } });
    equal(stage.told, [
      ["joined", { room: "r", member: { session: "a", user: "ann" } }],
      ["left", { room: "r", member: { session: "b" } }],
    ]);
    first.lose();
    const second = await stage.live();
    second.answers(await second.next("SUBSCRIBE"), { type: "subscribed", offset: 10, epoch: "e1", recovered: true });
    stage.news();
    moves(second, "left", "session 1");
    moves(second, "joined", "session 2", "a");
    stage.client.unsubscribe("r");
    moves(second, "joined", "d");
    equal(stage.news(), ["joined"]);
  },

  async "who comes is no end of a replay"(module) {
    const stage = new Stage(module);
    const socket = await inRoom(stage, 10, { history: 2, presence: true });
    moves(socket, "joined", "a");
    for (const offset of [9, 10]) socket.message(offset);
    equal(stage.news(), ["joined", "message 9", "message 10"]);
  },

  async "members are asked for once, and only while there is a connection"(module) {
    const stage = new Stage(module);
    equal((await failure(stage.client.members("r"))).code, "disconnected");
    equal((await failure(stage.client.members(""))).code, "bad_room");
    const socket = await stage.live();
    const asked = stage.client.members("r");
    const command = await socket.next("MEMBERS");
    const members = [{ session: "a", user: "ann" }, { session: "b" }];
    socket.answers(command, { type: "members", count: 1_500, members });
    equal(await asked, { room: "r", count: 1_500, members });
    const refused = failure(stage.client.members("r"));
    socket.answers(await socket.next("MEMBERS"), { type: "error", code: "forbidden" });
    equal([(await refused).code, stage.news()], ["forbidden", []]);
    stage.client.close();
    equal((await failure(stage.client.members("r"))).code, "closed");
  },

  async "a list is read when the room is joined, and follows it"(module) {
    const { socket, list, changes, seen } = await listing(module);
    equal([seen(), list.isComplete, list.members.get("a")], [["a b", 3, true], true, "user a"]);
    equal(list.own, { session: "session 1", user: "user session 1" });
    moves(socket, "joined", "c", "c");
    moves(socket, "left", "a", "a", "d");
    equal([seen(), changes], [["b c", 3, true], [[["a", "b"], []], [["c"], []], [[], ["a"]]]]);
    socket.isQuiet();
  },

  async "what happens while a list is read is applied to what was read"(module) {
    const stage = new Stage(module);
    const socket = await stage.live();
    const list = stage.client.memberList("r");
    join(stage, "r", { presence: true });
    socket.answers(await socket.next("SUBSCRIBE"), { type: "subscribed" });
    const command = await socket.next("MEMBERS");
    moves(socket, "joined", "a", "b", "c");
    moves(socket, "left", "b", "d", "e");
    equal([[...list.members.keys()], list.isCurrent], [["a", "c"], false]);
    // Seen with some of it, and without the rest.
    lists(socket, command, ["session 1", "a", "b", "d", "f"]);
    await turn();
    equal([[...list.members.keys()], list.count], [["a", "c", "f"], 4]);
  },

  async "a list of a room that is joined already is read at once, and one that is closed hears no more"(module) {
    const { stage, socket, list } = await listing(module);
    const second = stage.client.memberList("r");
    lists(socket, await socket.next("MEMBERS"), ["session 1", "a"]);
    await turn();
    list.close();
    moves(socket, "joined", "c");
    equal([[...list.members.keys()], [...second.members.keys()]], [["a", "b"], ["a", "c"]]);
    let error;
    try {
      stage.client.memberList("\n");
    } catch (thrown) {
      error = thrown;
    }
    equal(error.code, "bad_room");
  },

  async "a list is read again over a new connection, and who has gone meanwhile is not in it"(module) {
    const { stage, socket, changes, seen } = await listing(module);
    socket.lose();
    equal(seen(), ["a b", 3, false]);
    const next = await stage.live();
    const command = await next.next("SUBSCRIBE");
    next.isQuiet();
    next.answers(command, { type: "subscribed", offset: 0, epoch: "e1", recovered: true });
    // The server has not noticed yet that the first session is no more.
    lists(next, await next.next("MEMBERS"), ["b", "session 1", "c", "session 2"]);
    await turn();
    equal([seen(), changes.slice(1)], [["b c", 3, true], [[[], []], [["c"], ["a"]]]]);
    moves(next, "left", "session 1");
    equal(seen(), ["b c", 3, true]);
  },

  async "a list is read over the next connection when the server stops, and nobody is told twice"(module) {
    const { stage, socket: old, list, changes, seen } = await listing(module);
    const next = await successor(stage, old);
    moves(old, "joined", "c");
    next.welcome();
    const command = await next.next("SUBSCRIBE");
    equal(command.presence, true);
    next.answers(command, { type: "subscribed", offset: 0, epoch: "e1", recovered: true });
    const read = await next.next("MEMBERS");
    for (const socket of [old, next]) {
      moves(socket, "left", "a");
      moves(socket, "joined", "d", socket === old ? "session 2" : "c");
    }
    moves(next, "joined", "e");
    lists(next, read, ["session 1", "session 2", "b", "c", "d"]);
    await turn();
    equal([seen(), stage.client.session], [["b c d", 4, true], "session 2"]);
    old.answers(await old.next("UNSUBSCRIBE"), { type: "unsubscribed" });
    moves(next, "left", "session 1");
    equal([seen(), list.isComplete], [["b c d e", 5, true], true]);
    equal(changes.slice(1), [[["c"], []], [[], ["a"]], [["d"], []], [[], []], [["e"], []]]);
    const told = ["joined", "left"].flatMap((type) => stage.all(type).map((detail) => `${type} ${detail.member.session}`));
    equal(told, ["joined c", "joined d", "joined e", "left a"]);
    next.isQuiet();
  },

  async "a list that cannot be read now is read later, and one that may not be says so"(module) {
    const stage = new Stage(module);
    const socket = await stage.live();
    const list = stage.client.memberList("r");
    const errors = [];
    list.on("error", ({ code }) => errors.push(code));
    join(stage, "r", { presence: true });
    socket.answers(await socket.next("SUBSCRIBE"), { type: "subscribed" });
    for (const code of ["unavailable", "rate_limited", "forbidden"]) {
      socket.answers(await socket.next("MEMBERS"), { type: "error", code });
    }
    await until("the errors", () => errors.length === 3);
    await new Promise((resolve) => setTimeout(resolve, SOON_MS));
    socket.isQuiet();
    equal([errors, list.isCurrent, stage.news()], [["unavailable", "rate_limited", "forbidden"], false, ["subscribed"]]);
  },

  async "a list is empty when the room is left, and full again when it is joined again"(module) {
    for (const byServer of [true, false]) {
      const { client, socket, changes, seen } = await listing(module);
      if (byServer) socket.says({ type: "unsubscribed", room: "r" });
      else {
        client.unsubscribe("r");
        socket.answers(await socket.next("UNSUBSCRIBE"), { type: "unsubscribed" });
      }
      equal([seen(), changes.at(-1)], [["", 0, false], [[], ["a", "b"]]]);
      join({ client }, "r", { presence: true });
      socket.answers(await socket.next("SUBSCRIBE"), { type: "subscribed", offset: 0, epoch: "e1" });
      lists(socket, await socket.next("MEMBERS"), ["session 1", "c"]);
      await turn();
      equal(seen(), ["c", 2, true]);
      join({ client }, "r", { presence: false });
      socket.answers(await socket.next("SUBSCRIBE"), { type: "subscribed", offset: 0, epoch: "e1" });
      equal(seen(), ["", 0, false]);
    }
  },

  async "a list is read again after a gap"(module) {
    const { socket, seen } = await listing(module);
    socket.says({ type: "gap", room: "r" });
    lists(socket, await socket.next("MEMBERS"), ["session 1", "b", "c"]);
    await turn();
    equal(seen(), ["b c", 3, true]);
    // Of two questions only the later one counts.
    for (const _ of [1, 2]) socket.says({ type: "gap", room: "r" });
    const [early, late] = [await socket.next("MEMBERS"), await socket.next("MEMBERS")];
    lists(socket, early, ["session 1", "x"]);
    await turn();
    equal(seen(), ["b c", 3, true]);
    lists(socket, late, ["session 1", "y"]);
    await turn();
    equal(seen(), ["y", 2, true]);
  },

  async "of a large room a part is listed, and all when it has become smaller"(module) {
    const many = Array.from({ length: 999 }, (_, nth) => `many ${nth}`);
    const { socket, list } = await listing(module, ["session 1", ...many], 1_002);
    equal([list.members.size, list.count, list.isComplete], [999, 1_002, false]);
    moves(socket, "left", "unlisted");
    equal([list.members.size, list.count], [999, 1_001]);
    socket.isQuiet();
    moves(socket, "left", "many 5");
    equal([list.members.size, list.count], [998, 1_000]);
    lists(socket, await socket.next("MEMBERS"), ["session 1", ...many.slice(1), "another"]);
    await turn();
    equal([list.members.size, list.count, list.isComplete], [999, 1_000, true]);
  },

  async "whether one who comes while a part is read has been counted, nobody knows"(module) {
    const { socket, list } = await listing(module, ["session 1", "a"], 1_500);
    socket.says({ type: "gap", room: "r" });
    const command = await socket.next("MEMBERS");
    moves(socket, "joined", "new");
    lists(socket, command, ["session 1", "a"], 1_500);
    await turn();
    equal([list.members.size, list.count], [2, 1_500]);
  },

  async "a room that is joined without presence has no list"(module) {
    const stage = new Stage(module);
    const socket = await inRoom(stage, 10);
    const list = stage.client.memberList("r");
    socket.isQuiet();
    equal([list.count, list.isCurrent], [0, false]);
  },
});
