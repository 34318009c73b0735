// Two clients on a real server, with the WebSocket that this program has itself. Argument: the server's URL.

import { Roomcast } from "roomcast";

const [url] = process.argv.slice(2);
const [ann, ben] = ["ann", "ben"].map((user) => new Roomcast(url, { user }));
const heard = new Promise((resolve) => {
  ben.on("message", ({ room, sender, message, own }) => resolve({ room, sender, message, own }));
});
await ben.subscribe("lobby", { history: 1 });
await ann.publish("lobby", { any: ["json"] });
console.log(JSON.stringify(await heard));
for (const client of [ann, ben]) client.close();
// Nothing keeps the process now.
