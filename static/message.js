/** One message as it stands in a room. What users wrote only ever becomes text (`textContent`), never markup. */

import { clockFormat, element, fullFormat } from "/dom.js";

const HUES = 6;

/** @param {string} day */
export function dayItem(day) {
  return element("li", { className: "day", data: { day } }, element("span", { textContent: day }));
}

/**
 * @param {{message: unknown, sender?: string, own: boolean, time: number, state: string, grouped: boolean}} entry
 */
export function messageItem({ message, sender, own, time, state, grouped }) {
  const name = sender ?? "anonymous";
  const moment = new Date(time);
  const head = element(
    "p",
    { className: "message-head" },
    element("bdi", { className: "sender", textContent: name, data: { testid: "sender" } }),
    ...(own ? [element("span", { className: "you", textContent: "you" })] : []),
    element("time", { dateTime: moment.toISOString(), title: fullFormat.format(moment), textContent: clockFormat.format(moment) }),
  );
  return element(
    "li",
    { className: grouped ? "message grouped" : "message", data: { testid: "message", own: String(own), state } },
    avatar(sender),
    element("div", { className: "message-body" }, head, textOf(message)),
  );
}

/** @param {string | undefined} user */
export function avatar(user) {
  const initial = user === undefined ? "?" : [...user][0].toUpperCase();
  return element("span", { className: "avatar", ariaHidden: "true", textContent: initial, data: { hue: hueOf(user) } });
}

/** @param {string | undefined} sender */
function hueOf(sender) {
  if (sender === undefined) return "none";
  let sum = 0;
  for (const character of sender) sum = (sum * 31 + (character.codePointAt(0) ?? 0)) % 9973;
  return String(sum % HUES);
}

/** @param {unknown} message */
function textOf(message) {
  if (typeof message === "string") {
    return element("p", { className: "text", dir: "auto", textContent: message, data: { testid: "text" } });
  }
  const code = element("code", { textContent: JSON.stringify(message, null, 2) });
  return element("pre", { className: "text json", tabIndex: 0, data: { testid: "text" } }, code);
}
