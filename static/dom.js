/** Small things that every part of the page needs: elements, texts, times, and what is kept over a reload. */

/** @param {string} id @returns {any} */
export const byId = (id) => document.getElementById(id);

/**
 * An element with properties, data attributes and children; strings become text nodes.
 *
 * @param {string} tag
 * @param {Record<string, any>} [properties]  `data` holds data attributes
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function element(tag, { data = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

/** @param {string} text */
export function sentence(text) {
  const trimmed = text.trim();
  return `${trimmed.charAt(0).toUpperCase()}${trimmed.slice(1)}${/[.!?]$/.test(trimmed) ? "" : "."}`;
}

export const clockFormat = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
export const secondsFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
export const dayFormat = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
export const fullFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

/** Values that survive a reload. A browser may forbid storage; the page then works without. */
class Memory {
  #storage;

  /** @param {() => Storage} storage  even asking for it may be forbidden */
  constructor(storage) {
    this.#storage = storage;
  }

  /** @param {string} key @param {any} fallback */
  recall(key, fallback) {
    try {
      return JSON.parse(this.#storage().getItem(`roomcast.${key}`) ?? "null") ?? fallback;
    } catch {
      return fallback;
    }
  }

  /** @param {string} key @param {any} value */
  keep(key, value) {
    try {
      this.#storage().setItem(`roomcast.${key}`, JSON.stringify(value));
    } catch {
      // Forgotten with the page, then.
    }
  }
}

/** Of this browser. */
export const memory = new Memory(() => localStorage);
/** Of this tab. */
export const tabMemory = new Memory(() => sessionStorage);
