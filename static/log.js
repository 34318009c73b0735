/**
 * The scrolling log of the room that is looked at. It keeps its end in view until the reader scrolls up, and again from
 * the end on; meanwhile a button leads there.
 */

import { byId } from "/dom.js";

/** Closer to the end than this, the log follows new messages. */
const STICK_PX = 80;

export class LogPane {
  #following = true;
  #lastScrollTop = 0;
  #scrollPlanned = false;

  /** @param {() => void} onJump  the button has been used */
  constructor(onJump) {
    this.log = byId("log");
    this.jump = byId("jump");
    this.log.onscroll = () => this.#scrolled();
    this.jump.onclick = () => {
      this.scrollToEnd();
      onJump();
    };
    // A growing composer or a phone's keyboard takes from the log's height.
    new ResizeObserver(() => {
      if (this.#following) this.scrollToEnd();
    }).observe(this.log);
  }

  /** Distance kept from the top, or null to follow the newest message. @type {number | null} */
  get scrollTop() {
    return this.#following ? null : this.log.scrollTop;
  }

  /** @param {HTMLElement} view @param {number | null} scrollTop */
  show(view, scrollTop) {
    this.quietly(() => this.log.replaceChildren(view));
    this.log.scrollTop = scrollTop ?? this.log.scrollHeight;
    this.#lastScrollTop = this.log.scrollTop;
    this.#setFollowing(scrollTop === null);
    this.jump.hidden = true;
  }

  /** Changes the log without its being read out: what was there before is not news. @param {() => void} change */
  quietly(change) {
    this.log.setAttribute("aria-live", "off");
    change();
    requestAnimationFrame(() => this.log.setAttribute("aria-live", "polite"));
  }

  /** Keeps the end in view if it was; else offers to go there. Once per frame, however many messages came. */
  grown() {
    if (this.#scrollPlanned) return;
    this.#scrollPlanned = true;
    requestAnimationFrame(() => {
      this.#scrollPlanned = false;
      if (this.#following) this.scrollToEnd();
      else this.jump.hidden = false;
    });
  }

  scrollToEnd() {
    this.log.scrollTop = this.log.scrollHeight;
    this.#setFollowing(true);
  }

  #atEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < STICK_PX;
  }

  /** @param {boolean} following */
  #setFollowing(following) {
    this.#following = following;
    this.log.classList.toggle("following", following);
    if (following) this.jump.hidden = true;
  }

  /** Scroll events come late: the log may have grown since, so not being at the end does not mean having left it. */
  #scrolled() {
    const { scrollTop } = this.log;
    if (this.#atEnd()) this.#setFollowing(true);
    else if (scrollTop < this.#lastScrollTop) this.#setFollowing(false);
    this.#lastScrollTop = scrollTop;
  }
}
