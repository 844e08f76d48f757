// What is shown while something loads, where there is nothing, and when it fails.
import { h } from './dom.js';

/** A failure in words, with a way to try again where that may help: not where the question has no answer. */
export function failed(error, again) {
  if (error.status === 400) {
    // DuckDB points at the error in the statement, in the line below it.
    const shown = /^LINE \d+:/m.test(error.message) ? h('pre', { tabindex: '0' }, error.message) : sentence(error.message);
    return h('div', { class: 'state', role: 'status' }, shown);
  }
  return h('div', { class: 'state failed', role: 'alert' },
    error.status === undefined ? `Something went wrong in this page: ${error.message}` : sentence(error.message),
    again && h('button', { type: 'button', onclick: again }, 'Try again'));
}

// The server's words, which follow "error: " on a terminal.
const sentence = (message) => {
  const text = message.trim();
  return `${text[0]?.toUpperCase() ?? ''}${text.slice(1)}${/[.?!:)]$/.test(text) || text.includes('\n') ? '' : '.'}`;
};

/** Nothing to show, and why. */
export const empty = (...words) => h('div', { class: 'state' }, ...words);

/**
 * An area whose content comes from the server. `fill(load, draw)`: load(signal) gives what draw turns into
 * nodes. What was shown stays, dimmed, until the next is there; a later fill makes an earlier one moot.
 */
export function area(words = 'Loading…') {
  const element = h('div', { class: 'area' }, h('div', { class: 'state waiting' }, words));
  let controller = null;
  async function fill(load, draw) {
    controller?.abort();
    const mine = (controller = new AbortController());
    element.setAttribute('aria-busy', 'true');
    try {
      const nodes = await draw(await load(mine.signal));
      if (mine.signal.aborted) return;
      element.replaceChildren(...[nodes].flat());
    } catch (error) {
      if (mine.signal.aborted || error.name === 'AbortError') return;
      element.replaceChildren(failed(error, () => fill(load, draw)));
    }
    element.setAttribute('aria-busy', 'false');
  }
  return { element, fill, stop: () => controller?.abort() };
}
