/**
 * The demo page: several rooms at once over one connection.
 *
 * It is an application of roomcast.js like any other and knows nothing of the wire.
 *  - What users wrote only ever becomes text (`textContent`), never markup.
 *  - Everything that grows is bounded: messages per room, notes among them, frames in the drawer.
 *  - An own message stands in the room's outbox until the room itself delivers it: the log shows the room's order,
 *    the same for everybody. A failed one stays there with its reason until it is sent again, edited or discarded.
 *  - An error is shown where it happened: at the message, at the form, in the room's heading.
 */

import { Roomcast, roomNameProblem, userNameProblem } from "/roomcast.js";

const ENTRIES_PER_ROOM = 500;
const FRAMES_KEPT = 300;
const FRAME_TEXT_CHARS = 2_000;
const COUNTDOWN_TICK_MS = 250;
/** Within it a sender's next message stands under the same head. */
const GROUP_SPAN_MS = 5 * 60_000;
/** Closer to the end than this, the log follows new messages. */
const STICK_PX = 80;
const HUES = 6;
const FIRST_ROOM = "lobby";

/** @param {string} id @returns {any} */
const byId = (id) => document.getElementById(id);

const clockFormat = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const secondsFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const dayFormat = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const fullFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

/* ---- helpers ---------------------------------------------------------------------------------------------------- */

/**
 * An element with properties, data attributes and children; strings become text nodes.
 *
 * @param {string} tag
 * @param {Record<string, any>} [properties]  `data` holds data attributes
 * @param {...(Node | string)} children
 * @returns {any}
 */
function element(tag, { data = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

/** Values that survive a reload. A browser may forbid storage; the page then works without. */
const memory = {
  /** @param {string} key @param {any} fallback */
  recall(key, fallback) {
    try {
      return JSON.parse(localStorage.getItem(`roomcast.${key}`) ?? "null") ?? fallback;
    } catch {
      return fallback;
    }
  },
  /** @param {string} key @param {any} value */
  keep(key, value) {
    try {
      localStorage.setItem(`roomcast.${key}`, JSON.stringify(value));
    } catch {
      // Forgotten with the page, then.
    }
  },
};

function roomInAddress() {
  const raw = location.hash.slice(1);
  try {
    return decodeURIComponent(raw);
  } catch {
    return raw; // typed by hand, with a bare percent sign
  }
}

/** @param {string | undefined} sender */
function hueOf(sender) {
  if (sender === undefined) return "none";
  let sum = 0;
  for (const character of sender) sum = (sum * 31 + (character.codePointAt(0) ?? 0)) % 9973;
  return String(sum % HUES);
}

/** @param {string} text */
function sentence(text) {
  const trimmed = text.trim();
  return `${trimmed.charAt(0).toUpperCase()}${trimmed.slice(1)}${/[.!?]$/.test(trimmed) ? "" : "."}`;
}

/** What went wrong with a message, for its author. @param {import("/roomcast.js").RoomcastError} error */
function sendFailure(error) {
  if (error.outcome === "unknown") return "No answer from the server. The message may have been delivered.";
  switch (error.code) {
    case "disconnected":
    case "closed":
      return "Not sent: there is no connection.";
    case "rate_limited":
      return "Not sent: too many messages in a short time. Wait a moment.";
    case "unavailable":
      return "Not sent: the server cannot take messages right now.";
    case "message_too_large":
      return `Too long to send. ${sentence(error.message)}`;
    default:
      return `Not sent. ${sentence(error.message)}`;
  }
}

/** @param {import("/roomcast.js").RoomcastError} error */
function joinFailure(error) {
  switch (error.code) {
    case "disconnected":
      return "the connection was lost";
    case "timeout":
      return "the server did not answer";
    case "unavailable":
      return "the server cannot join rooms right now";
    case "rate_limited":
      return "too many commands in a short time";
    default:
      return error.message;
  }
}

/* ---- one room --------------------------------------------------------------------------------------------------- */

/**
 * One room as shown: its tab, its log, its outbox, its draft.
 *
 * `membership` is `joining`, `joined`, `trying` (refused for now, the client goes on) or `out` (the server ended it).
 */
class RoomView {
  unread = 0;
  draft = "";
  membership = "joining";
  /** Why not joined, in words. */
  obstacle = "";
  everJoined = false;
  /** Distance kept from the top, or null to follow the newest message. @type {number | null} */
  scrollTop = null;
  /** @type {{sender?: string, session?: string, own: boolean, time: number, day: string} | null} */
  #previous = null;
  /** @type {Set<OutgoingMessage>} */
  #outbox = new Set();

  /** @param {string} name @param {(room: RoomView) => void} onSelect */
  constructor(name, onSelect) {
    this.name = name;
    this.badge = element("span", { className: "unread", data: { testid: "unread" }, hidden: true });
    this.tab = element(
      "button",
      { type: "button", className: "room-tab", data: { testid: "room-tab", room: name }, onclick: () => onSelect(this) },
      element("bdi", { className: "room-tab-name", textContent: name }),
      this.badge,
    );
    this.tabItem = element("li", {}, this.tab);
    this.empty = this.#emptyState();
    this.entries = element("ol", { className: "messages" });
    // One's own words need no reading out; they would be read twice, on their way and in the log. Failures are alerts.
    this.outbox = element("ol", { className: "messages outbox", ariaLive: "off" });
    this.view = element("div", { className: "log-room" }, this.empty, this.entries, this.outbox);
  }

  #emptyState() {
    const secondWindow = element("a", {
      href: `/#${encodeURIComponent(this.name)}`,
      target: "_blank",
      rel: "noopener",
      textContent: "Open this page in a second window",
      data: { testid: "second-window" },
    });
    return element(
      "div",
      { className: "empty" },
      element("p", { className: "empty-title", textContent: "Nothing here yet." }),
      element("p", {}, secondWindow, " and join the same room: what you write here arrives there at once."),
    );
  }

  /** @param {boolean} active */
  setActive(active) {
    if (active) this.tab.setAttribute("aria-current", "true");
    else this.tab.removeAttribute("aria-current");
  }

  /** @param {number} count */
  setUnread(count) {
    this.unread = count;
    this.badge.hidden = count === 0;
    this.badge.replaceChildren(
      count > 99 ? "99+" : String(count),
      element("span", { className: "visually-hidden", textContent: " unread" }),
    );
  }

  /** @param {string} membership @param {string} [obstacle] */
  setMembership(membership, obstacle = "") {
    this.membership = membership;
    this.obstacle = obstacle;
    this.tab.dataset.membership = membership;
    if (membership === "joined") this.everJoined = true;
  }

  /** @param {import("/roomcast.js").MessageDetail} message @param {boolean} own */
  addMessage(message, own) {
    if (own) this.#takeFromOutbox(message.message);
    this.#append({ ...message, own, time: message.time ?? Date.now() });
  }

  /** A remark of the page itself about the room. @param {string} text */
  addNote(text) {
    this.#previous = null;
    this.entries.append(element("li", { className: "note", textContent: text, data: { testid: "note" } }));
    this.#grown();
  }

  /** @param {OutgoingMessage} outgoing */
  addOutgoing(outgoing) {
    this.#outbox.add(outgoing);
    this.outbox.append(outgoing.item);
    this.empty.hidden = true;
  }

  /** @param {OutgoingMessage} outgoing */
  removeOutgoing(outgoing) {
    this.#outbox.delete(outgoing);
    outgoing.item.remove();
    this.empty.hidden = this.entries.childElementCount + this.#outbox.size > 0;
  }

  /** The session has ended: what was accepted, and not yet delivered, will not come by itself any more. */
  settleSent() {
    for (const outgoing of [...this.#outbox]) {
      if (outgoing.state !== "sent") continue;
      this.removeOutgoing(outgoing);
      this.#append({ message: outgoing.text, sender: outgoing.sender, own: true, time: outgoing.time });
    }
  }

  /** One sender's messages come in the order they were sent, so the first equal one is the one. @param {unknown} message */
  #takeFromOutbox(message) {
    for (const outgoing of this.#outbox) {
      if (outgoing.text === message) return this.removeOutgoing(outgoing);
    }
  }

  /** @param {{message: unknown, sender?: string, session?: string, own: boolean, time: number}} entry */
  #append(entry) {
    const day = dayFormat.format(entry.time);
    if (this.#previous?.day !== day && this.#lastDay() !== day) this.entries.append(dayItem(day));
    const state = entry.own ? "sent" : "received";
    const item = messageItem({ ...entry, state, grouped: this.#continuesGroup(entry) });
    item.dataset.day = day;
    this.entries.append(item);
    this.#previous = { ...entry, day };
    this.#grown();
  }

  #lastDay() {
    return [...this.entries.children].findLast((item) => item.dataset.day !== undefined)?.dataset.day;
  }

  /** @param {{sender?: string, session?: string, own: boolean, time: number}} entry */
  #continuesGroup({ sender, session, own, time }) {
    const before = this.#previous;
    return before !== null && before.sender === sender && before.session === session && before.own === own
      && time - before.time < GROUP_SPAN_MS && dayFormat.format(time) === before.day;
  }

  #grown() {
    this.empty.hidden = true;
    if (this.entries.childElementCount <= ENTRIES_PER_ROOM) return;
    while (this.entries.childElementCount >= ENTRIES_PER_ROOM) this.entries.firstElementChild.remove();
    const first = this.entries.firstElementChild;
    // The head and the date of what follows may just have gone with what came before.
    first.classList.remove("grouped");
    if (first.dataset.day !== undefined && !first.matches(".day")) first.before(dayItem(first.dataset.day));
  }
}

/** @param {string} day */
function dayItem(day) {
  return element("li", { className: "day", data: { day } }, element("span", { textContent: day }));
}

/**
 * @param {{message: unknown, sender?: string, own: boolean, time: number, state: string, grouped: boolean}} entry
 */
function messageItem({ message, sender, own, time, state, grouped }) {
  const name = sender ?? "anonymous";
  const moment = new Date(time);
  const head = element(
    "p",
    { className: "message-head" },
    element("bdi", { className: "sender", textContent: name, data: { testid: "sender" } }),
    ...(own ? [element("span", { className: "you", textContent: "you" })] : []),
    element("time", { dateTime: moment.toISOString(), title: fullFormat.format(moment), textContent: clockFormat.format(moment) }),
  );
  const initial = sender === undefined ? "?" : [...name][0].toUpperCase();
  return element(
    "li",
    { className: grouped ? "message grouped" : "message", data: { testid: "message", own: String(own), state } },
    element("span", { className: "avatar", ariaHidden: "true", textContent: initial, data: { hue: hueOf(sender) } }),
    element("div", { className: "message-body" }, head, textOf(message)),
  );
}

/** @param {unknown} message */
function textOf(message) {
  if (typeof message === "string") {
    return element("p", { className: "text", dir: "auto", textContent: message, data: { testid: "text" } });
  }
  const code = element("code", { textContent: JSON.stringify(message, null, 2) });
  return element("pre", { className: "text json", tabIndex: 0, data: { testid: "text" } }, code);
}

/** A message of one's own on its way: `sending`, `sent` (accepted, not yet delivered back) or `failed`. */
class OutgoingMessage {
  state = "sending";
  time = Date.now();

  /**
   * @param {string} text
   * @param {string | undefined} sender
   * @param {{again: () => void, edit: () => void, discard: () => void}} actions
   */
  constructor(text, sender, actions) {
    this.text = text;
    this.sender = sender;
    this.actions = actions;
    this.item = messageItem({ message: text, sender, own: true, time: this.time, state: this.state, grouped: false });
  }

  sending() {
    this.#show("sending");
  }

  sent() {
    this.#show("sent");
  }

  /** @param {import("/roomcast.js").RoomcastError} error */
  failed(error) {
    this.#show("failed");
    const action = (/** @type {string} */ label, /** @type {string} */ testid, /** @type {() => void} */ onclick) =>
      element("button", { type: "button", className: "button small", textContent: label, onclick, data: { testid } });
    const tooLarge = error.code === "message_too_large";
    const reason = element("p", { className: "failure-reason", textContent: sendFailure(error), data: { testid: "send-error" } });
    const choices = element(
      "p",
      { className: "failure-choices" },
      // The same text would be too long again.
      ...(tooLarge ? [] : [action("Send again", "resend", this.actions.again)]),
      action("Edit", "edit", this.actions.edit),
      action("Discard", "discard", this.actions.discard),
    );
    this.failure = element("div", { className: "failure", role: "alert" }, reason, choices);
    this.item.querySelector(".message-body").append(this.failure);
  }

  /** @param {string} state */
  #show(state) {
    this.failure?.remove();
    this.state = state;
    this.item.dataset.state = state;
  }
}

/* ---- connection state ------------------------------------------------------------------------------------------- */

/** The pill in the header, its countdown, and the button that cuts the wait short. */
class StatusPill {
  #timer = 0;

  /** @param {() => void} onRetry */
  constructor(onRetry) {
    this.pill = byId("status");
    this.text = byId("status-text");
    this.retry = byId("retry");
    this.announcer = byId("announcer");
    this.retry.onclick = onRetry;
  }

  /** @param {import("/roomcast.js").StateDetail} detail */
  show({ state, retryAt, reason }) {
    clearInterval(this.#timer);
    if (this.pill.dataset.state !== state) this.announcer.textContent = StatusPill.#words(state);
    this.pill.dataset.state = state;
    this.pill.title = reason ? sentence(reason) : "";
    this.retry.hidden = state === "live" || state === "connecting";
    byId("retry-verb").textContent = state === "closed" ? "Connect" : "Retry";
    this.text.textContent = StatusPill.#words(state);
    if (retryAt !== undefined) this.#countDown(retryAt);
  }

  /** @param {number} retryAt */
  #countDown(retryAt) {
    const tick = () => {
      const seconds = Math.max(1, Math.ceil((retryAt - Date.now()) / 1000));
      this.text.textContent = `Reconnecting in ${seconds} s`;
    };
    tick();
    this.#timer = setInterval(tick, COUNTDOWN_TICK_MS);
  }

  /** @param {string} state */
  static #words(state) {
    return { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", closed: "Disconnected" }[state] ?? state;
  }
}

/* ---- frames ----------------------------------------------------------------------------------------------------- */

/** The drawer with the raw frames. Recorded while closed as well, so that the beginning can be seen; shown only open. */
class FrameDrawer {
  /** @type {{time: number, direction: string, text: string}[]} */
  #kept = [];
  #paused = false;
  #missed = 0;

  constructor() {
    this.drawer = byId("frames");
    this.toggle = byId("frames-toggle");
    this.list = byId("frames-list");
    this.note = byId("frames-note");
    this.pause = byId("frames-pause");
    this.toggle.onclick = () => this.#setOpen(this.drawer.hidden);
    byId("frames-close").onclick = () => this.#setOpen(false);
    byId("frames-clear").onclick = () => this.#clear();
    this.pause.onclick = () => this.#setPaused(!this.#paused);
    this.drawer.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") this.#setOpen(false);
    });
    this.#describe();
  }

  /** @param {import("/roomcast.js").FrameDetail} frame */
  add(frame) {
    if (this.#paused) {
      this.#missed += 1;
      return this.#describe();
    }
    const kept = { ...frame, time: Date.now() };
    this.#kept.push(kept);
    if (this.#kept.length > FRAMES_KEPT) this.#kept.shift();
    if (!this.drawer.hidden) this.#show([kept]);
  }

  /** @param {typeof this.#kept} frames */
  #show(frames) {
    const follow = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < STICK_PX;
    this.list.append(...frames.map(frameItem));
    while (this.list.childElementCount > FRAMES_KEPT) this.list.firstElementChild.remove();
    if (follow) this.list.scrollTop = this.list.scrollHeight;
    this.#describe();
  }

  /** @param {boolean} open */
  #setOpen(open) {
    this.drawer.hidden = !open;
    document.body.classList.toggle("frames-open", open);
    this.toggle.setAttribute("aria-expanded", String(open));
    this.list.replaceChildren();
    if (open) {
      this.#show(this.#kept);
      this.list.scrollTop = this.list.scrollHeight;
      this.pause.focus();
    } else {
      this.toggle.focus();
    }
  }

  #clear() {
    this.#kept = [];
    this.#missed = 0;
    this.list.replaceChildren();
    this.#describe();
  }

  /** @param {boolean} paused */
  #setPaused(paused) {
    this.#paused = paused;
    this.#missed = 0;
    this.pause.setAttribute("aria-pressed", String(paused));
    this.pause.textContent = paused ? "Resume" : "Pause";
    this.#describe();
  }

  #describe() {
    if (this.#paused) this.note.textContent = `Paused; ${this.#missed} passed unrecorded.`;
    else this.note.textContent = this.#kept.length === 0 ? "Nothing yet." : `The last ${FRAMES_KEPT} text frames are kept.`;
  }
}

/** @param {{time: number, direction: string, text: string}} frame */
function frameItem({ time, direction, text }) {
  const cut = text.length - FRAME_TEXT_CHARS;
  return element(
    "li",
    { className: "frame", data: { testid: "frame", direction } },
    element("span", { className: "frame-direction", textContent: direction }),
    element("time", { textContent: `${secondsFormat.format(time)}.${String(time % 1000).padStart(3, "0")}` }),
    element("code", { textContent: cut > 0 ? `${text.slice(0, FRAME_TEXT_CHARS)} … ${cut} more characters` : text }),
  );
}

/* ---- the page --------------------------------------------------------------------------------------------------- */

class Page {
  /** @type {Map<string, RoomView>} */
  #rooms = new Map();
  /** @type {RoomView | null} */
  #active = null;
  /** @type {Roomcast} */
  #client;
  #name = "";
  /** @type {import("/roomcast.js").StateDetail} */
  #connection = { state: "connecting", attempt: 0 };
  #scrollPlanned = false;
  /** Whether the log keeps its end in view: until the reader scrolls up, and again from the end on. */
  #following = true;
  #lastScrollTop = 0;

  constructor() {
    this.status = new StatusPill(() => this.#client.connect());
    this.frames = new FrameDrawer();
    this.log = byId("log");
    this.composer = byId("composer-text");
    this.roomInput = byId("room-input");
    const name = memory.recall("name", "");
    if (typeof name === "string" && userNameProblem(name) === null) this.#name = name;
    byId("name").value = this.#name;
    this.#client = this.#connect();
    this.#listen();
    this.#restoreRooms();
  }

  /* -- connection -- */

  #connect() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const client = new Roomcast(`${scheme}//${location.host}/ws`, { user: this.#name || undefined });
    client.on("state", (detail) => this.#stateChanged(detail));
    client.on("message", (message) => this.#messageArrived(message));
    client.on("subscribed", ({ room }) => this.#joined(room));
    client.on("unsubscribed", ({ room }) => this.#removed(room));
    client.on("error", (error) => this.#troubled(error));
    client.on("gap", ({ room }) => this.#rooms.get(room)?.addNote("Some messages could not be fetched and are missing here."));
    client.on("frame", (frame) => this.frames.add(frame));
    return client;
  }

  /** A name belongs to a session, so a new one takes a new connection. @param {string} name */
  #rename(name) {
    this.#name = name;
    memory.keep("name", name);
    const rooms = this.#client.rooms;
    this.#client.close();
    this.#client = this.#connect();
    this.#stateChanged({ state: "connecting", attempt: 0 });
    for (const room of rooms) this.#subscribe(room);
  }

  /** @param {import("/roomcast.js").StateDetail} detail */
  #stateChanged(detail) {
    this.status.show(detail);
    this.#connection = detail;
    if (detail.state !== "live") this.#sessionEnded();
    this.#showHeading();
  }

  #sessionEnded() {
    for (const room of this.#rooms.values()) {
      room.settleSent();
      if (room.membership !== "out") room.setMembership("joining");
    }
  }

  /* -- rooms -- */

  #restoreRooms() {
    const kept = memory.recall("rooms", []);
    for (const name of Array.isArray(kept) ? kept : []) {
      if (roomNameProblem(name) === null) this.#open(name);
    }
    const wished = roomInAddress();
    if (wished !== "") this.#join(wished);
    else this.#select(this.#rooms.get(memory.recall("active", "")) ?? [...this.#rooms.values()][0] ?? null);
  }

  /** @param {string} name @returns {boolean} whether the name can be a room's */
  #join(name) {
    const problem = roomNameProblem(name);
    this.#showJoinError(problem ?? "", problem !== null);
    if (problem !== null) return false;
    this.#select(this.#rooms.get(name) ?? this.#open(name));
    return true;
  }

  /** @param {string} name */
  #open(name) {
    const room = new RoomView(name, (chosen) => this.#select(chosen));
    this.#rooms.set(name, room);
    byId("room-list").append(room.tabItem);
    this.#roomsChanged();
    this.#subscribe(name);
    return room;
  }

  /** @param {string} name */
  #subscribe(name) {
    const client = this.#client;
    client.subscribe(name).catch((error) => {
      // Left meanwhile, or the connection was exchanged for one with another name.
      if (client !== this.#client || error.code === "cancelled" || !this.#rooms.has(name)) return;
      if (error.retryable) this.#stillTrying(name, error);
      else this.#refused(name, error);
    });
  }

  /** @param {string} name @param {import("/roomcast.js").RoomcastError} error */
  #stillTrying(name, error) {
    // Without a connection the heading says enough.
    if (error.code === "disconnected") return;
    this.#rooms.get(name)?.setMembership("trying", joinFailure(error));
    this.#showJoinError(`Not in “${name}” yet: ${joinFailure(error)}. Trying again.`);
    this.#showHeading();
  }

  /** @param {string} name @param {import("/roomcast.js").RoomcastError} error */
  #refused(name, error) {
    const room = this.#rooms.get(name);
    if (room === undefined) return;
    if (error.code === "closed" || room.everJoined) {
      room.setMembership("out", joinFailure(error));
      return this.#showHeading();
    }
    this.#drop(room);
    if (this.roomInput.value === "") this.roomInput.value = name;
    this.#showJoinError(`Cannot join “${name}”. ${sentence(joinFailure(error))}`, true);
  }

  /** @param {string} name */
  #joined(name) {
    const room = this.#rooms.get(name);
    if (room === undefined) return;
    if (room.everJoined) room.addNote("Joined again. Messages sent in between are not shown.");
    if (room.membership === "trying") this.#showJoinError("");
    room.setMembership("joined");
    this.#showHeading();
    this.#follow(room);
  }

  /** The server's decision; a room that was left here is not listed any more. @param {string} name */
  #removed(name) {
    this.#rooms.get(name)?.setMembership("out", "the server has ended your membership");
    this.#showHeading();
  }

  /** @param {import("/roomcast.js").RoomcastError} error */
  #troubled(error) {
    if (error.room === undefined) this.#active?.addNote(`The server reports: ${sentence(error.message)}`);
    else if (error.retryable) this.#stillTrying(error.room, error);
    else this.#refused(error.room, error);
  }

  /** @param {RoomView} room */
  #leave(room) {
    this.#drop(room);
    // A short screen shows no fields while the message field has the focus, and what is not shown cannot take it.
    this.composer.blur();
    // Refused for now, it is repeated by the client; and the room is not shown any more either way.
    this.#client.unsubscribe(room.name).catch(() => {});
    (this.#active?.tab ?? this.roomInput).focus();
  }

  /** @param {RoomView} room */
  #drop(room) {
    const names = [...this.#rooms.keys()];
    const place = names.indexOf(room.name);
    this.#rooms.delete(room.name);
    room.tabItem.remove();
    if (room === this.#active) this.#select(this.#rooms.get(names[place + 1] ?? names[place - 1]) ?? null);
    this.#roomsChanged();
  }

  #roomsChanged() {
    byId("rooms-none").hidden = this.#rooms.size > 0;
    memory.keep("rooms", [...this.#rooms.keys()]);
    this.#showTitle();
  }

  /** @param {RoomView | null} room */
  #select(room) {
    const before = this.#active;
    if (before !== null) {
      before.draft = this.composer.value;
      before.scrollTop = this.#following ? null : this.log.scrollTop;
      before.setActive(false);
    }
    this.#active = room;
    byId("welcome").hidden = room !== null;
    byId("room").hidden = room === null;
    memory.keep("active", room?.name ?? "");
    history.replaceState(null, "", room === null ? location.pathname : `#${encodeURIComponent(room.name)}`);
    if (room !== null) this.#showRoom(room);
    this.#showTitle();
  }

  /** @param {RoomView} room */
  #showRoom(room) {
    room.setActive(true);
    room.setUnread(0);
    room.tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    byId("room-title").textContent = room.name;
    byId("composer-label").textContent = `Message to ${room.name}`;
    this.composer.placeholder = `Message ${room.name}`;
    this.composer.value = room.draft;
    this.#showHeading();
    this.#growComposer();
    // What was there before is not news: the log is silent while it changes rooms.
    this.log.setAttribute("aria-live", "off");
    this.log.replaceChildren(room.view);
    this.log.scrollTop = room.scrollTop ?? this.log.scrollHeight;
    this.#lastScrollTop = this.log.scrollTop;
    this.#setFollowing(room.scrollTop === null);
    byId("jump").hidden = true;
    requestAnimationFrame(() => this.log.setAttribute("aria-live", "polite"));
  }

  /* -- messages -- */

  /** @param {import("/roomcast.js").MessageDetail} message */
  #messageArrived(message) {
    const room = this.#rooms.get(message.room);
    if (room === undefined) return;
    const own = message.session !== undefined && message.session === this.#client.session;
    room.addMessage(message, own);
    if (!own && (room !== this.#active || document.hidden)) {
      room.setUnread(room.unread + 1);
      this.#showTitle();
    }
    this.#follow(room);
  }

  #sendDraft() {
    const room = this.#active;
    const text = this.composer.value;
    if (room === null || text.trim() === "") return;
    this.composer.value = "";
    this.#growComposer();
    const outgoing = new OutgoingMessage(text, this.#name || undefined, {
      again: () => this.#sendAgain(room, outgoing),
      edit: () => this.#edit(room, outgoing),
      discard: () => this.#discard(room, outgoing),
    });
    room.addOutgoing(outgoing);
    this.#send(room, outgoing);
    this.#scrollToEnd();
  }

  /** @param {RoomView} room @param {OutgoingMessage} outgoing */
  async #send(room, outgoing) {
    outgoing.sending();
    try {
      await this.#client.publish(room.name, outgoing.text);
      outgoing.sent();
    } catch (error) {
      outgoing.failed(/** @type {any} */ (error));
      this.#follow(room);
    }
  }

  /** The buttons go with the failure, and would take the focus along. @param {RoomView} room @param {OutgoingMessage} outgoing */
  #sendAgain(room, outgoing) {
    this.composer.focus();
    this.#send(room, outgoing);
  }

  /** @param {RoomView} room @param {OutgoingMessage} outgoing */
  #edit(room, outgoing) {
    this.#discard(room, outgoing);
    this.composer.value = [this.composer.value, outgoing.text].filter((text) => text !== "").join("\n");
    this.#growComposer();
  }

  /** @param {RoomView} room @param {OutgoingMessage} outgoing */
  #discard(room, outgoing) {
    room.removeOutgoing(outgoing);
    this.composer.focus();
  }

  /* -- showing -- */

  #showHeading() {
    const room = this.#active;
    if (room === null) return;
    byId("room-state").textContent = this.#membershipWords(room);
    byId("rejoin").hidden = room.membership !== "out";
  }

  /** @param {RoomView} room */
  #membershipWords(room) {
    if (room.membership === "out") return `Not a member: ${room.obstacle}`;
    const { state, reason } = this.#connection;
    if (state === "closed") return reason ? `The server ended the connection: ${reason}` : "Disconnected";
    if (state !== "live") return "Waiting for the connection";
    if (room.membership === "trying") return `Not joined yet: ${room.obstacle}. Trying again`;
    return room.membership === "joined" ? "Joined" : "Joining";
  }

  #showTitle() {
    const unread = [...this.#rooms.values()].reduce((sum, room) => sum + room.unread, 0);
    const place = this.#active === null ? "roomcast" : `${this.#active.name} · roomcast`;
    document.title = unread > 0 ? `(${unread}) ${place}` : place;
  }

  /** @param {string} text @param {boolean} [invalid] whether the name itself is at fault */
  #showJoinError(text, invalid = false) {
    byId("join-error").textContent = text;
    this.roomInput.setAttribute("aria-invalid", String(invalid));
  }

  #atEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < STICK_PX;
  }

  #scrollToEnd() {
    this.log.scrollTop = this.log.scrollHeight;
    this.#setFollowing(true);
  }

  /** @param {boolean} following */
  #setFollowing(following) {
    this.#following = following;
    this.log.classList.toggle("following", following);
    if (following) byId("jump").hidden = true;
  }

  /** Scroll events come late: the log may have grown since, so not being at the end does not mean having left it. */
  #scrolled() {
    const { scrollTop } = this.log;
    if (this.#atEnd()) this.#setFollowing(true);
    else if (scrollTop < this.#lastScrollTop) this.#setFollowing(false);
    this.#lastScrollTop = scrollTop;
  }

  /** Keeps the end in view if it was; else offers to go there. Once per frame, however many messages came. @param {RoomView} room */
  #follow(room) {
    if (room !== this.#active || this.#scrollPlanned) return;
    this.#scrollPlanned = true;
    requestAnimationFrame(() => {
      this.#scrollPlanned = false;
      if (this.#following) this.#scrollToEnd();
      else byId("jump").hidden = false;
    });
  }

  #growComposer() {
    this.composer.style.height = "auto";
    this.composer.style.height = `${this.composer.scrollHeight + 2}px`;
  }

  /* -- input -- */

  #listen() {
    this.#listenToForms();
    this.#listenToComposer();
    this.#listenToLog();
    byId("leave").onclick = () => this.#active && this.#leave(this.#active);
    byId("rejoin").onclick = () => this.#rejoin();
    byId("join-lobby").onclick = () => this.#joinAndWrite(FIRST_ROOM);
    byId("skip-link").onclick = (/** @type {Event} */ event) => {
      event.preventDefault();
      (this.#active === null ? this.roomInput : this.composer).focus();
    };
    // On a short screen the fields stand back while a message is written. A button that took the focus when it is
    // pressed would bring them back, be moved from under the pointer by them, and never be clicked.
    byId("layout").addEventListener("mousedown", (/** @type {MouseEvent} */ event) => {
      const pressed = /** @type {Element} */ (event.target).closest("button, a");
      if (pressed !== null && document.activeElement === this.composer) event.preventDefault();
    });
    window.addEventListener("hashchange", () => roomInAddress() !== "" && this.#join(roomInAddress()));
    document.addEventListener("visibilitychange", () => {
      if (document.hidden || this.#active === null) return;
      this.#active.setUnread(0);
      this.#showTitle();
    });
  }

  #listenToForms() {
    const name = byId("name");
    const save = byId("name-save");
    name.oninput = () => {
      save.hidden = name.value.trim() === this.#name;
    };
    // A phone has no room for the button: there, leaving the field is enough.
    name.onchange = () => this.#saveName(name.value.trim());
    byId("name-form").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#saveName(name.value.trim());
    };
    this.roomInput.oninput = () => this.#showJoinError("");
    byId("join-form").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#joinAndWrite(this.roomInput.value.trim());
    };
  }

  /** @param {string} wished */
  #saveName(wished) {
    const problem = userNameProblem(wished);
    byId("name-error").textContent = problem ?? "";
    if (problem !== null) return;
    byId("name").value = wished;
    byId("name-save").hidden = true;
    if (wished !== this.#name) this.#rename(wished);
  }

  /** @param {string} name */
  #joinAndWrite(name) {
    if (!this.#join(name)) return this.roomInput.focus();
    this.roomInput.value = "";
    this.composer.focus();
  }

  #rejoin() {
    const room = this.#active;
    if (room === null) return;
    room.setMembership("joining");
    this.#client.connect();
    this.#subscribe(room.name);
    this.#showHeading();
    this.composer.focus();
  }

  #listenToComposer() {
    this.composer.oninput = () => this.#growComposer();
    this.composer.onkeydown = (/** @type {KeyboardEvent} */ event) => {
      // While an input method composes, Enter belongs to it.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#sendDraft();
    };
    byId("composer").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#sendDraft();
      this.composer.focus();
    };
  }

  #listenToLog() {
    this.log.onscroll = () => this.#scrolled();
    byId("jump").onclick = () => {
      this.#scrollToEnd();
      this.composer.focus();
    };
    // A growing composer or a phone's keyboard takes from the log's height.
    new ResizeObserver(() => {
      if (this.#following) this.#scrollToEnd();
    }).observe(this.log);
  }
}

new Page();
