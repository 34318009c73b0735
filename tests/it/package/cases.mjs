// The cases of the browser tests, in Node, on the package as `import "roomcast"` finds it. Arguments: the files of cases.

import { readFileSync } from "node:fs";
import * as module from "roomcast";

// Of calls that no case waits for. Everything else that nobody catches is a mistake of the client's.
process.on("unhandledRejection", (error) => {
  if (!(error instanceof module.RoomcastError)) throw error;
});
const cases = process.argv.slice(2).map((file) => readFileSync(file, "utf8"));
const failures = await new Function("module", `${cases.join("\n")}\nreturn runCases(module)`)(module);
console.log(JSON.stringify(failures));
// Clients that a case has left open would keep the process.
process.exit(0);
