/**
 * One room as shown: its tab, its log, its outbox, its draft.
 *
 *  - The log is bounded, whatever stands in it, and shows the room's order.
 *  - Where messages may be missing, a line says so.
 */

import { dayFormat, element } from "/dom.js";
import { Attendance, MovementNote } from "/members.js";
import { dayItem, messageItem } from "/message.js";
import { Outbox } from "/outgoing.js";

const ENTRIES_PER_ROOM = 500;
/** Within it a sender's next message stands under the same head. */
const GROUP_SPAN_MS = 5 * 60_000;

/**
 * @typedef {import("/outgoing.js").OutgoingMessage} OutgoingMessage
 *
 * @typedef {object} Entry
 * @property {unknown} message
 * @property {string} [sender]
 * @property {string} [session]
 * @property {boolean} own
 * @property {number} time
 * @property {number} [offset]
 * @property {string} [epoch]
 */

/**
 * `membership` is `joining`, `joined`, `trying` (refused for now, the client goes on) or `out` (the server ended it).
 */
export class RoomView {
  unread = 0;
  draft = "";
  membership = "joining";
  /** Why not joined, in words. */
  obstacle = "";
  everJoined = false;
  /** Whether history that comes now is new here: it is on every join but the first. */
  replayIsNews = false;
  /** What has been read, for a client that has not read it itself. @type {{after?: number, epoch?: string}} */
  position = {};
  /** Who is here, as this client knows it. @type {Attendance | null} */
  attendance = null;
  /** Distance kept from the top, or null to follow the newest message. @type {number | null} */
  scrollTop = null;
  /** @type {(Entry & {day: string}) | null} */
  #previous = null;
  #outbox = new Outbox();
  /** While nothing else has been added. @type {MovementNote | null} */
  #movement = null;

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
    this.view = element("div", { className: "log-room" }, this.empty, this.entries, this.#outbox.list);
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

  /* -- who is here -- */

  /**
   * @param {import("/roomcast.js").MemberList} list  of the client that joins the room now
   * @param {() => void} onChange
   */
  attend(list, onChange) {
    this.attendance?.close();
    this.attendance = new Attendance(list, {
      changed: onChange,
      moved: (joined, left) => {
        this.#addMovement(joined, left);
        onChange();
      },
    });
  }

  /** @param {string[]} joined @param {string[]} left */
  #addMovement(joined, left) {
    const note = this.#movement ?? new MovementNote();
    note.add(joined, left);
    if (this.#movement !== null) return;
    this.entries.append(note.item);
    this.#grown();
    this.#previous = null;
    this.#movement = note;
  }

  /* -- what the room says -- */

  /** @param {import("/roomcast.js").MessageDetail} message @param {boolean} own */
  addMessage(message, own) {
    const { offset, epoch } = message;
    if (offset !== undefined) this.position = { after: offset, epoch };
    if (own) this.#outbox.take(message);
    // It may have been given its place without the room's word.
    if (own && this.#shows(message)) return;
    this.#append({ ...message, own, time: message.time ?? Date.now() });
  }

  /**
   * Between the messages above and those to come there may be others that cannot be had.
   *
   * @param {Omit<import("/roomcast.js").GapDetail, "room">} gap
   */
  addGap({ after, offset, epoch }) {
    const words = this.#gapWords(after, offset, epoch);
    this.position = offset === undefined ? {} : { after: offset, epoch };
    // What was accepted may be among the missing.
    for (const outgoing of this.#outbox.takeSent()) this.#appendSent(outgoing);
    const isTold = this.entries.lastElementChild?.matches(".gap");
    if (words !== null && !isTold) this.#addLine("note gap", "gap", words);
  }

  /** @param {number} [after] @param {number} [offset] @param {string} [epoch] @returns {string | null} */
  #gapWords(after, offset, epoch) {
    if (after === undefined || offset === undefined) {
      return "Messages may be missing here: the server cannot tell what was written in between.";
    }
    if (epoch === this.position.epoch) {
      return offset === after ? null : "Messages are missing here: the server does not keep them any longer.";
    }
    const isEmpty = this.entries.childElementCount === 0;
    return isEmpty && offset === 0 ? null : "The server does not remember the messages above any more. Others may be missing here.";
  }

  /** A remark of the page itself about the room. @param {string} text */
  addNote(text) {
    this.#addLine("note", "note", text);
  }

  /* -- what is written here -- */

  /** @param {OutgoingMessage} outgoing */
  addOutgoing(outgoing) {
    this.#outbox.add(outgoing);
    this.empty.hidden = true;
  }

  /** @param {OutgoingMessage} outgoing */
  removeOutgoing(outgoing) {
    this.#outbox.remove(outgoing);
    this.empty.hidden = this.entries.childElementCount + this.#outbox.size > 0;
  }

  /** @param {OutgoingMessage} outgoing @param {import("/roomcast.js").Position} position */
  sent(outgoing, position) {
    outgoing.position = position;
    outgoing.showSent();
    const { offset, epoch } = position;
    const isPast = offset !== undefined && epoch === this.position.epoch && offset <= (this.position.after ?? 0);
    if (!isPast || !this.#outbox.has(outgoing)) return;
    this.#outbox.remove(outgoing);
    this.#appendSent(outgoing);
  }

  /** @param {OutgoingMessage} outgoing @param {import("/roomcast.js").RoomcastError} error */
  failed(outgoing, error) {
    outgoing.showFailed(error);
    // Another with the same text was taken for it.
    if (error.outcome === "refused" && !this.#outbox.has(outgoing)) this.addOutgoing(outgoing);
  }

  /** What will not come from the room any more takes its place by itself. @param {OutgoingMessage} outgoing */
  #appendSent({ text, sender, time, position }) {
    const entry = { message: text, sender, own: true, time, offset: position?.offset, epoch: position?.epoch };
    if (!this.#shows(entry)) this.#append(entry);
  }

  /* -- the log -- */

  /** @param {{offset?: number, epoch?: string}} position */
  #shows({ offset, epoch }) {
    if (offset === undefined) return false;
    return [...this.entries.children].some((item) => item.dataset.position === `${offset} of ${epoch}`);
  }

  /** @param {Entry} entry */
  #append(entry) {
    const day = dayFormat.format(entry.time);
    if (this.#previous?.day !== day && this.#lastDay() !== day) this.entries.append(dayItem(day));
    const state = entry.own ? "sent" : "received";
    const item = messageItem({ ...entry, state, grouped: this.#continuesGroup(entry) });
    item.dataset.day = day;
    if (entry.offset !== undefined) item.dataset.position = `${entry.offset} of ${entry.epoch}`;
    this.entries.append(item);
    this.#previous = { ...entry, day };
    this.#grown();
  }

  /** @param {string} className @param {string} testid @param {string} text */
  #addLine(className, testid, text) {
    this.#previous = null;
    this.entries.append(element("li", { className, textContent: text, data: { testid } }));
    this.#grown();
  }

  #lastDay() {
    return [...this.entries.children].findLast((item) => item.dataset.day !== undefined)?.dataset.day;
  }

  /** @param {Entry} entry */
  #continuesGroup({ sender, session, own, time }) {
    const before = this.#previous;
    return before !== null && before.sender === sender && before.session === session && before.own === own
      && time - before.time < GROUP_SPAN_MS && dayFormat.format(time) === before.day;
  }

  #grown() {
    this.#movement = null;
    this.empty.hidden = true;
    if (this.entries.childElementCount <= ENTRIES_PER_ROOM) return;
    while (this.entries.childElementCount >= ENTRIES_PER_ROOM) this.entries.firstElementChild.remove();
    const first = this.entries.firstElementChild;
    // The head and the date of what follows may just have gone with what came before.
    first.classList.remove("grouped");
    if (first.dataset.day !== undefined && !first.matches(".day")) first.before(dayItem(first.dataset.day));
  }
}
