// Building the page. Text only ever goes in as text nodes: nothing that comes from a store is parsed as HTML.

/** An element. `attributes`: on… are listeners, `style` an object, true and false set or leave out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    // By the object model: the Content-Security-Policy refuses style attributes.
    else if (name === 'style') for (const [key, its] of Object.entries(value)) element.style.setProperty(key, its);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let last = 0;

/** An id that no other element has. */
export const newId = (stem) => `${stem}-${++last}`;

/** Says something to screen readers, without moving the focus. */
export function announce(text) {
  let live = document.getElementById('live');
  if (!live) {
    live = h('div', { id: 'live', class: 'unseen', role: 'status', 'aria-live': 'polite' });
    document.body.append(live);
  }
  live.textContent = text;
}

/** Hands a file to the browser. `content`: a string or a Blob. */
export function download(name, content, type = 'text/plain;charset=utf-8') {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = h('a', { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
