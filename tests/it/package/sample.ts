// Uses every part of the client's types; `tsc --noEmit --strict` has to find nothing wrong with it, and what is marked
// with `@ts-expect-error` to be wrong.

import { MemberList, Roomcast, RoomcastError, roomNameProblem, userNameProblem } from "roomcast";
import type {
  GapDetail, Member, MembersDetail, MessageDetail, Position, RoomcastEventMap, StateDetail, SubscribedDetail, TokenSource,
} from "roomcast";

const token: TokenSource = async ({ reason }) => (reason === "rejected" ? null : `token for ${reason}`);
const client: Roomcast = new Roomcast(["wss://a.example/ws", new URL("wss://b.example/ws")], {
  user: "ann", token, WebSocket, requestTimeout: 1, connectTimeout: 1, publishTimeout: 1, backoffFirst: 1, backoffCap: 1,
});
new Roomcast("/ws", { token: "a.b.c" });

const stop: () => void = client.on("message", ({ room, message, own, replayed, sender, time }: MessageDetail) => {
  const line: string = `${room} ${sender ?? "anonymous"} ${String(message)} ${own} ${replayed} ${time ?? 0}`;
  console.log(line);
});
stop();
client.on("state", ({ state, retryAt }: StateDetail) => console.log(state === "live", retryAt ?? 0));
client.on("subscribed", ({ recovered, rejoin }) => console.log(recovered ?? null, rejoin));
client.on("unsubscribed", ({ room, removed }) => console.log(room, removed));
client.on("joined", ({ member }) => console.log(member.user ?? member.session));
client.on("left", ({ member }) => console.log(member.session));
client.on("gap", ({ after, offset }: GapDetail) => console.log((offset ?? 0) - (after ?? 0)));
client.on("bye", ({ closesInMs }) => console.log(closesInMs));
client.on("frame", ({ direction, text }) => console.log(direction === "in", text));
client.on("error", (error) => {
  if (error.code === "unauthorized" && !error.retryable) console.log(error.message);
});
const names: (keyof RoomcastEventMap)[] = ["state", "message", "joined"];
client.addEventListener(names[0], (event) => console.log((event as CustomEvent<StateDetail>).detail.state));

async function use(): Promise<void> {
  const joined: SubscribedDetail = await client.subscribe("lobby", { history: 50, presence: true });
  await client.subscribe("lobby", { after: joined.offset, epoch: joined.epoch });
  const position: Position = await client.publish("lobby", { any: ["json"] }, { key: "k", wait: false });
  const { count, members }: MembersDetail = await client.members("lobby");
  const first: Member | undefined = members[0];
  const list: MemberList = client.memberList("lobby");
  list.on("change", ({ joined, left }) => console.log(joined.length, left.length, list.count, list.isCurrent));
  list.on("error", ({ code }) => console.log(code));
  const user: string | undefined = list.members.get("session");
  console.log(position.offset ?? 0, count, first?.user ?? "", user ?? "", list.isComplete, list.own?.user ?? "");
  list.close();
  await client.unsubscribe("lobby");
}
use().catch((error: unknown) => error instanceof RoomcastError && console.log(error.outcome, error.key, error.cause));
console.log(client.session ?? "", client.rooms.length, client.state, roomNameProblem("x"), userNameProblem(""));
client.connect();
client.close();

// @ts-expect-error there is no such event
client.on("mesage", () => {});
// @ts-expect-error a token is a text
new Roomcast("/ws", { token: 5 });
// @ts-expect-error an option with another name
client.subscribe("lobby", { presense: true });
// @ts-expect-error it is read only
client.session = "x";
// @ts-expect-error lists are made by clients
new MemberList();
