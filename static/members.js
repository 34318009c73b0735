/**
 * Who is in a room: its people, what is said of their coming and going, and the pane that shows them.
 *
 *  - A person is a name, however many sessions it has. Whoever is back within seconds, as after a reload, has not left.
 *  - What comes in quick succession is shown at once: a session that changes its connection is two for a moment.
 */

import { byId, element, memory } from "/dom.js";
import { avatar } from "/message.js";

/** Changes are shown so long after the first of them. */
const SETTLE_MS = 500;
const ABSENCE_MS = 3_000;
const NAMES_IN_NOTE = 3;
const ANONYMOUS = "anonymous";
/** From here on the pane stands beside the messages; below it lies over them. */
const WIDE = "(min-width: 800px)";

const countFormat = new Intl.NumberFormat();

/** The people of one room. */
export class Attendance {
  #list;
  #observer;
  /** Before the latest change. */
  #wasCurrent = false;
  /** Those who have gone, perhaps only to come back. @type {Map<string, any>} */
  #absent = new Map();
  #settling = 0;

  /**
   * @param {import("/roomcast.js").MemberList} list
   * @param {{changed: () => void, moved: (joined: string[], left: string[]) => void}} observer
   */
  constructor(list, observer) {
    this.#list = list;
    this.#observer = observer;
    list.on("change", (change) => this.#changed(change));
  }

  close() {
    this.#list.close();
    clearTimeout(this.#settling);
    for (const timer of this.#absent.values()) clearTimeout(timer);
  }

  get isCurrent() {
    return this.#list.isCurrent;
  }

  get count() {
    return this.#list.count;
  }

  /** What oneself is called here. @type {string | undefined} */
  get own() {
    return this.#list.own?.user;
  }

  /** How many are not listed. */
  get unlisted() {
    return this.#list.isComplete ? 0 : this.#list.count - this.#list.members.size - 1;
  }

  /** The others, in the order of their names, those without a name at the end. */
  get people() {
    /** @type {Map<string | undefined, number>} */
    const sessions = new Map();
    for (const user of this.#list.members.values()) sessions.set(user, (sessions.get(user) ?? 0) + 1);
    const order = new Intl.Collator();
    return [...sessions]
      .map(([user, count]) => ({ user, count }))
      .sort((a, b) => Number(a.user === undefined) - Number(b.user === undefined) || order.compare(a.user ?? "", b.user ?? ""));
  }

  /** @param {import("/roomcast.js").MembersChange} change */
  #changed({ joined, left }) {
    // What was found when the list was read had happened before.
    const isNews = this.#wasCurrent && this.#list.isCurrent;
    this.#wasCurrent = this.#list.isCurrent;
    if (isNews) this.#tell(joined, left);
    if (this.#settling !== 0) return;
    this.#settling = setTimeout(() => {
      this.#settling = 0;
      this.#observer.changed();
    }, SETTLE_MS);
  }

  /** @param {import("/roomcast.js").Member[]} joined @param {import("/roomcast.js").Member[]} left */
  #tell(joined, left) {
    const come = joined.filter((member) => !this.#isBack(member) && !this.#hasOthers(member));
    if (come.length > 0) this.#observer.moved(come.map(nameOf), []);
    for (const member of left) {
      if (this.#hasOthers(member)) continue;
      const leave = () => {
        this.#absent.delete(keyOf(member));
        if (!this.#hasOthers(member)) this.#observer.moved([], [nameOf(member)]);
      };
      clearTimeout(this.#absent.get(keyOf(member)));
      this.#absent.set(keyOf(member), setTimeout(leave, ABSENCE_MS));
    }
  }

  /** @param {import("/roomcast.js").Member} member */
  #isBack(member) {
    clearTimeout(this.#absent.get(keyOf(member)));
    return this.#absent.delete(keyOf(member));
  }

  /** Whether the same person is here with another session. @param {import("/roomcast.js").Member} member */
  #hasOthers({ session, user }) {
    if (user === undefined) return false;
    return [...this.#list.members].some(([other, name]) => name === user && other !== session);
  }
}

/** @param {import("/roomcast.js").Member} member */
const nameOf = ({ user }) => user ?? ANONYMOUS;

/** @param {import("/roomcast.js").Member} member */
const keyOf = ({ session, user }) => (user === undefined ? `session ${session}` : `user ${user}`);

/** Names and what they have done, as nodes. @param {Iterable<string>} names @param {string} verb */
function deed(names, verb) {
  const all = [...names];
  const shown = all.length > NAMES_IN_NOTE ? all.slice(0, NAMES_IN_NOTE - 1) : all;
  const parts = shown.map((name) => element("bdi", { textContent: name }));
  if (shown.length < all.length) parts.push(`${countFormat.format(all.length - shown.length)} others`);
  return [...parts.flatMap((part, at) => (at === 0 ? [part] : [at === parts.length - 1 ? " and " : ", ", part])), ` ${verb}`];
}

/** One line of a room's log on who has come and gone since the message before it. */
export class MovementNote {
  /** @type {Set<string>} */
  #joined = new Set();
  /** @type {Set<string>} */
  #left = new Set();

  constructor() {
    this.item = element("li", { className: "note moved", data: { testid: "moved" } });
  }

  /** The latest is what counts. @param {string[]} joined @param {string[]} left */
  add(joined, left) {
    const moves = /** @type {[string[], Set<string>, Set<string>][]} */ ([
      [joined, this.#joined, this.#left],
      [left, this.#left, this.#joined],
    ]);
    for (const [names, into, outOf] of moves) {
      for (const name of names) {
        if (name !== ANONYMOUS) outOf.delete(name);
        into.add(name);
      }
    }
    const deeds = [deed(this.#joined, "joined"), deed(this.#left, "left")].filter((words) => words.length > 1);
    this.item.replaceChildren(...deeds.flatMap((words, at) => (at === 0 ? words : [" · ", ...words])));
  }
}

/** The pane, which shows the room that is looked at. */
export class MembersPane {
  /** @type {Attendance | null} */
  #shown = null;

  constructor() {
    this.pane = byId("members");
    this.toggle = byId("members-toggle");
    this.list = byId("member-list");
    this.toggle.onclick = () => this.#choose(this.pane.hidden);
    byId("members-close").onclick = () => this.#choose(false);
    this.pane.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") this.#choose(false);
    });
    const wide = matchMedia(WIDE);
    const suit = () => this.#setOpen(wide.matches && memory.recall("members", true) === true);
    wide.addEventListener("change", suit);
    suit();
  }

  /** @param {Attendance | null} attendance */
  show(attendance) {
    if (attendance !== this.#shown) this.list.scrollTop = 0;
    this.#shown = attendance;
    const isCurrent = attendance?.isCurrent === true;
    this.pane.dataset.current = String(isCurrent);
    // What is out of date is better than nothing, as long as it is of the same room.
    const count = attendance === null || attendance.count === 0 ? "–" : countFormat.format(attendance.count);
    byId("members-count").textContent = count;
    this.list.replaceChildren(...this.#items(attendance));
    const unlisted = attendance?.unlisted ?? 0;
    byId("members-note").textContent = unlisted > 0 ? `and ${countFormat.format(unlisted)} more who are not listed` : "";
  }

  /** @param {Attendance | null} attendance */
  #items(attendance) {
    if (attendance === null || attendance.count === 0) return [];
    const others = attendance.people.map(({ user, count }) => personItem(user, count, false));
    return [personItem(attendance.own, 1, true), ...others];
  }

  /** @param {boolean} open */
  #choose(open) {
    if (matchMedia(WIDE).matches) memory.keep("members", open);
    this.#setOpen(open);
    if (open) this.list.focus();
    else this.toggle.focus();
  }

  /** @param {boolean} open */
  #setOpen(open) {
    this.pane.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
  }
}

/** @param {string | undefined} user @param {number} count @param {boolean} own */
function personItem(user, count, own) {
  const sessions = user === undefined ? countFormat.format(count) : `in ${countFormat.format(count)} windows`;
  return element(
    "li",
    { className: "member", data: { testid: "member", own: String(own) } },
    avatar(user),
    element("bdi", { className: "member-name", textContent: user ?? ANONYMOUS, data: { testid: "member-name" } }),
    ...(own ? [element("span", { className: "you", textContent: "you" })] : []),
    ...(count > 1 ? [element("span", { className: "you", textContent: sessions })] : []),
  );
}
